"""What an update weighs on the wire, and what writing and reading it costs: in training, not on synthetic values.

Peers with a model of ten million parameters train on the packaged corpus under the real assignment, inner steps, codec,
error feedback and outer step, without network and chain. Its tokens are byte pairs that are merged here, 4096 kinds,
so that embeddings are as sparse as in a language model; a shard of the network holds single bytes. Figures are of the
first peer, medians over the rounds; speeds are megabytes of the dense fp32 vector in a CPU-second of one thread.

Other layouts carry the same entries. Bits of an index are those of its code alone, and of Murmur's all that is not two
bits an entry and levels. Beside it other layouts have a sign, a magnitude bit and two 16-bit levels a chunk, and the
best-known network a byte and no levels. Bounds are lengths that an ideal coder of indices would reach, with the levels
as they are sent here. The uniform one takes every choice of k places in a chunk as equally likely; rows and columns,
that an entry's chance is its row's count times its column's, both sent ahead at their entropy; seen so far, that
nothing is sent ahead, and each cell's chance follows from the cells before it in its row and its column.

`moment_bits_per_parameter` is what an update says of second moments, where a run publishes them.

Exits with 1 when an update takes more than 0.145 bit a parameter, but for these.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from protocol.canonical import ZERO_DIGEST, canonical_json, digest
from protocol.manifest import CodecConfig, DatasetConfig, InnerConfig, MuonConfig, RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import Floats, Layout, parameter_layout
from protocol.update import SecondMoments, SparseSymbols, Symbols, decode, encode
from tests.bench._peers import Peer
from tests.bench._rows import Rows
from training.codec import compress, decode_dense
from training.corpus import Shard, prepare_corpus
from training.inner import InnerState, prepare_process
from training.model import initial_parameters
from training.outer import OuterState, aggregate, initial_state
from training.program import program_digest
from training.second_moments import codes_of

MODEL = ModelConfig(vocab=4096, width=320, layers=7, heads=5, feed_forward=832, context=64)
CODEC = CodecConfig(kind="sparse", chunk=4096, k=64)
BOUND = 0.145
REPEATS = 3
T = TypeVar("T")


def corpus_tokens(directory: Path, vocab: int) -> np.ndarray:
    """Return the packaged corpus as byte pairs merged on itself: uint16[tokens]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = prepare_corpus(None, directory).read_text(encoding="utf-8").splitlines(keepends=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=letters)
    tokenizer.train_from_iterator(lines, trainer)
    return np.concatenate([np.array(line.ids, np.uint16) for line in tokenizer.encode_batch(lines)])


def wire_manifest(
    tokens: np.ndarray, rounds: int, model: ModelConfig, inner: InnerConfig, codec: CodecConfig
) -> RunManifest:
    """Return a run of no network over these tokens."""
    address = "0x" + "00" * 20
    return RunManifest(
        name="wire",
        chain_id=31337,
        ledger=address,
        coordinator=address,
        rounds=rounds,
        model=model,
        inner=inner,
        codec=codec,
        dataset=DatasetConfig(name="pairs", root=digest(tokens.astype("<u2").tobytes()), tokens=tokens.size),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the least CPU-seconds of a few repeats, and the result."""
    best = math.inf
    for _ in range(REPEATS):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


class MeasuredPeer(Peer):
    """Train as a contributor does, and measure what its updates take."""

    def measured(self, seed: int, round_: int, parameters: Floats) -> tuple[Symbols, dict[str, Any]]:
        """Return the symbols of a round's update, and what was measured of it."""
        end, loss = self.unit(seed, round_, parameters)
        codec, change, before = self._manifest.codec, parameters - end, self._residual
        encode_s, (symbols, residual, data) = timed(lambda: written(codec, change, before))
        decode_s, dense = timed(
            lambda: decode_dense(decode(data, codec=codec, size=change.size), change.size)
        )
        assert dense.tobytes() == decode_dense(symbols, change.size).tobytes()
        tracemalloc.start()
        written(codec, change, before)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self._residual = residual
        assert isinstance(symbols, SparseSymbols)
        return symbols, {
            "round": round_,
            "loss": round(loss, 3),
            "bits_per_parameter": 8 * len(data) / change.size,
            "moment_bits_per_parameter": 8 * (len(encode(self._speaking(symbols))) - len(data)) / change.size,
            "encode_mb_s": change.nbytes / 1e6 / encode_s,
            "decode_mb_s": change.nbytes / 1e6 / decode_s,
            "encode_memory": peak / change.nbytes,
            "layouts": layouts(symbols, len(data), parameter_layout(self._manifest.model)),
        }

    def _speaking(self, symbols: SparseSymbols) -> SparseSymbols:
        """Return an update that says a slice of second moments too, as where they are published."""
        assert self._state is not None
        slices = InnerConfig().slices
        return replace(symbols, moments=SecondMoments(slices, 0, codes_of(self._state.exp_avg_sq[::slices])))

    def kept(self) -> dict[str, np.ndarray]:
        """Return what the peer carries to its next round."""
        state = self._state
        assert state is not None
        assert self._residual is not None
        return {
            "exp_avg": state.exp_avg,
            "exp_avg_sq": state.exp_avg_sq,
            "steps": np.array(state.steps),
            "residual": self._residual,
        }

    def restore(self, kept: dict[str, np.ndarray]) -> None:
        """Go on from what `kept` returned."""
        nothing = np.zeros(0, np.float32)
        self._state = InnerState(nothing, kept["exp_avg"], kept["exp_avg_sq"], int(kept["steps"]))
        self._residual = kept["residual"]


def written(codec: CodecConfig, change: Floats, residual: Floats | None) -> tuple[Symbols, Floats, bytes]:
    """Return symbols, next residual and container of an update."""
    symbols, after = compress(codec, change, residual)
    return symbols, after, encode(symbols)


def log2_choices(places: int, chosen: int) -> float:
    """Return the bits that name one of all choices of so many places."""
    every, taken, left = (math.lgamma(count + 1) for count in (places, chosen, places - chosen))
    return (every - taken - left) / math.log(2)


def entropy(values: np.ndarray) -> float:
    """Return the bits of all values together, if each is coded by how often it is there."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def row_and_column_bits(symbols: SparseSymbols, layout: Layout) -> float:
    """Return the bits of all indices by the counts of their rows and columns, and of those counts."""
    chosen = np.zeros(symbols.size, bool)
    chosen[symbols.positions] = True
    chance, bits = np.full(symbols.size, symbols.k / symbols.chunk), 0.0
    for name, shape in layout.tensors:
        if len(shape) != 2:
            continue
        cells = chosen[layout.slices[name]].reshape(shape)
        rows, columns = cells.sum(axis=1), cells.sum(axis=0)
        bits += entropy(rows) + entropy(columns)
        product = np.outer(rows + 0.5, columns + 0.5) / max(1, cells.sum())
        chance[layout.slices[name]] = product.reshape(-1)
    for start in range(0, symbols.size, symbols.chunk):
        own, hit = chance[start : start + symbols.chunk], chosen[start : start + symbols.chunk]
        for _ in range(8):  # a chunk keeps k, and no cell is surer than 0.95
            own = np.minimum(own * (hit.sum() / own.sum()), 0.95)
        bits -= float(np.log2(np.where(hit, np.maximum(own, 1e-6), 1 - own)).sum())
    return bits


def seen_so_far_bits(symbols: SparseSymbols, layout: Layout) -> float:
    """Return the bits of all indices where the cells before, in the same row and column, tell each cell's chance."""
    chosen = np.zeros(symbols.size, bool)
    chosen[symbols.positions] = True
    bits, share = 0.0, symbols.k / symbols.chunk
    for name, shape in layout.tensors:
        cells = chosen[layout.slices[name]].reshape(-1, shape[-1]).astype(np.float32)
        above = np.cumsum(cells, axis=0) - cells
        expected = share * (above + 1) / (above.mean(axis=1, keepdims=True) + 1)
        left, expected_left = (np.cumsum(each, axis=1) - each for each in (cells, expected))
        chance = np.clip(expected * (left + 1) / (expected_left + 1), 1e-5, 0.9)
        bits -= float(np.log2(np.where(cells, chance, 1 - chance)).sum())
    return bits


def layouts(symbols: SparseSymbols, size: int, layout: Layout) -> dict[str, tuple[float, float]]:
    """Return bits of an index and bits of a parameter for each way to send these symbols in `size` bytes or others."""
    chunk, k, kept = symbols.chunk, symbols.k, symbols.indices.size
    chunks = len(symbols.levels)
    lengths = [min(chunk, symbols.size - start) for start in range(0, symbols.size, chunk)]
    gaps = np.diff(symbols.positions, prepend=-1) - 1
    gaps[::k] = symbols.indices[::k]
    low_bits = max(0, round(math.log2(max(1.0, 0.69 * chunk / k))))
    fano_bits = int(math.log2(chunk / k))
    width = math.ceil(math.log2(chunk))
    one = SparseSymbols(
        symbols.size, chunk, k, symbols.exponent, symbols.indices, symbols.codes, 0 * symbols.levels
    )
    levels = 8 * (size - len(encode(one)))
    values = 2 * kept
    indices = {
        f"{width}-bit indices, a byte a value": width * kept,
        f"{width}-bit indices, 2-bit values": width * kept,
        "Elias-Fano": fano_bits * kept + sum(min(k, length) + (length >> fano_bits) for length in lengths),
        f"Rice, {low_bits} low bits": float((gaps >> low_bits).sum()) + (1 + low_bits) * kept,
        "bound: uniform": sum(log2_choices(length, min(k, length)) for length in lengths),
        "bound: rows and columns": row_and_column_bits(symbols, layout),
        "bound: rows and columns seen so far": seen_so_far_bits(symbols, layout),
    }
    bounds = list(indices)[-3:]
    beside = dict.fromkeys(indices, values + 32 * chunks)
    beside[f"{width}-bit indices, a byte a value"] = 8 * kept
    beside.update(dict.fromkeys(bounds, values + levels))
    found = {"Murmur": ((8 * size - values - levels) / kept, 8 * size / symbols.size)}
    for name, bits in indices.items():
        found[name] = (bits / kept, (bits + beside[name]) / symbols.size)
    return found


class Rounds:
    """Play a run round by round, and keep what is needed to go on in a directory, where there is one."""

    def __init__(self, manifest: RunManifest, shard: Shard, seed: int, peers: int, keep: Path | None) -> None:
        self._manifest, self._seed, self._keep = manifest, seed, keep
        # The run does not name its program, so that batches are the same whatever else of it changes.
        settings = {"run": manifest.run_id, "program": program_digest(), "seed": seed, "peers": peers}
        self._settings = canonical_json(settings).decode()
        self._peers = [MeasuredPeer(manifest, shard, number) for number in range(1, peers + 1)]
        self._state = initial_state(manifest, initial_parameters(manifest.model, seed))
        self.found: list[dict[str, Any]] = []
        if keep is not None and (keep / "state.npz").exists():
            self._resume(keep / "state.npz")

    def play(self) -> list[dict[str, Any]]:
        """Play the rounds that are left; return what was measured in each."""
        for round_ in range(len(self.found), self._manifest.rounds):
            start = self._state.parameters
            symbols, row = self._peers[0].measured(self._seed, round_, start)
            updates = [symbols, *(peer.update(self._seed, round_, self._state) for peer in self._peers[1:])]
            began = time.process_time()
            self._state = aggregate(self._manifest, self._state, updates)
            row["aggregate_mb_s"] = len(updates) * start.nbytes / 1e6 / (time.process_time() - began)
            self.found.append(row)
            print(f"round {round_ + 1}: {row['bits_per_parameter']:.4f} bit a parameter", file=sys.stderr)
            if self._keep is not None:
                self._save(self._keep / "state.npz")
        return self.found

    def _save(self, path: Path) -> None:
        """Write all of it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"parameters": self._state.parameters}
        for number, peer in enumerate(self._peers):
            arrays |= {f"{number}.{name}": values for name, values in peer.kept().items()}
        words = np.array([self._settings, json.dumps(self.found)])
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, words=words, **arrays)
        part.replace(path)

    def _resume(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            settings, found = arrays["words"]
            if settings != self._settings:
                raise SystemExit(f"{path} is of a run with other settings; name another directory")
            self.found = json.loads(str(found))
            self._state = OuterState(arrays["parameters"])
            for number, peer in enumerate(self._peers):
                peer.restore(
                    {
                        name: arrays[f"{number}.{name}"]
                        for name in ("exp_avg", "exp_avg_sq", "steps", "residual")
                    }
                )


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the rounds, and a table of layouts."""
    names = ("bits_per_parameter", "encode_mb_s", "decode_mb_s", "aggregate_mb_s", "encode_memory")
    moments = float(np.median([row["moment_bits_per_parameter"] for row in found]))
    middle = {name: float(np.median([row[name] for row in found])) for name in names}
    table = []
    for name in found[0]["layouts"]:
        index, bits = np.median([row["layouts"][name] for row in found], axis=0)
        table.append(
            {
                "layout": name,
                "bits_per_index": round(float(index), 3),
                "bits_per_parameter": round(float(bits), 4),
                "dense_ratio": round(32 / float(bits), 1),
                "index_by_round": [round(row["layouts"][name][0], 2) for row in found],
            }
        )
    return {
        "bits_per_parameter": round(middle["bits_per_parameter"], 4),
        "dense_ratio": round(32 / middle["bits_per_parameter"], 1),
        "moment_bits_per_parameter": round(moments, 4),
        "bound": BOUND,
        "reached": middle["bits_per_parameter"] <= BOUND,
        **{name: round(middle[name]) for name in names[1:4]},
        "encode_memory": round(middle["encode_memory"], 2),
        "by_round": [round(row["bits_per_parameter"], 4) for row in found],
        "table": table,
    }


def main(arguments: Sequence[str]) -> int:
    """Play the rounds and print what an update takes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench wire", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=InnerConfig().batch)
    parser.add_argument("--k", type=int, default=CODEC.k)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the inner steps")
    parser.add_argument("--muon", action="store_true", help="steps of matrices of blocks")
    parser.add_argument("--keep", type=Path, help="directory in which an interrupted run goes on")
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    options = parser.parse_args(arguments)
    prepare_process(1)
    with tempfile.TemporaryDirectory() as directory:
        tokens = corpus_tokens(Path(directory), MODEL.vocab)
    inner = InnerConfig(batch=options.batch, lr=options.lr, muon=MuonConfig() if options.muon else None)
    codec = CODEC.model_copy(update={"k": options.k})
    manifest = wire_manifest(tokens, options.rounds, MODEL, inner, codec)
    rounds = Rounds(manifest, Shard(Path("pairs"), tokens), options.seed, options.peers, options.keep)
    found = summary(rounds.play())
    if options.json:
        size = parameter_layout(MODEL).size
        print(json.dumps({"parameters": size, "rounds": options.rounds, "seed": options.seed, **found}))
    else:
        rows = Rows(as_json=False)
        for row in found.pop("table"):
            rows.add({name: value for name, value in row.items() if name != "index_by_round"})
        for name, value in found.items():
            print(name, value)
    return 0 if found["reached"] else 1
