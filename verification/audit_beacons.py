"""The audit of beacons: every draw came from the one signature that the chain's clock had fixed before."""

from protocol.chain import OPENING_ROUND
from protocol.drand import verify_beacon
from protocol.errors import Malformed, ProofInconclusive, ProofRejected
from protocol.manifest import BlockBeacon
from verification.public import PublicRun


def check_beacons(run: PublicRun) -> tuple[int, str]:
    """Every anchor has its beacon; where drand gives it, the folder holds the signature, and the network made it."""
    beacon = run.manifest.beacon
    anchored = (run.scope.start - 1, *run.scope)  # the round before them fixes their assignments
    if isinstance(beacon, BlockBeacon):
        for round_ in anchored:
            if run.chain.sampling_beacon(round_) is None and round_ != run.rounds.stop - 1:
                raise ProofInconclusive(f"the chain does not give the block after {_anchor(round_)}")
        return len(anchored), "hashes of blocks, which whoever makes the local chain's blocks could choose"
    missing = []
    for round_ in anchored:
        drand_round = run.chain.drand_round(round_)
        if drand_round is None:
            raise ProofInconclusive(f"the chain does not give the time of {_anchor(round_)}")
        try:
            signature = run.signatures.read(drand_round)
            if signature is not None:
                verify_beacon(beacon.public_key, drand_round, signature)
        except Malformed as error:
            raise ProofRejected(
                f"beacons/{drand_round}.json, of {_anchor(round_)}: {error.message}"
            ) from error
        if signature is None and round_ != run.rounds.stop - 1:
            missing.append(drand_round)
    if missing:
        raise ProofInconclusive(
            f"the public folder lacks the signatures of drand rounds {', '.join(map(str, missing[:5]))}"
        )
    return len(anchored), f"signatures by drand network {beacon.chain_hash[:16]}"


def _anchor(round_: int) -> str:
    return "the run's opening" if round_ == OPENING_ROUND else f"the record of round {round_}"
