"""Average a vector among a few processes: ours and hivemind's, over loopback and over links."""

import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from protocol.manifest import CodecConfig, InnerConfig, OuterConfig, RunManifest
from protocol.tensors import Floats, parameter_layout
from tests.bench._crew import Crew, gather, gather_hivemind, open_crew
from tests.bench._lines import Link
from tests.bench._links import Host, Links, Traffic, open_links
from tests.bench._peers import Peer
from tests.bench.wire import MODEL, corpus_tokens, wire_manifest
from training.corpus import Shard
from training.inner import prepare_process
from training.model import initial_parameters
from training.outer import aggregate, initial_state
from training.recipe import DENSE, SPARSE

CODECS: Final[Mapping[str, CodecConfig]] = {
    "sparse, 64 of 4096": CodecConfig(kind="sparse", k=64),
    "sparse, 256 of 4096": CodecConfig.model_validate(SPARSE["codec"]),
    "dense, 4 bits": CodecConfig.model_validate(DENSE["codec"]),
    "dense, 8 bits": CodecConfig(kind="dense", bits=8),
}
COMPRESSIONS: Final = ("fp32", "fp16", "uint8")
MODEL_SIZE: Final = parameter_layout(MODEL).size
FEW: Final = 1000  # values, which take next to nothing to send: what is left is to find each other
WARM_ROUNDS: Final = 2
PATIENCE_S: Final = 90.0  # for one averaging
INNER: Final = InnerConfig(lr=1e-3)


class Accumulating(Peer):
    """Train as a contributor does, and show what its codec gets."""

    def accumulated(self, seed: int, round_: int, parameters: Floats) -> Floats:
        """Return a round's pseudo-gradient with what earlier updates left out, as the codec takes it."""
        end, _ = self.unit(seed, round_, parameters)
        change = parameters - end
        if self._residual is None:
            return change
        whole: Floats = np.float32(self._manifest.codec.decay) * self._residual + change
        return whole


def averaging_manifest(directory: Path) -> tuple[RunManifest, Shard]:
    """Return the run of the `wire` benchmark with an outer step that is the mean itself, and its shard."""
    tokens = corpus_tokens(directory, MODEL.vocab)
    manifest = wire_manifest(tokens, WARM_ROUNDS + 1, MODEL, INNER, CODECS["sparse, 64 of 4096"])
    return manifest.model_copy(update={"outer": OuterConfig(lr=1.0)}), Shard(Path("pairs"), tokens)


def make_vectors(directory: Path, peers: int, seed: int) -> None:
    """Have peers train for a few rounds, and keep what each would compress in the next: VECTOR-n.npy."""
    prepare_process(1)
    manifest, shard = averaging_manifest(directory)
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    crowd = [Accumulating(manifest, shard, number) for number in range(1, peers + 1)]
    state = initial_state(manifest, initial_parameters(manifest.model, seed))
    for round_ in range(WARM_ROUNDS):
        print(
            f"training a round for real pseudo-gradients, {round_ + 1} of {WARM_ROUNDS + 1}", file=sys.stderr
        )
        state = aggregate(manifest, state, [peer.update(seed, round_, state) for peer in crowd])
    for place, peer in enumerate(crowd):
        vector = peer.accumulated(seed, WARM_ROUNDS, state.parameters)
        np.save(vector_path(directory, place), vector)
    (directory / "complete").touch()


def vector_path(directory: Path, place: int) -> Path:
    """Return where a peer's vector lies."""
    return directory / f"vector-{place}.npy"


def error(found: Sequence[Floats], vectors: Sequence[Floats]) -> float:
    """Return how far the worst result is from the exact mean, over the mean's norm.

    Args:
        vectors: what was averaged; the mean is of as many values as a result has.
    """
    exact = np.mean([vector[: found[0].size].astype(np.float64) for vector in vectors], axis=0)
    return max(float(np.linalg.norm(one - exact)) for one in found) / float(np.linalg.norm(exact))


def outcome(found: Sequence[Floats], vectors: Sequence[Floats]) -> str:
    """Say whether all have the same bytes in the end, others, or still what they came with."""
    if all(np.array_equal(one, own[: one.size]) for one, own in zip(found, vectors, strict=True)):
        return "unchanged"
    return "equal" if len({one.tobytes() for one in found}) == 1 else "differ"


@dataclass(frozen=True)
class Group:
    """Say who averages where."""

    python: Path  # hivemind's
    directory: Path  # of vectors and results
    peers: int
    link: Link | None  # None: all on one host, over its loopback
    matchmaking_s: float = 1.0

    @contextmanager
    def hosts(self) -> "Iterator[tuple[Links, list[Host]]]":
        """Make the hosts of all peers."""
        with open_links([Link()] if self.link is None else [self.link] * self.peers) as links:
            yield links, links.hosts * (self.peers if self.link is None else 1)

    @property
    def vectors(self) -> list[Floats]:
        """Return what is averaged."""
        return [
            np.load(vector_path(self.directory, place), allow_pickle=False) for place in range(self.peers)
        ]

    def ours(self, repeats: int) -> Iterator[dict[str, Any]]:
        """Yield a row for each codec."""
        with self.hosts() as (links, hosts):
            commands = [
                self._command(sys.executable, "_averaging_peer", place, host.address, place)
                for place, host in enumerate(hosts)
            ]
            with open_crew(hosts, commands, self.directory / "logs", "ours") as crew:
                gather(crew, self.peers)
                round_ = 0
                for name, codec in CODECS.items():
                    rounds = []
                    for _ in range(repeats + 1):
                        words = {"round": round_, "codec": codec.model_dump(), "group": self.peers}
                        rounds.append(self._measure(links, crew, words))
                        round_ += 1
                    yield self._row("Murmur", name, rounds[1:])

    def hivemind(self, repeats: int, compression: str, count: int = MODEL_SIZE) -> dict[str, Any]:
        """Return the row of one compression, of so many values of the vectors."""
        with self.hosts() as (links, hosts):
            commands = [
                self._command(
                    self.python, "_hivemind_peer", place, host.address, compression, count, self.matchmaking_s
                )
                for place, host in enumerate(hosts)
            ]
            with open_crew(hosts, commands, self.directory / "logs", f"hivemind-{compression}") as crew:
                gather_hivemind(crew, self.peers)
                rounds = []
                for _ in range(repeats + 1):
                    crew.ask({"reset": True})
                    try:
                        rounds.append(self._measure(links, crew, {"go": True}))
                    except RuntimeError as reason:
                        if not rounds:
                            raise
                        print(f"hivemind, {compression}, repeat {len(rounds)}: {reason}", file=sys.stderr)
                        break
                hung = len(rounds) <= repeats
        how = compression if count == MODEL_SIZE else f"{compression}, {count} values"
        found = self._row("hivemind", how, rounds[1:] or rounds)
        return {**found, "results": f"{found['results']}, then hung"} if hung else found

    def nobody(self) -> dict[str, Any]:
        """Return the row of who keeps what it has."""
        vectors = self.vectors
        still = {"wall_s": 0.0, "cpu_s": 0.0, "sent_mb": 0.0, "received_mb": 0.0, "fetch_s": None}
        alone = {"error": error(vectors, vectors), "plain": None, "group": 1}
        return self._row("local", "nothing is sent", [{**still, **alone, "outcome": "unchanged"}])

    def _command(self, python: Path | str, peer: str, place: int, address: str, *rest: object) -> list[str]:
        vector = vector_path(self.directory, place)
        parts = (python, "-m", f"tests.bench.{peer}", address, vector, self.directory, *rest)
        return list(map(str, parts))

    def _measure(self, links: Links, crew: Crew, words: Mapping[str, Any]) -> dict[str, Any]:
        """Have all average once."""
        before, so_far, began = links.traffic(), crew.cpu_s(), time.monotonic()
        answers = crew.ask(words, PATIENCE_S)
        after, spent = links.traffic(), crew.cpu_s() - so_far
        saved = crew.ask({"result": True}, PATIENCE_S)
        found, plain = (
            [np.load(one[name], allow_pickle=False) for one in saved if name in one]
            for name in ("result", "plain")
        )
        vectors = self.vectors
        return {
            "wall_s": max(answer["done"] for answer in answers) - began,
            "cpu_s": spent,
            "fetch_s": max(answer["fetch_s"] for answer in answers) if plain else None,
            **bytes_a_peer([two - one for one, two in zip(before, after, strict=True)], self.peers),
            "error": error(found, vectors),
            "plain": error(plain, vectors) if plain else None,
            "outcome": outcome(found, vectors),
            "group": min(answer["group"] for answer in answers),
        }

    def _row(self, who: str, how: str, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return row(who, how, "loopback" if self.link is None else "links", rounds)


def bytes_a_peer(found: Sequence[Traffic], peers: int) -> dict[str, float]:
    """Return megabytes that a peer sent and received, mean of all; what goes over loopback is both."""
    sent = sum(one.sent + one.loopback for one in found)
    received = sum(one.received + one.loopback for one in found)
    return {"sent_mb": sent / peers / 1e6, "received_mb": received / peers / 1e6}


def row(who: str, how: str, where: str, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a table's row: medians, and the slowest."""

    def middle(name: str, digits: int) -> float | None:
        found = [one[name] for one in rounds]
        return None if None in found else float(f"{statistics.median(found):.{digits}g}")

    return {
        "who": who,
        "how": how,
        "where": where,
        "wall s": middle("wall_s", 3),
        "slowest": float(f"{max(one['wall_s'] for one in rounds):.3g}"),
        "fetch s": middle("fetch_s", 3),
        "cpu s": middle("cpu_s", 3),
        "sent MB": middle("sent_mb", 4),
        "received MB": middle("received_mb", 4),
        "error": middle("error", 3),
        "unclipped": middle("plain", 3),
        "results": " ".join(sorted({one["outcome"] for one in rounds})),
        "group": min(one["group"] for one in rounds),
        "load": round(os.getloadavg()[0], 1),
    }
