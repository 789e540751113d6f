// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ErrorsLib
/// @notice Every reason for which the ledger refuses a call.
library ErrorsLib {
    /// @notice This ledger slashes without a jury and lives on the local chain (31337) only.
    error WrongChain(uint256 chainId);
    /// @notice A constructor parameter is zero.
    error ZeroParameter();
    /// @notice An amount, identifier, key or root is zero.
    error ZeroValue();

    /// @notice The role is neither contributor nor verifier.
    error UnknownRole(uint8 role);
    /// @notice The wallet has registered before.
    error WalletTaken(address wallet);
    /// @notice The peer key has been registered before.
    error PeerTaken(address peer);
    /// @notice The `PeerLink` was not signed by the peer key.
    error BadPeerLink();
    /// @notice The stake is below the minimum.
    error StakeTooLow(uint256 stake, uint256 minStake);
    /// @notice The sender, or the named number, is not registered.
    error NotRegistered();
    /// @notice More than the bonded stake was asked for.
    error InsufficientStake(uint256 stake, uint256 asked);
    /// @notice Nothing is unbonding.
    error NothingUnbonding();
    /// @notice The unbonding period has not passed.
    error StillUnbonding(uint256 readyAt);

    /// @notice The run exists already.
    error RunExists(bytes32 run);
    /// @notice The run does not exist.
    error UnknownRun(bytes32 run);
    /// @notice The sender is not the run's coordinator.
    error NotCoordinator();
    /// @notice The run is not in a status that allows this.
    error WrongRunStatus(uint8 status);
    /// @notice The round is not the next one; commitments and records alternate, round by round.
    error WrongRound(uint64 expected, uint64 given);
    /// @notice The root is zero with commitments, or not zero without any.
    error RootCountMismatch();

    /// @notice The epoch is not the one after the last final one.
    error WrongEpoch(uint64 expected, uint64 given);
    /// @notice A proposal is pending already.
    error RewardsPending();
    /// @notice No proposal is pending.
    error NoPendingRewards();
    /// @notice The total is below the last final one.
    error TotalFell(uint256 finalTotal, uint256 total);
    /// @notice The total is above what the run was funded with.
    error TotalExceedsFunding(uint256 funded, uint256 total);
    /// @notice The dispute window is over.
    error WindowClosed(uint256 finalAt);
    /// @notice The dispute window is still open.
    error WindowOpen(uint256 finalAt);
    /// @notice The proof does not lead to the run's final root.
    error BadProof();
    /// @notice The account has been paid its cumulative amount.
    error NothingToClaim();
    /// @notice The claims would add up to more than the final total.
    error ClaimsExceedTotal(uint256 total, uint256 claims);

    /// @notice The round's record has not been anchored.
    error RoundNotAnchored(uint64 round);
    /// @notice This segment has been appealed in this way before, under that number.
    error AlreadyAppealed(uint64 case_);
    /// @notice There is no appeal of this number.
    error UnknownAppeal(uint64 case_);
    /// @notice The appeal has been settled or released.
    error AppealOver(uint64 case_);
    /// @notice The appeal can still be settled, and not be released before that block.
    error AppealOpen(uint256 releasableAt);
    /// @notice The outcome settles nothing: it is not passed, rejected or proven false.
    error UnknownOutcome(uint8 outcome);
    /// @notice Both verdicts come from one verifier.
    error SameVerifier(uint64 verifier);
    /// @notice The number is not that of a verifier with the minimum stake.
    error NotAStakedVerifier(uint64 number);
    /// @notice The number whose unit is in question is not that of a contributor.
    error NotAContributor(uint64 number);
    /// @notice The verdict was not signed by the verifier's peer key.
    error BadVerdict(uint64 verifier);
    /// @notice The contributor has been slashed for this round of this run.
    error AlreadySlashed();
    /// @notice The contributor has neither stake nor unbonding funds.
    error NothingToSlash(uint64 number);
}
