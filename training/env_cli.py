"""`murmur env`: which environments there are, what they are, and how they play."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options
from protocol.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from training.environments.episode import Episode, Outcome
    from training.environments.protocol import Observation, Policy
    from training.environments.registry import Opened

env_app = typer.Typer(no_args_is_help=True, help="See and play the environments that are installed here.")

Name = Annotated[str, typer.Argument(help="Name of an environment (`murmur env list`).")]
Config = Annotated[
    str | None,
    typer.Option("--config", metavar="JSON", help="Settings other than the defaults, a JSON object."),
]
MAX_CONFIG = 64 * 1024


@env_app.callback()
def _env() -> None:
    """See and play the environments that are installed here."""


@env_app.command("list")
def list_(as_json: options.Json = False) -> None:
    """List the environments that are installed here, and what is wrong with those that cannot be used."""
    from training.environments.registry import find, full_version, offered, provider

    found: list[dict[str, Any]] = []
    for name, points in offered().items():
        one: dict[str, Any] = {"name": name, "provider": ", ".join(provider(point) for point in points)}
        try:
            definition = find(name)
            one |= {"summary": definition.summary, "demonstrator": definition.demonstrator is not None}
            one |= {"version": full_version(definition), "problem": None}
        except ConfigError as error:
            one = {"summary": "", "demonstrator": False, "version": None} | one
            one["problem"] = f"{error.message}; {error.hint}"
        found.append(one)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        typer.echo(f"{one['name'] + '==' + (one['version'] or '?'):24} {one['summary']}")
        if one["problem"]:
            typer.echo(f"{'':24} not usable: {_safe(one['problem'])}")
    if not found:
        typer.echo("none is registered; `make setup` registers the shipped ones")


@env_app.command()
def show(name: Name, config: Config = None, as_json: options.Json = False) -> None:
    """Show an environment: limits, rewards, settings, and what a run pins."""
    from training.environments.definition import config_values

    opened = _open(name, config)
    spec = opened.environment.spec
    found = {
        "name": name,
        "version": opened.pin.version,
        "summary": opened.definition.summary,
        "config": config_values(opened.config),
        "config_hash": opened.pin.config_hash,
        "deterministic": spec.deterministic,
        "players": spec.players,
        "max_turns": spec.max_turns,
        "max_tokens": spec.max_tokens,
        "max_action_bytes": spec.max_action_bytes,
        "stop": spec.stop,
        "success": spec.success or [one.name for one in spec.components if one.weight],
        "components": [
            {"name": one.name, "source": one.source, "weight": one.weight, "low": one.low, "high": one.high}
            for one in spec.components
        ],
        "demonstrator": opened.definition.demonstrator is not None,
        "good_share": opened.definition.good_share,
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{opened.pin}: {opened.definition.summary}")
    typer.echo(f"  configuration  {opened.pin.config_hash}")
    for key, value in config_values(opened.config).items():
        typer.echo(f"    {key} = {json.dumps(value)}")
    typer.echo(f"  limits         {spec.max_turns} turns, {spec.max_tokens} tokens, {spec.players} player(s)")
    typer.echo(f"  replayable     {'yes' if spec.deterministic else 'no: it is not deterministic'}")
    for part in spec.components:
        typer.echo(
            f"  reward         {part.name} ({part.source}), {part.low:g} to {part.high:g}, weight {part.weight:g}"
        )
    if opened.definition.demonstrator is None:
        typer.echo("  demonstrator   none")
    else:
        typer.echo(f"  demonstrator   good in {opened.definition.good_share:.0%} of its demonstrations")


@env_app.command("try")
def try_(
    name: Name,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="The task to play.")] = 0,
    config: Config = None,
    policy: Annotated[
        str | None, typer.Option(help="Who plays: random or demo; without it you do, a line for each action.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Play one episode by hand, or watch a policy play it."""
    from training.environments.episode import Episode, replay
    from training.environments.protocol import total

    opened = _open(name, config)
    player = None if policy is None else _policy(opened, policy, seed)
    spec = opened.environment.spec
    episode = Episode(opened.environment, seed)
    while not episode.over:
        _tell(episode.observation, err=as_json)
        action = _ask(episode) if player is None else player.act(episode.observation, episode.info)
        if player is not None:
            typer.echo(f"> {_safe(action)}", err=as_json)
        episode.act(action)
    _tell(episode.observation, err=as_json)
    outcome = episode.outcome()
    rewards = [total(spec, one) for one in outcome.components]
    replayed = None
    if spec.deterministic:
        again = replay(opened.another(), seed, [one.action for one in outcome.turns])
        replayed = again == outcome
    if as_json:
        typer.echo(json.dumps(_report(opened, outcome, rewards, replayed), indent=2))
    else:
        for number, (components, reward) in enumerate(zip(outcome.components, rewards, strict=True)):
            who = f"player {number}: " if spec.players > 1 else ""
            parts = ", ".join(f"{one.name} {one.value:g}" for one in components)
            typer.echo(f"{who}reward {reward:g} ({parts})")
        if outcome.truncated:
            typer.echo(f"the limit of {spec.max_turns} turns ended it")
    if replayed is False:
        raise ConfigError(
            f"environment {name} calls itself deterministic, and another instance replays this episode otherwise",
            hint="report it to the package that offers it; no run can use it",
        )


def _open(name: str, config: str | None) -> "Opened":
    from training.environments.registry import open_environment

    values: object = {}
    if config is not None:
        if len(config) > MAX_CONFIG:
            raise UsageError(f"--config of {len(config)} characters exceeds {MAX_CONFIG}")
        try:
            values = json.loads(config)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--config is not JSON: {error}", hint="""--config '{"length": 4}'""") from error
    if not isinstance(values, dict):
        raise UsageError("--config is not a JSON object", hint="""--config '{"length": 4}'""")
    return open_environment(name, values)


def _policy(opened: "Opened", policy: str, seed: int) -> "Policy":
    from training.environments.demonstration import RandomPolicy, demonstrator
    from training.environments.protocol import TaskRandom

    if policy == "random":
        return RandomPolicy(TaskRandom(b"random policy", seed))
    if policy == "demo":
        return demonstrator(opened.definition, seed)[0]
    raise UsageError(f"no policy {policy!r:.80}", hint="--policy random, or --policy demo")


def _ask(episode: "Episode") -> str:
    spec = episode.environment.spec
    who = f"player {episode.player}" if spec.players > 1 else "you"
    typer.echo(f"{who}> ", nl=False, err=True)
    line = typer.get_text_stream("stdin").readline(spec.max_action_bytes + 2)
    if not line:
        raise UsageError(
            f"the episode was left after {len(episode.turns)} turns", hint="a line for each action"
        )
    return line.removesuffix("\n").removesuffix("\r")


def _tell(observation: "Observation", *, err: bool) -> None:
    from training.environments.protocol import as_text

    if text := as_text(observation).rstrip("\n"):
        typer.echo(_safe(text), err=err)


def _safe(text: str) -> str:
    """Show what a terminal would obey as an escape; an environment's text is somebody else's."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def _report(
    opened: "Opened", outcome: "Outcome", rewards: list[float], replayed: bool | None
) -> dict[str, Any]:
    from training.environments.protocol import as_text

    return {
        "name": opened.pin.name,
        "version": opened.pin.version,
        "config_hash": opened.pin.config_hash,
        "seed": str(outcome.seed),
        "turns": [
            {"player": one.player, "observation": as_text(one.observation), "action": one.action}
            for one in outcome.turns
        ],
        "closing": as_text(outcome.closing),
        "terminated": outcome.terminated,
        "truncated": outcome.truncated,
        "players": [
            {
                "reward": reward,
                "components": [
                    {"name": one.name, "source": one.source, "value": one.value} for one in components
                ],
            }
            for components, reward in zip(outcome.components, rewards, strict=True)
        ],
        "replayed": replayed,
    }
