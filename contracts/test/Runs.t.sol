// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, ILedger, Vm} from "./Base.sol";

contract RunsTest is Base {
    address private key;

    function setUp() public override {
        super.setUp();
        key = coordinatorKey();
    }

    function post(address by, uint64 round) private {
        vm.prank(by);
        ledger.postCommitments(RUN, round, ROOT, 1);
    }

    function anchor(address by, uint64 round) private {
        vm.prank(by);
        ledger.anchorRecord(RUN, round, RECORD);
    }

    function test_run_goes_from_created_to_finished() public {
        vm.startPrank(coordinator);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunCreated(RUN, coordinator, key, FAULT_BPS, EQUIVOCATION_BPS, WINDOW, RUN_BOND);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunFunded(RUN, coordinator, 5e18, 5e18);
        ledger.createRun(RUN, key, ladder(), 5e18);
        same(balance(), RUN_BOND + 5e18);
        ILedger.Run memory info = ledger.runInfo(RUN);
        require(info.coordinator == coordinator && info.coordinatorKey == key && info.status == 1);
        require(info.ladder.faultBps == FAULT_BPS && info.ladder.equivocationBps == EQUIVOCATION_BPS);
        require(info.ladder.windowBlocks == WINDOW && info.bond == RUN_BOND && info.funded == 5e18);

        vm.roll(START + 1);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunOpened(RUN);
        ledger.openRun(RUN);
        same(ledger.rosterBlock(RUN, 0), START + 1);
        refuses(ErrorsLib.WrongRunStatus.selector, 2);
        ledger.openRun(RUN);

        refuses(ErrorsLib.ZeroValue.selector);
        ledger.finishRun(RUN, 0);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunFinished(RUN, bytes32(uint256(9)));
        ledger.finishRun(RUN, bytes32(uint256(9)));
        refuses(ErrorsLib.WrongRunStatus.selector, 3);
        ledger.finishRun(RUN, bytes32(uint256(9)));
        refuses(ErrorsLib.WrongRunStatus.selector, 3);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        refuses(ErrorsLib.WrongRunStatus.selector, 3);
        ledger.anchorRecord(RUN, 0, RECORD);
    }

    function test_run_is_created_once() public {
        ILedger.Ladder memory none = ladder();
        none.windowBlocks = 0;
        vm.startPrank(coordinator);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.createRun(0, key, ladder(), 0);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.createRun(RUN, address(0), ladder(), 0);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.createRun(RUN, key, none, 0);
        ledger.createRun(RUN, key, ladder(), 0);
        vm.stopPrank();
        vm.prank(alice);
        refuses(ErrorsLib.RunExists.selector, uint256(RUN));
        ledger.createRun(RUN, key, ladder(), 0);
    }

    function testFuzz_ladders_stay_within_their_bounds(uint16 faultBps, uint16 equivocationBps) public {
        bool fits =
            faultBps >= 5000 && faultBps <= 10_000 && equivocationBps >= 100 && equivocationBps <= 10_000;
        vm.prank(coordinator);
        if (!fits) refuses(ErrorsLib.LadderOutOfBounds.selector);
        ledger.createRun(RUN, key, ILedger.Ladder(faultBps, equivocationBps, WINDOW), 0);
        same(ledger.runInfo(RUN).status, fits ? 1 : 0);
    }

    function test_stake_unbonds_for_longer_than_a_late_round_its_cases_and_its_reward() public {
        uint256 others = FORCE + 2 * TIMEOUT + jury.CASE_BLOCKS() + DISPUTE;
        uint32 longest = uint32(UNBONDING - others - 1);
        ILedger.Ladder memory steps = ladder();
        steps.windowBlocks = longest + 1;
        vm.startPrank(coordinator);
        refuses(ErrorsLib.UnbondingTooShort.selector, UNBONDING, UNBONDING);
        ledger.createRun(RUN, key, steps, 5e18);
        steps.windowBlocks = type(uint32).max;
        refuses(ErrorsLib.UnbondingTooShort.selector, UNBONDING, others + type(uint32).max);
        ledger.createRun(RUN, key, steps, 5e18);
        steps.windowBlocks = longest;
        ledger.createRun(RUN, key, steps, 5e18);
        ledger.openRun(RUN);
    }

    function test_anyone_funds_a_run_that_exists() public {
        vm.prank(alice);
        refuses(ErrorsLib.UnknownRun.selector, uint256(RUN));
        ledger.fund(RUN, 1);
        openRun(0);
        vm.startPrank(alice);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.fund(RUN, 0);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunFunded(RUN, alice, 3e18, 3e18);
        ledger.fund(RUN, 3e18);
        vm.stopPrank();
        same(ledger.runInfo(RUN).funded, 3e18);
        same(balance(), RUN_BOND + 3e18);
    }

    function test_only_the_coordinator_speaks_for_the_run() public {
        refuses(ErrorsLib.UnknownRun.selector, uint256(RUN));
        ledger.openRun(RUN);
        refuses(ErrorsLib.UnknownRun.selector, uint256(RUN));
        ledger.postCommitments(RUN, 0, ROOT, 1);
        openRun(0);
        register(alice, 1, MIN_STAKE);
        vm.startPrank(alice);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.openRun(RUN);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.finishRun(RUN, ROOT);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.releaseRunBond(RUN);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.anchorRecord(RUN, 0, ROOT);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.proposeRewards(RUN, 0, 0, ROOT, 0);
    }

    function test_rounds_wait_for_the_record_before() public {
        createRun(0);
        vm.startPrank(coordinator);
        refuses(ErrorsLib.WrongRunStatus.selector, 1);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        ledger.openRun(RUN);

        refuses(ErrorsLib.WrongRound.selector, 0, 1);
        ledger.postCommitments(RUN, 1, ROOT, 1);
        refuses(ErrorsLib.WrongRound.selector, 0, 0);
        ledger.anchorRecord(RUN, 0, ROOT);
        vm.expectEmit(address(ledger));
        emit EventsLib.CommitmentsPosted(RUN, 0, ROOT, 3);
        ledger.postCommitments(RUN, 0, ROOT, 3);
        same(ledger.roundInfo(RUN, 0).count, 3);
        same(ledger.roundInfo(RUN, 0).postedAt, START);

        // One root a round, and none for the next before this round's record.
        refuses(ErrorsLib.WrongRound.selector, 1, 0);
        ledger.postCommitments(RUN, 0, ROOT, 3);
        refuses(ErrorsLib.WrongRound.selector, 1, 1);
        ledger.postCommitments(RUN, 1, ROOT, 3);

        refuses(ErrorsLib.ZeroValue.selector);
        ledger.anchorRecord(RUN, 0, 0);
        vm.roll(START + FORCE);
        refuses(ErrorsLib.WindowOpen.selector, START + FORCE + 1);
        ledger.anchorRecord(RUN, 0, RECORD);
        vm.roll(START + FORCE + 1);
        same(ledger.rosterBlock(RUN, 1), 0);
        vm.expectEmit(address(ledger));
        emit EventsLib.RecordAnchored(RUN, 0, RECORD);
        ledger.anchorRecord(RUN, 0, RECORD);
        same(ledger.rosterBlock(RUN, 1), START + FORCE + 1);
        refuses(ErrorsLib.WrongRound.selector, 1, 0);
        ledger.anchorRecord(RUN, 0, RECORD);
        ledger.postCommitments(RUN, 1, ROOT, 1);
    }

    function test_round_without_commitments_has_the_zero_root() public {
        openRun(0);
        vm.startPrank(coordinator);
        refuses(ErrorsLib.RootCountMismatch.selector);
        ledger.postCommitments(RUN, 0, 0, 1);
        refuses(ErrorsLib.RootCountMismatch.selector);
        ledger.postCommitments(RUN, 0, ROOT, 0);
        ledger.postCommitments(RUN, 0, 0, 0);
    }

    function test_after_a_timeout_whoever_is_staked_posts_and_anchors() public {
        openRun(0);
        register(alice, 1, 2 * MIN_STAKE);
        vm.roll(START + TIMEOUT);
        vm.prank(alice);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        vm.roll(START + TIMEOUT + 1);
        vm.prank(bob);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        vm.startPrank(alice);
        ledger.unbond(MIN_STAKE + 1);
        refuses(ErrorsLib.StakeTooLow.selector, MIN_STAKE - 1, MIN_STAKE);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        ledger.cancelUnbond();
        vm.expectEmit(address(ledger));
        emit EventsLib.StoodIn(RUN, 1);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        vm.stopPrank();
        same(ledger.runInfo(RUN).standIn, 1);
        register(bob, 2, MIN_STAKE);
        uint256 anchored = START + TIMEOUT + 1 + FORCE + 1;
        vm.roll(anchored);
        vm.prank(bob);
        refuses(ErrorsLib.NotCoordinator.selector); // that was progress
        ledger.anchorRecord(RUN, 0, RECORD);
        vm.startPrank(alice);
        ledger.anchorRecord(RUN, 0, RECORD); // whoever stands in goes on
        ledger.postCommitments(RUN, 1, ROOT, 1);
        vm.stopPrank();
        same(ledger.rosterBlock(RUN, 1), anchored);
        vm.roll(anchored + TIMEOUT + 1); // and is gone in turn
        vm.prank(bob);
        ledger.anchorRecord(RUN, 1, RECORD);
        same(ledger.runInfo(RUN).standIn, 2);
        vm.prank(alice);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.postCommitments(RUN, 2, ROOT, 1);
        vm.expectEmit(address(ledger));
        emit EventsLib.StoodIn(RUN, 0);
        post(coordinator, 2); // who may come back
        vm.roll(anchored + TIMEOUT + 1 + FORCE + 1);
        vm.prank(bob);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.anchorRecord(RUN, 2, RECORD);
    }

    function test_a_left_out_commitment_is_forced_in() public {
        openRun(0);
        uint64 number = register(alice, 1, MIN_STAKE);
        uint64 second = register(bob, 1, MIN_STAKE);
        vm.prank(alice);
        refuses(ErrorsLib.RoundNotPosted.selector, 0);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
        post(coordinator, 0);

        vm.startPrank(alice);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.forceCommitment(RUN, 0, 0);
        vm.expectEmit(address(ledger));
        emit EventsLib.CommitmentForced(RUN, 0, number, EVIDENCE);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
        refuses(ErrorsLib.AlreadyForced.selector);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
        vm.stopPrank();
        require(ledger.forced(RUN, 0, number) == EVIDENCE);

        // By the peer key as well, until the last block.
        vm.roll(START + FORCE);
        vm.prank(vm.createWallet(peerKey(bob)).addr);
        ledger.forceCommitment(RUN, 0, RESULT);
        require(ledger.forced(RUN, 0, second) == RESULT);
        register(carol, 1, MIN_STAKE);
        vm.roll(START + FORCE + 1);
        vm.prank(carol);
        refuses(ErrorsLib.WindowClosed.selector, START + FORCE);
        ledger.forceCommitment(RUN, 0, RESULT);
        anchor(coordinator, 0);
        vm.prank(carol);
        refuses(ErrorsLib.RoundNotPosted.selector, 0);
        ledger.forceCommitment(RUN, 0, RESULT);
    }

    function test_only_staked_contributors_force() public {
        openRun(0);
        register(alice, 1, MIN_STAKE);
        register(bob, 2, MIN_STAKE);
        post(coordinator, 0);
        vm.prank(carol);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
        vm.prank(bob);
        refuses(ErrorsLib.NotAContributor.selector, 2);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
        vm.startPrank(alice);
        ledger.unbond(1);
        refuses(ErrorsLib.StakeTooLow.selector, MIN_STAKE - 1, MIN_STAKE);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
        ledger.cancelUnbond();
        vm.stopPrank();

        address first = ledger.operator(1).peer;
        address second = rotate(alice, 7777);
        vm.prank(first);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
        vm.prank(second);
        ledger.forceCommitment(RUN, 0, EVIDENCE);
    }

    function test_the_bond_comes_back_after_a_finished_run() public {
        openRun(5e18);
        vm.startPrank(coordinator);
        refuses(ErrorsLib.WrongRunStatus.selector, 2);
        ledger.releaseRunBond(RUN);
        ledger.finishRun(RUN, ROOT);
        vm.roll(START + UNBONDING - 1);
        refuses(ErrorsLib.StillUnbonding.selector, START + UNBONDING);
        ledger.releaseRunBond(RUN);
        vm.roll(START + UNBONDING);
        uint256 before = token.balanceOf(coordinator);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunBondReleased(RUN, RUN_BOND);
        ledger.releaseRunBond(RUN);
        same(token.balanceOf(coordinator), before + RUN_BOND);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.releaseRunBond(RUN);
        same(balance(), 5e18);
    }

    /// @dev Anybody may settle rewards of a finished run after a timeout; that does not hold back its bond.
    function test_nobody_holds_back_the_bond_of_a_finished_run() public {
        openRun(5e18);
        vm.prank(coordinator);
        ledger.finishRun(RUN, ROOT);
        vm.roll(START + TIMEOUT + 1);
        vm.prank(bob);
        ledger.proposeRewards(RUN, 0, 0, ROOT, 0);
        vm.roll(START + TIMEOUT + 1 + DISPUTE);
        ledger.finalizeRewards(RUN);
        vm.roll(START + UNBONDING);
        vm.prank(coordinator);
        ledger.releaseRunBond(RUN);
    }

    function testFuzz_rounds_are_sequential(uint64 round, uint8 done) public {
        openRun(0);
        uint64 next = done % 5;
        for (uint256 i; i < next; ++i) {
            playRound();
        }
        vm.assume(round != next);
        vm.prank(coordinator);
        refuses(ErrorsLib.WrongRound.selector, next, round);
        ledger.postCommitments(RUN, round, ROOT, 1);
    }
}
