"""What `murmur up` shows while it runs, and the picture at its end. Everything goes to stderr."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from contracts.terminal import format_amount
from murmur.summary import Summary, VerifierSummary

MARKS = {True: "[green]yes[/green]", False: "[red]no[/red]"}


def tokens(wei: int | str) -> str:
    """Return wei as tokens with at most two decimals."""
    whole, _, rest = format_amount(int(wei)).partition(".")
    return f"{whole}.{rest[:2]}" if rest else whole


def live_view(
    state: Mapping[str, Any], names: Mapping[int, str], url: str, notes: list[str]
) -> RenderableType:
    """Draw the coordinator's summary: where the run stands, then a line for each peer."""
    wire, checked = state["wire"], state["verification"]
    facts = [
        f"round {state['round'] + 1} of {state['rounds']} ({state['phase']})",
        _learnt(state),
        f"{wire['update_bytes_mean'] / 1000:.1f} kB an update"
        if wire["update_bytes_mean"]
        else "no update yet",
        f"{checked['passed']} passed, {checked['void']} void, {checked['false']} false of {checked['drawn']} drawn",
        f"{tokens(state['ledger'].get('paid_wei', 0))} paid",
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in (
        "peer",
        "role",
        "committed",
        "merged",
        "drawn",
        "passed",
        "void",
        "false",
        "stake",
        "earned",
    ):
        table.add_column(title, justify="left" if title in ("peer", "role") else "right")
    for peer in state["peers"]:
        units = peer["units"]
        counts = [str(units[name]) for name in ("committed", "merged", "drawn", "passed", "void", "false")]
        if peer["role"] == "verifier":
            counts = ["", "", "", f"{peer['verdicts']} verdicts", "", ""]
        style = "red" if peer["slashed_wei"] != "0" else None
        name = names.get(peer["number"], str(peer["number"]))
        table.add_row(
            name, peer["role"], *counts, tokens(peer["stake_wei"]), tokens(peer["earned_wei"]), style=style
        )
    lines: list[Table | Text] = [
        Text(" · ".join(facts), style="bold"),
        Text(state["detail"] or "", style="dim"),
        table,
    ]
    lines += [Text(note, style="yellow") for note in notes[-3:]]
    return Group(*lines, Text(f"live page: {url}", style="dim"))


def _learnt(state: Mapping[str, Any]) -> str:
    if state["policy"] is None:
        loss = state["loss"]["last"]
        return "loss -" if loss is None else f"loss {loss:.3f}"
    last = state["policy"]["last"]
    return "success -" if last is None else f"success {last['success']:.3f}, reward {last['reward']:.3f}"


def record_of(judge: VerifierSummary) -> str:
    """Say what a verifier's verdicts were worth."""
    told = [f"{judge.right} verdicts"]
    told += [f"{count} {what}" for count, what in ((judge.wrong, "wrong"), (judge.silent, "silent")) if count]
    return ", ".join([*([judge.cheat] if judge.cheat else []), *told])


def print_summary(console: Console, summary: Summary) -> None:
    """Print the picture at the end."""
    loss, wire, checked = summary.loss, summary.wire, summary.verification
    console.print(
        f"\n[bold]run {summary.run_id[:16]}…[/bold]  {summary.rounds} rounds in {summary.wall_s:.0f} s"
    )
    if loss.last is not None and loss.first is not None:
        alone = ""
        if loss.local is not None:
            alone = (
                f"; a peer alone {loss.local:.3f}, so working together is worth {loss.local - loss.last:.3f}"
            )
        console.print(f"held-out loss {loss.first:.3f} → {loss.last:.3f} nats a byte{alone}")
    if summary.environment is not None:
        _print_policy(console, summary)
    if wire.update_bytes_mean is not None:
        console.print(
            f"updates of {wire.update_bytes_mean / 1000:.1f} kB, {wire.bits_per_parameter:.2f} bit a parameter, "
            f"{wire.dense_ratio:.0f} times smaller than fp32"
        )
    overhead = "" if checked.overhead is None else f"; replay cost {checked.overhead:.1%} of training"
    console.print(
        f"{checked.drawn} units drawn (probability {checked.draw_probability:g}): {checked.passed} passed, "
        f"{checked.void} void, {checked.rejected} proven false{overhead}"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    tiered = any(len(peer.units.tiers) > 1 for peer in summary.peers)
    churned = any(peer.presence.killed or peer.presence.joined is not None for peer in summary.peers)
    away = ("away",) if churned else ()
    for title in (
        "peer",
        "behaviour",
        "units",
        *away,
        "drawn",
        "passed",
        "false",
        "stake",
        "slashed",
        "claimed",
    ):
        table.add_column(title, justify="left" if title in ("peer", "behaviour") else "right")
    for peer in summary.peers:
        units = peer.units
        gone = (len(peer.presence.away),) if churned else ()
        counts = [str(count) for count in (*gone, units.drawn, units.passed, units.rejected)]
        of_tiers = f" ({' '.join(map(str, units.tiers))})" if tiered else ""
        money = [tokens(amount) for amount in (peer.stake_wei, peer.slashed_wei, peer.claimed_wei)]
        table.add_row(
            peer.name,
            peer.cheat or "honest",
            f"{units.committed}{of_tiers}",
            *counts,
            *money,
            style=None if peer.honest else "red",
        )
    for judge in summary.verifiers:
        table.add_row(
            judge.name,
            record_of(judge),
            *[""] * (6 + len(away)),
            tokens(judge.claimed_wei),
            style=None if judge.honest else "red",
        )
    console.print(table)
    if tiered:
        console.print("units in brackets: of each tier, the full one first")
    if churned:
        console.print("away: rounds that counted on a peer and merged nothing of it")
    passed = sum(check.ok for check in summary.audit.checks)
    console.print(f"audit: {passed} of {len(summary.audit.checks)} checks hold {MARKS[summary.audit.ok]}")
    for line in summary.not_demonstrated:
        console.print(f"[red]not shown:[/red] {line}")


def _print_policy(console: Console, summary: Summary) -> None:
    success, reward, groups, lag, wire = (
        summary.success,
        summary.reward,
        summary.groups,
        summary.lag,
        summary.wire,
    )
    if success is not None and reward is not None and success.curve:
        console.print(
            f"held-out tasks of {summary.environment} done {success.first:.3f} → {success.last:.3f}, "
            f"reward {reward.first:.3f} → {reward.last:.3f}"
        )
    if groups is not None:
        console.print(
            f"{groups.assigned} groups of samples assigned: {groups.accepted} accepted, {groups.rejected} rejected, "
            f"{groups.drawn} drawn"
        )
    if lag is not None and lag.mean is not None and wire.rollout_bytes_step and wire.weights_bytes_step:
        console.print(
            f"a round publishes {wire.rollout_bytes_step / 1000:.1f} kB of rollouts and "
            f"{wire.weights_bytes_step / 1000:.1f} kB of updates; samples are {lag.mean:g} rounds old when learned from"
        )
