// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IBeacon
/// @notice Randomness that nobody can predict when a case is opened, and that has one value afterwards.
interface IBeacon {
    /// @notice The round of the beacon that decides about what happens in this block.
    function roundOf() external view returns (uint64 round);

    /// @notice The randomness of a round. Reverts before it exists, and where `proof` does not prove it.
    /// @param proof what this beacon needs to check it, see the contract.
    function seed(uint64 round, bytes calldata proof) external view returns (bytes32);
}
