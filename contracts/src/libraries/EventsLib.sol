// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title EventsLib
/// @notice One event for every change of the ledger's and the jury's state that anybody's money depends on.
library EventsLib {
    /// @notice An operator registered; `peer` is the address of the public key (`pubX`, `pubY`).
    event Registered(
        uint64 indexed number, address indexed wallet, address indexed peer, uint8 role, bytes32 pubX, uint256 pubY
    );
    /// @notice An operator has another peer key, the public key (`pubX`, `pubY`), from the next roster on.
    event PeerRotated(uint64 indexed number, address indexed peer, bytes32 pubX, uint256 pubY);
    /// @notice The bonded stake of an operator is now `stake`. Emitted with every change of it.
    event StakeChanged(uint64 indexed number, uint256 stake);
    /// @notice `amount` began to unbond; `unbonding` in all can be withdrawn from block `readyAt`.
    event UnbondingStarted(uint64 indexed number, uint256 amount, uint256 unbonding, uint64 readyAt);
    /// @notice The unbonding `amount` was bonded again.
    event UnbondingCancelled(uint64 indexed number, uint256 amount);
    /// @notice `amount` was paid back to the wallet.
    event Withdrawn(uint64 indexed number, uint256 amount);

    /// @notice A run was created, with its penalties in basis points, its window in blocks, and the coordinator's bond.
    event RunCreated(
        bytes32 indexed run,
        address indexed coordinator,
        address coordinatorKey,
        uint16 faultBps,
        uint16 equivocationBps,
        uint32 windowBlocks,
        uint256 bond
    );
    /// @notice The coordinator has its bond back.
    event RunBondReleased(bytes32 indexed run, uint256 bond);
    /// @notice The coordinator lost its bond.
    event RunBondSeized(bytes32 indexed run, uint256 bond);
    /// @notice `amount` was added to the run's pot, which has received `total` so far.
    event RunFunded(bytes32 indexed run, address indexed from, uint256 amount, uint256 total);
    /// @notice The run opened; its schedule starts from this block.
    event RunOpened(bytes32 indexed run);
    /// @notice From now on this number acts for the run's coordinator; 0: the coordinator acts again.
    event StoodIn(bytes32 indexed run, uint64 indexed number);
    /// @notice The run ended with these global parameters.
    event RunFinished(bytes32 indexed run, bytes32 parameters);
    /// @notice The Merkle root of the round's `count` commitments.
    event CommitmentsPosted(bytes32 indexed run, uint64 indexed round, bytes32 root, uint32 count);
    /// @notice A contributor forced the message id of its commitment into a round.
    event CommitmentForced(
        bytes32 indexed run, uint64 indexed round, uint64 indexed number, bytes32 commitment
    );
    /// @notice The hash of the round's record.
    event RecordAnchored(bytes32 indexed run, uint64 indexed round, bytes32 record);

    /// @notice A cumulative reward root was proposed; it can be disputed before block `finalAt`.
    event RewardsProposed(
        bytes32 indexed run, uint64 indexed epoch, bytes32 root, uint256 total, uint64 finalAt, address proposer
    );
    /// @notice The pending root was ruled wrong and is gone.
    event RewardsCancelled(bytes32 indexed run, uint64 indexed epoch, bytes32 root);
    /// @notice No jury decided a dispute: the pending root can be disputed on its ground again, before block `finalAt`.
    event RewardsReopened(bytes32 indexed run, uint64 indexed epoch, uint8 ground, uint64 finalAt);
    /// @notice The pending root became final.
    event RewardsFinalized(bytes32 indexed run, uint64 indexed epoch, bytes32 root, uint256 total);
    /// @notice `amount` was paid to `account`, `cumulative` in all.
    event Claimed(bytes32 indexed run, address indexed account, uint256 amount, uint256 cumulative);
    /// @notice `amount` of an operator's stake and unbonding funds, of which `unbonding` is left, went to the jury.
    event Slashed(
        uint64 indexed number, bytes32 indexed run, uint64 indexed round, uint256 amount, uint256 unbonding
    );

    /// @notice A juror holds so many slots with `bonded` in them; with less than their stake it is not drawn.
    event SlotsChanged(uint64 indexed number, uint32 slots, uint256 bonded);
    /// @notice A juror gave slots up, whose `amount` it can withdraw from block `readyAt`.
    event SlotsLeaving(uint64 indexed number, uint256 amount, uint64 readyAt);
    /// @notice A juror was paid back.
    event SlotsWithdrawn(uint64 indexed number, uint256 amount);

    /// @notice A case was opened with a bond; see `IJury.Case`.
    event CaseOpened(
        uint64 indexed case_,
        bytes32 indexed run,
        uint64 indexed round,
        uint64 number,
        uint64 segment,
        uint8 kind,
        address appellant,
        bytes32 evidence,
        uint256 bond
    );
    /// @notice A jury was called, whom the beacon's round draws.
    event JuryCalled(uint64 indexed case_, bool second, uint64 seedRound);
    /// @notice A juror got a seat.
    event Seated(uint64 indexed case_, uint64 indexed juror, bool second, uint8 seat);
    /// @notice A case is now called (1), voting (2), revealing (3), ruled (4) or closed (5).
    event StageEntered(uint64 indexed case_, uint8 stage);
    /// @notice A juror sealed its vote.
    event VoteSealed(uint64 indexed case_, uint64 indexed juror, bool second, uint8 seat);
    /// @notice A juror's vote was revealed.
    event VoteRevealed(
        uint64 indexed case_, uint64 indexed juror, bool second, uint8 seat, uint8 outcome, bytes32 result
    );
    /// @notice A jury ruled; outcome 0: it was hung. `vote` is the digest of outcome and result.
    event Ruled(uint64 indexed case_, bool second, uint8 outcome, bytes32 vote);
    /// @notice Somebody called a second jury.
    event AppealCalled(uint64 indexed case_, address caller);
    /// @notice One key signed two statements for one round; `number` is 0 for a coordinator's.
    event Equivocated(
        bytes32 indexed run,
        uint64 indexed round,
        address indexed signer,
        uint64 number,
        bool record,
        bytes32 bodyA,
        bytes32 bodyB
    );
    /// @notice A lost bond went to the run's pot.
    event BondForfeited(bytes32 indexed run, uint256 amount);
    /// @notice `amount` was credited to an account.
    event Credited(address indexed account, uint256 amount);
    /// @notice An account withdrew what it was credited with.
    event CreditWithdrawn(address indexed account, uint256 amount);
}
