"""Size and speed of an update on the wire, against raw fp32 and 12-bit packed indices, in the same run.

The pseudo-gradient is real: the default model after one round on the packaged corpus, tiled to the asked size with
noise so that no two chunks are alike. Speeds are megabytes of the dense fp32 vector per CPU-second of one thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protocol.manifest import CodecConfig, RunManifest
from protocol.tensors import Floats
from protocol.update import SparseSymbols, decode, encode
from tests.bench._peers import Peer, bench_manifest
from training.codec import compress, decode_dense
from training.inner import prepare_process
from training.model import initial_parameters

REPEATS = 3


def pseudo_gradient(manifest: RunManifest, shard: Any, size: int) -> Floats:
    """Return float32[size] made of one round's change of the default model."""
    start = initial_parameters(manifest.model, 0)
    end, _ = Peer(manifest, shard, 1).unit(0, 0, start)
    tiled = np.resize(start - end, size)
    noise = np.random.default_rng(0).normal(1.0, 0.1, size)
    return (tiled * noise).astype(np.float32)


def pack12(indices: np.ndarray) -> bytes:
    """Write indices below 4096 at twelve bits each, two in three bytes."""
    padded = np.append(indices, np.zeros(indices.size % 2, indices.dtype)).reshape(-1, 2).astype(np.uint32)
    words = padded[:, 0] | padded[:, 1] << 12
    return np.stack([words & 255, words >> 8 & 255, words >> 16], axis=1).astype(np.uint8).tobytes()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the least CPU-seconds of a few repeats, and the result."""
    best, result = float("inf"), None
    for _ in range(REPEATS):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def measure(name: str, codec: CodecConfig, values: Floats) -> list[dict[str, object]]:
    """Return one row for the container, and for sparse one for the same symbols with 12-bit indices."""
    megabytes = values.nbytes / 1e6
    compress_s, (symbols, _) = timed(lambda: compress(codec, values))
    encode_s, data = timed(lambda: encode(symbols))
    decode_s, read = timed(lambda: decode(data, codec=codec, size=values.size))
    dense_s, _ = timed(lambda: decode_dense(read, values.size))
    row: dict[str, object] = {
        "update": name,
        "bits_per_parameter": round(8 * len(data) / values.size, 4),
        "times_smaller_than_fp32": round(values.nbytes / len(data), 1),
        "compress_MB_s": round(megabytes / compress_s),
        "encode_MB_s": round(megabytes / encode_s),
        "decode_MB_s": round(megabytes / decode_s),
        "to_dense_MB_s": round(megabytes / dense_s),
    }
    if not isinstance(symbols, SparseSymbols):
        return [row]
    fixed = len(pack12(symbols.indices)) + symbols.indices.size // 4 + 2 * symbols.levels.size
    packed = {
        "update": f"{name}, 12-bit indices",
        "bits_per_parameter": round(8 * fixed / values.size, 4),
        "times_smaller_than_fp32": round(values.nbytes / fixed, 1),
    }
    bits = 8 * (len(data) - (fixed - len(pack12(symbols.indices)))) / symbols.indices.size
    return [{**row, "bits_per_index": round(bits, 3)}, packed]


def main(arguments: Sequence[str]) -> int:
    """Print one row for each codec."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench codec", description=__doc__)
    parser.add_argument("--size", type=int, default=2_000_000, help="parameters")
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    options = parser.parse_args(arguments)
    prepare_process(1)
    with tempfile.TemporaryDirectory() as directory:
        manifest, shard = bench_manifest(Path(directory), 0)
        values = pseudo_gradient(manifest, shard, options.size)
    rows: list[dict[str, object]] = [{"update": "raw fp32", "bits_per_parameter": 32.0}]
    for k in sorted({64, 128, 256, manifest.codec.k}):
        rows += measure(f"sparse k={k}", CodecConfig(kind="sparse", k=k), values)
    for bits in (2, 4):
        rows += measure(f"dense {bits} bit", CodecConfig(kind="dense", bits=bits), values)
    if options.json:
        print(json.dumps({"parameters": options.size, "rows": rows}))
    else:
        for row in rows:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    return 0
