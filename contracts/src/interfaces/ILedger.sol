// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ILedger
/// @notice Registration, stake, run pots, commitments, rewards, appeals and slashing of a Murmur network.
/// @dev There is no owner, no role and no pause. All periods are counted in blocks. Errors are in `ErrorsLib`, events
/// in `EventsLib`. An operator has two keys: the wallet, which moves money, and the hot peer key, which signs messages.
interface ILedger {
    /// @notice A registered contributor (role 1) or verifier (role 2).
    /// @param wallet the account that registered; the only one that can move the stake.
    /// @param role 1 contributor, 2 verifier.
    /// @param unbondingAt first block at which `unbonding` can be withdrawn.
    /// @param peer the address of the hot peer key.
    /// @param stake bonded amount.
    /// @param unbonding amount on its way out; it can still be slashed.
    struct Operator {
        address wallet;
        uint8 role;
        uint64 unbondingAt;
        address peer;
        uint128 stake;
        uint128 unbonding;
    }

    /// @notice A run and its pot.
    /// @param coordinator the wallet that created the run.
    /// @param status 0 unknown, 1 created, 2 open, 3 finished.
    /// @param coordinatorKey the address of the hot key that signs the coordinator's messages.
    /// @param committedRounds how many rounds have a commitment root.
    /// @param anchoredRounds how many rounds have an anchored record.
    /// @param nextEpoch the epoch that can be proposed or is pending.
    /// @param funded all that the pot has received.
    /// @param claimed all that the pot has paid.
    /// @param finalTotal sum of the final reward tree.
    /// @param finalRoot root of the final reward tree, zero before the first.
    struct Run {
        address coordinator;
        uint8 status;
        address coordinatorKey;
        uint64 committedRounds;
        uint64 anchoredRounds;
        uint64 nextEpoch;
        uint128 funded;
        uint128 claimed;
        uint128 finalTotal;
        bytes32 finalRoot;
    }

    /// @notice A proposed reward root; all zero when there is none.
    /// @param root root of the cumulative reward tree.
    /// @param total sum of its amounts.
    /// @param finalAt first block at which it can be made final, and no longer be disputed.
    struct PendingRewards {
        bytes32 root;
        uint128 total;
        uint64 finalAt;
    }

    /// @notice A bonded appeal about one segment of a unit: a contest if its owner appeals, else an accusation.
    /// @param run the run.
    /// @param round the unit's round.
    /// @param number registration number of the unit's owner.
    /// @param segment which segment of the unit is to be judged.
    /// @param appellant registration number of who appealed.
    /// @param openedAt the block that holds the appeal.
    /// @param status 0 unknown, 1 open, 2 upheld, 3 refused, 4 released.
    /// @param outcome what the verdicts said, 0 before.
    struct Appeal {
        bytes32 run;
        uint64 round;
        uint64 number;
        uint64 segment;
        uint64 appellant;
        uint64 openedAt;
        uint8 status;
        uint8 outcome;
    }

    /// @notice A verifier's signed statement about a unit.
    /// @param verifier registration number of the verifier.
    /// @param evidence hash of the evidence bundle.
    /// @param signature 65 bytes (r, s, v) over the EIP-712 `Message`, see `verdictDigest`.
    struct Verdict {
        uint64 verifier;
        bytes32 evidence;
        bytes signature;
    }

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

    /// @notice Adds `amount` to the sender's stake.
    function deposit(uint256 amount) external;

    /// @notice Starts to unbond `amount` of the sender's stake; the waiting time of all unbonding funds starts again.
    function unbond(uint256 amount) external;

    /// @notice Bonds all unbonding funds of the sender again.
    function cancelUnbond() external;

    /// @notice Pays the sender its unbonding funds once the waiting time is over.
    function withdraw() external;

    /// @notice Creates a run with the sender as its coordinator.
    /// @param run hash of the run manifest.
    /// @param coordinatorKey address of the hot key that signs the coordinator's messages.
    /// @param funding first payment into the pot, may be zero, taken from the sender by allowance.
    function createRun(bytes32 run, address coordinatorKey, uint256 funding) external;

    /// @notice Adds `amount` to the pot of a run. What is not earned stays in the pot.
    function fund(bytes32 run, uint256 amount) external;

    /// @notice Opens a created run. Coordinator only, once.
    function openRun(bytes32 run) external;

    /// @notice Ends an open run with its global parameters. Coordinator only, once. Rewards can still be settled.
    function finishRun(bytes32 run, bytes32 parameters) external;

    /// @notice Posts the one Merkle root of a round's commitments. Coordinator only.
    /// @param round the next round: its predecessor's record must be anchored.
    /// @param root root of the commitments, zero if and only if there are none.
    /// @param count number of commitments.
    function postCommitments(bytes32 run, uint64 round, bytes32 root, uint32 count) external;

    /// @notice Anchors the record of the round whose commitments were posted last. Coordinator only.
    function anchorRecord(bytes32 run, uint64 round, bytes32 record) external;

    /// @notice Proposes a cumulative reward root. Coordinator only.
    /// @param epoch the epoch after the last final one, from 0.
    /// @param root root over leaves keccak256(keccak256(abi.encode(account, cumulative))), pairs sorted.
    /// @param total sum of the tree: not below the last final total, not above what the run was funded with.
    function proposeRewards(bytes32 run, uint64 epoch, bytes32 root, uint256 total) external;

    /// @notice Cancels the pending root within its window. Any operator with the minimum stake.
    /// @param reason hash of the statement of what is wrong with it.
    function disputeRewards(bytes32 run, bytes32 reason) external;

    /// @notice Makes the pending root final after its window. Anyone.
    function finalizeRewards(bytes32 run) external;

    /// @notice Pays `account` what its cumulative amount exceeds earlier claims by. Anyone may call; cannot be paused.
    /// @return amount what was paid.
    function claim(bytes32 run, address account, uint256 cumulative, bytes32[] calldata proof)
        external
        returns (uint256 amount);

    /// @notice Asks, with `APPEAL_BOND` taken from the sender by allowance, that a segment of a unit be judged. The
    /// unit's owner contests what was said of the unit, anybody else accuses it. Any operator with the minimum stake.
    /// @dev Once for a contest and once for an accusation of each segment. Whether an appeal counts (its time, its
    /// segment) is for the run's rules to say; the bond of one that nobody settles comes back.
    /// @param round a round whose record is anchored.
    /// @param number registration number of the unit's owner, a contributor.
    /// @param segment which segment of the unit.
    /// @return case_ the appeal's number: from 1, in order, over all runs.
    function appeal(bytes32 run, uint64 round, uint64 number, uint64 segment) external returns (uint64 case_);

    /// @notice Ends an open appeal on two verifiers' verdicts of the same outcome. Anyone may call.
    /// @dev A contest is upheld by outcome 1, an accusation by 2 or 3: the bond goes back to the appellant. Else the
    /// bond of a contest goes to the run's pot, and that of an accusation in halves to the pot and to the unit's owner.
    /// @param outcome 1 passed, 2 rejected, 3 proven false.
    function settleAppeal(uint64 case_, uint8 outcome, Verdict calldata a, Verdict calldata b) external;

    /// @notice Gives the bond of an appeal that nobody settled in `APPEAL_BLOCKS` back. Anyone may call.
    function releaseAppeal(uint64 case_) external;

    /// @notice Burns all stake and unbonding funds of a contributor on two verifiers' verdicts "proven false" of the
    /// same case. Anyone may call.
    /// @param round a round whose record is anchored.
    /// @param number registration number of the accused.
    /// @param case_ the appeal that the verdicts are about; 0: the unit was drawn by the beacon.
    function slash(bytes32 run, uint64 round, uint64 number, uint64 case_, Verdict calldata a, Verdict calldata b)
        external;

    /// @notice The digest that a peer key signs to be linked with `wallet`.
    function peerLinkDigest(address wallet, bytes32 pubX, uint256 pubY) external view returns (bytes32);

    /// @notice The digest of a verdict.
    /// @dev EIP-712 `Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)` with role "verifier", kind
    /// "verdict" and body
    /// keccak256(abi.encode(uint64 number, uint64 case, uint64 verifier, uint8 outcome, bytes32 evidence)).
    /// @param case_ the appeal that it is about; 0: the unit was drawn by the beacon.
    /// @param outcome 1 passed, 2 rejected, 3 proven false.
    function verdictDigest(
        bytes32 run,
        uint64 round,
        uint64 number,
        uint64 case_,
        uint64 verifier,
        uint8 outcome,
        bytes32 evidence
    ) external view returns (bytes32);

    /// @notice The operator with this registration number; all zero if there is none.
    function operator(uint64 number) external view returns (Operator memory);

    /// @notice How many operators have registered; the last registration number.
    function operatorCount() external view returns (uint64);

    /// @notice The registration number of a wallet, 0 if it has none.
    function numberOf(address wallet) external view returns (uint64);

    /// @notice The registration number of a peer key's address, 0 if it has none.
    function numberOfPeer(address peer) external view returns (uint64);

    /// @notice The run; all zero if there is none.
    function runInfo(bytes32 run) external view returns (Run memory);

    /// @notice The run's pending reward root; all zero if there is none.
    function pendingRewards(bytes32 run) external view returns (PendingRewards memory);

    /// @notice What `account` has been paid by the run so far.
    function claimed(bytes32 run, address account) external view returns (uint256);

    /// @notice Whether the contributor was slashed for this round of this run.
    function slashed(bytes32 run, uint64 round, uint64 number) external view returns (bool);

    /// @notice The appeal with this number; all zero if there is none.
    function appealInfo(uint64 case_) external view returns (Appeal memory);

    /// @notice How many appeals there have been, over all runs; the last one's number.
    function appealCount() external view returns (uint64);

    /// @notice The number of the contest, or else of the accusation, of a unit's segment; 0 if there was none.
    function caseOf(bytes32 run, uint64 round, uint64 number, uint64 segment, bool contest)
        external
        view
        returns (uint64);

    /// @notice The EIP-712 domain separator: name "Murmur", version "1", this chain, this contract.
    function DOMAIN_SEPARATOR() external view returns (bytes32);

    /// @notice The token that is staked and paid.
    function TOKEN() external view returns (address);

    /// @notice Least stake to register, to be drawn, to dispute, to appeal and to judge.
    function MIN_STAKE() external view returns (uint128);

    /// @notice Waiting time of `unbond`, in blocks.
    function UNBONDING_BLOCKS() external view returns (uint64);

    /// @notice Dispute window of a reward root, in blocks.
    function DISPUTE_BLOCKS() external view returns (uint64);

    /// @notice What an appeal puts up.
    function APPEAL_BOND() external view returns (uint128);

    /// @notice Blocks after which an appeal that nobody settled can be released.
    function APPEAL_BLOCKS() external view returns (uint64);
}
