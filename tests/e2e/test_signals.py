"""A whole network in which peers judge samples and a person compares them, and the policy learns from both."""

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator.queries import Reader
from coordinator.tables import database_url, open_engine
from protocol.blobs import BlobStore
from protocol.daemon import MANIFEST_FILE
from protocol.judging import Judgment
from protocol.keys import PeerKey, save_peer_key
from protocol.manifest import RunManifest
from protocol.published import max_published_bytes, read_judgments
from protocol.rollouts import rollouts_of
from tests.e2e.test_up import finish, murmur, read_status, start_up, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 8


def longer(pair: dict[str, Any]) -> str:
    """Prefer the sample whose policy says more: a taste that no environment has."""
    sizes = {
        side: sum(len(part["text"]) for part in pair[side]["parts"] if part["player"] is not None)
        for side in ("left", "right")
    }
    return "left" if sizes["left"] >= sizes["right"] else "right"


def compare(api: str, key: Path, up: "subprocess.Popen[str]") -> int:
    """Compare samples as a script does, until the run is over; return how often the coordinator agreed."""
    command = [sys.executable, "-m", "murmur", "run", "prefer", "--api", api, "--key", str(key)]
    accepted = 0
    with subprocess.Popen(
        [*command, "--wait", "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as person:
        assert person.stdin is not None
        assert person.stdout is not None
        for line in person.stdout:
            told = json.loads(line)
            if "pair" in told:
                person.stdin.write(longer(told["pair"]) + "\n")
                person.stdin.flush()
            else:
                accepted += told["accepted"]
            if accepted >= 40 or up.poll() is not None:
                break
        person.kill()
    return accepted


def judgments_in(
    unit: dict[str, Any], manifest: RunManifest, blobs: BlobStore, limit: int
) -> tuple[Judgment, ...]:
    return read_judgments(manifest, blobs.get(unit["blob"], max_size=limit)) if unit["merged"] else ()


def test_what_judges_and_a_person_say_is_carried_learned_from_and_audited(tmp_path: Path) -> None:
    directory, key, person = tmp_path / "net", tmp_path / "peer.key", PeerKey(secrets.token_bytes(32))
    save_peer_key(key, person)
    up = start_up(
        directory,
        *("--kind", "rollout", "--env", "sort", "--peers", "2", "--cheat", "none"),
        *("--judge", "tuned", "--people", person.address, "--people-weight", "0.2"),
        rounds=ROUNDS,
    )
    wait_until(lambda: bool(read_status(directory / "coordinator").get("api_port")), up)
    accepted = compare(read_status(directory / "coordinator")["api"], key, up)
    document = finish(up, directory)
    assert document["audit"]["ok"]
    assert document["lag"] == {"mean": 4.0, "max": 4}
    rounds = sorted((directory / "coordinator" / "public" / "rounds").iterdir())
    records = [json.loads(path.read_text())["record"]["body"] for path in rounds]
    carried = [one for record in records for one in record["preferences"]]
    assert 0 < len(carried) <= accepted
    manifest = RunManifest.read(directory / "coordinator" / MANIFEST_FILE)
    limit, groups = max_published_bytes(manifest), rollouts_of(manifest).sampling.groups
    blobs = BlobStore(directory / "coordinator" / "public" / "blobs")
    said = [[len(judgments_in(one, manifest, blobs, limit)) for one in record["units"]] for record in records]
    assert all(count == groups for units in said[1:] for count in units), "of two peers each judges the other"
    assert not any(said[0])
    reader = Reader(open_engine(database_url(directory / "coordinator"), writer=False))
    judged = [unit["components"]["judged"] for unit in reader.rollouts(0)["units"]]
    assert min(judged) > 0, "the page tells what judges said a round later"
    again = murmur(
        *("audit", "run", document["run_id"], "--dir", str(directory), "--replay", "sampled", "--json")
    )
    assert again.returncode == 0, again.stdout + again.stderr
    checks = {one["name"]: one for one in json.loads(again.stdout)["checks"]}
    assert checks["preferences"]["detail"] == f"{len(carried)} signed preferences"
