// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IBeacon} from "./interfaces/IBeacon.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";

/// @title BlockBeacon
/// @notice The hash of a later block: whoever makes blocks chooses it, so it lives on the local chain (31337) only.
contract BlockBeacon is IBeacon {
    uint64 private constant MARGIN = 2;

    constructor() {
        require(block.chainid == 31337, ErrorsLib.WrongChain(block.chainid));
    }

    /// @inheritdoc IBeacon
    function roundOf() external view returns (uint64) {
        return uint64(block.number) + MARGIN;
    }

    /// @inheritdoc IBeacon
    /// @dev The chain remembers the hashes of 256 blocks. `proof` is not read.
    function seed(uint64 round, bytes calldata) external view returns (bytes32 found) {
        require(block.number > round, ErrorsLib.SeedNotYet(round));
        found = blockhash(round);
        require(found != 0, ErrorsLib.SeedLost(round));
    }
}
