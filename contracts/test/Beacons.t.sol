// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BlockBeacon} from "../src/BlockBeacon.sol";
import {DrandBeacon} from "../src/DrandBeacon.sol";
import {BlsLib} from "../src/libraries/BlsLib.sol";
import {Base, ErrorsLib} from "./Base.sol";
import {Quicknet} from "./Quicknet.sol";

contract BlockBeaconTest is Base {
    function test_lives_on_the_local_chain_only() public {
        vm.chainId(1);
        refuses(ErrorsLib.WrongChain.selector, 1);
        new BlockBeacon();
    }

    function test_its_seed_is_the_hash_of_a_later_block() public {
        uint64 round = beacon.roundOf();
        require(round > block.number);
        vm.roll(round);
        refuses(ErrorsLib.SeedNotYet.selector, round);
        beacon.seed(round, "");
        vm.roll(round + 256);
        bytes32 seed = beacon.seed(round, "whatever");
        require(seed != 0 && seed == blockhash(round));
        vm.roll(round + 257);
        refuses(ErrorsLib.SeedLost.selector, round);
        beacon.seed(round, "");
    }
}

contract DrandBeaconTest is Base {
    uint64 private constant MARGIN = 12;
    /// @dev The field's prime.
    bytes private constant PRIME =
        hex"1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab";

    DrandBeacon private drand;

    function setUp() public override {
        (uint64 round, bytes memory signature,) = Quicknet.vector(0);
        drand = new DrandBeacon(
            Quicknet.PUBLIC_KEY, Quicknet.GENESIS, Quicknet.PERIOD, MARGIN, round, signature
        );
    }

    function refused(uint64 round, bytes memory proof) private {
        refuses(ErrorsLib.BadSeedProof.selector);
        drand.seed(round, proof);
    }

    /// @dev The point with its y negated: p - y.
    function negated(bytes memory signature) private pure returns (bytes memory point) {
        point = bytes.concat(signature);
        uint256 borrow;
        for (uint256 i; i < 48; ++i) {
            uint256 taken = uint256(uint8(signature[127 - i])) + borrow;
            uint256 from = uint8(PRIME[47 - i]);
            borrow = from < taken ? 1 : 0;
            point[127 - i] = bytes1(uint8((from + 256 * borrow) - taken));
        }
    }

    function test_published_rounds_verify_and_give_the_published_randomness() public view {
        for (uint256 i; i < Quicknet.COUNT; ++i) {
            (uint64 round, bytes memory signature, bytes32 randomness) = Quicknet.vector(i);
            require(drand.seed(round, signature) == randomness);
        }
    }

    /// @dev Neither compressed sign bit is always the same, or the test above would not see it.
    function test_both_signs_are_among_the_vectors() public pure {
        uint256 larger;
        for (uint256 i; i < Quicknet.COUNT; ++i) {
            (, bytes memory signature,) = Quicknet.vector(i);
            bytes memory compressed = BlsLib.compress(signature);
            same(compressed.length, 48);
            if (uint8(compressed[0]) & 0x20 != 0) ++larger;
            require(uint8(BlsLib.compress(negated(signature))[0]) ^ uint8(compressed[0]) == 0x20);
        }
        require(larger != 0 && larger != Quicknet.COUNT);
    }

    function testFuzz_a_signature_proves_no_other_round(uint64 other, uint8 which) public {
        (uint64 round, bytes memory signature,) = Quicknet.vector(which % Quicknet.COUNT);
        vm.assume(other != round);
        refused(other, signature);
    }

    function testFuzz_a_changed_signature_proves_nothing(uint8 which, uint8 index, uint8 change) public {
        (uint64 round, bytes memory signature,) = Quicknet.vector(which % Quicknet.COUNT);
        vm.assume(change != 0);
        index = index % 128;
        signature[index] = bytes1(uint8(signature[index]) ^ change);
        refused(round, signature);
    }

    function test_refuses_what_is_no_signature() public {
        (uint64 round, bytes memory signature,) = Quicknet.vector(0);
        refused(round, negated(signature));
        refused(round, new bytes(128)); // the identity
        refused(round, "");
        refused(round, bytes.concat(signature, hex"00"));
        bytes memory short = bytes.concat(signature);
        assembly ("memory-safe") {
            mstore(short, 127)
        }
        refused(round, short);
        // On the field but not on the curve, and on the curve but in no group of the right order: (0, 2).
        bytes memory off = new bytes(128);
        (off[63], off[127]) = (0x01, 0x01);
        refused(round, off);
        bytes memory small = new bytes(128);
        small[127] = 0x02;
        refused(round, small);
        // The same x, written as x + p.
        bytes memory high = bytes.concat(signature);
        uint256 carry;
        for (uint256 i; i < 48; ++i) {
            uint256 sum = uint256(uint8(signature[63 - i])) + uint8(PRIME[47 - i]) + carry;
            high[63 - i] = bytes1(uint8(sum));
            carry = sum >> 8;
        }
        same(carry, 0);
        refused(round, high);
    }

    function test_another_network_proves_nothing() public {
        (uint64 round, bytes memory signature,) = Quicknet.vector(0);
        bytes memory other = bytes.concat(Quicknet.PUBLIC_KEY);
        (other[0], other[63]) = (other[63], other[0]);
        refuses(ErrorsLib.BadSeedProof.selector);
        new DrandBeacon(other, 1, 3, MARGIN, round, signature);
        refuses(ErrorsLib.BadSeedProof.selector);
        new DrandBeacon(new bytes(256), 1, 3, MARGIN, round, signature);
        refuses(ErrorsLib.BadSeedProof.selector);
        new DrandBeacon(new bytes(256), 1, 3, MARGIN, round, new bytes(128));
        refuses(ErrorsLib.BadSeedProof.selector);
        new DrandBeacon(new bytes(255), 1, 3, MARGIN, round, signature);
        refuses(ErrorsLib.BadSeedProof.selector);
        new DrandBeacon(Quicknet.PUBLIC_KEY, 1, 3, MARGIN, round + 1, signature);
        refuses(ErrorsLib.ZeroParameter.selector);
        new DrandBeacon(Quicknet.PUBLIC_KEY, 1, 0, MARGIN, round, signature);
        refuses(ErrorsLib.ZeroParameter.selector);
        new DrandBeacon(Quicknet.PUBLIC_KEY, 1, 3, 0, round, signature);
    }

    function test_before_its_first_round_the_first_decides() public {
        vm.warp(1000);
        same(drand.roundOf(), 1);
        vm.warp(Quicknet.GENESIS - MARGIN);
        same(drand.roundOf(), 1);
        vm.warp(Quicknet.GENESIS - MARGIN + 1);
        same(drand.roundOf(), 2);
    }

    /// @dev A round comes at genesis + (round - 1) * period: never before the margin is over, and at most a period later.
    function testFuzz_the_round_that_decides_comes_after_the_margin(uint32 later) public {
        uint256 time = uint256(Quicknet.GENESIS) + later;
        vm.warp(time);
        uint256 comes = Quicknet.GENESIS + (uint256(drand.roundOf()) - 1) * Quicknet.PERIOD;
        require(comes >= time + MARGIN && comes < time + MARGIN + Quicknet.PERIOD);
    }
}
