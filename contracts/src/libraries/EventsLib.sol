// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title EventsLib
/// @notice One event for every change of the ledger's state: the state at any block is a function of them alone.
library EventsLib {
    /// @notice An operator registered; `peer` is the address of the public key (`pubX`, `pubY`).
    event Registered(
        uint64 indexed number, address indexed wallet, address indexed peer, uint8 role, bytes32 pubX, uint256 pubY
    );
    /// @notice The bonded stake of an operator is now `stake`. Emitted with every change of it.
    event StakeChanged(uint64 indexed number, uint256 stake);
    /// @notice `amount` began to unbond; `unbonding` in all can be withdrawn from block `readyAt`.
    event UnbondingStarted(uint64 indexed number, uint256 amount, uint256 unbonding, uint64 readyAt);
    /// @notice The unbonding `amount` was bonded again.
    event UnbondingCancelled(uint64 indexed number, uint256 amount);
    /// @notice `amount` was paid back to the wallet.
    event Withdrawn(uint64 indexed number, uint256 amount);

    /// @notice A run was created.
    event RunCreated(bytes32 indexed run, address indexed coordinator, address coordinatorKey);
    /// @notice `amount` was added to the run's pot, which has received `total` so far.
    event RunFunded(bytes32 indexed run, address indexed from, uint256 amount, uint256 total);
    /// @notice The run opened; its schedule starts from this block.
    event RunOpened(bytes32 indexed run);
    /// @notice The run ended with these global parameters.
    event RunFinished(bytes32 indexed run, bytes32 parameters);
    /// @notice The Merkle root of the round's `count` commitments.
    event CommitmentsPosted(bytes32 indexed run, uint64 indexed round, bytes32 root, uint32 count);
    /// @notice The hash of the round's record.
    event RecordAnchored(bytes32 indexed run, uint64 indexed round, bytes32 record);

    /// @notice A cumulative reward root was proposed; it can be disputed before block `finalAt`.
    event RewardsProposed(bytes32 indexed run, uint64 indexed epoch, bytes32 root, uint256 total, uint64 finalAt);
    /// @notice Operator `by` disputed the pending root, which is thereby cancelled.
    event RewardsDisputed(bytes32 indexed run, uint64 indexed epoch, uint64 indexed by, bytes32 reason);
    /// @notice The pending root became final.
    event RewardsFinalized(bytes32 indexed run, uint64 indexed epoch, bytes32 root, uint256 total);
    /// @notice `amount` was paid to `account`, `cumulative` in all.
    event Claimed(bytes32 indexed run, address indexed account, uint256 amount, uint256 cumulative);
    /// @notice Operator `appellant` put up `bond` that a segment of a unit of `number` be judged.
    event Appealed(
        uint64 indexed case_,
        bytes32 indexed run,
        uint64 indexed round,
        uint64 number,
        uint64 segment,
        uint64 appellant,
        uint256 bond
    );
    /// @notice Two verdicts ended the appeal, which they upheld or not.
    event AppealSettled(uint64 indexed case_, uint8 outcome, bool upheld, bytes32 evidenceA, bytes32 evidenceB);
    /// @notice Nobody settled the appeal in time, and its bond went back.
    event AppealReleased(uint64 indexed case_);
    /// @notice Stake and unbonding funds of an operator, `amount` in all, were burned.
    event Slashed(
        uint64 indexed number,
        bytes32 indexed run,
        uint64 indexed round,
        uint256 amount,
        bytes32 evidenceA,
        bytes32 evidenceB
    );
}
