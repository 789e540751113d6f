"""`murmur up` refuses what cannot be, with the reason, and leaves nothing behind when it is interrupted."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.economics import Terms
from coordinator.kind import RunKind
from coordinator.plan_cli import manifest_of
from murmur.local import DEADLINES, JURY_TERMS, LEDGER_TERMS, STAKE_WEI, TIERS
from murmur.up import parse_cheats, plan_verdict
from murmur.watching import Progress
from protocol.errors import NetworkError, UsageError
from protocol.manifest import PenaltyConfig


def murmur(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "murmur", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )


def test_none_alone_means_no_cheat() -> None:
    assert parse_cheats(["none"]) == ()
    assert parse_cheats(["garbage", "garbage"]) == ("garbage", "garbage")
    for kinds in (["nonsense"], ["none", "garbage"]):
        with pytest.raises(UsageError, match="no cheat is called"):
            parse_cheats(kinds)


def test_cheats_with_rollouts_belong_to_runs_that_have_some() -> None:
    assert parse_cheats(["reward-liar", "skip-steps"], RunKind.ROLLOUT) == ("reward-liar", "skip-steps")
    with pytest.raises(UsageError, match="'reward-liar' in a run of training"):
        parse_cheats(["reward-liar"])


def test_a_flatterer_needs_a_judge_to_lie_about() -> None:
    assert parse_cheats(["flatterer"], RunKind.ROLLOUT, judged=True) == ("flatterer",)
    with pytest.raises(UsageError, match="the run has no judge") as found:
        parse_cheats(["flatterer"], RunKind.ROLLOUT)
    assert "--judge tuned" in found.value.hint


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--env", "sort"), 2, "only a policy learns in an environment"),
        (("--kind", "rollout", "--env", "chess"), 2, "no preset for environment 'chess'"),
        (("--verifiers", "1"), 2, "judged by two verifiers"),
        (("--cheat", "nonsense"), 2, "no cheat is called 'nonsense'"),
        (("--rounds", "0"), 2, "--rounds"),
        (("--peers", "0"), 2, "--peers"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    arguments: tuple[str, ...], code: int, reason: str, tmp_path: Path
) -> None:
    done = murmur("up", "--dir", str(tmp_path / "net"), *arguments)
    assert done.returncode == code
    assert reason in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("rounds", "said"), [(40, "no attack pays, the best"), (6, "the manifest is refused: ")]
)
def test_the_plan_is_asked_before_a_local_run_and_told(rounds: int, said: str) -> None:
    fields = {"rounds": rounds, "deadlines": DEADLINES}
    terms = Terms(stake_wei=STAKE_WEI, unbonding_blocks=LEDGER_TERMS.unbonding_blocks)
    (line,) = plan_verdict(manifest_of(fields), terms)
    assert said in line
    assert ("a local network runs it" in line) == (rounds == 6)


def test_the_tiers_of_a_local_network_hold() -> None:
    fields = {"rounds": 40, "deadlines": DEADLINES, "tiers": TIERS}
    terms = Terms(stake_wei=STAKE_WEI, unbonding_blocks=LEDGER_TERMS.unbonding_blocks)
    (line,) = plan_verdict(manifest_of(fields), terms)
    assert "no attack pays, the best" in line


def test_the_local_ledger_takes_a_run_with_the_penalties_of_every_manifest() -> None:
    """As `Ledger.createRun` demands: no stake is free before all that it answers for."""
    jury, ledger = JURY_TERMS, LEDGER_TERMS
    case = 2 * (jury.draw_blocks + jury.vote_blocks + jury.reveal_blocks) + jury.appeal_blocks
    needed = ledger.force_blocks + 2 * ledger.timeout_blocks + PenaltyConfig().window + case
    assert needed + ledger.dispute_blocks < ledger.unbonding_blocks


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = murmur("up", "--dir", str(tmp_path))
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = murmur("up", "--dir", str(tmp_path / "net"), "--port", port)
    assert done.returncode == 3
    assert f"port {port} cannot be used" in done.stderr
    assert "choose another --port" in done.stderr


def test_a_chain_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = murmur("up", "--dir", str(tmp_path / "net"), MURMUR_ANVIL=str(tmp_path / "anvil"))
    assert done.returncode == 3
    assert "MURMUR_ANVIL" in done.stderr


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(pid: int) -> set[int]:
    """Return every descendant of a process."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_everything_that_was_started(stop: signal.Signals, tmp_path: Path) -> None:
    directory = tmp_path / "net"
    argv = [sys.executable, "-m", "murmur", "up", "--dir", str(directory), "--json"]
    argv += ["--peers", "1", "--cheat", "none"]
    up = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen: set[int] = set()
    everybody = 5  # chain, coordinator, contributor, two verifiers
    while not (directory / "up.json").exists() or len(seen) < everybody:
        assert up.poll() is None, up.stderr.read() if up.stderr else ""
        seen |= children(up.pid)
        try:
            up.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    up.send_signal(stop)
    out, err = up.communicate()
    assert up.returncode == 130, err
    assert out == ""
    assert str(directory) in err
    assert not [pid for pid in seen if alive(pid)]
    assert json.loads((directory / "up.json").read_text())["chain_id"] == 31337


def test_a_run_in_which_nothing_moves_ends_with_where_it_stood() -> None:
    now = 0.0
    progress = Progress(lambda: now, patience_s=10.0)
    for step in range(5):
        now += 9.0
        progress.note(step)
        progress.check("round 3")
    now += 11.0
    progress.note(4)
    with pytest.raises(NetworkError, match="nothing has moved for 10 s: round 3"):
        progress.check("round 3")
