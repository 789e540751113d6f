// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, ILedger} from "./Base.sol";

contract RewardsTest is Base {
    function setUp() public override {
        super.setUp();
        openRun(100e18);
    }

    function propose(uint256 forAlice, uint256 forBob) private returns (bytes32 root) {
        root = pair(leaf(alice, forAlice), leaf(bob, forBob));
        propose(root, forAlice + forBob);
    }

    function finalize() private {
        vm.roll(ledger.pendingRewards(RUN).finalAt);
        ledger.finalizeRewards(RUN);
    }

    function settle(uint256 forAlice, uint256 forBob) private {
        propose(forAlice, forBob);
        finalize();
    }

    function claimAlice(uint256 forAlice, uint256 forBob) private returns (uint256) {
        return ledger.claim(RUN, alice, forAlice, proofOf(leaf(bob, forBob)));
    }

    function test_root_is_final_after_its_window() public {
        bytes32 root = pair(leaf(alice, 10e18), leaf(bob, 20e18));
        uint64 finalAt = uint64(START) + DISPUTE;
        vm.expectEmit(address(ledger));
        emit EventsLib.RewardsProposed(RUN, 0, root, 30e18, finalAt, coordinator);
        propose(10e18, 20e18);
        ILedger.PendingRewards memory pending = ledger.pendingRewards(RUN);
        require(pending.root == root && pending.total == 30e18 && pending.finalAt == finalAt);
        require(pending.proposer == coordinator && pending.proposedAt == START);
        same(balance(), 100e18 + RUN_BOND + PROPOSAL_BOND);
        vm.roll(finalAt - 1);
        refuses(ErrorsLib.WindowOpen.selector, finalAt);
        ledger.finalizeRewards(RUN);
        refuses(ErrorsLib.BadProof.selector);
        claimAlice(10e18, 20e18);
        vm.roll(finalAt);
        uint256 before = token.balanceOf(coordinator);
        vm.expectEmit(address(ledger));
        emit EventsLib.RewardsFinalized(RUN, 0, root, 30e18);
        ledger.finalizeRewards(RUN);
        same(token.balanceOf(coordinator), before + PROPOSAL_BOND);
        same(ledger.pendingRewards(RUN).finalAt, 0);
        same(ledger.runInfo(RUN).nextEpoch, 1);
        refuses(ErrorsLib.NoPendingRewards.selector);
        ledger.finalizeRewards(RUN);
    }

    function test_claims_pay_the_account_the_difference() public {
        settle(10e18, 20e18);
        uint256 before = token.balanceOf(alice);
        vm.expectEmit(address(ledger));
        emit EventsLib.Claimed(RUN, alice, 10e18, 10e18);
        vm.prank(bob); // anyone may send it
        same(claimAlice(10e18, 20e18), 10e18);
        refuses(ErrorsLib.NothingToClaim.selector);
        claimAlice(10e18, 20e18);
        settle(15e18, 20e18);
        same(claimAlice(15e18, 20e18), 5e18);
        same(token.balanceOf(alice) - before, 15e18);
        same(ledger.claimed(RUN, alice), 15e18);
        same(balance(), 85e18 + RUN_BOND);
    }

    function test_refuses_claims_without_proof() public {
        settle(10e18, 20e18);
        refuses(ErrorsLib.BadProof.selector);
        claimAlice(11e18, 20e18);
        refuses(ErrorsLib.BadProof.selector);
        ledger.claim(RUN, coordinator, 10e18, proofOf(leaf(bob, 20e18)));
        refuses(ErrorsLib.BadProof.selector);
        ledger.claim(keccak256("other"), alice, 10e18, proofOf(leaf(bob, 20e18)));
        // An inner node is nobody's leaf, and no proof is none of the root.
        refuses(ErrorsLib.BadProof.selector);
        ledger.claim(RUN, alice, 10e18, new bytes32[](0));
    }

    /// @dev Who is nobody's tree is nobody's money: without a final root nothing is provable, the zero leaf neither.
    function test_nothing_is_claimed_before_a_root_is_final() public {
        refuses(ErrorsLib.BadProof.selector);
        ledger.claim(RUN, alice, 1, new bytes32[](0));
        refuses(ErrorsLib.BadProof.selector);
        ledger.claim(keccak256("none"), alice, 1, new bytes32[](0));
    }

    function test_claims_never_exceed_the_total() public {
        // A coordinator that declares less than its tree holds.
        propose(pair(leaf(alice, 10e18), leaf(bob, 20e18)), 25e18);
        finalize();
        claimAlice(10e18, 20e18);
        refuses(ErrorsLib.ClaimsExceedTotal.selector, 25e18, 30e18);
        ledger.claim(RUN, bob, 20e18, proofOf(leaf(alice, 10e18)));
    }

    /// @dev A hostile root of one run reaches neither the pot of another nor stake nor bonds.
    function testFuzz_a_hostile_root_takes_no_more_than_its_own_pot(uint128 cumulative, uint128 total) public {
        bytes32 other = keccak256("other");
        address key = coordinatorKey();
        register(alice, 1, MIN_STAKE);
        vm.prank(bob);
        ledger.createRun(other, key, ladder(), 70e18);
        total = total % 100e18;
        propose(leaf(bob, cumulative), total);
        finalize();
        if (cumulative == 0) refuses(ErrorsLib.NothingToClaim.selector);
        else if (cumulative > total) refuses(ErrorsLib.ClaimsExceedTotal.selector, total, cumulative);
        ledger.claim(RUN, bob, cumulative, new bytes32[](0));
        uint256 paid = ledger.claimed(RUN, bob);
        require(paid <= 100e18);
        same(balance(), 100e18 - paid + 70e18 + 2 * RUN_BOND + MIN_STAKE);
    }

    /// @dev Whoever falls in a later tree keeps what it was paid and gets nothing until it rises above that.
    function test_a_fallen_amount_is_no_underflow() public {
        settle(10e18, 20e18);
        claimAlice(10e18, 20e18);
        settle(4e18, 30e18);
        refuses(ErrorsLib.NothingToClaim.selector);
        claimAlice(4e18, 30e18);
        settle(12e18, 30e18);
        same(claimAlice(12e18, 30e18), 2e18);
    }

    function test_refuses_proposals() public {
        vm.startPrank(coordinator);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.proposeRewards(RUN, 0, 0, 0, 1);
        refuses(ErrorsLib.WrongEpoch.selector, 0, 1);
        ledger.proposeRewards(RUN, 1, 0, ROOT, 1);
        refuses(ErrorsLib.WrongPreviousRoot.selector, 0, uint256(ROOT));
        ledger.proposeRewards(RUN, 0, ROOT, ROOT, 1);
        refuses(ErrorsLib.TotalExceedsFunding.selector, 100e18, 100e18 + 1);
        ledger.proposeRewards(RUN, 0, 0, ROOT, 100e18 + 1);
        refuses(ErrorsLib.WrongRunStatus.selector, 0);
        ledger.proposeRewards(ROOT, 0, 0, ROOT, 0);
        vm.stopPrank();
        bytes32 root = propose(10e18, 20e18);
        vm.prank(coordinator);
        refuses(ErrorsLib.RewardsPending.selector);
        ledger.proposeRewards(RUN, 0, 0, ROOT, 1);
        finalize();
        vm.startPrank(coordinator);
        refuses(ErrorsLib.TotalFell.selector, 30e18, 29e18);
        ledger.proposeRewards(RUN, 1, root, ROOT, 29e18);
        refuses(ErrorsLib.WrongPreviousRoot.selector, uint256(root), 0);
        ledger.proposeRewards(RUN, 1, 0, ROOT, 30e18);
    }

    function test_run_must_be_open_to_settle_and_may_be_finished() public {
        bytes32 other = keccak256("other");
        address key = coordinatorKey();
        vm.startPrank(coordinator);
        ledger.createRun(other, key, ladder(), 0);
        refuses(ErrorsLib.WrongRunStatus.selector, 1);
        ledger.proposeRewards(other, 0, 0, ROOT, 0);
        ledger.finishRun(RUN, ROOT);
        vm.stopPrank();
        settle(10e18, 20e18);
        claimAlice(10e18, 20e18);
    }

    function test_after_a_timeout_anyone_proposes_with_the_bond() public {
        bytes32 root = pair(leaf(alice, 10e18), leaf(bob, 20e18));
        vm.roll(START + TIMEOUT);
        vm.prank(carol);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.proposeRewards(RUN, 0, 0, root, 30e18);
        vm.roll(START + TIMEOUT + 1);
        uint256 before = token.balanceOf(carol);
        vm.prank(carol);
        ledger.proposeRewards(RUN, 0, 0, root, 30e18);
        same(token.balanceOf(carol), before - PROPOSAL_BOND);
        finalize();
        same(token.balanceOf(carol), before);
        same(claimAlice(10e18, 20e18), 10e18);
        same(ledger.runInfo(RUN).activeAt, block.number);
    }

    function test_whoever_stands_in_proposes_without_waiting_again() public {
        register(alice, 1, MIN_STAKE);
        vm.roll(START + TIMEOUT + 1);
        vm.prank(alice);
        ledger.postCommitments(RUN, 0, 0, 0);
        bytes32 root = pair(leaf(alice, 10e18), leaf(bob, 20e18));
        vm.prank(carol);
        refuses(ErrorsLib.NotCoordinator.selector);
        ledger.proposeRewards(RUN, 0, 0, root, 30e18);
        vm.prank(alice);
        ledger.proposeRewards(RUN, 0, 0, root, 30e18);
    }

    function testFuzz_pays_what_the_tree_says(uint64 forAlice, uint64 forBob, uint64 more) public {
        uint256 a = uint256(forAlice) + 1;
        uint256 b = uint256(forBob) + 1;
        settle(a, b);
        same(claimAlice(a, b), a);
        settle(a + more, b);
        if (more == 0) refuses(ErrorsLib.NothingToClaim.selector);
        uint256 paid = claimAlice(a + more, b);
        if (more != 0) same(paid, more);
        same(ledger.claim(RUN, bob, b, proofOf(leaf(alice, a + more))), b);
        same(balance(), 100e18 + RUN_BOND - a - b - more);
    }
}

/// @notice What the ledger lets nobody but the jury do.
contract PrivilegeTest is Base {
    function test_only_the_jury_locks_takes_and_cancels() public {
        openRun(1e18);
        address[4] memory others = [coordinator, alice, verifiers[0], address(this)];
        register(alice, 1, MIN_STAKE);
        register(verifiers[0], 2, MIN_STAKE);
        for (uint256 i; i < others.length; ++i) {
            vm.startPrank(others[i]);
            refuses(ErrorsLib.NotJury.selector);
            ledger.countCase(1, true);
            refuses(ErrorsLib.NotJury.selector);
            ledger.slash(RUN, 0, 1, 1);
            refuses(ErrorsLib.NotJury.selector);
            ledger.countEquivocation(1);
            refuses(ErrorsLib.NotJury.selector);
            ledger.seizeRunBond(RUN);
            refuses(ErrorsLib.NotJury.selector);
            ledger.holdRewards(RUN, 1);
            refuses(ErrorsLib.NotJury.selector);
            ledger.ruleRewards(RUN, 0, true);
            refuses(ErrorsLib.NotJury.selector);
            ledger.reopenRewards(RUN, 0, 1);
            vm.stopPrank();
        }
    }

    /// @dev Stake goes first, then unbonding funds; a share is rounded in favour of whoever loses it.
    function testFuzz_slashing_takes_stake_first_and_never_more_than_there_is(
        uint96 more,
        uint96 leaving,
        uint16 share
    ) public {
        uint64 number = register(alice, 1, MIN_STAKE + more % 1000e18);
        uint256 held = ledger.operator(number).stake;
        uint256 out = leaving % (held + 1);
        if (out != 0) {
            vm.prank(alice);
            ledger.unbond(out);
        }
        uint256 bps = uint256(share) % 10_001;
        vm.prank(address(jury));
        uint256 amount = ledger.slash(RUN, 7, number, bps);
        same(amount, held * bps / 10_000);
        ILedger.Operator memory op = ledger.operator(number);
        same(uint256(op.stake) + op.unbonding, held - amount);
        same(op.unbonding, amount <= held - out ? out : held - amount);
        if (op.unbonding == 0) same(op.unbondingAt, 0);
        same(balance(), held - amount);
        same(juryBalance(), amount);
    }

    function test_slashing_is_told() public {
        register(alice, 1, MIN_STAKE);
        vm.prank(alice);
        ledger.unbond(MIN_STAKE / 2);
        vm.expectEmit(address(ledger));
        emit EventsLib.StakeChanged(1, 0);
        vm.expectEmit(address(ledger));
        emit EventsLib.Slashed(1, RUN, 7, 80e18, 20e18);
        vm.prank(address(jury));
        ledger.slash(RUN, 7, 1, 8000);
    }

    /// @dev What was ruled of a root that is gone touches no later one.
    function test_rulings_on_a_root_that_is_gone_change_nothing() public {
        openRun(10e18);
        propose(ROOT, 1);
        vm.startPrank(address(jury));
        ledger.holdRewards(RUN, 1);
        same(ledger.ruleRewards(RUN, uint64(START) - 1, true), 0);
        ledger.reopenRewards(RUN, uint64(START) - 1, 1);
        same(ledger.pendingRewards(RUN).open, 1);
        same(ledger.ruleRewards(RUN, uint64(START), true), PROPOSAL_BOND);
        same(ledger.ruleRewards(RUN, uint64(START), true), 0);
        vm.stopPrank();
        same(ledger.pendingRewards(RUN).finalAt, 0);
    }
}
