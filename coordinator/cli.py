"""`murmur coordinator` and `murmur run`: keep a run, make one, and look at one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.pot_cli import fund, release_bond
from coordinator.checkpoint_cli import checkpoints, export, sample
from coordinator.choices import Choices, Delay, InnerSteps, JointK, Moments
from coordinator.kind import Environment, Kind, RunKind, preset_of, tuned_base
from coordinator.plan_cli import COST, CalibrationFile, Cost, check_plan, ledger_terms, plan, read_fields
from coordinator.prefer_cli import prefer
from coordinator.voices import JudgeChoice, JudgeWeight, OwnWeight, People, PeopleWeight, Voices
from protocol import options
from protocol.checkpoints import CHECKPOINTS_MIB
from protocol.errors import ConfigError, NetworkError, UsageError

if TYPE_CHECKING:
    from coordinator.run import RunPlan

app = typer.Typer(no_args_is_help=True, help="Run the coordinator of a run.")
run_app = typer.Typer(no_args_is_help=True, help="Make a run, and look at one.")

Directory = Annotated[Path, typer.Option("--dir", envvar="MURMUR_DIR", help="The coordinator's directory.")]
run_app.command()(plan)
run_app.command()(fund)
run_app.command()(release_bond)
run_app.command()(prefer)
run_app.command()(checkpoints)
run_app.command()(sample)
run_app.command()(export)

PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the wallet's password; else it is asked for.")
]
Data = Annotated[Path | None, typer.Option(help="Text to train on (.xz too), if not the packaged one.")]

CheckpointMib = Annotated[
    int,
    typer.Option(
        "--checkpoint-mib",
        min=0,
        help="MiB of disk for checkpoints of the global parameters; the first and the last round's stay beyond it.",
    ),
]


@app.callback()
def coordinator() -> None:
    """Run the coordinator of a run."""


@app.command()
def start(
    directory: Directory,
    run: options.Run,
    rpc: options.Rpc,
    ledger: Annotated[
        str | None, typer.Option(envvar="MURMUR_LEDGER", help="Address of the ledger, to be checked.")
    ] = None,
    bootstrap: options.Bootstrap = None,
    listen: options.Listen = options.LOOPBACK,
    drand: options.Drand = None,
    api_port: Annotated[int, typer.Option(help="Port of API and page on this machine; 0: a free one.")] = 0,
    password_file: PasswordFile = None,
    data: Data = None,
    data_dir: options.DataDir = None,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL, if not SQLite in the directory.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the evaluator.")] = 1,
    checkpoint_mib: CheckpointMib = CHECKPOINTS_MIB,
    tensorboard: options.TensorBoard = None,
    control: Annotated[
        list[int] | None,
        typer.Option(help="Number of a peer that is also trained alone, for comparison; repeatable."),
    ] = None,
    no_control: Annotated[bool, typer.Option("--no-control", help="Train nobody alone.")] = False,
    network: options.NetworkName = None,
) -> None:
    """Keep a run's rounds until stopped: lists, records, settlement, API and live page."""
    import trio

    from coordinator.config import CoordinatorConfig
    from coordinator.files import read_manifest
    from coordinator.service import run_coordinator
    from protocol.daemon import MANIFEST_FILE, check_ledger, log_to_stderr, parse_config

    values: dict[str, Any] = {
        "directory": directory,
        "run": run,
        "rpc": rpc,
        "bootstrap": tuple(bootstrap or ()),
        "listen": listen,
        **({"drand": tuple(drand)} if drand else {}),
        "api_port": api_port,
        "password_file": password_file,
        "data": data,
        "data_dir": data_dir,
        "database": database,
        "threads": threads,
        "checkpoint_mib": checkpoint_mib,
        "tensorboard": tensorboard,
        "control": () if no_control else tuple(control) if control else None,
    }
    config = parse_config(CoordinatorConfig, values)
    manifest = read_manifest(directory / MANIFEST_FILE, config.run)
    if ledger is not None:
        check_ledger(manifest, ledger)
    log_to_stderr()
    trio.run(run_coordinator, config)


@app.command(name="stand-in")
def stand_in(
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", envvar="MURMUR_DIR", help="Directory of the contributor or verifier that stands in."
        ),
    ],
    run: options.Run,
    rpc: options.Rpc,
    ledger: options.Ledger,
    bootstrap: options.Bootstrap = None,
    heard: Annotated[
        Path | None,
        typer.Option("--from", help="Public folder of the run to begin with (`murmur audit fetch`)."),
    ] = None,
    listen: options.Listen = options.LOOPBACK,
    drand: options.Drand = None,
    api_port: Annotated[int, typer.Option(help="Port of API and page on this machine; 0: a free one.")] = 0,
    password_file: PasswordFile = None,
    data: Data = None,
    data_dir: options.DataDir = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the evaluator.")] = 1,
    checkpoint_mib: CheckpointMib = CHECKPOINTS_MIB,
    network: options.NetworkName = None,
) -> None:
    """Carry a run on whose coordinator is gone, with an operator's key, wallet and stake, until stopped.

    Follows the run at once, acts once it has stood still for the ledger's timeout, and goes on from there until the
    coordinator posts or anchors again. The operator's own daemon keeps running beside it; other commands that send from
    its wallet are refused meanwhile.
    """
    import trio

    from coordinator.config import CoordinatorConfig
    from coordinator.files import read_manifest
    from coordinator.service import run_coordinator
    from coordinator.standin import prepare
    from protocol.daemon import MANIFEST_FILE, check_ledger, log_to_stderr, parse_config

    if not bootstrap:
        raise UsageError(
            "nobody was named to ask", hint="--bootstrap with the address of any node of the run"
        )
    place = prepare(directory, run, heard)
    values: dict[str, Any] = {
        "directory": place,
        "operator": directory,
        "heard": heard,
        "run": run,
        "rpc": rpc,
        "bootstrap": tuple(bootstrap),
        "listen": listen,
        **({"drand": tuple(drand)} if drand else {}),
        "api_port": api_port,
        "password_file": password_file,
        "data": data,
        "data_dir": data_dir or directory / "data",
        "threads": threads,
        "checkpoint_mib": checkpoint_mib,
        "control": (),
    }
    config = parse_config(CoordinatorConfig, values)
    check_ledger(read_manifest(place / MANIFEST_FILE, config.run), ledger)
    log_to_stderr()
    trio.run(run_coordinator, config)


@run_app.command()
def create(
    directory: Directory,
    rpc: options.Rpc,
    ledger: options.Ledger,
    fund: Annotated[str, typer.Option(help="Tokens to pay into the pot, such as 400 or 0.5.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of the run; default 40.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial parameters.")] = 0,
    start: Annotated[
        Path | None,
        typer.Option(help="File of the initial parameters, in place of a seed (`murmur model import`)."),
    ] = None,
    contributors: Annotated[int, typer.Option(min=1, help="Contributors that the cost is reckoned for.")] = 4,
    manifest: Annotated[
        Path | None, typer.Option(help="JSON file with further fields of the manifest.")
    ] = None,
    kind: Kind = RunKind.TRAINING,
    env: Environment = None,
    delay: Delay = 0,
    judge: JudgeChoice = None,
    judge_weight: JudgeWeight = 1.0,
    people: People = None,
    people_weight: PeopleWeight = 1.0,
    own_weight: OwnWeight = 1.0,
    joint_k: JointK = 0,
    moments: Moments = None,
    optimizer: InnerSteps = None,
    data: Data = None,
    data_dir: options.DataDir = None,
    password_file: PasswordFile = None,
    calibration: CalibrationFile = None,
    cost: Cost = COST,
    unsafe: Annotated[
        bool,
        typer.Option("--unsafe", help="Create it although the plan refuses it; on the local chain only."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Define a run, show what it can cost, and create and fund it on chain.

    A run under which an attack pays, or honesty is not safe, is refused (`murmur run plan`).
    """
    import secrets

    from contracts.chain import connect
    from contracts.client import Ledger
    from contracts.identity import open_peer_key
    from contracts.sender import Sender
    from contracts.terminal import confirm, parse_amount
    from contracts.wallet import WALLET_FILE, create_wallet, open_wallet
    from coordinator.run import create_run, plan_run
    from protocol.daemon import PEER_KEY_FILE
    from protocol.keys import PeerKey, save_peer_key

    fund_wei = parse_amount(fund)
    chosen = preset_of(kind, env)
    voices = Voices(judge, judge_weight, tuple(people or ()), people_weight, own_weight)
    voices.check(chosen)
    choices = Choices(delay, joint_k, moments, optimizer)
    choices.check(chosen)
    if chosen is not None and data is not None:
        raise UsageError(
            "a policy learns from its environment, not from --data",
            hint="leave --data out, or --kind training",
        )
    asked = voices.open_judge(chosen, lambda line: typer.echo(line, err=True))
    fields = {} if chosen is None else chosen.fields(voices.signals(asked))
    fields |= {} if manifest is None else read_fields(manifest)
    fields |= {key: value for key, value in (("rounds", rounds), ("name", name)) if value is not None}
    fields |= choices.fields(fields)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (directory / PEER_KEY_FILE).exists():
        save_peer_key(directory / PEER_KEY_FILE, PeerKey(secrets.token_bytes(32)))
    key = open_peer_key(directory)
    found = Ledger(connect(rpc), ledger)
    found.verify()
    base = None
    if chosen is not None and start is None:
        base = tuned_base(chosen, lambda line: typer.echo(line, err=True))
    plan = plan_run(
        directory,
        ledger=found,
        coordinator=key,
        fund_wei=fund_wei,
        contributors=contributors,
        seed=seed,
        start=start if base is None else base.file,
        judge=None if asked is None else asked.file,
        data=data if base is None else base.corpus,
        data_dir=data_dir,
        fields=fields,
    )
    terms = ledger_terms(found, cost=cost, verifiers=plan.manifest.verification.verifiers)
    checked = check_plan(plan.manifest, terms, calibration, unsafe=unsafe)
    confirm([*describe_plan(plan), *checked], yes=yes, dry_run=dry_run)
    make = open_wallet if (directory / WALLET_FILE).exists() else create_wallet
    sender = Sender.open(found.w3, make(directory, password_file), directory)
    receipt = create_run(directory, plan, ledger=found, sender=sender)
    result = {
        "run": plan.manifest.run_id,
        "name": plan.manifest.name,
        "rounds": plan.manifest.rounds,
        "funded_wei": str(fund_wei),
        "max_payout_wei": str(plan.max_payout_wei),
        "draw_probability": plan.manifest.verification.schedule.fresh_probability,
        "escape_probability": plan.escape,
        "tx": receipt.tx,
        "block": receipt.block,
    }
    _print(result, as_json)


def describe_plan(plan: "RunPlan") -> list[str]:
    """Return what is about to be created, for a person who must agree."""
    from contracts.terminal import format_amount

    manifest = plan.manifest
    lines = [
        f"run {manifest.name!r}: {manifest.rounds} rounds of {manifest.inner.steps} steps, "
        f"{manifest.pay.epoch_rounds} rounds an epoch",
        f"cost at most {format_amount(plan.max_payout_wei)} tokens with {plan.contributors} contributors; "
        f"{format_amount(plan.fund_wei)} go into the pot, and what is not earned stays there",
        f"a newcomer's unit is drawn with probability {manifest.verification.schedule.fresh_probability:g}: who cheats "
        f"in every round escapes with probability {plan.escape:.2g}",
    ]
    if plan.fund_wei < plan.max_payout_wei:
        lines.append(
            "warning: the pot does not cover the most that can be earned; roots beyond it are refused"
        )
    return lines


@run_app.command()
def show(
    directory: Annotated[
        Path | None, typer.Option("--dir", envvar="MURMUR_DIR", help="The coordinator's directory.")
    ] = None,
    api: Annotated[str | None, typer.Option(help="URL of a coordinator's API.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show where a run stands, from its database or over its API."""
    if (directory is None) == (api is None):
        raise UsageError("name one place to look", hint="--dir DIR or --api URL")
    summary = _from_database(directory) if directory is not None else _from_api(str(api))
    if as_json:
        typer.echo(json.dumps(summary))
        return
    for line in describe_summary(summary):
        typer.echo(line)


def describe_summary(summary: dict[str, Any]) -> list[str]:
    """Return a run's summary as lines for a terminal; strings lose what is not printable."""
    from contracts.terminal import format_amount

    loss, found, ledger = summary["loss"], summary["verification"], summary["ledger"]
    lines = [
        f"run        {summary['run']} ({summary['name']})",
        f"phase      {summary['phase']}, round {summary['round']} of {summary['rounds']} {summary['detail']}",
        _learnt(loss, summary["policy"]),
        *_speed(summary.get("throughput")),
        f"drawn      {found['drawn']}: {found['passed']} passed, {found['false']} proven false, {found['void']} void",
        f"pot        {format_amount(int(ledger.get('funded_wei', 0)))} funded, "
        f"{format_amount(int(ledger.get('paid_wei', 0)))} claimed, "
        f"{format_amount(int(ledger.get('slashed_wei', 0)))} slashed",
    ]
    for peer in summary["peers"]:
        units = peer["units"]
        work = f"{units['merged']}/{units['listed']} merged, {units['false']} false"
        if peer["role"] == "verifier":
            work = f"{peer['verdicts']} verdicts"
        lines.append(
            f"{peer['number']:>4} {peer['role']:12} {work}, earned {format_amount(int(peer['earned_wei']))}"
        )
    return ["".join(char if char.isprintable() else "?" for char in line) for line in lines]


def _speed(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"speed      {found['tokens_per_s']:,.0f} tokens/s merged, {found['flops_per_s'] / 1e9:,.2f} model GFLOP/s, "
        f"{found['seconds']:,.1f} s a round"
    ]


def _learnt(loss: dict[str, Any], policy: dict[str, Any] | None) -> str:
    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    if policy is None:
        return f"loss       {figure(loss['first'])} -> {figure(loss['last'])}, alone {figure(loss['local'])}"
    first, last = (policy[name] or {"success": None, "reward": None} for name in ("first", "last"))
    reward = f"reward {figure(first['reward'])} -> {figure(last['reward'])}"
    return f"success    {figure(first['success'])} -> {figure(last['success'])}, {reward}"


def _from_database(directory: Path) -> dict[str, Any]:
    from coordinator.queries import Reader
    from coordinator.tables import DATABASE_FILE, database_url, open_engine
    from protocol.clock import unix_time

    if not (directory / DATABASE_FILE).exists():
        raise ConfigError(
            f"no coordinator has run in {directory}", hint="`murmur coordinator start --dir ...`"
        )
    engine = open_engine(database_url(directory), writer=False)
    try:
        return Reader(engine).summary(unix_time())
    finally:
        engine.dispose()


def _from_api(url: str) -> dict[str, Any]:
    from coordinator.run_source import URL_HINT, ask, open_client

    with open_client(url) as client:
        runs = ask(client, "/v1/runs")
        try:
            summary = ask(client, f"/v1/runs/{runs[0]['run']}") if runs else None
        except (KeyError, TypeError) as error:
            raise NetworkError(f"{url} did not answer as a coordinator: {error}", hint=URL_HINT) from error
    if summary is None:
        raise NetworkError(f"{url} has not begun a run")
    if not isinstance(summary, dict):
        raise NetworkError(f"{url} did not answer as a coordinator", hint=URL_HINT)
    return summary


def _print(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(value))
        return
    for name, text in value.items():
        typer.echo(f"{name:18} {text}")
