"""Small valid values that tests start from."""

from eth_utils.crypto import keccak

from protocol.keys import PeerKey
from protocol.manifest import UNJUDGED, DatasetConfig, RunManifest
from protocol.messages import Commitment, Opening, Preference, Signed, Verdict, sign
from protocol.rollout_config import (
    EnvironmentConfig,
    PeopleConfig,
    RewardWeight,
    RolloutConfig,
    SamplingConfig,
)

LEDGER = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


def key(name: str) -> PeerKey:
    """Return the key of a name, the same in every run of the tests."""
    return PeerKey(keccak(text=f"test key {name}"))


def digest_of(name: str) -> str:
    """Return some 64 hex digits for a name."""
    return keccak(text=name).hex()


def manifest(**changes: object) -> RunManifest:
    """Return a small manifest, with fields changed."""
    fields: dict[str, object] = {
        "name": "test",
        "chain_id": 31337,
        "ledger": LEDGER,
        "coordinator": key("coordinator").address,
        "rounds": 6,
        "merging": UNJUDGED,
        "dataset": DatasetConfig(name="text", root=digest_of("data"), tokens=100_000),
        "initial_parameters": digest_of("parameters"),
        "program": digest_of("program"),
    }
    return RunManifest.model_validate(fields | changes)


def asking(people: int = 2, *, lag: int = 3, **sampling: int) -> RolloutConfig:
    """Return rollouts for whose samples people's preferences count: those of `person 0`, `person 1`, .."""
    return RolloutConfig(
        environment=EnvironmentConfig(name="sort", version="1", settings_hash=digest_of("settings")),
        sampling=SamplingConfig(groups=2, group_size=4).model_copy(update=sampling),
        rewards=(
            RewardWeight(component="sorted", weight=1.0),
            RewardWeight(component="preferred", weight=0.5, source="human"),
        ),
        people=PeopleConfig(addresses=tuple(key(f"person {place}").address for place in range(people))),
        lag=lag,
    )


def preference(
    run: RunManifest,
    round_: int,
    better: int,
    worse: int,
    *,
    number: int = 1,
    person: int = 0,
    group: int = 0,
) -> Signed[Preference]:
    """Return a preference that its person signed."""
    said = Preference(person=person, number=number, group=group, better=better, worse=worse)
    return sign(key(f"person {person}"), run, round_, "person", said)


def commitment(number: int, segments: int = 5, **changes: object) -> Commitment:
    """Return a commitment of a number with invented roots, with fields changed."""
    fields: dict[str, object] = {
        "number": number,
        "parameters": digest_of("parameters"),
        "assignment": digest_of(f"assignment {number}"),
        "profile": "cpu-fp32",
        "moments_before": digest_of("moments before"),
        "moments_after": digest_of("moments after"),
        "residual_before": digest_of("residual before"),
        "residual_after": digest_of("residual after"),
        "segments": tuple(digest_of(f"segment {number} {index}") for index in range(segments + 1)),
        "update": digest_of(f"update {number}"),
    }
    return Commitment.model_validate(fields | changes)


def opening(number: int = 1, case: int = 0) -> Opening:
    """Return a well-formed opening of a draw, or of a case."""
    said = {field: digest_of(field) for field, one in Opening.model_fields.items() if one.is_required()}
    return Opening.model_validate(said | {"number": number, "case": case, "segment": 0})


def verdict(number: int = 1, verifier: int = 7) -> Verdict:
    """Return a verdict that passes a unit without an opening of it."""
    return Verdict(
        number=number,
        verifier=verifier,
        outcome=1,
        commitment=digest_of("c"),
        opening=None,
        profile="cpu-fp32",
        segment=0,
        reason="",
        distance=0.0,
        tensor="",
        replay_cpu_s=0.0,
    )
