"""The node's commands refuse what makes no sense before anything heavy starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node.cli import app
from protocol.errors import ConfigError

START = ["start", "--dir", "somewhere", "--run", "ab" * 32, "--rpc", "http://127.0.0.1:1"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--ledger", "0x" + "11" * 20, "--cheat", "nap"], "cheat"),
        (["--ledger", "0x11"], "ledger"),
        (["--ledger", "0x" + "11" * 20, "--run", "short"], "run"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], names: str) -> None:
    with pytest.raises(ConfigError, match=f"--{names}"):
        run(*START, *arguments)


def test_status_prints_one_json_document(tmp_path: Path) -> None:
    status = {"round": 3, "error": None}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert json.loads(run("status", "--dir", str(tmp_path), "--json")) == status


def test_status_without_a_node_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run("status", "--dir", str(tmp_path))
