// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ErrorsLib, IJury, ILedger, Jury, Ledger, Token, World} from "./Base.sol";

/// @notice A network of four contributors, five jurors and two runs, of which the second has hostile reward roots.
/// @dev Handlers do what is allowed in the state that they find, so that no call may revert.
abstract contract Network is World {
    uint256 internal constant PEOPLE = 4;
    bytes32 internal constant HOSTILE = keccak256("hostile");

    address[PEOPLE] public contributors;
    mapping(address wallet => uint256) internal keyOf;
    uint256 internal keys;

    constructor() {
        build();
        for (uint256 i; i < PEOPLE; ++i) {
            contributors[i] = address(uint160(0x1001 + i));
            keyOf[contributors[i]] = peerKey(contributors[i]);
            equip(contributors[i]);
            register(contributors[i], 1, MIN_STAKE);
        }
        seatJurors();
        openRun(1000e18);
        address key = coordinatorKey();
        vm.startPrank(bob);
        ledger.createRun(HOSTILE, key, ladder(), 300e18);
        ledger.openRun(HOSTILE);
        vm.stopPrank();
    }

    function theLedger() external view returns (Ledger) {
        return ledger;
    }

    function theJury() external view returns (Jury) {
        return jury;
    }

    function theToken() external view returns (Token) {
        return token;
    }

    function runOf(uint256 which) public pure returns (bytes32) {
        return which % 2 == 0 ? RUN : HOSTILE;
    }

    function coordinatorOf(bytes32 run) internal view returns (address) {
        return ledger.runInfo(run).coordinator;
    }

    function contributor(uint256 who) internal view returns (address wallet, ILedger.Operator memory) {
        wallet = contributors[who % PEOPLE];
        return (wallet, ledger.operator(ledger.numberOf(wallet)));
    }

    function reach(uint256 blockNumber) internal {
        if (block.number < blockNumber) vm.roll(blockNumber);
    }

    /// @notice Lets time go by.
    function pass(uint8 blocks) external {
        vm.roll(block.number + blocks % 30);
    }

    function undrawn() internal view returns (uint256 count) {
        for (uint64 case_ = 1; case_ <= jury.caseCount(); ++case_) {
            if (jury.caseInfo(case_).stage == 1) ++count;
        }
    }
}

/// @notice What operators do with their stake and slots.
abstract contract StakeHandler is Network {
    function deposit(uint256 who, uint96 amount) external {
        (address wallet,) = contributor(who);
        vm.prank(wallet);
        ledger.deposit(uint256(amount) % 100e18 + 1);
    }

    function unbond(uint256 who, uint96 amount) external {
        (address wallet, ILedger.Operator memory op) = contributor(who);
        if (op.stake == 0) return;
        vm.prank(wallet);
        ledger.unbond(amount % op.stake + 1);
    }

    function cancelUnbond(uint256 who) external {
        (address wallet, ILedger.Operator memory op) = contributor(who);
        if (op.unbonding == 0) return;
        vm.prank(wallet);
        ledger.cancelUnbond();
    }

    function withdraw(uint256 who, bool wait) external {
        (address wallet, ILedger.Operator memory op) = contributor(who);
        if (op.unbonding == 0 || op.cases != 0) return;
        if (wait) reach(op.unbondingAt);
        if (block.number < op.unbondingAt) return;
        for (uint256 i; i < 2; ++i) {
            checkNothingCanBeAccused(runOf(i), op.unbondingAt - UNBONDING);
        }
        vm.prank(wallet);
        ledger.withdraw();
    }

    /// @dev Of no round with a roster from before the unbonding can a unit still be accused, if nobody was later
    /// with its root and record than others had to wait for.
    function checkNothingCanBeAccused(bytes32 run, uint256 unbondedAt) private view {
        uint64 rounds = ledger.runInfo(run).anchoredRounds;
        for (uint64 round; round < rounds; ++round) {
            uint256 anchoredAt = ledger.roundInfo(run, round).anchoredAt;
            uint256 rosterAt = ledger.rosterBlock(run, round);
            bool late = anchoredAt - rosterAt > FORCE + 2 * TIMEOUT;
            require(late || rosterAt > unbondedAt || block.number > anchoredAt + WINDOW, "stake left too early");
        }
    }

    function rotatePeer(uint256 who) external {
        (address wallet,) = contributor(who);
        uint256 key = uint256(keccak256(abi.encode("rotated", ++keys))) >> 1;
        keyOf[wallet] = key;
        rotate(wallet, key);
    }

    function join(uint256 who, uint8 count) external {
        address wallet = verifiers[who % 5];
        IJury.Juror memory one = jury.juror(ledger.numberOf(wallet));
        bool owes = one.bonded < one.slots * SLOT_STAKE;
        if (owes && undrawn() != 0) return;
        if (!owes && count % 3 == 0) return;
        vm.prank(wallet);
        jury.join(count % 3);
    }

    function resign(uint256 who, uint8 count) external {
        address wallet = verifiers[who % 5];
        uint64 number = ledger.numberOf(wallet);
        IJury.Juror memory one = jury.juror(number);
        if (one.slots == 0 || one.serving != 0 || undrawn() != 0) return;
        uint256[] memory indices = new uint256[](count % one.slots + 1);
        uint256 found;
        for (uint256 i = jury.slotCount(); i != 0 && found < indices.length; --i) {
            if (jury.slot(i - 1) == number) indices[found++] = i - 1;
        }
        vm.prank(wallet);
        jury.resign(indices);
    }

    function withdrawSlots(uint256 who) external {
        address wallet = verifiers[who % 5];
        IJury.Juror memory one = jury.juror(ledger.numberOf(wallet));
        if (one.leaving == 0) return;
        reach(one.leavingAt);
        vm.prank(wallet);
        jury.withdraw();
    }
}

/// @notice What coordinators, those who stand in for them, and claimants do.
abstract contract RunHandler is Network {
    mapping(bytes32 run => uint256[PEOPLE]) internal final_; // of the final tree
    mapping(bytes32 run => uint256[PEOPLE]) internal pending_; // of the pending tree

    function fund(uint256 which, uint96 amount) external {
        vm.prank(carol);
        ledger.fund(runOf(which), uint256(amount) % 100e18 + 1);
    }

    /// @dev The coordinator, or after a timeout whoever is staked.
    function poster(bytes32 run, uint256 who) private returns (address wallet) {
        ILedger.Operator memory op;
        (wallet, op) = contributor(who);
        if (who % 3 != 0 || op.stake < MIN_STAKE) return coordinatorOf(run);
        reach(uint256(ledger.runInfo(run).activeAt) + TIMEOUT + 1);
    }

    function post(uint256 which, uint256 who, uint32 count) external {
        bytes32 run = runOf(which);
        ILedger.Run memory info = ledger.runInfo(run);
        if (info.status != 2 || info.committedRounds != info.anchoredRounds) return;
        address wallet = poster(run, who);
        vm.prank(wallet);
        ledger.postCommitments(run, info.committedRounds, bytes32(uint256(count)), count);
    }

    function force(uint256 which, uint256 who, bytes32 commitment) external {
        bytes32 run = runOf(which);
        (address wallet, ILedger.Operator memory op) = contributor(who);
        uint64 round = ledger.runInfo(run).anchoredRounds;
        ILedger.Round memory times = ledger.roundInfo(run, round);
        if (commitment == 0 || times.postedAt == 0 || block.number > times.postedAt + FORCE) return;
        if (op.stake < MIN_STAKE || ledger.forced(run, round, ledger.numberOf(wallet)) != 0) return;
        vm.prank(who % 2 == 0 ? wallet : op.peer);
        ledger.forceCommitment(run, round, commitment);
    }

    function anchor(uint256 which, uint256 who) external {
        bytes32 run = runOf(which);
        ILedger.Run memory info = ledger.runInfo(run);
        if (info.status != 2 || info.committedRounds == info.anchoredRounds) return;
        address wallet = poster(run, who);
        reach(uint256(ledger.roundInfo(run, info.anchoredRounds).postedAt) + FORCE + 1);
        vm.prank(wallet);
        ledger.anchorRecord(run, info.anchoredRounds, RECORD);
    }

    /// @dev A hostile tree falls, rises and adds up to more than its total, as far as the ledger lets it pass.
    function propose(uint256 which, uint64[PEOPLE] memory more, uint64 lie) external {
        bytes32 run = runOf(which);
        ILedger.Run memory info = ledger.runInfo(run);
        if (info.status < 2 || ledger.pendingRewards(run).finalAt != 0) return;
        uint256 total;
        for (uint256 i; i < PEOPLE; ++i) {
            pending_[run][i] = run == RUN ? final_[run][i] + more[i] : uint256(more[i]) * lie;
            total += pending_[run][i];
        }
        if (run == RUN && total > info.funded) {
            pending_[run] = final_[run];
            total = info.finalTotal;
        }
        if (total < info.finalTotal) total = info.finalTotal;
        if (total > info.funded) total = info.funded;
        (bytes32 left, bytes32 right) = nodes(pending_[run]);
        vm.prank(info.coordinator);
        ledger.proposeRewards(run, info.nextEpoch, info.finalRoot, pair(left, right), total);
    }

    function finalize(uint256 which) external {
        bytes32 run = runOf(which);
        ILedger.PendingRewards memory pending = ledger.pendingRewards(run);
        if (pending.finalAt == 0 || pending.open != 0) return;
        reach(pending.finalAt);
        ledger.finalizeRewards(run);
        final_[run] = pending_[run];
    }

    function claim(uint256 which, uint256 who) external {
        bytes32 run = runOf(which);
        who %= PEOPLE;
        if (final_[run][who] <= ledger.claimed(run, contributors[who])) return;
        (bytes32 left, bytes32 right) = nodes(final_[run]);
        bytes32[] memory proof = new bytes32[](2);
        proof[0] = leaf(contributors[who ^ 1], final_[run][who ^ 1]);
        proof[1] = who < 2 ? right : left;
        if (run == RUN) {
            ledger.claim(run, contributors[who], final_[run][who], proof);
            return;
        }
        try ledger.claim(run, contributors[who], final_[run][who], proof) {}
        catch (bytes memory reason) {
            require(bytes4(reason) == ErrorsLib.ClaimsExceedTotal.selector);
        }
    }

    function finish(uint8 chance) external {
        if (chance % 16 != 0 || ledger.runInfo(HOSTILE).status != 2) return;
        vm.prank(bob);
        ledger.finishRun(HOSTILE, ROOT);
    }

    function releaseRunBond() external {
        ILedger.Run memory info = ledger.runInfo(HOSTILE);
        if (info.status != 3 || info.bond == 0) return;
        reach(uint256(info.activeAt) + UNBONDING);
        vm.prank(bob);
        ledger.releaseRunBond(HOSTILE);
    }

    function nodes(uint256[PEOPLE] memory amounts) private view returns (bytes32, bytes32) {
        return (
            pair(leaf(contributors[0], amounts[0]), leaf(contributors[1], amounts[1])),
            pair(leaf(contributors[2], amounts[2]), leaf(contributors[3], amounts[3]))
        );
    }
}

/// @notice Cases from the first to the last stage, with silent, hung, second and undrawn juries, and equivocation.
contract Handler is StakeHandler, RunHandler {
    mapping(bytes32 statement => bool) private proven;
    mapping(uint64 case_ => mapping(bool second => uint256)) private votes;
    uint256 public closed;
    uint256 public slashes;
    uint256 public appeals;
    uint256 public cancelled;

    function accuse(uint256 which, uint256 who, uint256 by, uint8 segment) external {
        bytes32 run = runOf(which);
        uint64 number = ledger.numberOf(contributors[who % PEOPLE]);
        (bool fits, uint64 round) = accusable(run);
        if (!fits || jury.caseOf(run, round, number, segment % 4, 1) != 0) return;
        address wallet = by % 3 == 0 ? verifiers[by % 5] : carol;
        vm.prank(wallet);
        jury.accuse(run, round, number, segment % 4, bob, EVIDENCE, false);
    }

    function contest(uint256 which, uint256 who, uint8 segment) external {
        bytes32 run = runOf(which);
        (address wallet,) = contributor(who);
        (bool fits, uint64 round) = accusable(run);
        if (!fits || jury.caseOf(run, round, ledger.numberOf(wallet), segment % 4, 2) != 0) return;
        vm.prank(wallet);
        jury.contest(run, round, segment % 4, EVIDENCE);
    }

    function disputeRewards(uint256 which, uint8 ground) external {
        bytes32 run = runOf(which);
        ground = ground % 2 + 1;
        ILedger.PendingRewards memory pending = ledger.pendingRewards(run);
        if (block.number >= pending.finalAt || pending.grounds & (1 << ground) != 0) return;
        if (jury.slotCount() < SEATS) return;
        vm.prank(carol);
        jury.disputeRewards(run, ground, EVIDENCE);
    }

    /// @notice Takes one open case one stage further; in `votes_` four bits say what a seat does.
    function advance(uint256 which, uint256 votes_) external {
        uint64 case_ = openCase(which);
        if (case_ == 0) return;
        IJury.Case memory one = jury.caseInfo(case_);
        if (one.stage == 1) call(case_, one, votes_);
        else if (one.stage == 4) end(case_, one, votes_);
        else if (one.stage == 2 && one.committed == 0 && block.number <= uint256(one.stageAt) + VOTE) {
            seal(case_, one, votes_);
        } else {
            count(case_, one);
        }
    }

    function withdrawCredit(uint256 who) external {
        address account = payees()[who % 13];
        if (jury.credit(account) != 0) jury.withdrawCredit(account);
    }

    function equivocate(uint256 which, uint256 who, uint64 round, bool record) external {
        bytes32 run = runOf(which);
        (address wallet, ILedger.Operator memory op) = contributor(who);
        if (record && who % 2 == 0) {
            if (ledger.runInfo(run).bond != 0) prove(COORDINATOR_KEY, run, round % 4, true);
            return;
        }
        bytes32 statement = keccak256(abi.encode(run, round % 4, record, wallet));
        uint256 bps = record || op.equivocations >= 2 ? 10_000 : EQUIVOCATION_BPS;
        if ((uint256(op.stake) + op.unbonding) * bps / 10_000 == 0 || proven[statement]) return;
        proven[statement] = true;
        prove(keyOf[wallet], run, round % 4, record);
    }

    function prove(uint256 key, bytes32 run, uint64 round, bool record) private {
        IJury.Statement memory a = said(key, run, round, record, ROOT);
        IJury.Statement memory b = said(key, run, round, record, RECORD);
        jury.proveEquivocation(run, round, record, a, b, bob);
        ++slashes;
    }

    /// @notice Everybody to whom the jury may owe.
    function payees() public view returns (address[13] memory found) {
        for (uint256 i; i < 5; ++i) {
            found[i] = verifiers[i];
        }
        for (uint256 i; i < PEOPLE; ++i) {
            found[5 + i] = contributors[i];
        }
        (found[9], found[10], found[11], found[12]) = (alice, bob, carol, coordinator);
    }

    function said(uint256 key, bytes32 run, uint64 round, bool record, bytes32 body)
        private
        view
        returns (IJury.Statement memory)
    {
        bytes32 digest = record
            ? ledger.messageDigest(run, round, "coordinator", "record", body)
            : ledger.messageDigest(run, round, "contributor", "commitment", body);
        return IJury.Statement(body, signed(key, digest));
    }

    /// @dev Whether a unit of the last anchored round can be accused.
    function accusable(bytes32 run) private view returns (bool, uint64 round) {
        uint64 rounds = ledger.runInfo(run).anchoredRounds;
        if (rounds == 0 || jury.slotCount() < SEATS) return (false, 0);
        round = rounds - 1;
        return (block.number <= uint256(ledger.roundInfo(run, round).anchoredAt) + WINDOW, round);
    }

    function openCase(uint256 which) private view returns (uint64) {
        uint64 count_ = jury.caseCount();
        for (uint64 i; i < count_; ++i) {
            uint64 case_ = uint64((which % count_ + i) % count_) + 1;
            if (jury.caseInfo(case_).stage < 5) return case_;
        }
        return 0;
    }

    function call(uint64 case_, IJury.Case memory one, uint256 seed) private {
        reach(uint256(one.seedRound) + 1);
        if (seed % 8 != 0 && block.number <= uint256(one.seedRound) + 256) {
            try jury.draw(case_, "") {
                return;
            } catch (bytes memory reason) {
                // So many are silent that nobody can judge.
                require(bytes4(reason) == ErrorsLib.NoJurors.selector);
            }
        }
        reach(uint256(one.stageAt) + DRAW + 1);
        finishCase(case_);
    }

    function seal(uint64 case_, IJury.Case memory one, uint256 votes_) private {
        votes[case_][one.second] = votes_;
        uint256 size = jury.seatsOf(case_, one.second).length;
        for (uint8 seat; seat < size; ++seat) {
            (bool sealed_,, uint8 outcome, bytes32 result) = plan(case_, one, seat);
            if (sealed_) commit(case_, seat, outcome, result);
        }
    }

    function count(uint64 case_, IJury.Case memory one) private {
        uint256 from = one.stageAt;
        if (one.stage == 2) {
            from += VOTE;
            reach(from + 1);
        }
        uint256 size = jury.seatsOf(case_, one.second).length;
        for (uint8 seat; seat < size && block.number <= from + REVEAL; ++seat) {
            (, bool shown, uint8 outcome, bytes32 result) = plan(case_, one, seat);
            if (shown && jury.seatsOf(case_, one.second)[seat].vote != 0) reveal(case_, seat, outcome, result);
        }
        one = jury.caseInfo(case_);
        if (one.revealed != one.committed) reach(from + REVEAL + 1);
        jury.rule(case_);
    }

    /// @dev What a seat does: mostly the same, now and then something else, nothing, or a vote that it keeps back.
    function plan(uint64 case_, IJury.Case memory one, uint8 seat)
        private
        view
        returns (bool sealed_, bool shown, uint8 outcome, bytes32 result)
    {
        uint256 votes_ = votes[case_][one.second];
        uint256 bits = votes_ >> (4 * uint256(seat)) & 15;
        outcome = uint8((votes_ >> 64) % 5) + 1;
        if (bits == 10) outcome = outcome % 5 + 1;
        if (one.kind == 3 && (outcome == 3 || outcome == 4)) outcome = VOID;
        result = bits == 11 ? EVIDENCE : RESULT;
        if (votes_ >> 128 & 7 == 0) bits += 8; // a jury of which many are silent
        sealed_ = bits < 13;
        shown = bits < 12;
    }

    function end(uint64 case_, IJury.Case memory one, uint256 seed) private {
        uint256 last = uint256(one.stageAt) + APPEAL;
        if (!one.second && seed % 2 == 0 && block.number <= last && jury.slotCount() >= SEATS) {
            vm.prank(carol);
            jury.appeal(case_);
            ++appeals;
            return;
        }
        if (!one.second) reach(last + 1);
        finishCase(case_);
    }

    function finishCase(uint64 case_) private {
        IJury.Case memory one = jury.caseInfo(case_);
        uint256 before = ledger.operator(one.number).stake;
        bool pending = ledger.pendingRewards(one.run).proposedAt == one.round;
        jury.close(case_);
        ++closed;
        if (ledger.operator(one.number).stake < before) ++slashes;
        if (one.kind == 3 && pending && ledger.pendingRewards(one.run).finalAt == 0) ++cancelled;
    }
}
