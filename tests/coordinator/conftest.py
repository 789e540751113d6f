"""A small run on a simulated chain: contributors and verifiers that say what a test wants, and effects that happen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import pytest

from coordinator import rounds
from coordinator.state import (
    Accuse,
    Aggregate,
    Aggregated,
    Anchor,
    Close,
    Decision,
    Effect,
    Event,
    Fetched,
    FetchUpdate,
    Finalize,
    Heard,
    Looked,
    Open,
    Pending,
    Post,
    Propose,
    Proposed,
    Refused,
    Rewards,
    Said,
    Say,
    Weigh,
    Weighed,
)
from protocol.canonical import digest, tagged_digest
from protocol.chain import Operator, PostedRoot
from protocol.keys import PeerKey
from protocol.manifest import (
    UNJUDGED,
    DatasetConfig,
    DeadlineConfig,
    InnerConfig,
    PayConfig,
    RunManifest,
    SamplingSchedule,
    VerificationConfig,
)
from protocol.messages import (
    PASSED,
    PROVEN_FALSE,
    REJECTED,
    Body,
    Commitment,
    Ready,
    Reveal,
    RewardTable,
    Role,
    RoundRecord,
    Seal,
    Signed,
    Verdict,
    sign,
)
from protocol.model_config import ModelConfig
from protocol.state import moments_root, residual_root, segment_root, update_root
from tests.coordinator.simchain import SimulatedChain
from training.assignment import assignment, assignment_digest
from training.merging import Merit
from verification.commit import carried
from verification.sample import Draw
from verification.seal import seal_digest

COORDINATOR = PeerKey(b"\x11" * 32)
PROGRAM = "ab" * 32
SHOWN = (0.5, -1.25)  # fingerprint of every honest replay


def verification(**changes: object) -> VerificationConfig:
    fields = {"segment_steps": 2, "schedule": SamplingSchedule(fresh_probability=1.0)}
    return VerificationConfig.model_validate(fields | changes)


def make_manifest(**changes: object) -> RunManifest:
    fields: dict[str, object] = {
        "name": "test run",
        "chain_id": 31337,
        "ledger": "0x" + "22" * 20,
        "coordinator": COORDINATOR.address,
        "rounds": 3,
        "model": ModelConfig(vocab=256, width=16, layers=1, heads=1, feed_forward=16, context=8),
        "inner": InnerConfig(steps=4, batch=2),
        "merging": UNJUDGED,
        "dataset": DatasetConfig(name="bytes", root="cd" * 32, tokens=10_000),
        "verification": verification(witnesses=0),
        "deadlines": DeadlineConfig(ready=20, commit=10, reveal=5, verify=6, appeal=1),
        "pay": PayConfig(epoch_rounds=2, vest_epochs=0),
        "initial_parameters": digest(b"start"),
        "program": PROGRAM,
    }
    return RunManifest.model_validate({**fields, **changes})


class World:
    """One run: 1, 2, .. are contributors, 101, 102, .. are verifiers."""

    def __init__(self, manifest: RunManifest, *, contributors: int = 3, verifiers: int = 3) -> None:
        self.manifest = manifest
        self.author = COORDINATOR  # who signs what this machine says
        self.run = manifest.run_id
        self.chain = SimulatedChain()
        self.keys: dict[int, PeerKey] = {}
        for number in range(1, contributors + 1):
            self.join(number, "contributor")
        for number in range(101, 101 + verifiers):
            self.join(number, "verifier")
        self.chain.mine()
        self.state = rounds.initial(manifest)
        self.statements: dict[tuple[str, int, int], Signed[Body]] = {}
        self.heard: list[Signed[Body]] = []
        self.parameters: dict[int, str] = {}
        self.decisions: list[Decision] = []
        self.effects: list[Effect] = []
        self.merits: dict[int, Merit] = {}  # of updates that are not good, by number
        self.fits = 100  # units that a round's bound lets be taken back
        self.withheld: set[int] = set()  # numbers whose update never arrives from them
        self.held_by_witnesses: set[str] = set()  # blobs that arrive all the same
        self.hold: set[type] = set()  # transactions that do not happen for now
        self.held: list[Effect] = []

    def join(self, number: int, role: str, stake: int = 100) -> None:
        key = PeerKey(bytes.fromhex(digest(f"peer {number}".encode())))
        self.keys[number] = key
        wallet = "0x" + f"{number:040x}"
        self.chain.members[number] = Operator(number, wallet, key.address, key.peer_id, role, stake)

    # What happens

    def feed(self, event: Event) -> list[Effect]:
        """Give the machine an event, and let its effects happen, until nothing follows."""
        produced: list[Effect] = []
        queue: list[Event] = [event]
        while queue:
            self.state, effects = rounds.step(self.state, queue.pop(0), self.chain)
            produced += effects
            for effect in effects:
                queue += self._perform(effect)
        self.effects += produced
        return produced

    def _perform(self, effect: Effect) -> list[Event]:
        if type(effect) in self.hold:
            self.held.append(effect)
            return []
        chain = self.chain
        match effect:
            case Say(round_, body):
                label = body.epoch if isinstance(body, RewardTable) else 0
                message = sign(self.author, self.manifest, round_, "coordinator", body)
                return [Said(self.statements.setdefault((body.kind, round_, label), message))]
            case Open():
                chain.mine()
                chain.opened_at = chain.height
            case Post(round_, root, count):
                chain.mine()
                chain.roots[round_] = PostedRoot(root, count, chain.height)
                chain.acting = self._number()
            case Anchor(round_, record):
                chain.mine()
                chain.records[round_] = (record, chain.height)
                chain.acting = self._number()
            case FetchUpdate(reveal, blob):
                if reveal.body.number in self.withheld and blob not in self.held_by_witnesses:
                    return []
                return [Fetched(reveal.round, reveal.body.number, blob)]
            case Weigh(request):
                merits = tuple(
                    self.merits.get(unit.number, Merit(passed=True, reason="")) for unit in request.units
                )
                waiting = sum(len(old.taken) for old in request.retracted)
                passed = [blob for blob, one in zip(request.updates, merits, strict=True) if one.passed]
                joint = (
                    digest(" ".join(passed).encode()) if passed and self.manifest.merging.joint_k else None
                )
                return [Weighed(request.round, merits, min(self.fits, waiting), joint)]
            case Aggregate(round_, request):
                parts = (
                    request.parameters,
                    *request.updates,
                    *(old.model_dump_json() for old in request.retracted),
                )
                parts = (*parts, request.joint or "")
                moves = request.updates or request.joint
                after = digest(" ".join(parts).encode()) if moves else request.parameters
                self.parameters[round_ + 1] = after
                return [Aggregated(round_ + 1, after)]
            case Decision():
                self.decisions.append(effect)
                return []
            case Accuse(round_, number, segment):
                about = ((one.number, one.segment, one.contests) for one in chain.cases(round_))
                if (number, segment, False) not in about:  # the jury takes it once
                    chain.open_case(round_, number, segment)
            case Propose(epoch, previous, root, _):
                assert previous == chain.final_root, "the ledger takes what builds on the last final root"
                chain.mine()
                chain.pending = Pending(root, chain.height + chain.dispute_blocks)
                return [Proposed(epoch, chain.height), self._rewards()]
            case Finalize():
                assert chain.pending is not None
                chain.finalized.append(chain.pending.root)
                chain.settled_at.append(chain.height)
                chain.pending = None
                return [self._rewards()]
            case Close(parameters):
                chain.final = parameters
            case _:
                return []
        return [Looked()]

    def _rewards(self) -> Rewards:
        chain = self.chain
        return Rewards(chain.height, len(chain.finalized), chain.pending, chain.final_root)

    def mine(self, blocks: int = 1) -> list[Effect]:
        produced = []
        for _ in range(blocks):
            self.chain.mine()
            produced += self.feed(Looked())
            produced += self.feed(self._rewards())
        return produced

    def release(self) -> None:
        """Let the transactions that were held back happen."""
        self.hold.clear()
        held, self.held = self.held, []
        for effect in held:
            for event in self._perform(effect):
                self.feed(event)

    def restart(self) -> None:
        """Forget everything but what is stored, as after a kill."""
        self.held.clear()
        self.state = rounds.restore(
            self.manifest,
            statements=list(self.statements.values()),
            heard=list(self.heard),
            parameters=self.parameters,
            decisions=list(self.decisions),
            resumed_at=self.chain.height,
            stand_in=self.state.stand_in,
        )
        self.feed(Looked())
        self.feed(self._rewards())

    def stand_in(self, number: int) -> World:
        """Return the machine of an operator who stands in for this one's coordinator, before it heard anything."""
        other = World(self.manifest)
        other.chain, other.keys, other.author = self.chain, self.keys, self.keys[number]
        other.state = rounds.initial(self.manifest, stand_in=other.author.address)
        return other

    def owed(self, epoch: int) -> dict[int, int]:
        """Return what each number is owed by the table of an epoch, in wei."""
        last = self.manifest.rounds_of(epoch)[-1]
        wallets = {one.wallet: number for number, one in self.chain.members.items()}
        entries = self.statements["rewards", last, epoch].body.entries
        return {wallets[entry.account]: entry.cumulative_wei for entry in entries}

    def _number(self) -> int:
        """Return the registration number of who stands in with this machine; 0 for the run's coordinator."""
        return next((number for number, one in self.keys.items() if one is self.author), 0)

    def follow(self, other: World) -> None:
        """Hear everything that another machine of the run has heard and said."""
        known = {message.id for message in (*self.heard, *self.statements.values())}
        for message in (*other.heard, *other.statements.values()):
            if message.id not in known:
                self.heard.append(message)
                self.feed(Heard(message))

    # What peers say

    def hear(self, number: int, round_: int, body: Body, role: Role = "contributor") -> list[Effect]:
        message = self.signed(number, round_, body, role)
        self.heard.append(message)
        return self.feed(Heard(message))

    def signed(self, number: int, round_: int, body: Body, role: Role = "contributor") -> Signed[Body]:
        return sign(self.keys[number], self.manifest, round_, role, body)

    def refusals(self) -> list[str]:
        return [effect.reason for effect in self.effects if isinstance(effect, Refused)]

    def wanted(self, kind: type[Effect]) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def ready(self, numbers: Iterable[int] | None = None, program: str = PROGRAM) -> None:
        for number in sorted(self.keys if numbers is None else numbers):
            role: Role = "verifier" if number > 100 else "contributor"
            self.hear(number, 0, Ready(number=number, program=program, addresses=()), role)

    def symbols(self, number: int, round_: int) -> str:
        return tagged_digest("test/symbols", number, round_)

    def commitment(self, number: int, round_: int, **changes: object) -> Commitment:
        beacon = self.chain.assignment_beacon(round_)
        assert beacon is not None
        previous = self.state.previous
        before = None if previous is None else previous.commitments.get(number)
        expected = carried(
            number,
            None if before is None else before.body,
            None if previous is None else previous.standing,
        )
        state = tagged_digest("test/state", number, round_)
        symbols = str(changes.pop("symbols", self.symbols(number, round_)))
        body = Commitment(
            profile="cpu-fp32",
            number=number,
            parameters=self.state.parameters[round_],
            assignment=assignment_digest(assignment(self.manifest, beacon, round_, number)),
            moments_before=expected.moments,
            moments_after=moments_root(self.run, round_, number, state),
            residual_before=expected.residual,
            residual_after=residual_root(self.run, round_, number, state),
            segments=tuple(
                segment_root(self.run, round_, number, index, state, state)
                for index in range(self.manifest.segments + 1)
            ),
            update=update_root(self.run, round_, number, symbols, "5a" * 32),
        )
        return body.model_copy(update=changes)

    def commit(self, round_: int, numbers: Iterable[int] = (1, 2, 3), **changes: object) -> None:
        for number in numbers:
            self.hear(number, round_, self.commitment(number, round_, **dict(changes)))

    def reveal(self, round_: int, numbers: Iterable[int] = (1, 2, 3), **changes: object) -> None:
        for number in numbers:
            current = self.state.current
            assert current is not None
            symbols = str(changes.get("symbols", self.symbols(number, round_)))
            body = Reveal(
                number=number,
                commitment=current.commitments[number].id,
                symbols=symbols,
                salt="5a" * 32,
                blob=tagged_digest("test/blob", symbols),
                blob_bytes=100,
                train_cpu_s=1.0,
            )
            self.hear(number, round_, body.model_copy(update=changes))

    def draws(self, round_: int) -> tuple[Draw, ...]:
        return self.state.judging[round_].draws or ()

    def seal(self, round_: int, draw: Draw, verifier: int, shown: tuple[float, ...] = SHOWN) -> list[Effect]:
        place = {"number": draw.number, "verifier": verifier, "segment": draw.segment}
        place |= {"commitment": self.state.judging[round_].commitments[draw.number].id, "opening": "dd" * 32}
        fixed = seal_digest(self.run, round_, **place, fingerprint=shown, salt="5a" * 32)
        body = Seal.model_validate(place | {"seal": fixed})
        return self.hear(verifier, round_, body, "verifier")

    def verdict(
        self,
        round_: int,
        draw: Draw,
        verifier: int,
        outcome: int = PASSED,
        shown: tuple[float, ...] = SHOWN,
        *,
        sealed: bool = True,
        forged: bool = False,
        opened: bool = False,
    ) -> list[Effect]:
        """Let a verifier judge; what passes was replayed and sealed, and so was what is rejected though `opened`."""
        anchored = self.state.judging[round_]
        replayed = outcome == PASSED or (outcome == REJECTED and opened)
        if replayed and sealed:
            self.seal(round_, draw, verifier, shown)
        body = Verdict(
            number=draw.number,
            verifier=verifier,
            outcome=outcome,  # type: ignore[arg-type]
            commitment=anchored.commitments[draw.number].id,
            opening=None if outcome == REJECTED and not opened else "dd" * 32,
            profile="cpu-fp32",
            segment=draw.segment,
            reason="" if outcome == PASSED else "differs",
            distance=1e-2 if opened else 0.0,
            exact="ee" * 32 if opened else None,
            exact_distance=1e-4 if opened else 0.0,
            forged_residual=forged,
            tensor="",
            fingerprint=shown if replayed else (),
            salt="5a" * 32 if replayed else None,
            replay_cpu_s=0.1,
        )
        return self.hear(verifier, round_, body, "verifier")

    def condemn(self, round_: int, draw: Draw) -> None:
        """Let two verifiers prove a drawn unit false."""
        for verifier in draw.verifiers[:2]:
            self.verdict(round_, draw, verifier, PROVEN_FALSE)

    def rule(
        self,
        case: int,
        outcome: Literal["passed", "void", "false", "unjudged"],
        *,
        forged_residual: bool = False,
        refused: bool = False,
    ) -> list[Effect]:
        """Let the jury close a case, and the coordinator see it."""
        self.chain.rule(case, outcome, forged_residual=forged_residual, refused=refused)
        return self.feed(Looked())

    def judge_all(
        self, round_: int, outcome: int = PASSED, but: Callable[[Draw], bool] = lambda draw: False
    ) -> None:
        for draw in self.draws(round_):
            if not but(draw):
                for verifier in draw.verifiers[:2]:
                    self.verdict(round_, draw, verifier, outcome)

    # Whole phases

    def open(self) -> None:
        self.ready()
        self.mine()

    def play(self, round_: int, numbers: Iterable[int] = (1, 2, 3)) -> None:
        """Let everybody deliver one whole round, judged."""
        self.commit(round_, numbers)
        self.reveal(round_, numbers)
        self.mine()
        self.judge_all(round_)
        self.mine(2)  # no case about it can change its pay any more

    def record(self, round_: int) -> RoundRecord:
        body = self.statements["record", round_, 0].body
        assert isinstance(body, RoundRecord)
        return body

    def reasons(self, round_: int) -> dict[int, str]:
        return {unit.number: unit.reason for unit in self.record(round_).units}


@pytest.fixture
def world() -> World:
    return World(make_manifest())


@pytest.fixture
def make_world() -> Callable[..., World]:
    def build(*, contributors: int = 3, verifiers: int = 3, **changes: object) -> World:
        return World(make_manifest(**changes), contributors=contributors, verifiers=verifiers)

    return build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "coordinator"
