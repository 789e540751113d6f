// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BlockBeacon} from "../src/BlockBeacon.sol";
import {Jury} from "../src/Jury.sol";
import {Ledger} from "../src/Ledger.sol";
import {Token} from "../src/Token.sol";
import {IJury} from "../src/interfaces/IJury.sol";
import {ILedger} from "../src/interfaces/ILedger.sol";
import {ErrorsLib} from "../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../src/libraries/EventsLib.sol";

/// @notice The cheat codes that these tests use.
interface Vm {
    struct Wallet {
        address addr;
        uint256 publicKeyX;
        uint256 publicKeyY;
        uint256 privateKey;
    }

    struct Gas {
        uint64 gasLimit;
        uint64 gasTotalUsed;
        uint64 gasMemoryUsed;
        int64 gasRefunded;
        uint64 gasRemaining;
    }

    function createWallet(uint256 privateKey) external returns (Wallet memory);
    function sign(uint256 privateKey, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function prank(address sender) external;
    function startPrank(address sender) external;
    function stopPrank() external;
    function roll(uint256 blockNumber) external;
    function warp(uint256 timestamp) external;
    function chainId(uint256 id) external;
    function getNonce(address account) external view returns (uint64);
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
    function expectRevert() external;
    function expectRevert(bytes4 selector) external;
    function expectRevert(bytes calldata data) external;
    function expectEmit(address emitter) external;
    function assume(bool condition) external pure;
    function lastCallGas() external view returns (Gas memory);
    function snapshotValue(string calldata group, string calldata name, uint256 value) external;
}

/// @notice A ledger with its jury, people with tokens, and shorthands.
abstract contract World {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 internal constant SUPPLY = 1e27;
    uint128 internal constant MIN_STAKE = 100e18;
    uint128 internal constant RUN_BOND = 500e18;
    uint128 internal constant PROPOSAL_BOND = 50e18;
    uint64 internal constant UNBONDING = 120;
    uint64 internal constant DISPUTE = 12;
    uint64 internal constant FORCE = 3;
    uint64 internal constant TIMEOUT = 15;

    uint128 internal constant SLOT_STAKE = 40e18;
    uint128 internal constant SILENT = 4e18;
    uint128 internal constant FEE = 1e18;
    uint128 internal constant CASE_BOND = 13e18;
    uint8 internal constant SEATS = 3;
    uint32 internal constant DRAW = 6;
    uint32 internal constant VOTE = 8;
    uint32 internal constant REVEAL = 5;
    uint32 internal constant APPEAL = 7;
    uint32 internal constant SLOT_UNBONDING = 25;

    uint16 internal constant FAULT_BPS = 8000;
    uint16 internal constant EQUIVOCATION_BPS = 1000;
    uint32 internal constant WINDOW = 10;

    uint256 internal constant START = 100;
    bytes32 internal constant RUN = keccak256("run");
    bytes32 internal constant ROOT = bytes32(uint256(1));
    bytes32 internal constant RECORD = bytes32(uint256(2));
    bytes32 internal constant EVIDENCE = keccak256("evidence");
    bytes32 internal constant RESULT = keccak256("result");
    uint256 internal constant COORDINATOR_KEY = 0xC1;

    uint8 internal constant RIGHT = 1;
    uint8 internal constant VOID = 2;
    uint8 internal constant FALSE = 3;
    uint8 internal constant FORGED = 4;
    uint8 internal constant UNAVAILABLE = 5;

    address internal coordinator = address(0xC0);
    address internal alice = address(0xA1);
    address internal bob = address(0xB0);
    address internal carol = address(0xCA);
    address[5] internal verifiers =
        [address(0xE1), address(0xE2), address(0xE3), address(0xE4), address(0xE5)];

    Token internal token;
    Ledger internal ledger;
    Jury internal jury;
    BlockBeacon internal beacon;

    function ledgerTerms() internal pure virtual returns (ILedger.Terms memory) {
        return ILedger.Terms({
            minStake: MIN_STAKE,
            runBond: RUN_BOND,
            proposalBond: PROPOSAL_BOND,
            unbondingBlocks: UNBONDING,
            disputeBlocks: DISPUTE,
            forceBlocks: FORCE,
            timeoutBlocks: TIMEOUT
        });
    }

    function juryTerms() internal pure virtual returns (IJury.Terms memory) {
        return IJury.Terms({
            slotStake: SLOT_STAKE,
            silentPenalty: SILENT,
            fee: FEE,
            caseBond: CASE_BOND,
            seats: SEATS,
            drawBlocks: DRAW,
            voteBlocks: VOTE,
            revealBlocks: REVEAL,
            appealBlocks: APPEAL,
            unbondingBlocks: SLOT_UNBONDING
        });
    }

    function build() internal {
        vm.roll(START);
        token = Token(newToken());
        deploy(address(token));
        equip(coordinator);
        equip(alice);
        equip(bob);
        equip(carol);
        for (uint256 i; i < verifiers.length; ++i) {
            equip(verifiers[i]);
        }
    }

    function newToken() internal virtual returns (address) {
        return address(new Token(address(this), SUPPLY));
    }

    function newBeacon() internal virtual returns (address) {
        return address(new BlockBeacon());
    }

    /// @dev The ledger names the jury before it exists: both are this contract's next deployments.
    function deploy(address token_) internal {
        beacon = BlockBeacon(newBeacon());
        address jury_ = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        ledger = new Ledger(token_, jury_, ledgerTerms());
        jury = new Jury(address(ledger), address(beacon), juryTerms());
    }

    function equip(address wallet) internal {
        require(token.transfer(wallet, 1_000_000e18));
        vm.startPrank(wallet);
        token.approve(address(ledger), type(uint256).max);
        token.approve(address(jury), type(uint256).max);
        vm.stopPrank();
    }

    /* KEYS */

    /// @dev The first peer key of a wallet in these tests.
    function peerKey(address wallet) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("peer", wallet))) >> 1;
    }

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev The public key and its signature of the link with a wallet.
    function linked(address wallet, uint256 key) internal returns (Vm.Wallet memory peer, bytes memory link) {
        peer = vm.createWallet(key);
        link = signed(key, ledger.peerLinkDigest(wallet, bytes32(peer.publicKeyX), peer.publicKeyY));
    }

    function register(address wallet, uint8 role, uint256 amount) internal returns (uint64) {
        (Vm.Wallet memory peer, bytes memory link) = linked(wallet, peerKey(wallet));
        vm.prank(wallet);
        return ledger.register(role, bytes32(peer.publicKeyX), peer.publicKeyY, link, amount);
    }

    function rotate(address wallet, uint256 key) internal returns (address) {
        (Vm.Wallet memory peer, bytes memory link) = linked(wallet, key);
        vm.prank(wallet);
        ledger.rotatePeer(bytes32(peer.publicKeyX), peer.publicKeyY, link);
        return peer.addr;
    }

    /* RUNS */

    function ladder() internal pure returns (ILedger.Ladder memory) {
        return ILedger.Ladder({faultBps: FAULT_BPS, equivocationBps: EQUIVOCATION_BPS, windowBlocks: WINDOW});
    }

    function coordinatorKey() internal returns (address) {
        return vm.createWallet(COORDINATOR_KEY).addr;
    }

    function createRun(uint256 funding) internal {
        address key = coordinatorKey();
        vm.prank(coordinator);
        ledger.createRun(RUN, key, ladder(), funding);
    }

    function openRun(uint256 funding) internal {
        createRun(funding);
        vm.prank(coordinator);
        ledger.openRun(RUN);
    }

    function playRound() internal {
        uint64 round = ledger.runInfo(RUN).anchoredRounds;
        vm.prank(coordinator);
        ledger.postCommitments(RUN, round, ROOT, 1);
        vm.roll(block.number + FORCE + 1);
        vm.prank(coordinator);
        ledger.anchorRecord(RUN, round, RECORD);
    }

    function propose(bytes32 root, uint256 total) internal {
        ILedger.Run memory info = ledger.runInfo(RUN);
        vm.prank(coordinator);
        ledger.proposeRewards(RUN, info.nextEpoch, info.finalRoot, root, total);
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

    /* THE JURY */

    /// @dev Registers the verifiers, who take a slot each.
    function seatJurors() internal {
        for (uint256 i; i < verifiers.length; ++i) {
            register(verifiers[i], 2, MIN_STAKE);
            vm.prank(verifiers[i]);
            jury.join(1);
        }
    }

    function draw(uint64 case_) internal {
        uint256 seedRound = jury.caseInfo(case_).seedRound;
        if (block.number <= seedRound) vm.roll(seedRound + 1);
        jury.draw(case_, "");
    }

    function walletOf(uint64 number) internal view returns (address) {
        return ledger.operator(number).wallet;
    }

    function salt(uint64 case_, uint256 seat) internal pure returns (bytes32) {
        return keccak256(abi.encode("salt", case_, seat));
    }

    function sealedVote(uint64 case_, uint8 seat, uint8 outcome, bytes32 result)
        internal
        view
        returns (bytes32)
    {
        bool second = jury.caseInfo(case_).second;
        uint64 number = jury.seatsOf(case_, second)[seat].juror;
        return keccak256(
            abi.encode(
                block.chainid, address(jury), case_, second, seat, number, outcome, result, salt(case_, seat)
            )
        );
    }

    function commit(uint64 case_, uint8 seat, uint8 outcome, bytes32 result) internal {
        uint64 number = jury.seatsOf(case_, jury.caseInfo(case_).second)[seat].juror;
        bytes32 digest = sealedVote(case_, seat, outcome, result);
        vm.prank(walletOf(number));
        jury.commitVote(case_, seat, digest);
    }

    function reveal(uint64 case_, uint8 seat, uint8 outcome, bytes32 result) internal {
        jury.revealVote(case_, seat, outcome, result, salt(case_, seat));
    }

    /// @dev Everybody on the present jury says the same.
    function vote(uint64 case_, uint8 outcome) internal {
        uint256 size = jury.seatsOf(case_, jury.caseInfo(case_).second).length;
        uint8[] memory outcomes = new uint8[](size);
        for (uint256 i; i < size; ++i) {
            outcomes[i] = outcome;
        }
        vote(case_, outcomes);
    }

    /// @dev One outcome a seat: 0 seals nothing, and 10 more than an outcome seals it and does not reveal it.
    function vote(uint64 case_, uint8[] memory outcomes) internal {
        for (uint8 seat; seat < outcomes.length; ++seat) {
            if (outcomes[seat] != 0) commit(case_, seat, outcomes[seat] % 10, RESULT);
        }
        IJury.Case memory one = jury.caseInfo(case_);
        if (one.stage == 2) vm.roll(uint256(one.stageAt) + VOTE + 1);
        for (uint8 seat; seat < outcomes.length; ++seat) {
            if (outcomes[seat] != 0 && outcomes[seat] < 10) reveal(case_, seat, outcomes[seat], RESULT);
        }
        one = jury.caseInfo(case_);
        // Where nobody has revealed, nobody has told the contract that the time for sealing is over.
        uint256 sealing = one.stage == 2 ? VOTE : 0;
        if (one.revealed != one.committed) vm.roll(uint256(one.stageAt) + sealing + REVEAL + 1);
        jury.rule(case_);
    }

    /// @dev Draws the present jury, which agrees on an outcome.
    function judge(uint64 case_, uint8 outcome) internal {
        draw(case_);
        vote(case_, outcome);
    }

    function close(uint64 case_) internal {
        IJury.Case memory one = jury.caseInfo(case_);
        if (!one.second && one.stage == 4) vm.roll(uint256(one.stageAt) + APPEAL + 1);
        jury.close(case_);
    }

    /* EXPECTATIONS */

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

    function juryBalance() internal view returns (uint256) {
        return token.balanceOf(address(jury));
    }
}

/// @notice A test of its own world.
abstract contract Base is World {
    function setUp() public virtual {
        build();
    }
}
