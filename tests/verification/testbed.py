"""A whole run in one process: tiny model, simulated chain, honest and lying peers, and the folder they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contracts.events import Claimed, RewardsFinalized, Slashed
from node.tiers import next_tier
from node.unit import Files, Unit, Work, commit, opening, reveal
from protocol.blobs import BlobStore
from protocol.canonical import ZERO_DIGEST, digest
from protocol.chain import PostedRoot
from protocol.manifest import (
    UNJUDGED,
    CodecConfig,
    DeadlineConfig,
    InnerConfig,
    PayConfig,
    RunManifest,
    SamplingSchedule,
    VerificationConfig,
)
from protocol.merkle import StandardMerkleTree, commitment_leaf, reward_tree
from protocol.messages import (
    Commitment,
    CommitmentEntry,
    CommitmentList,
    Finish,
    Judgement,
    Opening,
    Receipt,
    ReceivedUpdate,
    RewardTable,
    RoundRecord,
    Seal,
    Signed,
    UnitRecord,
    Verdict,
    sign,
)
from protocol.model_config import ModelConfig
from protocol.published import read_update
from protocol.tensors import Floats, pack, parameter_layout, unpack
from protocol.update import Symbols, encode, symbols_digest
from tests.verification.simchain import LEDGER, STAKE, SimChain, key, wallet
from tests.verification.trial import Cheat, Trial
from training.assignment import assignment, assignment_digest
from training.codec import compress
from training.corpus import Shard, dataset_config, prepare_corpus
from training.delay import caught_up
from training.gate import judge_round
from training.inner import InnerState, prepare_process, primed
from training.joint import give_back, read_returned
from training.model import initial_parameters
from training.outer import (
    initial_state,
    load_parameters,
    parameters_file,
)
from training.program import program_digest
from training.second_moments import with_slice
from training.trainer import trainer_for
from training.workbench import LoadRequest, Workbench
from verification.archive import Archive, RoundDossier, Settlement
from verification.cases import confirmed_faults
from verification.commit import Carried, carried
from verification.judge import forged_residual, refused
from verification.lateness import in_force, is_void
from verification.replay import Units
from verification.retract import aggregate_request, chained, moving_units, moving_updates, waiting
from verification.ruling import rule
from verification.sample import NEWCOMER, Draw, Standing, count_listed, doubt, draws
from verification.seal import needs_seal, seal_digest
from verification.settle import (
    JudgedCase,
    SettledRound,
    epoch_earnings,
    reward_entries,
    settled_round,
    vested,
)
from verification.unit import DrawnUnit, ReplayReport
from verification.weighing import weigh, weigh_request
from verification.witness import witnesses

SALT = "5a" * 32


def tiny_manifest(corpus: Path, data_dir: Path, **changes: object) -> RunManifest:
    """Return a manifest over a shard that is then in `data_dir`: 3 segments of 2 steps, everybody drawn."""
    shard = prepare_corpus(corpus, data_dir)
    model = ModelConfig(vocab=256, width=16, layers=1, heads=2, feed_forward=16, context=8)
    fields: dict[str, object] = {
        "name": "testbed",
        "chain_id": 31337,
        "ledger": LEDGER,
        "coordinator": key(0).address,
        "rounds": 3,
        "model": model,
        "inner": InnerConfig(steps=6, batch=2, lr=4e-3, warmup_steps=2),
        "codec": CodecConfig(chunk=512, k=32),
        "merging": UNJUDGED,
        "dataset": dataset_config("testbed", shard),
        "verification": VerificationConfig(segment_steps=2, schedule=SamplingSchedule(fresh_probability=1.0)),
        "deadlines": DeadlineConfig(verify=4, appeal=4),
        "pay": PayConfig(epoch_rounds=2, vest_epochs=0),
        "initial_parameters": ZERO_DIGEST,
        "program": program_digest(),
        **changes,
    }
    manifest = RunManifest.model_validate(fields)
    vector = initial_parameters(manifest.model, seed=1)
    first = digest(parameters_file(manifest, initial_state(manifest, vector)))
    return manifest.model_copy(update={"initial_parameters": first})


@dataclass
class Made:
    """What a peer has after a unit."""

    unit: Unit
    commitment: Signed[Commitment]
    moments: str
    residual: str


class Testbed:
    """Make units, rounds and whole runs."""

    __test__ = False

    def __init__(
        self, directory: Path, manifest: RunManifest, contributors: int = 3, verifiers: int = 3
    ) -> None:
        self.manifest = manifest
        self.run = manifest.run_id
        self.data_dir = directory / "data"
        self.shard = Shard.open(manifest.dataset, self.data_dir)
        self.archive = Archive(directory / "public")
        self.public = BlobStore(self.archive.blobs)
        self.states = BlobStore(directory / "states")
        prepare_process(1)
        self.units = Units(self.shard)
        load = LoadRequest(manifest_path=directory, store=self.archive.blobs, data_dir=self.data_dir)
        self.bench = Workbench(load, manifest, self.public)
        self.contributors = tuple(range(1, 1 + contributors))
        self.judges = tuple(range(1 + contributors, 1 + contributors + verifiers))
        roles = dict.fromkeys(self.contributors, "contributor") | dict.fromkeys(self.judges, "verifier")
        self.chain = SimChain(manifest, roles)
        self.parameters = self.public.put(
            parameters_file(manifest, initial_state(manifest, initial_parameters(manifest.model, seed=1)))
        )
        self.made: dict[tuple[int, int], Made] = {}
        self.listed: dict[int, Signed[CommitmentList]] = {}
        self.records: dict[int, Signed[RoundRecord]] = {}
        self.dossiers: dict[int, RoundDossier] = {}
        self.reports: dict[tuple[int, int], ReplayReport] = {}
        self.settled: list[SettledRound] = []
        self.judged: list[Judgement] = []
        self.undecided: list[Judgement] = []
        self.standings: Mapping[int, Standing] = {}
        self.wishes: dict[int, int] = {}  # tiers that peers want, by number
        self.left_out: dict[int, set[int]] = {}  # by round: whom the list leaves out, who force themselves in
        self.late: set[int] = set()  # rounds whose record is anchored too late
        self.accused: dict[int, list[tuple[int, int]]] = {}  # by round: (number, segment)

    @property
    def parameters_size(self) -> int:
        return parameter_layout(self.manifest.model).size

    # one unit

    def carried(self, round_: int, number: int) -> Carried:
        before = self.made.get((round_ - 1, number))
        record = self.records.get(round_ - 1)
        return carried(
            number,
            before.commitment.body if before else None,
            in_force(record.body, void=is_void(self.manifest, self.chain, round_ - 1)) if record else None,
        )

    def make(self, round_: int, number: int, cheat: Mapping[str, Cheat] | None = None) -> Made:
        """Train and commit one unit. A cheat is called at its stage: segment0, .., end, symbols, roots."""
        cheats = dict(cheat or {})
        manifest, model = self.manifest, self.manifest.model
        beacon = self.chain.assignment_beacon(round_)
        assert beacon is not None
        public = load_parameters(manifest, self.public.get(self.parameters, max_size=1 << 24))
        start = public.parameters
        expected = self.carried(round_, number)
        before = self.made.get((round_ - 1, number)) if expected != Carried() else None
        carries = before is not None and manifest.carries_moments
        moments = self.states.get(before.moments, max_size=1 << 24) if carries else None
        residual = None
        if before is not None:
            residual = self._vector(before.residual)
        read = self.public.get
        back = read_returned(manifest, expected.returned, lambda blob, limit: read(blob, max_size=limit))
        residual = give_back(residual, back)
        goes_on = manifest.outer.delay and before is not None
        own = before.unit.work.segments[-1] if goes_on else None
        begun = start if own is None else self._vector(own.parameters)
        state = InnerState.from_files(model, pack(parameter_layout(model), begun), moments)
        view = manifest.at(expected.tier_of(manifest))
        trainer = trainer_for(view, self.shard, manifest.verification.profiles[0])
        trainer.load(primed(state, public.moments))
        offsets = assignment(view, beacon, round_, number)
        trial = Trial(self, round_, number, trainer, offsets, [state], start, start, residual, view)
        for segment in range(view.segments):
            if goes_on and segment == manifest.outer.delay:
                move = cheats.pop("outer step", lambda t: caught_up(t.trainer.state(), begun, start))
                trainer.load(move(trial))
            cheats.pop(f"segment{segment}", lambda t, s=segment: t.run(s))(trial)
        trial.final = trial.states[-1].parameters
        cheats.pop("end", lambda t: None)(trial)
        trial.symbols, trial.residual = compress(manifest.codec, start - trial.final, residual)
        second = trial.states[-1].exp_avg_sq
        trial.symbols = with_slice(manifest, trial.symbols, second, beacon, round_, number)
        cheats.pop("symbols", lambda t: None)(trial)
        assert not cheats, cheats
        files = [
            Files(
                parameters=self.states.put(one.parameters_file(model)),
                moments=self.states.put(one.moments_file(model)),
            )
            for one in trial.states
        ]
        container = encode(trial.symbols)
        work = Work(
            assignment=assignment_digest(assignment(view, beacon, round_, number)),
            segments=tuple(files),
            parameters=files[-1].parameters if manifest.outer.delay else None,
            moments=files[-1].moments,
            residual=self.states.put(pack(parameter_layout(model), trial.residual)),
            symbols=symbols_digest(trial.symbols),
            blob=self.public.put(container),
            blob_bytes=len(container),
            cpu_s=0.5,
            loss=5.0,
        )
        return self._commit(round_, number, work, expected, before)

    def _vector(self, address: str) -> Floats:
        return unpack(parameter_layout(self.manifest.model), self.states.get(address, max_size=1 << 24))[0]

    def _commit(self, round_: int, number: int, work: Work, expected: Carried, before: Made | None) -> Made:
        body = commit(
            self.run,
            round_,
            number,
            profile=self.manifest.verification.profiles[0].name,
            parameters=self.parameters,
            expected=expected,
            salt=SALT,
            work=work,
            carries_moments=self.manifest.carries_moments,
            tier=expected.tier_of(self.manifest),
            next_tier=next_tier(self.manifest, round_, expected, self.wishes.get(number)),
        )
        signed = sign(key(number), self.manifest, round_, "contributor", body)
        unit = Unit(
            round=round_,
            commitment=body,
            commitment_id=signed.id,
            salt=SALT,
            moments_before=before.moments if before and self.manifest.carries_moments else None,
            residual_before=None if before is None else before.residual,
            returned=expected.returned,
            state_before=None if before is None else before.unit.state,
            work=work,
        )
        made = Made(unit, signed, work.moments, work.residual)
        self.made[round_, number] = made
        return made

    def recommit(self, made: Made, work: Work) -> Made:
        """Commit to other work in the place of a first unit."""
        return self._commit(made.unit.round, made.unit.commitment.number, work, Carried(), None)

    def drawn(self, made: Made, segment: int) -> DrawnUnit:
        round_, number = made.unit.round, made.unit.commitment.number
        beacon = self.chain.assignment_beacon(round_)
        assert beacon is not None
        sampling = self.chain.sampling_beacon(round_) or ZERO_DIGEST
        return DrawnUnit(made.commitment, segment, beacon, self.carried(round_, number), sampling)

    def open(self, made: Made, at: int, **changes: object) -> Signed[Opening]:
        body = opening(made.unit, at).model_copy(update=changes)
        return sign(key(body.number), self.manifest, made.unit.round, "contributor", body)

    def files(self, unit: DrawnUnit, opened: Signed[Opening]) -> dict[str, bytes]:
        needed = self.units.needed_files(self.manifest, unit, opened.body)
        stores = (self.public, self.states)
        return {
            one.address: store.get(one.address, max_size=one.bytes)
            for one in needed
            for store in stores
            if store.has(one.address)
        }

    def replay(self, made: Made, segment: int, **changes: object) -> ReplayReport:
        """Open one segment and replay it, as a verifier does."""
        unit, opened = self.drawn(made, segment), self.open(made, segment, **changes)
        self.units.check_opening(self.manifest, unit, opened)
        return self.units.replay(self.manifest, unit, opened.body, self.files(unit, opened))

    def verdict(
        self, draw: Draw, round_: int, judge: int, report: ReplayReport, opened: str | None
    ) -> Signed[Verdict]:
        body = Verdict(
            number=draw.number,
            verifier=judge,
            outcome=report.outcome,
            commitment=self.made[round_, draw.number].commitment.id,
            opening=opened,
            profile=self.manifest.verification.profiles[0].name,
            segment=draw.segment,
            reason=report.reason,
            distance=report.distance,
            tensor=report.tensor,
            fingerprint=report.fingerprint,
            salt=SALT if report.fingerprint else None,
            exact=report.exact,
            exact_distance=report.exact_distance,
            forged_residual=report.forged_residual,
            replay_cpu_s=0.1,
        )
        return sign(key(judge), self.manifest, round_, "verifier", body)

    def seal(self, verdict: Signed[Verdict]) -> Signed[Seal]:
        """Return what its verifier sealed before it gave a verdict."""
        said, round_ = verdict.body, verdict.round
        assert said.opening is not None
        place = {"number": said.number, "verifier": said.verifier, "segment": said.segment}
        fixed = seal_digest(
            self.run,
            round_,
            **place,
            commitment=said.commitment,
            opening=said.opening,
            fingerprint=said.fingerprint,
            salt=SALT,
        )
        body = Seal(**place, commitment=said.commitment, opening=said.opening, seal=fixed)
        return sign(key(said.verifier), self.manifest, round_, "verifier", body)

    # whole rounds

    def play_round(
        self, round_: int, cheats: Mapping[int, Mapping[str, Cheat]] | None = None
    ) -> RoundDossier:
        """Play one round to its verdicts; judgements go into the record of the round after."""
        manifest, chain = self.manifest, self.chain
        chain.height += 1
        forced = self.left_out.get(round_, set())
        roster = (one.number for one in chain.roster(round_))
        numbers = sorted(roster, key=lambda number: (number in forced, number))
        made = [self.make(round_, number, (cheats or {}).get(number)) for number in numbers]
        entries = tuple(
            CommitmentEntry(number=n, commitment=m.commitment.id)
            for n, m in zip(numbers, made, strict=True)
            if n not in forced
        )
        listed = sign(key(0), manifest, round_, "coordinator", CommitmentList(entries=entries))
        root = ZERO_DIGEST
        if entries:
            root = StandardMerkleTree([commitment_leaf(e.number, e.commitment) for e in entries]).root.hex()
        chain.height += 3
        chain.posted[round_] = PostedRoot(root, len(entries), chain.height)
        chain.forcings[round_] = {
            n: m.commitment.id for n, m in zip(numbers, made, strict=True) if n in forced
        }
        judged, self.judged = tuple(self.judged), []
        self.standings = doubt(manifest, self.standings, judged)
        before = {number: self.standings.get(number, NEWCOMER) for number in numbers}
        receipts = self.receipts(round_, dict(zip(numbers, made, strict=True)))
        units = tuple(
            UnitRecord(
                number=number,
                commitment=one.commitment.id,
                earlier=before[number].earlier,
                suspect=before[number].suspect,
                merged=True,
                tier=one.commitment.body.tier,
                weight=manifest.tier_weights[one.commitment.body.tier],
                symbols=one.unit.work.symbols,
                blob=one.unit.work.blob,
            )
            for number, one in zip(numbers, made, strict=True)
        )
        draft = RoundRecord(
            parameters=self.parameters,
            units=units,
            judged=judged,
            receipts=tuple(one.id for one in receipts),
        )
        body = self._weighed(round_, draft)
        record = sign(key(0), manifest, round_, "coordinator", body)
        deadlines = manifest.deadlines
        chain.height += 1 + deadlines.reveal + deadlines.record if round_ in self.late else 3
        chain.anchors[round_], chain.records[round_] = chain.height, body.digest().hex()
        chain.height += 2
        self.listed[round_], self.records[round_] = listed, record
        standing = in_force(body, void=round_ in self.late)
        self.standings = count_listed(manifest, self.standings, (unit.number for unit in standing.units))
        openings, verdicts = self._judge_round(round_, standing)
        seals = tuple(self.seal(one) for one in verdicts if needs_seal(one.body))
        dossier = RoundDossier(
            round_,
            listed,
            tuple(one.commitment for one in made),
            tuple(
                sign(key(n), manifest, round_, "contributor", reveal(m.unit))
                for n, m in zip(numbers, made, strict=True)
            ),
            receipts=receipts,
            record=record,
            openings=openings,
            verdicts=verdicts,
            seals=seals,
        )
        self.dossiers[round_] = dossier
        self.parameters = self._aggregate(standing)
        return dossier

    def receipts(self, round_: int, made: Mapping[int, Made]) -> tuple[Signed[Receipt], ...]:
        """Return the receipts of a round's witnesses, who all received everything in time."""
        beacon = self.chain.assignment_beacon(round_)
        assert beacon is not None
        works = {number: one.unit.work for number, one in sorted(made.items())}
        entries = tuple(
            ReceivedUpdate(number=number, symbols=work.symbols, blob=work.blob)
            for number, work in works.items()
        )
        return tuple(
            sign(key(number), self.manifest, round_, "contributor", Receipt(number=number, entries=entries))
            for number in witnesses(self.manifest, self.run, beacon, round_, made)
        )

    def _judge_round(
        self, round_: int, body: RoundRecord
    ) -> tuple[tuple[Signed[Opening], ...], tuple[Signed[Verdict], ...]]:
        manifest, chain = self.manifest, self.chain
        beacon = chain.sampling_beacon(round_)
        assert beacon is not None
        openings, verdicts, cases = [], [], []
        drawn = draws(
            manifest, self.run, beacon, round_, body.units, [one.number for one in chain.verifiers(round_)]
        )
        for draw in drawn:
            made = self.made[round_, draw.number]
            opened = self.open(made, draw.segment)
            report = self.reports[round_, draw.number] = self.replay(made, draw.segment)
            found = [self.verdict(draw, round_, judge, report, opened.id) for judge in draw.verifiers[:2]]
            openings.append(opened)
            verdicts += found
            said = {one.body.verifier: one.body for one in found}
            ruling = rule(manifest, made.commitment.body, draw, said, closed=False)
            assert ruling is not None
            judgement = Judgement(
                round=round_,
                number=draw.number,
                segment=draw.segment,
                outcome=ruling.outcome,
                forged_residual=forged_residual(ruling.outcome, [said[judge] for judge in ruling.right]),
                heard=tuple(sorted(said)),
                wrong=ruling.wrong,
            )
            self.judged.append(judgement)
            cases.append(JudgedCase(judgement, ruling.right, refused(manifest, said.values())))
            if ruling.outcome == "false":
                case = chain.open_case(round_, draw.number, draw.segment)
                cases.append(self._rule(case))
        for number, segment in self.accused.get(round_, ()):
            case = chain.open_case(round_, number, segment)
            made = self.made[round_, number]
            openings.append(self.open(made, segment, case=case))
            cases.append(self._rule(case))
        self.settled.append(settled_round(round_, body, cases))
        return tuple(openings), tuple(verdicts)

    def _rule(self, case: int) -> JudgedCase:
        """Let the jury find out and close a case; whoever is guilty is slashed."""
        chain = self.chain
        chain.height += 1
        state = chain.opened[case]
        made = self.made[state.round, state.number]
        unit, opened = self.drawn(made, state.segment), self.open(made, state.segment)
        found = self.units.find(self.manifest, unit, opened.body, self.files(unit, opened))
        chain.close_case(case, found.outcome, found.result)
        (view,) = (one for one in chain.cases(state.round) if one.case == case)
        assert view.outcome is not None
        judgement = Judgement(
            round=view.round,
            number=view.number,
            case=case,
            segment=view.segment,
            outcome=view.outcome,
            forged_residual=view.forged_residual,
        )
        self.judged.append(judgement)
        if view.outcome == "false":
            event = Slashed(chain.height, 0, "0x", view.number, self.run, view.round, STAKE, 0)
            chain.slashings.append(event)
            chain.out[view.number] = chain.height
        return JudgedCase(judgement, (), False)

    def _in_force(self) -> dict[int, RoundRecord]:
        return {
            round_: in_force(one.body, void=round_ in self.late)
            for round_, one in sorted(self.records.items())
        }

    def _weighed(self, round_: int, draft: RoundRecord) -> RoundRecord:
        """Give merged updates their weights, and take back what fits."""
        earlier = self._in_force()
        queue = waiting([*earlier.values(), draft])
        salts = {unit.number: SALT for unit in draft.units}
        request = weigh_request(round_, draft, salts, earlier, queue)
        found = self.bench.weigh(request, partial(judge_round, self.manifest, self.shard, request))
        told = {"retracted": queue[: found.count], "joint": found.joint}
        return weigh(draft, found.merits).model_copy(update=told)

    def updates(self, record: RoundRecord) -> list[Symbols]:
        """Return the updates that move the parameters."""
        blobs = moving_updates(moving_units(record)).updates
        return [read_update(self.manifest, self.public.get(blob, max_size=1 << 24)) for blob in blobs]

    def _aggregate(self, record: RoundRecord) -> str:
        return self.bench.aggregate(aggregate_request(record, self._in_force()))

    def play_run(self, cheats: Mapping[tuple[int, int], Mapping[str, Cheat]] | None = None) -> None:
        """Play all rounds, settle them, finish, and write the public folder."""
        manifest, chain = self.manifest, self.chain
        for round_ in range(manifest.rounds):
            self.play_round(round_, {n: c for (r, n), c in (cheats or {}).items() if r == round_})
        epochs, tables = [], []
        wallets = {number: wallet(number) for number in chain.numbers}
        for epoch in range(manifest.epochs):
            inside = [one for one in self.settled if manifest.epoch_of(one.round) == epoch]
            done = [one for one in self.settled if manifest.epoch_of(one.round) <= epoch]
            unpaid = chained(
                [one.record for one in self.settled], {key for one in done for key in one.forged_units}
            )
            ruled = confirmed_faults(manifest, chain, epoch)
            epochs.append(epoch_earnings(manifest, inside, unpaid, ruled))
            entries = reward_entries(vested(manifest, epochs), wallets)
            if not entries:
                continue
            table = RewardTable(epoch=epoch, entries=entries)
            tables.append(sign(key(0), manifest, inside[-1].round, "coordinator", table))
            chain.height += 5
            total = sum(entry.cumulative_wei for entry in entries)
            place = len(chain.rewards)
            chain.rewards[place] = RewardsFinalized(
                chain.height, 0, "0x", self.run, place, reward_tree(entries).root, total
            )
        chain.funded_wei = total
        first = entries[0]
        chain.claimed.append(
            Claimed(
                chain.height + 1, 0, "0x", self.run, first.account, first.cumulative_wei, first.cumulative_wei
            )
        )
        chain.height += 2
        chain.final, chain.final_at = self.parameters, chain.height
        finish = Finish(parameters=self.parameters, judged=tuple(self.judged))
        self.settlement = Settlement(
            (), tuple(tables), sign(key(0), manifest, manifest.rounds - 1, "coordinator", finish)
        )
        self.write()

    def write(self) -> None:
        """Write the public folder."""
        self.archive.write_manifest(self.manifest)
        for dossier in self.dossiers.values():
            self.archive.write_round(dossier)
        self.archive.write_settlement(self.settlement)
