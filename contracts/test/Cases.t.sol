// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, IJury, Vm} from "./Base.sol";

/// @notice How cases are opened, drawn, voted on and ruled. What rulings cost is in `Rulings.t.sol`.
contract CasesTest is Base {
    uint64 private owner;
    uint64 private anchoredAt;

    function setUp() public override {
        super.setUp();
        seatJurors();
        owner = register(alice, 1, MIN_STAKE);
        openRun(50e18);
        playRound();
        anchoredAt = uint64(block.number);
    }

    function accuse() private returns (uint64) {
        vm.prank(bob);
        return jury.accuse(RUN, 0, owner, 5, carol, EVIDENCE, false);
    }

    function test_an_accusation_is_written_down_and_holds_its_bond_and_the_stake() public {
        uint64 seedRound = beacon.roundOf();
        vm.expectEmit(address(jury));
        emit EventsLib.CaseOpened(1, RUN, 0, owner, 5, 1, bob, EVIDENCE, CASE_BOND);
        vm.expectEmit(address(jury));
        emit EventsLib.JuryCalled(1, false, seedRound);
        vm.expectEmit(address(jury));
        emit EventsLib.StageEntered(1, 1);
        same(accuse(), 1);
        IJury.Case memory one = jury.caseInfo(1);
        require(one.run == RUN && one.round == 0 && one.number == owner && one.segment == 5 && one.kind == 1);
        require(one.evidence == EVIDENCE && one.appellant == bob && one.finder == carol);
        require(one.openedAt == block.number && one.stage == 1 && one.slotCount == 5 && !one.second);
        same(jury.caseCount(), 1);
        same(jury.caseOf(RUN, 0, owner, 5, 1), 1);
        same(jury.caseOf(RUN, 0, owner, 5, 2), 0);
        same(juryBalance(), 5 * SLOT_STAKE + CASE_BOND);
        same(ledger.operator(owner).cases, 1);
        same(jury.caseInfo(2).stage, 0);
        same(jury.seatsOf(1, false).length, 0);
    }

    function test_a_segment_is_accused_once_and_contested_once() public {
        accuse();
        vm.prank(carol);
        refuses(ErrorsLib.CaseExists.selector, 1);
        jury.accuse(RUN, 0, owner, 5, carol, EVIDENCE, false);
        vm.prank(alice);
        vm.expectEmit(address(jury));
        emit EventsLib.CaseOpened(2, RUN, 0, owner, 5, 2, alice, EVIDENCE, CASE_BOND);
        same(jury.contest(RUN, 0, 5, EVIDENCE), 2);
        vm.prank(alice);
        refuses(ErrorsLib.CaseExists.selector, 2);
        jury.contest(RUN, 0, 5, EVIDENCE);
        same(ledger.operator(owner).cases, 2);
        // Not again either when it is over.
        judge(1, RIGHT);
        close(1);
        same(jury.caseOf(RUN, 0, owner, 5, 1), 1);
        same(ledger.operator(owner).cases, 1);
    }

    function test_refuses_cases_about_what_is_no_anchored_unit() public {
        vm.startPrank(bob);
        refuses(ErrorsLib.ZeroValue.selector);
        jury.accuse(RUN, 0, owner, 5, address(0), EVIDENCE, false);
        refuses(ErrorsLib.UnknownRun.selector, 5);
        jury.accuse(bytes32(uint256(5)), 0, owner, 5, carol, EVIDENCE, false);
        refuses(ErrorsLib.RoundNotAnchored.selector, 1);
        jury.accuse(RUN, 1, owner, 5, carol, EVIDENCE, false);
        refuses(ErrorsLib.NotAContributor.selector, 1);
        jury.accuse(RUN, 0, 1, 5, carol, EVIDENCE, false);
        refuses(ErrorsLib.NotAContributor.selector, 99);
        jury.accuse(RUN, 0, 99, 5, carol, EVIDENCE, false);
        refuses(ErrorsLib.NotAContributor.selector, 0);
        jury.contest(RUN, 0, 5, EVIDENCE);
        vm.roll(anchoredAt + WINDOW);
        jury.accuse(RUN, 0, owner, 5, carol, EVIDENCE, false);
        vm.roll(anchoredAt + WINDOW + 1);
        refuses(ErrorsLib.WindowClosed.selector, anchoredAt + WINDOW);
        jury.accuse(RUN, 0, owner, 6, carol, EVIDENCE, false);
    }

    function test_no_case_without_its_bond() public {
        vm.startPrank(bob);
        token.approve(address(jury), CASE_BOND - 1);
        vm.expectRevert(
            abi.encodeWithSignature(
                "ERC20InsufficientAllowance(address,uint256,uint256)", address(jury), CASE_BOND - 1, CASE_BOND
            )
        );
        jury.accuse(RUN, 0, owner, 5, carol, EVIDENCE, false);
        same(jury.caseCount(), 0);
        same(ledger.operator(owner).cases, 0);
    }

    /// @dev Until enough slots are taken there is no jury, so nothing is slashed.
    function test_no_case_without_jurors() public {
        for (uint256 i = 2; i < 5; ++i) {
            uint256[] memory last = new uint256[](1);
            last[0] = 6 - i;
            vm.prank(walletOf(jury.slot(last[0])));
            jury.resign(last);
        }
        refuses(ErrorsLib.NoJurors.selector);
        accuse();
    }

    function test_the_jury_is_drawn_when_the_beacon_has_come() public {
        uint64 case_ = accuse();
        uint64 seedRound = jury.caseInfo(case_).seedRound;
        vm.roll(seedRound);
        refuses(ErrorsLib.SeedNotYet.selector, seedRound);
        jury.draw(case_, "");
        vm.roll(seedRound + 1);
        bytes32 seed = keccak256(abi.encode(blockhash(seedRound), case_, false));
        uint64 first = jury.slot(uint256(keccak256(abi.encode(seed, uint256(0), uint256(0)))) % 5);
        vm.expectEmit(address(jury));
        emit EventsLib.Seated(case_, first, false, 0);
        jury.draw(case_, "");
        IJury.Case memory one = jury.caseInfo(case_);
        require(one.stage == 2 && one.stageAt == block.number);
        IJury.Seat[] memory seats = jury.seatsOf(case_, false);
        same(seats.length, SEATS);
        uint256 serving;
        for (uint64 number = 1; number <= 5; ++number) {
            serving += jury.juror(number).serving;
        }
        same(serving, SEATS);
        refuses(ErrorsLib.WrongStage.selector, 2);
        jury.draw(case_, "");
        refuses(ErrorsLib.WrongStage.selector, 0);
        jury.draw(99, "");
    }

    /// @dev Whoever accuses is not judge of its own matter.
    function testFuzz_an_appellant_is_no_juror(uint8 who, uint64 segment) public {
        address wallet = verifiers[who % 5];
        vm.prank(wallet);
        uint64 case_ = jury.accuse(RUN, 0, owner, segment, wallet, EVIDENCE, false);
        draw(case_);
        IJury.Seat[] memory seats = jury.seatsOf(case_, false);
        for (uint256 i; i < SEATS; ++i) {
            require(walletOf(seats[i].juror) != wallet);
        }
    }

    function test_votes_are_sealed_by_their_seats_alone() public {
        uint64 case_ = accuse();
        bytes32 digest = keccak256("digest");
        vm.prank(verifiers[0]);
        refuses(ErrorsLib.WrongStage.selector, 1);
        jury.commitVote(case_, 0, digest);
        draw(case_);
        uint64 number = jury.seatsOf(case_, false)[0].juror;
        address wallet = walletOf(number);
        address other = number == 1 ? verifiers[1] : verifiers[0];
        vm.prank(other);
        refuses(ErrorsLib.NotYourSeat.selector, 0);
        jury.commitVote(case_, 0, digest);
        vm.startPrank(wallet);
        refuses(ErrorsLib.ZeroValue.selector);
        jury.commitVote(case_, 0, 0);
        vm.expectEmit(address(jury));
        emit EventsLib.VoteSealed(case_, number, false, 0);
        jury.commitVote(case_, 0, digest);
        refuses(ErrorsLib.AlreadyVoted.selector, 0);
        jury.commitVote(case_, 0, digest);
        vm.expectRevert();
        jury.commitVote(case_, SEATS, digest);
        vm.stopPrank();
        uint256 last = uint256(jury.caseInfo(case_).stageAt) + VOTE;
        vm.roll(last + 1);
        address late = walletOf(jury.seatsOf(case_, false)[1].juror);
        vm.prank(late);
        refuses(ErrorsLib.WindowClosed.selector, last);
        jury.commitVote(case_, 1, digest);
    }

    function test_the_peer_key_votes_too() public {
        uint64 case_ = accuse();
        draw(case_);
        address wallet = walletOf(jury.seatsOf(case_, false)[0].juror);
        bytes32 digest = sealedVote(case_, 0, RIGHT, RESULT);
        address peer = vm.createWallet(peerKey(wallet)).addr;
        address rotated = rotate(wallet, 7777);
        vm.prank(peer);
        refuses(ErrorsLib.NotYourSeat.selector, 0);
        jury.commitVote(case_, 0, digest);
        vm.prank(rotated);
        jury.commitVote(case_, 0, digest);
        same(jury.caseInfo(case_).committed, 1);
    }

    function test_votes_are_revealed_when_all_are_sealed_or_the_time_is_over() public {
        uint64 case_ = accuse();
        draw(case_);
        commit(case_, 0, VOID, RESULT);
        refuses(ErrorsLib.WrongStage.selector, 2);
        reveal(case_, 0, VOID, RESULT);
        commit(case_, 1, VOID, RESULT);
        vm.expectEmit(address(jury));
        emit EventsLib.StageEntered(case_, 3);
        bytes32 digest = sealedVote(case_, 2, VOID, RESULT);
        vm.prank(walletOf(jury.seatsOf(case_, false)[2].juror));
        jury.commitVote(case_, 2, digest);
    }

    function commitThree(uint64 case_) private {
        for (uint8 seat; seat < SEATS; ++seat) {
            commit(case_, seat, VOID, RESULT);
        }
    }

    function test_only_what_was_sealed_is_revealed_once() public {
        uint64 case_ = accuse();
        draw(case_);
        commitThree(case_);
        refuses(ErrorsLib.WrongReveal.selector, 0);
        reveal(case_, 0, RIGHT, RESULT);
        refuses(ErrorsLib.WrongReveal.selector, 0);
        reveal(case_, 0, VOID, EVIDENCE);
        bytes32 wrong = salt(case_, 1);
        refuses(ErrorsLib.WrongReveal.selector, 0);
        jury.revealVote(case_, 0, VOID, RESULT, wrong);
        uint8[2] memory none = [0, 6];
        for (uint256 i; i < 2; ++i) {
            refuses(ErrorsLib.UnknownOutcome.selector, none[i]);
            reveal(case_, 0, none[i], RESULT);
        }
        uint64 number = jury.seatsOf(case_, false)[0].juror;
        vm.expectEmit(address(jury));
        emit EventsLib.VoteRevealed(case_, number, false, 0, VOID, RESULT);
        reveal(case_, 0, VOID, RESULT);
        refuses(ErrorsLib.AlreadyVoted.selector, 0);
        reveal(case_, 0, VOID, RESULT);
        uint256 last = uint256(jury.caseInfo(case_).stageAt) + REVEAL;
        vm.roll(last + 1);
        refuses(ErrorsLib.WindowClosed.selector, last);
        reveal(case_, 1, VOID, RESULT);
    }

    /// @dev A sealed vote is worth nothing on another chain, in another jury, case, seat or stage.
    function testFuzz_sealed_votes_are_bound(uint8 field, uint64 chain) public {
        uint64 case_ = accuse();
        vm.prank(carol);
        uint64 other = jury.accuse(RUN, 0, owner, 6, carol, EVIDENCE, false);
        draw(case_);
        draw(other);
        vm.assume(chain != 31337);
        uint64 number = jury.seatsOf(case_, false)[0].juror;
        field = field % 5;
        bytes32 digest = keccak256(
            abi.encode(
                field == 0 ? chain : block.chainid,
                field == 1 ? address(ledger) : address(jury),
                field == 2 ? other : case_,
                field == 3,
                field == 4 ? uint256(1) : 0,
                number,
                VOID,
                RESULT,
                salt(case_, 0)
            )
        );
        vm.prank(walletOf(number));
        jury.commitVote(case_, 0, digest);
        vm.roll(uint256(jury.caseInfo(case_).stageAt) + VOTE + 1);
        refuses(ErrorsLib.WrongReveal.selector, 0);
        reveal(case_, 0, VOID, RESULT);
    }

    function test_a_ruling_waits_for_the_votes() public {
        uint64 case_ = accuse();
        refuses(ErrorsLib.WrongStage.selector, 1);
        jury.rule(case_);
        draw(case_);
        refuses(ErrorsLib.WrongStage.selector, 2);
        jury.rule(case_);
        commitThree(case_);
        reveal(case_, 0, VOID, RESULT);
        reveal(case_, 1, VOID, RESULT);
        uint256 last = uint256(jury.caseInfo(case_).stageAt) + REVEAL;
        refuses(ErrorsLib.WindowOpen.selector, last + 1);
        jury.rule(case_);
        vm.roll(last + 1);
        vm.expectEmit(address(jury));
        emit EventsLib.Ruled(case_, false, VOID, keccak256(abi.encode(VOID, RESULT)));
        vm.expectEmit(address(jury));
        emit EventsLib.StageEntered(case_, 4);
        jury.rule(case_);
        same(jury.caseInfo(case_).outcome, VOID);
        same(jury.caseInfo(case_).firstOutcome, VOID);
        refuses(ErrorsLib.WrongStage.selector, 4);
        jury.rule(case_);
    }

    /// @dev Whatever three seats say, the ruling is what two of them say, and else none.
    function testFuzz_a_ruling_is_what_more_than_half_of_the_seats_say(uint8 a, uint8 b, uint8 c) public {
        uint64 case_ = accuse();
        draw(case_);
        uint8[] memory said = new uint8[](3);
        (said[0], said[1], said[2]) = (a % 6, b % 6, c % 6);
        vote(case_, said);
        uint8 expected = said[0] == said[1] || said[0] == said[2] ? said[0] : said[1] == said[2] ? said[1] : 0;
        same(jury.caseInfo(case_).outcome, expected);
    }

    /// @dev The same outcome with another result is another vote: honest replays give one result.
    function test_votes_that_differ_in_their_result_do_not_add_up() public {
        uint64 case_ = accuse();
        draw(case_);
        commit(case_, 0, VOID, RESULT);
        commit(case_, 1, VOID, EVIDENCE);
        commit(case_, 2, RIGHT, RESULT);
        reveal(case_, 0, VOID, RESULT);
        reveal(case_, 1, VOID, EVIDENCE);
        reveal(case_, 2, RIGHT, RESULT);
        jury.rule(case_);
        same(jury.caseInfo(case_).outcome, 0);
    }

    function test_one_appeal_calls_three_times_the_jury() public {
        uint64 case_ = accuse();
        judge(case_, RIGHT);
        vm.expectEmit(address(jury));
        emit EventsLib.AppealCalled(case_, carol);
        vm.expectEmit(address(jury));
        emit EventsLib.JuryCalled(case_, true, beacon.roundOf());
        vm.prank(carol);
        jury.appeal(case_);
        same(juryBalance(), 5 * SLOT_STAKE + 4 * CASE_BOND);
        draw(case_);
        same(jury.seatsOf(case_, true).length, 3 * SEATS);
        same(jury.seatsOf(case_, false).length, SEATS);
        vote(case_, VOID);
        same(jury.caseInfo(case_).outcome, VOID);
        same(jury.caseInfo(case_).firstOutcome, RIGHT);
        uint256 last = uint256(jury.caseInfo(case_).stageAt) + APPEAL;
        vm.prank(carol);
        refuses(ErrorsLib.WindowClosed.selector, last);
        jury.appeal(case_);
    }

    function test_no_appeal_before_the_ruling_or_after_its_time() public {
        uint64 case_ = accuse();
        vm.prank(carol);
        refuses(ErrorsLib.WrongStage.selector, 1);
        jury.appeal(case_);
        judge(case_, RIGHT);
        uint256 last = uint256(jury.caseInfo(case_).stageAt) + APPEAL;
        vm.roll(last);
        refuses(ErrorsLib.WindowOpen.selector, last + 1);
        jury.close(case_);
        vm.roll(last + 1);
        vm.prank(carol);
        refuses(ErrorsLib.WindowClosed.selector, last);
        jury.appeal(case_);
        jury.close(case_);
        refuses(ErrorsLib.WrongStage.selector, 5);
        jury.close(case_);
        refuses(ErrorsLib.WrongStage.selector, 0);
        jury.close(99);
    }

    function test_a_case_is_closed_when_its_jury_was_not_drawn_in_time() public {
        uint64 case_ = accuse();
        uint256 last = uint256(jury.caseInfo(case_).stageAt) + DRAW;
        vm.roll(last);
        refuses(ErrorsLib.WindowOpen.selector, last + 1);
        jury.close(case_);
        vm.roll(last + 1);
        jury.close(case_);
        require(jury.caseInfo(case_).stage == 5 && jury.caseInfo(case_).outcome == 0);
        same(jury.credit(bob), CASE_BOND);
        same(ledger.operator(owner).cases, 0);
        same(jury.caseOf(RUN, 0, owner, 5, 1), 0);
    }

    function test_stake_stays_while_a_case_is_open() public {
        uint64 case_ = accuse();
        vm.prank(alice);
        ledger.unbond(MIN_STAKE);
        vm.roll(block.number + UNBONDING);
        vm.prank(alice);
        refuses(ErrorsLib.CasesOpen.selector, 1);
        ledger.withdraw();
        jury.close(case_);
        vm.prank(alice);
        ledger.withdraw();
    }
}
