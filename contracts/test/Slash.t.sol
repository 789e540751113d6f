// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, ILedger} from "./Base.sol";

contract SlashTest is Base {
    bytes32 private constant EVIDENCE_A = keccak256("a");
    bytes32 private constant EVIDENCE_B = keccak256("b");

    uint64 private accused;

    function setUp() public override {
        super.setUp();
        accused = register(alice, 1, MIN_STAKE);
        register(vera, 2, MIN_STAKE);
        register(vito, 2, MIN_STAKE);
        openRun(0);
        anchorRounds(2);
    }

    function verdicts(uint64 round) private view returns (ILedger.Verdict memory, ILedger.Verdict memory) {
        return (verdict(vera, round, accused, EVIDENCE_A), verdict(vito, round, accused, EVIDENCE_B));
    }

    function test_two_verdicts_burn_stake_and_unbonding_funds() public {
        vm.prank(alice);
        ledger.unbond(1e18);
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(1);
        vm.expectEmit(address(ledger));
        emit EventsLib.StakeChanged(accused, 0);
        vm.expectEmit(address(ledger));
        emit EventsLib.Slashed(accused, RUN, 1, MIN_STAKE, EVIDENCE_A, EVIDENCE_B);
        ledger.slash(RUN, 1, accused, 0, a, b);

        require(ledger.slashed(RUN, 1, accused));
        same(ledger.operator(accused).stake, 0);
        same(ledger.operator(accused).unbonding, 0);
        same(token.totalSupply(), SUPPLY - MIN_STAKE);
        same(balance(), 2 * MIN_STAKE);
        vm.roll(1000);
        vm.prank(alice);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.withdraw();
    }

    function test_once_a_round_and_only_what_is_there() public {
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(0);
        ledger.slash(RUN, 0, accused, 0, a, b);
        refuses(ErrorsLib.AlreadySlashed.selector);
        ledger.slash(RUN, 0, accused, 0, a, b);
        (a, b) = verdicts(1);
        refuses(ErrorsLib.NothingToSlash.selector, accused);
        ledger.slash(RUN, 1, accused, 0, a, b);
        vm.prank(alice);
        ledger.deposit(5);
        ledger.slash(RUN, 1, accused, 0, a, b);
        same(token.totalSupply(), SUPPLY - MIN_STAKE - 5);
    }

    function test_the_accused_must_be_a_contributor_of_an_anchored_round() public {
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(2);
        refuses(ErrorsLib.RoundNotAnchored.selector, 2);
        ledger.slash(RUN, 2, accused, 0, a, b);
        refuses(ErrorsLib.UnknownRun.selector, 5);
        ledger.slash(bytes32(uint256(5)), 0, accused, 0, a, b);
        refuses(ErrorsLib.NotAContributor.selector, 2);
        ledger.slash(RUN, 0, 2, 0, a, b);
        refuses(ErrorsLib.NotAContributor.selector, 99);
        ledger.slash(RUN, 0, 99, 0, a, b);
    }

    function test_two_different_staked_verifiers_must_say_so() public {
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(0);
        refuses(ErrorsLib.SameVerifier.selector, 2);
        ledger.slash(RUN, 0, accused, 0, a, a);

        register(bob, 1, MIN_STAKE);
        ILedger.Verdict memory byContributor = verdict(bob, 0, accused, EVIDENCE_A);
        refuses(ErrorsLib.NotAStakedVerifier.selector, 4);
        ledger.slash(RUN, 0, accused, 0, byContributor, b);

        vm.prank(vito);
        ledger.unbond(1);
        refuses(ErrorsLib.NotAStakedVerifier.selector, 3);
        ledger.slash(RUN, 0, accused, 0, a, b);
    }

    function test_verdicts_bind_round_accused_verifier_and_evidence() public {
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(0);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.slash(RUN, 1, accused, 0, a, b);

        uint64 other = register(bob, 1, MIN_STAKE);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.slash(RUN, 0, other, 0, a, b);

        ILedger.Verdict memory changed = ILedger.Verdict(a.verifier, EVIDENCE_B, a.signature);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.slash(RUN, 0, accused, 0, changed, b);

        ILedger.Verdict memory swapped = ILedger.Verdict(b.verifier, a.evidence, a.signature);
        refuses(ErrorsLib.BadVerdict.selector, 3);
        ledger.slash(RUN, 0, accused, 0, a, swapped);

        ILedger.Verdict memory cut = ILedger.Verdict(a.verifier, a.evidence, hex"1234");
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.slash(RUN, 0, accused, 0, cut, b);
    }

    function test_both_verdicts_are_about_the_case_that_is_named() public {
        (ILedger.Verdict memory drawn,) = verdicts(0);
        ILedger.Verdict memory a = verdict(vera, 0, accused, 7, 3, EVIDENCE_A);
        ILedger.Verdict memory b = verdict(vito, 0, accused, 7, 3, EVIDENCE_B);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.slash(RUN, 0, accused, 7, drawn, b);
        refuses(ErrorsLib.BadVerdict.selector, 3);
        ledger.slash(RUN, 0, accused, 0, drawn, b);
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.slash(RUN, 0, accused, 8, a, b);
        ledger.slash(RUN, 0, accused, 7, a, b);

        // A round's unit burns the stake once, whichever case said so first.
        (drawn, b) = verdicts(0);
        refuses(ErrorsLib.AlreadySlashed.selector);
        ledger.slash(RUN, 0, accused, 0, drawn, b);
    }

    function test_only_proven_false_burns() public {
        for (uint8 outcome; outcome < 5; ++outcome) {
            if (outcome == 3) continue;
            ILedger.Verdict memory a = verdict(vera, 0, accused, 0, outcome, EVIDENCE_A);
            ILedger.Verdict memory b = verdict(vito, 0, accused, 0, outcome, EVIDENCE_B);
            refuses(ErrorsLib.BadVerdict.selector, 2);
            ledger.slash(RUN, 0, accused, 0, a, b);
        }
    }

    function testFuzz_no_other_key_slashes(uint256 key, uint64 round) public {
        round %= 2;
        key = key % (type(uint256).max >> 1) + 1;
        vm.assume(key != peerKey(vera));
        (ILedger.Verdict memory a, ILedger.Verdict memory b) = verdicts(round);
        a.signature = signed(key, ledger.verdictDigest(RUN, round, accused, 0, a.verifier, 3, a.evidence));
        refuses(ErrorsLib.BadVerdict.selector, 2);
        ledger.slash(RUN, round, accused, 0, a, b);
    }
}
