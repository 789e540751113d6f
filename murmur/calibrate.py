"""`murmur verifier calibrate`: measure how far honest replays differ on this machine, and sign what was found."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.kind import Environment, Kind, RunKind, preset_of, tuned_base
from coordinator.voices import People, Voices
from protocol import options
from protocol.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from protocol.manifest import NumericProfile
    from training.preset import Preset
    from verification.calibration import Honest, ProfileCalibration, SignedCalibration

SEGMENTS = 100
PEERS = {"carried": "earlier peers", "fresh": "newcomers"}
"""Whose segments a start of moments is of; earlier peers start from published moments where there are such."""


def calibrate(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Verify a calibration file's signature and show it; measures nothing.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            envvar="MURMUR_DIR",
            help="The verifier's directory, whose peer.key signs; without it a key made for this file.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="A manifest, or a JSON file of the fields that `run create` takes, whose model, inner steps, "
            "segments and CPU profiles are measured. Default: those built in."
        ),
    ] = None,
    profiles: Annotated[
        list[str] | None, typer.Option(help="One of its CPU profiles; repeatable. Default: all of them.")
    ] = None,
    kind: Kind = RunKind.TRAINING,
    env: Environment = None,
    people: People = None,
    segments: Annotated[
        int,
        typer.Option(
            min=5,
            max=100_000,
            help="Segments of peers that have trained before, and as many first ones of newcomers.",
        ),
    ] = SEGMENTS,
    as_json: options.Json = False,
) -> None:
    """Measure honest drift and attacks over segments of a reference run, on this machine and emulated others.

    Writes a signed file of quantiles, sample sizes and the tolerances that follow. Profiles are those of the CPU: no
    second kind of GPU can be emulated, so that a CUDA profile stays uncalibrated.
    """
    from verification.calibration import SignedCalibration

    if check is not None:
        if out is not None or profiles or manifest is not None:
            raise UsageError("--check measures nothing", hint="leave --out, --manifest and --profiles out")
        signed = SignedCalibration.read(check)
    else:
        if out is not None and not out.parent.is_dir():
            raise ConfigError(f"{out.parent} is not a directory", hint=f"mkdir -p {out.parent}")
        preset = preset_of(kind, env)
        if preset is not None and manifest is not None:
            raise UsageError("--kind rollout measures a preset", hint="leave --manifest out")
        voices = Voices(people=tuple(people or ()))
        voices.check(preset)
        signed = _measure(directory, manifest, profiles, segments, preset, voices)
        if out is not None:
            out.write_bytes(signed.to_bytes())
    if as_json:
        typer.echo(json.dumps(signed.model_dump(mode="json")))
    else:
        _show(signed)
        if out is not None:
            typer.echo(f"written to {out}", err=True)


def setting(manifest: Path | None, names: list[str] | None) -> "tuple[list[NumericProfile], dict[str, Any]]":
    """Return the profiles to measure, and the fields of the reference run that are not the default's.

    Raises:
        UsageError: a profile is not there, or not of the CPU, or the file makes no manifest.
        ConfigError: the file cannot be read.
    """
    from coordinator.plan_cli import read_fields_or_manifest
    from protocol.manifest import CPU_PROFILES, NumericProfile

    listed: tuple[NumericProfile, ...] = CPU_PROFILES
    fields: dict[str, Any] = {}
    if manifest is not None:
        found = read_fields_or_manifest(manifest)
        listed = tuple(one for one in found.verification.profiles if one.device == "cpu")
        fields = {name: getattr(found, name) for name in ("model", "inner", "outer", "codec")}
        fields["segment_steps"] = found.verification.segment_steps
    known = {one.name: one for one in listed}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UsageError(f"no CPU profile {unknown[0]}", hint=f"one of {', '.join(known) or 'none'}")
    if not known:
        raise UsageError(f"{manifest} has no CPU profile", hint="no other can be calibrated here")
    return [known[name] for name in dict.fromkeys(names or known)], fields


def _measure(
    directory: Path | None,
    manifest: Path | None,
    names: list[str] | None,
    segments: int,
    preset: "Preset | None",
    voices: Voices,
) -> "SignedCalibration":
    import secrets

    import trio

    from murmur.measuring import measure
    from protocol.daemon import PEER_KEY_FILE
    from protocol.keys import PeerKey, load_peer_key
    from verification.calibration import SignedCalibration

    chosen, fields = setting(manifest, names)
    if preset is not None:
        fields = {**preset.fields(voices.signals(None)), "segment_steps": preset.segment_steps}
        del fields["verification"]
        fields["start"] = tuned_base(preset, lambda line: typer.echo(line, err=True)).parameters
    key = PeerKey(secrets.token_bytes(32)) if directory is None else load_peer_key(directory / PEER_KEY_FILE)
    began = time.monotonic()

    def say(done: int, total: int) -> None:
        spent = time.monotonic() - began
        left = f", about {spent / done * (total - done):.0f} s left" if done else ""
        typer.echo(f"unit {done} of {total}, {spent:.0f} s{left}", err=True)

    async def run() -> "SignedCalibration":
        found = await measure(
            chosen, segments, date=datetime.now(UTC).replace(microsecond=0), say=say, **fields
        )
        return SignedCalibration.sign(found, key)

    return trio.run(run)


def _show(signed: "SignedCalibration") -> None:
    found = signed.calibration
    typer.echo(f"calibration of {found.date:%Y-%m-%d} by {signed.verifier}, signature holds")
    typer.echo(f"machine: {found.machine}; torch {found.machine.torch}")
    others = ", ".join(f"{one.name} ({one.differs})" for one in found.machines)
    typer.echo(f"replayed on, with ends of other bits: {others}")
    for profile in found.profiles:
        _show_profile(profile)


def _show_profile(found: "ProfileCalibration") -> None:
    from verification.calibration import EXACT_FACTOR, HONEST_FACTOR

    chosen, now = found.chosen, found.profile
    typer.echo("")
    typer.echo(
        f"{now.name}: tolerance {chosen.tolerance:g}, fresh {chosen.fresh_tolerance:g}, "
        f"slash {chosen.slash_tolerance:g} (built in: {now.tolerance:g}, {now.fresh_tolerance:g}, "
        f"{now.slash_tolerance:g})"
    )
    typer.echo(f"  {'honest replays':32} {'median':>9} {'90 %':>9} {'99 %':>9} {'largest':>9}  rejected")
    for honest in found.honest:
        _show_honest(honest)
    for start, drift in (("carried", found.exact), ("fresh", found.fresh_exact)):
        if drift is None:
            continue
        typer.echo(
            f"  {f'{PEERS[start]}, from exact end':32} {drift.q50:9.2g} {drift.q90:9.2g} {drift.q99:9.2g} "
            f"{drift.max:9.2g}  {drift.segments} segments"
        )
    if found.attacks:
        typer.echo(f"  {'attacks':32} {'least':>9} {'median':>9} {'x toler.':>9}    caught")
    for attack in found.attacks:
        if attack.distance is None or attack.least is None:
            typer.echo(f"  {attack.name:32} {'':29}    {attack.caught.count} of {attack.caught.tried}")
            continue
        ratio = attack.least / chosen.tolerance if chosen.tolerance else float("inf")
        typer.echo(
            f"  {attack.name:32} {attack.least:9.2g} {attack.distance.q50:9.2g} {ratio:9.2g}    "
            f"{attack.caught.count} of {attack.caught.tried}"
        )
    if chosen.tolerance:
        typer.echo(
            f"  tolerances are {HONEST_FACTOR:g} times the largest honest drift and {EXACT_FACTOR:g} times the "
            "largest distance from the exact end, rounded up, with a floor"
        )


def _show_honest(honest: "Honest") -> None:
    drift, rejected = honest.drift, honest.rejected
    what = f"{PEERS[honest.moments]}, under {honest.replayed_under}"
    typer.echo(
        f"  {what:32} {drift.q50:9.2g} {drift.q90:9.2g} {drift.q99:9.2g} {drift.max:9.2g}  "
        f"{rejected.count} of {rejected.tried} (rate below {rejected.upper_bound:.2g})"
    )
