// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ErrorsLib
/// @notice Every reason for which the ledger and the jury refuse a call.
library ErrorsLib {
    /// @notice This contract lives on the local chain (31337) only.
    error WrongChain(uint256 chainId);
    /// @notice A constructor parameter is zero.
    error ZeroParameter();
    /// @notice An amount, identifier, key or root is zero.
    error ZeroValue();
    /// @notice The token gave another amount than it was asked for.
    error WrongAmount(uint256 asked, uint256 given);

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
    /// @notice The number is not that of a contributor.
    error NotAContributor(uint64 number);
    /// @notice More than the bonded stake was asked for.
    error InsufficientStake(uint256 stake, uint256 asked);
    /// @notice Nothing is unbonding.
    error NothingUnbonding();
    /// @notice The waiting time has not passed.
    error StillUnbonding(uint256 readyAt);
    /// @notice So many cases are open about it.
    error CasesOpen(uint256 cases);
    /// @notice The sender is not the jury, or the jury not the ledger's.
    error NotJury();

    /// @notice The run exists already.
    error RunExists(bytes32 run);
    /// @notice The run does not exist.
    error UnknownRun(bytes32 run);
    /// @notice The ladder's penalties are outside the ledger's bounds.
    error LadderOutOfBounds();
    /// @notice Stake could leave before a case about its work is over.
    error UnbondingTooShort(uint256 blocks, uint256 needed);
    /// @notice The sender is not the run's coordinator, and its time is not over.
    error NotCoordinator();
    /// @notice The run is not in a status that allows this.
    error WrongRunStatus(uint8 status);
    /// @notice The round is not the next one; commitments and records alternate, round by round.
    error WrongRound(uint64 expected, uint64 given);
    /// @notice The root is zero with commitments, or not zero without any.
    error RootCountMismatch();

    /// @notice The round has no commitment root, or its record is anchored.
    error RoundNotPosted(uint64 round);
    /// @notice This contributor has forced a commitment into the round.
    error AlreadyForced();

    /// @notice The epoch is not the one after the last final one.
    error WrongEpoch(uint64 expected, uint64 given);
    /// @notice The proposal does not build on the last final root.
    error WrongPreviousRoot(bytes32 finalRoot, bytes32 given);
    /// @notice A proposal is pending already.
    error RewardsPending();
    /// @notice No proposal is pending.
    error NoPendingRewards();
    /// @notice The total is below the last final one.
    error TotalFell(uint256 finalTotal, uint256 total);
    /// @notice The total is above what the run was funded with.
    error TotalExceedsFunding(uint256 funded, uint256 total);
    /// @notice The window closed with that block.
    error WindowClosed(uint256 lastBlock);
    /// @notice It is too early: possible from that block on.
    error WindowOpen(uint256 firstBlock);
    /// @notice The proof does not lead to the run's final root.
    error BadProof();
    /// @notice The account has been paid its cumulative amount.
    error NothingToClaim();
    /// @notice The claims would add up to more than the final total.
    error ClaimsExceedTotal(uint256 total, uint256 claims);

    /// @notice The round's record has not been anchored.
    error RoundNotAnchored(uint64 round);
    /// @notice The ground is unknown.
    error UnknownGround(uint8 ground);
    /// @notice The pending root has been disputed on this ground.
    error GroundUsed(uint8 ground);
    /// @notice There is a case about this already.
    error CaseExists(uint64 case_);
    /// @notice The case does not exist, or is at another stage.
    error WrongStage(uint8 stage);
    /// @notice The outcome is none that this case can have.
    error UnknownOutcome(uint8 outcome);
    /// @notice The seat is another juror's.
    error NotYourSeat(uint8 seat);
    /// @notice The seat's vote has been sealed, or revealed, before.
    error AlreadyVoted(uint8 seat);
    /// @notice The vote is not what was sealed.
    error WrongReveal(uint8 seat);

    /// @notice A first jury has an odd number of seats, at most seven.
    error BadSeats(uint8 seats);
    /// @notice A case's bond does not cover the fees of both juries.
    error BondTooLow();
    /// @notice The penalty for silence is above what a slot holds.
    error PenaltyTooHigh();
    /// @notice There are too few slots, or none whose holder may judge.
    error NoJurors();
    /// @notice A jury is about to be drawn; wait until it is.
    error DrawPending();
    /// @notice The juror has so many seats.
    error Serving(uint32 seats);
    /// @notice The slot is another juror's, or the indices do not fall.
    error NotYourSlot(uint256 index);
    /// @notice The number is not that of a verifier with the minimum stake.
    error NotAStakedVerifier(uint64 number);

    /// @notice The statements are the same.
    error SameStatement();
    /// @notice The statements were signed by two keys.
    error TwoSigners();
    /// @notice A signature is not one.
    error BadSignature();
    /// @notice This was punished before, or there is nothing left to take.
    error AlreadyPunished();

    /// @notice The beacon's round has not come.
    error SeedNotYet(uint64 round);
    /// @notice The chain no longer knows the beacon's round.
    error SeedLost(uint64 round);
    /// @notice The proof does not prove the beacon's round, or this chain cannot check it.
    error BadSeedProof();
}
