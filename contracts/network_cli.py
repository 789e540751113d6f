"""`murmur network`: which chains there are, under which names, and whether the contracts there are Murmur's."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.terminal import Directory, DryRun, Json, PasswordFile, Yes, confirm, show
from protocol.errors import ConfigError, LedgerError, UsageError
from protocol.networks import (
    TEMPLATES,
    Network,
    Profile,
    endpoint_name,
    find_network,
    make_profile,
    parse_finality,
    read_profiles,
    write_profiles,
)

if TYPE_CHECKING:
    from contracts.chain import Chain
    from contracts.client import Ledger

network_app = typer.Typer(
    no_args_is_help=True, help="Name the chains that Murmur runs on, and check what is there."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the network.")]


@network_app.command()
def add(
    name: Name,
    rpc: Annotated[
        list[str] | None, typer.Option("--rpc", help="RPC URL; repeatable. The first that is well is asked.")
    ] = None,
    chain_id: Annotated[
        int | None, typer.Option(min=1, help="Id of the chain; known for built-in names.")
    ] = None,
    ledger: Annotated[str | None, typer.Option(help="Address of the ledger.")] = None,
    token: Annotated[str | None, typer.Option(help="Address of its token, to be checked.")] = None,
    finality: Annotated[
        str | None,
        typer.Option(
            help="When a block is final: finalized, safe, or a number of blocks. Default: finalized."
        ),
    ] = None,
    lag_blocks: Annotated[
        int | None, typer.Option(min=1, help="An endpoint further behind the best is left out.")
    ] = None,
    max_fee_gwei: Annotated[
        int | None, typer.Option(min=1, help="Most that is paid for a unit of gas. Default: 500.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a profile of this name.")] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not ask the endpoints whether all this is so.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Keep a network under a name; its endpoints are asked first whether they are that chain, with that ledger."""
    urls = [url for text in rpc or () for url in Network.of(text).rpc]
    profile = make_profile(
        {
            "name": name,
            "rpc": urls or None,
            "chain_id": chain_id,
            "ledger": ledger,
            "token": token,
            "finality": None if finality is None else parse_finality(finality),
            "lag_blocks": lag_blocks,
            "max_fee_gwei": max_fee_gwei,
        }
    )
    profiles = read_profiles()
    if name in profiles and not replace:
        raise UsageError(
            f"there is a network {name} already", hint="add --replace, or see `murmur network show`"
        )
    if not no_check:
        _examine(profile)
    path = write_profiles({**profiles, name: profile})
    facts = _facts(profile)
    show({**facts, "rpc": facts["rpc"] if as_json else ", ".join(facts["rpc"]), "file": str(path)}, as_json)


@network_app.command("list")
def list_(as_json: Json = False) -> None:
    """List the networks that are kept, and the built-in ones that only lack an endpoint."""
    known = {**TEMPLATES, **read_profiles()}
    rows = [{**_facts(one), "usable": bool(one.rpc)} for _, one in sorted(known.items())]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{'name':18} {'chain':>9} {'final':>10}  {'ledger':42}  endpoints")
    for row in rows:
        endpoints = ", ".join(row["rpc"]) or f"none: murmur network add {row['name']} --rpc URL"
        typer.echo(
            f"{row['name']:18} {row['chain_id']:>9} {row['finality']:>10}  {row['ledger'] or '-':42}  {endpoints}"
        )


@network_app.command("show")
def show_(
    name: Name,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Print whole RPC URLs, which may hold keys.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what is kept of a network, without asking it."""
    network = find_network(name)
    facts = _facts(network) | ({"rpc": list(network.rpc)} if reveal else {})
    show(facts if as_json else {**facts, "rpc": ", ".join(facts["rpc"])}, as_json)


@network_app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Forget a network; what was kept of it is printed once more."""
    profiles = read_profiles()
    if name not in profiles:
        raise ConfigError(f"no network {name[:64]!r} is kept", hint="murmur network list")
    write_profiles({key: one for key, one in profiles.items() if key != name})
    show({**_facts(profiles[name]), "rpc": list(profiles[name].rpc)}, as_json)


@network_app.command()
def verify(
    name: Name,
    ledger: Annotated[
        str | None,
        typer.Option(envvar="MURMUR_LEDGER", help="Address of the ledger, if the profile has none."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask every endpoint, and compare the code on chain with the contracts of this program: exit 5 if they differ."""
    network = find_network(name)
    address = ledger or network.ledger
    if address is None:
        raise UsageError(f"network {name} has no ledger", hint="add --ledger ADDRESS")
    w3, found = _examine(network.model_copy(update={"ledger": address}))
    assert found is not None
    from contracts.chain import block_number, final_height

    head = block_number(w3)
    facts = {
        **_facts(network),
        "ledger": found.address,
        "token": str(found.token.address),
        "block": head,
        "final_block": final_height(w3, head),
        "endpoints": _endpoints(w3),
        "code": "as compiled",
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for row in facts.pop("endpoints"):
        typer.echo(f"{'endpoint':14} {row['endpoint']}: {row['state']}")
    show({**facts, "rpc": len(facts["rpc"])}, as_json=False)


@network_app.command()
def deploy(
    name: Name,
    directory: Directory,
    terms: Annotated[
        Path, typer.Option(help="TOML file of the terms: wei and blocks, fixed for good (docs/networks.md).")
    ],
    password_file: PasswordFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the new ledger in the place of the profile's.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Deploy token and ledger from the directory's wallet, check their code on chain, and keep their addresses."""
    from contracts.chain import connect
    from contracts.client import Ledger
    from contracts.deploying import describe_terms, read_terms
    from contracts.keystore import keystore_address
    from contracts.wallet import WALLET_FILE, open_wallet

    network = find_network(name)
    if network.ledger is not None and not replace:
        raise UsageError(
            f"network {name} has ledger {network.ledger}",
            hint="add --replace to deploy another, or choose another name",
        )
    values = read_terms(terms)
    w3 = connect(network)
    address = keystore_address(directory / WALLET_FILE)
    plan = [
        f"deploy token and ledger on {name}, chain {network.chain_id}, from wallet {address}, which gets the supply",
        *describe_terms(values),
        "nobody can change these terms afterwards",
    ]
    confirm(plan, yes=yes, dry_run=dry_run, as_json=as_json)
    made = Ledger.deploy(w3, open_wallet(directory, password_file), **values)
    _, found = _examine(network.model_copy(update={"ledger": made.address, "token": None}))
    assert found is not None
    profile = make_profile(
        {**network.model_dump(), "name": name, "ledger": found.address, "token": str(found.token.address)}
    )
    path = write_profiles({**read_profiles(), name: profile})
    show(
        {
            "network": name,
            "chain_id": profile.chain_id,
            "ledger": found.address,
            "token": profile.token,
            "block": made.deployed_block,
            "code": "as compiled",
            "file": str(path),
        },
        as_json,
    )


def _examine(network: Network | Profile) -> "tuple[Chain, Ledger | None]":
    """Connect and compare what is there with what is kept.

    Raises:
        LedgerError: no endpoint is well, it is another chain, or the contracts are not those of this program.
    """
    from contracts.chain import connect
    from contracts.client import Ledger

    w3 = connect(network)
    if network.ledger is None:
        return w3, None
    found = Ledger(w3, network.ledger)
    found.verify()
    token = str(found.token.address)
    if network.token is not None and network.token.lower() != token.lower():
        raise LedgerError(f"the ledger's token is {token}, not {network.token}", hint=f"--token {token}")
    return w3, found


def _endpoints(w3: "Chain") -> list[dict[str, str]]:
    from contracts.endpoints import EndpointsProvider

    provider = w3.provider
    if not isinstance(provider, EndpointsProvider):
        return [{"endpoint": endpoint_name(w3.network.rpc[0]), "state": "well"}]
    return [
        {"endpoint": one.name, "state": "well" if one.admitted else one.reason} for one in provider.endpoints
    ]


def _facts(network: Network) -> dict[str, Any]:
    return {
        "name": network.name,
        "chain_id": network.chain_id,
        "rpc": [endpoint_name(url) for url in network.rpc],
        "ledger": network.ledger,
        "token": network.token,
        "finality": network.final_after,
        "lag_blocks": network.lag_blocks,
        "max_fee_gwei": network.max_fee_gwei,
    }
