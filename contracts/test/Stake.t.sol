// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, ILedger, Ledger, Vm} from "./Base.sol";

contract StakeTest is Base {
    function deployLedger(ILedger.Terms memory terms) private {
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(token), address(jury), terms);
    }

    function test_refuses_zero_parameters() public {
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(0), address(jury), ledgerTerms());
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(token), address(0), ledgerTerms());
        for (uint256 field; field < 7; ++field) {
            ILedger.Terms memory terms = ledgerTerms();
            if (field == 0) terms.minStake = 0;
            if (field == 1) terms.runBond = 0;
            if (field == 2) terms.proposalBond = 0;
            if (field == 3) terms.unbondingBlocks = 0;
            if (field == 4) terms.disputeBlocks = 0;
            if (field == 5) terms.forceBlocks = 0;
            if (field == 6) terms.timeoutBlocks = 0;
            deployLedger(terms);
        }
    }

    function test_shows_its_terms() public view {
        require(ledger.TOKEN() == address(token) && ledger.JURY() == address(jury));
        same(ledger.MIN_STAKE(), MIN_STAKE);
        same(ledger.RUN_BOND(), RUN_BOND);
        same(ledger.PROPOSAL_BOND(), PROPOSAL_BOND);
        same(ledger.UNBONDING_BLOCKS(), UNBONDING);
        same(ledger.DISPUTE_BLOCKS(), DISPUTE);
        same(ledger.FORCE_BLOCKS(), FORCE);
        same(ledger.TIMEOUT_BLOCKS(), TIMEOUT);
    }

    function test_token_mints_once() public view {
        same(token.totalSupply(), SUPPLY);
        require(keccak256(bytes(token.symbol())) == keccak256("MUR"));
    }

    function test_registration_links_wallet_and_peer() public {
        (Vm.Wallet memory peer, bytes memory link) = linked(alice, peerKey(alice));
        bytes32 x = bytes32(peer.publicKeyX);
        vm.expectEmit(address(ledger));
        emit EventsLib.Registered(1, alice, peer.addr, 1, x, peer.publicKeyY);
        vm.expectEmit(address(ledger));
        emit EventsLib.StakeChanged(1, MIN_STAKE);
        vm.prank(alice);
        same(ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE), 1);

        ILedger.Operator memory op = ledger.operator(1);
        require(op.wallet == alice && op.peer == peer.addr && op.role == 1);
        same(op.stake, MIN_STAKE);
        same(ledger.numberOf(alice), 1);
        same(ledger.numberOfPeer(peer.addr), 1);
        same(ledger.answersFor(peer.addr), 1);
        same(balance(), MIN_STAKE);
        same(register(bob, 2, MIN_STAKE), 2);
        same(ledger.operatorCount(), 2);
    }

    function test_registers_by_permit_and_survives_a_permit_that_someone_sent_before() public {
        (address wallet, uint256 key) = (vm.createWallet(77).addr, 77);
        require(token.transfer(wallet, 2 * MIN_STAKE));
        (Vm.Wallet memory peer, bytes memory link) = linked(wallet, peerKey(wallet));
        bytes32 x = bytes32(peer.publicKeyX);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, permitDigest(wallet, MIN_STAKE));
        token.permit(wallet, address(ledger), MIN_STAKE, type(uint256).max, v, r, s);
        vm.prank(wallet);
        ledger.registerWithPermit(1, x, peer.publicKeyY, link, MIN_STAKE, type(uint256).max, v, r, s);
        same(ledger.operator(1).stake, MIN_STAKE);
        same(token.allowance(wallet, address(ledger)), 0);
    }

    function test_a_permit_of_another_amount_registers_nobody() public {
        (address wallet, uint256 key) = (vm.createWallet(77).addr, 77);
        require(token.transfer(wallet, 2 * MIN_STAKE));
        (Vm.Wallet memory peer, bytes memory link) = linked(wallet, peerKey(wallet));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, permitDigest(wallet, MIN_STAKE));
        vm.prank(wallet);
        vm.expectRevert(
            abi.encodeWithSignature(
                "ERC20InsufficientAllowance(address,uint256,uint256)", address(ledger), 0, MIN_STAKE + 1
            )
        );
        ledger.registerWithPermit(
            1, bytes32(peer.publicKeyX), peer.publicKeyY, link, MIN_STAKE + 1, type(uint256).max, v, r, s
        );
    }

    function test_refuses_registrations() public {
        (Vm.Wallet memory peer, bytes memory link) = linked(alice, peerKey(alice));
        bytes32 x = bytes32(peer.publicKeyX);

        vm.startPrank(alice);
        refuses(ErrorsLib.UnknownRole.selector, 0);
        ledger.register(0, x, peer.publicKeyY, link, MIN_STAKE);
        refuses(ErrorsLib.UnknownRole.selector, 3);
        ledger.register(3, x, peer.publicKeyY, link, MIN_STAKE);
        refuses(ErrorsLib.StakeTooLow.selector, MIN_STAKE - 1, MIN_STAKE);
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE - 1);
        refuses(ErrorsLib.BadPeerLink.selector);
        ledger.register(1, x, peer.publicKeyY, hex"00", MIN_STAKE);
        vm.stopPrank();

        // Another wallet cannot use the link that it saw.
        vm.prank(bob);
        refuses(ErrorsLib.BadPeerLink.selector);
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE);

        register(alice, 1, MIN_STAKE);
        vm.prank(alice);
        refuses(ErrorsLib.WalletTaken.selector, uint160(alice));
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE);

        (, link) = linked(bob, peerKey(alice));
        vm.prank(bob);
        refuses(ErrorsLib.PeerTaken.selector, uint160(peer.addr));
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE);
        same(ledger.operatorCount(), 1);
    }

    function test_stake_leaves_after_the_waiting_time() public {
        register(alice, 1, MIN_STAKE);
        vm.startPrank(alice);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.deposit(0);
        vm.expectEmit(address(ledger));
        emit EventsLib.StakeChanged(1, 2 * MIN_STAKE);
        ledger.deposit(MIN_STAKE);

        refuses(ErrorsLib.InsufficientStake.selector, 2 * MIN_STAKE, 2 * MIN_STAKE + 1);
        ledger.unbond(2 * MIN_STAKE + 1);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.unbond(0);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.withdraw();

        uint64 readyAt = uint64(START) + UNBONDING;
        vm.expectEmit(address(ledger));
        emit EventsLib.StakeChanged(1, MIN_STAKE);
        vm.expectEmit(address(ledger));
        emit EventsLib.UnbondingStarted(1, MIN_STAKE, MIN_STAKE, readyAt);
        ledger.unbond(MIN_STAKE);
        vm.roll(START + 10);
        ledger.unbond(MIN_STAKE); // starts the waiting time of all again
        vm.roll(readyAt + 9);
        refuses(ErrorsLib.StillUnbonding.selector, readyAt + 10);
        ledger.withdraw();
        vm.roll(readyAt + 10);
        uint256 before = token.balanceOf(alice);
        vm.expectEmit(address(ledger));
        emit EventsLib.Withdrawn(1, 2 * MIN_STAKE);
        ledger.withdraw();
        same(token.balanceOf(alice) - before, 2 * MIN_STAKE);
        same(balance(), 0);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.withdraw();
    }

    function test_unbonding_can_be_cancelled() public {
        register(alice, 1, MIN_STAKE);
        vm.startPrank(alice);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.cancelUnbond();
        ledger.unbond(MIN_STAKE);
        vm.expectEmit(address(ledger));
        emit EventsLib.StakeChanged(1, MIN_STAKE);
        vm.expectEmit(address(ledger));
        emit EventsLib.UnbondingCancelled(1, MIN_STAKE);
        ledger.cancelUnbond();
        same(ledger.operator(1).stake, MIN_STAKE);
        vm.roll(1000);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.withdraw();
    }

    function test_strangers_have_no_stake_to_move() public {
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.deposit(1);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.unbond(1);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.cancelUnbond();
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.withdraw();
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.rotatePeer(0, 0, "");
    }

    /// @dev The hot key signs messages; it can spend nothing.
    function test_the_peer_key_moves_no_money() public {
        register(alice, 1, 2 * MIN_STAKE);
        vm.prank(alice);
        ledger.unbond(MIN_STAKE);
        vm.roll(START + UNBONDING);
        vm.startPrank(vm.createWallet(peerKey(alice)).addr);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.unbond(1);
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.cancelUnbond();
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.withdraw();
        refuses(ErrorsLib.NotRegistered.selector);
        ledger.rotatePeer(0, 0, "");
    }

    function test_a_rotated_key_answers_until_unbonding_would_end() public {
        uint64 number = register(alice, 1, MIN_STAKE);
        address first = ledger.operator(number).peer;
        (Vm.Wallet memory peer, bytes memory link) = linked(alice, 7777);
        vm.expectEmit(address(ledger));
        emit EventsLib.PeerRotated(number, peer.addr, bytes32(peer.publicKeyX), peer.publicKeyY);
        vm.prank(alice);
        ledger.rotatePeer(bytes32(peer.publicKeyX), peer.publicKeyY, link);
        require(ledger.operator(number).peer == peer.addr);
        same(ledger.answersFor(peer.addr), number);

        vm.roll(START + UNBONDING - 1);
        same(ledger.answersFor(first), number);
        vm.roll(START + UNBONDING);
        same(ledger.answersFor(first), 0);
        same(ledger.numberOfPeer(first), number);
        same(ledger.answersFor(peer.addr), number);
        same(ledger.answersFor(address(0x99)), 0);
    }

    function test_no_key_is_linked_twice() public {
        register(alice, 1, MIN_STAKE);
        register(bob, 1, MIN_STAKE);
        address second = rotate(alice, 7777);
        (Vm.Wallet memory first, bytes memory link) = linked(alice, peerKey(alice));
        vm.prank(alice);
        refuses(ErrorsLib.PeerTaken.selector, uint160(first.addr));
        ledger.rotatePeer(bytes32(first.publicKeyX), first.publicKeyY, link);
        Vm.Wallet memory peer;
        (peer, link) = linked(bob, 7777);
        vm.prank(bob);
        refuses(ErrorsLib.PeerTaken.selector, uint160(second));
        ledger.rotatePeer(bytes32(peer.publicKeyX), peer.publicKeyY, link);
        (peer, link) = linked(bob, 8888);
        vm.prank(alice);
        refuses(ErrorsLib.BadPeerLink.selector);
        ledger.rotatePeer(bytes32(peer.publicKeyX), peer.publicKeyY, link);
    }

    function testFuzz_stake_is_conserved(uint96 more, uint96 leaving, uint16 wait) public {
        register(alice, 1, MIN_STAKE);
        uint256 added = uint256(more) % 1000e18 + 1;
        uint256 out = uint256(leaving) % (MIN_STAKE + added) + 1;
        vm.startPrank(alice);
        ledger.deposit(added);
        ledger.unbond(out);
        vm.roll(START + uint256(wait));
        bool ready = wait >= UNBONDING;
        if (!ready) refuses(ErrorsLib.StillUnbonding.selector, START + UNBONDING);
        ledger.withdraw();
        same(balance(), MIN_STAKE + added - (ready ? out : 0));
        same(ledger.operator(1).stake, MIN_STAKE + added - out);
        same(ledger.operator(1).unbonding, ready ? 0 : out);
    }

    function testFuzz_only_the_peer_key_links(uint256 key, uint8 role) public {
        key = key % (type(uint256).max >> 1) + 1;
        vm.assume(key != peerKey(alice));
        Vm.Wallet memory peer = vm.createWallet(peerKey(alice));
        bytes32 x = bytes32(peer.publicKeyX);
        bytes memory link = signed(key, ledger.peerLinkDigest(alice, x, peer.publicKeyY));
        vm.prank(alice);
        refuses(ErrorsLib.BadPeerLink.selector);
        ledger.register(role % 2 + 1, x, peer.publicKeyY, link, MIN_STAKE);
    }

    /// @dev A link is bound to chain, ledger and wallet.
    function testFuzz_links_hold_nowhere_else(uint64 chain, address other) public {
        vm.assume(chain != 31337 && chain != 0 && other != alice);
        (Vm.Wallet memory peer, bytes memory link) = linked(alice, peerKey(alice));
        bytes32 x = bytes32(peer.publicKeyX);
        Ledger elsewhere = new Ledger(address(token), address(jury), ledgerTerms());
        vm.prank(alice);
        refuses(ErrorsLib.BadPeerLink.selector);
        elsewhere.register(1, x, peer.publicKeyY, link, MIN_STAKE);
        vm.prank(other);
        refuses(ErrorsLib.BadPeerLink.selector);
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE);
        bytes32 before = ledger.DOMAIN_SEPARATOR();
        vm.chainId(chain);
        require(ledger.DOMAIN_SEPARATOR() != before);
        vm.prank(alice);
        refuses(ErrorsLib.BadPeerLink.selector);
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE);
    }

    function permitDigest(address owner, uint256 value) private view returns (bytes32) {
        bytes32 permit = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                owner,
                address(ledger),
                value,
                token.nonces(owner),
                type(uint256).max
            )
        );
        return keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), permit));
    }
}
