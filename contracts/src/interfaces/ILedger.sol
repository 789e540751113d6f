// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ILedger
/// @notice Registration, stake, run pots, commitments and rewards of a Murmur network.
/// @dev There is no owner and no pause. One other contract, the jury, can do three things: lock an operator's
/// withdrawal while a case about it is open, take stake or a bond on a ruling, and cancel a reward root that it ruled
/// wrong. Periods are counted in blocks. Errors are in `ErrorsLib`, events in `EventsLib`. An operator has two keys:
/// the wallet, which moves money, and the hot peer key, which signs messages and can spend nothing.
interface ILedger {
    /// @notice What is fixed when a ledger is deployed. Nothing may be zero.
    /// @param minStake least stake to register, to be drawn and to stand in for a coordinator.
    /// @param runBond what a coordinator puts up for a run, and loses for two records of one round.
    /// @param proposalBond what a proposed reward root puts up.
    /// @param unbondingBlocks waiting time of `unbond`.
    /// @param disputeBlocks window in which a reward root can be disputed.
    /// @param forceBlocks blocks after the commitment root in which a peer that it leaves out can force its own in.
    /// @param timeoutBlocks blocks without progress of a run after which others may post, anchor and propose.
    struct Terms {
        uint128 minStake;
        uint128 runBond;
        uint128 proposalBond;
        uint64 unbondingBlocks;
        uint64 disputeBlocks;
        uint64 forceBlocks;
        uint64 timeoutBlocks;
    }

    /// @notice A registered contributor (role 1) or verifier (role 2).
    /// @param wallet the account that registered; the only one that can move the stake.
    /// @param role 1 contributor, 2 verifier.
    /// @param unbondingAt first block at which `unbonding` can be withdrawn.
    /// @param peer the address of the hot peer key.
    /// @param cases open cases about this operator: until they are over nothing can be withdrawn.
    /// @param equivocations how often it signed two different commitments for one round.
    /// @param stake bonded amount.
    /// @param unbonding amount on its way out; it can still be slashed.
    struct Operator {
        address wallet;
        uint8 role;
        uint64 unbondingAt;
        address peer;
        uint32 cases;
        uint32 equivocations;
        uint128 stake;
        uint128 unbonding;
    }

    /// @notice What a run's manifest says of penalties and time, within the bounds of the ledger.
    /// @param faultBps share of all stake that a proven fault or a refusal costs, in basis points: 5,000 to 10,000.
    /// @param equivocationBps share that a first and a second equivocation cost: 100 to 10,000.
    /// @param windowBlocks blocks from the anchor of a round's record in which its units can be accused and contested.
    struct Ladder {
        uint16 faultBps;
        uint16 equivocationBps;
        uint32 windowBlocks;
    }

    /// @notice A run and its pot.
    /// @param coordinator the wallet that created the run.
    /// @param status 0 unknown, 1 created, 2 open, 3 finished.
    /// @param standIn registration number of who acts for its coordinator, 0 for nobody.
    /// @param ladder its penalties and window.
    /// @param coordinatorKey the address of the hot key that signs the coordinator's messages.
    /// @param openedAt the block in which it opened; the roster of round 0 is read there.
    /// @param committedRounds how many rounds have a commitment root.
    /// @param anchoredRounds how many rounds have an anchored record.
    /// @param nextEpoch the epoch that can be proposed or is pending.
    /// @param activeAt the block of its last progress; of a finished run, that which finished it.
    /// @param funded all that the pot has received.
    /// @param claimed all that the pot has paid.
    /// @param finalTotal sum of the final reward tree.
    /// @param bond what is left of the coordinator's bond.
    /// @param finalRoot root of the final reward tree, zero before the first.
    struct Run {
        address coordinator;
        uint8 status;
        uint64 standIn;
        Ladder ladder;
        address coordinatorKey;
        uint64 openedAt;
        uint64 committedRounds;
        uint64 anchoredRounds;
        uint64 nextEpoch;
        uint64 activeAt;
        uint128 funded;
        uint128 claimed;
        uint128 finalTotal;
        uint128 bond;
        bytes32 finalRoot;
    }

    /// @notice When a round's commitment root and record came, 0 before.
    /// @param count number of commitments under the root.
    struct Round {
        uint64 postedAt;
        uint64 anchoredAt;
        uint32 count;
    }

    /// @notice A proposed reward root; all zero when there is none.
    /// @param root root of the cumulative reward tree.
    /// @param total sum of its amounts.
    /// @param finalAt first block at which it can be made final, and no longer be disputed.
    /// @param proposer who put up the bond.
    /// @param open disputes that the jury has not ruled.
    /// @param grounds on which it is or was disputed, a bit each.
    /// @param proposedAt the block of its proposal, which names it: no two proposals of a run share one.
    struct PendingRewards {
        bytes32 root;
        uint128 total;
        uint64 finalAt;
        address proposer;
        uint8 open;
        uint8 grounds;
        uint64 proposedAt;
    }

    /* STAKE */

    /// @notice Registers the sender with a peer key and stakes.
    /// @param role 1 contributor, 2 verifier.
    /// @param pubX x coordinate of the peer's secp256k1 public key.
    /// @param pubY y coordinate.
    /// @param sig the peer key's signature over the EIP-712 `PeerLink(address wallet,bytes32 pubX,uint256 pubY)`.
    /// @param amount stake, at least `MIN_STAKE`, taken from the sender by allowance.
    /// @return number the registration number: from 1, in order, never changed and never given again.
    function register(uint8 role, bytes32 pubX, uint256 pubY, bytes calldata sig, uint256 amount)
        external
        returns (uint64 number);

    /// @notice `register`, with an ERC-2612 permit of `amount` instead of an allowance given before.
    /// @dev A permit that was already used (by someone who saw it) does no harm: the allowance is then there.
    function registerWithPermit(
        uint8 role,
        bytes32 pubX,
        uint256 pubY,
        bytes calldata sig,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external returns (uint64 number);

    /// @notice Gives the sender's operator another peer key, from the next roster on. What the old key signed, or signs
    /// yet, counts against the operator for `UNBONDING_BLOCKS` more. No key is ever linked twice.
    /// @param sig the new key's signature over `PeerLink`.
    function rotatePeer(bytes32 pubX, uint256 pubY, bytes calldata sig) external;

    /// @notice Adds `amount` to the sender's stake.
    function deposit(uint256 amount) external;

    /// @notice Starts to unbond `amount` of the sender's stake; the waiting time of all unbonding funds starts again.
    function unbond(uint256 amount) external;

    /// @notice Bonds all unbonding funds of the sender again.
    function cancelUnbond() external;

    /// @notice Pays the sender its unbonding funds once the waiting time and every case about it are over.
    function withdraw() external;

    /* RUNS */

    /// @notice Creates a run with the sender as its coordinator, who puts up `RUN_BOND`. Refused unless stake unbonds
    /// for longer than all this takes together: a round whose root and record others have to post after a timeout each,
    /// its window, a case with its appeal, and the dispute window of a reward root.
    /// @param run hash of the run manifest.
    /// @param coordinatorKey address of the hot key that signs the coordinator's messages.
    /// @param ladder what the manifest says of penalties and time.
    /// @param funding first payment into the pot, may be zero; with the bond taken from the sender by allowance.
    function createRun(bytes32 run, address coordinatorKey, Ladder calldata ladder, uint256 funding) external;

    /// @notice Adds `amount` to the pot of a run. What is not earned stays in the pot.
    function fund(bytes32 run, uint256 amount) external;

    /// @notice Opens a created run. Coordinator only, once.
    function openRun(bytes32 run) external;

    /// @notice Ends an open run with its global parameters. Coordinator only, once. Rewards can still be settled.
    function finishRun(bytes32 run, bytes32 parameters) external;

    /// @notice Gives the coordinator its bond back, `UNBONDING_BLOCKS` after the run was finished.
    function releaseRunBond(bytes32 run) external;

    /// @notice Posts the one Merkle root of a round's commitments. The coordinator, or after a timeout any contributor
    /// or verifier with the minimum stake, who then stands in without waiting again: until the coordinator posts or
    /// anchors, or after another timeout somebody else does.
    /// @param round the next round: its predecessor's record must be anchored.
    /// @param root root of the commitments, zero if and only if there are none.
    /// @param count number of commitments.
    function postCommitments(bytes32 run, uint64 round, bytes32 root, uint32 count) external;

    /// @notice Adds the sender's commitment to a round whose posted root leaves it out. A contributor with the minimum
    /// stake, by its wallet or its peer key, once a round, within `FORCE_BLOCKS` of the root.
    /// @param commitment the message id (EIP-712 digest) of the signed commitment.
    function forceCommitment(bytes32 run, uint64 round, bytes32 commitment) external;

    /// @notice Anchors the record of the round whose commitments were posted last, once none can be forced in any
    /// more. The same callers as `postCommitments`.
    function anchorRecord(bytes32 run, uint64 round, bytes32 record) external;

    /* REWARDS */

    /// @notice Proposes a cumulative reward root with `PROPOSAL_BOND`. The coordinator, who stands in for it, or anyone
    /// after a timeout.
    /// @param epoch the epoch after the last final one, from 0.
    /// @param previous the last final root, on which this one builds.
    /// @param root root over leaves keccak256(keccak256(abi.encode(account, cumulative))), pairs sorted.
    /// @param total sum of the tree: not below the last final total, not above what the run was funded with.
    function proposeRewards(bytes32 run, uint64 epoch, bytes32 previous, bytes32 root, uint256 total) external;

    /// @notice Makes the pending root final after its window, if no dispute is open. Anyone.
    function finalizeRewards(bytes32 run) external;

    /// @notice Pays `account` what its cumulative amount exceeds earlier claims by. Anyone may call; cannot be paused.
    /// @return amount what was paid.
    function claim(bytes32 run, address account, uint256 cumulative, bytes32[] calldata proof)
        external
        returns (uint256 amount);

    /* THE JURY'S */

    /// @notice Counts a case about an operator in or out: while any is open, it cannot withdraw. Jury only.
    function countCase(uint64 number, bool opened) external;

    /// @notice Takes a share of an operator's stake and unbonding funds, stake first, and hands it to the jury.
    /// Jury only.
    function slash(bytes32 run, uint64 round, uint64 number, uint256 bps) external returns (uint256 amount);

    /// @notice Counts an equivocation of an operator and returns how many there were. Jury only.
    function countEquivocation(uint64 number) external returns (uint32);

    /// @notice Takes a coordinator's whole bond and hands it to the jury. Jury only.
    function seizeRunBond(bytes32 run) external returns (uint256 amount);

    /// @notice Holds the pending reward root while a dispute about it is open. Jury only, once for each ground.
    /// @return proposedAt of the pending root.
    function holdRewards(bytes32 run, uint8 ground) external returns (uint64 proposedAt);

    /// @notice Ends a dispute: a wrong root is cancelled and its bond handed to the jury. Jury only.
    /// @param proposedAt of the root that was disputed: a ruling on one that is gone changes nothing.
    function ruleRewards(bytes32 run, uint64 proposedAt, bool wrong) external returns (uint256 bond);

    /// @notice Ends a dispute that no jury decided: the ground can be disputed again, in a whole window from now.
    /// Jury only.
    function reopenRewards(bytes32 run, uint64 proposedAt, uint8 ground) external;

    /* VIEWS */

    /// @notice The digest that a peer key signs to be linked with `wallet`.
    function peerLinkDigest(address wallet, bytes32 pubX, uint256 pubY) external view returns (bytes32);

    /// @notice The digest of a message: EIP-712
    /// `Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)`.
    function messageDigest(bytes32 run, uint64 round, string calldata role, string calldata kind, bytes32 body)
        external
        view
        returns (bytes32);

    /// @notice The operator that answers for a peer key: its number while the key is linked, and for
    /// `UNBONDING_BLOCKS` after it was rotated away; else 0.
    function answersFor(address peer) external view returns (uint64 number);

    /// @notice The operator with this registration number; all zero if there is none.
    function operator(uint64 number) external view returns (Operator memory);

    /// @notice How many operators have registered; the last registration number.
    function operatorCount() external view returns (uint64);

    /// @notice The registration number of a wallet, 0 if it has none.
    function numberOf(address wallet) external view returns (uint64);

    /// @notice The registration number of a peer key's address, rotated away or not, 0 if it has none.
    function numberOfPeer(address peer) external view returns (uint64);

    /// @notice The run; all zero if there is none.
    function runInfo(bytes32 run) external view returns (Run memory);

    /// @notice When a round's root and record came.
    function roundInfo(bytes32 run, uint64 round) external view returns (Round memory);

    /// @notice The block at which a round's roster is read, 0 before it is known.
    function rosterBlock(bytes32 run, uint64 round) external view returns (uint64);

    /// @notice The commitment that a contributor forced into a round, zero if none.
    function forced(bytes32 run, uint64 round, uint64 number) external view returns (bytes32);

    /// @notice The run's pending reward root; all zero if there is none.
    function pendingRewards(bytes32 run) external view returns (PendingRewards memory);

    /// @notice What `account` has been paid by the run so far.
    function claimed(bytes32 run, address account) external view returns (uint256);

    /// @notice The EIP-712 domain separator: name "Murmur", version "1", this chain, this contract.
    function DOMAIN_SEPARATOR() external view returns (bytes32);

    /// @notice The token that is staked and paid.
    function TOKEN() external view returns (address);

    /// @notice The jury, whose rulings alone move stake and bonds.
    function JURY() external view returns (address);

    /// @notice See `Terms`.
    function MIN_STAKE() external view returns (uint128);

    /// @notice See `Terms`.
    function RUN_BOND() external view returns (uint128);

    /// @notice See `Terms`.
    function PROPOSAL_BOND() external view returns (uint128);

    /// @notice See `Terms`.
    function UNBONDING_BLOCKS() external view returns (uint64);

    /// @notice See `Terms`.
    function DISPUTE_BLOCKS() external view returns (uint64);

    /// @notice See `Terms`.
    function FORCE_BLOCKS() external view returns (uint64);

    /// @notice See `Terms`.
    function TIMEOUT_BLOCKS() external view returns (uint64);
}
