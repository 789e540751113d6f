"""The commands as typed: what they refuse, and what they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import app, describe_plan, describe_summary, run_app
from coordinator.run import RunPlan
from coordinator.state import CurrentRound
from coordinator.store import Store
from coordinator.summary import summarize
from protocol.errors import ConfigError, MurmurError, NetworkError, UsageError

RUN = "ab" * 32


def _fails(command: Any, *arguments: str) -> MurmurError:
    result = CliRunner().invoke(command, list(arguments))
    assert isinstance(result.exception, MurmurError), result.output
    assert result.stdout == "", "stdout is the result and nothing else"
    return result.exception


def test_show_wants_one_place_to_look(tmp_path: Path) -> None:
    assert isinstance(_fails(run_app, "show"), UsageError)
    assert isinstance(_fails(run_app, "show", "--dir", str(tmp_path), "--api", "http://x"), UsageError)


def test_show_explains_an_empty_directory(tmp_path: Path) -> None:
    error = _fails(run_app, "show", "--dir", str(tmp_path))
    assert isinstance(error, ConfigError)
    assert "coordinator start" in error.hint


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://[", "ftp://x"])
def test_show_explains_an_api_that_is_not_there(url: str) -> None:
    assert isinstance(_fails(run_app, "show", "--api", url), NetworkError)


def test_start_explains_a_directory_without_a_run(tmp_path: Path) -> None:
    arguments = ("start", "--dir", str(tmp_path), "--run", RUN, "--rpc", "http://127.0.0.1:9")
    error = _fails(app, *arguments)
    assert isinstance(error, ConfigError)
    assert "run create" in error.hint
    assert "--api-port" in str(_fails(app, *arguments, "--api-port", "70000"))


def test_start_refuses_another_ledger_than_the_runs(world: Any, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(world.manifest.to_bytes())
    arguments = ("--dir", str(tmp_path), "--run", world.run, "--rpc", "x", "--ledger", "0x" + "99" * 20)
    assert "lives on ledger" in str(_fails(app, "start", *arguments))


def test_stand_in_explains_what_it_needs(world: Any, tmp_path: Path) -> None:
    ledger = ("--ledger", world.manifest.ledger)
    arguments = ("stand-in", "--dir", str(tmp_path), "--run", world.run, "--rpc", "http://127.0.0.1:9")
    assert "--bootstrap" in _fails(app, *arguments, *ledger).hint
    met = (*arguments, "--bootstrap", "/ip4/127.0.0.1/tcp/1")
    error = _fails(app, *met, *ledger)
    assert isinstance(error, ConfigError)
    assert "murmur verifier start" in error.hint
    (tmp_path / "manifest.json").write_bytes(world.manifest.to_bytes())
    assert "lives on ledger" in str(_fails(app, *met, "--ledger", "0x" + "99" * 20))
    assert "--api-port" in str(_fails(app, *met, *ledger, "--api-port", "70000"))


def test_create_explains_an_amount_and_a_file_that_are_none(tmp_path: Path) -> None:
    common = ("create", "--dir", str(tmp_path / "new"), "--rpc", "x", "--ledger", "0x" + "99" * 20)
    assert isinstance(_fails(run_app, *common, "--fund", "much"), UsageError)
    (tmp_path / "fields.json").write_text("[1]")
    fields = ("--manifest", str(tmp_path / "fields.json"))
    assert "not a JSON object" in str(_fails(run_app, *common, "--fund", "1", *fields))
    assert not (tmp_path / "new").exists(), "nothing is made before the words make sense"


def test_the_plan_says_what_it_can_cost_and_who_escapes(world: Any) -> None:
    text = "\n".join(describe_plan(RunPlan(world.manifest, 4, 10**18)))
    assert "cost at most 16.8 tokens with 4 contributors" in text
    assert "drawn with probability 1:" in text
    assert "warning: the pot does not cover" in text


def test_a_summary_is_shown_without_control_characters(folder: Path, world: Any) -> None:
    with Store.open(folder, world.manifest, clock=lambda: 0.0) as store, store.write() as tx:
        tx.peers(world.chain.operators(), {}, ())
        tx.status(phase="commit", round_=0, detail="\x1b[2Jgone", height=1, facts={})
    result = CliRunner().invoke(run_app, ["show", "--dir", str(folder)])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "0 verdicts" in result.stdout
    document = json.loads(CliRunner().invoke(run_app, ["show", "--dir", str(folder), "--json"]).stdout)
    assert document["run"] == world.run
    assert describe_summary(document)[0].startswith("run ")


def test_the_summary_names_each_phase(world: Any) -> None:
    def phase() -> str:
        return summarize(world.state, world.chain).phase

    world.chain.created_at = None
    assert phase() == "created"
    world.chain.created_at = 1
    world.ready((1, 101))
    summary = summarize(world.state, world.chain)
    assert (summary.phase, summary.detail) == (
        "ready",
        "1 of 3 contributors and 1 of 3 verifiers are ready; the run wants 2 verifiers",
    )
    world.ready()
    assert phase() == "commit"
    world.mine()
    world.commit(0, (1,))
    assert summarize(world.state, world.chain).detail == "1 of 3 have committed"
    world.commit(0, (2, 3))
    assert isinstance(world.state.current, CurrentRound)
    assert phase() == "reveal"
    world.reveal(0)
    world.mine()
    world.judge_all(0)
    world.play(1)
    world.commit(2)
    world.reveal(2)
    world.mine()
    assert summarize(world.state, world.chain).detail == "3 drawn units are being judged"
    world.judge_all(2)
    assert phase() == "disputes"
    world.mine(2)
    assert phase() == "settling"
    world.mine(10)
    assert phase() == "finished"


def test_trouble_is_what_the_summary_shows(world: Any) -> None:
    from protocol.chain import PostedRoot

    world.open()
    world.chain.roots[0] = PostedRoot("77" * 32, 3, world.chain.height)
    world.mine()
    assert "is not here" in summarize(world.state, world.chain).detail
