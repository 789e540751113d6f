"""One hivemind peer, in hivemind's own environment (`_hivemind_venv`).

`python -m tests.bench._hivemind_peer ADDRESS VECTOR DIRECTORY COMPRESSION COUNT MATCHMAKING_S`. Asked by its parent, it
averages the first COUNT values of its vector with the others by `DecentralizedAverager`.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hivemind
import numpy as np
import torch
from hivemind import compression
from hivemind.averaging import DecentralizedAverager

COMPRESSIONS = {
    "fp32": compression.NoCompression,
    "fp16": compression.Float16Compression,
    "uint8": compression.Uniform8BitQuantization,
}
PIECES = 10  # tensors that a vector is split into, as a model has several


def say(words: dict[str, Any]) -> None:
    """Answer the parent."""
    print(json.dumps(words), flush=True)


def hear() -> dict[str, Any]:
    """Return the parent's next line; end with its last."""
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(0)
    found: dict[str, Any] = json.loads(line)
    return found


def join(address: str) -> hivemind.DHT:
    """Start a DHT peer that listens on an address; the parent's answer says whom it meets first."""
    first = hear()["first"]
    dht = hivemind.DHT(initial_peers=first, host_maddrs=[f"/ip4/{address}/tcp/0"], start=True)
    say({"addresses": [str(one) for one in dht.get_visible_maddrs()]})
    return dht


def average(address: str, vector: str, directory: str, chosen: str, count: str, matchmaking: str) -> None:
    """Average whenever asked, always from the vector."""
    start = torch.from_numpy(np.load(vector, allow_pickle=False)[: int(count)])
    result = str(Path(directory) / f"theirs-{Path(vector).name}")
    dht = join(address)
    group = hear()["group"]
    averager = DecentralizedAverager(
        [part.clone() for part in start.tensor_split(PIECES)],
        dht,
        prefix="averaging",
        target_group_size=group,
        min_group_size=group,
        compression=COMPRESSIONS[chosen](),
        min_matchmaking_time=float(matchmaking),
        request_timeout=float(matchmaking) / 2,  # below it, as hivemind asks for
        allreduce_timeout=30.0,
        start=True,
    )
    say({"ready": True})
    while True:
        hear()
        with averager.get_tensors() as tensors, torch.no_grad():
            for tensor, part in zip(tensors, start.tensor_split(PIECES), strict=True):
                tensor.copy_(part)
        say({"reset": True})
        hear()
        try:
            found = averager.step(timeout=60)
            told = {"group": len(found or ())}
        except Exception as error:  # noqa: BLE001 -- what it fails with is what is measured
            told = {"group": 0, "error": repr(error)[:200]}
        say({"done": time.monotonic(), **told})
        hear()  # what follows is not measured
        with averager.get_tensors() as tensors:
            np.save(result, torch.cat([tensor.detach() for tensor in tensors]).numpy())
        say({"result": result})


def main(arguments: Sequence[str]) -> None:
    """Take part until stdin ends."""
    torch.set_num_threads(1)
    average(*arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
