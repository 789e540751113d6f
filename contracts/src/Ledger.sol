// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IJury} from "./interfaces/IJury.sol";
import {ILedger} from "./interfaces/ILedger.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";

/// @title Ledger
/// @notice See `ILedger`. The balance is the sum of stakes, unbonding funds, run bonds, the bonds of pending reward
/// roots, and what the pots have not paid.
contract Ledger is ILedger, EIP712, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    uint8 private constant CONTRIBUTOR = 1;
    uint8 private constant VERIFIER = 2;

    uint8 private constant CREATED = 1;
    uint8 private constant OPEN = 2;
    uint8 private constant FINISHED = 3;

    uint256 private constant BPS = 10_000;
    uint16 private constant MIN_FAULT_BPS = 5000;
    uint16 private constant MIN_EQUIVOCATION_BPS = 100;

    bytes32 private constant PEER_LINK_TYPEHASH = keccak256("PeerLink(address wallet,bytes32 pubX,uint256 pubY)");
    bytes32 private constant MESSAGE_TYPEHASH =
        keccak256("Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)");

    /// @inheritdoc ILedger
    address public immutable TOKEN;
    /// @inheritdoc ILedger
    address public immutable JURY;
    /// @inheritdoc ILedger
    uint128 public immutable MIN_STAKE;
    /// @inheritdoc ILedger
    uint128 public immutable RUN_BOND;
    /// @inheritdoc ILedger
    uint128 public immutable PROPOSAL_BOND;
    /// @inheritdoc ILedger
    uint64 public immutable UNBONDING_BLOCKS;
    /// @inheritdoc ILedger
    uint64 public immutable DISPUTE_BLOCKS;
    /// @inheritdoc ILedger
    uint64 public immutable FORCE_BLOCKS;
    /// @inheritdoc ILedger
    uint64 public immutable TIMEOUT_BLOCKS;

    /// @inheritdoc ILedger
    uint64 public operatorCount;
    /// @inheritdoc ILedger
    mapping(address wallet => uint64) public numberOf;
    /// @inheritdoc ILedger
    mapping(address peer => uint64) public numberOfPeer;
    /// @inheritdoc ILedger
    mapping(bytes32 run => mapping(address account => uint256)) public claimed;
    /// @inheritdoc ILedger
    mapping(bytes32 run => mapping(uint64 round => mapping(uint64 number => bytes32))) public forced;

    mapping(uint64 number => Operator) private _operators;
    mapping(address peer => uint256) private _retiredAt;
    mapping(bytes32 run => Run) private _runs;
    mapping(bytes32 run => mapping(uint64 round => Round)) private _rounds;
    mapping(bytes32 run => PendingRewards) private _pending;

    modifier onlyJury() {
        require(msg.sender == JURY, ErrorsLib.NotJury());
        _;
    }

    /// @param token an ERC-20 with permit and burn that takes no fee on transfers.
    /// @param jury where the jury will be or is.
    constructor(address token, address jury, Terms memory terms) EIP712("Murmur", "1") {
        require(token != address(0) && jury != address(0), ErrorsLib.ZeroParameter());
        require(
            terms.minStake != 0 && terms.runBond != 0 && terms.proposalBond != 0 && terms.unbondingBlocks != 0
                && terms.disputeBlocks != 0 && terms.forceBlocks != 0 && terms.timeoutBlocks != 0,
            ErrorsLib.ZeroParameter()
        );
        TOKEN = token;
        JURY = jury;
        MIN_STAKE = terms.minStake;
        RUN_BOND = terms.runBond;
        PROPOSAL_BOND = terms.proposalBond;
        UNBONDING_BLOCKS = terms.unbondingBlocks;
        DISPUTE_BLOCKS = terms.disputeBlocks;
        FORCE_BLOCKS = terms.forceBlocks;
        TIMEOUT_BLOCKS = terms.timeoutBlocks;
    }

    /* STAKE */

    /// @inheritdoc ILedger
    function register(uint8 role, bytes32 pubX, uint256 pubY, bytes calldata sig, uint256 amount)
        external
        nonReentrant
        returns (uint64)
    {
        return _register(role, pubX, pubY, sig, amount);
    }

    /// @inheritdoc ILedger
    function registerWithPermit(
        uint8 role,
        bytes32 pubX,
        uint256 pubY,
        bytes calldata sig,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant returns (uint64) {
        // A permit that someone else sent first has left the allowance, and without one the transfer fails below.
        try IERC20Permit(TOKEN).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        return _register(role, pubX, pubY, sig, amount);
    }

    /// @inheritdoc ILedger
    function rotatePeer(bytes32 pubX, uint256 pubY, bytes calldata sig) external {
        uint64 number = _senderNumber();
        Operator storage op = _operators[number];
        _retiredAt[op.peer] = block.number;
        op.peer = _link(number, pubX, pubY, sig);
        emit EventsLib.PeerRotated(number, op.peer, pubX, pubY);
    }

    /// @inheritdoc ILedger
    function deposit(uint256 amount) external nonReentrant {
        require(amount != 0, ErrorsLib.ZeroValue());
        uint64 number = _senderNumber();
        Operator storage op = _operators[number];
        op.stake += amount.toUint128();
        emit EventsLib.StakeChanged(number, op.stake);
        _pull(amount);
    }

    /// @inheritdoc ILedger
    function unbond(uint256 amount) external {
        require(amount != 0, ErrorsLib.ZeroValue());
        uint64 number = _senderNumber();
        Operator storage op = _operators[number];
        require(amount <= op.stake, ErrorsLib.InsufficientStake(op.stake, amount));
        op.stake -= amount.toUint128();
        op.unbonding += amount.toUint128();
        op.unbondingAt = (block.number + UNBONDING_BLOCKS).toUint64();
        emit EventsLib.StakeChanged(number, op.stake);
        emit EventsLib.UnbondingStarted(number, amount, op.unbonding, op.unbondingAt);
    }

    /// @inheritdoc ILedger
    function cancelUnbond() external {
        uint64 number = _senderNumber();
        Operator storage op = _operators[number];
        uint128 amount = op.unbonding;
        require(amount != 0, ErrorsLib.NothingUnbonding());
        op.unbonding = 0;
        op.unbondingAt = 0;
        op.stake += amount;
        emit EventsLib.StakeChanged(number, op.stake);
        emit EventsLib.UnbondingCancelled(number, amount);
    }

    /// @inheritdoc ILedger
    function withdraw() external nonReentrant {
        uint64 number = _senderNumber();
        Operator storage op = _operators[number];
        uint256 amount = op.unbonding;
        require(amount != 0, ErrorsLib.NothingUnbonding());
        require(block.number >= op.unbondingAt, ErrorsLib.StillUnbonding(op.unbondingAt));
        require(op.cases == 0, ErrorsLib.CasesOpen(op.cases));
        op.unbonding = 0;
        op.unbondingAt = 0;
        emit EventsLib.Withdrawn(number, amount);
        IERC20(TOKEN).safeTransfer(msg.sender, amount);
    }

    /* RUNS */

    /// @inheritdoc ILedger
    function createRun(bytes32 run, address coordinatorKey, Ladder calldata ladder, uint256 funding)
        external
        nonReentrant
    {
        require(run != 0 && coordinatorKey != address(0) && ladder.windowBlocks != 0, ErrorsLib.ZeroValue());
        require(
            ladder.faultBps >= MIN_FAULT_BPS && ladder.faultBps <= BPS
                && ladder.equivocationBps >= MIN_EQUIVOCATION_BPS && ladder.equivocationBps <= BPS,
            ErrorsLib.LadderOutOfBounds()
        );
        // Nothing in this changes, so that a run which was created can be opened and its bond comes back.
        uint256 needed = uint256(FORCE_BLOCKS) + 2 * uint256(TIMEOUT_BLOCKS) + ladder.windowBlocks
            + IJury(JURY).CASE_BLOCKS() + DISPUTE_BLOCKS;
        require(needed < UNBONDING_BLOCKS, ErrorsLib.UnbondingTooShort(UNBONDING_BLOCKS, needed));
        Run storage info = _runs[run];
        require(info.status == 0, ErrorsLib.RunExists(run));
        info.coordinator = msg.sender;
        info.coordinatorKey = coordinatorKey;
        info.ladder = ladder;
        info.status = CREATED;
        info.bond = RUN_BOND;
        emit EventsLib.RunCreated(
            run, msg.sender, coordinatorKey, ladder.faultBps, ladder.equivocationBps, ladder.windowBlocks, RUN_BOND
        );
        if (funding != 0) _credit(run, info, funding);
        _pull(RUN_BOND + funding);
    }

    /// @inheritdoc ILedger
    function fund(bytes32 run, uint256 amount) external nonReentrant {
        require(amount != 0, ErrorsLib.ZeroValue());
        Run storage info = _runs[run];
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        _credit(run, info, amount);
        _pull(amount);
    }

    /// @inheritdoc ILedger
    function openRun(bytes32 run) external {
        Run storage info = _coordinated(run, CREATED);
        info.status = OPEN;
        info.openedAt = block.number.toUint64();
        info.activeAt = info.openedAt;
        emit EventsLib.RunOpened(run);
    }

    /// @inheritdoc ILedger
    function finishRun(bytes32 run, bytes32 parameters) external {
        require(parameters != 0, ErrorsLib.ZeroValue());
        Run storage info = _coordinated(run, OPEN);
        info.status = FINISHED;
        info.activeAt = block.number.toUint64();
        emit EventsLib.RunFinished(run, parameters);
    }

    /// @inheritdoc ILedger
    function releaseRunBond(bytes32 run) external nonReentrant {
        Run storage info = _coordinated(run, FINISHED);
        uint256 readyAt = uint256(info.activeAt) + UNBONDING_BLOCKS;
        require(block.number >= readyAt, ErrorsLib.StillUnbonding(readyAt));
        uint256 bond = info.bond;
        require(bond != 0, ErrorsLib.NothingUnbonding());
        info.bond = 0;
        emit EventsLib.RunBondReleased(run, bond);
        IERC20(TOKEN).safeTransfer(info.coordinator, bond);
    }

    /// @inheritdoc ILedger
    function postCommitments(bytes32 run, uint64 round, bytes32 root, uint32 count) external {
        Run storage info = _posting(run);
        // Equal counters mean that the previous record is anchored, and that the next round is that count.
        require(
            info.committedRounds == info.anchoredRounds && round == info.committedRounds,
            ErrorsLib.WrongRound(info.committedRounds, round)
        );
        require((root == 0) == (count == 0), ErrorsLib.RootCountMismatch());
        info.committedRounds = round + 1;
        info.activeAt = uint64(block.number);
        _rounds[run][round] = Round({postedAt: uint64(block.number), anchoredAt: 0, count: count});
        emit EventsLib.CommitmentsPosted(run, round, root, count);
    }

    /// @inheritdoc ILedger
    function forceCommitment(bytes32 run, uint64 round, bytes32 commitment) external {
        require(commitment != 0, ErrorsLib.ZeroValue());
        uint64 number = numberOf[msg.sender];
        if (number == 0) {
            number = numberOfPeer[msg.sender];
            require(number != 0 && _operators[number].peer == msg.sender, ErrorsLib.NotRegistered());
        }
        Operator storage op = _operators[number];
        require(op.role == CONTRIBUTOR, ErrorsLib.NotAContributor(number));
        require(op.stake >= MIN_STAKE, ErrorsLib.StakeTooLow(op.stake, MIN_STAKE));
        Round storage info = _rounds[run][round];
        require(info.postedAt != 0 && info.anchoredAt == 0, ErrorsLib.RoundNotPosted(round));
        uint256 last = uint256(info.postedAt) + FORCE_BLOCKS;
        require(block.number <= last, ErrorsLib.WindowClosed(last));
        require(forced[run][round][number] == 0, ErrorsLib.AlreadyForced());
        forced[run][round][number] = commitment;
        emit EventsLib.CommitmentForced(run, round, number, commitment);
    }

    /// @inheritdoc ILedger
    function anchorRecord(bytes32 run, uint64 round, bytes32 record) external {
        require(record != 0, ErrorsLib.ZeroValue());
        Run storage info = _posting(run);
        require(
            info.anchoredRounds < info.committedRounds && round == info.anchoredRounds,
            ErrorsLib.WrongRound(info.anchoredRounds, round)
        );
        Round storage times = _rounds[run][round];
        uint256 last = uint256(times.postedAt) + FORCE_BLOCKS;
        require(block.number > last, ErrorsLib.WindowOpen(last + 1));
        times.anchoredAt = uint64(block.number);
        info.anchoredRounds = round + 1;
        info.activeAt = uint64(block.number);
        emit EventsLib.RecordAnchored(run, round, record);
    }

    /* REWARDS */

    /// @inheritdoc ILedger
    function proposeRewards(bytes32 run, uint64 epoch, bytes32 previous, bytes32 root, uint256 total)
        external
        nonReentrant
    {
        require(root != 0, ErrorsLib.ZeroValue());
        Run storage info = _runs[run];
        require(info.status >= OPEN, ErrorsLib.WrongRunStatus(info.status));
        _mayAct(info);
        require(epoch == info.nextEpoch, ErrorsLib.WrongEpoch(info.nextEpoch, epoch));
        require(previous == info.finalRoot, ErrorsLib.WrongPreviousRoot(info.finalRoot, previous));
        require(_pending[run].finalAt == 0, ErrorsLib.RewardsPending());
        require(total >= info.finalTotal, ErrorsLib.TotalFell(info.finalTotal, total));
        require(total <= info.funded, ErrorsLib.TotalExceedsFunding(info.funded, total));
        uint64 finalAt = (block.number + DISPUTE_BLOCKS).toUint64();
        _pending[run] = PendingRewards({
            root: root,
            total: total.toUint128(),
            finalAt: finalAt,
            proposer: msg.sender,
            open: 0,
            grounds: 0,
            proposedAt: uint64(block.number)
        });
        emit EventsLib.RewardsProposed(run, epoch, root, total, finalAt, msg.sender);
        _pull(PROPOSAL_BOND);
    }

    /// @inheritdoc ILedger
    function finalizeRewards(bytes32 run) external nonReentrant {
        PendingRewards memory pending = _pending[run];
        require(pending.finalAt != 0, ErrorsLib.NoPendingRewards());
        require(pending.open == 0, ErrorsLib.CasesOpen(pending.open));
        require(block.number >= pending.finalAt, ErrorsLib.WindowOpen(pending.finalAt));
        delete _pending[run];
        Run storage info = _runs[run];
        uint64 epoch = info.nextEpoch;
        info.nextEpoch = epoch + 1;
        // A finished run's bond is not held back by what others propose.
        if (info.status == OPEN) info.activeAt = uint64(block.number);
        info.finalRoot = pending.root;
        info.finalTotal = pending.total;
        emit EventsLib.RewardsFinalized(run, epoch, pending.root, pending.total);
        IERC20(TOKEN).safeTransfer(pending.proposer, PROPOSAL_BOND);
    }

    /// @inheritdoc ILedger
    function claim(bytes32 run, address account, uint256 cumulative, bytes32[] calldata proof)
        external
        nonReentrant
        returns (uint256 amount)
    {
        Run storage info = _runs[run];
        // Without a final root nothing can be proven: the zero root is nobody's preimage.
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
        require(MerkleProof.verifyCalldata(proof, info.finalRoot, leaf), ErrorsLib.BadProof());
        uint256 before = claimed[run][account];
        require(cumulative > before, ErrorsLib.NothingToClaim());
        amount = cumulative - before;
        uint256 claims = info.claimed + amount;
        require(claims <= info.finalTotal, ErrorsLib.ClaimsExceedTotal(info.finalTotal, claims));
        claimed[run][account] = cumulative;
        info.claimed = claims.toUint128();
        emit EventsLib.Claimed(run, account, amount, cumulative);
        IERC20(TOKEN).safeTransfer(account, amount);
    }

    /* THE JURY'S */

    /// @inheritdoc ILedger
    function countCase(uint64 number, bool opened) external onlyJury {
        if (opened) ++_operators[number].cases;
        else --_operators[number].cases;
    }

    /// @inheritdoc ILedger
    function slash(bytes32 run, uint64 round, uint64 number, uint256 bps)
        external
        onlyJury
        nonReentrant
        returns (uint256 amount)
    {
        Operator storage op = _operators[number];
        amount = (uint256(op.stake) + op.unbonding) * bps / BPS;
        uint128 fromStake = (amount < op.stake ? amount : op.stake).toUint128();
        op.stake -= fromStake;
        op.unbonding -= (amount - fromStake).toUint128();
        if (op.unbonding == 0) op.unbondingAt = 0;
        emit EventsLib.StakeChanged(number, op.stake);
        emit EventsLib.Slashed(number, run, round, amount, op.unbonding);
        IERC20(TOKEN).safeTransfer(JURY, amount);
    }

    /// @inheritdoc ILedger
    function countEquivocation(uint64 number) external onlyJury returns (uint32) {
        return ++_operators[number].equivocations;
    }

    /// @inheritdoc ILedger
    function seizeRunBond(bytes32 run) external onlyJury nonReentrant returns (uint256 amount) {
        Run storage info = _runs[run];
        amount = info.bond;
        info.bond = 0;
        emit EventsLib.RunBondSeized(run, amount);
        IERC20(TOKEN).safeTransfer(JURY, amount);
    }

    /// @inheritdoc ILedger
    function holdRewards(bytes32 run, uint8 ground) external onlyJury returns (uint64) {
        PendingRewards storage pending = _pending[run];
        uint64 finalAt = pending.finalAt;
        require(finalAt != 0, ErrorsLib.NoPendingRewards());
        require(block.number < finalAt, ErrorsLib.WindowClosed(finalAt));
        uint8 bit = uint8(1 << ground);
        require(pending.grounds & bit == 0, ErrorsLib.GroundUsed(ground));
        pending.grounds |= bit;
        ++pending.open;
        return pending.proposedAt;
    }

    /// @inheritdoc ILedger
    function ruleRewards(bytes32 run, uint64 proposedAt, bool wrong)
        external
        onlyJury
        nonReentrant
        returns (uint256 bond)
    {
        PendingRewards storage pending = _pending[run];
        if (pending.proposedAt != proposedAt) return 0;
        if (!wrong) {
            --pending.open;
            return 0;
        }
        emit EventsLib.RewardsCancelled(run, _runs[run].nextEpoch, pending.root);
        delete _pending[run];
        IERC20(TOKEN).safeTransfer(JURY, PROPOSAL_BOND);
        return PROPOSAL_BOND;
    }

    /// @inheritdoc ILedger
    function reopenRewards(bytes32 run, uint64 proposedAt, uint8 ground) external onlyJury {
        PendingRewards storage pending = _pending[run];
        if (pending.proposedAt != proposedAt) return;
        --pending.open;
        pending.grounds &= ~uint8(1 << ground);
        pending.finalAt = (block.number + DISPUTE_BLOCKS).toUint64();
        emit EventsLib.RewardsReopened(run, _runs[run].nextEpoch, ground, pending.finalAt);
    }

    /* VIEWS */

    /// @inheritdoc ILedger
    function peerLinkDigest(address wallet, bytes32 pubX, uint256 pubY) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(PEER_LINK_TYPEHASH, wallet, pubX, pubY)));
    }

    /// @inheritdoc ILedger
    function messageDigest(bytes32 run, uint64 round, string calldata role, string calldata kind, bytes32 body)
        external
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(MESSAGE_TYPEHASH, run, round, keccak256(bytes(role)), keccak256(bytes(kind)), body)
            )
        );
    }

    /// @inheritdoc ILedger
    function answersFor(address peer) external view returns (uint64 number) {
        uint256 retired = _retiredAt[peer];
        if (retired == 0 || block.number < retired + UNBONDING_BLOCKS) number = numberOfPeer[peer];
    }

    /// @inheritdoc ILedger
    function operator(uint64 number) external view returns (Operator memory) {
        return _operators[number];
    }

    /// @inheritdoc ILedger
    function runInfo(bytes32 run) external view returns (Run memory) {
        return _runs[run];
    }

    /// @inheritdoc ILedger
    function roundInfo(bytes32 run, uint64 round) external view returns (Round memory) {
        return _rounds[run][round];
    }

    /// @inheritdoc ILedger
    function rosterBlock(bytes32 run, uint64 round) external view returns (uint64) {
        return round == 0 ? _runs[run].openedAt : _rounds[run][round - 1].anchoredAt;
    }

    /// @inheritdoc ILedger
    function pendingRewards(bytes32 run) external view returns (PendingRewards memory) {
        return _pending[run];
    }

    /// @inheritdoc ILedger
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /* INTERNAL */

    function _register(uint8 role, bytes32 pubX, uint256 pubY, bytes calldata sig, uint256 amount)
        private
        returns (uint64 number)
    {
        require(role == CONTRIBUTOR || role == VERIFIER, ErrorsLib.UnknownRole(role));
        require(amount >= MIN_STAKE, ErrorsLib.StakeTooLow(amount, MIN_STAKE));
        require(numberOf[msg.sender] == 0, ErrorsLib.WalletTaken(msg.sender));
        number = ++operatorCount;
        numberOf[msg.sender] = number;
        Operator storage op = _operators[number];
        op.wallet = msg.sender;
        op.role = role;
        op.stake = amount.toUint128();
        op.peer = _link(number, pubX, pubY, sig);
        emit EventsLib.Registered(number, msg.sender, op.peer, role, pubX, pubY);
        emit EventsLib.StakeChanged(number, amount);
        _pull(amount);
    }

    function _link(uint64 number, bytes32 pubX, uint256 pubY, bytes calldata sig) private returns (address peer) {
        peer = address(uint160(uint256(keccak256(abi.encodePacked(pubX, pubY)))));
        require(numberOfPeer[peer] == 0, ErrorsLib.PeerTaken(peer));
        (address signer, ECDSA.RecoverError err,) =
            ECDSA.tryRecoverCalldata(peerLinkDigest(msg.sender, pubX, pubY), sig);
        require(err == ECDSA.RecoverError.NoError && signer == peer, ErrorsLib.BadPeerLink());
        numberOfPeer[peer] = number;
    }

    function _credit(bytes32 run, Run storage info, uint256 amount) private {
        info.funded += amount.toUint128();
        emit EventsLib.RunFunded(run, msg.sender, amount, info.funded);
    }

    function _pull(uint256 amount) private {
        uint256 before = IERC20(TOKEN).balanceOf(address(this));
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), amount);
        uint256 given = IERC20(TOKEN).balanceOf(address(this)) - before;
        require(given == amount, ErrorsLib.WrongAmount(amount, given));
    }

    function _senderNumber() private view returns (uint64 number) {
        number = numberOf[msg.sender];
        require(number != 0, ErrorsLib.NotRegistered());
    }

    function _coordinated(bytes32 run, uint8 status) private view returns (Run storage info) {
        info = _runs[run];
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        require(info.coordinator == msg.sender, ErrorsLib.NotCoordinator());
        require(info.status == status, ErrorsLib.WrongRunStatus(info.status));
    }

    /// @dev An open run whose rounds the sender may post: stake answers for who is not its coordinator.
    function _posting(bytes32 run) private returns (Run storage info) {
        info = _runs[run];
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        require(info.status == OPEN, ErrorsLib.WrongRunStatus(info.status));
        uint64 number;
        if (msg.sender != info.coordinator) {
            _mayAct(info);
            number = _senderNumber();
            uint128 stake = _operators[number].stake;
            require(stake >= MIN_STAKE, ErrorsLib.StakeTooLow(stake, MIN_STAKE));
        }
        if (number != info.standIn) {
            info.standIn = number;
            emit EventsLib.StoodIn(run, number);
        }
    }

    function _mayAct(Run storage info) private view {
        require(
            msg.sender == info.coordinator || block.number > uint256(info.activeAt) + TIMEOUT_BLOCKS
                || (info.standIn != 0 && info.standIn == numberOf[msg.sender]),
            ErrorsLib.NotCoordinator()
        );
    }
}
