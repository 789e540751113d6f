"""The whole network on this machine, with real processes, as a newcomer starts it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from murmur.keys_cli import keys_app
from protocol.canonical import canonical_json, digest
from protocol.errors import ConfigError
from protocol.messages import parse_message

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 4


CENSORING = str(Path(__file__).with_name("censoring.py"))


def start_up(
    directory: Path, *options: str, rounds: int = ROUNDS, program: tuple[str, ...] = ("-m", "murmur")
) -> "subprocess.Popen[str]":
    """Start `murmur up` for a few rounds with its document on stdout and its progress in a file."""
    argv = [
        sys.executable,
        *program,
        "up",
        "--rounds",
        str(rounds),
        "--dir",
        str(directory),
        "--json",
        *options,
    ]
    with directory.with_suffix(".log").open("w") as progress:
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=progress, text=True)


def finish(up: "subprocess.Popen[str]", directory: Path) -> dict[str, Any]:
    """Wait for the end and return the document; a failure shows what the run said."""
    out, _ = up.communicate()
    said = directory.with_suffix(".log").read_text()
    assert up.returncode == 0, f"exit {up.returncode}\n{said[-6000:]}\n{out[-4000:]}"
    document: dict[str, Any] = json.loads(out)
    return document


def murmur(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "murmur", *arguments], capture_output=True, text=True, check=False
    )


def wait_until(condition: Callable[[], bool], up: "subprocess.Popen[str]") -> None:
    """Look until a condition holds; the run must not end before."""
    while not condition():
        try:
            up.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail("the run ended too early")


def read_status(home: Path) -> dict[str, Any]:
    """Return a daemon's status file, empty while there is none."""
    try:
        found: dict[str, Any] = json.loads((home / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def check_money(document: dict[str, Any]) -> None:
    """Check what must hold of every run: nothing is paid that was not funded, and the books agree."""
    ledger = document["ledger"]
    paid = sum(int(one["claimed_wei"]) for one in document["peers"] + document["verifiers"])
    assert paid == int(ledger["paid_wei"]) <= int(ledger["funded_wei"])
    assert int(ledger["slashed_wei"]) == sum(int(peer["slashed_wei"]) for peer in document["peers"])


def accuse_an_honest_unit(up: "subprocess.Popen[str]", directory: Path) -> None:
    """Accuse peer-1 of its first unit, as peer-2 with its own wallet, while the run goes on."""
    log, first = (
        directory.with_suffix(".log"),
        directory / "coordinator" / "public" / "rounds" / "000000.json",
    )
    wait_until(lambda: first.exists() and json.loads(first.read_text())["record"] is not None, up)
    facts = json.loads((directory / "up.json").read_text())
    (rpc,) = (line.split()[1] for line in log.read_text().splitlines() if line.startswith("chain: "))
    home = directory / "peer-2"
    place = ("--dir", str(home), "--rpc", rpc, "--ledger", facts["ledger"])
    unit = ("--round", "0", "--number", str(facts["names"]["peer-1"]), "--segment", "1")
    key = ("--password-file", str(home / "wallet.password"))
    said = [murmur("dispute", "accuse", facts["run"], *unit, *place, *key, "--yes", "--json")]

    def answered() -> bool:
        if "is not anchored" in said[-1].stderr:  # the record is public a few blocks before
            said.append(murmur("dispute", "accuse", facts["run"], *unit, *place, *key, "--yes", "--json"))
        return "is not anchored" not in said[-1].stderr

    wait_until(answered, up)
    assert said[-1].returncode == 0, said[-1].stderr
    assert json.loads(said[-1].stdout)["kind"] == "accusation"


def cases_judged(directory: Path) -> list[tuple[int, int, str]]:
    """Return (round, number, outcome) of every case that a record or the closing word declares."""
    public = directory / "coordinator" / "public"
    records = [json.loads(path.read_text())["record"] for path in sorted((public / "rounds").iterdir())]
    said = [*records, json.loads((public / "settlement.json").read_text())["finish"]]
    judged = [one for message in said for one in message["body"]["judged"]]
    return [(one["round"], one["number"], one["outcome"]) for one in judged if one["case"]]


def test_a_run_trains_catches_four_kinds_of_cheats_pays_and_can_be_audited_again(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    kinds = ("skip-steps", "wrong-data", "copycat", "garbage")
    cheats = [word for kind in kinds for word in ("--cheat", kind)]
    rounds = 3  # a copycat has something to copy from the second on
    up = start_up(directory, "--peers", "3", *cheats, rounds=rounds)
    accuse_an_honest_unit(up, directory)
    document = finish(up, directory)
    honest = [peer for peer in document["peers"] if peer["honest"]]
    assert len(honest) == 3
    assert all(int(peer["claimed_wei"]) > 0 and peer["slashed_wei"] == "0" for peer in honest)
    found = {peer["cheat"]: peer for peer in document["peers"] if not peer["honest"]}
    assert set(found) == set(kinds)
    for kind in ("skip-steps", "wrong-data", "copycat"):
        assert found[kind]["units"]["rejected"] >= 1
        assert int(found[kind]["slashed_wei"]) > 0
        assert found[kind]["stake_wei"] == "0"
    assert found["garbage"]["credited_wei"] == "0"
    assert found["garbage"]["units"]["committed"] == 0
    assert sum(found["garbage"]["refused"].values()) > 0
    assert document["loss"]["last"] < document["loss"]["first"] - 0.5
    assert len(document["loss"]["curve"]) == rounds + 1
    assert document["verification"]["false_rejections"] == 0
    assert document["wire"]["dense_ratio"] > 8  # few bits a parameter: the run is short
    assert document["audit"]["ok"]
    assert document["not_demonstrated"] == []
    check_money(document)
    accused = next(peer for peer in document["peers"] if peer["name"] == "peer-1")
    ruled = cases_judged(directory)
    assert (0, accused["number"], "passed") in ruled
    guilty = {found[kind]["number"] for kind in ("skip-steps", "wrong-data", "copycat")}
    assert {number for _, number, outcome in ruled if outcome == "false"} == guilty

    again = murmur(
        "audit", "run", document["run_id"], "--dir", str(directory), "--replay", "sampled", "--json"
    )
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["ok"]
    (received,) = (check for check in report["checks"] if check["name"] == "witnesses")
    assert received["count"] > 0, "receipts decided what merged"

    anchors = tmp_path / "anchors.json"
    written = murmur(
        "audit", "run", document["run_id"], "--dir", str(directory), "--anchors-out", str(anchors)
    )
    assert written.returncode == 7, "nothing was executed again: " + written.stderr
    bundle = tmp_path / "proof.murmur"
    export = (
        "proof",
        "export",
        "--dir",
        str(directory),
        "--round",
        "0",
        "--peer",
        found["skip-steps"]["name"],
        "-o",
        str(bundle),
    )
    exported = murmur(*export)
    assert exported.returncode == 0, exported.stderr
    proven = murmur("proof", "verify", str(bundle), "--anchor", str(anchors))
    assert proven.returncode == 0, proven.stdout + proven.stderr
    assert murmur("proof", "verify", str(bundle)).returncode == 7

    def why(name: str) -> dict[str, Any]:
        told = murmur("rewards", "why", "--round", "0", "--from", str(directory), "--peer", name, "--json")
        assert told.returncode == 0, told.stdout + told.stderr
        document: dict[str, Any] = json.loads(told.stdout)
        return document

    paid, cheated = why("peer-1"), why(found["skip-steps"]["name"])
    assert int(paid["paid"]["amount_wei"]) > 0
    assert paid["root"] is not None
    assert (cheated["epoch_wei"], cheated["cases"][0]["outcome"]) == ("0", "false")
    listed = murmur("rewards", "export", "--csv", "-", "--from", str(directory), "--peer", "peer-1")
    assert len(listed.stdout.splitlines()) == 1 + rounds, listed.stderr
    check_checkpoints(directory, rounds)


def check_checkpoints(directory: Path, rounds: int) -> None:
    """Check that every round's parameters were kept, whole, and that the last ones speak and can be taken along."""
    listed = murmur("run", "checkpoints", "--dir", str(directory), "--json")
    assert listed.returncode == 0, listed.stderr
    kept = json.loads(listed.stdout)["checkpoints"]
    assert [one["round"] for one in kept] == list(range(rounds + 1))
    for one in kept:
        file = directory / "coordinator" / "checkpoints" / f"{one['round']:07d}-{one['root']}.safetensors"
        assert digest(file.read_bytes()) == one["root"]
    assert kept[-1]["root"] in (directory / "coordinator" / "public" / "settlement.json").read_text()
    spoken = murmur("run", "sample", "--dir", str(directory), "--tokens", "50", "--json")
    assert spoken.returncode == 0, spoken.stderr
    assert json.loads(spoken.stdout)["tokens"] == 50
    exported = murmur("run", "export", "--dir", str(directory), "--out", str(directory / "model"))
    assert exported.returncode == 0, exported.stderr
    assert kept[-1]["root"] in (directory / "model" / "README.md").read_text()


def rotate(up: "subprocess.Popen[str]", directory: Path, name: str) -> str:
    """Kill a node and give its number another key, as its owner types it, before it is up again; return the key."""
    home, log = directory / name, directory.with_suffix(".log")
    ledger = json.loads((directory / "up.json").read_text())["ledger"]
    (rpc,) = (line.split()[1] for line in log.read_text().splitlines() if line.startswith("chain: "))
    typed = ["rotate", "--dir", str(home), "--rpc", rpc, "--ledger", ledger, "--yes", "--json"]
    answers = []

    def answered() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(read_status(home)["pid"]), signal.SIGKILL)
        answers.append(CliRunner().invoke(keys_app, typed))
        error = answers[-1].exception
        return not (isinstance(error, ConfigError) and "another process" in error.message)

    wait_until(answered, up)
    assert answers[-1].exception is None, answers[-1].exception
    return str(json.loads(answers[-1].stdout)["peer"])


def authors(directory: Path, kind: str, number: int) -> dict[int, str]:
    """Return who signed what a number said of each round, by the public folder."""
    found = {}
    for path in sorted((directory / "coordinator" / "public" / "rounds").iterdir()):
        for wire in json.loads(path.read_text())[kind]:
            if wire["body"]["number"] == number:
                found[int(wire["round"])] = parse_message(canonical_json(wire)).author
    return found


def test_a_run_survives_the_death_of_a_contributor_with_its_key_and_of_a_coordinator_that_leaves_somebody_out(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "net"
    up = start_up(directory, "--peers", "2", program=(CENSORING,))

    def reached(name: str, round_: int) -> bool:
        return int(read_status(directory / name).get("round", 0)) >= round_

    def has_committed(name: str) -> bool:
        return read_status(directory / name).get("phase") in ("committed", "revealed")

    wait_until(lambda: reached("peer-2", 1) and has_committed("peer-2"), up)
    renewed = rotate(up, directory, "peer-2")
    wait_until(lambda: reached("coordinator", 2), up)
    os.kill(int(read_status(directory / "coordinator")["pid"]), signal.SIGKILL)
    document = finish(up, directory)
    said = directory.with_suffix(".log").read_text()
    assert "peer-2 died" in said
    assert "coordinator died" in said
    assert document["rounds"] == ROUNDS
    number = next(peer["number"] for peer in document["peers"] if peer["name"] == "peer-2")
    committed, opened = (authors(directory, kind, number) for kind in ("commitments", "openings"))
    assert renewed in committed.values(), "it goes on under its new key"
    before = {round_ for round_, author in committed.items() if author != renewed}
    assert any(opened.get(round_) == renewed for round_ in before), (
        "which opens what the old one committed to"
    )
    assert all(peer["slashed_wei"] == "0" for peer in document["peers"] if peer["honest"])
    check_money(document)
    assert document["audit"]["ok"]
    check_forced_in(document, directory)
    check_checkpoints(directory, ROUNDS)


def check_forced_in(document: dict[str, Any], directory: Path) -> None:
    """Check that whom the list of the first round left out forced itself in, and what became of its unit."""
    first = json.loads((directory / "coordinator" / "public" / "rounds" / "000000.json").read_text())
    listed = {entry["number"] for entry in first["listed"]["body"]["entries"]}
    (unit,) = (unit for unit in first["record"]["body"]["units"] if unit["number"] not in listed)
    assert unit["merged"]
    (peer,) = (peer for peer in document["peers"] if peer["number"] == unit["number"])
    assert peer["honest"]
    told = murmur(
        "rewards", "why", "--round", "0", "--from", str(directory), "--peer", peer["name"], "--json"
    )
    assert told.returncode == 0, told.stdout + told.stderr
    why = json.loads(told.stdout)
    assert why["forced"]
    assert why["sampled"]
    assert [case["outcome"] for case in why["cases"]] == ["passed"]
    assert int(why["round_wei"]) > 0
    assert int(why["paid"]["amount_wei"]) > 0
    log = (directory / peer["name"] / "log.txt").read_text()
    assert "left out by the list" in log
    assert "round 0: forced in, block" in log
