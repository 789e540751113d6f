"""The files a coordinator keeps beside its database: the manifest and the public folder."""

from pathlib import Path

import trio

from coordinator.state import State
from protocol.errors import ConfigError, Malformed
from protocol.manifest import RunManifest
from verification.archive import Archive, RoundDossier, Settlement


def read_manifest(path: Path, run: str | None = None) -> RunManifest:
    """Read a manifest that `murmur run create` wrote.

    Raises:
        ConfigError: missing, damaged, or of another run.
    """
    try:
        manifest = RunManifest.read(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no run in {path.parent}", hint="`murmur run create` makes one"
        ) from error
    except (OSError, Malformed) as error:
        raise ConfigError(f"{path} is not a manifest: {error}", hint="restore it from a backup") from error
    if run is not None and manifest.run_id != run:
        raise ConfigError(f"{path} is of run {manifest.run_id}, not {run}", hint=f"--run {manifest.run_id}")
    return manifest


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
