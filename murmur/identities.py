"""Who takes part in a local network: names, and keys that follow from the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from contracts.types import Role
from contracts.wallet import save_unattended_wallet
from protocol.keys import PeerKey, save_peer_key
from verification.liars import VerifierCheat

VERIFIER_CHEATS = tuple(cheat.value for cheat in VerifierCheat)
DEMO_SCRYPT_N = 4096  # the password lies beside the file, so a high work factor would only cost time


@dataclass(frozen=True)
class Identity:
    """A participant of the local network."""

    name: str
    role: Role | None  # None: the coordinator, which does not stake
    cheat: str | None = None
    cpu_share: float = 1.0  # of the time, in which a contributor's trainer computes

    @property
    def honest(self) -> bool:
        """Tell whether it runs the program as it is."""
        return self.cheat is None


def cast(
    peers: int,
    cheats: list[str],
    verifiers: int,
    cpu_shares: Sequence[float] = (1.0,),
    joiners: int = 0,
) -> tuple[Identity, ...]:
    """Name everybody: the coordinator, honest contributors, cheating ones, verifiers, and those who do not verify.

    Args:
        cpu_shares: of the honest contributors, in turn.
        joiners: honest contributors that come later; they are last, since they register last.
    """
    accusers = [cheat for cheat in cheats if cheat in VERIFIER_CHEATS]
    cheats = [cheat for cheat in cheats if cheat not in VERIFIER_CHEATS]
    honest = [
        Identity(f"peer-{i + 1}", Role.CONTRIBUTOR, cpu_share=cpu_shares[i % len(cpu_shares)])
        for i in range(peers)
    ]
    dishonest = [Identity(f"peer-{peers + i + 1}", Role.CONTRIBUTOR, cheat) for i, cheat in enumerate(cheats)]
    judges = [Identity(f"verifier-{i + 1}", Role.VERIFIER) for i in range(verifiers)]
    liars = [
        Identity(f"verifier-{verifiers + i + 1}", Role.VERIFIER, cheat) for i, cheat in enumerate(accusers)
    ]
    there = peers + len(cheats)
    late = [Identity(f"peer-{there + i + 1}", Role.CONTRIBUTOR) for i in range(joiners)]
    return (Identity("coordinator", None), *honest, *dishonest, *judges, *liars, *late)


def derive_key(seed: int, name: str, purpose: str) -> bytes:
    """Return a 32-byte secret for a name; the same seed gives the same local network."""
    return blake3(f"{seed}/{name}/{purpose}".encode(), derive_key_context="murmur local network key").digest()


def make_keys(directory: Path, seed: int, identity: Identity) -> PeerKey:
    """Write the peer key and the wallet of a participant into its directory; returns the peer key."""
    home = directory / identity.name
    home.mkdir(mode=0o700, parents=True)
    key = PeerKey(derive_key(seed, identity.name, "peer"))
    save_peer_key(home / "peer.key", key)
    save_unattended_wallet(home, derive_key(seed, identity.name, "wallet"), scrypt_n=DEMO_SCRYPT_N)
    return key
