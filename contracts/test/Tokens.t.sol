// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Base, ErrorsLib, IJury, ILedger, Vm} from "./Base.sol";

/// @notice A token that can be told to misbehave.
contract HostileToken is ERC20, ERC20Burnable {
    enum Mode {
        HONEST,
        FALSE,
        FEE,
        REVERT,
        CALL
    }

    Mode public mode;
    address public target;
    bytes[] private _calls;
    uint256 public attempts;

    constructor(address recipient, uint256 supply) ERC20("Hostile", "HST") {
        _mint(recipient, supply);
    }

    function behave(Mode mode_) external {
        mode = mode_;
    }

    /// @notice Calls back into `target` with each of `calls` whenever tokens move from or to it.
    function callBack(address target_, bytes[] calldata calls) external {
        (mode, target) = (Mode.CALL, target_);
        delete _calls;
        for (uint256 i; i < calls.length; ++i) {
            _calls.push(calls[i]);
        }
    }

    function transfer(address to, uint256 value) public override returns (bool) {
        return mode != Mode.FALSE && super.transfer(to, value);
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        return mode != Mode.FALSE && super.transferFrom(from, to, value);
    }

    function _update(address from, address to, uint256 value) internal override {
        require(mode != Mode.REVERT, "no");
        if (mode == Mode.CALL && (from == target || to == target)) {
            for (uint256 i; i < _calls.length; ++i) {
                (bool done, bytes memory reason) = target.call(_calls[i]);
                require(
                    !done && bytes4(reason) == ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector,
                    "a way back in"
                );
                ++attempts;
            }
        }
        uint256 fee = mode == Mode.FEE && from != address(0) && to != address(0) ? value / 100 : 0;
        super._update(from, to, value - fee);
        if (fee != 0) super._update(from, address(0), fee);
    }
}

contract TokensTest is Base {
    HostileToken private hostile;
    uint64 private owner;

    function newToken() internal override returns (address) {
        hostile = new HostileToken(address(this), SUPPLY);
        return address(hostile);
    }

    function setUp() public override {
        super.setUp();
        owner = register(alice, 1, MIN_STAKE);
        seatJurors();
        openRun(50e18);
        playRound();
    }

    /// @dev Everything of which tokens can be a part, ready to be done.
    function everything() private {
        propose(leaf(alice, 5e18), 5e18);
        vm.roll(ledger.pendingRewards(RUN).finalAt);
        ledger.finalizeRewards(RUN);
        propose(leaf(alice, 6e18), 6e18);
        vm.prank(alice);
        ledger.unbond(1e18);
        vm.roll(block.number + UNBONDING);
    }

    function failed() private {
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(hostile)));
    }

    function test_a_token_that_returns_false_moves_nothing() public {
        everything();
        (Vm.Wallet memory peer, bytes memory link) = linked(carol, peerKey(carol));
        address key = coordinatorKey();
        hostile.behave(HostileToken.Mode.FALSE);
        failed();
        vm.prank(carol);
        ledger.register(1, bytes32(peer.publicKeyX), peer.publicKeyY, link, MIN_STAKE);
        vm.startPrank(alice);
        failed();
        ledger.deposit(1);
        failed();
        ledger.withdraw();
        failed();
        ledger.fund(RUN, 1);
        failed();
        ledger.createRun(ROOT, key, ladder(), 0);
        vm.stopPrank();
        failed();
        ledger.finalizeRewards(RUN);
        failed();
        ledger.claim(RUN, alice, 5e18, new bytes32[](0));
        vm.prank(verifiers[0]);
        failed();
        jury.join(1);
        vm.prank(carol);
        vm.roll(ledger.pendingRewards(RUN).finalAt - 1);
        failed();
        jury.disputeRewards(RUN, 1, EVIDENCE);
        same(ledger.numberOf(carol), 0);
        same(ledger.claimed(RUN, alice), 0);
        same(jury.slotCount(), 5);
        same(jury.caseCount(), 0);
        hostile.behave(HostileToken.Mode.HONEST);
        same(ledger.claim(RUN, alice, 5e18, new bytes32[](0)), 5e18);
    }

    function test_a_token_that_takes_a_fee_is_refused() public {
        (Vm.Wallet memory peer, bytes memory link) = linked(carol, peerKey(carol));
        hostile.behave(HostileToken.Mode.FEE);
        vm.prank(carol);
        refuses(ErrorsLib.WrongAmount.selector, MIN_STAKE, uint256(MIN_STAKE) * 99 / 100);
        ledger.register(1, bytes32(peer.publicKeyX), peer.publicKeyY, link, MIN_STAKE);
        vm.startPrank(alice);
        refuses(ErrorsLib.WrongAmount.selector, 1000, 990);
        ledger.deposit(1000);
        refuses(ErrorsLib.WrongAmount.selector, 1000, 990);
        ledger.fund(RUN, 1000);
    }

    /// @dev While a token refuses everything nothing is booked, and afterwards everybody gets what is theirs.
    function test_what_a_reverting_token_held_up_is_paid_later() public {
        everything();
        uint64 case_ = accuse();
        judge(case_, RIGHT);
        close(case_);
        hostile.behave(HostileToken.Mode.REVERT);
        vm.startPrank(alice);
        vm.expectRevert(bytes("no"));
        ledger.withdraw();
        vm.expectRevert(bytes("no"));
        ledger.claim(RUN, alice, 5e18, new bytes32[](0));
        vm.expectRevert(bytes("no"));
        jury.withdrawCredit(alice);
        hostile.behave(HostileToken.Mode.HONEST);
        ledger.withdraw();
        ledger.claim(RUN, alice, 5e18, new bytes32[](0));
        jury.withdrawCredit(alice);
    }

    function accuse() private returns (uint64) {
        playRound();
        uint64 round = ledger.runInfo(RUN).anchoredRounds - 1;
        vm.prank(bob);
        return jury.accuse(RUN, round, owner, 0, carol, EVIDENCE, false);
    }

    function said(bytes32 body) private view returns (IJury.Statement memory) {
        return IJury.Statement(
            body, signed(peerKey(alice), ledger.messageDigest(RUN, 9, "contributor", "commitment", body))
        );
    }

    /// @dev Whenever tokens move, every function that could move more of the same contract's refuses.
    function test_the_token_finds_no_way_back_into_the_ledger() public {
        everything();
        (Vm.Wallet memory peer, bytes memory link) = linked(carol, peerKey(carol));
        bytes32 x = bytes32(peer.publicKeyX);
        (Vm.Wallet memory other, bytes memory otherLink) = linked(bob, peerKey(bob));
        address key = coordinatorKey();
        bytes[] memory calls = new bytes[](10);
        calls[0] = abi.encodeCall(ledger.register, (1, x, peer.publicKeyY, link, MIN_STAKE));
        calls[1] =
            abi.encodeCall(ledger.registerWithPermit, (1, x, peer.publicKeyY, link, MIN_STAKE, 0, 0, 0, 0));
        calls[2] = abi.encodeCall(ledger.deposit, (1));
        calls[3] = abi.encodeCall(ledger.withdraw, ());
        calls[4] = abi.encodeCall(ledger.createRun, (ROOT, key, ladder(), 0));
        calls[5] = abi.encodeCall(ledger.fund, (RUN, 1));
        calls[6] = abi.encodeCall(ledger.releaseRunBond, (RUN));
        calls[7] = abi.encodeCall(ledger.proposeRewards, (RUN, 2, ROOT, ROOT, 1));
        calls[8] = abi.encodeCall(ledger.finalizeRewards, (RUN));
        calls[9] = abi.encodeCall(ledger.claim, (RUN, alice, 5e18, new bytes32[](0)));
        hostile.callBack(address(ledger), calls);

        vm.prank(carol);
        ledger.register(1, x, peer.publicKeyY, link, MIN_STAKE);
        moved(1);
        vm.prank(bob);
        ledger.registerWithPermit(1, bytes32(other.publicKeyX), other.publicKeyY, otherLink, MIN_STAKE, 0, 0, 0, 0);
        moved(2);
        vm.startPrank(alice);
        ledger.deposit(1);
        moved(3);
        ledger.withdraw();
        moved(4);
        ledger.createRun(ROOT, key, ladder(), 1);
        moved(5);
        ledger.fund(RUN, 1);
        moved(6);
        vm.stopPrank();
        ledger.claim(RUN, alice, 5e18, new bytes32[](0));
        moved(7);
        ledger.finalizeRewards(RUN);
        moved(8);
        propose(ROOT, 7e18);
        moved(9);
        vm.startPrank(address(jury));
        ledger.slash(RUN, 0, owner, 1000);
        moved(10);
        ledger.ruleRewards(RUN, uint64(block.number), true);
        moved(11);
        ledger.seizeRunBond(ROOT);
        moved(12);
        vm.stopPrank();
        vm.prank(coordinator);
        ledger.finishRun(RUN, ROOT);
        vm.roll(block.number + UNBONDING);
        vm.prank(coordinator);
        ledger.releaseRunBond(RUN);
        moved(13);
    }

    /// @dev So many token movements have been used for so many attempts each.
    function moved(uint256 times) private view {
        same(hostile.attempts(), times * 10);
    }

    function test_the_token_finds_no_way_back_into_the_jury() public {
        uint64 case_ = accuse();
        judge(case_, FALSE);
        vm.prank(carol);
        jury.appeal(case_);
        judge(case_, VOID);
        uint64 open = accuse();
        draw(open);
        vote(open, new uint8[](SEATS));
        IJury.Statement memory a = said(ROOT);
        IJury.Statement memory b = said(RECORD);
        uint256[] memory none = new uint256[](1);
        none[0] = 5;
        bytes[] memory calls = new bytes[](10);
        calls[0] = abi.encodeCall(jury.join, (1));
        calls[1] = abi.encodeCall(jury.withdraw, ());
        calls[2] = abi.encodeCall(jury.accuse, (RUN, 0, owner, 9, carol, EVIDENCE, false));
        calls[3] = abi.encodeCall(jury.contest, (RUN, 0, 9, EVIDENCE));
        calls[4] = abi.encodeCall(jury.disputeRewards, (RUN, 1, EVIDENCE));
        calls[5] = abi.encodeCall(jury.draw, (open, ""));
        calls[6] = abi.encodeCall(jury.appeal, (open));
        calls[7] = abi.encodeCall(jury.close, (case_));
        calls[8] = abi.encodeCall(jury.proveEquivocation, (RUN, 9, false, a, b, carol));
        calls[9] = abi.encodeCall(jury.withdrawCredit, (bob));
        hostile.callBack(address(jury), calls);

        vm.prank(carol);
        jury.appeal(open);
        moved(1);
        vm.prank(verifiers[0]);
        jury.join(1);
        moved(2);
        accuse();
        moved(3);
        uint64 round = ledger.runInfo(RUN).anchoredRounds - 1;
        vm.prank(alice);
        jury.contest(RUN, round, 0, EVIDENCE);
        moved(4);
    }

    function test_closing_and_paying_out_are_guarded_too() public {
        uint64 case_ = accuse();
        draw(case_);
        uint8[] memory votes = new uint8[](3);
        (votes[0], votes[1]) = (FALSE, FALSE);
        vote(case_, votes);
        propose(ROOT, 1e18);
        vm.prank(verifiers[4]);
        jury.join(1);
        bytes[] memory calls = new bytes[](10);
        for (uint256 i; i < 10; ++i) {
            calls[i] = i % 2 == 0 ? abi.encodeCall(jury.close, (case_)) : abi.encodeCall(jury.withdrawCredit, (bob));
        }
        hostile.callBack(address(jury), calls);
        vm.prank(bob);
        jury.disputeRewards(RUN, 1, EVIDENCE);
        moved(1);
        close(case_); // burns the silent seat's penalty, receives the stake, burns the rest
        moved(4);
        jury.withdrawCredit(bob);
        moved(5);
        jury.proveEquivocation(RUN, 9, false, said(ROOT), said(RECORD), carol);
        moved(7);
        hostile.behave(HostileToken.Mode.HONEST);
        vm.roll(block.number + DRAW + 1);
        jury.close(2);
        hostile.callBack(address(jury), calls);
        uint256[] memory last = new uint256[](1);
        last[0] = 5;
        vm.prank(verifiers[4]);
        jury.resign(last);
        vm.roll(block.number + SLOT_UNBONDING);
        vm.prank(verifiers[4]);
        jury.withdraw();
        moved(8);
    }
}
