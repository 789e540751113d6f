"""Make the golden vectors of codec and outer step: `python tests/golden/outer.py` writes outer.json beside itself.

Run it only when the arithmetic is meant to change: every run's manifest pins `program`, so a changed digest parts
new nodes from old runs.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from protocol.canonical import ZERO_DIGEST, digest
from protocol.manifest import LOCAL_CHAIN_ID, CodecConfig, DatasetConfig, OuterConfig, RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from protocol.update import symbols_digest
from training.codec import compress
from training.outer import aggregate, contribution, initial_state, parameters_file
from training.program import program_digest

PATH = Path(__file__).with_suffix(".json")
PEERS, ROUNDS = 4, 3
CASES = {
    "sparse": (CodecConfig(kind="sparse", chunk=4096, k=256, decay=0.95), OuterConfig(lr=1.5, momentum=0.0)),
    "dense, momentum": (
        CodecConfig(kind="dense", bits=4, block=256, decay=1.0),
        OuterConfig(lr=0.7, momentum=0.6),
    ),
}


def values(label: str, size: int) -> np.ndarray:
    """Return float32[size] like a pseudo-gradient, by exact operations from a hash."""
    words = np.frombuffer(hashlib.shake_256(label.encode()).digest(8 * size), "<i4").reshape(2, -1)
    product = words[0].astype(np.float64) * words[1].astype(np.float64)
    return np.ldexp(product, -70).astype(np.float32)


def roots(codec: CodecConfig, outer: OuterConfig) -> dict[str, list[str]]:
    """Return the symbols of every update and the parameter root of every round of a small run."""
    address = "0x" + "00" * 20
    manifest = RunManifest(
        name="golden",
        chain_id=LOCAL_CHAIN_ID,
        ledger=address,
        coordinator=address,
        rounds=ROUNDS,
        model=ModelConfig(vocab=256, width=32, layers=1, heads=2, feed_forward=64, context=16),
        codec=codec,
        outer=outer,
        dataset=DatasetConfig(name="golden", root=ZERO_DIGEST, tokens=100_000),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )
    size = parameter_layout(manifest.model).size
    state = initial_state(manifest, values("start", size))
    residuals: list[np.ndarray | None] = [None] * PEERS
    found: dict[str, list[str]] = {"symbols": [], "residuals": [], "parameters": []}
    before = []
    for round_ in range(ROUNDS):
        updates = []
        for peer in range(PEERS):
            loud = np.float32(1000 if (round_, peer) == (1, 2) else 1)
            symbols, residual = compress(codec, values(f"{round_} {peer}", size) * loud, residuals[peer])
            residuals[peer] = residual
            updates.append(symbols)
            found["symbols"].append(symbols_digest(symbols))
            found["residuals"].append(digest(residual.astype("<f4").tobytes()))
        # What the loud peer gave is taken back in the round after.
        retracted = [contribution(before, 2)] if round_ == 2 else []
        state, before = aggregate(manifest, state, updates, retracted), updates
        found["parameters"].append(digest(parameters_file(manifest, state)))
    return found


def vectors() -> dict[str, object]:
    """Return everything that is frozen."""
    return {"program": program_digest(), **{name: roots(*case) for name, case in CASES.items()}}


if __name__ == "__main__":
    text = json.dumps(vectors(), indent=1) + "\n"
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(text)
    else:
        PATH.write_text(text)
