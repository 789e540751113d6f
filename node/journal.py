"""The signing journal: what this peer has said, kept on disk before anybody hears it.

A statement is stored whole before `sign` returns it, and returned again when the same is asked for later; a different
one for the same run, kind and round is refused. So a kill at any moment costs at most the round under way and can
never make this peer contradict itself. The file is `protocol.journal`'s.
"""

from collections.abc import Iterator
from typing import cast, get_args

from pydantic import ValidationError

from node.events import Carry, Progress
from node.unit import Unit
from protocol.errors import Equivocation
from protocol.journal import JournalKind, SigningJournal
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Body, Opening, Receipt, Reveal, Signed, sign, signing_digest

_SCHEMA = """
CREATE TABLE statement (
    run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL, "case" INTEGER NOT NULL, wire BLOB NOT NULL,
    PRIMARY KEY (run, kind, round, "case")
) STRICT;
CREATE TABLE unit (
    run TEXT NOT NULL, round INTEGER NOT NULL, body TEXT NOT NULL, released INTEGER NOT NULL,
    PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE progress (
    run TEXT NOT NULL PRIMARY KEY, round INTEGER NOT NULL, parameters TEXT NOT NULL, carry TEXT NOT NULL
) STRICT;
"""

KIND = JournalKind(
    application_id=0x4D55524E,  # "MURN"
    version=2,
    schema=_SCHEMA,
    name="a journal of a Murmur node",
    daemon="node",
    loss_hint=(
        "restore it from a copy of this very disk; a peer without its journal should register a fresh key, "
        "because signing twice for one round costs its stake"
    ),
    statements='SELECT run, kind, round, "case", wire FROM statement',
)


class Journal(SigningJournal):
    """Hold the statements, units and progress of one peer key. Open one with `Journal.open`."""

    kind = KIND

    def sign(
        self, key: PeerKey, manifest: RunManifest, round_: int, body: Body, *, unit: Unit | None = None
    ) -> Signed[Body]:
        """Return this peer's one statement of that kind for the round, storing it first if it is made now.

        Of openings there is one for each case.

        Args:
            unit: stored in the same transaction as its commitment.

        Raises:
            Equivocation: something else of that kind was signed for the round before.
            Held: the journal was restored, and something else may have been. What a unit in here fixes (its reveal
                and its openings) is signed all the same: it cannot have been anything else.
        """
        run = manifest.run_id
        place = (run, body.kind, round_, body.case if isinstance(body, Opening) else 0)
        query = 'SELECT wire FROM statement WHERE run = ? AND kind = ? AND round = ? AND "case" = ?'
        row = self._database.execute(query, place).fetchone()
        if row is not None:
            stored = self._parse(row[0])
            wanted = signing_digest(manifest.chain_id, manifest.ledger, run, round_, stored.role, body)
            if stored.id != wanted.hex():
                raise Equivocation(
                    f"a different {body.kind} for round {round_} was signed before",
                    hint=f"this is a defect of the node; {self._path} holds what was signed",
                )
            return stored
        if not (isinstance(body, Reveal | Opening) and self._has_unit(run, round_, body.commitment)):
            self._check_hold(run, round_, body.kind)
        message = sign(key, manifest, round_, "contributor", body)
        with self._transaction():
            self._database.execute("INSERT INTO statement VALUES (?, ?, ?, ?, ?)", (*place, message.wire))
            if unit is not None:
                self._database.execute(
                    "INSERT INTO unit VALUES (?, ?, ?, 0)", (run, round_, unit.model_dump_json())
                )
        return message

    def _has_unit(self, run: str, round_: int, commitment: str) -> bool:
        query = "SELECT body FROM unit WHERE run = ? AND round = ?"
        row = self._database.execute(query, (run, round_)).fetchone()
        return row is not None and self._unit(row[0]).commitment_id == commitment

    def _unit(self, body: str) -> Unit:
        try:
            return Unit.model_validate_json(body)
        except ValidationError as error:
            raise self._damaged(error) from error

    def receipts(self, run: str) -> dict[int, Receipt]:
        """Return the receipts signed for the round reached and later ones, by round."""
        progress = self.progress(run)
        recent = 0 if progress is None else progress.round
        query = "SELECT round, wire FROM statement WHERE run = ? AND kind = ? AND round >= ?"
        rows = self._database.execute(query, (run, Receipt.kind, recent)).fetchall()
        return {round_: cast("Receipt", self._parse(wire).body) for round_, wire in rows}

    def advance(self, run: str, progress: Progress) -> None:
        """Store the round reached."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO progress VALUES (?, ?, ?, ?) ON CONFLICT (run) DO UPDATE SET "
                "round = excluded.round, parameters = excluded.parameters, carry = excluded.carry",
                (run, progress.round, progress.parameters, progress.carry),
            )

    def release(self, run: str, round_: int) -> None:
        """Store that the states of a unit are no longer needed."""
        with self._transaction():
            self._database.execute("UPDATE unit SET released = 1 WHERE run = ? AND round = ?", (run, round_))

    def progress(self, run: str) -> Progress | None:
        """Return the round reached, or None before the first."""
        query = "SELECT round, parameters, carry FROM progress WHERE run = ?"
        row = self._database.execute(query, (run,)).fetchone()
        if row is None:
            return None
        carry: Carry | None = next((one for one in get_args(Carry) if one == row[2]), None)
        if carry is None:
            raise self._damaged(f"carry {row[2]!r}")
        return Progress(row[0], row[1], carry)

    def trained(self, run: str) -> int:
        """Return how many units were trained and signed for."""
        row = self._database.execute("SELECT count(*) FROM unit WHERE run = ?", (run,)).fetchone()
        return int(row[0])

    def history(self, run: str) -> Iterator[Unit]:
        """Yield every unit that was signed for, by round."""
        query = "SELECT body FROM unit WHERE run = ? ORDER BY round"
        for (body,) in self._database.execute(query, (run,)):
            yield self._unit(body)

    def units(self, run: str) -> tuple[dict[int, Unit], frozenset[int]]:
        """Return the units that may still matter, by round, and the rounds whose draw is settled."""
        progress = self.progress(run)
        recent = 0 if progress is None else progress.round - 1
        query = "SELECT round, body, released FROM unit WHERE run = ? AND (released = 0 OR round >= ?)"
        rows = self._database.execute(query, (run, recent)).fetchall()
        units = {round_: self._unit(body) for round_, body, _ in rows}
        return units, frozenset(round_ for round_, _, released in rows if released)
