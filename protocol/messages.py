"""Signed messages: what peers say, who said it, and for which chain, ledger, run, round and role.

The signature is EIP-712 over `Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)`, so that a
contract can check any statement from its signature and two conflicting ones from the signatures alone.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, ClassVar, Final, Generic, Literal, TypeVar

from eth_abi.abi import encode
from eth_utils.crypto import keccak
from pydantic import Field, ValidationError, model_validator

from protocol.canonical import canonical_json, digest, parse_canonical_json
from protocol.errors import Malformed
from protocol.frozen import Address, Digest, Frozen, ProfileName, Wei
from protocol.keys import PeerKey, recover_address
from protocol.manifest import MAX_WEIGHT, RunManifest

MAX_MESSAGE_BYTES = 60 * 1024  # gossip frames stay under 64 KiB
MAX_UNITS = 512  # in one list or record
MAX_PREFERENCES = 64  # in one record
SCORE_UNIT: Final = 2**16
PASSED: Final = 1  # verdict outcomes, as the ledger reads them
REJECTED: Final = 2
PROVEN_FALSE: Final = 3
INCONCLUSIVE: Final = 4

Number = Annotated[int, Field(ge=1, lt=2**53)]  # registration number
Round = Annotated[int, Field(ge=0, le=1_000_000)]
Case = Annotated[int, Field(ge=0, lt=2**53)]  # 0: the beacon's draw; else the jury's number of the case
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Reason = Annotated[
    str, Field(max_length=200, pattern=r"^[ -~]*$")
]  # printable ASCII: shown on terminals and pages
ListenAddress = Annotated[str, Field(max_length=200, pattern=r"^/[a-zA-Z0-9./:_-]+$")]
Role = Literal["contributor", "verifier", "coordinator", "person"]
Tier = Annotated[int, Field(ge=0, le=7)]  # of a unit: 0 is the full one, larger ones are smaller
Place = Annotated[int, Field(ge=0, lt=4096)]
"""Of a group in a unit, a sample in a group, a person in the manifest."""
SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{130}$")]

_DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_MESSAGE_TYPE = keccak(b"Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)")


class Body(Frozen):
    """Base of what is said. `kind` and `roles` say what it is and who may say it."""

    kind: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]

    def digest(self) -> bytes:
        """Return the 32-byte keccak hash that stands for the body in the signature."""
        return _content_digest(self)


@lru_cache(maxsize=4096)  # a record is compared with its anchor at every step, and hashing it takes long
def _content_digest(body: Body) -> bytes:
    return keccak(canonical_json(body.model_dump(mode="json")))


class Ready(Body):
    """Say: my node reproduced the program digest and listens here."""

    kind = "ready"
    roles = ("contributor", "verifier")
    number: Number
    program: Digest
    addresses: tuple[ListenAddress, ...] = Field(max_length=8)


class Commitment(Body):
    """Bind a unit of work before anything of it is shown. Roots are those of `protocol.state`."""

    kind = "commitment"
    roles = ("contributor",)
    number: Number
    profile: ProfileName  # numeric profile of the manifest that the unit was computed under
    tier: Tier = 0
    next_tier: Tier = 0  # of the peer's units from the next round on
    parameters: Digest  # content address of the global parameters the round starts from
    assignment: Digest  # hash of the batches drawn for this peer
    moments_before: Digest
    moments_after: Digest
    residual_before: Digest
    residual_after: Digest
    segments: tuple[Digest, ...] = Field(min_length=2, max_length=1001)  # states after 0, 1, .. n segments
    update: Digest  # salted hash of the update's symbols


class CommitmentEntry(Frozen):
    """Name one commitment of a round by its message id."""

    number: Number
    commitment: Digest


class CommitmentList(Body):
    """List the commitments in the root that goes on chain, by registration number."""

    kind = "commitments"
    roles = ("coordinator",)
    entries: tuple[CommitmentEntry, ...] = Field(max_length=MAX_UNITS)


class Reveal(Body):
    """Show a committed update: its identity, the salt, and where its bytes are."""

    kind = "reveal"
    roles = ("contributor",)
    number: Number
    commitment: Digest
    symbols: Digest  # identity of the update: hash of its canonical symbols
    salt: Digest
    blob: Digest  # content address of one encoding of it
    blob_bytes: int = Field(ge=1, lt=2**40)
    train_cpu_s: Seconds  # self-reported, for statistics only


class ReceivedUpdate(Frozen):
    """Name an update that a witness held in time."""

    number: Number
    symbols: Digest
    blob: Digest  # content address of the encoding that it holds


class Receipt(Body):
    """Say which revealed updates a drawn witness had fetched and checked before the reveals closed."""

    kind = "receipt"
    roles = ("contributor",)
    number: Number  # of the witness
    entries: tuple[ReceivedUpdate, ...] = Field(max_length=MAX_UNITS)


class Objection(Body):
    """Say that a record's joint update is not the one that its updates make: a drawn witness made it again.

    It proves nothing. Whoever hears it makes that joint update again itself.
    """

    kind = "objection"
    roles = ("contributor",)
    number: Number  # of the witness
    record: Digest  # body hash of the record, as it is anchored


class UnitRecord(Frozen):
    """Say what became of a committed unit: merged, or why not; and what its chance to be drawn follows from.

    One that was forced in without a commitment that holds does not count: it is as if nothing had been committed.
    """

    number: Number
    commitment: Digest
    earlier: int = Field(default=0, ge=0, le=10_000)  # units of it listed before, up to schedule.fresh_units
    suspect: int = Field(default=0, ge=0, le=10_000)  # units left under suspicion, this one included
    counts: bool = True
    tier: Tier = 0
    merged: bool
    weight: int = Field(default=1, ge=0, le=MAX_WEIGHT)  # of its update in the mean; 0: it moves nothing
    score: int | None = Field(
        default=None, ge=-3 * SCORE_UNIT, le=3 * SCORE_UNIT
    )  # of its peer, after the round
    reason: Reason = ""  # why it is not merged, or moves nothing
    symbols: Digest | None = None
    blob: Digest | None = None

    @property
    def moves(self) -> bool:
        """Tell whether its update moves the parameters."""
        return self.merged and self.weight > 0 and self.blob is not None

    @property
    def fate(self) -> str:
        """Return what became of it, in words."""
        if not self.merged:
            return f"not merged: {self.reason}"
        return "merged" if self.weight else f"merged with no weight: {self.reason}"


class Judgement(Frozen):
    """Carry the outcome of a drawn unit of an earlier round, or of a case before the jury about one."""

    round: Round
    number: Number
    case: Case = 0
    segment: int = Field(ge=0, le=1000)
    outcome: Literal["passed", "void", "false", "unjudged"]
    forged_residual: bool = False  # false, and the verdicts say of what it carries on that it does not follow
    heard: tuple[Number, ...] = Field(default=(), max_length=31)  # verifiers whose verdicts made it
    wrong: tuple[Number, ...] = Field(default=(), max_length=31)  # of these, who said otherwise


class Retraction(Frozen):
    """Name a unit, since found invalid, whose contribution a round takes back."""

    round: Round
    number: Number


class Preference(Body):
    """Say which of two samples of a group a person finds better; the round is that of the unit."""

    kind = "preference"
    roles = ("person",)
    person: Place  # among `rollouts.people.addresses` of the manifest
    number: Number  # of the unit's author
    group: Place  # in the unit
    better: Place  # in the group
    worse: Place

    @model_validator(mode="after")
    def _differ(self) -> "Preference":
        if self.better == self.worse:
            raise ValueError("a sample is not better than itself")
        return self

    @property
    def pair(self) -> tuple[int, int, int, int, int]:
        """Return (person, number, group, lower place, higher place): what its person says one thing of."""
        low, high = sorted((self.better, self.worse))
        return self.person, self.number, self.group, low, high


class ListedPreference(Frozen):
    """Carry a preference about an earlier round in a record, with all that checks it (`protocol.preferences`)."""

    round: Round
    said: Preference
    signature: SignatureHex


class RoundRecord(Body):
    """Fix which units a round merges, in which order; its body hash is anchored on chain."""

    kind = "record"
    roles = ("coordinator",)
    parameters: Digest  # global parameters at the start of the round
    units: tuple[UnitRecord, ...] = Field(max_length=MAX_UNITS)
    judged: tuple[Judgement, ...] = Field(max_length=2 * MAX_UNITS)  # decided since the record before
    receipts: tuple[Digest, ...] = Field(default=(), max_length=16)  # ids of the witnesses' receipts
    retracted: tuple[Retraction, ...] = Field(default=(), max_length=MAX_UNITS)  # oldest first
    preferences: tuple[ListedPreference, ...] = Field(default=(), max_length=MAX_PREFERENCES)
    joint: Digest | None = None  # address of the joint update, fetched in the place of everybody's

    def has_joint(self, manifest: RunManifest) -> bool:
        """Tell whether contributors fetch one joint update of the round: the run has them, and something moves."""
        return manifest.merging.joint_k > 0 and any(unit.moves for unit in self.units)


class Opening(Body):
    """Open what a draw or a case asks for: content addresses of the states, to be fetched and hashed."""

    kind = "opening"
    roles = ("contributor",)
    number: Number
    case: Case = 0
    commitment: Digest
    segment: int = Field(ge=0, le=1000)
    start_parameters: Digest
    start_moments: Digest
    end_parameters: Digest
    end_moments: Digest
    final_parameters: Digest
    final_moments: Digest
    residual_before: Digest | None  # None: nothing carried
    residual_after: Digest
    before_parameters: Digest | None = None  # state that the unit goes on from, where outer steps are delayed
    before_moments: Digest | None = None
    symbols: Digest
    salt: Digest
    published: Digest | None = None  # content address of the unit's blob, where it holds rollouts
    published_bytes: int = Field(default=0, ge=0, lt=2**40)


class Seal(Body):
    """Fix the fingerprint of a verifier's own replay before the peer's end state is served."""

    kind = "seal"
    roles = ("verifier",)
    number: Number
    verifier: Number
    commitment: Digest
    opening: Digest  # message id
    segment: int = Field(ge=0, le=1000)
    seal: Digest  # salted hash of the fingerprint


class Verdict(Body):
    """Say what a replay found of a drawn unit."""

    kind = "verdict"
    roles = ("verifier",)
    number: Number
    verifier: Number
    outcome: Literal[1, 2, 3, 4]
    commitment: Digest
    opening: Digest | None  # message id; None when nothing was opened in time
    segment: int = Field(ge=0, le=1000)
    profile: ProfileName  # numeric profile of the replay
    reason: Reason
    distance: float = Field(ge=0, le=1e30)  # largest over tensors, relative
    tensor: Annotated[str, Field(max_length=100, pattern=r"^[ -~]*$")]
    forged_residual: bool = False  # proven false: what it carries on does not follow, or is no residual
    exact: Digest | None = None  # of the end that exact arithmetic reaches; None: nobody disputed the segment
    exact_distance: float = Field(
        default=0.0, ge=0, le=1e30
    )  # of the committed end from it, largest over tensors
    fingerprint: tuple[float, ...] = Field(default=(), max_length=64)  # that the verifier's seal fixed
    salt: Digest | None = None  # of the seal
    replay_cpu_s: Seconds


class RewardEntry(Frozen):
    """Give an account's cumulative pay in this run."""

    account: Address
    cumulative_wei: Wei


class RewardTable(Body):
    """List every account's cumulative pay after an epoch, sorted by address; `round` is the epoch's last."""

    kind = "rewards"
    roles = ("coordinator",)
    epoch: int = Field(ge=0)
    entries: tuple[RewardEntry, ...] = Field(max_length=2 * MAX_UNITS)


class Finish(Body):
    """Say that the run is over and what came out of it; `round` is the last."""

    kind = "finish"
    roles = ("coordinator",)
    parameters: Digest
    judged: tuple[Judgement, ...] = Field(max_length=2 * MAX_UNITS)  # decided after the last record


BODIES: dict[str, type[Body]] = {
    body.kind: body
    for body in (
        Ready,
        Commitment,
        CommitmentList,
        Reveal,
        RoundRecord,
        Receipt,
        Objection,
        Opening,
        Seal,
        Verdict,
        RewardTable,
        Finish,
        Preference,
    )
}


class _Wire(Frozen):
    kind: Annotated[str, Field(max_length=32)]
    chain_id: int = Field(ge=1, lt=2**53)
    ledger: Address
    run: Digest
    round: Round
    role: Role
    body: dict[str, object]
    signature: SignatureHex


T = TypeVar("T", bound=Body)
T_co = TypeVar("T_co", bound=Body, covariant=True)


def check_tiers(manifest: RunManifest, body: Body) -> None:
    """Refuse a tier that the run does not have, which readers would look up, and a weight that no tier has.

    Raises:
        Malformed: a commitment or a record has one, or a record lacks its joint update, or has one where it should
            not.
    """
    match body:
        case Commitment():
            tiers = {body.tier, body.next_tier}
        case RoundRecord():
            tiers = {unit.tier for unit in body.units}
        case _:
            return
    if max(tiers, default=0) > manifest.smallest_tier:
        raise Malformed(f"{body.kind} with tier {max(tiers)}, which the run does not have")
    for unit in body.units if isinstance(body, RoundRecord) else ():
        doubted = manifest.merging.judges and unit.weight == 0
        if unit.merged and not doubted and unit.weight != manifest.tier_weights[unit.tier]:
            raise Malformed(f"record with a unit of tier {unit.tier} that weighs {unit.weight}")
    if isinstance(body, RoundRecord) and (body.joint is not None) != body.has_joint(manifest):
        raise Malformed(
            "record without its joint update" if body.joint is None else "record with a joint update"
        )


@dataclass(frozen=True)
class Signed(Generic[T_co]):
    """A statement and its signature; `author` is recovered, never claimed."""

    chain_id: int
    ledger: str
    run: str
    round: int
    role: Role
    body: T_co
    signature: bytes

    @cached_property
    def id(self) -> str:
        """Return the message id: the EIP-712 digest as hex. It names what is said, not who signed or how."""
        return signing_digest(self.chain_id, self.ledger, self.run, self.round, self.role, self.body).hex()

    @cached_property
    def author(self) -> str:
        """Return the address of the key that signed.

        Raises:
            Malformed: the signature does not recover.
        """
        return recover_address(bytes.fromhex(self.id), self.signature)

    @cached_property
    def wire(self) -> bytes:
        """Return the wire form: canonical JSON under 60 KiB."""
        return canonical_json(self.to_json())

    @cached_property
    def wire_digest(self) -> str:
        """Return the BLAKE3 digest of the wire form, by which anti-entropy names a message."""
        return digest(self.wire)

    def to_json(self) -> dict[str, object]:
        """Return the wire form as plain JSON data."""
        return {
            "kind": self.body.kind,
            "chain_id": self.chain_id,
            "ledger": self.ledger,
            "run": self.run,
            "round": self.round,
            "role": self.role,
            "body": self.body.model_dump(mode="json"),
            "signature": self.signature.hex(),
        }


def signing_digest(chain_id: int, ledger: str, run: str, round_: int, role: str, body: Body) -> bytes:
    """Return the EIP-712 digest of a statement (domain: Murmur, 1, chain, ledger)."""
    domain = keccak(
        encode(
            ("bytes32", "bytes32", "bytes32", "uint256", "address"),
            (_DOMAIN_TYPE, keccak(b"Murmur"), keccak(b"1"), chain_id, ledger),
        )
    )
    message = keccak(
        encode(
            ("bytes32", "bytes32", "uint64", "bytes32", "bytes32", "bytes32"),
            (
                _MESSAGE_TYPE,
                bytes.fromhex(run),
                round_,
                keccak(role.encode()),
                keccak(body.kind.encode()),
                body.digest(),
            ),
        )
    )
    return keccak(b"\x19\x01" + domain + message)


def sign(key: PeerKey, manifest: RunManifest, round_: int, role: Role, body: T) -> Signed[T]:
    """Sign a statement for a run.

    Raises:
        ValueError: the role may not say this.
    """
    if role not in body.roles:
        raise ValueError(f"a {role} does not sign a {body.kind}")
    run = manifest.run_id
    statement = signing_digest(manifest.chain_id, manifest.ledger, run, round_, role, body)
    return Signed(manifest.chain_id, manifest.ledger, run, round_, role, body, key.sign(statement))


def parse_message(data: bytes) -> Signed[Body]:
    """Parse wire bytes from anyone: bounds, canonical form, schema, role and signature.

    Whether the author is who the run expects is decided by `protocol.pool`, which knows manifest and roster.

    Raises:
        Malformed: any of these fails; the message says which.
    """
    value = parse_canonical_json(data, max_bytes=MAX_MESSAGE_BYTES)
    try:
        wire = _Wire.model_validate(value)
        body_type = BODIES.get(wire.kind)
        if body_type is None:
            raise Malformed("message of an unknown kind")
        body = body_type.model_validate(wire.body)
    except ValidationError as error:
        first = error.errors()[0]
        raise Malformed(f"message field {'.'.join(map(str, first['loc']))[:80]}: {first['type']}") from error
    if wire.role not in body.roles:
        raise Malformed(f"a {wire.role} does not sign a {wire.kind}")
    message = Signed(
        wire.chain_id, wire.ledger, wire.run, wire.round, wire.role, body, bytes.fromhex(wire.signature)
    )
    if message.wire != data:
        raise Malformed("message does not spell every field canonically")
    _ = message.author
    return message
