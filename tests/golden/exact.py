"""Make the golden vectors of exact arithmetic: `python tests/golden/exact.py` writes exact.json beside itself.

`--print` writes them to stdout instead, so that other environments can be compared. Run it only when the arithmetic
is meant to change: verdicts name the digest of an exact replay, so machines that differ here cannot judge together.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from protocol.canonical import ZERO_DIGEST, digest
from protocol.manifest import DatasetConfig, InnerConfig, MuonConfig, RunManifest, VerificationConfig
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from training.corpus import Shard
from training.exact import ExactTrainer
from training.exact_math import Fixed, exact_sum, exp, log, matmul, rotation_table, scatter_sum, sigmoid
from training.inner import InnerState, prepare_process
from training.sampling import gumbel

PATH = Path(__file__).with_suffix(".json")
STEPS = 3


def values(label: str, *shape: int) -> np.ndarray:
    """Return float32 values in (-1, 1) of spread magnitudes, by exact operations from a hash."""
    words = np.frombuffer(hashlib.shake_256(label.encode()).digest(8 * int(np.prod(shape))), "<i4")
    product = words[0::2].astype(np.float64) * words[1::2].astype(np.float64)
    return np.ldexp(product, -62).astype(np.float32).reshape(shape)


def tensor(label: str, *shape: int) -> torch.Tensor:
    """Return the same values as a tensor."""
    return torch.from_numpy(values(label, *shape))


def fingerprint(found: torch.Tensor) -> str:
    """Return the digest of a tensor's bits."""
    return digest(found.contiguous().numpy().tobytes())


def operations() -> dict[str, str]:
    """Return what each operation gives on inputs long enough for vector units and several threads."""
    long = tensor("long", 40, 5000)
    return {
        "matmul": fingerprint(matmul(Fixed.of(long), Fixed.of(tensor("other", 5000, 30)))),
        "batched matmul": fingerprint(
            matmul(Fixed.of(tensor("b", 6, 64, 33)), Fixed.of(tensor("c", 6, 33, 64)))
        ),
        "sum": fingerprint(exact_sum(long.double(), -1)),
        "scatter": fingerprint(scatter_sum(long, torch.arange(40) % 7, 7)),
        "exp": fingerprint(exp(long.abs().mul_(-90.0))),
        "log": fingerprint(log(long.double().abs().add_(2.0**-70))),
        "noise": digest(gumbel((long.flatten() * 2.0**31).long().numpy().astype(np.uint32)).tobytes()),
        "sigmoid": fingerprint(sigmoid(long.mul(30.0))),
        "rotation": fingerprint(torch.stack(rotation_table(64, 16, 10_000))),
    }


def manifest(muon: MuonConfig | None) -> RunManifest:
    """Return the smallest run that has every part of the model; spelled, so that no default changes it."""
    address = "0x" + "00" * 20
    return RunManifest(
        name="golden",
        chain_id=31337,
        ledger=address,
        coordinator=address,
        rounds=5,
        model=ModelConfig(vocab=256, width=24, layers=2, heads=2, feed_forward=40, context=16),
        inner=InnerConfig(
            steps=3,
            batch=3,
            lr=0.004,
            beta1=0.9,
            beta2=0.95,
            eps=1e-5,
            weight_decay=0.1,
            clip_norm=1.0,
            warmup_steps=2,
            min_lr_fraction=0.1,
            muon=muon,
        ),
        verification=VerificationConfig(segment_steps=1),
        dataset=DatasetConfig(name="golden", root=ZERO_DIGEST, tokens=4000),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


def states(muon: MuonConfig | None = None) -> list[dict[str, str]]:
    """Return the addresses of the state after each of a few steps from made-up parameters."""
    run = manifest(muon)
    tokens = np.frombuffer(hashlib.shake_256(b"tokens").digest(run.dataset.tokens), np.uint8) % 61
    trainer = ExactTrainer(run, Shard(Path("golden"), tokens))
    trainer.load(InnerState.fresh(values("start", parameter_layout(run.model).size)))
    found = []
    for step in range(STEPS):
        trainer.run(np.arange(3, dtype=np.int64)[None] * 997 + step, step)
        state = trainer.state()
        files = {
            "parameters": state.parameters_file(run.model),
            "moments": state.moments_file(run.model),
        }
        found.append({name: digest(file) for name, file in files.items()})
    return found


def vectors() -> dict[str, object]:
    """Return everything that is frozen."""
    return {
        "operations": operations(),
        "states": states(),
        "Muon's": states(MuonConfig(lr=0.02, momentum=0.9)),
    }


if __name__ == "__main__":
    threads = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    prepare_process(threads[0] if threads else 1)
    text = json.dumps(vectors(), indent=1) + "\n"
    if "--print" in sys.argv[1:]:
        sys.stdout.write(text)
    else:
        PATH.write_text(text)
