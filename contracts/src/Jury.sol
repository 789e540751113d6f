// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {JurySlots} from "./JurySlots.sol";
import {IBeacon} from "./interfaces/IBeacon.sol";
import {IJury} from "./interfaces/IJury.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";

/// @title Jury
/// @notice See `IJury`. The balance is the sum of slots, slots on their way out, bonds of open cases and credits.
contract Jury is JurySlots {
    using SafeERC20 for IERC20;

    uint8 private constant ACCUSATION = 1;
    uint8 private constant CONTEST = 2;
    uint8 private constant REWARDS = 3;
    uint8 private constant REFUSAL = 4;

    uint8 private constant CALLED = 1;
    uint8 private constant VOTING = 2;
    uint8 private constant REVEALING = 3;
    uint8 private constant RULED = 4;
    uint8 private constant CLOSED = 5;

    uint8 private constant NONE = 0;
    uint8 private constant RIGHT = 1;
    uint8 private constant VOID = 2;
    uint8 private constant FORGED = 4;
    uint8 private constant UNAVAILABLE = 5;

    uint8 private constant CONTRIBUTOR = 1;
    uint8 private constant GROUNDS = 2;
    uint8 private constant SECOND = 3; // a second jury's seats and bond, in those of the first
    uint8 private constant MAX_SEATS = 7;
    uint32 private constant ALL_AT = 3; // from this equivocation on everything is lost
    uint256 private constant BPS = 10_000;
    uint256 private constant FINDER_BPS = 3000;
    uint256 private constant JURY_BPS = 2000;

    /// @inheritdoc IJury
    address public immutable BEACON;
    uint128 private immutable FEE;
    uint128 private immutable CASE_BOND;
    uint8 private immutable SEATS;
    uint32 private immutable DRAW_BLOCKS;
    uint32 private immutable VOTE_BLOCKS;
    uint32 private immutable REVEAL_BLOCKS;
    uint32 private immutable APPEAL_BLOCKS;

    /// @inheritdoc IJury
    uint64 public caseCount;
    /// @inheritdoc IJury
    mapping(address account => uint256) public credit;
    /// @inheritdoc IJury
    mapping(bytes32 run => mapping(uint64 round => mapping(uint64 number => bool))) public punished;

    mapping(uint64 case_ => Case) private _cases;
    mapping(uint64 case_ => mapping(bool second => Seat[])) private _seats;
    mapping(bytes32 subject => uint64 case_) private _caseOf;
    mapping(bytes32 statement => bool) private _equivocated;

    constructor(address ledger, address beacon, Terms memory fixed_)
        JurySlots(ledger, fixed_.slotStake, fixed_.silentPenalty, fixed_.unbondingBlocks)
    {
        require(ILedger(ledger).JURY() == address(this), ErrorsLib.NotJury());
        require(
            beacon != address(0) && fixed_.fee != 0 && fixed_.drawBlocks != 0 && fixed_.voteBlocks != 0
                && fixed_.revealBlocks != 0 && fixed_.appealBlocks != 0,
            ErrorsLib.ZeroParameter()
        );
        require(fixed_.seats % 2 == 1 && fixed_.seats <= MAX_SEATS, ErrorsLib.BadSeats(fixed_.seats));
        require(
            fixed_.caseBond >= uint256(fixed_.fee) * fixed_.seats * (1 + SECOND), ErrorsLib.BondTooLow()
        );
        BEACON = beacon;
        FEE = fixed_.fee;
        CASE_BOND = fixed_.caseBond;
        SEATS = fixed_.seats;
        DRAW_BLOCKS = fixed_.drawBlocks;
        VOTE_BLOCKS = fixed_.voteBlocks;
        REVEAL_BLOCKS = fixed_.revealBlocks;
        APPEAL_BLOCKS = fixed_.appealBlocks;
        // What a losing bond leaves goes to a run's pot.
        IERC20(TOKEN).forceApprove(ledger, type(uint256).max);
    }

    /* CASES */

    /// @inheritdoc IJury
    function accuse(
        bytes32 run,
        uint64 round,
        uint64 number,
        uint64 segment,
        address finder,
        bytes32 evidence,
        bool refusal
    ) external nonReentrant returns (uint64) {
        require(finder != address(0), ErrorsLib.ZeroValue());
        address coordinator = _checkUnit(run, round, number);
        // Else every accuser would claim it: it risks less.
        require(!refusal || msg.sender == coordinator, ErrorsLib.NotCoordinator());
        _cases[caseCount + 1].finder = finder;
        return _open(refusal ? REFUSAL : ACCUSATION, run, round, number, segment, evidence);
    }

    /// @inheritdoc IJury
    function contest(bytes32 run, uint64 round, uint64 segment, bytes32 evidence)
        external
        nonReentrant
        returns (uint64)
    {
        uint64 number = ILedger(LEDGER).numberOf(msg.sender);
        _checkUnit(run, round, number);
        return _open(CONTEST, run, round, number, segment, evidence);
    }

    /// @inheritdoc IJury
    function disputeRewards(bytes32 run, uint8 ground, bytes32 evidence)
        external
        nonReentrant
        returns (uint64)
    {
        require(ground != 0 && ground <= GROUNDS, ErrorsLib.UnknownGround(ground));
        uint64 proposedAt = ILedger(LEDGER).holdRewards(run, ground);
        _cases[caseCount + 1].finder = msg.sender;
        return _open(REWARDS, run, proposedAt, 0, ground, evidence);
    }

    /// @inheritdoc IJury
    function draw(uint64 case_, bytes calldata proof) external nonReentrant {
        Case storage one = _at(case_, CALLED);
        bytes32 seed = keccak256(abi.encode(IBeacon(BEACON).seed(one.seedRound, proof), case_, one.second));
        --_undrawn;
        uint64 appellant = ILedger(LEDGER).numberOf(one.appellant);
        Seat[] storage seats = _seats[case_][one.second];
        uint256 size = one.second ? uint256(SEATS) * SECOND : SEATS;
        for (uint256 i; i < size; ++i) {
            uint64 number = _drawn(seed, i, one.slotCount, one.number, appellant);
            require(number != 0, ErrorsLib.NoJurors());
            seats.push(Seat({juror: number, outcome: NONE, vote: 0}));
            ++_jurors[number].serving;
            emit EventsLib.Seated(case_, number, one.second, uint8(i));
        }
        _enter(case_, one, VOTING);
    }

    /// @inheritdoc IJury
    function commitVote(uint64 case_, uint8 seat, bytes32 digest) external {
        Case storage one = _at(case_, VOTING);
        require(digest != 0, ErrorsLib.ZeroValue());
        uint256 last = uint256(one.stageAt) + VOTE_BLOCKS;
        require(block.number <= last, ErrorsLib.WindowClosed(last));
        Seat storage held = _seats[case_][one.second][seat];
        ILedger.Operator memory op = ILedger(LEDGER).operator(held.juror);
        require(msg.sender == op.peer || msg.sender == op.wallet, ErrorsLib.NotYourSeat(seat));
        require(held.vote == 0, ErrorsLib.AlreadyVoted(seat));
        held.vote = digest;
        emit EventsLib.VoteSealed(case_, held.juror, one.second, seat);
        if (++one.committed == _seats[case_][one.second].length) _enter(case_, one, REVEALING);
    }

    /// @inheritdoc IJury
    function revealVote(uint64 case_, uint8 seat, uint8 outcome, bytes32 result, bytes32 salt) external {
        Case storage one = _revealing(case_);
        uint256 last = uint256(one.stageAt) + REVEAL_BLOCKS;
        require(block.number <= last, ErrorsLib.WindowClosed(last));
        require(
            outcome >= RIGHT && outcome <= UNAVAILABLE && (one.kind != REWARDS || outcome != 3 && outcome != FORGED),
            ErrorsLib.UnknownOutcome(outcome)
        );
        Seat storage held = _seats[case_][one.second][seat];
        require(held.outcome == NONE, ErrorsLib.AlreadyVoted(seat));
        bytes32 digest = keccak256(
            abi.encode(
                block.chainid, address(this), case_, one.second, seat, held.juror, outcome, result, salt
            )
        );
        require(held.vote == digest, ErrorsLib.WrongReveal(seat));
        held.outcome = outcome;
        held.vote = keccak256(abi.encode(outcome, result));
        ++one.revealed;
        emit EventsLib.VoteRevealed(case_, held.juror, one.second, seat, outcome, result);
    }

    /// @inheritdoc IJury
    function rule(uint64 case_) external {
        Case storage one = _revealing(case_);
        Seat[] storage seats = _seats[case_][one.second];
        uint256 last = uint256(one.stageAt) + REVEAL_BLOCKS;
        // Where nobody sealed anything, nothing can be revealed.
        require(
            one.revealed == one.committed || block.number > last, ErrorsLib.WindowOpen(last + 1)
        );
        (uint8 outcome, bytes32 vote) = _majority(seats);
        emit EventsLib.Ruled(case_, one.second, outcome, vote);
        // A second jury that is hung changes nothing.
        if (!one.second || outcome != NONE) {
            one.outcome = outcome;
            one.result = vote;
        }
        if (!one.second) one.firstOutcome = outcome;
        _enter(case_, one, RULED);
    }

    /// @inheritdoc IJury
    function appeal(uint64 case_) external nonReentrant {
        Case storage one = _at(case_, RULED);
        uint256 last = uint256(one.stageAt) + APPEAL_BLOCKS;
        require(!one.second && block.number <= last, ErrorsLib.WindowClosed(last));
        one.second = true;
        one.caller = msg.sender;
        one.committed = 0;
        one.revealed = 0;
        emit EventsLib.AppealCalled(case_, msg.sender);
        _call(case_, one);
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), uint256(CASE_BOND) * SECOND);
    }

    /// @inheritdoc IJury
    function close(uint64 case_) external nonReentrant {
        Case storage one = _cases[case_];
        if (one.stage == CALLED) {
            uint256 last = uint256(one.stageAt) + DRAW_BLOCKS;
            require(block.number > last, ErrorsLib.WindowOpen(last + 1));
            --_undrawn;
            // Without a second jury the first one's ruling stands.
            if (one.second) one.second = false;
            else one.outcome = NONE;
        } else {
            require(one.stage == RULED, ErrorsLib.WrongStage(one.stage));
            uint256 last = uint256(one.stageAt) + APPEAL_BLOCKS;
            require(one.second || block.number > last, ErrorsLib.WindowOpen(last + 1));
        }
        _enter(case_, one, CLOSED);
        if (one.number != 0) ILedger(LEDGER).countCase(one.number, false);
        if (one.outcome == NONE) delete _caseOf[_subject(one.run, one.round, one.number, one.segment, one.kind)];
        _settle(case_, one);
    }

    /// @inheritdoc IJury
    function proveEquivocation(
        bytes32 run,
        uint64 round,
        bool record,
        Statement calldata a,
        Statement calldata b,
        address finder
    ) external nonReentrant {
        require(finder != address(0), ErrorsLib.ZeroValue());
        require(a.body != b.body, ErrorsLib.SameStatement());
        address signer = _signer(run, round, record, a);
        require(_signer(run, round, record, b) == signer, ErrorsLib.TwoSigners());
        (uint64 number, uint256 amount) = _punishEquivocation(run, round, record, signer);
        require(amount != 0, ErrorsLib.AlreadyPunished());
        emit EventsLib.Equivocated(run, round, signer, number, record, a.body, b.body);
        uint256 found = amount * FINDER_BPS / BPS;
        _give(finder, found);
        ERC20Burnable(TOKEN).burn(amount - found);
    }

    /// @inheritdoc IJury
    function withdrawCredit(address account) external nonReentrant returns (uint256 amount) {
        amount = credit[account];
        require(amount != 0, ErrorsLib.NothingToClaim());
        credit[account] = 0;
        emit EventsLib.CreditWithdrawn(account, amount);
        IERC20(TOKEN).safeTransfer(account, amount);
    }

    /* VIEWS */

    /// @inheritdoc IJury
    function caseInfo(uint64 case_) external view returns (Case memory) {
        return _cases[case_];
    }

    /// @inheritdoc IJury
    function seatsOf(uint64 case_, bool second) external view returns (Seat[] memory) {
        return _seats[case_][second];
    }

    /// @inheritdoc IJury
    function caseOf(bytes32 run, uint64 round, uint64 number, uint64 segment, uint8 kind)
        external
        view
        returns (uint64)
    {
        return _caseOf[_subject(run, round, number, segment, kind)];
    }

    /// @inheritdoc IJury
    function CASE_BLOCKS() external view returns (uint256) {
        return 2 * (uint256(DRAW_BLOCKS) + VOTE_BLOCKS + REVEAL_BLOCKS) + APPEAL_BLOCKS;
    }

    /// @inheritdoc IJury
    function terms() external view returns (Terms memory) {
        return Terms({
            slotStake: SLOT_STAKE,
            silentPenalty: SILENT_PENALTY,
            fee: FEE,
            caseBond: CASE_BOND,
            seats: SEATS,
            drawBlocks: DRAW_BLOCKS,
            voteBlocks: VOTE_BLOCKS,
            revealBlocks: REVEAL_BLOCKS,
            appealBlocks: APPEAL_BLOCKS,
            unbondingBlocks: JUROR_UNBONDING
        });
    }

    /* INTERNAL */

    /// @dev Returns the run's coordinator.
    function _checkUnit(bytes32 run, uint64 round, uint64 number) private view returns (address) {
        ILedger.Run memory info = ILedger(LEDGER).runInfo(run);
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        uint256 anchoredAt = ILedger(LEDGER).roundInfo(run, round).anchoredAt;
        require(anchoredAt != 0, ErrorsLib.RoundNotAnchored(round));
        uint256 last = anchoredAt + info.ladder.windowBlocks;
        require(block.number <= last, ErrorsLib.WindowClosed(last));
        require(ILedger(LEDGER).operator(number).role == CONTRIBUTOR, ErrorsLib.NotAContributor(number));
        return info.coordinator;
    }

    function _open(uint8 kind, bytes32 run, uint64 round, uint64 number, uint64 segment, bytes32 evidence)
        private
        returns (uint64 case_)
    {
        bytes32 subject = _subject(run, round, number, segment, kind);
        require(_caseOf[subject] == 0, ErrorsLib.CaseExists(_caseOf[subject]));
        case_ = ++caseCount;
        _caseOf[subject] = case_;
        Case storage one = _cases[case_];
        one.kind = kind;
        one.run = run;
        one.round = round;
        one.number = number;
        one.segment = segment;
        one.evidence = evidence;
        one.openedAt = uint64(block.number);
        one.appellant = msg.sender;
        emit EventsLib.CaseOpened(case_, run, round, number, segment, kind, msg.sender, evidence, CASE_BOND);
        _call(case_, one);
        if (number != 0) ILedger(LEDGER).countCase(number, true);
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), CASE_BOND);
    }

    function _call(uint64 case_, Case storage one) private {
        uint256 count = slotCount();
        require(count >= SEATS, ErrorsLib.NoJurors());
        ++_undrawn;
        one.slotCount = uint64(count);
        one.seedRound = IBeacon(BEACON).roundOf();
        emit EventsLib.JuryCalled(case_, one.second, one.seedRound);
        _enter(case_, one, CALLED);
    }

    function _enter(uint64 case_, Case storage one, uint8 stage) private {
        one.stage = stage;
        one.stageAt = uint64(block.number);
        emit EventsLib.StageEntered(case_, stage);
    }

    function _at(uint64 case_, uint8 stage) private view returns (Case storage one) {
        one = _cases[case_];
        require(one.stage == stage, ErrorsLib.WrongStage(one.stage));
    }

    /// @dev The time for sealed votes ends without anybody calling.
    function _revealing(uint64 case_) private returns (Case storage one) {
        one = _cases[case_];
        uint256 last = uint256(one.stageAt) + VOTE_BLOCKS;
        if (one.stage == VOTING && block.number > last) {
            one.stage = REVEALING;
            one.stageAt = uint64(last);
        }
        require(one.stage == REVEALING, ErrorsLib.WrongStage(one.stage));
    }

    /// @dev What more than half of the seats say; none, if they do not.
    function _majority(Seat[] storage seats) private view returns (uint8, bytes32) {
        uint256 size = seats.length;
        for (uint256 i; i <= size / 2; ++i) {
            if (seats[i].outcome == NONE) continue;
            bytes32 vote = seats[i].vote;
            uint256 same;
            for (uint256 j = i; j < size; ++j) {
                if (seats[j].outcome != NONE && seats[j].vote == vote) ++same;
            }
            if (same > size / 2) return (seats[i].outcome, vote);
        }
        return (NONE, 0);
    }

    /// @dev Penalties, fees, bonds and shares of a closed case. Who is guilty pays the jury from its stake; else the
    /// first bond does, which covers both juries.
    function _settle(uint64 case_, Case storage one) private {
        uint256 winners = _dismiss(case_, one, false);
        if (one.caller != address(0)) winners += _dismiss(case_, one, true);
        uint8 outcome = one.outcome;
        if (outcome == NONE) {
            if (one.kind == REWARDS) ILedger(LEDGER).reopenRewards(one.run, one.round, uint8(one.segment));
            _give(one.appellant, CASE_BOND);
            if (one.caller != address(0)) _give(one.caller, uint256(CASE_BOND) * SECOND);
            return;
        }
        bool right = outcome == RIGHT;
        uint256 seized = one.kind == REWARDS
            ? ILedger(LEDGER).ruleRewards(one.run, one.round, !right)
            : outcome > VOID ? _punish(one) : 0;
        uint256 share = FEE;
        if (seized != 0) {
            share = seized * JURY_BPS / BPS / winners;
            uint256 found = one.finder == address(0) ? 0 : seized * FINDER_BPS / BPS;
            if (found != 0) _give(one.finder, found);
            ERC20Burnable(TOKEN).burn(seized - found - share * winners);
        }
        uint256 left = seized == 0 ? CASE_BOND - share * winners : CASE_BOND;
        _pay(case_, one, share);

        // Whoever opened to the jury alone was accused of refusal for a reason.
        bool upheld = one.kind == CONTEST ? right : !right || one.kind == REFUSAL;
        if (upheld) _give(one.appellant, left);
        else _forfeit(one, left);
        // A second jury that was called for nothing has cost everybody time.
        if (one.caller != address(0)) {
            bool overturned = outcome != one.firstOutcome || !one.second;
            if (overturned) _give(one.caller, uint256(CASE_BOND) * SECOND);
            else _forfeit(one, uint256(CASE_BOND) * SECOND);
        }
    }

    function _punish(Case storage one) private returns (uint256) {
        if (punished[one.run][one.round][one.number]) return 0;
        punished[one.run][one.round][one.number] = true;
        uint256 bps = ILedger(LEDGER).runInfo(one.run).ladder.faultBps;
        return ILedger(LEDGER).slash(one.run, one.round, one.number, bps);
    }

    /// @dev A lost bond goes to the unit's owner who was accused for nothing, else to the run's pot.
    function _forfeit(Case storage one, uint256 amount) private {
        if (amount == 0) return;
        if (one.kind == ACCUSATION && one.outcome == RIGHT) {
            _give(ILedger(LEDGER).operator(one.number).wallet, amount);
        } else {
            emit EventsLib.BondForfeited(one.run, amount);
            ILedger(LEDGER).fund(one.run, amount);
        }
    }

    /// @dev Frees the seats of a jury, takes what silence costs, and counts those that said what the ruling says.
    function _dismiss(uint64 case_, Case storage one, bool second) private returns (uint256 winners) {
        Seat[] storage seats = _seats[case_][second];
        uint256 burned;
        for (uint256 i; i < seats.length; ++i) {
            Seat storage held = seats[i];
            --_jurors[held.juror].serving;
            if (held.outcome == NONE) burned += _silence(held.juror);
            else if (one.outcome != NONE && held.vote == one.result) ++winners;
        }
        if (burned != 0) ERC20Burnable(TOKEN).burn(burned);
    }

    function _pay(uint64 case_, Case storage one, uint256 share) private {
        for (uint256 jury; jury < 2; ++jury) {
            Seat[] storage seats = _seats[case_][jury == 1];
            for (uint256 i; i < seats.length; ++i) {
                if (seats[i].outcome != NONE && seats[i].vote == one.result) {
                    _give(ILedger(LEDGER).operator(seats[i].juror).wallet, share);
                }
            }
        }
    }

    function _give(address account, uint256 amount) private {
        credit[account] += amount;
        emit EventsLib.Credited(account, amount);
    }

    function _punishEquivocation(bytes32 run, uint64 round, bool record, address signer)
        private
        returns (uint64 number, uint256 amount)
    {
        ILedger.Run memory info = ILedger(LEDGER).runInfo(run);
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        if (record && signer == info.coordinatorKey) return (0, ILedger(LEDGER).seizeRunBond(run));
        number = ILedger(LEDGER).answersFor(signer);
        require(number != 0, ErrorsLib.NotRegistered());
        require(
            record || ILedger(LEDGER).operator(number).role == CONTRIBUTOR, ErrorsLib.NotAContributor(number)
        );
        bytes32 statement = keccak256(abi.encode(run, round, record, number));
        require(!_equivocated[statement], ErrorsLib.AlreadyPunished());
        _equivocated[statement] = true;
        uint32 times = ILedger(LEDGER).countEquivocation(number);
        uint256 bps = record || times >= ALL_AT ? BPS : info.ladder.equivocationBps;
        amount = ILedger(LEDGER).slash(run, round, number, bps);
    }

    function _signer(bytes32 run, uint64 round, bool record, Statement calldata said)
        private
        view
        returns (address)
    {
        bytes32 digest = record
            ? ILedger(LEDGER).messageDigest(run, round, "coordinator", "record", said.body)
            : ILedger(LEDGER).messageDigest(run, round, "contributor", "commitment", said.body);
        (address signer, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(digest, said.signature);
        require(err == ECDSA.RecoverError.NoError, ErrorsLib.BadSignature());
        return signer;
    }

    function _subject(bytes32 run, uint64 round, uint64 number, uint64 segment, uint8 kind)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(run, round, number, segment, kind));
    }
}
