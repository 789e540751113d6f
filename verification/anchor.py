"""What a proof may rely on: a chain that was asked, a file that an auditor wrote, or a root that somebody typed.

A bundle's own copy of a root proves nothing. An anchor says which facts it knows from elsewhere; a fact that it knows
otherwise than the bundle claims makes the proof inconclusive, because the bundle is then about another chain than the
anchor's; a fact that it does not know is reported as taken from the bundle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field, ValidationError

from protocol.canonical import canonical_json, parse_canonical_json
from protocol.errors import ConfigError, Malformed, ProofInconclusive
from protocol.frozen import Address, Digest, Frozen
from protocol.manifest import RunManifest
from verification.facts import MAX_OPERATORS, ChainFacts, OperatorFact, RoundFacts

MAX_ANCHOR_BYTES = 256 << 20


class Claims(Protocol):
    """What a bundle claims of the chain."""

    @property
    def manifest(self) -> RunManifest:
        """Return the manifest, which names chain, ledger and run."""
        ...

    @property
    def facts(self) -> RoundFacts:
        """Return the claimed facts of the unit's round."""
        ...

    @property
    def operators(self) -> Sequence[OperatorFact]:
        """Return the claimed keys of those who signed."""
        ...


@dataclass(frozen=True)
class Confirmed:
    """Say what an anchor confirmed."""

    source: str  # what was relied on, in words
    known: tuple[str, ...]  # facts that the anchor knows and that agree
    taken: tuple[str, ...]  # facts that only the bundle says


class Anchor(Protocol):
    """Confirm claims from outside the bundle."""

    def confirm(self, claims: Claims) -> Confirmed:
        """Compare what is known with what is claimed.

        Raises:
            ProofInconclusive: the anchor says otherwise, or knows nothing of the round.
        """
        ...


_FACTS = (
    "chain and ledger",
    "run",
    *(name for name in RoundFacts.model_fields if name != "round"),
    "operators",
)


@dataclass(frozen=True)
class RootAnchor:
    """Rely on one commitment root that the caller knows."""

    root: str  # 64 hex digits

    def confirm(self, claims: Claims) -> Confirmed:
        """Compare the root; everything else is taken from the bundle."""
        if claims.facts.commitments_root != self.root:
            raise ProofInconclusive(
                f"the bundle is about the root {claims.facts.commitments_root}, not the given {self.root}"
            )
        known = ("commitments_root",)
        return Confirmed(
            f"the given commitment root {self.root}",
            known,
            tuple(name for name in _FACTS if name not in known),
        )


@dataclass(frozen=True)
class ChainAnchor:
    """Rely on everything that a chain says, or a file that an auditor made from one."""

    chain: ChainFacts
    source: str

    def confirm(self, claims: Claims) -> Confirmed:
        """Compare chain, ledger, run, every fact of the round, and the signers' keys."""
        manifest, facts = claims.manifest, claims.facts
        self._same("chain", self.chain.chain_id, manifest.chain_id)
        self._same("ledger", self.chain.ledger.lower(), manifest.ledger.lower())
        self._same("run", self.chain.run, manifest.run_id)
        here = self.chain.rounds.get(facts.round)
        if here is None:
            raise ProofInconclusive(f"{self.source} does not know round {facts.round}")
        for name in RoundFacts.model_fields:
            self._same(name, getattr(here, name), getattr(facts, name))
        for operator in claims.operators:
            known = self.chain.operators.get(operator.number)
            if known is None or not known.confirms(operator, facts.speaker_block(operator.role)):
                self._same(f"number {operator.number}", known, operator)
        return Confirmed(self.source, _FACTS, ())

    def _same(self, what: str, known: object, claimed: object) -> None:
        if known != claimed:
            raise ProofInconclusive(
                f"{what}: {self.source} says {_short(known)}, the bundle {_short(claimed)}"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 90 else text[:87] + "..."


class AnchorFile(Frozen):
    """What `murmur audit run --anchors-out` writes: canonical JSON."""

    format: Literal["murmur-anchors/1"] = "murmur-anchors/1"
    chain_id: int = Field(ge=1, lt=2**53)
    ledger: Address
    run: Digest
    height: int = Field(ge=0, lt=2**53)  # newest block when it was written
    rounds: Annotated[tuple[RoundFacts, ...], Field(max_length=1_000_001)]
    operators: Annotated[tuple[OperatorFact, ...], Field(max_length=MAX_OPERATORS)]

    @classmethod
    def of(cls, chain: ChainFacts, height: int) -> "AnchorFile":
        """Write down what a chain says."""
        return cls(
            chain_id=chain.chain_id,
            ledger=chain.ledger,
            run=chain.run,
            height=height,
            rounds=tuple(chain.rounds[round_] for round_ in sorted(chain.rounds)),
            operators=tuple(chain.operators[number] for number in sorted(chain.operators)),
        )

    def facts(self) -> ChainFacts:
        """Return what is written down."""
        return ChainFacts(
            self.chain_id,
            self.ledger,
            self.run,
            {one.round: one for one in self.rounds},
            {one.number: one for one in self.operators},
        )

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


def read_anchor_file(path: Path) -> ChainAnchor:
    """Read an anchor file.

    Raises:
        ConfigError: it cannot be read, or is not one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ANCHOR_BYTES + 1)
        value = parse_canonical_json(data.removesuffix(b"\n"), max_bytes=MAX_ANCHOR_BYTES)
        parsed = AnchorFile.model_validate(value)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (Malformed, ValidationError) as error:
        raise ConfigError(
            f"{path} is not an anchor file", hint="`murmur audit run RUN --anchors-out FILE` writes one"
        ) from error
    return ChainAnchor(parsed.facts(), f"the anchor file {path.name} (block {parsed.height})")
