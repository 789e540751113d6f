// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Base, ErrorsLib, EventsLib, ILedger, Ledger} from "./Base.sol";

contract AppealsTest is Base {
    bytes32 private constant EVIDENCE_A = keccak256("a");
    bytes32 private constant EVIDENCE_B = keccak256("b");

    uint64 private owner;
    uint64 private accuser;

    function setUp() public override {
        super.setUp();
        owner = register(alice, 1, MIN_STAKE);
        register(vera, 2, MIN_STAKE);
        register(vito, 2, MIN_STAKE);
        accuser = register(bob, 1, MIN_STAKE);
        openRun(50e18);
        anchorRounds(2);
    }

    function accuse() private returns (uint64) {
        vm.prank(bob);
        return ledger.appeal(RUN, 1, owner, 5);
    }

    function contest() private returns (uint64) {
        vm.prank(alice);
        return ledger.appeal(RUN, 1, owner, 5);
    }

    function verdicts(uint64 case_, uint8 outcome)
        private
        view
        returns (ILedger.Verdict memory, ILedger.Verdict memory)
    {
        return (
            verdict(vera, 1, owner, case_, outcome, EVIDENCE_A), verdict(vito, 1, owner, case_, outcome, EVIDENCE_B)
        );
    }

    function settle(uint64 case_, uint8 outcome) private {
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(case_, outcome);
        ledger.settleAppeal(case_, outcome, a, b);
    }

    function test_appeals_are_numbered_and_hold_their_bond() public {
        uint256 before = balance();
        vm.expectEmit(address(ledger));
        emit EventsLib.Appealed(1, RUN, 1, owner, 5, accuser, BOND);
        same(accuse(), 1);
        vm.roll(101);
        vm.expectEmit(address(ledger));
        emit EventsLib.Appealed(2, RUN, 1, owner, 5, owner, BOND);
        same(contest(), 2);
        same(ledger.appealCount(), 2);
        same(balance(), before + 2 * BOND);
        same(ledger.caseOf(RUN, 1, owner, 5, false), 1);
        same(ledger.caseOf(RUN, 1, owner, 5, true), 2);
        same(ledger.caseOf(RUN, 1, owner, 6, true), 0);

        ILedger.Appeal memory info = ledger.appealInfo(2);
        require(info.run == RUN && info.round == 1 && info.number == owner && info.segment == 5);
        require(info.appellant == owner && info.openedAt == 101 && info.status == 1 && info.outcome == 0);
        same(ledger.appealInfo(3).status, 0);
        same(ledger.appealInfo(0).status, 0);
    }

    function test_each_segment_is_accused_once_and_contested_once() public {
        accuse();
        contest();
        vm.prank(vera);
        refuses(ErrorsLib.AlreadyAppealed.selector, 1);
        ledger.appeal(RUN, 1, owner, 5);
        vm.prank(alice);
        refuses(ErrorsLib.AlreadyAppealed.selector, 2);
        ledger.appeal(RUN, 1, owner, 5);

        // Not again either when it is over; other segments, rounds and units are other matters.
        settle(1, 1);
        vm.roll(100 + APPEAL_BLOCKS);
        ledger.releaseAppeal(2);
        vm.startPrank(vera);
        refuses(ErrorsLib.AlreadyAppealed.selector, 1);
        ledger.appeal(RUN, 1, owner, 5);
        same(ledger.appeal(RUN, 1, owner, 6), 3);
        same(ledger.appeal(RUN, 0, owner, 5), 4);
        same(ledger.appeal(RUN, 1, accuser, 5), 5);
    }

    function test_only_the_staked_appeal() public {
        vm.prank(coordinator);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.appeal(RUN, 1, owner, 5);
        vm.startPrank(bob);
        ledger.unbond(1);
        refuses(ErrorsLib.StakeTooLow.selector, MIN_STAKE - 1, MIN_STAKE);
        ledger.appeal(RUN, 1, owner, 5);
    }

    function test_only_units_of_anchored_rounds_are_appealed() public {
        vm.startPrank(bob);
        refuses(ErrorsLib.UnknownRun.selector, 5);
        ledger.appeal(bytes32(uint256(5)), 1, owner, 5);
        refuses(ErrorsLib.RoundNotAnchored.selector, 2);
        ledger.appeal(RUN, 2, owner, 5);
        refuses(ErrorsLib.NotAContributor.selector, 2);
        ledger.appeal(RUN, 1, 2, 5);
        refuses(ErrorsLib.NotAContributor.selector, 99);
        ledger.appeal(RUN, 1, 99, 5);
    }

    function test_no_appeal_without_the_bond() public {
        vm.startPrank(bob);
        token.approve(address(ledger), BOND - 1);
        vm.expectRevert(
            abi.encodeWithSignature(
                "ERC20InsufficientAllowance(address,uint256,uint256)", address(ledger), BOND - 1, BOND
            )
        );
        ledger.appeal(RUN, 1, owner, 5);
        same(ledger.appealCount(), 0);
    }

    function test_upheld_accusation_returns_the_bond() public {
        for (uint8 outcome = 2; outcome <= 3; ++outcome) {
            vm.prank(bob);
            uint64 case_ = ledger.appeal(RUN, 1, owner, outcome);
            (uint256 before, uint256 held) = (token.balanceOf(bob), balance());
            (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(case_, outcome);
            vm.expectEmit(address(ledger));
            emit EventsLib.AppealSettled(case_, outcome, true, EVIDENCE_A, EVIDENCE_B);
            ledger.settleAppeal(case_, outcome, a, b);
            same(token.balanceOf(bob), before + BOND);
            same(balance(), held - BOND);
            same(ledger.appealInfo(case_).status, 2);
            same(ledger.appealInfo(case_).outcome, outcome);
        }
        same(ledger.runInfo(RUN).funded, 50e18);
        // Settling takes no stake; the same verdicts, if they prove falsehood, do so by `slash`.
        same(ledger.operator(owner).stake, MIN_STAKE);
        (ILedger.Verdict memory c, ILedger.Verdict memory d) = verdicts(2, 3);
        ledger.slash(RUN, 1, owner, 2, c, d);
        same(ledger.operator(owner).stake, 0);
    }

    function test_refused_accusation_pays_the_accused_and_the_pot() public {
        accuse();
        uint256 before = token.balanceOf(alice);
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(1, 1);
        vm.expectEmit(address(ledger));
        emit EventsLib.AppealSettled(1, 1, false, EVIDENCE_A, EVIDENCE_B);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunFunded(RUN, bob, BOND / 2, 50e18 + BOND / 2);
        ledger.settleAppeal(1, 1, a, b);
        same(token.balanceOf(alice), before + BOND / 2);
        same(ledger.runInfo(RUN).funded, 50e18 + BOND / 2);
        same(ledger.appealInfo(1).status, 3);
    }

    function test_contest_is_upheld_by_passed_and_else_pays_the_pot() public {
        contest();
        uint256 before = token.balanceOf(alice);
        settle(1, 1);
        same(token.balanceOf(alice), before + BOND);
        same(ledger.appealInfo(1).status, 2);
        same(ledger.runInfo(RUN).funded, 50e18);
        for (uint8 outcome = 2; outcome <= 3; ++outcome) {
            before = token.balanceOf(alice);
            vm.prank(alice);
            uint64 case_ = ledger.appeal(RUN, 1, owner, outcome);
            vm.expectEmit(address(ledger));
            emit EventsLib.RunFunded(RUN, alice, BOND, 50e18 + (outcome - 1) * BOND);
            settle(case_, outcome);
            same(token.balanceOf(alice), before - BOND);
            same(ledger.appealInfo(case_).status, 3);
        }
    }

    function test_odd_bonds_are_given_away_whole() public {
        ledger = new Ledger(address(token), MIN_STAKE, UNBONDING, WINDOW, 1, APPEAL_BLOCKS);
        address[4] memory people = [alice, vera, vito, bob];
        for (uint256 i; i < people.length; ++i) {
            vm.prank(people[i]);
            token.approve(address(ledger), type(uint256).max);
            register(people[i], i == 1 || i == 2 ? 2 : 1, MIN_STAKE);
        }
        openRun(0);
        anchorRounds(2);
        uint256 before = token.balanceOf(alice);
        accuse();
        settle(1, 1);
        same(token.balanceOf(alice), before);
        same(ledger.runInfo(RUN).funded, 1);
    }

    function test_an_appeal_ends_once() public {
        accuse();
        contest();
        settle(1, 1);
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(1, 2);
        refuses(ErrorsLib.AppealOver.selector, 1);
        ledger.settleAppeal(1, 2, a, b);
        vm.roll(100 + APPEAL_BLOCKS);
        refuses(ErrorsLib.AppealOver.selector, 1);
        ledger.releaseAppeal(1);
        ledger.releaseAppeal(2);
        refuses(ErrorsLib.AppealOver.selector, 2);
        ledger.releaseAppeal(2);
        (a, b) = verdicts(2, 1);
        refuses(ErrorsLib.AppealOver.selector, 2);
        ledger.settleAppeal(2, 1, a, b);
        refuses(ErrorsLib.UnknownAppeal.selector, 3);
        ledger.settleAppeal(3, 1, a, b);
        refuses(ErrorsLib.UnknownAppeal.selector, 0);
        ledger.releaseAppeal(0);
    }

    function test_unsettled_bonds_come_back_after_their_blocks() public {
        accuse();
        uint256 before = token.balanceOf(bob);
        vm.roll(99 + APPEAL_BLOCKS);
        refuses(ErrorsLib.AppealOpen.selector, 100 + APPEAL_BLOCKS);
        ledger.releaseAppeal(1);
        vm.roll(100 + APPEAL_BLOCKS);
        vm.expectEmit(address(ledger));
        emit EventsLib.AppealReleased(1);
        ledger.releaseAppeal(1);
        same(token.balanceOf(bob), before + BOND);
        same(ledger.appealInfo(1).status, 4);
        same(ledger.appealInfo(1).outcome, 0);
    }

    function test_two_different_staked_verifiers_must_agree() public {
        uint64 case_ = accuse();
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(case_, 2);
        refuses(ErrorsLib.SameVerifier.selector, 2);
        ledger.settleAppeal(case_, 2, a, a);
        (, ILedger.Verdict memory passed) = verdicts(case_, 1);
        refuses(ErrorsLib.BadVerdict.selector, 3);
        ledger.settleAppeal(case_, 2, a, passed);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.settleAppeal(case_, 3, a, b);
        ILedger.Verdict memory byContributor = verdict(bob, 1, owner, case_, 2, EVIDENCE_A);
        refuses(ErrorsLib.NotAStakedVerifier.selector, accuser);
        ledger.settleAppeal(case_, 2, byContributor, b);
        vm.prank(vito);
        ledger.unbond(1);
        refuses(ErrorsLib.NotAStakedVerifier.selector, 3);
        ledger.settleAppeal(case_, 2, a, b);
    }

    function test_verdicts_of_the_draw_or_of_another_case_settle_nothing() public {
        accuse();
        contest();
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(2, 1);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.settleAppeal(1, 1, a, b);
        (a, b) = verdicts(0, 1);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.settleAppeal(1, 1, a, b);
    }

    function testFuzz_only_three_outcomes_settle(uint8 outcome) public {
        uint64 case_ = accuse();
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(case_, outcome);
        if (outcome == 0 || outcome > 3) refuses(ErrorsLib.UnknownOutcome.selector, outcome);
        ledger.settleAppeal(case_, outcome, a, b);
        same(ledger.appealInfo(case_).outcome, outcome == 0 || outcome > 3 ? 0 : outcome);
    }

    function testFuzz_bonds_are_conserved(bool byOwner, uint8 outcome, uint64 segment, uint64 round) public {
        address wallet = byOwner ? alice : bob;
        (uint256 rich, uint256 held) = (token.balanceOf(alice) + token.balanceOf(bob), balance());
        vm.prank(wallet);
        uint64 case_ = ledger.appeal(RUN, round % 2, owner, segment);
        same(balance(), held + BOND);
        if (outcome % 4 == 0) {
            vm.roll(100 + APPEAL_BLOCKS);
            ledger.releaseAppeal(case_);
        } else {
            ILedger.Verdict memory a = verdict(vera, round % 2, owner, case_, outcome % 4, 0);
            ILedger.Verdict memory b = verdict(vito, round % 2, owner, case_, outcome % 4, 0);
            ledger.settleAppeal(case_, outcome % 4, a, b);
        }
        uint256 toPot = ledger.runInfo(RUN).funded - 50e18;
        same(balance(), held + toPot);
        same(token.balanceOf(alice) + token.balanceOf(bob), rich - toPot);
        bool upheld = ledger.appealInfo(case_).status != 3;
        same(toPot, upheld ? 0 : byOwner ? BOND : BOND / 2);
    }
}

/// @notice Gives what it is asked for, and calls back in between.
contract CallingToken {
    Ledger public ledger;
    bytes public call;

    function set(Ledger target, bytes calldata data) external {
        (ledger, call) = (target, data);
    }

    function transfer(address, uint256) external returns (bool) {
        return reenter();
    }

    function transferFrom(address, address, uint256) external returns (bool) {
        return reenter();
    }

    function reenter() private returns (bool) {
        if (call.length == 0) return true;
        (bool done, bytes memory reason) = address(ledger).call(call);
        require(!done && bytes4(reason) == ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        return true;
    }
}

contract ReentrancyTest is Base {
    function test_the_token_finds_no_way_back_in() public {
        CallingToken calling = new CallingToken();
        ledger = new Ledger(address(calling), MIN_STAKE, UNBONDING, WINDOW, BOND, APPEAL_BLOCKS);
        uint64 owner = register(alice, 1, MIN_STAKE);
        register(bob, 1, MIN_STAKE);
        register(vera, 2, MIN_STAKE);
        register(vito, 2, MIN_STAKE);
        openRun(0);
        anchorRounds(1);
        ILedger.Verdict memory a = verdict(vera, 0, owner, 1, 1, 0);
        ILedger.Verdict memory b = verdict(vito, 0, owner, 1, 1, 0);

        calling.set(ledger, abi.encodeCall(ledger.appeal, (RUN, 0, owner, 2)));
        vm.prank(bob);
        ledger.appeal(RUN, 0, owner, 1);
        vm.prank(bob);
        ledger.appeal(RUN, 0, owner, 3);
        calling.set(ledger, abi.encodeCall(ledger.settleAppeal, (1, 1, a, b)));
        ledger.settleAppeal(1, 1, a, b);
        vm.roll(100 + APPEAL_BLOCKS);
        calling.set(ledger, abi.encodeCall(ledger.releaseAppeal, (2)));
        ledger.releaseAppeal(2);
        same(ledger.appealCount(), 2);
    }
}
