"""Checkpoints as a person meets them: listed, sampled, exported and read back, from a directory and over the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from coordinator import checkpoint_cli, run_source
from coordinator.card import model_card, provenance
from coordinator.checkpoint_cli import describe_audit, visible
from coordinator.cli import run_app
from coordinator.run_source import ApiSource, FolderSource, find_checkpoint
from protocol.canonical import digest
from protocol.chain import ChainView
from protocol.errors import ConfigError, Malformed, MurmurError, NetworkError, ProofRejected, UsageError
from tests.coordinator.kept_run import KeptRun, keep_run, vector_of
from training.outer import OuterState, parameters_file
from training.pretrained import read_pretrained
from verification.audit import AuditReport
from verification.report import Check


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> KeptRun:
    return keep_run(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def client(run: KeptRun) -> Iterator[TestClient]:
    with run.api() as opened:
        yield opened


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(run_app, list(arguments), catch_exceptions=True)


def told(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def fails(*arguments: str) -> MurmurError:
    result = invoke(*arguments)
    assert isinstance(result.exception, MurmurError), result.output
    assert result.stdout == ""
    return result.exception


def test_checkpoints_are_listed(run: KeptRun) -> None:
    found = json.loads(told("checkpoints", "--dir", str(run.directory), "--json"))
    assert found["run"] == run.manifest.run_id
    assert [(one["round"], one["root"]) for one in found["checkpoints"]] == [
        (round_, digest(file)) for round_, file in sorted(run.world.files.items())
    ]
    assert len(told("checkpoints", "--dir", str(run.directory)).splitlines()) == 4


def test_a_network_s_directory_is_its_coordinators(run: KeptRun, tmp_path: Path) -> None:
    (tmp_path / "coordinator").symlink_to(run.directory)
    assert FolderSource.open(tmp_path).checkpoints() == FolderSource.open(run.directory).checkpoints()


def test_blobs_of_rounds_without_a_checkpoint_are_listed_too(tmp_path: Path) -> None:
    run = keep_run(tmp_path / "run")
    for one in run.checkpoints.kept()[1:]:
        blob = run.directory / "public" / "blobs" / one.root[:2] / one.root
        blob.parent.mkdir(parents=True)
        run.checkpoints.path(one).rename(blob)
    source = FolderSource.open(run.directory)
    assert [one.round for one in source.checkpoints()] == [0, 1, 2, 3]
    assert source.read(source.checkpoints()[-1]) == run.world.files[3]


def test_a_nodes_directory_has_checkpoints_and_tells_no_more(run: KeptRun, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(run.manifest.to_bytes())
    (tmp_path / "checkpoints").symlink_to(run.checkpoints.directory)
    source = FolderSource.open(tmp_path)
    assert [one.round for one in source.checkpoints()] == [0, 1, 2, 3]
    assert source.summary() is None
    out = tmp_path / "out"
    told("export", "--dir", str(tmp_path), "--out", str(out))
    assert "Not known where this was exported" in (out / "README.md").read_text()


def test_a_text_is_generated_and_again_with_its_seed(run: KeptRun) -> None:
    asked = ("sample", "--dir", str(run.directory), "--tokens", "40", "--prompt", "To be", "--json")
    first, again, other, earlier = (
        json.loads(told(*asked, *more)) for more in ((), (), ("--seed", "1"), ("--checkpoint", "1"))
    )
    assert first == again
    assert (first["round"], first["root"]) == (3, digest(run.world.files[3]))
    assert first["tokens"] == 40
    assert len({one["text"] for one in (first, other, earlier)}) == 3


def test_a_file_is_sampled_too(run: KeptRun, tmp_path: Path) -> None:
    file = tmp_path / "parameters"
    file.write_bytes(run.world.files[2])
    asked = ("sample", "--dir", str(run.directory), "--json")
    found, known = (json.loads(told(*asked, "--checkpoint", one)) for one in (str(file), "2"))
    assert found["round"] is None
    assert found["text"] == known["text"]
    file.write_bytes(b"no parameters")
    assert "tensor file" in fails(*asked, "--checkpoint", str(file)).message


def test_only_a_terminal_gets_escapes(run: KeptRun, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "a\x1b[31m\r\n\tb\u202e\x07é"
    assert visible(hostile) == "a\\x1b[31m\\r\n\tb\\u202e\\x07é"
    monkeypatch.setattr(checkpoint_cli, "_generate", lambda *_: (hostile, 9))
    assert invoke("sample", "--dir", str(run.directory)).stdout_bytes == f"{hostile}\n".encode()

    def written(text: str, *, color: bool) -> None:
        shown.append(text)

    shown: list[str] = []
    monkeypatch.setattr(checkpoint_cli.typer, "echo", written)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    checkpoint_cli.sample(directory=run.directory)
    assert shown == [visible(hostile)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_export_is_read_back_with_the_same_root(tmp_path: Path, momentum: float) -> None:
    run = keep_run(tmp_path / "run", momentum=momentum)
    out = tmp_path / "out"
    told("export", "--dir", str(run.directory), "--out", str(out))
    read = read_pretrained(out)
    assert read.model == run.manifest.model
    held = -read.parameters if momentum else None
    assert digest(parameters_file(run.manifest, OuterState(read.parameters, held))) == digest(
        run.world.files[3]
    )
    assert np.array_equal(read.parameters, vector_of(run.manifest, 3))
    assert ("outer momentum" in (out / "README.md").read_text()) == bool(momentum)


def test_a_card_says_what_the_run_says(run: KeptRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told("export", "--dir", str(run.directory), "--checkpoint", "2", "--out", str(out))
    card = (out / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["library_name"] == "transformers"
    (model,) = metadata["model-index"]
    assert model["results"][0]["metrics"][0]["value"] == 4.5
    manifest = run.manifest
    for fact in (manifest.run_id, manifest.ledger, manifest.dataset.root, digest(run.world.files[2])):
        assert fact in body
    for number in (1, 2, 3):
        assert f"| {number} | {run.world.keys[number].address} | 2 | 0 | 0 |" in body
    assert "Not audited." in body


def test_what_an_audit_found_is_in_the_card(
    run: KeptRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(*results: Any) -> AuditReport:
        checks = tuple(
            Check(f"check {place}", result, rule="A rule.") for place, result in enumerate(results)
        )
        return AuditReport(run.manifest.run_id, checks, 3, subject={"height": 77})

    assert "passed; 2 of 2 checks hold, over 3 rounds, at block 77" in describe_audit(report("ok", "ok"))
    assert "undecided" in describe_audit(report("ok", "inconclusive"))
    monkeypatch.setattr(checkpoint_cli, "_audit", lambda *_: report("ok", "rejected"))
    out = tmp_path / "out"
    result = invoke("export", "--dir", str(run.directory), "--audit", "all", "--out", str(out))
    assert result.exit_code == 6
    assert "failed: a rule was broken; 1 of 2" in (out / "README.md").read_text()
    assert (
        "needs the run's public folder"
        in fails("export", "--api", "http://x", "--audit", "all", "--out", "o").message
    )


def test_units_taken_back_are_told_apart(run: KeptRun) -> None:
    source = FolderSource.open(run.directory)
    summary = source.summary()
    units = [
        {**one, "retracted": 1 if one["number"] == 2 and one["round"] == 0 else None}
        for one in source.units()
    ]
    kept = source.checkpoints()
    assert "| 2 | 0 | 1 |" in model_card(provenance(run.manifest, kept[2], summary, units))
    assert "| 1 | 0 | 0 |" in model_card(provenance(run.manifest, kept[1], summary, units))
    useless = [{**one, "weight": 0 if one["number"] == 3 else 1} for one in units]
    assert "| 2 | 2 | 0 |" in model_card(provenance(run.manifest, kept[2], summary, useless))
    assert "Nobody" in model_card(provenance(run.manifest, kept[0], summary, units))


def test_an_export_is_not_overwritten_unless_forced(run: KeptRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("export", "--dir", str(run.directory), "--out", str(out))
    told(*asked, "--checkpoint", "1")
    error = fails(*asked)
    assert isinstance(error, UsageError)
    assert "--force" in error.hint
    assert np.array_equal(read_pretrained(out).parameters, vector_of(run.manifest, 1))
    told(*asked, "--force")
    assert np.array_equal(read_pretrained(out).parameters, vector_of(run.manifest, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_there_is_explained(run: KeptRun, tmp_path: Path) -> None:
    here = ("--dir", str(run.directory))
    assert "0, 1, 2, 3" in fails("sample", *here, "--checkpoint", "7").hint
    assert isinstance(fails("sample", *here, "--checkpoint", "newest"), UsageError)
    assert isinstance(fails("sample", *here, "--temperature", "0.001"), UsageError)
    assert isinstance(fails("sample", *here, "--prompt", ""), UsageError)
    assert isinstance(fails("sample", *here, "--device", "nonsense"), ConfigError)
    assert isinstance(fails("checkpoints", "--dir", str(tmp_path)), ConfigError)
    assert isinstance(fails("checkpoints", *here, "--api", "http://x"), UsageError)
    assert isinstance(fails("checkpoints", "--api", "http://["), NetworkError)
    (tmp_path / "manifest.json").write_bytes(run.manifest.to_bytes())
    assert "coordinator start" in fails("sample", "--dir", str(tmp_path)).hint


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    run = keep_run(tmp_path / "run")
    one = run.checkpoints.kept()[3]
    path = run.checkpoints.path(one)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert "does not hash" in fails("sample", "--dir", str(run.directory)).message


# ---------------------------------------------------------------- over the API


def test_an_api_gives_what_its_directory_holds(run: KeptRun, client: TestClient) -> None:
    source, folder = ApiSource.open(client), FolderSource.open(run.directory)
    assert source.manifest == run.manifest
    assert source.checkpoints() == folder.checkpoints()
    assert source.read(find_checkpoint(source, "2")) == run.world.files[2]
    assert source.read(find_checkpoint(source, "last")) == run.world.files[3]
    assert list(source.units()) == list(folder.units())


def test_pages_follow_each_other(run: KeptRun, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(ApiSource.open(client).units())
    monkeypatch.setattr(run_source, "MAX_PAGE", 2)
    source = ApiSource.open(client)
    assert list(source.units()) == whole
    assert len(source.checkpoints()) == 4


def test_with_a_chain_at_hand_its_records_decide(run: KeptRun, client: TestClient) -> None:
    chain: ChainView = run.world.chain  # type: ignore[assignment]
    assert [one.round for one in ApiSource.open(client, lambda _: chain).checkpoints()] == [0, 1, 2, 3]
    anchored = dict(run.world.chain.records)
    run.world.chain.records[2] = ("ab" * 32, 9)
    try:
        assert [one.round for one in ApiSource.open(client, lambda _: chain).checkpoints()] == [0, 1, 3]
    finally:
        run.world.chain.records = anchored


class Liar:
    """Answer as a coordinator does, but for some paths."""

    def __init__(self, client: TestClient, **lies: bytes) -> None:
        self.client, self.lies = client, lies
        self.base_url = "http://liar"

    def fetch(self, _: object, path: str, limit: int) -> bytes:
        for part, lie in self.lies.items():
            if part in path:
                return lie
        return self.client.get(path).content


@pytest.fixture
def lying(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Any:
    def lie(**lies: bytes) -> ApiSource:
        liar = Liar(client, **lies)
        monkeypatch.setattr(run_source, "fetch", liar.fetch)
        return ApiSource.open(liar)  # type: ignore[arg-type]

    return lie


def test_other_parameters_than_the_record_names_are_refused(run: KeptRun, lying: Any) -> None:
    source = lying(**{"checkpoints/2": run.world.files[1]})
    with pytest.raises(ProofRejected, match="record names"):
        source.read(find_checkpoint(source, "2"))


def test_a_round_that_nobody_signed_for_is_not_offered(run: KeptRun, lying: Any) -> None:
    offered = [{"round": 2, "root": "ab" * 32, "bytes": 1}, {"round": 9, "root": "ab" * 32, "bytes": 1}]
    source = lying(checkpoints=json.dumps({"checkpoints": offered}).encode())
    assert source.checkpoints() == []
    with pytest.raises(ConfigError):
        find_checkpoint(source, "last")


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"null", b"not json", b'{"checkpoints": [1]}'])
def test_an_answer_that_is_none_is_refused(lying: Any, answer: bytes) -> None:
    with pytest.raises(NetworkError):
        lying(checkpoints=answer).checkpoints()
    with pytest.raises(NetworkError):
        list(lying(units=answer).units())


@pytest.mark.parametrize("message", [None, 1, {"kind": "record"}, {"round": 2**60}])
def test_a_message_that_is_none_is_refused(lying: Any, message: object) -> None:
    answer = json.dumps({"messages": [{"sequence": 1, "message": message}]}).encode()
    with pytest.raises((NetworkError, Malformed)):
        lying(messages=answer).checkpoints()


def test_the_manifest_of_another_run_is_refused(run: KeptRun, lying: Any) -> None:
    other = run.manifest.model_copy(update={"name": "another"})
    answer = json.dumps({"manifest": other.model_dump(mode="json")}).encode()
    with pytest.raises(ProofRejected, match="another run"):
        lying(**{run.manifest.run_id: answer})


def test_the_api_says_what_it_lacks(run: KeptRun, client: TestClient) -> None:
    path = f"/v1/runs/{run.manifest.run_id}/checkpoints"
    assert client.get(f"{path}/9").status_code == 404
    assert client.get(f"{path}/-1").status_code == 422
    assert client.get(f"/v1/runs/{'ab' * 32}/checkpoints").status_code == 404
    assert client.get(f"{path}/1").headers["content-length"] == str(len(run.world.files[1]))
