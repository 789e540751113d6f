"""The page of one round's rollouts: what each peer's samples say and earned, and why a unit counted or not."""

from typing import Any

from coordinator.page import Markup, document, element, figure, link, table

OUTCOMES = {
    None: "not drawn",
    "passed": "drawn: passed",
    "void": "drawn: void, unpaid",
    "false": "drawn: proven false, stake lost",
    "unjudged": "drawn: not judged in time",
}


def render_rollouts(summary: dict[str, Any], found: dict[str, Any]) -> str:
    """Return the page.

    Args:
        summary: what `Reader.summary` gives.
        found: what `Reader.rollouts` gives.
    """
    round_ = found["round"]
    title = f"{summary['name']} · rollouts of round {round_ + 1} of {summary['rounds']}"
    around = [
        link(f"round {other + 1}", f"/rollouts?round={other}")
        for other in (round_ - 1, round_ + 1)
        if 0 <= other < summary["rounds"]
    ]
    main = element(
        "main",
        element("h1", title),
        element("p", link("the run", "/"), *(part for one in around for part in (" · ", one))),
        _units(found["units"]),
        *(_unit(unit) for unit in found["units"]),
    )
    return document(title, main)


def _units(units: list[dict[str, Any]]) -> Markup:
    columns = ("Number", "Merged", "Verdict", "Why not", "Reward", "Success", "Groups", "Bytes")
    rows = [
        (
            unit["number"],
            "yes" if unit["merged"] else "no",
            _verdict(unit),
            element("span", "; ".join(_why(unit)) or "–", class_="words"),
            figure(unit["reward"]),
            figure(unit["success"]),
            unit["groups"],
            unit["rollout_bytes"],
        )
        for unit in units
    ]
    if not rows:
        return element("p", "Nothing of this round has been looked at yet.")
    return element("section", element("h2", "Units"), table("What each peer brought", columns, rows, 4))


def _verdict(unit: dict[str, Any]) -> str:
    if unit["drawn"] and unit["outcome"] is None:
        return "drawn: being judged"
    return OUTCOMES[unit["outcome"]]


def _why(unit: dict[str, Any]) -> list[str]:
    """Return what keeps a unit from its pay, in the words of who found it."""
    said = [unit["reason"]] if unit["reason"] else []
    return said + [reason for reason in dict.fromkeys(unit["verdict_reasons"]) if reason]


def _unit(unit: dict[str, Any]) -> Markup:
    shown = unit["shown"]
    samples = [_sample(place, sample) for place, sample in enumerate(shown["samples"])]
    components = ", ".join(f"{name} {value:.3f}" for name, value in unit["components"].items())
    return element(
        "section",
        element("h2", f"Number {unit['number']}, group {shown['group']}"),
        element("p", f"Means of the unit: {components}"),
        *samples,
    )


def _sample(place: int, sample: dict[str, Any]) -> Markup:
    alone = len(sample["rewards"]) == 1
    parts = [
        element(
            "p",
            element("strong", _speaker(part["player"], alone)),
            element("code", part["text"].replace("\n", "⏎"), class_="said"),
        )
        for part in sample["parts"]
    ]
    earned = [
        (f"player {player}: " if not alone else "")
        + ", ".join(f"{name} {value:g}" for name, value in rewards.items())
        + f"; in all {sample['totals'][player]:g}"
        for player, rewards in enumerate(sample["rewards"])
    ]
    if said := sample.get("preferred"):
        times = said["better"] + said["worse"]
        earned.append(f"people prefer it {said['better']} of {times} times: {said['value']:.3f}")
    head = element("summary", f"Sample {place}: {' | '.join(earned)}")
    return element("details", head, *parts)


def _speaker(player: int | None, alone: bool) -> str:
    if player is None:
        return "environment "
    return "policy " if alone else f"player {player} "
