// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ILedger} from "../src/interfaces/ILedger.sol";
import {ErrorsLib} from "../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../src/libraries/EventsLib.sol";
import {Ledger} from "../src/Ledger.sol";
import {Token} from "../src/Token.sol";

/// @notice The cheat codes that these tests use.
interface Vm {
    struct Wallet {
        address addr;
        uint256 publicKeyX;
        uint256 publicKeyY;
        uint256 privateKey;
    }

    function createWallet(uint256 privateKey) external returns (Wallet memory);
    function sign(uint256 privateKey, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function prank(address sender) external;
    function startPrank(address sender) external;
    function stopPrank() external;
    function roll(uint256 blockNumber) external;
    function chainId(uint256 id) external;
    function expectRevert(bytes calldata data) external;
    function expectEmit(address emitter) external;
    function assume(bool condition) external pure;
}

/// @notice A ledger, people with tokens, and shorthands.
abstract contract World {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 internal constant SUPPLY = 1e27;
    uint128 internal constant MIN_STAKE = 100e18;
    uint64 internal constant UNBONDING = 20;
    uint64 internal constant WINDOW = 4;
    uint128 internal constant BOND = 10e18;
    uint64 internal constant APPEAL_BLOCKS = 30;
    bytes32 internal constant RUN = keccak256("run");

    address internal coordinator = address(0xC0);
    address internal alice = address(0xA1);
    address internal bob = address(0xB0);
    address internal vera = address(0xE1);
    address internal vito = address(0xE2);

    Token internal token;
    Ledger internal ledger;

    function build() internal {
        token = new Token(address(this), SUPPLY);
        ledger = new Ledger(address(token), MIN_STAKE, UNBONDING, WINDOW, BOND, APPEAL_BLOCKS);
        address[5] memory people = [coordinator, alice, bob, vera, vito];
        for (uint256 i; i < people.length; ++i) {
            require(token.transfer(people[i], 1_000_000e18));
            vm.prank(people[i]);
            token.approve(address(ledger), type(uint256).max);
        }
        vm.roll(100);
    }

    /// @dev The peer key of a wallet in these tests.
    function peerKey(address wallet) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("peer", wallet))) >> 1;
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function register(address wallet, uint8 role, uint256 amount) internal returns (uint64) {
        Vm.Wallet memory peer = vm.createWallet(peerKey(wallet));
        bytes32 x = bytes32(peer.publicKeyX);
        bytes memory link = signed(peer.privateKey, ledger.peerLinkDigest(wallet, x, peer.publicKeyY));
        vm.prank(wallet);
        return ledger.register(role, x, peer.publicKeyY, link, amount);
    }

    function openRun(uint256 funding) internal {
        vm.startPrank(coordinator);
        ledger.createRun(RUN, address(0xC1), funding);
        ledger.openRun(RUN);
        vm.stopPrank();
    }

    function anchorRounds(uint64 count) internal {
        vm.startPrank(coordinator);
        for (uint64 round; round < count; ++round) {
            ledger.postCommitments(RUN, round, bytes32(uint256(1)), 1);
            ledger.anchorRecord(RUN, round, bytes32(uint256(2)));
        }
        vm.stopPrank();
    }

    /// @dev "Proven false" of what the beacon drew.
    function verdict(address verifier, uint64 round, uint64 accused, bytes32 evidence)
        internal
        view
        returns (ILedger.Verdict memory)
    {
        return verdict(verifier, round, accused, 0, 3, evidence);
    }

    function verdict(
        address verifier,
        uint64 round,
        uint64 accused,
        uint64 case_,
        uint8 outcome,
        bytes32 evidence
    ) internal view returns (ILedger.Verdict memory) {
        uint64 number = ledger.numberOf(verifier);
        bytes32 digest = ledger.verdictDigest(RUN, round, accused, case_, number, outcome, evidence);
        return ILedger.Verdict(number, evidence, signed(peerKey(verifier), digest));
    }

    function leaf(address account, uint256 cumulative) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
    }

    function pair(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
    }

    function proofOf(bytes32 sibling) internal pure returns (bytes32[] memory proof) {
        proof = new bytes32[](1);
        proof[0] = sibling;
    }

    function refuses(bytes4 selector) internal {
        vm.expectRevert(abi.encodeWithSelector(selector));
    }

    function refuses(bytes4 selector, uint256 a) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, a));
    }

    function refuses(bytes4 selector, uint256 a, uint256 b) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, a, b));
    }

    function same(uint256 a, uint256 b) internal pure {
        require(a == b, "values differ");
    }

    function balance() internal view returns (uint256) {
        return token.balanceOf(address(ledger));
    }
}

/// @notice A test of its own world.
abstract contract Base is World {
    function setUp() public virtual {
        build();
    }
}
