"""The files a coordinator keeps beside its database: manifest, status, and the public folder."""

import json
from pathlib import Path
from typing import Any

import trio

from coordinator.state import State
from protocol.errors import ConfigError, Malformed
from protocol.manifest import MAX_MANIFEST_BYTES, RunManifest
from verification.archive import Archive, RoundDossier, Settlement


def read_manifest(path: Path, run: str | None = None) -> RunManifest:
    """Read a manifest that `murmur run create` wrote.

    Raises:
        ConfigError: missing, damaged, or of another run.
    """
    try:
        with path.open("rb") as file:
            manifest = RunManifest.from_bytes(file.read(MAX_MANIFEST_BYTES + 1))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no run in {path.parent}", hint="`murmur run create` makes one"
        ) from error
    except (OSError, Malformed) as error:
        raise ConfigError(f"{path} is not a manifest: {error}", hint="restore it from a backup") from error
    if run is not None and manifest.run_id != run:
        raise ConfigError(f"{path} is of run {manifest.run_id}, not {run}", hint=f"--run {manifest.run_id}")
    return manifest


def write_status(path: Path, status: dict[str, Any]) -> None:
    """Replace the status file at once, so that nobody reads half of it."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(json.dumps(status, indent=1), encoding="utf-8")
    scratch.replace(path)


def read_status(path: Path) -> dict[str, Any]:
    """Read a status file.

    Raises:
        ConfigError: there is none, or it is not one.
    """
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"no coordinator has run in {path.parent}", hint="`murmur coordinator start --dir ...`"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(status, dict):
        raise ConfigError(f"{path} is not a status file")
    return status


class Publisher:
    """Keep the public folder up to date; of several versions of a file only the last is written."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._waiting: dict[int, RoundDossier] = {}
        self._settlement = Settlement()

    def add(self, dossier: RoundDossier) -> None:
        """Take the newest version of a round's file."""
        self._waiting[dossier.round] = dossier

    async def publish(self, state: State) -> None:
        """Write what has changed."""
        settlement = Settlement(
            ready=tuple(message for _, message in sorted(state.ready.items())),
            rewards=tuple(message for _, message in sorted(state.settling.tables.items())),
            finish=state.finish,
        )
        waiting, self._waiting = self._waiting, {}
        changed = settlement != self._settlement
        if not waiting and not changed:
            return
        self._settlement = settlement

        def work() -> None:
            for dossier in waiting.values():
                self._archive.write_round(dossier)
            if changed:
                self._archive.write_settlement(settlement)

        await trio.to_thread.run_sync(work)
