// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DrandBeacon} from "../src/DrandBeacon.sol";
import {Base, IJury, ILedger, Vm} from "./Base.sol";
import {Quicknet} from "./Quicknet.sol";

/// @notice What each transaction costs its sender, with every feature on: gas/*.json holds the figures, and a test
/// fails where one of them changes. `npm run gas` writes them again.
/// @dev Each call is a transaction of its own (isolate): base, calldata and refunds are counted.
/// forge-config: default.isolate = true
contract GasTest is Base {
    uint64 private constant MARGIN = 12;
    uint256 private constant EPOCH = 10; // rounds
    uint256 private constant DEPTH = 14; // of a tree of 16,000 leaves

    uint256 private constant ROUND_CEILING = 180_000;
    uint256 private constant CLAIM_CEILING = 75_000;
    uint256 private constant REGISTRATION_CEILING = 205_000;

    uint64 private owner;
    uint64 private drandRound;
    bytes private drandProof;
    bytes32[] private path; // from the leaf of alice to the root

    function newBeacon() internal override returns (address) {
        bytes memory proof;
        (drandRound, proof,) = Quicknet.vector(3);
        drandProof = proof;
        DrandBeacon made =
            new DrandBeacon(Quicknet.PUBLIC_KEY, Quicknet.GENESIS, Quicknet.PERIOD, MARGIN, drandRound, proof);
        vm.warp(Quicknet.GENESIS + (drandRound - 1) * Quicknet.PERIOD - MARGIN);
        return address(made);
    }

    /// @dev The most seats that a jury can have.
    function juryTerms() internal pure override returns (IJury.Terms memory terms) {
        terms = super.juryTerms();
        (terms.seats, terms.caseBond) = (7, 28e18);
    }

    function setUp() public override {
        super.setUp();
        owner = register(alice, 1, MIN_STAKE);
        seatJurors();
        vm.prank(verifiers[0]);
        jury.join(3);
        openRun(500e18);
        for (uint256 i; i < DEPTH; ++i) {
            path.push(keccak256(abi.encode("sibling", i)));
        }
        // Rounds and epochs before: what is counted writes over values that are not zero.
        playRound();
        rewarded(1e18);
        ledger.claim(RUN, alice, 1e18, path);
        playRound();
    }

    /// @dev What the last transaction cost.
    function spent() private view returns (uint256) {
        Vm.Gas memory used = vm.lastCallGas();
        return used.gasTotalUsed;
    }

    function keep(string memory group, string memory name) private returns (uint256 used) {
        used = spent();
        vm.snapshotValue(group, name, used);
    }

    function rootOf(uint256 cumulative) private view returns (bytes32 node) {
        node = leaf(alice, cumulative);
        for (uint256 i; i < DEPTH; ++i) {
            node = pair(node, path[i]);
        }
    }

    function rewarded(uint256 cumulative) private {
        propose(rootOf(cumulative), cumulative);
        vm.roll(ledger.pendingRewards(RUN).finalAt);
        ledger.finalizeRewards(RUN);
    }

    function test_a_round_stays_under_its_ceiling_whatever_the_number_of_peers() public {
        vm.prank(coordinator);
        ledger.postCommitments(RUN, 2, RESULT, type(uint32).max);
        uint256 round = keep("Ledger", "postCommitments");
        vm.prank(alice);
        ledger.forceCommitment(RUN, 2, EVIDENCE);
        keep("Ledger", "forceCommitment");
        vm.roll(block.number + FORCE + 1);
        vm.prank(coordinator);
        ledger.anchorRecord(RUN, 2, EVIDENCE);
        round += keep("Ledger", "anchorRecord");

        propose(rootOf(2e18), 2e18);
        uint256 epoch = keep("Ledger", "proposeRewards");
        vm.roll(ledger.pendingRewards(RUN).finalAt);
        ledger.finalizeRewards(RUN);
        epoch += keep("Ledger", "finalizeRewards");
        vm.snapshotValue("Ceilings", "a round with its share of an epoch of 10", round + epoch / EPOCH);
        require(round + epoch / EPOCH <= ROUND_CEILING, "a round costs too much");
    }

    function test_a_repeat_claim_stays_under_its_ceiling() public {
        rewarded(2e18);
        vm.prank(alice);
        ledger.claim(RUN, alice, 2e18, path);
        uint256 used = keep("Ledger", "claim");
        vm.snapshotValue("Ceilings", "a repeat claim at 16,000 leaves", used);
        require(used <= CLAIM_CEILING, "a claim costs too much");
    }

    function test_a_registration_stays_under_its_ceiling() public {
        (address wallet, uint256 key) = (vm.createWallet(77).addr, 77);
        require(token.transfer(wallet, MIN_STAKE + 1));
        (Vm.Wallet memory peer, bytes memory link) = linked(wallet, peerKey(wallet));
        bytes32 digest = keccak256(
            abi.encodePacked(
                hex"1901",
                token.DOMAIN_SEPARATOR(),
                keccak256(
                    abi.encode(
                        keccak256(
                            "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                        ),
                        wallet,
                        address(ledger),
                        uint256(MIN_STAKE),
                        uint256(0),
                        type(uint256).max
                    )
                )
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        vm.prank(wallet);
        ledger.registerWithPermit(
            1, bytes32(peer.publicKeyX), peer.publicKeyY, link, MIN_STAKE, type(uint256).max, v, r, s
        );
        uint256 used = keep("Ledger", "registerWithPermit");
        vm.snapshotValue("Ceilings", "a registration with permit and link", used);
        require(used <= REGISTRATION_CEILING, "a registration costs too much");
    }

    function test_stake_and_runs() public {
        (Vm.Wallet memory peer, bytes memory link) = linked(bob, peerKey(bob));
        vm.startPrank(bob);
        ledger.register(1, bytes32(peer.publicKeyX), peer.publicKeyY, link, MIN_STAKE);
        keep("Ledger", "register");
        ledger.deposit(1e18);
        keep("Ledger", "deposit");
        ledger.unbond(1e18);
        keep("Ledger", "unbond");
        ledger.cancelUnbond();
        keep("Ledger", "cancelUnbond");
        ledger.unbond(1e18);
        vm.stopPrank();
        (peer, link) = linked(bob, 7777);
        vm.prank(bob);
        ledger.rotatePeer(bytes32(peer.publicKeyX), peer.publicKeyY, link);
        keep("Ledger", "rotatePeer");
        vm.roll(block.number + UNBONDING);
        vm.prank(bob);
        ledger.withdraw();
        keep("Ledger", "withdraw");

        address key = coordinatorKey();
        bytes32 run = keccak256("another run");
        vm.startPrank(coordinator);
        ledger.createRun(run, key, ladder(), 5e18);
        keep("Ledger", "createRun");
        ledger.fund(run, 1e18);
        keep("Ledger", "fund");
        ledger.openRun(run);
        keep("Ledger", "openRun");
        ledger.finishRun(run, RESULT);
        keep("Ledger", "finishRun");
        vm.roll(block.number + UNBONDING);
        ledger.releaseRunBond(run);
        keep("Ledger", "releaseRunBond");
        vm.stopPrank();
    }

    /// @dev As the jury calls them; on their own they carry the base of a transaction each.
    function test_what_the_jury_asks_of_the_ledger() public {
        propose(ROOT, 2e18);
        uint64 at_ = uint64(block.number);
        vm.startPrank(address(jury));
        ledger.countCase(owner, true);
        keep("Ledger", "countCase");
        ledger.countEquivocation(owner);
        keep("Ledger", "countEquivocation");
        ledger.slash(RUN, 0, owner, 1000);
        keep("Ledger", "slash");
        ledger.holdRewards(RUN, 1);
        keep("Ledger", "holdRewards");
        ledger.reopenRewards(RUN, at_, 1);
        keep("Ledger", "reopenRewards");
        ledger.holdRewards(RUN, 1);
        ledger.ruleRewards(RUN, at_, true);
        keep("Ledger", "ruleRewards");
        ledger.seizeRunBond(RUN);
        keep("Ledger", "seizeRunBond");
        vm.stopPrank();
    }

    function test_slots() public {
        vm.startPrank(verifiers[0]);
        jury.join(1);
        keep("Jury", "join");
        uint256[] memory last = new uint256[](1);
        last[0] = 8;
        jury.resign(last);
        keep("Jury", "resign");
        vm.roll(block.number + SLOT_UNBONDING);
        jury.withdraw();
        keep("Jury", "withdraw");
        vm.stopPrank();
    }

    function test_a_case_with_its_appeal() public {
        vm.prank(bob);
        jury.accuse(RUN, 1, owner, 5, carol, EVIDENCE, false);
        keep("Jury", "accuse");
        same(jury.caseInfo(1).seedRound, drandRound);
        jury.draw(1, drandProof);
        keep("Jury", "draw of the first jury");
        everybodySays(1, 7, RIGHT);
        keep("Jury", "rule for the first jury");
        vm.prank(carol);
        jury.appeal(1);
        keep("Jury", "appeal");
        jury.draw(1, drandProof);
        keep("Jury", "draw");
        everybodySays(1, 21, FALSE);
        keep("Jury", "rule");
        jury.close(1);
        keep("Jury", "close");
        jury.withdrawCredit(carol);
        keep("Jury", "withdrawCredit");
    }

    function everybodySays(uint64 case_, uint8 seats, uint8 outcome) private {
        for (uint8 seat; seat < seats; ++seat) {
            commit(case_, seat, outcome, RESULT);
            if (seat == 1) keep("Jury", "commitVote");
        }
        for (uint8 seat; seat < seats; ++seat) {
            reveal(case_, seat, outcome, RESULT);
            if (seat == 1) keep("Jury", "revealVote");
        }
        jury.rule(case_);
    }

    function test_other_cases() public {
        vm.prank(alice);
        jury.contest(RUN, 1, 5, EVIDENCE);
        keep("Jury", "contest");
        propose(ROOT, 2e18);
        vm.prank(carol);
        jury.disputeRewards(RUN, 1, EVIDENCE);
        keep("Jury", "disputeRewards");
        IJury.Statement memory a = said(ROOT);
        IJury.Statement memory b = said(RECORD);
        jury.proveEquivocation(RUN, 9, false, a, b, carol);
        keep("Jury", "proveEquivocation");
    }

    function said(bytes32 body) private view returns (IJury.Statement memory) {
        return IJury.Statement(
            body, signed(peerKey(alice), ledger.messageDigest(RUN, 9, "contributor", "commitment", body))
        );
    }

    function test_the_beacon() public {
        DrandBeacon(address(beacon)).seed(drandRound, drandProof);
        keep("DrandBeacon", "seed");
    }
}
