// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, IJury, ILedger} from "./Base.sol";
import {Handler} from "./Handler.sol";

contract InvariantsTest is Base {
    Handler private handler;
    uint256 private supply;

    function setUp() public override {
        handler = new Handler();
        ledger = handler.theLedger();
        jury = handler.theJury();
        token = handler.theToken();
        supply = token.totalSupply();
    }

    /// @dev forge calls random functions of these contracts only.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// @dev One function: forge plays all runs again for each.
    function invariant_money_cases_and_rounds_add_up() external view {
        check_the_ledger_holds_stakes_pots_and_bonds();
        check_the_jury_holds_slots_open_bonds_and_credits();
        check_claims_stay_within_the_final_total_and_the_pot();
        check_every_open_case_is_counted_once();
        check_rounds_alternate();
        require(token.totalSupply() <= supply);
    }

    /// @dev Without whole cases, appeals, slashes and cancelled roots the invariant would say little.
    function test_the_handlers_get_through_whole_cases() external {
        for (uint256 i; i < 400; ++i) {
            uint256 seed = uint256(keccak256(abi.encode(i)));
            if (seed % 4 < 2) handler.advance(seed >> 8, uint256(keccak256(abi.encode(seed))));
            else if (seed % 4 == 2) handler.accuse(seed >> 8, seed >> 16, seed >> 24, uint8(seed >> 32));
            else play(seed >> 8);
        }
        for (uint256 i; handler.cancelled() == 0 && i < 20; ++i) {
            cancel(uint8(i));
        }
        this.invariant_money_cases_and_rounds_add_up();
        require(handler.closed() > 10, "too few closed");
        require(handler.appeals() > 3, "too few appeals");
        require(handler.slashes() > 3, "too few slashes");
        require(handler.cancelled() > 0, "no root cancelled");
    }

    /// @dev A jury that agrees on a wrong root.
    function cancel(uint8 ground) private {
        handler.finalize(0);
        handler.propose(0, [uint64(1), 1, 2, 3], 0);
        handler.disputeRewards(0, ground);
        uint256 agreed = 1 | 1 << 64 | 1 << 128;
        for (uint256 i; i < 4; ++i) {
            handler.advance(jury.caseCount() - 1, agreed);
        }
    }

    function play(uint256 seed) private {
        uint256 action = seed % 6;
        seed >>= 8;
        if (action == 0) handler.post(seed, seed >> 8, uint32(seed >> 16));
        if (action == 1) handler.anchor(seed, seed >> 8);
        if (action == 2) handler.propose(seed, [uint64(seed), 1, 2, 3], uint64(seed >> 64));
        if (action == 3) handler.disputeRewards(seed, uint8(seed >> 8));
        if (action == 4) handler.finalize(seed);
        if (action == 5) handler.join(seed, 2);
    }

    function check_the_ledger_holds_stakes_pots_and_bonds() private view {
        uint256 held;
        for (uint64 number = 1; number <= ledger.operatorCount(); ++number) {
            ILedger.Operator memory op = ledger.operator(number);
            held += uint256(op.stake) + op.unbonding;
        }
        for (uint256 i; i < 2; ++i) {
            ILedger.Run memory info = ledger.runInfo(handler.runOf(i));
            held += info.funded - info.claimed + info.bond;
            if (ledger.pendingRewards(handler.runOf(i)).finalAt != 0) held += PROPOSAL_BOND;
        }
        same(balance(), held);
    }

    function check_the_jury_holds_slots_open_bonds_and_credits() private view {
        uint256 held;
        for (uint64 number = 1; number <= ledger.operatorCount(); ++number) {
            IJury.Juror memory one = jury.juror(number);
            held += uint256(one.bonded) + one.leaving;
        }
        for (uint64 case_ = 1; case_ <= jury.caseCount(); ++case_) {
            IJury.Case memory one = jury.caseInfo(case_);
            if (one.stage != 5) held += one.caller == address(0) ? CASE_BOND : 4 * uint256(CASE_BOND);
        }
        address[13] memory payees = handler.payees();
        for (uint256 i; i < payees.length; ++i) {
            held += jury.credit(payees[i]);
        }
        same(juryBalance(), held);
    }

    function check_claims_stay_within_the_final_total_and_the_pot() private view {
        for (uint256 i; i < 2; ++i) {
            ILedger.Run memory info = ledger.runInfo(handler.runOf(i));
            require(info.claimed <= info.finalTotal && info.finalTotal <= info.funded);
            uint256 claims;
            for (uint256 who; who < 4; ++who) {
                claims += ledger.claimed(handler.runOf(i), handler.contributors(who));
            }
            same(info.claimed, claims);
        }
    }

    function check_every_open_case_is_counted_once() private view {
        uint256[10] memory cases;
        uint256[10] memory serving;
        uint256[2] memory disputes;
        for (uint64 case_ = 1; case_ <= jury.caseCount(); ++case_) {
            IJury.Case memory one = jury.caseInfo(case_);
            require(one.stage >= 1 && one.stage <= 5);
            if (one.stage == 5) continue;
            if (one.number != 0) ++cases[one.number];
            for (uint256 i; i < 2; ++i) {
                bool about = one.run == handler.runOf(i) && one.kind == 3;
                if (about && ledger.pendingRewards(one.run).proposedAt == one.round) ++disputes[i];
                IJury.Seat[] memory seats = jury.seatsOf(case_, i == 1);
                for (uint256 seat; seat < seats.length; ++seat) {
                    ++serving[seats[seat].juror];
                }
            }
        }
        uint256 slots;
        for (uint64 number = 1; number <= ledger.operatorCount(); ++number) {
            IJury.Juror memory one = jury.juror(number);
            same(ledger.operator(number).cases, cases[number]);
            same(one.serving, serving[number]);
            require(one.bonded <= one.slots * uint256(SLOT_STAKE));
            slots += one.slots;
        }
        same(jury.slotCount(), slots);
        same(ledger.pendingRewards(handler.runOf(0)).open, disputes[0]);
        same(ledger.pendingRewards(handler.runOf(1)).open, disputes[1]);
    }

    function check_rounds_alternate() private view {
        for (uint256 i; i < 2; ++i) {
            ILedger.Run memory info = ledger.runInfo(handler.runOf(i));
            require(
                info.committedRounds == info.anchoredRounds || info.committedRounds == info.anchoredRounds + 1
            );
        }
    }
}
