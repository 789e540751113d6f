"""Profiles of networks: what may stand in one, who may read them, and what a message shows of them."""

from pathlib import Path

import pytest

from protocol.errors import ConfigError, UsageError
from protocol.networks import (
    NETWORKS_FILE,
    TEMPLATES,
    Network,
    Profile,
    config_directory,
    endpoint_name,
    find_network,
    make_profile,
    parse_finality,
    read_profiles,
    write_profiles,
)

LEDGER = "0x" + "ab" * 20


def profile(name: str = "test-net", **more: object) -> Profile:
    return make_profile(
        {"name": name, "rpc": ["https://a.example/v2/key", "http://[::1]:8545"], "chain_id": 7, **more}
    )


def test_profiles_survive_the_file_as_they_were_and_only_their_owner_reads_it(tmp_path: Path) -> None:
    kept = {
        "test-net": profile(ledger=LEDGER, finality="safe", max_fee_gwei=9),
        "sepolia": make_profile({"name": "sepolia", "rpc": ["https://b.example/?k=%22x%22&q='\\"]}),
        "other": profile("other", finality=12, lag_blocks=3),
    }
    path = write_profiles(kept, tmp_path / "config")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_profiles(tmp_path / "config") == kept
    assert [one.name for one in path.parent.iterdir()] == [NETWORKS_FILE]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others") as refused:
        read_profiles(tmp_path / "config")
    assert refused.value.hint == f"chmod 600 {path}"


def test_there_are_no_profiles_before_the_first(tmp_path: Path) -> None:
    assert read_profiles(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a]\nrpc = ['http://x']\nchain_id = 1\ncolour = 3", "colour"),
        ("[a]\nrpc = []\nchain_id = 1", "rpc"),
        ("[a]\nrpc = ['http://x']", "chain_id"),
        ("[a]\nrpc = ['ftp://x']\nchain_id = 1", "begins with http"),
        ("[a]\nrpc = ['http://x']\nchain_id = 0", "chain_id"),
        ("[a]\nrpc = ['http://x']\nchain_id = 1\nledger = '0x12'", "ledger"),
        ("[a]\nrpc = ['http://x']\nchain_id = 1\nfinality = 'soon'", "finality"),
        ("['A B']\nrpc = ['http://x']\nchain_id = 1", "name"),
        ("a = 1", "damaged"),
        ("[a", "damaged"),
        ("\xff", "damaged"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_the_place(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / NETWORKS_FILE
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=reason) as refused:
        read_profiles(tmp_path)
    assert str(path) in refused.value.message + refused.value.hint


def test_templates_hold_the_ids_of_their_chains() -> None:
    assert {name: one.chain_id for name, one in TEMPLATES.items()} == {
        "local": 31337,
        "sepolia": 11155111,
        "base": 8453,
        "base-sepolia": 84532,
        "arbitrum": 42161,
        "arbitrum-sepolia": 421614,
    }
    found = make_profile({"name": "base", "rpc": ["https://x.example"], "finality": 40})
    assert (found.chain_id, found.lag_blocks, found.finality) == (8453, 30, 40)
    with pytest.raises(UsageError, match="base is chain 8453, not 1"):
        make_profile({"name": "base", "rpc": ["https://x.example"], "chain_id": 1})


def test_what_is_missing_is_named_by_its_option() -> None:
    with pytest.raises(UsageError, match="--chain-id"):
        make_profile({"name": "mine", "rpc": ["https://x.example"]})
    with pytest.raises(UsageError, match="--rpc"):
        make_profile({"name": "mine", "chain_id": 4})
    with pytest.raises(UsageError, match="NAME"):
        make_profile({"name": "My Net", "rpc": ["https://x.example"], "chain_id": 4})


def test_a_network_is_found_by_name_or_the_way_to_it_is_shown(tmp_path: Path) -> None:
    write_profiles({"test-net": profile()}, tmp_path)
    assert find_network("test-net", tmp_path).chain_id == 7
    assert find_network("local", tmp_path).rpc == ("http://127.0.0.1:8545",)
    with pytest.raises(ConfigError, match="where network sepolia answers") as refused:
        find_network("sepolia", tmp_path)
    assert refused.value.hint == "murmur network add sepolia --rpc URL"
    with pytest.raises(ConfigError, match="there are: local, test-net"):
        find_network("mainnet", tmp_path)


def test_settings_lie_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR_CONFIG_DIR", str(tmp_path / "m"))
    assert config_directory() == tmp_path / "m"
    monkeypatch.delenv("MURMUR_CONFIG_DIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_directory() == tmp_path / "murmur"


def test_names_of_endpoints_hold_no_secret() -> None:
    assert endpoint_name("https://user:secret@host.example:9/v3/key?x=key#key") == "https://host.example:9"
    assert endpoint_name("http://[::1]:8545/key") == "http://[::1]:8545"
    assert str(profile()) == "test-net"
    assert (
        str(Network.of("https://a.example/key, https://b.example/key"))
        == "https://a.example, https://b.example"
    )


def test_many_urls_are_one_network_up_to_a_bound() -> None:
    assert Network.of(" http://a , http://b,").rpc == ("http://a", "http://b")
    with pytest.raises(UsageError, match="at most 16"):
        Network.of(",".join(f"http://h{i}" for i in range(17)))


def test_finality_is_a_tag_or_a_number_of_blocks() -> None:
    assert [parse_finality(text) for text in ("finalized", "safe", "0", "12")] == ["finalized", "safe", 0, 12]
    for text in ("latest", "-1", "1.5", "999999", "٣"):
        with pytest.raises(UsageError, match="--finality"):
            parse_finality(text)
    assert Network(chain_id=31337).final_after == 16
    assert Network(chain_id=1).final_after == Network().final_after == "finalized"
