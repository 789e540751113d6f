"""Where the randomness of assignment and sampling comes from: a block's hash, or drand's."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from protocol.drand import QUICKNET, SCHEME, DrandChain, check_public_key
from protocol.errors import Malformed
from protocol.frozen import Digest, Frozen


def _public_key(value: str) -> str:
    try:
        check_public_key(value)
    except Malformed as error:
        raise ValueError(error.message) from error
    return value


class BlockBeacon(Frozen):
    """Take the hash of the block after an anchor: who makes blocks chooses, so for local chains only."""

    kind: Literal["block"] = "block"


class DrandBeacon(Frozen):
    """Take the first drand round that is published `margin_s` after the time that the anchoring block bears.

    Within the margin whoever makes that block must have shown it: Ethereum's slot of 12 s is the default.
    """

    kind: Literal["drand"] = "drand"
    scheme: Literal["bls-unchained-g1-rfc9380"] = SCHEME
    chain_hash: Digest = QUICKNET.chain_hash
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{192}$"), AfterValidator(_public_key)] = (
        QUICKNET.public_key
    )
    genesis_time: int = Field(default=QUICKNET.genesis_time, ge=0, lt=2**40)  # Unix seconds
    period: int = Field(default=QUICKNET.period, ge=1, le=3600)  # seconds
    margin_s: int = Field(default=12, ge=1, le=86_400)

    @model_validator(mode="after")
    def _margin_is_a_period(self) -> "DrandBeacon":
        if self.margin_s < self.period:
            raise ValueError("the margin must be at least a period: the round before may be known already")
        return self

    @property
    def chain(self) -> DrandChain:
        """Return the drand network."""
        return DrandChain(self.chain_hash, self.public_key, self.genesis_time, self.period)

    def round_after(self, timestamp: int) -> int:
        """Return the drand round that belongs to a block of a Unix second."""
        return self.chain.first_round_at(timestamp + self.margin_s)


BeaconConfig = Annotated[BlockBeacon | DrandBeacon, Field(discriminator="kind")]
"""Say where the randomness of assignment and sampling comes from."""
