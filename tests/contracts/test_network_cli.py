"""`murmur network`, and `--network` wherever a chain is named, as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.deploying import deploy_terms, describe_terms
from contracts.network_cli import network_app
from contracts.stake_cli import stake_app
from murmur.ports import free_port
from protocol.errors import ConfigError, LedgerError, MurmurError, UsageError
from protocol.networks import NETWORKS_FILE, read_profiles
from tests.contracts.conftest import LocalChain, Network
from tests.contracts.proxy import proxy_of
from tests.contracts.shell import Shell

Type = Callable[..., Any]


@pytest.fixture
def type_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type `murmur network ...` as a user without any settings; return the document, or raise what it raised."""
    monkeypatch.setenv("MURMUR_CONFIG_DIR", str(tmp_path / "config"))

    def run(*words: str) -> Any:
        found = CliRunner().invoke(network_app, [*words, "--json"], catch_exceptions=True)
        if isinstance(found.exception, MurmurError):
            raise found.exception
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    return run


def test_a_network_is_checked_kept_shown_and_forgotten(type_: Type, network: Network, tmp_path: Path) -> None:
    url, ledger = network.chain.url, network.ledger.address
    added = type_("add", "mine", "--rpc", url, "--chain-id", "31337", "--ledger", ledger, "--finality", "4")
    assert added["ledger"] == ledger
    assert Path(added["file"]) == tmp_path / "config" / NETWORKS_FILE
    assert type_("show", "mine")["finality"] == 4
    rows = {row["name"]: row for row in type_("list")}
    assert rows["mine"]["usable"]
    assert not rows["base"]["usable"]
    assert rows["arbitrum-sepolia"]["chain_id"] == 421614
    checked = type_("verify", "mine")
    assert checked["code"] == "as compiled"
    assert checked["token"] == str(network.ledger.token.address)
    assert checked["block"] - checked["final_block"] == min(4, checked["block"])
    with pytest.raises(UsageError, match="there is a network mine already"):
        type_("add", "mine", "--rpc", url, "--chain-id", "31337")
    type_("add", "mine", "--rpc", url, "--chain-id", "31337", "--replace")
    with pytest.raises(UsageError, match="has no ledger"):
        type_("verify", "mine")
    type_("remove", "mine")
    with pytest.raises(ConfigError, match="there is no network 'mine'"):
        type_("show", "mine")
    with pytest.raises(ConfigError, match="is kept"):
        type_("remove", "mine")


def test_what_is_not_so_is_not_kept(type_: Type, network: Network) -> None:
    url = network.chain.url
    token = str(network.ledger.token.address)
    for words, reason in (
        (("mine", "--rpc", url, "--chain-id", "5"), "is chain 31337, not 5"),
        (("sepolia", "--rpc", url), "is chain 31337, not 11155111"),
        (("mine", "--rpc", f"http://127.0.0.1:{free_port()}", "--chain-id", "31337"), "is not there"),
        (("mine", "--rpc", url, "--chain-id", "31337", "--ledger", token), "no ledger of this version"),
        (
            (
                "mine",
                "--rpc",
                url,
                "--chain-id",
                "31337",
                "--ledger",
                network.ledger.address,
                "--token",
                "0x" + "1" * 40,
            ),
            "token is",
        ),
    ):
        with pytest.raises(LedgerError, match=reason):
            type_("add", *words)
    assert read_profiles() == {}
    type_("add", "sepolia", "--rpc", "https://rpc.example/v3/key", "--no-check")
    assert type_("show", "sepolia")["rpc"] == ["https://rpc.example"]
    assert type_("show", "sepolia", "--reveal")["rpc"] == ["https://rpc.example/v3/key"]


def test_verify_names_the_endpoints_that_are_not_well(type_: Type, network: Network) -> None:
    network.chain.mine(10)
    with proxy_of(network.chain.url) as good, proxy_of(network.chain.url) as bad:
        type_(
            *(
                "add",
                "mine",
                "--rpc",
                f"{good.url},{bad.url}",
                "--rpc",
                network.chain.url,
                "--chain-id",
                "31337",
            ),
            *("--ledger", network.ledger.address),
        )
        bad.lie = True
        states = [row["state"] for row in type_("verify", "mine")["endpoints"]]
    assert (states[0], states[2]) == ("well", "well")
    assert "out-voted" in states[1]


def test_a_profile_stands_in_for_rpc_and_ledger_and_flags_win(
    type_: Type, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ledger = shell.network.chain.url, shell.network.ledger.address
    type_("add", "mine", "--rpc", url, "--chain-id", "31337", "--ledger", ledger)

    def status(*words: str) -> Any:
        found = CliRunner().invoke(stake_app, ["status", "--dir", str(shell.home), "--json", *words])
        if isinstance(found.exception, MurmurError):
            raise found.exception
        return json.loads(found.stdout) if found.exit_code == 0 else found.exit_code

    assert status("--network", "mine")["wallet"] == shell.wallet
    assert status() == 2
    monkeypatch.setenv("MURMUR_NETWORK", "mine")
    assert status()["wallet"] == shell.wallet
    with pytest.raises(LedgerError, match="no ledger of this version"):
        status("--ledger", str(shell.network.ledger.token.address))
    with pytest.raises(LedgerError, match="is not there"):
        status("--rpc", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match="there is no network 'other'"):
        status("--network", "other")
    # URLs of another chain than the profile's are refused, whoever names them.
    with proxy_of(url) as proxy:
        proxy.chain_id = 5
        with pytest.raises(LedgerError, match="is chain 5, not 31337"):
            status("--rpc", proxy.url)


def terms_file(path: Path, **changes: int) -> Path:
    def amount(name: str) -> int:
        return changes.get(name, {"supply": 10**24, "seats": 3, "case_bond": 120}.get(name, 10))

    lines, tables = [], []
    for name, kind in deploy_terms().items():
        if kind is int:
            lines.append(f"{name} = {amount(name)}")
        else:
            tables += [f"[{name}]", *(f"{field} = {amount(field)}" for field in kind.__dataclass_fields__)]
    path.write_text("\n".join([*lines, *tables]) + "\n")
    return path


def test_a_deployment_is_checked_on_chain_and_kept(type_: Type, shell: Shell, tmp_path: Path) -> None:
    terms = terms_file(tmp_path / "terms.toml")
    type_("add", "mine", "--rpc", shell.network.chain.url, "--chain-id", "31337")
    words = ("deploy", "mine", "--dir", str(shell.home), "--terms", str(terms))
    plan = type_(*words, "--dry-run")["plan"]
    assert shell.wallet in plan[0]
    assert any(f"supply = {10**24}" == line for line in plan)
    assert read_profiles()["mine"].ledger is None
    with pytest.raises(UsageError, match="no terminal"):
        type_(*words)
    told = type_(*words, "--yes")
    kept = read_profiles()["mine"]
    assert (kept.ledger, kept.token) == (told["ledger"], told["token"])
    assert type_("verify", "mine")["code"] == "as compiled"
    with pytest.raises(UsageError, match="has ledger"):
        type_(*words, "--yes")
    assert type_(*words, "--yes", "--replace")["ledger"] != told["ledger"]


def test_terms_that_are_incomplete_or_no_amounts_deploy_nothing(
    type_: Type, chain: LocalChain, shell: Shell, tmp_path: Path
) -> None:
    type_("add", "mine", "--rpc", chain.url, "--chain-id", "31337")
    terms = terms_file(tmp_path / "terms.toml")
    good = terms.read_text()
    before = chain.w3.eth.get_transaction_count(shell.wallet)
    for text, reason in (
        (good.replace("supply", "suply"), "lacks supply and has unknown suply"),
        (good.replace("min_stake = 10", "min_stake = -1"), "min_stake is not a whole number"),
        (good.replace("min_stake = 10", "min_stake = true"), "min_stake is not a whole number"),
        (good.replace("min_stake = 10", "min_stake = 1.5"), "min_stake is not a whole number"),
        ("[", "is not TOML"),
        ("#" * 70_000, "more than"),
    ):
        terms.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            type_("deploy", "mine", "--dir", str(shell.home), "--terms", str(terms), "--yes")
    assert chain.w3.eth.get_transaction_count(shell.wallet) == before
    assert describe_terms({"supply": 3}) == ["supply = 3"]


def test_a_wallet_is_needed_to_deploy(type_: Type, chain: LocalChain, tmp_path: Path) -> None:
    type_("add", "mine", "--rpc", chain.url, "--chain-id", "31337")
    terms = terms_file(tmp_path / "terms.toml")
    with pytest.raises(ConfigError):
        type_("deploy", "mine", "--dir", str(tmp_path / "none"), "--terms", str(terms), "--yes")
