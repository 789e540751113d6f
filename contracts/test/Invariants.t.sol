// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, ILedger, Ledger, Token, World} from "./Base.sol";

/// @notice Drives a ledger through any order of allowed actions. Nothing here may revert.
contract Handler is World {
    uint256 private constant PEOPLE = 4;

    address[PEOPLE] public contributors;
    address[2] public verifiers = [address(0x2001), address(0x2002)];
    uint256 public burned;
    uint256[PEOPLE] private final_; // of the final tree
    uint256[PEOPLE] private pending_; // of the pending tree
    uint256 public paid;
    uint256 public open; // appeals

    constructor() {
        build();
        for (uint256 i; i < PEOPLE; ++i) {
            contributors[i] = address(uint160(0x1001 + i));
            equip(contributors[i]);
        }
        for (uint256 i; i < verifiers.length; ++i) {
            equip(verifiers[i]);
            register(verifiers[i], 2, MIN_STAKE);
        }
        openRun(1000e18);
    }

    function theLedger() external view returns (Ledger) {
        return ledger;
    }

    function theToken() external view returns (Token) {
        return token;
    }

    function equip(address wallet) private {
        require(token.transfer(wallet, 1_000_000e18));
        vm.prank(wallet);
        token.approve(address(ledger), type(uint256).max);
    }

    function enter(uint256 who, uint96 more) external {
        address wallet = contributors[who % PEOPLE];
        if (ledger.numberOf(wallet) == 0) register(wallet, 1, MIN_STAKE + more % 1000e18);
    }

    function deposit(uint256 who, uint96 amount) external {
        address wallet = contributors[who % PEOPLE];
        if (ledger.numberOf(wallet) == 0) return;
        vm.prank(wallet);
        ledger.deposit(uint256(amount) % 1000e18 + 1);
    }

    function unbond(uint256 who, uint96 amount) external {
        (address wallet, ILedger.Operator memory op) = known(who);
        if (op.stake == 0) return;
        vm.prank(wallet);
        ledger.unbond(amount % op.stake + 1);
    }

    function cancelUnbond(uint256 who) external {
        (address wallet, ILedger.Operator memory op) = known(who);
        if (op.unbonding == 0) return;
        vm.prank(wallet);
        ledger.cancelUnbond();
    }

    function withdraw(uint256 who) external {
        (address wallet, ILedger.Operator memory op) = known(who);
        if (op.unbonding == 0) return;
        vm.roll(op.unbondingAt > block.number ? op.unbondingAt : block.number);
        vm.prank(wallet);
        ledger.withdraw();
    }

    function fund(uint96 amount) external {
        vm.prank(coordinator);
        ledger.fund(RUN, amount % 100e18 + 1);
    }

    function playRound(uint32 count) external {
        uint64 round = ledger.runInfo(RUN).anchoredRounds;
        vm.startPrank(coordinator);
        ledger.postCommitments(RUN, round, bytes32(uint256(count)), count);
        ledger.anchorRecord(RUN, round, bytes32(uint256(1)));
        vm.stopPrank();
    }

    /// @dev `lie` shifts the declared total away from the tree's sum, within what the ledger lets pass.
    function propose(uint64[PEOPLE] memory more, uint64 lie) external {
        if (ledger.pendingRewards(RUN).finalAt != 0) return;
        ILedger.Run memory info = ledger.runInfo(RUN);
        uint256 total;
        for (uint256 i; i < PEOPLE; ++i) {
            pending_[i] = final_[i] + more[i];
            total += pending_[i];
        }
        if (lie % 4 == 0) total = total > lie ? total - lie : 0;
        if (total < info.finalTotal) total = info.finalTotal;
        if (total > info.funded) total = info.funded;
        (bytes32 left, bytes32 right) = nodes(pending_);
        vm.prank(coordinator);
        ledger.proposeRewards(RUN, info.nextEpoch, pair(left, right), total);
    }

    function dispute() external {
        uint64 finalAt = ledger.pendingRewards(RUN).finalAt;
        if (finalAt <= block.number) return;
        vm.prank(verifiers[0]);
        ledger.disputeRewards(RUN, 0);
    }

    function finalize() external {
        uint64 finalAt = ledger.pendingRewards(RUN).finalAt;
        if (finalAt == 0) return;
        vm.roll(finalAt > block.number ? finalAt : block.number);
        ledger.finalizeRewards(RUN);
        final_ = pending_;
    }

    function claim(uint256 who) external {
        who %= PEOPLE;
        if (final_[who] <= ledger.claimed(RUN, contributors[who])) return;
        (bytes32 left, bytes32 right) = nodes(final_);
        uint256 sibling = who ^ 1;
        bytes32[] memory proof = new bytes32[](2);
        proof[0] = leaf(contributors[sibling], final_[sibling]);
        proof[1] = who < 2 ? right : left;
        try ledger.claim(RUN, contributors[who], final_[who], proof) returns (uint256 amount) {
            paid += amount;
        } catch (bytes memory reason) {
            require(bytes4(reason) == ErrorsLib.ClaimsExceedTotal.selector);
        }
    }

    function slash(uint256 who, uint64 round) external {
        (address wallet, ILedger.Operator memory op) = known(who);
        uint64 number = ledger.numberOf(wallet);
        uint64 anchored = ledger.runInfo(RUN).anchoredRounds;
        if (anchored == 0 || op.stake + op.unbonding == 0) return;
        round %= anchored;
        if (ledger.slashed(RUN, round, number)) return;
        ILedger.Verdict memory a = verdict(verifiers[0], round, number, bytes32(uint256(round)));
        ILedger.Verdict memory b = verdict(verifiers[1], round, number, 0);
        ledger.slash(RUN, round, number, 0, a, b);
        burned += op.stake + op.unbonding;
    }

    function appeal(uint256 by, uint256 about, uint64 round, uint8 segment) external {
        address wallet = by % 2 == 0 ? contributors[about % PEOPLE] : contributors[by / 2 % PEOPLE];
        uint64 number = ledger.numberOf(contributors[about % PEOPLE]);
        uint64 anchored = ledger.runInfo(RUN).anchoredRounds;
        if (anchored == 0 || number == 0 || ledger.operator(ledger.numberOf(wallet)).stake < MIN_STAKE) return;
        bool contest = ledger.numberOf(wallet) == number;
        if (ledger.caseOf(RUN, round % anchored, number, segment % 4, contest) != 0) return;
        vm.prank(wallet);
        ledger.appeal(RUN, round % anchored, number, segment % 4);
        ++open;
    }

    function settleAppeal(uint256 which, uint8 outcome) external {
        (uint64 case_, ILedger.Appeal memory info) = openAppeal(which);
        if (case_ == 0) return;
        outcome = outcome % 3 + 1;
        ILedger.Verdict memory a = verdict(verifiers[0], info.round, info.number, case_, outcome, 0);
        ILedger.Verdict memory b = verdict(verifiers[1], info.round, info.number, case_, outcome, 0);
        ledger.settleAppeal(case_, outcome, a, b);
        --open;
    }

    function releaseAppeal(uint256 which) external {
        (uint64 case_, ILedger.Appeal memory info) = openAppeal(which);
        if (case_ == 0) return;
        uint256 releasableAt = uint256(info.openedAt) + APPEAL_BLOCKS;
        vm.roll(releasableAt > block.number ? releasableAt : block.number);
        ledger.releaseAppeal(case_);
        --open;
    }

    function openAppeal(uint256 which) private view returns (uint64 case_, ILedger.Appeal memory info) {
        uint64 count = ledger.appealCount();
        if (count == 0) return (0, info);
        case_ = uint64(which % count) + 1;
        info = ledger.appealInfo(case_);
        if (info.status != 1) case_ = 0;
    }

    function known(uint256 who) private view returns (address wallet, ILedger.Operator memory) {
        wallet = contributors[who % PEOPLE];
        return (wallet, ledger.operator(ledger.numberOf(wallet)));
    }

    function nodes(uint256[PEOPLE] memory amounts) private view returns (bytes32, bytes32) {
        return (
            pair(leaf(contributors[0], amounts[0]), leaf(contributors[1], amounts[1])),
            pair(leaf(contributors[2], amounts[2]), leaf(contributors[3], amounts[3]))
        );
    }
}

contract InvariantsTest is Base {
    Handler private handler;

    function setUp() public override {
        handler = new Handler();
        ledger = handler.theLedger();
        token = handler.theToken();
    }

    /// @dev forge calls random functions of these contracts only.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_balance_is_stakes_pots_and_open_bonds() external view {
        uint256 held;
        for (uint64 number = 1; number <= ledger.operatorCount(); ++number) {
            ILedger.Operator memory op = ledger.operator(number);
            held += uint256(op.stake) + op.unbonding;
        }
        ILedger.Run memory info = ledger.runInfo(RUN);
        same(balance(), held + info.funded - info.claimed + handler.open() * BOND);
    }

    function invariant_claims_stay_within_the_final_total_and_the_pot() external view {
        ILedger.Run memory info = ledger.runInfo(RUN);
        require(info.claimed <= info.finalTotal && info.finalTotal <= info.funded);
        uint256 claims;
        for (uint256 i; i < 4; ++i) {
            claims += ledger.claimed(RUN, handler.contributors(i));
        }
        same(info.claimed, claims);
        same(handler.paid(), claims);
    }

    function invariant_only_slashing_burns_and_nothing_mints() external view {
        same(token.totalSupply(), SUPPLY - handler.burned());
    }

    function invariant_every_appeal_is_open_upheld_refused_or_released() external view {
        uint256 open;
        for (uint64 case_ = 1; case_ <= ledger.appealCount(); ++case_) {
            ILedger.Appeal memory info = ledger.appealInfo(case_);
            require(info.status >= 1 && info.status <= 4);
            require((info.outcome == 0) == (info.status == 1 || info.status == 4));
            if (info.status == 1) ++open;
        }
        same(open, handler.open());
    }

    function invariant_rounds_alternate() external view {
        ILedger.Run memory info = ledger.runInfo(RUN);
        require(info.committedRounds == info.anchoredRounds || info.committedRounds == info.anchoredRounds + 1);
    }
}
