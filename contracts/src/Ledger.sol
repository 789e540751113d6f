// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {ILedger} from "./interfaces/ILedger.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";

/// @title Ledger
/// @notice See `ILedger`. The balance is the sum of stakes, unbonding funds, bonds of open appeals and what the pots
/// have not paid.
contract Ledger is ILedger, EIP712, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    uint8 private constant CONTRIBUTOR = 1;
    uint8 private constant VERIFIER = 2;

    uint8 private constant CREATED = 1;
    uint8 private constant OPEN = 2;
    uint8 private constant FINISHED = 3;

    uint8 private constant PASSED = 1;
    uint8 private constant PROVEN_FALSE = 3;

    uint8 private constant APPEALED = 1;
    uint8 private constant UPHELD = 2;
    uint8 private constant REFUSED = 3;
    uint8 private constant RELEASED = 4;

    bytes32 private constant PEER_LINK_TYPEHASH = keccak256("PeerLink(address wallet,bytes32 pubX,uint256 pubY)");
    bytes32 private constant MESSAGE_TYPEHASH =
        keccak256("Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)");

    /// @inheritdoc ILedger
    address public immutable TOKEN;
    /// @inheritdoc ILedger
    uint128 public immutable MIN_STAKE;
    /// @inheritdoc ILedger
    uint64 public immutable UNBONDING_BLOCKS;
    /// @inheritdoc ILedger
    uint64 public immutable DISPUTE_BLOCKS;
    /// @inheritdoc ILedger
    uint128 public immutable APPEAL_BOND;
    /// @inheritdoc ILedger
    uint64 public immutable APPEAL_BLOCKS;

    /// @inheritdoc ILedger
    uint64 public operatorCount;
    /// @inheritdoc ILedger
    mapping(address wallet => uint64) public numberOf;
    /// @inheritdoc ILedger
    mapping(address peer => uint64) public numberOfPeer;
    /// @inheritdoc ILedger
    mapping(bytes32 run => mapping(address account => uint256)) public claimed;
    /// @inheritdoc ILedger
    mapping(bytes32 run => mapping(uint64 round => mapping(uint64 number => bool))) public slashed;
    /// @inheritdoc ILedger
    uint64 public appealCount;

    mapping(uint64 number => Operator) private _operators;
    mapping(bytes32 run => Run) private _runs;
    mapping(bytes32 run => PendingRewards) private _pending;
    mapping(uint64 case_ => Appeal) private _appeals;
    mapping(bytes32 subject => uint64 case_) private _cases;

    /// @param token an ERC-20 with permit and burn that takes no fee on transfers.
    constructor(
        address token,
        uint128 minStake,
        uint64 unbondingBlocks,
        uint64 disputeBlocks,
        uint128 appealBond,
        uint64 appealBlocks
    ) EIP712("Murmur", "1") {
        require(block.chainid == 31337, ErrorsLib.WrongChain(block.chainid));
        require(
            token != address(0) && minStake != 0 && unbondingBlocks != 0 && disputeBlocks != 0 && appealBond != 0
                && appealBlocks != 0,
            ErrorsLib.ZeroParameter()
        );
        TOKEN = token;
        MIN_STAKE = minStake;
        UNBONDING_BLOCKS = unbondingBlocks;
        DISPUTE_BLOCKS = disputeBlocks;
        APPEAL_BOND = appealBond;
        APPEAL_BLOCKS = appealBlocks;
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
        op.unbonding = 0;
        op.unbondingAt = 0;
        emit EventsLib.Withdrawn(number, amount);
        IERC20(TOKEN).safeTransfer(msg.sender, amount);
    }

    /* RUNS */

    /// @inheritdoc ILedger
    function createRun(bytes32 run, address coordinatorKey, uint256 funding) external nonReentrant {
        require(run != 0 && coordinatorKey != address(0), ErrorsLib.ZeroValue());
        Run storage info = _runs[run];
        require(info.status == 0, ErrorsLib.RunExists(run));
        info.coordinator = msg.sender;
        info.coordinatorKey = coordinatorKey;
        info.status = CREATED;
        emit EventsLib.RunCreated(run, msg.sender, coordinatorKey);
        if (funding != 0) _fund(run, info, funding);
    }

    /// @inheritdoc ILedger
    function fund(bytes32 run, uint256 amount) external nonReentrant {
        require(amount != 0, ErrorsLib.ZeroValue());
        Run storage info = _runs[run];
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        _fund(run, info, amount);
    }

    /// @inheritdoc ILedger
    function openRun(bytes32 run) external {
        Run storage info = _coordinated(run);
        require(info.status == CREATED, ErrorsLib.WrongRunStatus(info.status));
        info.status = OPEN;
        emit EventsLib.RunOpened(run);
    }

    /// @inheritdoc ILedger
    function finishRun(bytes32 run, bytes32 parameters) external {
        require(parameters != 0, ErrorsLib.ZeroValue());
        Run storage info = _coordinated(run);
        require(info.status == OPEN, ErrorsLib.WrongRunStatus(info.status));
        info.status = FINISHED;
        emit EventsLib.RunFinished(run, parameters);
    }

    /// @inheritdoc ILedger
    function postCommitments(bytes32 run, uint64 round, bytes32 root, uint32 count) external {
        Run storage info = _coordinated(run);
        require(info.status == OPEN, ErrorsLib.WrongRunStatus(info.status));
        // Equal counters mean that the previous record is anchored, and that the next round is that count.
        require(
            info.committedRounds == info.anchoredRounds && round == info.committedRounds,
            ErrorsLib.WrongRound(info.committedRounds, round)
        );
        require((root == 0) == (count == 0), ErrorsLib.RootCountMismatch());
        info.committedRounds = round + 1;
        emit EventsLib.CommitmentsPosted(run, round, root, count);
    }

    /// @inheritdoc ILedger
    function anchorRecord(bytes32 run, uint64 round, bytes32 record) external {
        require(record != 0, ErrorsLib.ZeroValue());
        Run storage info = _coordinated(run);
        require(info.status == OPEN, ErrorsLib.WrongRunStatus(info.status));
        require(
            info.anchoredRounds < info.committedRounds && round == info.anchoredRounds,
            ErrorsLib.WrongRound(info.anchoredRounds, round)
        );
        info.anchoredRounds = round + 1;
        emit EventsLib.RecordAnchored(run, round, record);
    }

    /* REWARDS */

    /// @inheritdoc ILedger
    function proposeRewards(bytes32 run, uint64 epoch, bytes32 root, uint256 total) external {
        require(root != 0, ErrorsLib.ZeroValue());
        Run storage info = _coordinated(run);
        require(info.status >= OPEN, ErrorsLib.WrongRunStatus(info.status));
        require(epoch == info.nextEpoch, ErrorsLib.WrongEpoch(info.nextEpoch, epoch));
        require(_pending[run].finalAt == 0, ErrorsLib.RewardsPending());
        require(total >= info.finalTotal, ErrorsLib.TotalFell(info.finalTotal, total));
        require(total <= info.funded, ErrorsLib.TotalExceedsFunding(info.funded, total));
        uint64 finalAt = (block.number + DISPUTE_BLOCKS).toUint64();
        _pending[run] = PendingRewards({root: root, total: total.toUint128(), finalAt: finalAt});
        emit EventsLib.RewardsProposed(run, epoch, root, total, finalAt);
    }

    /// @inheritdoc ILedger
    function disputeRewards(bytes32 run, bytes32 reason) external {
        uint64 number = _stakedSender();
        uint64 finalAt = _pending[run].finalAt;
        require(finalAt != 0, ErrorsLib.NoPendingRewards());
        require(block.number < finalAt, ErrorsLib.WindowClosed(finalAt));
        delete _pending[run];
        emit EventsLib.RewardsDisputed(run, _runs[run].nextEpoch, number, reason);
    }

    /// @inheritdoc ILedger
    function finalizeRewards(bytes32 run) external {
        PendingRewards memory pending = _pending[run];
        require(pending.finalAt != 0, ErrorsLib.NoPendingRewards());
        require(block.number >= pending.finalAt, ErrorsLib.WindowOpen(pending.finalAt));
        delete _pending[run];
        Run storage info = _runs[run];
        uint64 epoch = info.nextEpoch;
        info.nextEpoch = epoch + 1;
        info.finalRoot = pending.root;
        info.finalTotal = pending.total;
        emit EventsLib.RewardsFinalized(run, epoch, pending.root, pending.total);
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

    /* APPEALS */

    /// @inheritdoc ILedger
    function appeal(bytes32 run, uint64 round, uint64 number, uint64 segment)
        external
        nonReentrant
        returns (uint64 case_)
    {
        uint64 appellant = _stakedSender();
        _accused(run, round, number);
        bytes32 subject = _subject(run, round, number, segment, appellant == number);
        require(_cases[subject] == 0, ErrorsLib.AlreadyAppealed(_cases[subject]));

        case_ = ++appealCount;
        _cases[subject] = case_;
        _appeals[case_] = Appeal({
            run: run,
            round: round,
            number: number,
            segment: segment,
            appellant: appellant,
            openedAt: block.number.toUint64(),
            status: APPEALED,
            outcome: 0
        });
        emit EventsLib.Appealed(case_, run, round, number, segment, appellant, APPEAL_BOND);
        _pull(APPEAL_BOND);
    }

    /// @inheritdoc ILedger
    function settleAppeal(uint64 case_, uint8 outcome, Verdict calldata a, Verdict calldata b) external nonReentrant {
        Appeal storage info = _openAppeal(case_);
        require(outcome >= PASSED && outcome <= PROVEN_FALSE, ErrorsLib.UnknownOutcome(outcome));
        _checkVerdicts(info.run, info.round, info.number, case_, outcome, a, b);
        bool contest = info.appellant == info.number;
        bool upheld = contest == (outcome == PASSED);
        info.status = upheld ? UPHELD : REFUSED;
        info.outcome = outcome;
        emit EventsLib.AppealSettled(case_, outcome, upheld, a.evidence, b.evidence);

        address appellant = _operators[info.appellant].wallet;
        if (upheld) {
            IERC20(TOKEN).safeTransfer(appellant, APPEAL_BOND);
            return;
        }
        uint256 damages = contest ? 0 : APPEAL_BOND / 2;
        _credit(info.run, _runs[info.run], appellant, APPEAL_BOND - damages);
        if (damages != 0) IERC20(TOKEN).safeTransfer(_operators[info.number].wallet, damages);
    }

    /// @inheritdoc ILedger
    function releaseAppeal(uint64 case_) external nonReentrant {
        Appeal storage info = _openAppeal(case_);
        uint256 releasableAt = uint256(info.openedAt) + APPEAL_BLOCKS;
        require(block.number >= releasableAt, ErrorsLib.AppealOpen(releasableAt));
        info.status = RELEASED;
        emit EventsLib.AppealReleased(case_);
        IERC20(TOKEN).safeTransfer(_operators[info.appellant].wallet, APPEAL_BOND);
    }

    /* SLASHING */

    /// @inheritdoc ILedger
    function slash(bytes32 run, uint64 round, uint64 number, uint64 case_, Verdict calldata a, Verdict calldata b)
        external
        nonReentrant
    {
        Operator storage accused = _accused(run, round, number);
        require(!slashed[run][round][number], ErrorsLib.AlreadySlashed());
        _checkVerdicts(run, round, number, case_, PROVEN_FALSE, a, b);

        uint256 amount = uint256(accused.stake) + accused.unbonding;
        require(amount != 0, ErrorsLib.NothingToSlash(number));
        slashed[run][round][number] = true;
        accused.stake = 0;
        accused.unbonding = 0;
        accused.unbondingAt = 0;
        emit EventsLib.StakeChanged(number, 0);
        emit EventsLib.Slashed(number, run, round, amount, a.evidence, b.evidence);
        ERC20Burnable(TOKEN).burn(amount);
    }

    /* VIEWS */

    /// @inheritdoc ILedger
    function peerLinkDigest(address wallet, bytes32 pubX, uint256 pubY) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(PEER_LINK_TYPEHASH, wallet, pubX, pubY)));
    }

    /// @inheritdoc ILedger
    function verdictDigest(
        bytes32 run,
        uint64 round,
        uint64 number,
        uint64 case_,
        uint64 verifier,
        uint8 outcome,
        bytes32 evidence
    ) public view returns (bytes32) {
        bytes32 body = keccak256(abi.encode(number, case_, verifier, outcome, evidence));
        return _hashTypedDataV4(
            keccak256(abi.encode(MESSAGE_TYPEHASH, run, round, keccak256("verifier"), keccak256("verdict"), body))
        );
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
    function pendingRewards(bytes32 run) external view returns (PendingRewards memory) {
        return _pending[run];
    }

    /// @inheritdoc ILedger
    function appealInfo(uint64 case_) external view returns (Appeal memory) {
        return _appeals[case_];
    }

    /// @inheritdoc ILedger
    function caseOf(bytes32 run, uint64 round, uint64 number, uint64 segment, bool contest)
        external
        view
        returns (uint64)
    {
        return _cases[_subject(run, round, number, segment, contest)];
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
        address peer = address(uint160(uint256(keccak256(abi.encodePacked(pubX, pubY)))));
        require(numberOfPeer[peer] == 0, ErrorsLib.PeerTaken(peer));
        require(_signed(peerLinkDigest(msg.sender, pubX, pubY), sig, peer), ErrorsLib.BadPeerLink());

        number = ++operatorCount;
        numberOf[msg.sender] = number;
        numberOfPeer[peer] = number;
        _operators[number] = Operator({
            wallet: msg.sender, role: role, unbondingAt: 0, peer: peer, stake: amount.toUint128(), unbonding: 0
        });
        emit EventsLib.Registered(number, msg.sender, peer, role, pubX, pubY);
        emit EventsLib.StakeChanged(number, amount);
        _pull(amount);
    }

    function _fund(bytes32 run, Run storage info, uint256 amount) private {
        _credit(run, info, msg.sender, amount);
        _pull(amount);
    }

    function _credit(bytes32 run, Run storage info, address from, uint256 amount) private {
        info.funded += amount.toUint128();
        emit EventsLib.RunFunded(run, from, amount, info.funded);
    }

    function _pull(uint256 amount) private {
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), amount);
    }

    function _senderNumber() private view returns (uint64 number) {
        number = numberOf[msg.sender];
        require(number != 0, ErrorsLib.NotRegistered());
    }

    function _stakedSender() private view returns (uint64 number) {
        number = _senderNumber();
        uint128 stake = _operators[number].stake;
        require(stake >= MIN_STAKE, ErrorsLib.StakeTooLow(stake, MIN_STAKE));
    }

    /// @dev The contributor whose unit of an anchored round is in question.
    function _accused(bytes32 run, uint64 round, uint64 number) private view returns (Operator storage accused) {
        Run storage info = _runs[run];
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        require(round < info.anchoredRounds, ErrorsLib.RoundNotAnchored(round));
        accused = _operators[number];
        require(accused.role == CONTRIBUTOR, ErrorsLib.NotAContributor(number));
    }

    function _subject(bytes32 run, uint64 round, uint64 number, uint64 segment, bool contest)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(run, round, number, segment, contest));
    }

    function _openAppeal(uint64 case_) private view returns (Appeal storage info) {
        info = _appeals[case_];
        require(info.status != 0, ErrorsLib.UnknownAppeal(case_));
        require(info.status == APPEALED, ErrorsLib.AppealOver(case_));
    }

    function _coordinated(bytes32 run) private view returns (Run storage info) {
        info = _runs[run];
        require(info.status != 0, ErrorsLib.UnknownRun(run));
        require(info.coordinator == msg.sender, ErrorsLib.NotCoordinator());
    }

    function _checkVerdicts(
        bytes32 run,
        uint64 round,
        uint64 number,
        uint64 case_,
        uint8 outcome,
        Verdict calldata a,
        Verdict calldata b
    ) private view {
        require(a.verifier != b.verifier, ErrorsLib.SameVerifier(a.verifier));
        _checkVerdict(run, round, number, case_, outcome, a);
        _checkVerdict(run, round, number, case_, outcome, b);
    }

    function _checkVerdict(
        bytes32 run,
        uint64 round,
        uint64 number,
        uint64 case_,
        uint8 outcome,
        Verdict calldata verdict
    ) private view {
        Operator storage judge = _operators[verdict.verifier];
        require(
            judge.role == VERIFIER && judge.stake >= MIN_STAKE, ErrorsLib.NotAStakedVerifier(verdict.verifier)
        );
        bytes32 digest = verdictDigest(run, round, number, case_, verdict.verifier, outcome, verdict.evidence);
        require(_signed(digest, verdict.signature, judge.peer), ErrorsLib.BadVerdict(verdict.verifier));
    }

    function _signed(bytes32 digest, bytes calldata sig, address signer) private pure returns (bool) {
        (address recovered, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(digest, sig);
        return err == ECDSA.RecoverError.NoError && recovered == signer;
    }
}
