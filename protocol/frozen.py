"""What every value that travels is made of: a frozen base, digests, addresses and amounts."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
Arithmetic = Literal["fp32", "bf16", "exact"]
ProfileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


def _parse_wei(value: Any) -> Any:
    if isinstance(value, str):
        if not (
            value.isascii() and value.isdigit() and len(value) <= 78 and (value == "0" or value[0] != "0")
        ):
            raise ValueError("not a decimal amount")
        return int(value)
    return value


Wei = Annotated[
    int, BeforeValidator(_parse_wei), Field(ge=0, lt=2**256), PlainSerializer(str, return_type=str)
]
"""An amount in the token's smallest unit: an int in Python, a decimal string in JSON."""


class Frozen(BaseModel):
    """Base of every value that travels: immutable, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
