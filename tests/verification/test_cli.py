from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from protocol.errors import ConfigError, LedgerError, UsageError
from tests.verification.testbed import Testbed, key
from verification.audit_cli import audit_app
from verification.cli import verifier_app
from verification.proof_cli import proof_app
from verification.sources import Sources

runner = CliRunner()


@pytest.fixture
def network(played: Testbed, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory like that of a local network; its chain is the simulated one."""
    directory = tmp_path / "network"
    (directory / "coordinator").mkdir(parents=True)
    folder.rename(directory / "coordinator" / "public")
    (directory / "verifier-1").mkdir()
    (directory / "verifier-1" / "blobs").symlink_to(played.states.root)
    (directory / "chain").mkdir()
    (directory / "chain" / "state.json").write_text("{}")
    (directory / "up.json").write_text(json.dumps({"names": {"peer-1": 1, "peer-2": 2}}))

    @contextmanager
    def chain(self: Sources, manifest: object, run: str, rpc: str | None) -> Iterator[object]:
        yield played.chain

    monkeypatch.setattr(Sources, "chain", chain)
    return directory


def invoke(app: Any, *arguments: object) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments])


def export(network: Path, peer: str = "peer-1", round_: int = 1) -> Path:
    out = network / f"{peer}.murmur"
    result = invoke(
        proof_app, "export", "--dir", network, "--round", round_, "--peer", peer, "-o", out, "--json"
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["file"], told["round"], told["bytes"]) == (str(out), round_, out.stat().st_size)
    return out


@pytest.mark.parametrize("peer", ["peer-2", "2", key(2).peer_id, key(2).address.lower()])
def test_a_peer_is_found_by_name_number_peer_id_and_address(network: Path, peer: str) -> None:
    export(network, peer, 0)


def test_an_exported_bundle_is_decided_by_what_it_is_given(
    network: Path, played: Testbed, corpus: Path
) -> None:
    bundle, root = export(network), played.chain.posted[1].root
    verify = (proof_app, "verify", bundle, "--data", corpus)
    assert invoke(*verify).exit_code == 7
    assert invoke(*verify, "--root", "0x" + "ab" * 32).exit_code == 7
    result = invoke(*verify, "--root", "0x" + root)
    assert result.exit_code == 0
    for said in (root, played.manifest.ledger, played.run, "31337", "not anchored", "the bundle   holds"):
        assert said in result.stdout
    told = json.loads(invoke(*verify, "--root", root, "--json").stdout)
    assert (told["exit_code"], told["verdict"], told["unit"]) == (0, "holds", "passed")
    bundle.write_bytes(bundle.read_bytes()[:-1])
    assert invoke(*verify, "--root", root).exit_code == 6


def test_a_bundle_is_explained_in_words_and_in_data(network: Path, played: Testbed, corpus: Path) -> None:
    bundle, root = export(network), played.chain.posted[1].root
    result = invoke(proof_app, "explain", bundle, "--data", corpus, "--root", root)
    assert result.exit_code == 0
    for title in ("What was promised", "How it was drawn", "What the verifiers said", "The answer"):
        assert title in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    told = json.loads(invoke(proof_app, "explain", bundle, "--data", corpus, "--json").stdout)
    assert (told["exit_code"], told["anchor"]["source"]) == (7, None)
    bundle.write_bytes(b"bundle")
    assert invoke(proof_app, "explain", bundle).exit_code == 6


def test_an_audit_writes_anchors_that_decide_bundles(network: Path, played: Testbed, corpus: Path) -> None:
    anchors = network / "anchors.json"
    result = invoke(
        audit_app, "run", played.run, "--dir", network, "--replay", "first", "--data", corpus,
        "--anchors-out", anchors, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["ok"]
    assert [check["name"] for check in told["checks"]][-1] == "replays"
    cheat = export(network, "peer-2", 0)
    decided = invoke(proof_app, "verify", cheat, "--data", corpus, "--anchor", anchors, "--json")
    assert decided.exit_code == 0
    assert json.loads(decided.stdout)["unit"] == "false"


def test_an_audit_names_the_check_that_fails(network: Path, played: Testbed) -> None:
    path = network / "coordinator" / "public" / "rounds" / "000001.json"
    path.write_bytes(path.read_bytes().replace(b'"merged":true', b'"merged":false', 1))
    result = invoke(audit_app, "run", played.run, "--dir", network)
    assert result.exit_code == 6
    assert "FALSE" in result.stdout
    path.unlink()
    assert invoke(audit_app, "run", played.run, "--dir", network).exit_code == 7
    other = invoke(audit_app, "run", "ab" * 32, "--dir", network)
    assert other.exit_code != 0


def test_an_audit_that_executes_nothing_again_is_undecided(network: Path, played: Testbed) -> None:
    result = invoke(audit_app, "run", played.run, "--dir", network)
    assert result.exit_code == 7
    assert "--replay" in result.stdout


def test_an_audit_takes_a_directory_or_a_bundle_as_well(
    network: Path, played: Testbed, corpus: Path, tmp_path: Path
) -> None:
    options = ("--replay", "all", "--data", corpus, "--json")
    whole = invoke(audit_app, "run", network, *options)
    assert (whole.exit_code, json.loads(whole.stdout)["run"]) == (0, played.run)
    part = json.loads(invoke(audit_app, "run", network, "--rounds", "1:2", *options).stdout)
    assert (part["exit_code"], part["rounds"], part["only_rounds"]) == (0, 1, [1, 2])
    assert part["left_out"] == ["reward tables", "reward roots", "pending root", "disputed roots", "claims"]
    anchors = tmp_path / "anchors.json"
    invoke(audit_app, "run", network, "--anchors-out", anchors)
    bundle = export(network)
    decided = invoke(audit_app, "run", bundle, "--anchor", anchors, *options)
    assert (decided.exit_code, json.loads(decided.stdout)["unit"]) == (0, "passed")
    believed = invoke(audit_app, "run", bundle, "--anchor", anchors)
    assert (believed.exit_code, "only believed" in believed.stdout) == (7, True)
    assert invoke(audit_app, "run", bundle, "--replay", "all", "--data", corpus).exit_code == 7


def test_without_a_chain_nothing_is_decided(network: Path, played: Testbed) -> None:
    (network / "chain" / "state.json").unlink()
    result = invoke(audit_app, "run", network, "--replay", "first")
    assert result.exit_code == 7
    assert "no --rpc was given" in result.stdout
    nothing = invoke(audit_app, "run", network, "--anchors-out", network / "anchors.json")
    assert isinstance(nothing.exception, LedgerError)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ab" * 32,),
        ("somewhere", "--dir", "elsewhere"),
        ("somewhere", "--rounds", "3"),
        ("somewhere", "--rounds", "3:3"),
        ("somewhere", "--anchor", "x"),
    ],
)
def test_audits_that_make_no_sense(arguments: tuple[str, ...]) -> None:
    assert isinstance(invoke(audit_app, "run", *arguments).exception, UsageError)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--root", "ab" * 32, "--anchor", "x"), UsageError),
        (("--root", "short"), UsageError),
        (("--ledger", "0x" + "11" * 20), UsageError),
        (("--anchor", "nothing-here.json"), ConfigError),
    ],
)
def test_anchors_that_make_no_sense(
    network: Path, arguments: tuple[str, ...], error: type[Exception]
) -> None:
    result = invoke(proof_app, "verify", export(network), *arguments)
    assert isinstance(result.exception, error)


def test_what_is_not_there_is_named(network: Path, tmp_path: Path) -> None:
    nobody = invoke(proof_app, "export", "--dir", network, "--round", 0, "--peer", "anna", "-o", "x")
    assert isinstance(nobody.exception, ConfigError)
    assert "peer-1" in nobody.exception.hint
    nothing = invoke(audit_app, "run", "ab" * 32, "--dir", tmp_path / "nothing")
    assert isinstance(nothing.exception, ConfigError)


def test_without_rpc_or_state_there_is_no_chain(played: Testbed, tmp_path: Path) -> None:
    sources = Sources(tmp_path, played.archive.root)
    with pytest.raises(LedgerError), sources.chain(played.manifest, played.run, None):
        pass


def test_a_verifier_s_settings_are_checked_before_anything_starts(tmp_path: Path) -> None:
    result = invoke(
        verifier_app, "start", "--dir", tmp_path, "--run", "short", "--rpc", "http://127.0.0.1:1",
        "--ledger", "0x" + "11" * 20,
    )  # fmt: skip
    assert isinstance(result.exception, ConfigError)
    assert result.exception.message.startswith("--run")


OFFLINE = """
import socket, sys
def refuse(*arguments, **options):
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.create_connection = refuse
from murmur.cli import main
sys.argv = ["murmur", *sys.argv[1:]]
main()
"""


def offline(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that has no network: in a namespace without interfaces where the system allows it."""
    alone = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        allowed = False
    command = [*(alone if allowed else []), sys.executable, "-c", OFFLINE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_bundle_made_elsewhere_is_decided_without_a_network(
    network: Path, played: Testbed, corpus: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "carried"
    bundle.write_bytes(export(network, "peer-2", 0).read_bytes())
    root = played.chain.posted[0].root
    done = offline("proof", "verify", bundle, "--data", corpus, "--root", root, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["verdict"], told["unit"], told["replayed"]) == ("holds", "false", "proven false")
