"""The metrics of a run, from what its database says (`coordinator.queries.Reader.summary`).

Labels by peer are registration numbers, at most as many as the summary names, so that peers cannot grow them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from protocol.metrics import OWN_WORD, Labels, Reading, reading

MAX_LABELLED: Final = 1000  # peers


def run_readings(summary: Mapping[str, Any] | None) -> Iterator[Reading]:
    """Yield a run's metrics; none while there is no run."""
    if summary is None:
        return
    about = (str(summary["run"]), str(summary["name"]))
    yield Reading("murmur_run_info", "The run.", [(about, 1)], ("run", "name"))
    yield reading("murmur_run_round", "Round in progress.", summary["round"])
    yield reading("murmur_run_rounds", "Rounds that the run has.", summary["rounds"])
    yield reading("murmur_run_rounds_recorded", "Rounds whose record is on chain.", summary["rounds_done"])
    yield reading("murmur_run_parameters", "Parameters of the model.", summary["parameters"])
    yield reading("murmur_run_age_seconds", "Time since the coordinator last wrote.", summary["age_s"])
    yield reading("murmur_run_chain_height_blocks", "Newest block that was seen.", summary["height"])
    yield from _learnt(summary)
    yield from _throughput(summary["throughput"])
    yield from _verification(summary["verification"])
    wire, network = summary["wire"], summary["network"]
    yield reading("murmur_run_update_bytes", "Bytes of merged updates.", wire["update_bytes"], counter=True)
    yield reading("murmur_run_merged_units", "Units that were merged.", wire["updates"], counter=True)
    moved = [((way,), network[f"bytes_{way}"]) for way in ("up", "down")]
    yield Reading(
        "murmur_run_network_bytes",
        "Bytes of blobs and gossip of the coordinator itself, since its start.",
        moved,
        ("direction",),
        counter=True,
    )
    yield reading(
        "murmur_run_connected_peers", "Peers that the coordinator is connected to.", network["connected"]
    )
    yield from _peers(summary["peers"][:MAX_LABELLED])


def _learnt(summary: Mapping[str, Any]) -> Iterator[Reading]:
    loss, policy = summary["loss"], summary["policy"]
    yield reading(
        "murmur_run_heldout_loss_nats", "Held-out loss of the newest parameters, a byte.", loss["last"]
    )
    if policy is not None and policy["last"] is not None:
        done, earned = policy["last"]["success"], policy["last"]["reward"]
        yield reading("murmur_run_heldout_success_ratio", "Share of held-out tasks done.", done)
        yield reading("murmur_run_heldout_reward", "Mean reward on held-out tasks.", earned)


def _throughput(found: Mapping[str, Any] | None) -> Iterator[Reading]:
    if found is None:
        return
    yield reading("murmur_run_round_seconds", "Time of the newest recorded round.", found["seconds"])
    yield reading(
        "murmur_run_tokens_per_second",
        "Tokens of merged units a second of that round.",
        found["tokens_per_s"],
    )
    yield reading(
        "murmur_run_model_flops_per_second", "Model FLOPs of these tokens a second.", found["flops_per_s"]
    )
    yield reading(
        "murmur_run_train_cpu_ratio",
        f"CPU time that peers trained over the time of that round, mean of the peers, {OWN_WORD}.",
        found["train_cpu_share"],
    )


def _verification(found: Mapping[str, Any]) -> Iterator[Reading]:
    outcomes = ("passed", "void", "false", "unjudged", "undecided")
    values = [((outcome,), float(found[outcome])) for outcome in outcomes]
    yield Reading("murmur_run_drawn_units", "Drawn units by what became of them.", values, ("outcome",))
    yield reading(
        "murmur_run_replay_cpu_seconds",
        f"CPU time of replays, {OWN_WORD}.",
        found["replay_cpu_s"],
        counter=True,
    )
    yield reading(
        "murmur_run_train_cpu_seconds",
        f"CPU time of training, {OWN_WORD}.",
        found["train_cpu_s"],
        counter=True,
    )


def _peers(peers: list[Mapping[str, Any]]) -> Iterator[Reading]:
    states = ("committed", "listed", "revealed", "merged", "doubted", "drawn", "passed", "void", "false")
    units: list[tuple[Labels, float | None]] = []
    cpu: list[tuple[Labels, float | None]] = []
    verdicts: list[tuple[Labels, float | None]] = []
    for peer in peers:
        number = str(peer["number"])
        if peer["role"] == "verifier":
            verdicts += [((number, name), count) for name, count in peer["record"].items()]
            continue
        units += [((number, state), peer["units"][state]) for state in states]
        cpu.append(((number,), peer["train_cpu_s"]))
    yield Reading(
        "murmur_peer_units", "Units of a contributor by how far they came.", units, ("number", "state")
    )
    yield Reading(
        "murmur_peer_train_cpu_seconds", f"CPU time of training, {OWN_WORD}.", cpu, ("number",), counter=True
    )
    yield Reading(
        "murmur_peer_verdicts",
        "Verdicts of a verifier: right, wrong, or not said.",
        verdicts,
        ("number", "record"),
    )
