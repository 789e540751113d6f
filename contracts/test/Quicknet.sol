// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What drand's quicknet published, as points for EIP-2537. Made by `python -m tests.golden.quicknet`.
library Quicknet {
    uint64 internal constant GENESIS = 1692803367;
    uint64 internal constant PERIOD = 3;
    uint256 internal constant COUNT = 5;

    /// @dev x.c0, x.c1, y.c0, y.c1.
    bytes internal constant PUBLIC_KEY =
        hex"000000000000000000000000000000000d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
        hex"0000000000000000000000000000000003cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d106451"
        hex"000000000000000000000000000000000e5db2b6bfbb01c867749cadffca88b36c24f3012ba09fc4d3022c5c37dce0f977d3adb5d183c7477c442b1f04515273"
        hex"0000000000000000000000000000000001a714f2edb74119a2f2b0d5a7c75ba902d163700a61bc224ededd8e63aef7be1aaf8e93d7a9718b047ccddb3eb5d68b";

    /// @dev A round, its signature as x and y, and the randomness that drand publishes for it.
    function vector(uint256 index)
        internal
        pure
        returns (uint64 round, bytes memory signature, bytes32 randomness)
    {
        if (index == 0) {
            return (
                1000,
                hex"00000000000000000000000000000000144679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
                hex"0000000000000000000000000000000011f92e4521ef54f047b64b85fa98db2d46f0f44add1f60b93f8a0dbddd63b34f238657c2d93aed18b90bddd60a01b6d2",
                0xfe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd
            );
        }
        if (index == 1) {
            return (
                1001,
                hex"00000000000000000000000000000000133bf3667cbd5a82de3a24b4e0e9fe5513cc1a0e840368c6e31f5fcfa79bea03f73896b25883abf2853d10337fb8fa41"
                hex"0000000000000000000000000000000015725954c8f0c9afc82902f9f39d202a4fbe48d7cd5ed3ab26c458f6773b385639e980a4fe3073672572fa77fbdbded0",
                0xb0a591ad1b9002cfc372ac6e30abd3da8d3088d4caae026961743474fb94235f
            );
        }
        if (index == 2) {
            return (
                12040883,
                hex"00000000000000000000000000000000129906c959032ab363c9f26570d215d66f5c06cb0c44fe508c12bb5839f04ec895bb6868e5b9ff13ab289bdb5266b394"
                hex"00000000000000000000000000000000029bf4aba4f8dcba7d972bf698fda8e3c8b118089d32de8d5bd0af56bfc6a441649e4b8d8a549388808d777ee1956fc6",
                0x173df1f57805453a8d2015268205d68147de12cafc2f451f7bc6adadca3571b3
            );
        }
        if (index == 3) {
            return (
                32281667,
                hex"0000000000000000000000000000000010f5ae301358ff87a9d3dd539ed4a07c0148b1ab4f7b61a8ca43c7e9ca7ca9553e4faae9188deb30b2cd1a7f447e3e5b"
                hex"00000000000000000000000000000000199ca88c15bb85bfb6e4735b10741f533f1e5082a88d9c2e6cc6c85f41cf6a7b4670cbd1e44fa9a0d671126db22ca9f9",
                0x4fd2fc55983dbfa3f446d8a0bd56f16cc8c5e76afd1ec154b60d477cbabed13b
            );
        }
        if (index == 4) {
            return (
                32285085,
                hex"0000000000000000000000000000000001dbce51d584d90d618547f4b50391d53ace6f6b9aeb8fb67e1879427af9d0310ac0ec6f519271d9a313ee84b378d416"
                hex"00000000000000000000000000000000057c084662157cdba65cd5d756701732d20942e7bb1269db3f67a2a4bb3e371a1d425093bf06667e89ad83cbbd0e4500",
                0xd42020c3c65a4ec6adda3a69fdd41a698f31b661859e0e00f1276580a41d67ce
            );
        }
        revert();
    }
}
