"""`murmur up`: the whole network on this machine, from deployed contracts to a repeated audit."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.choices import DEFAULT_ROUNDS, Choices, Delay, InnerSteps, JointK, Moments
from coordinator.kind import Environment, Kind, RunKind, preset_of, tuned_base
from coordinator.voices import JudgeChoice, JudgeWeight, OwnWeight, People, PeopleWeight, Voices
from murmur.churn import COMMIT_BLOCKS, Churn, Drop, JoinAt, check_joins, eligible, plan_drops
from murmur.interrupt import Interrupted, interruptible, uninterruptible
from murmur.ports import check_port, free_port
from protocol.beacon_config import BlockBeacon
from protocol.errors import ConfigError, UsageError
from protocol.manifest import LOCAL_CHAIN_ID
from protocol.options import TensorBoard
from verification.cheats import Cheat, PolicyCheat
from verification.liars import VerifierCheat

if TYPE_CHECKING:
    from rich.console import Console

    from contracts.run import ChainRun
    from coordinator.economics import Terms
    from murmur.identities import Identity
    from murmur.local import Staked
    from murmur.processes import Wiring
    from murmur.summary import Summary
    from murmur.supervisor import Supervisor
    from protocol.manifest import RunManifest
    from training.base import Base
    from training.judges import Judge
    from training.preset import Preset

app = typer.Typer()

VERIFIER_CHEATS = tuple(cheat.value for cheat in VerifierCheat)
TRAINING_CHEATS = (*(cheat.value for cheat in Cheat), *VERIFIER_CHEATS)
CHEATS = {
    RunKind.TRAINING: TRAINING_CHEATS,
    RunKind.ROLLOUT: (*(cheat.value for cheat in PolicyCheat), *TRAINING_CHEATS),
}
DEFAULT_CHEATS = {
    RunKind.TRAINING: (Cheat.SKIP_STEPS.value,),
    RunKind.ROLLOUT: (PolicyCheat.REWARD_LIAR.value, PolicyCheat.CHERRY_PICKER.value),
}
DEFAULT_PEERS = {RunKind.TRAINING: 4, RunKind.ROLLOUT: 3}
LOOK_S = 0.25  # between two looks at the children
ASK_S = 1.0  # between two questions to the API
STALL_S = 300.0  # without a new block, message or measurement
API_TIMEOUT_S = 5.0
BLOCKS_ONLY = ("disputes", "settling")  # phases in which everybody waits for blocks, which are mined at once
MAX_PEERS = 64
LOG_WIDTH = 120  # columns, where there is no terminal to ask


@dataclass(frozen=True)
class UpOptions:
    """Say what kind of network to run."""

    peers: int
    verifiers: int
    cheats: tuple[str, ...]
    rounds: int
    seed: int
    directory: Path
    port: int
    keep_running: bool
    preset: "Preset | None" = None  # of a run of rollouts
    voices: Voices = field(default_factory=Voices)
    tensorboard: Path | None = None  # where event files are written; None: none are
    tiers: bool = False  # machines of several speeds, and tiers for them
    join_at: tuple[int, ...] = ()  # rounds in which one more contributor comes
    drop: float = 0.0  # chance of each honest contributor to drop out of a round
    choices: Choices = field(default_factory=Choices)


def parse_cheats(
    kinds: Sequence[str], kind: RunKind = RunKind.TRAINING, *, judged: bool = False
) -> tuple[str, ...]:
    """Check the kinds of cheats asked for; `none` alone means none.

    Args:
        judged: whether the run has a judge, whom a flatterer lies about.

    Raises:
        UsageError: an unknown kind, `none` beside others, or a flatterer where nobody judges.
    """
    if list(kinds) == ["none"]:
        return ()
    for one in kinds:
        if one not in CHEATS[kind]:
            known = ", ".join(CHEATS[kind])
            raise UsageError(
                f"no cheat is called {one!r} in a run of {kind}", hint=f"--cheat {known} or none"
            )
    if PolicyCheat.FLATTERER.value in kinds and not judged:
        raise UsageError(
            "a flatterer lies about what the run's judge says, and the run has no judge",
            hint="add --judge tuned, or leave --cheat flatterer out",
        )
    return tuple(kinds)


@app.command()
def up(
    kind: Kind = RunKind.TRAINING,
    env: Environment = None,
    judge: JudgeChoice = None,
    judge_weight: JudgeWeight = 1.0,
    people: People = None,
    people_weight: PeopleWeight = 1.0,
    own_weight: OwnWeight = 1.0,
    peers: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_PEERS, help="Honest contributors; default 4, and 3 in a rollout run."),
    ] = None,
    verifiers: Annotated[int, typer.Option(max=16, help="Verifiers; every drawn unit needs two.")] = 2,
    cheat: Annotated[
        list[str] | None,
        typer.Option(
            help="A dishonest contributor: skip-steps, copycat or another (`murmur verifier attacks`), in a rollout "
            "run also reward-liar, cherry-picker and, with --judge, flatterer; or none. Repeatable."
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help="Rounds; default 40, and what the preset of a rollout run says."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes keys, first parameters and cheats.")] = 0,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where everything is kept; default: a new one under runs/.")
    ] = None,
    remove: Annotated[bool, typer.Option("--rm", help="Delete the directory at the end.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the live page; 0: any free one.")] = 0,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave chain and live page up at the end, until Ctrl-C.")
    ] = False,
    delay: Delay = 0,
    tiers: Annotated[
        bool,
        typer.Option(
            "--tiers",
            help="Have smaller units for slower machines, and let those of the second and third honest contributor "
            "rest nine tenths of the time or more.",
        ),
    ] = False,
    join_at: JoinAt = None,
    drop: Drop = 0.0,
    joint_k: JointK = 0,
    moments: Moments = None,
    optimizer: InnerSteps = None,
    tensorboard: TensorBoard = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Run a whole network on this machine: train, cheat, catch, pay, audit.

    Exit code 0 only if the run ended, every honest peer was paid and none slashed, every cheat was caught, and the
    audit passed; otherwise 1, with what was not shown.
    """
    from rich.console import Console

    from murmur.local import make_directory

    if verifiers < 2:
        raise UsageError("every drawn unit is judged by two verifiers", hint="--verifiers 2 or more")
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    chosen = preset_of(kind, env)
    voices = Voices(judge, judge_weight, tuple(people or ()), people_weight, own_weight)
    voices.check(chosen)
    if tiers and chosen is not None:
        raise UsageError("a policy's units are all of one tier", hint="--tiers without --kind rollout")
    choices = Choices(delay, joint_k, moments, optimizer)
    rounds = rounds or (DEFAULT_ROUNDS if chosen is None else chosen.rounds)
    choices.check(chosen, cheat or (), rounds)  # before anything starts
    options = UpOptions(
        peers=peers or DEFAULT_PEERS[kind],
        verifiers=verifiers,
        cheats=parse_cheats(cheat or DEFAULT_CHEATS[kind], kind, judged=judge is not None),
        rounds=rounds,
        join_at=check_joins(join_at or (), rounds),
        drop=drop,
        choices=choices,
        preset=chosen,
        voices=voices,
        seed=seed,
        directory=make_directory(directory or Path("runs") / name),
        port=port,
        keep_running=keep_running,
        tensorboard=None if tensorboard is None else tensorboard.absolute(),
        tiers=tiers,
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    try:
        summary = run_network(options, console)
    except BaseException:
        console.print(f"everything is kept in {options.directory}")
        raise
    if as_json:
        typer.echo(summary.model_dump_json())
    if remove:
        shutil.rmtree(options.directory)
    else:
        console.print(f"kept in {options.directory}; audit it again with")
        again = f"murmur audit run {summary.run_id} --dir {options.directory} --replay sampled"
        console.print(f"  {again}", soft_wrap=True)
    if summary.not_demonstrated:
        raise typer.Exit(1)


def run_network(options: UpOptions, console: "Console") -> "Summary":
    """Live a network from its first block to its audit, and stop every process it started.

    Raises:
        ChildFailed: a process kept dying.
        MurmurError: anything else that ends the run.
    """
    from murmur.supervisor import Supervisor

    notes: list[str] = []
    supervisor = Supervisor(time.monotonic, notes.append)
    with interruptible() as check:
        try:
            return LocalRun(options, console, supervisor, notes, check).live()
        finally:
            with uninterruptible():
                for note in notes:
                    console.print(note, style="yellow")
                console.print("stopping")
                supervisor.stop()


def plan_verdict(manifest: "RunManifest", terms: "Terms") -> list[str]:
    """Return what `murmur run plan` says of a local run, by the packaged calibration.

    A refusal is told and no more: few rounds are drawn too often for what the calibration's sample can bound, and
    here nobody's money is at stake. The same holds where nobody calibrated the model of a policy.

    Raises:
        ConfigError: the packaged calibration is missing, or does not cover a manifest of training.
    """
    from coordinator.plan_cli import Refused, check_plan

    try:
        return check_plan(manifest, terms, None, unsafe=False)
    except ConfigError as error:
        if manifest.rollouts is None:
            raise
        return [f"whether an attack pays is not known: {error.message}"]
    except Refused as refused:
        return [f"{refused.message}; `murmur run create` would not create it, a local network runs it"]


@dataclass
class LocalRun:
    """Take a local network through its life."""

    options: UpOptions
    console: "Console"
    supervisor: "Supervisor"
    notes: list[str]
    check_interrupt: Callable[[], None]
    began: float = field(default_factory=time.monotonic)

    def live(self) -> "Summary":
        """Set up, run, claim, audit, and sum up."""
        from murmur.identities import cast
        from murmur.local import CPU_SHARES, found_ledger
        from murmur.table import print_summary

        options = self.options
        if options.port:
            check_port(options.port)
        base = None if options.preset is None else tuned_base(options.preset, self._say_and_look)
        judge = options.voices.open_judge(options.preset, self._say_and_look)
        shares = CPU_SHARES if options.tiers else (1.0,)
        joiners = len(options.join_at)
        identities = cast(options.peers, list(options.cheats), options.verifiers, shares, joiners)
        late = {one.name: one for one in identities[len(identities) - joiners :]}
        self._say(f"starting a chain in {options.directory}")
        rpc = self._start_chain(free_port())
        self._say(f"chain: {rpc}")
        self._say("deploying the contracts, registering and staking everybody")
        staked = found_ledger(rpc, options.directory, options.seed, identities, late)
        wiring = self._create_run(rpc, staked, identities, base, judge)
        for identity in identities:
            if identity.name in late:
                continue
            child = self.supervisor.start(wiring.child(identity))
            if identity.role is None:
                # A chain that is killed loses its last seconds; the coordinator then says again what is gone.
                self.supervisor.children[0].dependent = child
        chain = self._chain_view(wiring)
        churn = self._plan_churn(wiring, staked, identities, late)
        state = self._watch(wiring, staked, churn)
        self._say("claiming pay")
        self._claim(wiring, staked, chain)
        self._say("auditing")
        audit = self._audit(wiring)
        summary = self._summarize(wiring, staked, identities, chain, state, audit, churn)
        print_summary(self.console, summary)
        if options.keep_running:
            self._say(f"the live page stays at http://127.0.0.1:{wiring.api_port} until Ctrl-C")
            with contextlib.suppress(Interrupted):
                while True:
                    self._tend()
        return summary

    def _say(self, line: str) -> None:
        self.console.print(line, style="dim", soft_wrap=True)

    def _say_and_look(self, line: str) -> None:
        self.check_interrupt()
        self._say(line)

    def _tend(self) -> None:
        self.check_interrupt()
        self.supervisor.tend()
        time.sleep(LOOK_S)  # noqa: TID251 - the one place where this process waits

    def _start_chain(self, port: int) -> str:
        from contracts.anvil import rpc_url, wait_ready
        from murmur.processes import chain_child

        child = self.supervisor.start(chain_child(self.options.directory, port))
        assert child.process is not None
        wait_ready(child.process, port, log_path=child.log)
        return rpc_url(port)

    def _create_run(
        self,
        rpc: str,
        staked: "Staked",
        identities: "tuple[Identity, ...]",
        base: "Base | None",
        judge: "Judge | None",
    ) -> "Wiring":
        from contracts.sender import Sender
        from contracts.terminal import format_amount
        from contracts.types import Role
        from coordinator.plan_cli import COST, ledger_terms
        from coordinator.run import create_run, plan_run
        from murmur.local import DEADLINES, TIERS, UpFacts, eager_mining
        from murmur.processes import Wiring
        from verification.settle import max_payout

        options = self.options
        key = staked.keys["coordinator"]
        contributors = sum(one.role is Role.CONTRIBUTOR for one in identities)
        churning = bool(options.join_at or options.drop)
        plan = plan_run(
            options.directory / "coordinator",
            ledger=staked.ledger,
            coordinator=key,
            fund_wei=0,
            contributors=contributors,
            seed=options.seed,
            data=None if base is None else base.corpus,
            data_dir=options.directory / "data",
            start=None if base is None else base.file,
            judge=None if judge is None else judge.file,
            fields={
                **({} if options.preset is None else options.preset.fields(options.voices.signals(judge))),
                "name": "up",
                "rounds": options.rounds,
                "min_peers": options.peers,
                "deadlines": DEADLINES | ({"commit": COMMIT_BLOCKS} if churning else {}),
                **({"tiers": TIERS} if options.tiers else {}),
                **options.choices.fields(),
            },
        )
        plan = replace(plan, fund_wei=max_payout(plan.manifest, contributors))
        self._say(
            f"a unit is drawn with probability {plan.manifest.verification.schedule.fresh_probability:g}; "
            f"who cheats in every round escapes with probability {plan.escape:.1g}; "
            f"{format_amount(plan.fund_wei)} tokens in the pot"
        )
        verifiers = sum(one.role is Role.VERIFIER for one in identities)
        terms = ledger_terms(staked.ledger, cost=COST, verifiers=verifiers)
        for line in plan_verdict(plan.manifest, terms):
            self._say(line)
        sender = Sender(staked.ledger.w3, staked.wallets["coordinator"])
        with eager_mining(staked.ledger.w3):
            create_run(options.directory / "coordinator", plan, ledger=staked.ledger, sender=sender)
        run = plan.manifest.run_id
        UpFacts(
            chain_id=plan.manifest.chain_id,
            ledger=staked.ledger.address,
            token=str(staked.ledger.token.address),
            run=run,
            names=staked.numbers,
            cheats={one.name: one.cheat for one in identities if one.cheat is not None},
        ).save(options.directory)
        return Wiring(
            directory=options.directory,
            run=run,
            rpc=rpc,
            ledger=staked.ledger.address,
            api_port=options.port or free_port(),
            listen_port=free_port(),
            coordinator=key,
            tensorboard=options.tensorboard,
        )

    def _chain_view(self, wiring: "Wiring") -> "ChainRun":
        from contracts.run import ChainRun

        chain = ChainRun.connect(wiring.rpc, wiring.ledger, wiring.run, chain_id=LOCAL_CHAIN_ID)
        chain.follow_beacon(BlockBeacon(), None)
        return chain

    def _plan_churn(
        self,
        wiring: "Wiring",
        staked: "Staked",
        identities: "tuple[Identity, ...]",
        late: "Mapping[str, Identity]",
    ) -> Churn:
        from contracts.types import Role
        from murmur.local import enrol

        options = self.options

        def join(name: str) -> None:
            enrol(staked, late[name], options.directory)
            self.supervisor.start(wiring.child(late[name]))

        joins = dict(zip(late, options.join_at, strict=True))
        honest = [one.name for one in identities if one.role is Role.CONTRIBUTOR and one.honest]
        early = [name for name in honest if name not in late]
        present = eligible(early, joins, options.rounds)
        return Churn(self.supervisor, join, joins, plan_drops(options.seed, present, options.drop), self._say)

    def _watch(self, wiring: "Wiring", staked: "Staked", churn: Churn) -> dict[str, Any]:
        """Show the run until it is over and measured; returns the coordinator's last word on it.

        Raises:
            NetworkError: nothing has moved for minutes.
        """
        import httpx
        from rich.live import Live

        from coordinator.measure import CONTROL_SIZE
        from murmur.local import eager_mining
        from murmur.table import live_view
        from murmur.watching import Progress, learnt, read_summary

        url = f"http://127.0.0.1:{wiring.api_port}"
        self._say(f"live page: {url}")
        progress = Progress(time.monotonic, STALL_S)
        state: dict[str, Any] = {}
        shown, next_look = -1, 0.0
        client = httpx.Client(base_url=url, timeout=API_TIMEOUT_S)
        live = Live(console=self.console, refresh_per_second=4, transient=True)
        hurried, hurry = False, contextlib.ExitStack()
        with client, hurry, live if self.console.is_terminal else contextlib.nullcontext():
            while True:
                self._tend()
                if time.monotonic() < next_look:
                    continue
                next_look = time.monotonic() + ASK_S
                state = read_summary(client, wiring.run) or state
                if not state:
                    progress.note(0)
                    continue
                if hurried != (state["phase"] in BLOCKS_ONLY):
                    hurried = not hurried
                    if hurried:
                        hurry.enter_context(eager_mining(staked.ledger.w3))
                    else:
                        hurry.close()
                churn.look(state["round"], state["phase"])
                line = f"round {state['round'] + 1} of {state['rounds']}: {state['phase']}, {state['detail']}"
                if self.console.is_terminal:
                    names = {number: name for name, number in staked.numbers.items()}
                    live.update(live_view(state, names, url, self.notes))
                elif state["rounds_done"] != shown:
                    shown = state["rounds_done"]
                    self._say(line + learnt(state))
                policy = state["policy"]
                curve = state["loss"]["curve"] if policy is None else policy["curve"]
                alone = len(state["loss"]["control"]) >= min(CONTROL_SIZE, self.options.peers)
                measured = len(curve) > state["rounds"] and (alone or policy is not None)
                if state["phase"] == "finished" and measured:
                    return state
                progress.note((state["rounds_done"], state["phase"], len(curve)))
                progress.check(line)

    def _claim(self, wiring: "Wiring", staked: "Staked", chain: "ChainRun") -> None:
        """Claim for every wallet, each with its own key, as `murmur rewards claim` does."""
        from contracts.claims import parse_tables, prove_reward
        from contracts.sender import Sender
        from murmur.local import eager_mining

        chain.refresh()
        ledger = staked.ledger
        info = ledger.run_info(wiring.run)
        settlement = self.options.directory / "coordinator" / "public" / "settlement.json"
        tables = parse_tables(settlement.read_bytes())
        if info is None or not any(table.entries for table in tables):
            return

        def claim(name: str) -> None:
            reward = prove_reward(tables, info.final_root, staked.wallets[name].address)
            if reward is not None and reward.cumulative_wei > ledger.claimed(wiring.run, reward.account):
                sender = Sender(ledger.w3, staked.wallets[name])
                ledger.claim(sender, wiring.run, reward.account, reward.cumulative_wei, reward.proof)

        with eager_mining(ledger.w3), ThreadPoolExecutor(4) as pool:
            list(pool.map(claim, staked.numbers))
        chain.refresh()

    def _audit(self, wiring: "Wiring") -> dict[str, Any]:
        """Run the audit as anybody would, in a process of its own."""
        from murmur.local import murmur_argv, thread_env

        directory = self.options.directory
        argv = murmur_argv("audit", "run", wiring.run, "--dir", str(directory), "--rpc", wiring.rpc)
        argv += ["--replay", "first", "--json"]
        with (directory / "audit.log").open("wb") as log:
            done = subprocess.run(
                argv, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **thread_env()}, check=False
            )
        (directory / "audit.json").write_bytes(done.stdout)
        try:
            report: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {"ok": False, "checks": []}
        return report

    def _summarize(
        self,
        wiring: "Wiring",
        staked: "Staked",
        identities: "tuple[Identity, ...]",
        chain: "ChainRun",
        state: dict[str, Any],
        audit: dict[str, Any],
        churn: Churn,
    ) -> "Summary":
        from murmur.report import summarize
        from murmur.summary import Loss
        from verification.public import PublicRun
        from verification.sources import Sources

        sources = Sources.of(self.options.directory)
        refusals: dict[str, dict[str, int]] = {}
        for one in state["refused"]:
            refusals.setdefault(one["sender"], {})[one["reason"]] = one["count"]
        curve = [point["loss"] for point in state["loss"]["curve"]]
        return summarize(
            directory=self.options.directory,
            run=PublicRun.read(sources.archive, chain, wiring.run, sources.find),
            chain=chain,
            identities=identities,
            numbers=staked.numbers,
            loss=Loss(
                first=state["loss"]["first"],
                last=state["loss"]["last"],
                local=state["loss"]["local"],
                curve=curve,
            ),
            policy=state["policy"],
            refusals=refusals,
            audit=audit,
            churn=churn,
            drop=self.options.drop,
            wall_s=time.monotonic() - self.began,
        )
