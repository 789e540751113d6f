"""The live page: HTML made on the server, without a script, from the same data as the API.

Everything is made of `Markup` and text; text is escaped where it enters, so no string of a peer can become markup.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from coordinator.queries import thinned

REFRESH_S = 2
STALE_S = 10.0
WIDTH, HEIGHT, MARGIN = 720, 240, 44
SHOWN_REFUSALS = 20
SHOWN_POINTS = 400
PHASES = {
    "created": "waiting for the run on chain",
    "ready": "waiting for peers",
    "commit": "collecting commitments",
    "post": "posting the commitment root",
    "reveal": "collecting updates",
    "anchor": "anchoring the record",
    "judging": "judging drawn units",
    "jury": "waiting for the jury",
    "disputes": "waiting for disputes",
    "settling": "settling pay",
    "finished": "finished",
}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Return a value as HTML text; `Markup` passes as it is, control characters do not."""
    if isinstance(value, Markup):
        return value
    text = "" if value is None else str(value)
    visible = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return Markup(html.escape(visible))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element; children and attribute values are escaped. `class_` is `class`, `_` in a name is `-`."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{shown}>{''.join(escape(child) for child in children)}</{name}>")


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], numeric: int = 0) -> Markup:
    """Return a table; the first column heads its row, those from `numeric` on are set as numbers."""
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = []
    for first, *rest in rows:
        cells = [
            element("td", cell, class_="number") if index >= numeric else element("td", cell)
            for index, cell in enumerate(rest, 1)
        ]
        body.append(element("tr", element("th", first, scope="row"), *cells))
    parts = (element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", element("table", *parts), class_="scroll")


def render(summary: dict[str, Any], rounds: list[dict[str, Any]]) -> str:
    """Return the page.

    Args:
        summary: what `Reader.summary` gives.
        rounds: the newest rounds first.
    """
    title = f"{summary['name']} · round {summary['round'] + 1} of {summary['rounds']}"
    stale = summary["age_s"] > STALE_S
    warning = f"The coordinator last wrote {summary['age_s']:.0f} s ago: what follows is old."
    main = element(
        "main",
        element("h1", title),
        element("p", warning, class_="stale", role="alert") if stale else Markup(),
        _state(summary),
        _facts(summary),
        _people(summary["manifest"]["rollouts"]),
        *([_loss_curve(summary["loss"])] if summary["policy"] is None else _policy_curves(summary["policy"])),
        _peers(summary["peers"]),
        _rounds(rounds),
        _refusals(summary["refused"]),
        _footer(summary),
        class_="old" if stale else "fresh",
    )
    return document(title, main, refresh_s=REFRESH_S)


def document(title: str, main: Markup, *, refresh_s: int | None = None) -> str:
    """Return a whole page; with `refresh_s` it is asked for again after so many seconds."""
    again = "" if refresh_s is None else f'<meta http-equiv="refresh" content="{refresh_s}">'
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
        Markup(f'{again}<link rel="stylesheet" href="/style.css">'),
        element("title", f"Murmur: {title}"),
    )
    return "<!doctype html>\n" + element("html", head, element("body", main), lang="en")


def link(text: str, href: str) -> Markup:
    """Return a link inside of this site."""
    return element("a", text, href=href)


def tokens(wei: str | int) -> str:
    """Return wei as tokens, to six decimals."""
    return f"{int(wei) / 10**18:.6f}".rstrip("0").rstrip(".")


def short(identifier: str) -> Markup:
    """Return a long identifier shortened in the middle, whole on hover."""
    shown = identifier if len(identifier) <= 16 else f"{identifier[:8]}…{identifier[-6:]}"
    return element("span", shown, title=identifier)


def figure(value: float | None, digits: int = 3) -> str:
    """Return a number, or a dash where there is none yet."""
    return "–" if value is None else f"{value:.{digits}f}"


def _state(summary: dict[str, Any]) -> Markup:
    what = PHASES.get(summary["phase"], summary["phase"])
    detail = f": {summary['detail']}" if summary["detail"] else ""
    return element("p", element("strong", what), detail, class_="state")


def _facts(summary: dict[str, Any]) -> Markup:
    loss, wire, found, ledger = (summary[name] for name in ("loss", "wire", "verification", "ledger"))
    facts = (
        _learnt(loss, summary["policy"]),
        ("Parameters", f"{summary['parameters']:,}"),
        (
            "Update on the wire",
            f"{figure(wire['update_bytes_mean'], 0)} bytes, {figure(wire['dense_ratio'], 1)}× below fp32",
        ),
        (
            "Units drawn",
            f"{found['drawn']}: {found['passed']} passed, {found['false']} proven false, {found['void']} void, "
            f"{found['unjudged']} unjudged, {found['undecided']} open",
        ),
        *_throughput(summary["throughput"]),
        ("Verification cost", f"{figure(found['overhead'])} of training CPU"),
        ("Pot", f"{tokens(ledger.get('funded_wei', 0))} funded, {tokens(ledger.get('paid_wei', 0))} claimed"),
        ("Slashed", tokens(ledger.get("slashed_wei", 0))),
        ("Chain", f"block {summary['height']}, {ledger.get('commit_roots', 0)} roots"),
        ("Network", f"{summary['network']['connected']} connected"),
    )
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in facts)
    )


def _throughput(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    share = found["train_cpu_share"]
    trained = "–" if share is None else f"{share:.0%}"
    return [
        (
            "Throughput",
            f"{found['tokens_per_s']:,.0f} tokens/s merged, {found['flops_per_s'] / 1e9:,.2f} model GFLOP/s",
        ),
        (
            "Time of a round",
            f"{figure(found['seconds'], 1)} s; CPU time of training, as each peer says, is {trained} of it; the rest "
            "is communication, checks and waiting",
        ),
    ]


def _people(rollouts: dict[str, Any] | None) -> Markup:
    if rollouts is None or rollouts["people"] is None:
        return Markup()
    count = len(rollouts["people"]["addresses"])
    asked = "One person says" if count == 1 else f"{count} people say"
    return element("p", f"{asked} which samples are better: ", link("compare two", "/preferences"))


def _learnt(loss: dict[str, Any], policy: dict[str, Any] | None) -> tuple[str, str]:
    if policy is None:
        alone = f"; alone {figure(loss['local'])}" if loss["local"] is not None else ""
        return "Held-out loss", f"{figure(loss['first'])} → {figure(loss['last'])} nats{alone}"
    first, last = (policy[name] or {"success": None, "reward": None} for name in ("first", "last"))
    reward = f"reward {figure(first['reward'])} → {figure(last['reward'])}; lag {policy['lag']} rounds"
    return "Held-out tasks done", f"{figure(first['success'])} → {figure(last['success'])}; {reward}"


def _loss_curve(loss: dict[str, Any]) -> Markup:
    points = [(point["round"], point["loss"]) for point in thinned(loss["curve"], SHOWN_POINTS)]
    return _curve("Loss", "Held-out loss, nats a byte", points, loss["local"])


def _policy_curves(policy: dict[str, Any]) -> list[Markup]:
    points = [(point["round"], point["success"]) for point in thinned(policy["curve"], SHOWN_POINTS)]
    found = [_curve("Success", "Share of held-out tasks done", points, None)]
    earned = thinned(policy["reward"]["curve"], SHOWN_POINTS)
    for name in earned[-1]["components"] if earned else ():
        points = [(point["round"], point["components"][name]) for point in earned]
        found.append(_curve(f"Reward: {name}", f"Mean of {name} over accepted samples", points, None))
    if earned:
        newest = earned[-1]["round"]
        found.append(element("p", link(f"Rollouts of round {newest + 1}", f"/rollouts?round={newest}")))
    return found


def _curve(name: str, what: str, points: list[tuple[int, float]], alone: float | None) -> Markup:
    if len(points) < 2:
        return element("p", f"The {name.lower()} curve begins with the second round.")
    (first, _), (last, _) = points[0], points[-1]
    values = [value for _, value in points] + ([alone] if alone is not None else [])
    low, high = min(values), max(values)
    spread = (high - low) or 1.0

    def place(round_: int, value: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * (round_ - first) / max(last - first, 1)
        return x, MARGIN / 2 + (HEIGHT - MARGIN) * (high - value) / spread

    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    parts: list[Markup] = [element("title", f"{what}: from {points[0][1]:.3f} to {points[-1][1]:.3f}")]
    for value in (low, high):
        y = place(first, value)[1]
        parts.append(
            element("line", x1=MARGIN, x2=WIDTH - MARGIN, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
        )
        parts.append(element("text", f"{value:.2f}", x=MARGIN - 6, y=f"{y + 4:.1f}", class_="end"))
    if alone is not None:
        y = place(first, alone)[1]
        parts.append(
            element("line", x1=MARGIN, x2=WIDTH - MARGIN, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="alone")
        )
        parts.append(element("text", "alone", x=WIDTH - MARGIN + 4, y=f"{y + 4:.1f}"))
    parts.append(element("polyline", points=path))
    parts.append(element("text", f"round {first}", x=MARGIN, y=HEIGHT - 2))
    parts.append(element("text", f"round {last}", x=WIDTH - MARGIN, y=HEIGHT - 2, class_="end"))
    chart = element("svg", *parts, role="img", viewBox=f"0 0 {WIDTH} {HEIGHT}")
    twin = table(what, ("Round", name), ((r, f"{v:.4f}") for r, v in points), 1)
    return element(
        "section", element("h2", name), chart, element("details", element("summary", "As a table"), twin)
    )


def _peers(peers: list[dict[str, Any]]) -> Markup:
    columns = (
        *(
            "Number",
            "Role",
            "Peer",
            "Stake",
            "Units",
            "Merged",
            "No weight",
            "Drawn",
            "Passed",
            "Void",
            "False",
        ),
        *("Verdicts", "Earned", "Claimed"),
    )
    rows = [
        (
            peer["number"],
            peer["role"],
            short(peer["peer_id"]),
            _stake(peer),
            peer["units"]["listed"],
            peer["units"]["merged"],
            peer["units"]["doubted"],
            peer["units"]["drawn"],
            peer["units"]["passed"],
            peer["units"]["void"],
            peer["units"]["false"],
            peer["verdicts"],
            tokens(peer["earned_wei"]),
            tokens(peer["claimed_wei"]),
        )
        for peer in peers
    ]
    return element(
        "section",
        element("h2", "Peers"),
        table("Who takes part, and what it earned in tokens", columns, rows, 3),
    )


def _stake(peer: dict[str, Any]) -> Markup:
    if peer["slashed_wei"] != "0":
        return element("span", f"slashed {tokens(peer['slashed_wei'])}", class_="bad")
    return escape(tokens(peer["stake_wei"]))


def _rounds(rounds: list[dict[str, Any]]) -> Markup:
    columns = (
        "Round",
        "Loss at start",
        "Listed",
        "Merged",
        "Update bytes",
        "Root in block",
        "Record in block",
        "Seconds",
    )
    rows = [
        (
            row["round"],
            figure(row["loss"], 4),
            *("–" if row[name] is None else row[name] for name in ("listed", "merged", "update_bytes")),
            *("–" if row[name] is None else row[name] for name in ("root_block", "record_block")),
            figure(_seconds(row), 1),
        )
        for row in rounds
    ]
    return element("section", element("h2", "Rounds"), table("The newest rounds", columns, rows, 1))


def _seconds(row: dict[str, Any]) -> float | None:
    if row["began_at"] is None or row["ended_at"] is None:
        return None
    return float(row["ended_at"] - row["began_at"])


def _refusals(refused: list[dict[str, Any]]) -> Markup:
    if not refused:
        return Markup()
    rows = [
        (short(row["sender"]), "–" if row["number"] is None else row["number"], row["reason"], row["count"])
        for row in refused[:SHOWN_REFUSALS]
    ]
    caption = "Messages and frames that did not count"
    return element(
        "section", element("h2", "Refused"), table(caption, ("Sender", "Number", "Reason", "Times"), rows, 3)
    )


def _footer(summary: dict[str, Any]) -> Markup:
    link = element("a", "the same as JSON", href=f"/v1/runs/{summary['run']}")
    return element("footer", "Run ", short(summary["run"]), " · ", link)


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --quiet: #5c6670; --line: #d5dae0; --accent: #0b6e99;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #14181c; --quiet: #9aa5b0; --line: #313a43;
  --accent: #5cc0ea; --bad: #ff8a80; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
.state { margin: 0 0 1rem; color: var(--quiet); } .state strong { color: var(--ink); }
.stale { border: 2px solid var(--bad); padding: .5rem .8rem; } .old dl, .old section { opacity: .55; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .6rem 1.5rem; margin: 0; }
dt { color: var(--quiet); font-size: .85rem; } dd { margin: 0; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } polyline { fill: none; stroke: var(--accent); stroke-width: 2; }
svg text { fill: var(--quiet); font-size: 11px; } svg .end { text-anchor: end; }
.grid { stroke: var(--line); } .alone { stroke: var(--quiet); stroke-dasharray: 5 4; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--quiet); font-size: .85rem; padding-bottom: .2rem; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); font-weight: 400;
  white-space: nowrap; }
thead th { color: var(--quiet); font-size: .85rem; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.bad { color: var(--bad); font-weight: 600; } a { color: var(--accent); }
.words { display: inline-block; white-space: normal; min-width: 18rem; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; } details p { margin: .2rem 0; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1.5rem; }
.side > div { border: 1px solid var(--line); padding: .3rem .8rem; min-height: 6rem; }
button { font: inherit; padding: .3rem .9rem; margin-right: .5rem; }
footer { margin-top: 2.5rem; color: var(--quiet); font-size: .85rem; }
"""
