"""Whether whoever is accused has done what a case asks for: its segment is open and can be fetched from its node."""

from dataclasses import dataclass
from pathlib import Path

from contracts.cases import CaseState
from protocol.blobs import check_digest
from protocol.daemon import STATUS_FILE, find_status
from protocol.errors import ConfigError
from protocol.history import HISTORY_FILE, kept_openings
from protocol.messages import Opening, Signed

ALIVE_S = 30.0
"""A running node writes its status file every second or so."""


@dataclass(frozen=True)
class Response:
    """What a node's directory shows of a case."""

    signed: bool  # an opening of the segment was published
    missing: tuple[str, ...]  # files that it names and that are not in the node's store
    running: bool  # the node wrote its status just now
    running_run: str | None  # run of the node that runs here
    error: str | None  # what the node says is wrong

    @property
    def is_open(self) -> bool:
        """Tell whether jurors can fetch the segment from this node now."""
        return self.signed and not self.missing and self.running


def look(directory: Path, case: CaseState, peers: frozenset[str], now: float) -> Response:
    """Look into a node's directory, whether it runs or not.

    Args:
        peers: addresses of the keys that may sign for the owner.
        now: Unix seconds.

    Raises:
        ConfigError: its files cannot be read.
    """
    status = find_status(directory / STATUS_FILE)
    found = _opening(directory, case, peers)
    missing = () if found is None else tuple(one for one in _files(found.body) if not _has(directory, one))
    running = status is not None and status.get("run") == case.run and _age(directory, now) <= ALIVE_S
    trouble = None if status is None else status.get("error")
    return Response(
        signed=found is not None,
        missing=missing,
        running=running,
        running_run=None if status is None else str(status.get("run")),
        error=str(trouble.get("message")) if isinstance(trouble, dict) else None,
    )


def _opening(directory: Path, case: CaseState, peers: frozenset[str]) -> Signed[Opening] | None:
    """Return the newest opening of the case's segment, for whichever case or draw it was published."""
    kept = kept_openings(directory / HISTORY_FILE, case.run, case.round, case.number)
    found = [one for one in kept if one.body.segment == case.segment and one.author in peers]
    return max(found, key=lambda one: one.body.case, default=None)


def _files(opening: Opening) -> tuple[str, ...]:
    named = (
        opening.start_parameters,
        opening.start_moments,
        opening.end_parameters,
        opening.end_moments,
        opening.final_parameters,
        opening.residual_before,
    )
    return tuple(dict.fromkeys(one for one in named if one is not None))


def _has(directory: Path, digest: str) -> bool:
    return (directory / "blobs" / check_digest(digest)[:2] / digest).is_file()


def _age(directory: Path, now: float) -> float:
    try:
        return now - (directory / STATUS_FILE).stat().st_mtime
    except OSError as error:
        raise ConfigError(f"cannot read {directory / STATUS_FILE}: {error.strerror}") from error
