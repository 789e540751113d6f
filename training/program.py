"""The golden digest of codec, outer step and assignment, which a node must reproduce before it may join."""

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
    ModelConfig,
    OuterConfig,
    PayConfig,
    RunManifest,
    VerificationConfig,
)
from protocol.tensors import Floats, parameter_layout
from protocol.update import Symbols, decode, encode, symbols_digest
from training.assignment import assignment, assignment_digest
from training.codec import compress
from training.outer import OuterState, aggregate, contribution, initial_state, parameters_file

_ADDRESS = "0x" + "00" * 20
_PEERS = 3
_ROUNDS = 2


@cache
def program_digest() -> str:
    """Run the codec, the outer step and the assignment on a fixed input and return the digest of all results.

    The input is made from a hash by exact operations, so the digest is a property of the code alone: 64 hex
    digits.
    """
    return tagged_digest(
        "murmur/program", *(part for codec, outer in _CASES for part in _trace(codec, outer))
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
            warmup_steps=4,
            min_lr_fraction=0.1,
        ),
        outer=outer,
        codec=codec,
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
        retracted = [contribution(before, index) for index in range(1, len(before))]
        state, before = aggregate(manifest, state, updates, retracted), updates
        found.append(digest(parameters_file(manifest, state)))
    return found
