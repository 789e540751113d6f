// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title BlsLib
/// @notice BLS signatures in G1 under keys in G2 of BLS12-381, by the precompiles of EIP-2537.
/// @dev Points are encoded as the EIP says: field elements are 64 bytes, big-endian, of which the first 16 are zero.
library BlsLib {
    address private constant MODEXP = address(0x05);
    address private constant G1_ADD = address(0x0b);
    address private constant PAIRING_CHECK = address(0x0f);
    address private constant MAP_FP_TO_G1 = address(0x10);

    /// @dev RFC 9380, with its length as one byte: what drand signs under.
    bytes private constant DOMAIN = "BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_\x2b";

    /// @dev The field's prime.
    bytes private constant PRIME =
        hex"1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab";

    /// @dev (p - 1) / 2, the largest y that a compressed point marks as the smaller one; 16 and 32 bytes.
    uint256 private constant HALF_HIGH = 0x0d0088f51cbff34d258dd3db21a5d66b;
    uint256 private constant HALF_LOW = 0xb23ba5c279c2895fb39869507b587b120f55ffff58a9ffffdcff7fffffffd555;

    /// @dev The generator of G2 with its y negated.
    bytes private constant NEGATED_G2 =
        hex"00000000000000000000000000000000024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8"
        hex"0000000000000000000000000000000013e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e"
        hex"000000000000000000000000000000000d1b3cc2c7027888be51d9ef691d77bcb679afda66c73f17f9ee3837a55024f78c71363275a75d75d86bab79f74782aa"
        hex"0000000000000000000000000000000013fa4d4a0ad8b1ce186ed5061789213d993923066dddaf1040bc3ff59f825c78df74f2d75467e25e0f55f8a00fa030ed";

    /// @notice Tells whether `signature` (128 bytes) is `publicKey`'s (256 bytes) of `message`; false for what is no
    /// point of the right group, and where the chain has no such precompile.
    function verify(bytes memory publicKey, bytes32 message, bytes memory signature) internal view returns (bool) {
        if (signature.length != 128 || publicKey.length != 256) return false;
        // The identity is a signature of everything under the identity as a key.
        if (keccak256(signature) == keccak256(new bytes(128))) return false;
        bytes memory input = bytes.concat(signature, NEGATED_G2, hashToG1(message), publicKey);
        (bool done, bytes memory output) = PAIRING_CHECK.staticcall(input);
        return done && output.length == 32 && abi.decode(output, (uint256)) == 1;
    }

    /// @notice Hashes a message to G1 (RFC 9380, BLS12381G1_XMD:SHA-256_SSWU_RO_) under drand's domain.
    function hashToG1(bytes32 message) internal view returns (bytes memory) {
        // expand_message_xmd to 128 bytes: four blocks of SHA-256 after the first.
        bytes32 b0 = sha256(bytes.concat(new bytes(64), message, hex"008000", DOMAIN));
        bytes32 b1 = sha256(bytes.concat(b0, hex"01", DOMAIN));
        bytes32 b2 = sha256(bytes.concat(b0 ^ b1, hex"02", DOMAIN));
        bytes32 b3 = sha256(bytes.concat(b0 ^ b2, hex"03", DOMAIN));
        bytes32 b4 = sha256(bytes.concat(b0 ^ b3, hex"04", DOMAIN));
        bytes memory sum = bytes.concat(_map(b1, b2), _map(b3, b4));
        return _call(G1_ADD, sum);
    }

    /// @notice Returns the compressed form (48 bytes) of a point of G1.
    function compress(bytes memory point) internal pure returns (bytes memory) {
        uint256 xHigh;
        uint256 xLow;
        uint256 yHigh;
        uint256 yLow;
        assembly ("memory-safe") {
            xHigh := mload(add(point, 0x20))
            xLow := mload(add(point, 0x40))
            yHigh := mload(add(point, 0x60))
            yLow := mload(add(point, 0x80))
        }
        bool larger = yHigh > HALF_HIGH || (yHigh == HALF_HIGH && yLow > HALF_LOW);
        return abi.encodePacked(uint128(xHigh | (larger ? uint256(0xa0) << 120 : uint256(0x80) << 120)), xLow);
    }

    /// @dev Reduces 64 bytes to the field and maps them to G1.
    function _map(bytes32 high, bytes32 low) private view returns (bytes memory) {
        bytes memory input = abi.encodePacked(uint256(64), uint256(1), uint256(48), high, low, uint8(1), PRIME);
        return _call(MAP_FP_TO_G1, bytes.concat(new bytes(16), _call(MODEXP, input)));
    }

    /// @dev An empty answer where there is no such precompile: what follows then fails to verify.
    function _call(address precompile, bytes memory input) private view returns (bytes memory) {
        (bool done, bytes memory output) = precompile.staticcall(input);
        return done ? output : bytes("");
    }
}
