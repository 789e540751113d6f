"""A bundle in plain words, for a person without the code: what was promised, drawn, recomputed, said and confirmed.

Nothing here decides anything; every sentence follows from a bundle and the report of `verification.proof`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protocol.manifest import RunManifest
from protocol.messages import INCONCLUSIVE, PASSED, PROVEN_FALSE, REJECTED, Verdict
from verification.assigned import assigned_work, weighed_rewards
from verification.bundle import Bundle
from verification.commit import Carried
from verification.judge import is_fresh
from verification.opening import needed_files
from verification.proof import BundleReport
from verification.sample import chance

WORST_TENSORS = 5

_SAID = {
    PASSED: "passed",
    REJECTED: "rejected",
    PROVEN_FALSE: "proven false",
    INCONCLUSIVE: "could not be judged on that machine",
}
_BEACONS = {
    "block": "the hash of the block after the one that anchored the round's record",
    "drand": "a drand round that came after the block that anchored the round's record",
}
_MEANINGS = {
    "passed": "The unit passed: it is paid in full and nobody loses anything.",
    "void": "The unit is void: it earns nothing, and no stake is lost.",
    "false": "The unit is proven false: it earns nothing, and the peer's stake is taken.",
    "unjudged": "Nobody judged the unit in time: it is not decided, and its pay stays in the pot.",
}
_FACTS = {
    "chain and ledger": "the chain and the ledger",
    "run": "the run",
    "commitments_root": "the root of all commitments of the round",
    "commitments_count": "the number of commitments",
    "forced": "the commitments forced in beside them",
    "record": "the hash of the round's record",
    "previous_root": "the root of the round before",
    "previous_record": "the record of the round before",
    "learned": "the records of the rounds that it learned from",
    "assignment_beacon": "the beacon that assigned the data",
    "sampling_beacon": "the beacon that drew the unit",
    "verifiers": "the verifiers that were staked",
    "operators": "the keys of those who signed",
}


@dataclass(frozen=True)
class Section:
    """One question, its answer in sentences, and the same as plain data."""

    name: str
    title: str
    sentences: tuple[str, ...]
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """A bundle explained."""

    sections: tuple[Section, ...]
    exit_code: int

    def to_json(self) -> dict[str, object]:
        """Return facts and sentences as plain JSON data."""
        told: dict[str, object] = {"exit_code": self.exit_code}
        for section in self.sections:
            told[section.name] = {**section.facts, "text": list(section.sentences)}
        return told


def explain(bundle: Bundle, report: BundleReport) -> Explanation:
    """Explain a bundle, given what deciding it found."""
    sections = (
        _subject(bundle),
        _promise(bundle, report),
        _draw(bundle),
        _recomputed(bundle, report),
        _divergence(bundle, report),
        _verdicts(bundle, report),
        _anchor(report),
        _answer(report),
    )
    return Explanation(sections, report.exit_code)


def _subject(bundle: Bundle) -> Section:
    manifest = bundle.manifest
    key = bundle.commitment.author
    facts: dict[str, object] = {
        "run": manifest.run_id,
        "run_name": manifest.name,
        "chain_id": manifest.chain_id,
        "ledger": manifest.ledger,
        "round": bundle.round,
        "number": bundle.number,
        "peer": key,
    }
    return Section(
        "subject",
        "What this is about",
        (
            f"The work of one peer in one round: registration number {bundle.number}, whose hot key is {key}, in "
            f"round {bundle.round} of {manifest.rounds} of the run {manifest.name!r}.",
            f"The run's id is {manifest.run_id}. Its money is held by the ledger {manifest.ledger} on chain "
            f"{manifest.chain_id}.",
        ),
        facts,
    )


def _unit(bundle: Bundle) -> RunManifest:
    """Return the run as the unit has it: with the steps and the batch of its tier."""
    return bundle.manifest.at(bundle.commitment.body.tier)


def _promise(bundle: Bundle, report: BundleReport) -> Section:
    manifest, body, entry = bundle.manifest, bundle.commitment.body, bundle.entry
    carried = Carried(body.moments_before, body.residual_before)
    profile = manifest.verification.profile(body.profile)
    if carried == Carried():
        start = "It started with nothing carried over: zero optimizer moments and a zero residual."
    elif not manifest.carries_moments:
        start = (
            "It carried the residual of its unit of the round before, under the root that it had committed there; "
            "optimizer moments start from what is public in every round of this run."
        )
    else:
        start = (
            "It carried the optimizer moments and the residual of its unit of the round before, under the roots that "
            "it had committed there."
        )
    back = bundle.carried.returned
    if back is not None:
        start += f" What that round's joint update {back.joint} left out of its own update came back to the residual."
    if bundle.unit(0).goes_on(manifest):
        start += (
            " In this run nobody waits for a round's outer step: the unit went on from its peer's own final state of "
            f"the round before, and moved to the round's parameters after {manifest.outer.delay} of its segments."
        )
    arithmetic = (
        f"It said that it computed under the profile {body.profile}, which this run does not have."
        if profile is None
        else f"It said that it computed under the profile {body.profile} ({profile.arithmetic} on {profile.device}, "
        f"torch {profile.torch})."
    )
    merged = "The record says nothing about the unit, or more than one thing."
    if entry is not None:
        merged = (
            f"The round's record left its update out: {entry.reason}."
            if not entry.merged
            else "The round's record merged its update into the model."
            if entry.weight
            else f"The round's record gave its update no weight, because {entry.reason}; so it was certain to be drawn."
        )
    known = () if report.confirmed is None else report.confirmed.known
    sure = ("forced" if bundle.forced else "commitments_root") in known
    holds = "holds" if sure else "is said to hold"
    place = (
        f"The commitment is one of {bundle.facts.commitments_count} under the root "
        f"{bundle.facts.commitments_root}, which the chain {holds}."
    )
    if bundle.forced:
        place = (
            f"The coordinator's list of {bundle.facts.commitments_count} commitments leaves it out, so the peer put "
            f"it on chain itself, which counts as much; the chain {holds} it."
        )
    facts: dict[str, object] = {
        "commitment": bundle.commitment.id,
        "forced": bundle.forced,
        "commitments_root": bundle.facts.commitments_root,
        "commitments": bundle.facts.commitments_count,
        "parameters": body.parameters,
        "assignment": body.assignment,
        "carried": carried != Carried(),
        "segment_roots": len(body.segments),
        "profile": body.profile,
        "merged": None if entry is None else entry.merged,
    }
    return Section(
        "promised",
        "What was promised",
        (
            f"Before anything was shown, the peer signed commitment {bundle.commitment.id}. It fixes where the work "
            f"started (parameters {body.parameters[:16]}), which batches it used, the state after each of "
            f"{_unit(bundle).segments} segments of {manifest.verification.segment_steps} training steps, and the "
            f"update that came out, so that none of it could be changed afterwards.",
            *_rollouts(manifest),
            start,
            arithmetic,
            place,
            merged,
        ),
        facts,
    )


def _rollouts(manifest: RunManifest) -> tuple[str, ...]:
    """Return what a unit promises beside its steps, and what its samples' reward is made of."""
    if manifest.rollouts is None:
        return ()
    parts = "; ".join(weighed_rewards(manifest))
    return (
        f"The work was {assigned_work(manifest)}. The rollouts are part of what the commitment fixes. A sample's "
        f"reward is {parts}.",
    )


def _draw(bundle: Bundle) -> Section:
    manifest, draw, entry = bundle.manifest, bundle.draw, bundle.entry
    beacon = bundle.facts.sampling_beacon
    facts: dict[str, object] = {"beacon_kind": manifest.beacon.kind, "beacon": beacon}
    if draw is None or entry is None:
        return Section(
            "drawn",
            "How it was drawn",
            (f"Under the claimed beacon {beacon} it is not drawn at all.",),
            facts,
        )
    steps, probability = manifest.verification.segment_steps, chance(manifest, entry)
    first, last = draw.segment * steps + 1, (draw.segment + 1) * steps
    needed = manifest.verification.verifiers
    judges, spare = draw.verifiers[:needed], draw.verifiers[needed:]
    why = (
        f"The record counts {entry.earlier} earlier units of the peer"
        + (f" and {entry.suspect} left under suspicion" if entry.suspect else "")
        + (f", and its update had no weight: {entry.reason}" if entry.merged and not entry.weight else "")
        + f", which gives a chance of {probability:.3g} to be drawn."
    )
    ranks = f"Verifiers {_listed(judges)} were to judge it" + (
        f"; had they kept silent, {_listed(spare)} would have stepped in, in this order." if spare else "."
    )
    facts |= {
        "probability": probability,
        "earlier": entry.earlier,
        "suspect": entry.suspect,
        "segment": draw.segment,
        "steps": [first, last],
        "verifiers": list(draw.verifiers),
        "judges": list(judges),
    }
    return Section(
        "drawn",
        "How it was drawn",
        (
            f"Chance decided, by {_BEACONS[manifest.beacon.kind]}: {beacon}. It is newer than the "
            "commitments, and anybody can compute the draw from it.",
            why,
            f"Drawn was segment {draw.segment}: steps {first} to {last} of {_unit(bundle).inner.steps}.",
            ranks,
        ),
        facts,
    )


def _recomputed(bundle: Bundle, report: BundleReport) -> Section:
    replay, opening = report.replay, bundle.opening
    title = "What was computed again"
    if opening is None:
        return Section(
            "recomputed",
            title,
            (
                "Nothing: the bundle holds no opening, that is, no statement of the peer which files its work left.",
            ),
            {"replayed": None},
        )
    unit = bundle.unit(opening.body.segment)
    files = [
        {"role": one.role, "address": one.address, "bytes": one.bytes, "here": one.address in bundle.files}
        for one in needed_files(bundle.manifest, unit, opening.body)
    ]
    total = sum(len(data) for data in bundle.files.values())
    facts: dict[str, object] = {"files": files, "file_bytes": total}
    held = (
        f"The peer opened its work: the bundle holds {len(bundle.files)} files of {total} bytes in all, each of which "
        f"hashes to the name under which it was committed."
    )
    if replay is None:
        why = next((check.detail for check in report.checks if not check.ok), "")
        return Section(
            "recomputed", title, (held, f"Nothing was computed again: {why}."), {**facts, "replayed": None}
        )
    worst = sorted(replay.distances.items(), key=lambda item: -item[1])[:WORST_TENSORS]
    facts |= {
        "replayed": _SAID[replay.outcome],
        "distance": replay.distance,
        "tensor": replay.tensor,
        "tolerance": report.tolerance,
        "worst_tensors": [{"tensor": name, "distance": distance} for name, distance in worst],
        "tensors": len(replay.distances),
        "cpu_s": round(replay.cpu_s, 3),
    }
    if not replay.distances:
        return Section(
            "recomputed", title, (held, f"It was decided before any step: {replay.reason}."), facts
        )
    steps = bundle.manifest.verification.segment_steps
    fresh = is_fresh(bundle.manifest, bundle.commitment.body, opening.body.segment)
    sentences = (
        held,
        f"From the state that the peer opened at the start of the segment, its {steps} steps were executed here with "
        f"the run's own training code and on the assigned data. The end was compared with the peer's, tensor by "
        f"tensor, each against how far it had moved in the segment ({len(replay.distances)} tensors, "
        f"{replay.cpu_s:.2f} CPU seconds).",
        _farthest(worst)
        + f" Machines that compute honestly may differ by {report.tolerance or 0:.2g}"
        + (" in a segment that starts from zero moments." if fresh else "."),
        "The update's symbols and the new residual were computed again bit by bit from the opened final state.",
    )
    return Section("recomputed", title, sentences, facts)


def _farthest(worst: Sequence[tuple[str, float]]) -> str:
    if not any(distance for _, distance in worst):
        return "All of them are equal."
    return "Farthest apart were " + ", ".join(f"{name} ({distance:.2g})" for name, distance in worst) + "."


def _divergence(bundle: Bundle, report: BundleReport) -> Section:
    replay, title = report.replay, "Where it first goes another way"
    if replay is None:
        return Section("divergence", title, ("Unknown, since nothing was computed again.",), {"found": None})
    if replay.outcome == PASSED:
        times = (
            "" if not replay.distance else f", {(report.tolerance or 0) / replay.distance:.3g} times below"
        )
        return Section(
            "divergence",
            title,
            (f"Nowhere: every tensor is within tolerance{times}.",),
            {"found": False},
        )
    segment = None if bundle.opening is None else bundle.opening.body.segment
    facts: dict[str, object] = {"found": True, "segment": segment, "reason": replay.reason}
    if not replay.distances:
        return Section("divergence", title, (f"Before any training step: {replay.reason}.",), facts)
    assert segment is not None
    steps = bundle.manifest.verification.segment_steps
    beyond = [name for name, distance in replay.distances.items() if distance > (report.tolerance or 0)]
    facts |= {
        "steps": [segment * steps + 1, (segment + 1) * steps],
        "tensors": beyond,
        "tensor": replay.tensor,
    }
    return Section(
        "divergence",
        title,
        (
            f"In segment {segment}, between step {segment * steps + 1} and step {(segment + 1) * steps}: from the same "
            f"start, the same data and the same code, {len(beyond)} of {len(replay.distances)} tensors end beyond "
            f"tolerance, {replay.tensor} the farthest ({replay.distance:.3g}).",
            "Which of these steps it was cannot be told, because states are committed at the ends of segments only. Of "
            "the segments that were not drawn this says nothing.",
        ),
        facts,
    )


def _verdicts(bundle: Bundle, report: BundleReport) -> Section:
    ranks = () if bundle.draw is None else bundle.draw.verifiers
    sentences = [_verdict(message.body, ranks) for message in bundle.verdicts]
    told = [
        {
            "verifier": body.verifier,
            "rank": ranks.index(body.verifier) + 1 if body.verifier in ranks else None,
            "said": _SAID[body.outcome],
            "profile": body.profile,
            "distance": body.distance,
            "tensor": body.tensor,
            "reason": body.reason,
            "exact": body.exact,
            "exact_distance": body.exact_distance if body.exact is not None else None,
        }
        for body in (message.body for message in bundle.verdicts)
    ]
    if not sentences:
        sentences = ["The bundle holds no verdict."]
    references = {message.body.exact for message in bundle.verdicts if message.body.exact is not None}
    if len(references) == 1 and len([one for one in told if one["exact"]]) > 1:
        sentences.append(
            f"All who disputed it reached the same end in exact arithmetic, bit by bit: {references.pop()}."
        )
    elif len(references) > 1:
        sentences.append("Their ends in exact arithmetic differ, so at least one of them did not compute it.")
    if report.unit is not None:
        sentences.append(_MEANINGS[report.unit])
    else:
        sentences.append("What the verdicts make of the unit was not decided here.")
    return Section(
        "verdicts", "What the verifiers said", tuple(sentences), {"verdicts": told, "unit": report.unit}
    )


def _verdict(body: Verdict, ranks: Sequence[int]) -> str:
    rank = f"rank {ranks.index(body.verifier) + 1}" if body.verifier in ranks else "not drawn"
    said = f"Verifier {body.verifier} ({rank}, {body.profile}) said: {_SAID[body.outcome]}"
    if body.opening is None:
        said += ", having met no opening"
    elif body.distance:
        said += f", at a distance of {body.distance:.3g} in {body.tensor}"
    if body.reason:
        said += f" ({body.reason})"
    if body.exact is not None:
        said += f"; in exact arithmetic the committed end is {body.exact_distance:.3g} away"
    return said + "."


def _anchor(report: BundleReport) -> Section:
    title = "What this relies on"
    if report.confirmed is None:
        why = next((check.detail for check in report.checks if check.name == "anchor"), "")
        return Section(
            "anchor",
            title,
            (
                f"On nothing but the bundle: {why or 'it could not be read'}.",
                "Whoever made the bundle could have invented the chain's part of it.",
            ),
            {"source": None, "confirmed": [], "taken_from_the_bundle": list(_FACTS)},
        )
    known, taken = report.confirmed.known, report.confirmed.taken
    sentences = [f"On {report.confirmed.source}. It confirmed {_named(known)}."]
    if taken:
        sentences.append(f"Only the bundle says, and nobody confirmed: {_named(taken)}.")
    facts = {
        "source": report.confirmed.source,
        "confirmed": list(known),
        "taken_from_the_bundle": list(taken),
    }
    return Section("anchor", title, tuple(sentences), facts)


def _answer(report: BundleReport) -> Section:
    failing = [check for check in report.checks if not check.ok]
    words = {
        0: "The bundle holds: everything in it follows, and computing again gives what its verdicts say.",
        6: "The bundle does not hold.",
        7: "This is undecided.",
    }
    sentences = [words[report.exit_code]]
    sentences += [f"{check.name.capitalize()}: {check.detail}." for check in failing]
    facts = {
        "verdict": {0: "holds", 6: "rejected", 7: "inconclusive"}[report.exit_code],
        "checks": [check.to_json() for check in report.checks],
    }
    return Section("answer", "The answer", tuple(sentences), facts)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "nobody"


def _named(facts: Sequence[str]) -> str:
    return ", ".join(_FACTS.get(name, name.replace("_", " ")) for name in facts)
