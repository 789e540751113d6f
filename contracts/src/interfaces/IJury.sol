// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IJury
/// @notice The court of a Murmur network: bonded cases, jurors drawn by a beacon, sealed votes, one appeal, penalties.
/// @dev There is no owner and no pause. A vote is the salted digest of what the juror's exact replay found; since exact
/// arithmetic gives every honest juror the same bits, honest votes are equal and the outcome follows from them.
/// What the jury assumes: most seats are held by jurors who replay. Errors are in `ErrorsLib`, events in `EventsLib`.
interface IJury {
    /// @notice What is fixed when a jury is deployed. Nothing may be zero.
    /// @param slotStake what a juror's slot holds.
    /// @param silentPenalty what a seat costs whose vote was not revealed; at most `slotStake`.
    /// @param fee what a seat on the winning side earns where nobody's stake pays it.
    /// @param caseBond what a case puts up: enough for the fees of a first and a second jury.
    /// @param seats of a first jury, odd; a second one has three times as many. At most 7.
    /// @param drawBlocks time for the beacon to come and the jury to be drawn.
    /// @param voteBlocks time for sealed votes; whoever is accused must have opened the segment early in it.
    /// @param revealBlocks time to reveal them.
    /// @param appealBlocks time to ask for a second jury.
    /// @param unbondingBlocks waiting time of slots that are given up.
    struct Terms {
        uint128 slotStake;
        uint128 silentPenalty;
        uint128 fee;
        uint128 caseBond;
        uint8 seats;
        uint32 drawBlocks;
        uint32 voteBlocks;
        uint32 revealBlocks;
        uint32 appealBlocks;
        uint32 unbondingBlocks;
    }

    /// @notice An operator in its role as juror.
    /// @param slots how many it holds.
    /// @param serving seats in cases that are not over; until then no slot can be given up.
    /// @param leavingAt first block at which `leaving` can be withdrawn.
    /// @param bonded what its slots hold; a juror with less than `slotStake` for each is not drawn.
    /// @param leaving amount on its way out.
    struct Juror {
        uint32 slots;
        uint32 serving;
        uint64 leavingAt;
        uint128 bonded;
        uint128 leaving;
    }

    /// @notice A case.
    /// @param run the run.
    /// @param evidence hash of what the appellant shows.
    /// @param result of the ruling: digest of the reference that the jurors' replay gave.
    /// @param round the unit's round; of rewards, the block that names the disputed root.
    /// @param number registration number of the unit's owner; of rewards, 0.
    /// @param segment which segment of the unit; of rewards, the ground.
    /// @param openedAt the block that opened the case.
    /// @param seedRound the beacon's round that draws the jury.
    /// @param stageAt the block at which the present stage began.
    /// @param slotCount slots that could be drawn when the jury was called.
    /// @param kind 1 accusation, 2 contest, 3 rewards, 4 accusation of refusal.
    /// @param stage 1 called, 2 voting, 3 revealing, 4 ruled, 5 closed.
    /// @param outcome of the ruling: 0 none, 1 right (passed), 2 void (wrong), 3 proven false, 4 proven false by a
    /// forged residual, 5 unavailable.
    /// @param firstOutcome of the first jury, where a second was called.
    /// @param second whether the present jury is the second.
    /// @param committed sealed votes of the present jury.
    /// @param revealed votes of the present jury.
    /// @param appellant who opened the case.
    /// @param finder who is paid for finding a fault.
    /// @param caller who called the second jury.
    struct Case {
        bytes32 run;
        bytes32 evidence;
        bytes32 result;
        uint64 round;
        uint64 number;
        uint64 segment;
        uint64 openedAt;
        uint64 seedRound;
        uint64 stageAt;
        uint64 slotCount;
        uint8 kind;
        uint8 stage;
        uint8 outcome;
        uint8 firstOutcome;
        bool second;
        uint8 committed;
        uint8 revealed;
        address appellant;
        address finder;
        address caller;
    }

    /// @notice A seat on a jury.
    /// @param juror registration number.
    /// @param outcome that it revealed, 0 before.
    /// @param vote the sealed vote; once revealed, keccak256(abi.encode(outcome, result)).
    struct Seat {
        uint64 juror;
        uint8 outcome;
        bytes32 vote;
    }

    /// @notice What a key signed: an EIP-712 `Message`, see `ILedger.messageDigest`.
    /// @param body digest of the message's body.
    /// @param signature 65 bytes (r, s, v).
    struct Statement {
        bytes32 body;
        bytes signature;
    }

    /* JURORS */

    /// @notice Takes `count` slots for the sender's operator: a verifier with the minimum stake, by its wallet.
    /// @dev The slots' stake, and what silence has cost of earlier ones, is taken by allowance. `count` may be 0 then.
    function join(uint32 count) external;

    /// @notice Gives slots up; their stake can be withdrawn after the waiting time. Refused while the juror has a seat,
    /// or a jury is about to be drawn.
    /// @param indices of the slots, falling.
    function resign(uint256[] calldata indices) external;

    /// @notice Pays the sender the stake of slots it gave up once the waiting time is over.
    function withdraw() external;

    /// @notice Seals the vote of a seat. By the juror's wallet or its peer key.
    /// @param digest keccak256(abi.encode(chain id, jury, case, whether second, seat, juror, outcome, result, salt)).
    function commitVote(uint64 case_, uint8 seat, bytes32 digest) external;

    /// @notice Reveals the vote of a seat. Anyone who knows it may call.
    /// @param outcome 1 to 5, see `Case`.
    /// @param result digest of the reference that the replay gave, zero where nothing could be fetched.
    function revealVote(uint64 case_, uint8 seat, uint8 outcome, bytes32 result, bytes32 salt) external;

    /* CASES */

    /// @notice Accuses a segment of a unit with `CASE_BOND`. Anyone, within the run's window.
    /// @param number registration number of the unit's owner.
    /// @param refusal what is claimed is that the owner did not open it to the verifiers. Coordinator only. If it opens to
    /// the jury, whatever that finds, the bond comes back less the jury's fees, and the owner gets nothing of it.
    /// @param finder who is paid if a fault is proven.
    /// @return case_ from 1, in order.
    function accuse(
        bytes32 run,
        uint64 round,
        uint64 number,
        uint64 segment,
        address finder,
        bytes32 evidence,
        bool refusal
    ) external returns (uint64 case_);

    /// @notice Contests with `CASE_BOND` what was said of a segment of the sender's own unit, within the run's window.
    function contest(bytes32 run, uint64 round, uint64 segment, bytes32 evidence) external returns (uint64 case_);

    /// @notice Disputes the pending reward root of a run with `CASE_BOND`. Anyone, within its window, once a ground.
    /// @param ground 1 the root is not what the rules give, 2 what is needed to recompute it cannot be fetched.
    function disputeRewards(bytes32 run, uint8 ground, bytes32 evidence) external returns (uint64 case_);

    /// @notice Draws the jury once the beacon has come. Anyone.
    /// @param proof see the beacon.
    function draw(uint64 case_, bytes calldata proof) external;

    /// @notice Counts the votes once all are revealed or the time is over. Anyone.
    /// @dev More than half of the seats must say the same, silent ones counted; else the jury is hung.
    function rule(uint64 case_) external;

    /// @notice Calls a second jury, three times as large, with three times the bond. Anyone, once, in the window.
    function appeal(uint64 case_) external;

    /// @notice Ends a case whose ruling stands, or whose jury was not drawn in time: penalties, bonds, fees. Anyone.
    function close(uint64 case_) external;

    /// @notice Proves that one key signed two different commitments (`record` false) or records (true) for one round.
    /// @dev A contributor loses the run's share of its stake, all of it from the third time; a coordinator its whole
    /// bond; whoever stood in for one all its stake. Anyone may call; `finder` is paid.
    function proveEquivocation(
        bytes32 run,
        uint64 round,
        bool record,
        Statement calldata a,
        Statement calldata b,
        address finder
    ) external;

    /// @notice Pays an account what bonds, fees and shares it was credited with. Anyone may call.
    function withdrawCredit(address account) external returns (uint256 amount);

    /* VIEWS */

    /// @notice A case; all zero if there is none.
    function caseInfo(uint64 case_) external view returns (Case memory);

    /// @notice The last case's number.
    function caseCount() external view returns (uint64);

    /// @notice The seats of the first or the second jury of a case.
    function seatsOf(uint64 case_, bool second) external view returns (Seat[] memory);

    /// @notice The case about a segment of a unit, or a dispute, that is open or was ruled; 0 if there is none.
    function caseOf(bytes32 run, uint64 round, uint64 number, uint64 segment, uint8 kind)
        external
        view
        returns (uint64);

    /// @notice An operator in its role as juror.
    function juror(uint64 number) external view returns (Juror memory);

    /// @notice How many slots there are.
    function slotCount() external view returns (uint256);

    /// @notice Whose slot it is.
    function slot(uint256 index) external view returns (uint64 number);

    /// @notice What an account can withdraw.
    function credit(address account) external view returns (uint256);

    /// @notice Whether a number was punished for this round of this run; nobody is twice.
    function punished(bytes32 run, uint64 round, uint64 number) external view returns (bool);

    /// @notice Longest time in blocks that a case with its appeal takes.
    function CASE_BLOCKS() external view returns (uint256);

    /// @notice The ledger whose operators it judges.
    function LEDGER() external view returns (address);

    /// @notice The beacon that draws.
    function BEACON() external view returns (address);

    /// @notice See `Terms`.
    function terms() external view returns (Terms memory);
}
