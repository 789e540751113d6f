// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IBeacon} from "./interfaces/IBeacon.sol";
import {BlsLib} from "./libraries/BlsLib.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";

/// @title DrandBeacon
/// @notice Rounds of a drand network of the scheme `bls-unchained-g1-rfc9380`, whose signatures the chain checks
/// (EIP-2537). Nobody is trusted but a threshold of the network's members; a chain without the precompiles is refused.
contract DrandBeacon is IBeacon {
    /// @notice Unix second of round 1.
    uint64 public immutable GENESIS;
    /// @notice Seconds between rounds.
    uint64 public immutable PERIOD;
    /// @notice Seconds between a block and the round that decides about it: whoever makes the block must have shown it.
    uint64 public immutable MARGIN;

    /// @dev The network's public key, a point of G2: x.c0, x.c1, y.c0, y.c1, each 64 bytes.
    bytes private _publicKey;

    /// @param round a published round of the network.
    /// @param proof its signature: the deployment proves that this chain checks it.
    constructor(
        bytes memory publicKey,
        uint64 genesis,
        uint64 period,
        uint64 margin,
        uint64 round,
        bytes memory proof
    ) {
        require(period != 0 && margin != 0, ErrorsLib.ZeroParameter());
        require(publicKey.length == 256, ErrorsLib.BadSeedProof());
        _publicKey = publicKey;
        GENESIS = genesis;
        PERIOD = period;
        MARGIN = margin;
        require(BlsLib.verify(publicKey, _message(round), proof), ErrorsLib.BadSeedProof());
    }

    /// @inheritdoc IBeacon
    function roundOf() external view returns (uint64) {
        uint256 due = block.timestamp + MARGIN;
        if (due <= GENESIS) return 1;
        return uint64((due - GENESIS + PERIOD - 1) / PERIOD + 1);
    }

    /// @inheritdoc IBeacon
    /// @dev `proof` is the signature as a point of G1: x and y, each 64 bytes. The randomness is the SHA-256 of its
    /// compressed form, as drand publishes it.
    function seed(uint64 round, bytes calldata proof) external view returns (bytes32) {
        require(BlsLib.verify(_publicKey, _message(round), proof), ErrorsLib.BadSeedProof());
        return sha256(BlsLib.compress(proof));
    }

    function _message(uint64 round) private pure returns (bytes32) {
        return sha256(abi.encodePacked(round));
    }
}
