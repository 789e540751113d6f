// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, ErrorsLib, EventsLib, ILedger, Ledger, Token, Vm} from "./Base.sol";

contract StakeTest is Base {
    function test_deploys_on_the_local_chain_only() public {
        vm.chainId(1);
        refuses(ErrorsLib.WrongChain.selector, 1);
        new Ledger(address(token), MIN_STAKE, UNBONDING, WINDOW, BOND, APPEAL_BLOCKS);
    }

    function test_refuses_zero_parameters() public {
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(0), MIN_STAKE, UNBONDING, WINDOW, BOND, APPEAL_BLOCKS);
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(token), 0, UNBONDING, WINDOW, BOND, APPEAL_BLOCKS);
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(token), MIN_STAKE, 0, WINDOW, BOND, APPEAL_BLOCKS);
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(token), MIN_STAKE, UNBONDING, 0, BOND, APPEAL_BLOCKS);
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(token), MIN_STAKE, UNBONDING, WINDOW, 0, APPEAL_BLOCKS);
        refuses(ErrorsLib.ZeroParameter.selector);
        new Ledger(address(token), MIN_STAKE, UNBONDING, WINDOW, BOND, 0);
    }

    function test_token_mints_once() public view {
        same(token.totalSupply(), SUPPLY);
        require(keccak256(bytes(token.symbol())) == keccak256("MUR"));
    }

    function test_registration_links_wallet_and_peer() public {
        Vm.Wallet memory peer = vm.createWallet(peerKey(alice));
        bytes32 x = bytes32(peer.publicKeyX);
        bytes memory link = signed(peer.privateKey, ledger.peerLinkDigest(alice, x, peer.publicKeyY));
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
        same(balance(), MIN_STAKE);
        same(register(bob, 2, MIN_STAKE), 2);
        same(ledger.operatorCount(), 2);
    }

    function test_registers_by_permit_and_survives_a_permit_that_someone_sent_before() public {
        (address wallet, uint256 key) = (vm.createWallet(77).addr, 77);
        require(token.transfer(wallet, MIN_STAKE));
        Vm.Wallet memory peer = vm.createWallet(peerKey(wallet));
        bytes32 x = bytes32(peer.publicKeyX);
        bytes memory link = signed(peer.privateKey, ledger.peerLinkDigest(wallet, x, peer.publicKeyY));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, permitDigest(wallet, MIN_STAKE));
        token.permit(wallet, address(ledger), MIN_STAKE, type(uint256).max, v, r, s);
        vm.prank(wallet);
        ledger.registerWithPermit(1, x, peer.publicKeyY, link, MIN_STAKE, type(uint256).max, v, r, s);
        same(ledger.operator(1).stake, MIN_STAKE);
    }

    function test_refuses_registrations() public {
        Vm.Wallet memory peer = vm.createWallet(peerKey(alice));
        bytes32 x = bytes32(peer.publicKeyX);
        bytes memory link = signed(peer.privateKey, ledger.peerLinkDigest(alice, x, peer.publicKeyY));

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

        link = signed(peer.privateKey, ledger.peerLinkDigest(bob, x, peer.publicKeyY));
        vm.prank(bob);
        refuses(ErrorsLib.PeerTaken.selector, uint160(peer.addr));
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE);
    }

    function test_stake_leaves_after_the_waiting_time() public {
        register(alice, 1, MIN_STAKE);
        vm.startPrank(alice);
        ledger.deposit(MIN_STAKE);
        same(ledger.operator(1).stake, 2 * MIN_STAKE);

        refuses(ErrorsLib.InsufficientStake.selector, 2 * MIN_STAKE, 2 * MIN_STAKE + 1);
        ledger.unbond(2 * MIN_STAKE + 1);
        refuses(ErrorsLib.ZeroValue.selector);
        ledger.unbond(0);
        refuses(ErrorsLib.NothingUnbonding.selector);
        ledger.withdraw();

        vm.expectEmit(address(ledger));
        emit EventsLib.StakeChanged(1, MIN_STAKE);
        vm.expectEmit(address(ledger));
        emit EventsLib.UnbondingStarted(1, MIN_STAKE, MIN_STAKE, 120);
        ledger.unbond(MIN_STAKE);
        vm.roll(110);
        ledger.unbond(MIN_STAKE); // starts the waiting time of all again
        vm.roll(129);
        refuses(ErrorsLib.StillUnbonding.selector, 130);
        ledger.withdraw();
        vm.roll(130);
        uint256 before = token.balanceOf(alice);
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
    }

    function testFuzz_stake_is_conserved(uint96 more, uint96 leaving, uint16 wait) public {
        register(alice, 1, MIN_STAKE);
        uint256 added = uint256(more) % 1000e18 + 1;
        uint256 out = uint256(leaving) % (MIN_STAKE + added) + 1;
        vm.startPrank(alice);
        ledger.deposit(added);
        ledger.unbond(out);
        vm.roll(100 + uint256(wait));
        bool ready = wait >= UNBONDING;
        if (!ready) refuses(ErrorsLib.StillUnbonding.selector, 100 + UNBONDING);
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
