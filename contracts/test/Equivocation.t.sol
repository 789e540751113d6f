// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, IJury, ILedger, Ledger, Vm} from "./Base.sol";

contract EquivocationTest is Base {
    bytes32 private constant BODY_A = keccak256("a");
    bytes32 private constant BODY_B = keccak256("b");

    uint64 private owner;

    function setUp() public override {
        super.setUp();
        owner = register(alice, 1, MIN_STAKE);
        register(verifiers[0], 2, MIN_STAKE);
        openRun(1e18);
    }

    function said(uint256 key, uint64 round, bool record, bytes32 body)
        private
        view
        returns (IJury.Statement memory)
    {
        bytes32 digest = record
            ? ledger.messageDigest(RUN, round, "coordinator", "record", body)
            : ledger.messageDigest(RUN, round, "contributor", "commitment", body);
        return IJury.Statement(body, signed(key, digest));
    }

    function both(uint256 key, uint64 round, bool record)
        private
        view
        returns (IJury.Statement memory, IJury.Statement memory)
    {
        return (said(key, round, record, BODY_A), said(key, round, record, BODY_B));
    }

    function prove(uint256 key, uint64 round, bool record) private {
        (IJury.Statement memory a, IJury.Statement memory b) = both(key, round, record);
        jury.proveEquivocation(RUN, round, record, a, b, carol);
    }

    function test_a_message_digest_is_eip_712() public view {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Murmur"),
                keccak256("1"),
                block.chainid,
                address(ledger)
            )
        );
        require(ledger.DOMAIN_SEPARATOR() == domain);
        bytes32 message = keccak256(
            abi.encode(
                keccak256("Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)"),
                RUN,
                uint64(3),
                keccak256("role"),
                keccak256("kind"),
                BODY_A
            )
        );
        require(
            ledger.messageDigest(RUN, 3, "role", "kind", BODY_A)
                == keccak256(abi.encodePacked(hex"1901", domain, message))
        );
    }

    function test_two_commitments_cost_a_share_and_the_third_time_all() public {
        uint256 key = peerKey(alice);
        address peer = ledger.operator(owner).peer;
        uint256 taken = uint256(MIN_STAKE) * EQUIVOCATION_BPS / 10_000;
        uint256 supply = token.totalSupply();
        (IJury.Statement memory a, IJury.Statement memory b) = both(key, 3, false);
        vm.expectEmit(address(ledger));
        emit EventsLib.Slashed(owner, RUN, 3, taken, 0);
        vm.expectEmit(address(jury));
        emit EventsLib.Equivocated(RUN, 3, peer, owner, false, BODY_A, BODY_B);
        vm.expectEmit(address(jury));
        emit EventsLib.Credited(carol, taken * 3 / 10);
        jury.proveEquivocation(RUN, 3, false, a, b, carol);
        same(ledger.operator(owner).stake, MIN_STAKE - taken);
        same(ledger.operator(owner).equivocations, 1);
        same(jury.credit(carol), taken * 3 / 10);
        same(juryBalance(), taken * 3 / 10);
        same(supply - token.totalSupply(), taken - taken * 3 / 10);

        // The same round again, the other way round or with a third body, is the same matter.
        refuses(ErrorsLib.AlreadyPunished.selector);
        jury.proveEquivocation(RUN, 3, false, b, a, carol);
        IJury.Statement memory c = said(key, 3, false, keccak256("c"));
        refuses(ErrorsLib.AlreadyPunished.selector);
        jury.proveEquivocation(RUN, 3, false, a, c, carol);

        prove(key, 4, false);
        same(ledger.operator(owner).stake, uint256(MIN_STAKE) * 81 / 100);
        prove(key, 5, false);
        same(ledger.operator(owner).stake, 0);
        (a, b) = both(key, 6, false);
        refuses(ErrorsLib.AlreadyPunished.selector); // nothing is left
        jury.proveEquivocation(RUN, 6, false, a, b, carol);
        same(ledger.operator(owner).equivocations, 3);
    }

    function test_a_rotated_key_still_answers_while_stake_would_unbond() public {
        uint256 key = peerKey(alice);
        rotate(alice, 7777);
        vm.roll(block.number + UNBONDING - 1);
        prove(key, 3, false);
        require(ledger.operator(owner).stake < MIN_STAKE);
        (IJury.Statement memory a, IJury.Statement memory b) = both(key, 4, false);
        vm.roll(block.number + 1);
        refuses(ErrorsLib.NotRegistered.selector);
        jury.proveEquivocation(RUN, 4, false, a, b, carol);
        prove(7777, 4, false);
    }

    /// @dev One statement of the old key and one of the new are two signers; rotating is no way to lie twice either,
    /// since a number is punished once a round.
    function test_two_keys_of_one_operator_are_two_signers() public {
        uint256 key = peerKey(alice);
        rotate(alice, 7777);
        IJury.Statement memory a = said(key, 3, false, BODY_A);
        IJury.Statement memory b = said(7777, 3, false, BODY_B);
        refuses(ErrorsLib.TwoSigners.selector);
        jury.proveEquivocation(RUN, 3, false, a, b, carol);
    }

    function test_two_records_cost_the_coordinator_its_bond() public {
        uint256 supply = token.totalSupply();
        address signer = coordinatorKey();
        (IJury.Statement memory a, IJury.Statement memory b) = both(COORDINATOR_KEY, 0, true);
        vm.expectEmit(address(ledger));
        emit EventsLib.RunBondSeized(RUN, RUN_BOND);
        vm.expectEmit(address(jury));
        emit EventsLib.Equivocated(RUN, 0, signer, 0, true, BODY_A, BODY_B);
        jury.proveEquivocation(RUN, 0, true, a, b, carol);
        same(ledger.runInfo(RUN).bond, 0);
        same(jury.credit(carol), uint256(RUN_BOND) * 3 / 10);
        same(supply - token.totalSupply(), uint256(RUN_BOND) * 7 / 10);
        (a, b) = both(COORDINATOR_KEY, 1, true);
        refuses(ErrorsLib.AlreadyPunished.selector);
        jury.proveEquivocation(RUN, 1, true, a, b, carol);
        vm.prank(coordinator);
        ledger.finishRun(RUN, ROOT);
        vm.roll(block.number + UNBONDING);
        vm.prank(coordinator);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.releaseRunBond(RUN);
    }

    function test_whoever_stood_in_answers_for_two_records_with_all_its_stake() public {
        prove(peerKey(verifiers[0]), 0, true);
        same(ledger.operator(2).stake, 0);
        prove(peerKey(alice), 0, true);
        same(ledger.operator(owner).stake, 0);
    }

    function test_what_is_no_equivocation() public {
        uint256 key = peerKey(alice);
        (IJury.Statement memory a, IJury.Statement memory b) = both(key, 3, false);
        refuses(ErrorsLib.ZeroValue.selector);
        jury.proveEquivocation(RUN, 3, false, a, b, address(0));
        refuses(ErrorsLib.SameStatement.selector);
        jury.proveEquivocation(RUN, 3, false, a, a, carol);
        IJury.Statement memory bad = IJury.Statement(BODY_B, hex"00");
        refuses(ErrorsLib.BadSignature.selector);
        jury.proveEquivocation(RUN, 3, false, a, bad, carol);
        refuses(ErrorsLib.BadSignature.selector);
        jury.proveEquivocation(RUN, 3, false, bad, a, carol);
        // A verifier commits nothing, and a stranger has nothing.
        (a, b) = both(peerKey(verifiers[0]), 3, false);
        refuses(ErrorsLib.NotAContributor.selector, 2);
        jury.proveEquivocation(RUN, 3, false, a, b, carol);
        (a, b) = both(123, 3, false);
        refuses(ErrorsLib.NotRegistered.selector);
        jury.proveEquivocation(RUN, 3, false, a, b, carol);
        // A coordinator's key answers for records alone.
        (a, b) = both(COORDINATOR_KEY, 3, false);
        refuses(ErrorsLib.NotRegistered.selector);
        jury.proveEquivocation(RUN, 3, false, a, b, carol);
    }

    function test_a_malleated_signature_is_none() public {
        uint256 key = peerKey(alice);
        IJury.Statement memory a = said(key, 3, false, BODY_A);
        bytes32 digest = ledger.messageDigest(RUN, 3, "contributor", "commitment", BODY_B);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        uint256 order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        bytes memory flipped = abi.encodePacked(r, order - uint256(s), v == 27 ? uint8(28) : uint8(27));
        refuses(ErrorsLib.BadSignature.selector);
        jury.proveEquivocation(RUN, 3, false, a, IJury.Statement(BODY_B, flipped), carol);
    }

    /// @dev What was signed for another chain, ledger, run, round, role or kind counts here for nothing: somebody else
    /// would have signed it.
    function testFuzz_statements_hold_nowhere_else(uint8 field, uint64 other, bytes32 elsewhere) public {
        vm.assume(other != 3 && other != 31337 && other != 0 && elsewhere != RUN);
        field = field % 6;
        uint256 key = peerKey(alice);
        IJury.Statement memory a = said(key, 3, false, BODY_A);
        Ledger foreign = new Ledger(address(token), address(jury), ledgerTerms());
        if (field == 0) vm.chainId(other);
        bytes32 digest = (field == 1 ? foreign : ledger).messageDigest(
            field == 2 ? elsewhere : RUN,
            field == 3 ? other : 3,
            field == 4 ? "verifier" : "contributor",
            field == 5 ? "update" : "commitment",
            BODY_B
        );
        vm.chainId(31337);
        IJury.Statement memory b = IJury.Statement(BODY_B, signed(key, digest));
        refuses(ErrorsLib.TwoSigners.selector);
        jury.proveEquivocation(RUN, 3, false, a, b, carol);
        b = IJury.Statement(BODY_A, signed(key, digest));
        a = said(key, 3, false, BODY_B);
        vm.expectRevert();
        jury.proveEquivocation(RUN, 3, false, a, b, carol);
        same(ledger.operator(owner).stake, MIN_STAKE);
    }

    function test_statements_of_a_run_that_does_not_exist_count_for_nothing() public {
        bytes32 none = keccak256("none");
        uint256 key = peerKey(alice);
        bytes memory a = signed(key, ledger.messageDigest(none, 3, "contributor", "commitment", BODY_A));
        bytes memory b = signed(key, ledger.messageDigest(none, 3, "contributor", "commitment", BODY_B));
        refuses(ErrorsLib.UnknownRun.selector, uint256(none));
        jury.proveEquivocation(
            none, 3, false, IJury.Statement(BODY_A, a), IJury.Statement(BODY_B, b), carol
        );
    }
}
