"""One hivemind peer that trains the product's model, in hivemind's own environment (`_hivemind_venv`).

`python -m tests.bench._hivemind_trainer ADDRESS DIRECTORY NUMBER SETTINGS`, the last a JSON object:

    samples        of all peers that end an epoch, on which gradients or parameters are averaged
    peers          how many there are
    local          whether peers step by themselves and average parameters, or average gradients and step on them
    state_every    epochs between two averagings of parameters where gradients are averaged
    delayed        whether averaging goes on in the background
    matchmaking_s  least time for it
    limit_s        after which a peer stops

Model, shard, batches, AdamW, clipping and the course of the learning rate are the product's; each peer's own gradient
is clipped, for a hook on the averaged one there is not.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hivemind
import numpy as np
import torch
from hivemind.compression import Float16Compression

from protocol.manifest import InnerConfig, RunManifest
from protocol.tensors import parameter_layout
from tests.bench._hivemind_peer import hear, join, say
from training.assignment import batch
from training.corpus import Shard
from training.inner import learning_rate
from training.model import Transformer

EVERY_S = 1.0  # between two notes of the parameters
REFRESH_S = 0.2  # least time between two looks at the others' progress; hivemind's own choice is 0.5


def optimizer(
    dht: hivemind.DHT, manifest: RunManifest, tensors: list[torch.Tensor], settings: dict[str, Any]
) -> hivemind.Optimizer:
    """Return hivemind's optimizer with the product's rates.

    They follow the samples that all have seen; who steps by itself sets its own, for epochs need not follow samples.
    """
    inner: InnerConfig = manifest.inner
    epoch_steps = settings["samples"] / (settings["peers"] * inner.batch)

    def relative_rate(epoch: int) -> float:
        step = min(int(epoch * epoch_steps), manifest.total_steps - 1)
        return learning_rate(inner, step, manifest.total_steps) / inner.lr

    local, delayed = settings["local"], settings["delayed"]
    return hivemind.Optimizer(
        dht=dht,
        run_id="bench",
        params=tensors,
        optimizer=lambda params: torch.optim.AdamW(
            params,
            lr=inner.lr,
            betas=(inner.beta1, inner.beta2),
            eps=inner.eps,
            weight_decay=inner.weight_decay,
        ),
        scheduler=None if local else lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, relative_rate),
        batch_size_per_step=inner.batch,
        target_batch_size=settings["samples"],
        use_local_updates=local,
        delay_optimizer_step=delayed and not local,
        delay_grad_averaging=delayed and not local,
        delay_state_averaging=delayed,
        average_state_every=1 if local else settings["state_every"],
        matchmaking_time=settings["matchmaking_s"],
        averaging_timeout=30.0,
        grad_compression=Float16Compression(),
        state_averaging_compression=Float16Compression(),
        load_state_compression=Float16Compression(),
        averager_opts={"request_timeout": settings["matchmaking_s"] / 2},  # below it, as hivemind asks for
        tracker_opts={"min_refresh_period": REFRESH_S, "default_refresh_period": 2 * REFRESH_S},
    )


def train(address: str, directory: Path, number: int, settings: dict[str, Any]) -> None:
    """Train when the parent says so, and stay until it ends."""
    manifest = RunManifest.model_validate_json((directory / "run.json").read_bytes())
    shard = Shard.open(manifest.dataset, directory)
    offsets = np.load(directory / f"offsets-{number}.npy", allow_pickle=False)
    start = np.load(directory / "start.npy", allow_pickle=False)
    model = Transformer.loaded(manifest.model, start)
    tensors = [model._tensors[name] for name, _ in parameter_layout(manifest.model).tensors]
    dht = join(address)
    hear()
    opt = optimizer(dht, manifest, tensors, settings)
    say({"ready": True})
    hear()
    began, spent, taken = time.monotonic(), time.process_time(), list[dict[str, Any]]()
    epochs = -(-manifest.total_steps * settings["peers"] * manifest.inner.batch // settings["samples"])
    step, noted = 0, began

    def note() -> None:
        path = directory / f"theirs-{number}-{len(taken)}.npy"
        now = time.monotonic()
        np.save(path, torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy())
        taken.append({"at": now, "steps": step, "epoch": opt.local_epoch, "parameters": str(path)})

    while time.monotonic() - began < settings["limit_s"]:
        if step >= manifest.total_steps if settings["local"] else opt.local_epoch >= epochs:
            break
        rows = torch.from_numpy(batch(shard, offsets[step % len(offsets)], manifest.model.context))
        if settings["local"]:
            for group in opt.param_groups:
                group["lr"] = learning_rate(manifest.inner, step, manifest.total_steps)
        opt.zero_grad()
        model.loss(rows).backward()
        torch.nn.utils.clip_grad_norm_(tensors, manifest.inner.clip_norm)
        opt.step()
        step += 1
        if number == 0 and time.monotonic() - noted > EVERY_S:
            noted = time.monotonic()
            note()
    note()
    say(
        {
            "done": time.monotonic(),
            "course": taken,
            "steps": step,
            "epoch": opt.local_epoch,
            "cpu_s": time.process_time() - spent,
        }
    )
    sys.stdin.read()
    os._exit(0)  # its own end waits for others that are gone


def main(arguments: Sequence[str]) -> None:
    """Take part until stdin ends."""
    torch.set_num_threads(1)
    address, directory, number, settings = arguments
    train(address, Path(directory), int(number), json.loads(settings))


if __name__ == "__main__":
    main(sys.argv[1:])
