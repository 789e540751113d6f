"""What people say of samples: signed preferences, as a wallet signs them and as records carry them.

A preference is a message like any other, of role `person`. A record repeats it whole, so that whoever has the record
can check who said it, and needs nothing else.
"""

from functools import lru_cache
from typing import Any, cast

from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.messages import Body, ListedPreference, Preference, Signed
from protocol.rollout_config import PeopleConfig, RolloutConfig


def people_of(manifest: RunManifest) -> tuple[RolloutConfig, PeopleConfig]:
    """Return how a run rolls out, and whose preferences count in it.

    Raises:
        Malformed: nobody's do.
    """
    rollouts = manifest.rollouts
    if rollouts is None or rollouts.people is None:
        raise Malformed("a preference in a run that asks no people")
    return rollouts, rollouts.people


def place_of(manifest: RunManifest, address: str) -> int | None:
    """Return the place of an address among a run's people, in any spelling of its letters; None: it is not there."""
    _, people = people_of(manifest)
    places = {one.lower(): place for place, one in enumerate(people.addresses)}
    return places.get(address.lower())


def check_preference(manifest: RunManifest, message: Signed[Preference]) -> None:
    """Make sure that a preference is signed by the person that it names, and about samples that a unit can have.

    Raises:
        Malformed: it is not, or the run asks nobody.
    """
    rollouts, people = people_of(manifest)
    said, sampling = message.body, rollouts.sampling
    if said.person >= len(people.addresses):
        raise Malformed(
            f"a preference of person {said.person}, and the manifest names {len(people.addresses)}"
        )
    if said.group >= sampling.groups:
        raise Malformed(f"a preference in group {said.group}, and a unit has {sampling.groups}")
    if max(said.better, said.worse) >= sampling.group_size:
        raise Malformed(f"a preference between samples of which a group has {sampling.group_size}")
    if message.author.lower() != people.addresses[said.person].lower():
        raise Malformed(f"a preference of person {said.person}, signed by {message.author}")


def listed(message: Signed[Preference]) -> ListedPreference:
    """Return a preference as a record carries it."""
    return ListedPreference(round=message.round, said=message.body, signature=message.signature.hex())


@lru_cache(maxsize=4096)
def signed(manifest: RunManifest, one: ListedPreference) -> Signed[Preference]:
    """Return the message that a record repeats."""
    return message_of(manifest, one.round, one.said, bytes.fromhex(one.signature))


def message_of(manifest: RunManifest, round_: int, said: Preference, signature: bytes) -> Signed[Preference]:
    """Return a preference and its signature as a message."""
    return Signed(manifest.chain_id, manifest.ledger, manifest.run_id, round_, "person", said, signature)


def is_preference(message: Signed[Body]) -> Signed[Preference] | None:
    """Return the message if it is a preference."""
    return cast("Signed[Preference]", message) if isinstance(message.body, Preference) else None


def typed_data(manifest: RunManifest, round_: int, said: Preference) -> dict[str, Any]:
    """Return what a wallet signs (`eth_signTypedData_v4`): its EIP-712 digest is the message's id."""
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Message": [
                {"name": "run", "type": "bytes32"},
                {"name": "round", "type": "uint64"},
                {"name": "role", "type": "string"},
                {"name": "kind", "type": "string"},
                {"name": "body", "type": "bytes32"},
            ],
        },
        "primaryType": "Message",
        "domain": {
            "name": "Murmur",
            "version": "1",
            "chainId": manifest.chain_id,
            "verifyingContract": manifest.ledger,
        },
        "message": {
            "run": f"0x{manifest.run_id}",
            "round": round_,
            "role": "person",
            "kind": said.kind,
            "body": f"0x{said.digest().hex()}",
        },
    }
