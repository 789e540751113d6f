"""The verifier's signing journal: one seal and one verdict a unit, one vote a juror's seat, on disk before anybody
hears them.

A second one on a unit would be equivocation, so what was signed once is returned for ever. The journal also keeps what
opens each seal, and remembers whose files are kept as evidence. The file is `protocol.journal`'s.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from contracts.types import CaseOutcome
from protocol.journal import JournalKind, SigningJournal
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Seal, Signed, Verdict, sign
from verification.juror import Subject, Vote

_SCHEMA = """
CREATE TABLE verdict (
    run TEXT NOT NULL, round INTEGER NOT NULL, number INTEGER NOT NULL,
    wire BLOB NOT NULL, files TEXT NOT NULL,
    PRIMARY KEY (run, round, number)
) STRICT;
CREATE TABLE seal (
    run TEXT NOT NULL, round INTEGER NOT NULL, number INTEGER NOT NULL,
    wire BLOB NOT NULL, fingerprint TEXT NOT NULL, salt TEXT NOT NULL,
    PRIMARY KEY (run, round, number)
) STRICT;
CREATE TABLE vote (
    run TEXT NOT NULL, "case" INTEGER NOT NULL, second INTEGER NOT NULL, seat INTEGER NOT NULL, subject TEXT NOT NULL,
    outcome INTEGER NOT NULL, result BLOB NOT NULL, salt BLOB NOT NULL,
    PRIMARY KEY (run, "case", second, seat, subject)
) STRICT;
"""

KIND = JournalKind(
    application_id=0x4D555256,  # "MURV"
    version=4,
    schema=_SCHEMA,
    name="a verifier's journal",
    daemon="verifier",
    loss_hint="a verifier without its journal should register a fresh key: it must not judge a unit twice",
    statements="""
        SELECT run, 'verdict', round, number || '/' || "case", wire FROM verdict
        UNION ALL SELECT run, 'seal', round, number || '/' || "case", wire FROM seal
    """,
)


@dataclass(frozen=True)
class Sealed:
    """A seal and what opens it."""

    message: Signed[Seal]
    fingerprint: tuple[float, ...]
    salt: str


class VerdictJournal(SigningJournal):
    """Hold the seals and verdicts of one peer key. Open one with `VerdictJournal.open`."""

    kind = KIND

    def seal(
        self,
        key: PeerKey,
        manifest: RunManifest,
        round_: int,
        body: Seal,
        fingerprint: tuple[float, ...],
        salt: str,
    ) -> Sealed:
        """Return this verifier's one seal on a unit, storing it with what opens it if it is made now.

        Raises:
            Held: the journal was restored, and something else may have been signed for the round.
        """
        known = self.sealed(manifest.run_id, round_, body.number)
        if known is not None:
            return known
        self._check_hold(manifest.run_id, round_, body.kind)
        message = sign(key, manifest, round_, "verifier", body)
        row = (manifest.run_id, round_, body.number, message.wire, json.dumps(fingerprint), salt)
        with self._transaction():
            self._database.execute("INSERT INTO seal VALUES (?, ?, ?, ?, ?, ?)", row)
        return Sealed(message, fingerprint, salt)

    def sealed(self, run: str, round_: int, number: int) -> Sealed | None:
        """Return the seal signed on a unit, if there is one."""
        query = "SELECT wire, fingerprint, salt FROM seal WHERE run = ? AND round = ? AND number = ?"
        row = self._database.execute(query, (run, round_, number)).fetchone()
        return None if row is None else self._parse_seal(*row)

    def seals(self, run: str, since_round: int = 0) -> tuple[Sealed, ...]:
        """Return the seals signed in a run from a round on, oldest first."""
        query = "SELECT wire, fingerprint, salt FROM seal WHERE run = ? AND round >= ? ORDER BY round, number"
        return tuple(self._parse_seal(*row) for row in self._database.execute(query, (run, since_round)))

    def _parse_seal(self, wire: bytes, fingerprint: str, salt: str) -> Sealed:
        message = self._parse(wire)
        if not isinstance(message.body, Seal):
            raise self._damaged(f"it holds a {message.body.kind}")
        return Sealed(cast("Signed[Seal]", message), tuple(json.loads(fingerprint)), salt)

    def sign(
        self, key: PeerKey, manifest: RunManifest, round_: int, verdict: Verdict, files: Iterable[str]
    ) -> Signed[Verdict]:
        """Return this verifier's one verdict on a unit, storing it first if it is made now.

        Args:
            files: addresses of the evidence that is kept for it.

        Raises:
            Held: the journal was restored, and something else may have been signed for the round.
        """
        known = self.verdict(manifest.run_id, round_, verdict.number)
        if known is not None:
            return known
        self._check_hold(manifest.run_id, round_, verdict.kind)
        message = sign(key, manifest, round_, "verifier", verdict)
        row = (manifest.run_id, round_, verdict.number, message.wire, " ".join(files))
        with self._transaction():
            self._database.execute("INSERT INTO verdict VALUES (?, ?, ?, ?, ?)", row)
        return message

    def verdict(self, run: str, round_: int, number: int) -> Signed[Verdict] | None:
        """Return the verdict signed on a unit, if there is one."""
        query = "SELECT wire FROM verdict WHERE run = ? AND round = ? AND number = ?"
        row = self._database.execute(query, (run, round_, number)).fetchone()
        return None if row is None else self._parse_verdict(row[0])

    def verdicts(self, run: str, since_round: int = 0) -> tuple[Signed[Verdict], ...]:
        """Return the verdicts signed in a run from a round on, oldest first."""
        query = "SELECT wire FROM verdict WHERE run = ? AND round >= ? ORDER BY round, number"
        return tuple(
            self._parse_verdict(wire) for (wire,) in self._database.execute(query, (run, since_round))
        )

    def evidence(self, run: str, units: int) -> frozenset[str]:
        """Return the addresses of the files kept for the newest verdicts.

        Args:
            units: of how many verdicts.
        """
        query = "SELECT files FROM verdict WHERE run = ? AND files != '' ORDER BY rowid DESC LIMIT ?"
        rows = self._database.execute(query, (run, units))
        return frozenset(address for (files,) in rows for address in files.split())

    def vote(self, run: str, vote: Vote) -> Vote:
        """Return this juror's one vote for a seat, storing the one given if there is none yet.

        Args:
            run: run id of the case.
        """
        known = self.votes(run, vote.case)
        for one in known:
            if (one.key, one.subject) == (vote.key, vote.subject):
                return one
        place = (run, vote.case, int(vote.second), vote.seat, json.dumps(vote.subject))
        row = (*place, int(vote.outcome), vote.result, vote.salt)
        self._database.execute("INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return vote

    def votes(self, run: str, case: int | None = None) -> tuple[Vote, ...]:
        """Return the votes for a run's cases, or for one of them, oldest first."""
        query = (
            'SELECT "case", second, seat, subject, outcome, result, salt FROM vote'
            ' WHERE run = ? AND ? IN ("case", 0) ORDER BY rowid'
        )
        return tuple(
            Vote(case_, bool(second), seat, _subject(text), CaseOutcome(outcome), result, salt)
            for case_, second, seat, text, outcome, result, salt in self._database.execute(
                query, (run, case or 0)
            )
        )

    def _parse_verdict(self, wire: bytes) -> Signed[Verdict]:
        message = self._parse(wire)
        if not isinstance(message.body, Verdict):
            raise self._damaged(f"it holds a {message.body.kind}")
        return cast("Signed[Verdict]", message)


def _subject(text: str) -> Subject:
    kind, round_, number, segment = json.loads(text)
    return kind, round_, number, segment
