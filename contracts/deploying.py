"""The terms of a deployment as a file, and what stands on chain compared with what was compiled."""

import dataclasses
import inspect
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from contracts.client import Ledger
from protocol.errors import ConfigError

MAX_TERMS_BYTES = 64 * 1024


def read_terms(path: Path) -> dict[str, Any]:
    """Read what `Ledger.deploy` takes beside chain and wallet from a TOML file: an integer or a table a keyword.

    Raises:
        ConfigError: the file cannot be read, or has too much, too little, or something that is no amount.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TERMS_BYTES + 1)
        if len(data) > MAX_TERMS_BYTES:
            raise ConfigError(f"{path} has more than {MAX_TERMS_BYTES} bytes")
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return _fill(deploy_terms(), document, path, "")


def deploy_terms() -> dict[str, Any]:
    """Return the keywords that `Ledger.deploy` takes, with the type of each: int, or a dataclass of ints."""
    hints = get_type_hints(Ledger.deploy)
    keywords = inspect.signature(Ledger.deploy).parameters.values()
    return {one.name: hints[one.name] for one in keywords if one.kind is one.KEYWORD_ONLY}


def describe_terms(terms: Mapping[str, Any]) -> list[str]:
    """Return one line for each term."""
    lines = []
    for name, value in terms.items():
        inner = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else {"": value}  # type: ignore[arg-type]
        lines += [f"{name}{'.' if key else ''}{key} = {amount}" for key, amount in inner.items()]
    return lines


def _fill(wanted: Mapping[str, Any], found: object, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {where} is not a table")
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        told = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(
            unknown
        )
        raise ConfigError(
            f"{path}: {where or 'the file'} {' and '.join(told)}",
            hint="amounts are wei, times blocks; see docs/networks.md",
        )
    filled: dict[str, Any] = {}
    for name, kind in wanted.items():
        value = found[name]
        if kind is int:
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{path}: {where}{name} is not a whole number", hint="amounts are wei")
            filled[name] = value
        else:
            inner = {one.name: int for one in dataclasses.fields(kind)}
            filled[name] = kind(**_fill(inner, value, path, f"{name}."))
    return filled
