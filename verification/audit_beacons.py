"""The audit of beacons: every draw came from the one signature that the chain's clock had fixed before."""

from collections.abc import Iterator
from dataclasses import dataclass

from protocol.beacon_config import BlockBeacon
from protocol.chain import OPENING_ROUND
from protocol.drand import verify_beacon
from protocol.errors import Malformed, ProofInconclusive, ProofRejected
from verification.public import PublicRun


@dataclass(frozen=True)
class _Fixing:
    """A block that fixes a beacon."""

    name: str
    beacon: str | None
    drand_round: int | None
    newest: bool  # its beacon may not be there yet


def check_beacons(run: PublicRun) -> tuple[int, str]:
    """Every anchor has its beacon; where drand gives it, the folder holds the signature, and the network made it."""
    beacon, fixing = run.manifest.beacon, [*_fixing(run)]
    if isinstance(beacon, BlockBeacon):
        for one in fixing:
            if one.beacon is None and not one.newest:
                raise ProofInconclusive(f"the chain does not give the block after {one.name}")
        return len(fixing), "hashes of blocks, which whoever makes the local chain's blocks could choose"
    missing = []
    for one in fixing:
        if one.drand_round is None:
            raise ProofInconclusive(f"the chain does not give the time of {one.name}")
        try:
            signature = run.signatures.read(one.drand_round)
            if signature is not None:
                verify_beacon(beacon.public_key, one.drand_round, signature)
        except Malformed as error:
            raise ProofRejected(f"beacons/{one.drand_round}.json, of {one.name}: {error.message}") from error
        if signature is None and not one.newest:
            missing.append(one.drand_round)
    if missing:
        raise ProofInconclusive(
            f"the public folder lacks the signatures of drand rounds {', '.join(map(str, missing[:5]))}"
        )
    return len(fixing), f"signatures by drand network {beacon.chain_hash[:16]}"


def _fixing(run: PublicRun) -> Iterator[_Fixing]:
    """Yield the anchors of the rounds and of the one before, which fixes their assignments."""
    chain = run.chain
    for round_ in (run.scope.start - 1, *run.scope):
        name = "the run's opening" if round_ == OPENING_ROUND else f"the record of round {round_}"
        newest = round_ == run.rounds.stop - 1
        yield _Fixing(name, chain.sampling_beacon(round_), chain.drand_round(round_), newest)
