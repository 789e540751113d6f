// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, IJury, Jury, Ledger} from "./Base.sol";

contract SlotsTest is Base {
    address private vera = verifiers[0];
    address private vito = verifiers[1];

    function indices(uint256 a) private pure returns (uint256[] memory found) {
        found = new uint256[](1);
        found[0] = a;
    }

    function indices(uint256 a, uint256 b) private pure returns (uint256[] memory found) {
        found = new uint256[](2);
        (found[0], found[1]) = (a, b);
    }

    function join(address wallet, uint32 count) private {
        vm.prank(wallet);
        jury.join(count);
    }

    /// @dev A case that calls a jury, about a unit of alice.
    function callJury() private returns (uint64 case_) {
        register(alice, 1, MIN_STAKE);
        openRun(0);
        playRound();
        case_ = accuse(0);
    }

    function accuse(uint64 round) private returns (uint64) {
        uint64 number = ledger.numberOf(alice);
        vm.prank(bob);
        return jury.accuse(RUN, round, number, 0, bob, EVIDENCE, false);
    }

    function test_a_jury_is_for_the_ledger_that_names_it() public {
        refuses(ErrorsLib.NotJury.selector);
        new Jury(address(ledger), address(beacon), juryTerms());
    }

    function deployJury(IJury.Terms memory terms, address beacon_, bytes memory reason) private {
        address jury_ = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        Ledger other = new Ledger(address(token), jury_, ledgerTerms());
        vm.expectRevert(reason);
        new Jury(address(other), beacon_, terms);
    }

    function test_refuses_senseless_terms() public {
        bytes memory zero = abi.encodeWithSelector(ErrorsLib.ZeroParameter.selector);
        deployJury(juryTerms(), address(0), zero);
        for (uint256 field; field < 8; ++field) {
            IJury.Terms memory terms = juryTerms();
            if (field == 0) terms.slotStake = 0;
            if (field == 1) terms.silentPenalty = 0;
            if (field == 2) terms.fee = 0;
            if (field == 3) terms.drawBlocks = 0;
            if (field == 4) terms.voteBlocks = 0;
            if (field == 5) terms.revealBlocks = 0;
            if (field == 6) terms.appealBlocks = 0;
            if (field == 7) terms.unbondingBlocks = 0;
            deployJury(terms, address(beacon), zero);
        }
        IJury.Terms memory bad = juryTerms();
        bad.silentPenalty = SLOT_STAKE + 1;
        deployJury(bad, address(beacon), abi.encodeWithSelector(ErrorsLib.PenaltyTooHigh.selector));
        bad = juryTerms();
        bad.caseBond = FEE * SEATS * 4 - 1;
        deployJury(bad, address(beacon), abi.encodeWithSelector(ErrorsLib.BondTooLow.selector));
        uint8[4] memory seats = [0, 2, 4, 9];
        for (uint256 i; i < seats.length; ++i) {
            bad = juryTerms();
            bad.seats = seats[i];
            deployJury(bad, address(beacon), abi.encodeWithSelector(ErrorsLib.BadSeats.selector, seats[i]));
        }
    }

    function test_shows_its_terms() public view {
        require(keccak256(abi.encode(jury.terms())) == keccak256(abi.encode(juryTerms())));
        require(jury.LEDGER() == address(ledger) && jury.BEACON() == address(beacon));
        same(jury.CASE_BLOCKS(), 2 * (DRAW + VOTE + REVEAL) + APPEAL);
    }

    function test_a_staked_verifier_takes_slots() public {
        uint64 number = register(vera, 2, MIN_STAKE);
        vm.expectEmit(address(jury));
        emit EventsLib.SlotsChanged(number, 3, 3 * SLOT_STAKE);
        join(vera, 3);
        join(vera, 1);
        same(jury.slotCount(), 4);
        same(jury.slot(3), number);
        IJury.Juror memory one = jury.juror(number);
        require(one.slots == 4 && one.serving == 0 && one.bonded == 4 * SLOT_STAKE);
        same(juryBalance(), 4 * SLOT_STAKE);
        refuses(ErrorsLib.ZeroValue.selector);
        join(vera, 0);
    }

    function test_nobody_else_does() public {
        refuses(ErrorsLib.NotAStakedVerifier.selector, 0);
        join(vera, 1);
        register(alice, 1, MIN_STAKE);
        refuses(ErrorsLib.NotAStakedVerifier.selector, 1);
        join(alice, 1);
        register(vera, 2, MIN_STAKE);
        vm.prank(vera);
        ledger.unbond(1);
        refuses(ErrorsLib.NotAStakedVerifier.selector, 2);
        join(vera, 1);
    }

    function test_slots_are_given_up_and_their_stake_leaves_later() public {
        uint64 first = register(vera, 2, MIN_STAKE);
        uint64 second = register(vito, 2, MIN_STAKE);
        join(vera, 2);
        join(vito, 1);
        join(vera, 1); // slots: vera, vera, vito, vera
        vm.startPrank(vera);
        refuses(ErrorsLib.ZeroValue.selector);
        jury.resign(new uint256[](0));
        refuses(ErrorsLib.NotYourSlot.selector, 2);
        jury.resign(indices(2));
        refuses(ErrorsLib.NotYourSlot.selector, 4);
        jury.resign(indices(4));
        refuses(ErrorsLib.NotYourSlot.selector, 3);
        jury.resign(indices(0, 3));
        refuses(ErrorsLib.NotYourSlot.selector, 1);
        jury.resign(indices(1, 1));
        vm.expectEmit(address(jury));
        emit EventsLib.SlotsChanged(first, 1, SLOT_STAKE);
        vm.expectEmit(address(jury));
        emit EventsLib.SlotsLeaving(first, 2 * SLOT_STAKE, uint64(START) + SLOT_UNBONDING);
        jury.resign(indices(3, 0));
        same(jury.slotCount(), 2);
        require(jury.slot(0) == second && jury.slot(1) == first);

        vm.roll(START + SLOT_UNBONDING - 1);
        refuses(ErrorsLib.StillUnbonding.selector, START + SLOT_UNBONDING);
        jury.withdraw();
        vm.roll(START + SLOT_UNBONDING);
        uint256 before = token.balanceOf(vera);
        vm.expectEmit(address(jury));
        emit EventsLib.SlotsWithdrawn(first, 2 * SLOT_STAKE);
        jury.withdraw();
        same(token.balanceOf(vera), before + 2 * SLOT_STAKE);
        refuses(ErrorsLib.NothingUnbonding.selector);
        jury.withdraw();
        same(juryBalance(), 2 * SLOT_STAKE);
    }

    function test_no_slot_is_given_up_while_a_jury_is_about_to_be_drawn_or_the_juror_serves() public {
        seatJurors();
        uint64 case_ = callJury();
        vm.prank(vera);
        refuses(ErrorsLib.DrawPending.selector);
        jury.resign(indices(0));
        draw(case_);
        address serving = walletOf(jury.seatsOf(case_, false)[0].juror);
        uint64 number = ledger.numberOf(serving);
        uint256 index;
        while (jury.slot(index) != number) ++index;
        uint32 seats = jury.juror(number).serving;
        vm.prank(serving);
        refuses(ErrorsLib.Serving.selector, seats);
        jury.resign(indices(index));
        vote(case_, RIGHT);
        close(case_);
        same(jury.juror(number).serving, 0);
        vm.prank(serving);
        jury.resign(indices(index));
    }

    /// @dev Whoever owes for silence is not drawn, until it has paid while no draw depends on it.
    function test_whoever_owes_for_silence_is_drawn_again_when_it_has_paid() public {
        register(vera, 2, MIN_STAKE);
        join(vera, 3);
        uint64 first = callJury();
        draw(first);
        vote(first, new uint8[](SEATS));
        close(first);
        uint64 number = ledger.numberOf(vera);
        same(jury.juror(number).bonded, 3 * SLOT_STAKE - 3 * SILENT);

        playRound();
        uint64 second = accuse(1);
        refuses(ErrorsLib.DrawPending.selector);
        join(vera, 0);
        vm.roll(block.number + 4);
        refuses(ErrorsLib.NoJurors.selector);
        jury.draw(second, "");
        vm.roll(block.number + DRAW);
        jury.close(second);
        same(token.balanceOf(bob) + jury.credit(bob), 1_000_000e18);

        vm.expectEmit(address(jury));
        emit EventsLib.SlotsChanged(number, 4, 4 * SLOT_STAKE);
        join(vera, 1); // pays what it owes, and one more
        same(juryBalance(), 4 * SLOT_STAKE + jury.credit(bob));
    }

    /// @dev What is owed is kept back from slots that are given up.
    function test_resigning_pays_what_is_owed() public {
        register(vera, 2, MIN_STAKE);
        join(vera, 3);
        uint64 case_ = callJury();
        draw(case_);
        vote(case_, new uint8[](SEATS));
        close(case_);
        vm.prank(vera);
        jury.resign(indices(2));
        IJury.Juror memory one = jury.juror(ledger.numberOf(vera));
        same(one.bonded, 2 * SLOT_STAKE);
        same(one.leaving, SLOT_STAKE - 3 * SILENT);
    }

    /// @dev A slot that was taken after the call cannot be drawn, so nobody joins a jury whose beacon it knows.
    /// forge-config: default.fuzz.runs = 48
    function testFuzz_later_slots_are_not_drawn(uint32 more) public {
        more = more % 8 + 1;
        seatJurors();
        uint64 case_ = callJury();
        register(carol, 2, MIN_STAKE);
        join(carol, more);
        draw(case_);
        uint64 late = ledger.numberOf(carol);
        IJury.Seat[] memory seats = jury.seatsOf(case_, false);
        same(seats.length, SEATS);
        for (uint256 i; i < seats.length; ++i) {
            require(seats[i].juror != late && seats[i].juror != 0);
        }
    }

    /// @dev The same seed draws the same jury whatever the sender does in between.
    /// forge-config: default.fuzz.runs = 48
    function testFuzz_a_draw_depends_on_nothing_but_the_call(uint8 wait, address by) public {
        seatJurors();
        uint64 case_ = callJury();
        vm.roll(uint256(jury.caseInfo(case_).seedRound) + 1 + wait % 200);
        bytes32 seed = keccak256(
            abi.encode(blockhash(jury.caseInfo(case_).seedRound), case_, false)
        );
        vm.prank(by);
        jury.draw(case_, "");
        IJury.Seat[] memory seats = jury.seatsOf(case_, false);
        for (uint256 i; i < SEATS; ++i) {
            uint256 index = uint256(keccak256(abi.encode(seed, i, uint256(0)))) % 5;
            same(seats[i].juror, jury.slot(index));
        }
    }
}
