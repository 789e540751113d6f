from __future__ import annotations

import copy
import dataclasses
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.canonical import canonical_json, parse_canonical_json
from protocol.chain import LinkedKey
from protocol.errors import ConfigError, ProofRejected
from protocol.keys import PeerKey
from protocol.manifest import CPU_FP32
from protocol.messages import PASSED, parse_message, sign
from tests.verification.conftest import CHEAT, HONEST
from tests.verification.testbed import Testbed, key
from verification.anchor import AnchorFile, ChainAnchor, RootAnchor, read_anchor_file
from verification.archive import Archive
from verification.blobs import find_blob
from verification.bundle import export_bundle, load_bundle
from verification.container import read_bundle, write_bundle
from verification.facts import ChainFacts, chain_facts
from verification.proof import BundleReport, verify_bundle


def no_limit(document: bytes) -> int:
    return 1 << 30


@pytest.fixture
def verify(corpus: Path, anchor: ChainAnchor) -> Callable[[Path], BundleReport]:
    return lambda path: verify_bundle(path, anchor, data=corpus)


def failures(report: BundleReport) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.ok}


def test_the_bundle_of_an_honest_unit_holds(
    bundles: dict[tuple[int, int], Path], verify: Any, played: Testbed
) -> None:
    report = verify(bundles[HONEST])
    assert failures(report) == {}
    assert (report.exit_code, report.unit, report.replay.outcome) == (0, "passed", PASSED)
    assert report.replay.distance <= report.tolerance
    told = report.to_json()
    assert told["run"] == played.run
    assert told["ledger"] == played.manifest.ledger
    assert told["chain_id"] == 31337
    assert told["relied_on"] == "the simulated chain"
    assert told["taken_from_the_bundle"] == []


def test_a_bundle_that_proves_a_cheat_holds_too(bundles: dict[tuple[int, int], Path], verify: Any) -> None:
    report = verify(bundles[CHEAT])
    assert (report.exit_code, report.unit, failures(report)) == (0, "false", {})
    assert report.to_json()["replayed"] == "proven false"
    assert report.replay.distance > CPU_FP32.slash_tolerance


def test_without_an_anchor_nothing_is_proven(bundles: dict[tuple[int, int], Path], corpus: Path) -> None:
    report = verify_bundle(bundles[HONEST], None, data=corpus)
    assert report.exit_code == 7
    assert set(failures(report)) == {"anchor"}
    assert "proves nothing" in failures(report)["anchor"]


def test_a_root_alone_confirms_the_root_and_says_what_it_did_not_confirm(
    bundles: dict[tuple[int, int], Path], corpus: Path, played: Testbed
) -> None:
    root = played.chain.posted[1].root
    report = verify_bundle(bundles[HONEST], RootAnchor(root), data=corpus)
    assert report.exit_code == 0
    assert report.confirmed is not None
    assert root in report.confirmed.source
    assert {"sampling_beacon", "operators", "run"} <= set(report.confirmed.taken)
    other = verify_bundle(bundles[HONEST], RootAnchor("ab" * 32), data=corpus)
    assert (other.exit_code, set(failures(other))) == (7, {"anchor"})


def test_an_anchor_file_says_the_same_as_the_chain(
    bundles: dict[tuple[int, int], Path], corpus: Path, facts: ChainFacts, tmp_path: Path
) -> None:
    path = tmp_path / "anchors.json"
    path.write_bytes(AnchorFile.of(facts, 99).to_bytes())
    anchor = read_anchor_file(path)
    assert anchor.chain == facts
    report = verify_bundle(bundles[HONEST], anchor, data=corpus)
    assert report.exit_code == 0
    assert report.confirmed.source == "the anchor file anchors.json (block 99)"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConfigError, match="not an anchor file"):
        read_anchor_file(path)


@pytest.mark.parametrize("field", ["chain_id", "ledger", "run", "rounds"])
def test_an_anchor_of_another_chain_decides_nothing(
    bundles: dict[tuple[int, int], Path], corpus: Path, facts: ChainFacts, field: str
) -> None:
    other: dict[str, Any] = {"chain_id": 1, "ledger": "0x" + "22" * 20, "run": "ab" * 32, "rounds": {}}
    anchor = ChainAnchor(ChainFacts(**{**vars(facts), field: other[field]}), "another chain")
    report = verify_bundle(bundles[HONEST], anchor, data=corpus)
    assert (report.exit_code, set(failures(report))) == (7, {"anchor"})


def test_without_the_dataset_the_replay_is_undecided(
    bundles: dict[tuple[int, int], Path], anchor: ChainAnchor, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(b"other text " * 600)
    report = verify_bundle(bundles[HONEST], anchor, data=other)
    assert (report.exit_code, set(failures(report))) == (7, {"replay"})


def test_another_program_leaves_it_undecided(
    bundles: dict[tuple[int, int], Path], verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verification.proof.program_digest", lambda: "cd" * 32)
    report = verify(bundles[HONEST])
    assert (report.exit_code, set(failures(report))) == (7, {"replay"})


def test_the_same_unit_gives_the_same_bundle(
    bundles: dict[tuple[int, int], Path], played: Testbed, facts: ChainFacts, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    export_bundle(
        played.archive, facts, find_blob([played.states.root, played.archive.blobs]), *HONEST, again
    )
    assert again.read_bytes() == bundles[HONEST].read_bytes()
    with tarfile.open(again) as archive:
        assert archive.getnames()[0] == "bundle.json"


@pytest.mark.parametrize(
    ("round_", "number", "message"),
    [(0, 9, "no unit"), (7, 1, "not anchored")],
)
def test_what_is_not_there_is_not_exported(
    played: Testbed, facts: ChainFacts, tmp_path: Path, round_: int, number: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export_bundle(played.archive, facts, find_blob([]), round_, number, tmp_path / "out")


def test_an_export_without_the_files_says_so(played: Testbed, facts: ChainFacts, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not at hand"):
        export_bundle(played.archive, facts, find_blob([played.archive.blobs]), *HONEST, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# keys that follow one another

NEW, NEWER = PeerKey(b"\x55" * 32), PeerKey(b"\x56" * 32)


def test_a_unit_that_was_opened_with_a_later_key_is_proven_by_the_keys_on_chain(
    played: Testbed, folder: Path, corpus: Path, tmp_path: Path
) -> None:
    round_, number = HONEST
    chain, archive = copy.deepcopy(played.chain), Archive(folder)
    dossier = archive.round(played.manifest, round_)
    assert dossier is not None
    linked = chain.anchors[round_ - 1] + 1
    chain.linked[number] = [LinkedKey(NEW.address, NEW.peer_id, linked)]
    openings = tuple(
        sign(NEW, played.manifest, round_, "contributor", one.body) if one.body.number == number else one
        for one in dossier.openings
    )
    archive.write_round(dataclasses.replace(dossier, openings=openings))
    facts, find = chain_facts(chain, played.manifest), find_blob([archive.blobs, played.states.root])
    path = tmp_path / "unit.murmur"
    export_bundle(archive, facts, find, round_, number, path)
    report = verify_bundle(path, ChainAnchor(facts, "the chain then"), data=corpus)
    assert (report.exit_code, report.unit, failures(report)) == (0, "passed", {})

    # A key that follows changes nothing about what was said before.
    chain.linked[number].append(LinkedKey(NEWER.address, NEWER.peer_id, linked + 1))
    later = ChainAnchor(chain_facts(chain, played.manifest), "the chain now")
    assert verify_bundle(path, later, data=corpus).exit_code == 0

    # One that came before the round's roster does: then the old key did not speak.
    chain.linked[number] = [LinkedKey(NEW.address, NEW.peer_id, linked - 1)]
    other = ChainAnchor(chain_facts(chain, played.manifest), "another chain")
    assert failures(verify_bundle(path, other, data=corpus)).keys() == {"anchor"}

    def forget(document: dict[str, Any]) -> None:
        for operator in document["operators"]:
            operator["keys"] = operator["keys"][:1]

    alone = rewrite(path, tmp_path / "alone.murmur", forget)
    assert "signatures" in failures(verify_bundle(alone, later, data=corpus))


def test_a_replaced_key_is_not_made_to_speak_by_keeping_back_the_one_that_replaced_it(
    played: Testbed, bundles: dict[tuple[int, int], Path], corpus: Path
) -> None:
    """What the thief of an old key and a coordinator could sign and list together accuses nobody."""
    round_, number = HONEST
    chain = copy.deepcopy(played.chain)
    chain.linked[number] = [LinkedKey(NEW.address, NEW.peer_id, chain.anchors[round_ - 1])]
    path = bundles[HONEST]  # names the first key alone, which signed all of it
    (claimed,) = (one for one in load_bundle(path).operators if one.number == number)
    known = chain_facts(chain, played.manifest).operators[number]
    assert claimed.keys == known.keys[:1]
    report = verify_bundle(path, ChainAnchor(chain_facts(chain, played.manifest), "the chain"), data=corpus)
    assert failures(report).keys() == {"anchor"}
    assert report.exit_code == 7


# tampering


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    contents = read_bundle(source, no_limit)
    document = parse_canonical_json(contents.document, max_bytes=1 << 24)
    change(document)
    write_bundle(target, canonical_json(document), contents.files)
    return target


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for name in sorted(value) for leaf in leaves(value[name], (*path, name))]
    if isinstance(value, list) and value:
        return [leaf for index, one in enumerate(value) for leaf in leaves(one, (*path, index))]
    return [path]


def flipped(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str() if value and value[-1] in "0123456789abcdef":
            return value[:-1] + ("0" if value[-1] != "0" else "1")
        case str():
            return value + "x"
        case None:
            return "ab" * 32
        case _:
            return [flipped("")]


def test_no_field_can_be_changed(bundles: dict[tuple[int, int], Path], verify: Any, tmp_path: Path) -> None:
    contents = read_bundle(bundles[HONEST], no_limit)
    paths = leaves(parse_canonical_json(contents.document, max_bytes=1 << 24))
    assert len(paths) > 200
    for path in paths:

        def change(document: dict[str, Any], path: tuple[Any, ...] = path) -> None:
            inside: Any = document
            for step in path[:-1]:
                inside = inside[step]
            inside[path[-1]] = flipped(inside[path[-1]])

        report = verify(rewrite(bundles[HONEST], tmp_path / "changed", change))
        assert report.exit_code in (6, 7), path


@pytest.mark.parametrize(
    "name",
    ["previous_listed", "previous_commitment", "previous_record", "reveal", "opening"],
)
def test_no_message_can_be_left_out(
    bundles: dict[tuple[int, int], Path], verify: Any, tmp_path: Path, name: str
) -> None:
    path = rewrite(bundles[HONEST], tmp_path / "less", lambda document: document.update({name: None}))
    assert verify(path).exit_code in (6, 7)


def test_no_file_can_be_left_out_changed_or_added(
    bundles: dict[tuple[int, int], Path], verify: Any, tmp_path: Path
) -> None:
    contents = read_bundle(bundles[HONEST], no_limit)
    for address in contents.files:
        less = {name: data for name, data in contents.files.items() if name != address}
        write_bundle(tmp_path / "less", contents.document, less)
        assert verify(tmp_path / "less").exit_code == 7
        write_bundle(tmp_path / "wrong", contents.document, {**contents.files, address: b"x"})
        assert verify(tmp_path / "wrong").exit_code == 6
    extra = parse_message(
        canonical_json(parse_canonical_json(contents.document, max_bytes=1 << 24)["record"])
    )
    write_bundle(tmp_path / "more", contents.document, {**contents.files, "00" * 32: extra.wire})
    assert verify(tmp_path / "more").exit_code == 6


def test_no_draw_is_proven_in_a_round_whose_record_came_too_late(
    bundles: dict[tuple[int, int], Path], corpus: Path, facts: ChainFacts, tmp_path: Path
) -> None:
    later = facts.rounds[HONEST[0]].record_block + 10_000

    def delay(document: dict[str, Any]) -> None:
        document["facts"]["record_block"] = later

    path = rewrite(bundles[HONEST], tmp_path / "late", delay)
    changed = {HONEST[0]: facts.rounds[HONEST[0]].model_copy(update={"record_block": later})}
    anchor = ChainAnchor(dataclasses.replace(facts, rounds=changed), "a chain that says the same")
    report = verify_bundle(path, anchor, data=corpus)
    assert report.exit_code == 6
    assert "void" in failures(report)["draw"]


def test_a_verdict_that_is_wrong_does_not_hold(
    bundles: dict[tuple[int, int], Path], verify: Any, played: Testbed, tmp_path: Path
) -> None:
    def lie(document: dict[str, Any]) -> None:
        verdict = parse_message(canonical_json(document["verdicts"][0]))
        body = verdict.body.model_copy(update={"outcome": 3, "fingerprint": (), "salt": None})
        judge = verdict.body.verifier
        document["verdicts"][0] = sign(key(judge), played.manifest, 1, "verifier", body).to_json()

    report = verify(rewrite(bundles[HONEST], tmp_path / "lie", lie))
    assert report.exit_code == 6
    assert "says proven false, our replay says passed" in failures(report)["verdicts"]


def test_hiding_a_cheat_behind_false_verdicts_does_not_hold(
    bundles: dict[tuple[int, int], Path], verify: Any, played: Testbed, tmp_path: Path
) -> None:
    def cover(document: dict[str, Any]) -> None:
        for index, wire in enumerate(document["verdicts"]):
            verdict = parse_message(canonical_json(wire))
            cleared = {"outcome": 1, "distance": 0.0, "reason": "", "exact": None, "exact_distance": 0.0}
            body = verdict.body.model_copy(update=cleared)
            signed = sign(key(verdict.body.verifier), played.manifest, 0, "verifier", body)
            document["verdicts"][index] = signed.to_json()

    report = verify(rewrite(bundles[CHEAT], tmp_path / "cover", cover))
    assert report.exit_code == 6
    assert "says passed, our replay says proven false" in failures(report)["verdicts"]
    silent = verify(
        rewrite(bundles[CHEAT], tmp_path / "silent", lambda document: document.update(verdicts=[]))
    )
    assert (silent.exit_code, set(failures(silent))) == (6, {"verdicts"})


def test_a_verdict_without_an_opening_cannot_be_proven_by_a_file(
    bundles: dict[tuple[int, int], Path], verify: Any, played: Testbed, tmp_path: Path
) -> None:
    def unopened(document: dict[str, Any]) -> None:
        verdict = parse_message(canonical_json(document["verdicts"][0]))
        body = verdict.body.model_copy(update={"outcome": 2, "opening": None, "reason": "not opened"})
        document["verdicts"][0] = sign(
            key(verdict.body.verifier), played.manifest, 1, "verifier", body
        ).to_json()

    report = verify(rewrite(bundles[HONEST], tmp_path / "unopened", unopened))
    assert report.exit_code == 7


# hostile archives


def member(name: str, data: bytes = b"{}", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], format_: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


HOSTILE = {
    "nothing": b"",
    "zeros": bytes(1 << 14),
    "noise": bytes(range(256)) * 8,
    "an absolute path": tar(member("/etc/passwd")),
    "a path out of here": tar(member("bundle.json"), member("../../files/" + "a" * 64)),
    "a name that is no address": tar(member("bundle.json"), member("files/" + "A" * 64)),
    "a file before the document": tar(member("files/" + "0" * 64), member("bundle.json")),
    "the document twice": tar(member("bundle.json"), member("bundle.json")),
    "a symbolic link": tar(member("bundle.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": tar(member("bundle.json", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
    "a device": tar(member("bundle.json", b"", type=tarfile.CHRTYPE)),
    "a directory": tar(member("bundle.json", b"", type=tarfile.DIRTYPE)),
    "an extended header": tar(member("bundle.json", pax_headers={"path": "x"}), format_=tarfile.PAX_FORMAT),
    "an owner": tar(member("bundle.json", uid=7)),
    "a time": tar(member("bundle.json", mtime=7)),
    "a mode": tar(member("bundle.json", mode=0o4777)),
    "another user name": tar(member("bundle.json", uname="root")),
    "a long document": tar(member("bundle.json", b" " * (5 << 20))),
    "a broken checksum": tar(member("bundle.json"))[:148] + b"0000000\0" + tar(member("bundle.json"))[156:],
    "a huge claim": tar(member("bundle.json"))[:124] + b"77777777777\0" + tar(member("bundle.json"))[136:],
    "a cut": tar(member("bundle.json", b"{}" * 400))[:700],
    "no end": tar(member("bundle.json"))[:1024],
    "something after the end": tar(member("bundle.json"))[:1024] + bytes(1024) + b"x",
    "padding that is not zero": tar(member("bundle.json"))[:1023] + b"x" + bytes(1024),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(what: str, tmp_path: Path, verify: Any) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(HOSTILE[what])
    with pytest.raises(ProofRejected):
        read_bundle(path, no_limit)
    assert verify(path).exit_code == 6


@given(st.integers(min_value=0), st.binary(min_size=1, max_size=4))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_the_archive_can_be_changed(
    bundles: dict[tuple[int, int], Path], tmp_path: Path, place: int, noise: bytes
) -> None:
    data = bytearray(bundles[HONEST].read_bytes())
    end = data.index(b"files/")  # the document and its header; bytes of files are covered by their hashes
    place %= end
    before = bytes(data)
    data[place : place + len(noise)] = noise
    path = tmp_path / "noise"
    path.write_bytes(data)
    try:
        bundle = load_bundle(path)
    except ProofRejected:
        return
    assert bytes(data) == before or bundle != load_bundle(bundles[HONEST])


def test_a_member_larger_than_the_model_needs_is_refused(
    bundles: dict[tuple[int, int], Path], tmp_path: Path
) -> None:
    contents = read_bundle(bundles[HONEST], no_limit)
    big = bytes(1 << 20)
    path = tmp_path / "big"
    write_bundle(path, contents.document, {"ab" * 32: big})
    with pytest.raises(ProofRejected, match="claims"):
        load_bundle(path)


def test_a_bundle_that_is_not_there_is_a_setting_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_bundle(tmp_path / "nothing")
