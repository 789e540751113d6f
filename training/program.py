"""The golden digest of codec, outer step, assignment and sampling, which a node must reproduce before it may join."""

from functools import cache

import numpy as np
from blake3 import blake3

from protocol.canonical import ZERO_DIGEST, digest, tagged_digest
from protocol.errors import ConfigError
from protocol.manifest import (
    LOCAL_CHAIN_ID,
    CodecConfig,
    DatasetConfig,
    DeadlineConfig,
    InnerConfig,
    MergingConfig,
    OuterConfig,
    PayConfig,
    RunManifest,
    VerificationConfig,
)
from protocol.model_config import ModelConfig
from protocol.rollout_config import (
    EnvironmentConfig,
    PolicyConfig,
    RewardWeight,
    RolloutConfig,
    RolloutTolerance,
    SamplingConfig,
)
from protocol.rollouts import Sample, Shape, encode_group, group_digest, quantise
from protocol.tensors import Floats, parameter_layout
from protocol.update import Symbols, decode, encode, symbols_digest
from training.activations import fingerprint, projections
from training.assignment import assignment, assignment_digest, task_seeds
from training.codec import compress
from training.joint import merge, share_of
from training.merging import cosines, judge_updates
from training.outer import Clipped, OuterState, aggregate, contribution, initial_state, parameters_file
from training.preferences import preference_values
from training.rewards import total_reward
from training.sampling import choose, noise_at, noise_key
from training.second_moments import values_of, with_slice

_ADDRESS = "0x" + "00" * 20
_PEERS = 3
_PAIRS = ((0, 1), (1, 2), (0, 2), (3, 0), (1, 2), (4, 1))  # which samples people prefer to which
_WEIGHTS = (3, 1, 2)
_ROUNDS = 2


@cache
def program_digest() -> str:
    """Run codec, outer step, assignment and sampling on a fixed input and return the digest of all results.

    The input is made from a hash by exact operations, so the digest is a property of the code alone: 64 hex
    digits.
    """
    return tagged_digest(
        "murmur/program",
        *(part for codec, outer in _CASES for part in _trace(codec, outer)),
        *_moments_trace(),
        *_rollout_trace(),
    )


def check_program(manifest: RunManifest, computed: object) -> str:
    """Return the run's program digest, which a machine must have computed.

    Raises:
        ConfigError: it computed another.
    """
    if computed != manifest.program:
        raise ConfigError(
            f"this machine computes program {computed}, the run demands {manifest.program}",
            hint="install the release that the run was made with",
        )
    return manifest.program


_CASES = (
    (
        CodecConfig(kind="sparse", chunk=4096, k=256, bits=4, block=256, decay=0.95),
        OuterConfig(lr=1.5, momentum=0.0),
    ),
    (
        CodecConfig(kind="sparse", chunk=1000, k=999, bits=4, block=256, decay=0.5),
        OuterConfig(lr=0.3, momentum=0.9),
    ),
    (
        CodecConfig(kind="dense", chunk=4096, k=256, bits=4, block=256, decay=1.0),
        OuterConfig(lr=0.7, momentum=0.6),
    ),
    (
        CodecConfig(kind="dense", chunk=4096, k=256, bits=8, block=100, decay=0.9),
        OuterConfig(lr=1.0, momentum=0.0),
    ),
)

_ROLLOUTS = RolloutConfig(
    environment=EnvironmentConfig(
        name="golden", version="1", settings="{}", settings_hash=ZERO_DIGEST, players=2
    ),
    tokenizer=None,
    sampling=SamplingConfig(
        groups=2, group_size=2, temperature=0.75, end_token=10, turns=2, turn_tokens=8, tokens=20
    ),
    policy=PolicyConfig(clip_low=0.2, clip_high=0.28, bound=4.0),
    rewards=(RewardWeight(component="golden", weight=1.0),),
    lag=2,
    tolerances=(
        RolloutTolerance(
            profile="golden", regret=0.5, median_off=0.5, max_off=0.5, fingerprint=0.5, slash_regret=1.0
        ),
    ),
)


def _manifest(codec: CodecConfig, outer: OuterConfig) -> RunManifest:
    """Spell every field, so that a changed default is no changed program."""
    return RunManifest(
        version=1,
        name="golden",
        chain_id=LOCAL_CHAIN_ID,
        ledger=_ADDRESS,
        coordinator=_ADDRESS,
        rounds=_ROUNDS,
        min_peers=1,
        model=ModelConfig(vocab=256, width=24, layers=1, heads=2, feed_forward=40, context=16),
        inner=InnerConfig(
            steps=2,
            batch=3,
            lr=0.004,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
            moments="carried",
            slices=3,
            warmup_steps=4,
            min_lr_fraction=0.1,
        ),
        outer=outer,
        codec=codec,
        merging=MergingConfig(gate_windows=1, similarity=0.25, joint_k=200),
        dataset=DatasetConfig(name="golden", root=ZERO_DIGEST, tokens=100_003, heldout=0.05),
        verification=VerificationConfig(segment_steps=1, verifiers=2),
        deadlines=DeadlineConfig(ready=1, commit=2, reveal=2, verify=2),
        pay=PayConfig(unit_wei=1, verdict_wei=1, epoch_rounds=1),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


def _values(label: int, size: int, magnitude_bits: int) -> Floats:
    """Return float32[size] in (-1, 1) of widely spread magnitudes, zeros and ties, by exact operations."""
    words = np.frombuffer(blake3(label.to_bytes(8, "little")).digest(length=4 * size), "<u4").astype(np.int64)
    mantissas = (words & 0xFFFFFF) - 0x800000
    shifts = (words >> 24) % magnitude_bits
    values = np.ldexp(mantissas.astype(np.float64), -23 - shifts)
    values[::17] = values[0]
    values[::23] = 0.0
    return np.asarray(values, dtype=np.float32)


def _trace(codec: CodecConfig, outer: OuterConfig) -> list[str]:
    """Return what every round of a small synthetic run produced, as digests."""
    manifest = _manifest(codec, outer)
    size = parameter_layout(manifest.model).size
    state: OuterState = initial_state(manifest, _values(0, size, 4))
    residuals: list[Floats | None] = [None] * _PEERS
    found: list[str] = []
    before: list[Symbols] = []
    scores: list[int | None] = [None] * _PEERS
    for round_ in range(_ROUNDS):
        updates: list[Symbols] = []
        for number in range(_PEERS):
            delta = _values(1 + round_ * _PEERS + number, size, 12) * np.float32(2.0 ** (3 * number - 8))
            symbols, residual = compress(codec, delta, residuals[number])
            residuals[number] = residual
            updates.append(decode(encode(symbols), codec=codec, size=size))
            offsets = assignment(manifest, digest(number.to_bytes(1)), round_, number)
            found += [
                symbols_digest(symbols),
                digest(residual.astype("<f4").tobytes()),
                assignment_digest(offsets),
            ]
        # Of the round before, the one that set the clip and the one that was clipped are taken back.
        retracted = [contribution(before, index, _WEIGHTS) for index in range(1, len(before))]
        merits = judge_updates(manifest, state, updates, _WEIGHTS, scores, _any_loss)
        scores = [one.score for one in merits]
        found += [digest(repr(merit).encode()) for merit in merits]
        found.append(digest(repr(cosines(updates, Clipped(updates), range(_PEERS))).encode()))
        joint = merge(manifest, updates, _WEIGHTS)
        shares = (share_of(updates, index, _WEIGHTS, joint) for index in range(_PEERS))
        found += [
            symbols_digest(joint),
            *(digest(share.integers.astype("<i8").tobytes()) for share in shares),
        ]
        state, before = aggregate(manifest, state, updates, retracted, _WEIGHTS), updates
        found.append(digest(parameters_file(manifest, state)))
    return found


def _any_loss(parameters: Floats) -> int:
    """Stand for a loss: any function of the bits will do."""
    return int.from_bytes(bytes.fromhex(digest(parameters.astype("<f4").tobytes()))[:4], "little")


def _moments_trace() -> list[str]:
    """Return what updates say of second moments, and what is kept of it, as digests."""
    manifest = _manifest(*_CASES[0])
    published = manifest.inner.model_copy(update={"moments": "published"})
    manifest = manifest.model_copy(update={"inner": published})
    size = parameter_layout(manifest.model).size
    updates: list[Symbols] = []
    for number in range(2 * _PEERS):
        symbols, _ = compress(manifest.codec, _values(200 + number, size, 12))
        second = np.abs(_values(300 + number, size, 30))
        said = with_slice(manifest, symbols, second, digest(b"beacon"), 1, number)
        updates.append(decode(encode(said), codec=manifest.codec, size=size, slices=manifest.moment_slices))
    state = aggregate(manifest, initial_state(manifest, _values(0, size, 4)), updates)
    assert state.moments is not None, "the run publishes them"
    return [
        *map(symbols_digest, updates),
        digest(parameters_file(manifest, state)),
        digest(values_of(state.moments).astype("<f4").tobytes()),
    ]


def _rollout_trace() -> list[str]:
    """Return what a policy's noise, its samples' bytes and their fingerprints are, as digests."""
    vocab, width, rows = 300, 24, 64
    places = [(bytes.fromhex(digest(row.to_bytes(1))), 5 * row) for row in range(rows)]
    key = noise_key(digest(b"run"), digest(b"weights"), 2**63 + 1, 3)
    words = noise_at([*places, (key, 2**16)], vocab)
    logits = _values(100, words.size, 6).reshape(words.shape) * np.float32(8)
    tokens, scores = choose(logits, words, 0.75)
    log_probabilities = np.asarray(_values(101, 4096, 8), np.float64)
    codes = quantise(-36 * log_probabilities * log_probabilities)
    shown = fingerprint(projections(_values(102, rows * width, 4).reshape(rows, width), places).sum(axis=0))
    sample = Sample(
        np.arange(20, dtype=np.uint16),
        np.array([[4, 9], [12, 20]], np.uint16),
        np.array([0, 1], np.uint8),
        codes[:13],
        np.asarray(_values(103, 4, 4), np.float64).reshape(2, 2),
        shown,
    )
    group = encode_group((sample, sample), Shape(_ROLLOUTS.sampling, 2, vocab, 2))
    manifest = _manifest(*_CASES[0]).model_copy(update={"rollouts": _ROLLOUTS})
    return [
        digest(words.astype("<u4").tobytes()),
        digest(tokens.astype("<i8").tobytes()),
        digest(scores.astype("<f8").tobytes()),
        digest(codes.tobytes()),
        digest(sample.log_probabilities.astype("<f8").tobytes()),
        digest(np.array([total_reward(own, (0.3, -0.7)) for own in sample.rewards], "<f8").tobytes()),
        digest(np.array(preference_values(5, _PAIRS), "<f8").tobytes()),
        group_digest(group),
        *(f"{seed:016x}" for seed in task_seeds(manifest, digest(b"beacon"), 1, 2)),
    ]
