"""Networks by name: where a chain answers, what it is, and from when on its blocks are final.

Profiles live in `networks.toml` of the user's configuration directory, readable by its owner only: RPC URLs often
hold an API key.
"""

import json
import os
import re
import secrets
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError

from protocol.errors import ConfigError, UsageError
from protocol.frozen import Address, Frozen
from protocol.manifest import LOCAL_CHAIN_ID

CONFIG_DIR_ENVIRONMENT = "MURMUR_CONFIG_DIR"
NETWORKS_FILE = "networks.toml"
MAX_FILE_BYTES = 1 << 20
MAX_ENDPOINTS = 16
GWEI = 10**9
LOCAL_FINAL_BLOCKS = 16  # nobody reorganises the local chain but a test

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

Finality = Literal["finalized", "safe"] | Annotated[int, Field(ge=0, le=100_000)]
"""Say when a block is final: the chain's own tag, or a number of blocks on top of it."""


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from error
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not url.isascii()
        or not url.isprintable()
    ):
        raise ValueError("an RPC URL begins with http:// or https://")
    return url


RpcUrl = Annotated[str, Field(max_length=2048), AfterValidator(_check_url)]


class Network(Frozen):
    """Say how to reach one chain, and what must be found there; what is None is not checked."""

    name: str = ""  # empty: not a profile, only URLs
    rpc: Annotated[tuple[str, ...], Field(max_length=MAX_ENDPOINTS)] = ()  # the first that is well is asked
    chain_id: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    ledger: Address | None = None
    token: Address | None = None
    finality: Finality | None = None  # None: what `final_after` says
    lag_blocks: Annotated[int, Field(ge=1, le=1_000_000)] = (
        20  # an endpoint further behind the best is left out
    )
    max_fee_gwei: Annotated[int, Field(ge=1, le=10**9)] = 500  # most that is paid for a unit of gas

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the network that one or more RPC URLs, parted by commas, lead to.

        Raises:
            UsageError: there are more than 16.
        """
        urls = tuple(url for url in (part.strip() for part in text.split(",", MAX_ENDPOINTS)) if url)
        if len(urls) > MAX_ENDPOINTS:
            raise UsageError(f"--rpc takes at most {MAX_ENDPOINTS} URLs")
        return cls(rpc=urls)

    @property
    def final_after(self) -> Finality:
        """Return when blocks are final: as set, soon on the local chain, else by the chain's own tag."""
        if self.finality is not None:
            return self.finality
        return LOCAL_FINAL_BLOCKS if self.chain_id == LOCAL_CHAIN_ID else "finalized"

    @property
    def max_fee_wei(self) -> int:
        """Return the most that is paid for a unit of gas, in wei."""
        return self.max_fee_gwei * GWEI

    def __str__(self) -> str:
        """Name its endpoints without what may be a key."""
        return self.name or ", ".join(map(endpoint_name, self.rpc)) or "no endpoint"


class Profile(Network):
    """A network as it is kept under a name."""

    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
    rpc: Annotated[tuple[RpcUrl, ...], Field(min_length=1, max_length=MAX_ENDPOINTS)]
    chain_id: Annotated[int, Field(ge=1, lt=2**53)]


# Chain ids as registered at https://github.com/ethereum-lists/chains; a lag of about a minute is borne.
TEMPLATES: dict[str, Network] = {
    "local": Network(name="local", rpc=("http://127.0.0.1:8545",), chain_id=LOCAL_CHAIN_ID),
    "sepolia": Network(name="sepolia", chain_id=11155111, finality="finalized", lag_blocks=5),
    "base": Network(name="base", chain_id=8453, finality="finalized", lag_blocks=30),
    "base-sepolia": Network(name="base-sepolia", chain_id=84532, finality="finalized", lag_blocks=30),
    "arbitrum": Network(name="arbitrum", chain_id=42161, finality="finalized", lag_blocks=240),
    "arbitrum-sepolia": Network(
        name="arbitrum-sepolia", chain_id=421614, finality="finalized", lag_blocks=240
    ),
}
"""What is known of a network before anybody names its endpoints."""


def endpoint_name(url: str) -> str:
    """Return scheme, host and port of a URL; the rest may be a key, or a password before the host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "an invalid URL"
    if not parts.scheme or not host:
        return repr(url[:80])
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def parse_finality(text: str) -> Finality:
    """Parse `finalized`, `safe`, or a number of blocks.

    Raises:
        UsageError: none of them.
    """
    match text:
        case "finalized" | "safe":
            return text
        case _ if re.fullmatch(r"[0-9]{1,6}", text) and int(text) <= 100_000:
            return int(text)
        case _:
            raise UsageError(
                f"--finality {text!r} is neither finalized nor safe nor a number of blocks",
                hint="finalized is right where the chain has that tag",
            )


def config_directory() -> Path:
    """Return where this user's settings lie: $MURMUR_CONFIG_DIR, else murmur/ in the XDG configuration directory."""
    named = os.environ.get(CONFIG_DIR_ENVIRONMENT)
    if named:
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "murmur"


def read_profiles(directory: Path | None = None) -> dict[str, Profile]:
    """Read all profiles, by name.

    Raises:
        ConfigError: the file can be read by others, is damaged, or has a key that is not known.
    """
    path = (directory or config_directory()) / NETWORKS_FILE
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}")
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    try:
        tables = tomllib.loads(data.decode())
        return {name: Profile.model_validate({"name": name, **table}) for name, table in tables.items()}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {error.title} {where}: {first['msg']}", hint=f"edit {path}") from error
    except (ValueError, TypeError, RecursionError) as error:  # a TOML error is a ValueError
        raise ConfigError(
            f"{path} is damaged: {error}", hint=f"edit {path}, or add its networks again"
        ) from error


def write_profiles(profiles: dict[str, Profile], directory: Path | None = None) -> Path:
    """Replace the file of profiles at once, mode 0600; returns its path.

    Raises:
        ConfigError: it cannot be written.
    """
    folder = directory or config_directory()
    path = folder / NETWORKS_FILE
    scratch = path.with_name(f".{NETWORKS_FILE}.{secrets.token_hex(4)}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write("\n".join(map(_to_toml, profiles.values())))
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return path


def find_network(name: str, directory: Path | None = None) -> Network:
    """Return the profile of a name, or the built-in template of the local chain.

    Raises:
        ConfigError: there is none.
    """
    known: dict[str, Network] = {
        **{key: one for key, one in TEMPLATES.items() if one.rpc},
        **read_profiles(directory),
    }
    if name not in known:
        if name in TEMPLATES:
            raise ConfigError(
                f"nobody has said where network {name} answers", hint=f"murmur network add {name} --rpc URL"
            )
        raise ConfigError(
            f"there is no network {name[:64]!r}; there are: {', '.join(sorted(known))}",
            hint="murmur network add NAME --rpc URL --chain-id N",
        )
    return known[name]


def make_profile(values: dict[str, object]) -> Profile:
    """Return a profile of what a command line says; the template of its name fills in the rest.

    Raises:
        UsageError: something is missing or out of bounds.
    """
    name = values.get("name")
    template = TEMPLATES.get(name) if isinstance(name, str) else None
    base = {} if template is None else template.model_dump(exclude_defaults=True)
    given = {key: value for key, value in values.items() if value is not None}
    if template is not None and given.get("chain_id", template.chain_id) != template.chain_id:
        raise UsageError(
            f"{name} is chain {template.chain_id}, not {given['chain_id']}", hint="choose another name"
        )
    try:
        return Profile.model_validate({**base, **given})
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]).replace("_", "-")
        option = "NAME" if field == "name" else f"--{field}"
        raise UsageError(f"{option}: {first['msg']}") from error


def _to_toml(profile: Profile) -> str:
    """Return one table; every string is printable ASCII, for which JSON and TOML quote alike."""
    values = profile.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    return f"[{profile.name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
