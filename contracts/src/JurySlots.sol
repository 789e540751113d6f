// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IJury} from "./interfaces/IJury.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";

/// @title JurySlots
/// @notice Who can be drawn for a jury: equal slots in a list, drawn by index.
/// @dev Between the call for a jury and its draw the beacon may be known. The draw must not depend on anything that
/// can still be changed then: slots taken later lie beyond the count that was noted, and none can be given up.
abstract contract JurySlots is IJury, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint8 private constant VERIFIER = 2;
    uint256 private constant TRIES = 128;

    /// @inheritdoc IJury
    address public immutable LEDGER;
    address internal immutable TOKEN;
    uint128 internal immutable SLOT_STAKE;
    uint128 internal immutable SILENT_PENALTY;
    uint32 internal immutable JUROR_UNBONDING;

    /// @dev Juries that were called and not drawn.
    uint64 internal _undrawn;
    uint64[] private _slots;
    mapping(uint64 number => Juror) internal _jurors;

    constructor(address ledger, uint128 slotStake, uint128 silentPenalty, uint32 unbondingBlocks) {
        require(slotStake != 0 && silentPenalty != 0 && unbondingBlocks != 0, ErrorsLib.ZeroParameter());
        require(silentPenalty <= slotStake, ErrorsLib.PenaltyTooHigh());
        LEDGER = ledger;
        TOKEN = ILedger(ledger).TOKEN();
        SLOT_STAKE = slotStake;
        SILENT_PENALTY = silentPenalty;
        JUROR_UNBONDING = unbondingBlocks;
    }

    /// @inheritdoc IJury
    function join(uint32 count) external nonReentrant {
        uint64 number = ILedger(LEDGER).numberOf(msg.sender);
        ILedger.Operator memory op = ILedger(LEDGER).operator(number);
        require(
            op.role == VERIFIER && op.stake >= ILedger(LEDGER).MIN_STAKE(), ErrorsLib.NotAStakedVerifier(number)
        );
        Juror storage one = _jurors[number];
        uint128 due = uint128(one.slots) * SLOT_STAKE;
        // Whoever owes for silence is not drawn: that may change only where no draw depends on it.
        require(one.bonded == due || _undrawn == 0, ErrorsLib.DrawPending());
        uint128 bonded = due + uint128(count) * SLOT_STAKE;
        uint128 amount = bonded - one.bonded;
        require(amount != 0, ErrorsLib.ZeroValue());
        one.slots += count;
        one.bonded = bonded;
        for (uint256 i; i < count; ++i) {
            _slots.push(number);
        }
        emit EventsLib.SlotsChanged(number, one.slots, bonded);
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IJury
    function resign(uint256[] calldata indices) external {
        uint64 number = ILedger(LEDGER).numberOf(msg.sender);
        Juror storage one = _jurors[number];
        require(indices.length != 0, ErrorsLib.ZeroValue());
        require(_undrawn == 0, ErrorsLib.DrawPending());
        require(one.serving == 0, ErrorsLib.Serving(one.serving));
        uint256 above = _slots.length;
        for (uint256 i; i < indices.length; ++i) {
            uint256 index = indices[i];
            require(index < above && _slots[index] == number, ErrorsLib.NotYourSlot(index));
            above = index;
            _slots[index] = _slots[_slots.length - 1];
            _slots.pop();
        }
        one.slots -= uint32(indices.length);
        uint128 kept = uint128(one.slots) * SLOT_STAKE;
        uint128 amount = one.bonded > kept ? one.bonded - kept : 0;
        one.bonded -= amount;
        one.leaving += amount;
        one.leavingAt = uint64(block.number) + JUROR_UNBONDING;
        emit EventsLib.SlotsChanged(number, one.slots, one.bonded);
        emit EventsLib.SlotsLeaving(number, amount, one.leavingAt);
    }

    /// @inheritdoc IJury
    function withdraw() external nonReentrant {
        uint64 number = ILedger(LEDGER).numberOf(msg.sender);
        Juror storage one = _jurors[number];
        uint256 amount = one.leaving;
        require(amount != 0, ErrorsLib.NothingUnbonding());
        require(block.number >= one.leavingAt, ErrorsLib.StillUnbonding(one.leavingAt));
        one.leaving = 0;
        emit EventsLib.SlotsWithdrawn(number, amount);
        IERC20(TOKEN).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IJury
    function juror(uint64 number) external view returns (Juror memory) {
        return _jurors[number];
    }

    /// @inheritdoc IJury
    function slotCount() public view returns (uint256) {
        return _slots.length;
    }

    /// @inheritdoc IJury
    function slot(uint256 index) external view returns (uint64) {
        return _slots[index];
    }

    /// @dev Draws who holds a seat among the first `count` slots: not the two named numbers, and nobody who owes for
    /// silence. A slot may be drawn more than once. Zero where nobody was found.
    function _drawn(bytes32 seed, uint256 seat, uint256 count, uint64 notOne, uint64 notOther)
        internal
        view
        returns (uint64)
    {
        for (uint256 attempt; attempt < TRIES; ++attempt) {
            uint64 number = _slots[uint256(keccak256(abi.encode(seed, seat, attempt))) % count];
            if (number == notOne || number == notOther) continue;
            Juror storage one = _jurors[number];
            if (one.bonded >= uint128(one.slots) * SLOT_STAKE) return number;
        }
        return 0;
    }

    /// @dev Takes the penalty for a silent seat and returns it.
    function _silence(uint64 number) internal returns (uint256 amount) {
        Juror storage one = _jurors[number];
        amount = one.bonded < SILENT_PENALTY ? one.bonded : SILENT_PENALTY;
        one.bonded -= uint128(amount);
        emit EventsLib.SlotsChanged(number, one.slots, one.bonded);
    }
}
