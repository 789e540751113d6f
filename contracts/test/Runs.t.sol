// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, ILedger} from "./Base.sol";

contract RunsTest is Base {
    bytes32 private constant ROOT = bytes32(uint256(1));

    function test_run_goes_from_created_to_finished() public {
        vm.startPrank(coordinator);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunCreated(RUN, coordinator, address(0xC1));
        vm.expectEmit(address(ledger));
        emit EventsLib.RunFunded(RUN, coordinator, 5e18, 5e18);
        ledger.createRun(RUN, address(0xC1), 5e18);
        ILedger.Run memory info = ledger.runInfo(RUN);
        require(info.coordinator == coordinator && info.coordinatorKey == address(0xC1) && info.status == 1);

        vm.expectEmit(address(ledger));
        emit EventsLib.RunOpened(RUN);
        ledger.openRun(RUN);
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
    }

    function test_run_is_created_once() public {
        vm.startPrank(coordinator);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.createRun(0, address(0xC1), 0);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.createRun(RUN, address(0), 0);
        ledger.createRun(RUN, address(0xC1), 0);
        vm.stopPrank();
        vm.prank(alice);
        refuses(ErrorsLib.RunExists.selector, uint256(RUN));
        ledger.createRun(RUN, address(0xC1), 0);
    }

    function test_anyone_funds_a_run_that_exists() public {
        vm.prank(alice);
        refuses(ErrorsLib.UnknownRun.selector, uint256(RUN));
        ledger.fund(RUN, 1);
        openRun(0);
        vm.startPrank(alice);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.fund(RUN, 0);
        ledger.fund(RUN, 3e18);
        vm.stopPrank();
        same(ledger.runInfo(RUN).funded, 3e18);
        same(balance(), 3e18);
    }

    function test_only_the_coordinator_speaks_for_the_run() public {
        refuses(ErrorsLib.UnknownRun.selector, uint256(RUN));
        ledger.openRun(RUN);
        openRun(0);
        vm.startPrank(alice);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.openRun(RUN);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.finishRun(RUN, ROOT);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.postCommitments(RUN, 0, ROOT, 1);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.anchorRecord(RUN, 0, ROOT);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.proposeRewards(RUN, 0, ROOT, 0);
    }

    function test_rounds_wait_for_the_record_before() public {
        vm.startPrank(coordinator);
        ledger.createRun(RUN, address(0xC1), 0);
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

        // One root a round, and none for the next before this round's record.
        refuses(ErrorsLib.WrongRound.selector, 1, 0);
        ledger.postCommitments(RUN, 0, ROOT, 3);
        refuses(ErrorsLib.WrongRound.selector, 1, 1);
        ledger.postCommitments(RUN, 1, ROOT, 3);

        refuses(ErrorsLib.ZeroValue.selector);
        ledger.anchorRecord(RUN, 0, 0);
        vm.expectEmit(address(ledger));
        emit EventsLib.RecordAnchored(RUN, 0, bytes32(uint256(8)));
        ledger.anchorRecord(RUN, 0, bytes32(uint256(8)));
        refuses(ErrorsLib.WrongRound.selector, 1, 0);
        ledger.anchorRecord(RUN, 0, bytes32(uint256(8)));
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

    function testFuzz_rounds_are_sequential(uint64 round, uint8 done) public {
        openRun(0);
        uint64 next = done % 5;
        anchorRounds(next);
        vm.assume(round != next);
        vm.prank(coordinator);
        refuses(ErrorsLib.WrongRound.selector, next, round);
        ledger.postCommitments(RUN, round, ROOT, 1);
    }
}
