// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, ILedger} from "./Base.sol";

contract RewardsTest is Base {
    function setUp() public override {
        super.setUp();
        openRun(100e18);
    }

    function propose(uint64 epoch, uint256 forAlice, uint256 forBob) private returns (bytes32 root) {
        root = pair(leaf(alice, forAlice), leaf(bob, forBob));
        vm.prank(coordinator);
        ledger.proposeRewards(RUN, epoch, root, forAlice + forBob);
    }

    function settle(uint64 epoch, uint256 forAlice, uint256 forBob) private {
        propose(epoch, forAlice, forBob);
        vm.roll(ledger.pendingRewards(RUN).finalAt);
        ledger.finalizeRewards(RUN);
    }

    function claimAlice(uint256 forAlice, uint256 forBob) private returns (uint256) {
        return ledger.claim(RUN, alice, forAlice, proofOf(leaf(bob, forBob)));
    }

    function test_root_is_final_after_its_window() public {
        bytes32 root = pair(leaf(alice, 10e18), leaf(bob, 20e18));
        vm.expectEmit(address(ledger));
        emit EventsLib.RewardsProposed(RUN, 0, root, 30e18, 104);
        propose(0, 10e18, 20e18);
        same(ledger.pendingRewards(RUN).total, 30e18);
        vm.roll(103);
        refuses(ErrorsLib.WindowOpen.selector, 104);
        ledger.finalizeRewards(RUN);
        refuses(ErrorsLib.BadProof.selector);
        claimAlice(10e18, 20e18);
        vm.roll(104);
        vm.expectEmit(address(ledger));
        emit EventsLib.RewardsFinalized(RUN, 0, root, 30e18);
        ledger.finalizeRewards(RUN);
        same(ledger.pendingRewards(RUN).finalAt, 0);
        same(ledger.runInfo(RUN).nextEpoch, 1);
        refuses(ErrorsLib.NoPendingRewards.selector);
        ledger.finalizeRewards(RUN);
    }

    function test_claims_pay_the_account_the_difference() public {
        settle(0, 10e18, 20e18);
        uint256 before = token.balanceOf(alice);
        vm.expectEmit(address(ledger));
        emit EventsLib.Claimed(RUN, alice, 10e18, 10e18);
        vm.prank(bob); // anyone may send it
        same(claimAlice(10e18, 20e18), 10e18);
        refuses(ErrorsLib.NothingToClaim.selector);
        claimAlice(10e18, 20e18);
        settle(1, 15e18, 20e18);
        same(claimAlice(15e18, 20e18), 5e18);
        same(token.balanceOf(alice) - before, 15e18);
        same(ledger.claimed(RUN, alice), 15e18);
        same(balance(), 85e18);
    }

    function test_refuses_claims_without_proof() public {
        settle(0, 10e18, 20e18);
        refuses(ErrorsLib.BadProof.selector);
        claimAlice(11e18, 20e18);
        refuses(ErrorsLib.BadProof.selector);
        ledger.claim(RUN, coordinator, 10e18, proofOf(leaf(bob, 20e18)));
        refuses(ErrorsLib.BadProof.selector);
        ledger.claim(keccak256("other"), alice, 10e18, proofOf(leaf(bob, 20e18)));
    }

    function test_claims_never_exceed_the_total() public {
        // A coordinator that declares less than its tree holds.
        bytes32 root = pair(leaf(alice, 10e18), leaf(bob, 20e18));
        vm.prank(coordinator);
        ledger.proposeRewards(RUN, 0, root, 25e18);
        vm.roll(104);
        ledger.finalizeRewards(RUN);
        claimAlice(10e18, 20e18);
        refuses(ErrorsLib.ClaimsExceedTotal.selector, 25e18, 30e18);
        ledger.claim(RUN, bob, 20e18, proofOf(leaf(alice, 10e18)));
    }

    function test_refuses_proposals() public {
        vm.startPrank(coordinator);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.proposeRewards(RUN, 0, 0, 1);
        refuses(ErrorsLib.WrongEpoch.selector, 0, 1);
        ledger.proposeRewards(RUN, 1, bytes32(uint256(1)), 1);
        refuses(ErrorsLib.TotalExceedsFunding.selector, 100e18, 100e18 + 1);
        ledger.proposeRewards(RUN, 0, bytes32(uint256(1)), 100e18 + 1);
        vm.stopPrank();
        propose(0, 10e18, 20e18);
        vm.prank(coordinator);
        refuses(ErrorsLib.RewardsPending.selector);
        ledger.proposeRewards(RUN, 0, bytes32(uint256(1)), 1);
        vm.roll(104);
        ledger.finalizeRewards(RUN);
        vm.prank(coordinator);
        refuses(ErrorsLib.TotalFell.selector, 30e18, 29e18);
        ledger.proposeRewards(RUN, 1, bytes32(uint256(1)), 29e18);
    }

    function test_run_must_be_open_to_settle_and_may_be_finished() public {
        vm.startPrank(coordinator);
        ledger.createRun(keccak256("other"), address(0xC1), 0);
        refuses(ErrorsLib.WrongRunStatus.selector, 1);
        ledger.proposeRewards(keccak256("other"), 0, bytes32(uint256(1)), 0);
        ledger.finishRun(RUN, bytes32(uint256(1)));
        vm.stopPrank();
        settle(0, 10e18, 20e18);
        claimAlice(10e18, 20e18);
    }

    function test_dispute_cancels_and_the_epoch_is_proposed_again() public {
        register(bob, 1, MIN_STAKE);
        vm.startPrank(bob);
        refuses(ErrorsLib.NoPendingRewards.selector);
        ledger.disputeRewards(RUN, bytes32(uint256(7)));
        vm.stopPrank();
        propose(0, 90e18, 0);
        vm.roll(103);
        vm.expectEmit(address(ledger));
        emit EventsLib.RewardsDisputed(RUN, 0, 1, bytes32(uint256(7)));
        vm.prank(bob);
        ledger.disputeRewards(RUN, bytes32(uint256(7)));
        same(ledger.pendingRewards(RUN).finalAt, 0);
        vm.roll(110);
        refuses(ErrorsLib.NoPendingRewards.selector);
        ledger.finalizeRewards(RUN);
        settle(0, 10e18, 20e18);
        claimAlice(10e18, 20e18);
    }

    function test_disputes_need_stake_and_an_open_window() public {
        propose(0, 10e18, 20e18);
        vm.prank(bob);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.disputeRewards(RUN, 0);
        register(bob, 1, MIN_STAKE);
        vm.startPrank(bob);
        ledger.unbond(1);
        refuses(ErrorsLib.StakeTooLow.selector, MIN_STAKE - 1, MIN_STAKE);
        ledger.disputeRewards(RUN, 0);
        ledger.cancelUnbond();
        vm.roll(104);
        refuses(ErrorsLib.WindowClosed.selector, 104);
        ledger.disputeRewards(RUN, 0);
    }

    function testFuzz_pays_what_the_tree_says(uint64 forAlice, uint64 forBob, uint64 more) public {
        uint256 a = uint256(forAlice) + 1;
        uint256 b = uint256(forBob) + 1;
        settle(0, a, b);
        same(claimAlice(a, b), a);
        settle(1, a + more, b);
        if (more == 0) refuses(ErrorsLib.NothingToClaim.selector);
        uint256 paid = claimAlice(a + more, b);
        if (more != 0) same(paid, more);
        same(ledger.claim(RUN, bob, b, proofOf(leaf(alice, a + more))), b);
        same(balance(), 100e18 - a - b - more);
    }
}
