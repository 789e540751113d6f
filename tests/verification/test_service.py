"""The whole daemon over a real network with a real replayer; the others are the test's own hands."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from murmur.rotation import NEXT_FILE, take_place
from protocol.errors import ConfigError, OwnFault, ProofInconclusive
from protocol.keys import PeerKey, save_peer_key
from protocol.manifest import CPU_FP32
from protocol.messages import (
    INCONCLUSIVE,
    PASSED,
    PROVEN_FALSE,
    REJECTED,
    Ready,
    Signed,
    Verdict,
    sign,
)
from protocol.peer import Peer, PeerConfig, open_peer
from tests.verification.mischief import forged_residual, other_rate
from tests.verification.testbed import Made, Testbed, key, tiny_manifest
from verification.archive import RoundDossier
from verification.bench import NotServed, ReplayBench
from verification.config import VerifierConfig
from verification.fingerprint import VALUES
from verification.seal import broken_seal, needs_seal
from verification.service import run_verifier
from verification.unit import ReplayReport

ME, OTHER = 4, 5
NEW = PeerKey(b"\x55" * 32)


@asynccontextmanager
async def world(bed: Testbed, tmp_path: Path) -> AsyncIterator[Peer]:
    """Open the peer that plays everybody else, with every file that was made."""
    config = PeerConfig(tmp_path / "world", bed.run, poll_s=0.02)
    async with open_peer(config, key(0), bed.chain, bed.manifest) as peer:
        share(bed, peer)
        yield peer


def share(bed: Testbed, peer: Peer) -> None:
    for store in (bed.public, bed.states):
        for path in store.root.glob("[0-9a-f][0-9a-f]/*"):
            peer.store.put(path.read_bytes())


async def tell(peer: Peer, dossier: RoundDossier, openings: tuple[int, ...]) -> None:
    assert dossier.record is not None
    await peer.publish(dossier.listed)
    for message in (*dossier.commitments, *dossier.reveals, dossier.record):
        await peer.publish(message)
    for opening in dossier.openings:
        if opening.body.number in openings:
            await peer.publish(opening)


def settings(bed: Testbed, directory: Path, peer: Peer) -> VerifierConfig:
    if not (directory / "peer.key").exists():
        save_peer_key(directory / "peer.key", key(ME))
    return VerifierConfig(
        directory=directory,
        run=bed.run,
        rpc="http://127.0.0.1:1",
        ledger=bed.manifest.ledger,
        bootstrap=(peer.network.addresses[0],),
        data_dir=bed.data_dir,
    )


async def heard(peer: Peer, numbers: set[int], round_: int = 0) -> dict[int, Signed[Verdict]]:
    while True:
        found = {
            number: message for (number, judge), message in peer.pool.verdicts(round_).items() if judge == ME
        }
        if numbers <= found.keys():
            return found
        await peer.changed()


def read_status(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "status.json").read_text())
    return found


async def seal_too(peer: Peer, bed: Testbed, numbers: set[int], round_: int = 0) -> None:
    """Wait for the daemon's seals, and let the other judge seal the same units."""
    while not numbers <= {number for number, judge in peer.pool.seals(round_) if judge == ME}:
        await peer.changed()
    for (number, judge), message in list(peer.pool.seals(round_).items()):
        if judge == ME and number in numbers:
            body = message.body.model_copy(update={"verifier": OTHER, "seal": "cd" * 32})
            await peer.publish(sign(key(OTHER), bed.manifest, round_, "verifier", body))


@pytest.fixture
def two_judges(make_bed: Callable[..., Testbed]) -> Testbed:
    bed = make_bed(contributors=3, verifiers=2)
    bed.chain.height += 1
    return bed


async def test_a_verifier_judges_what_it_is_drawn_for_and_restarts_with_another_key_without_judging_twice(
    two_judges: Testbed, tmp_path: Path
) -> None:
    bed = two_judges
    cheat = other_rate(0, 0.5) | other_rate(1, 0.5) | other_rate(2, 0.5)
    dossier = bed.play_round(0, {2: cheat})
    bed.chain.height = bed.chain.anchors[0] + 1
    directory = tmp_path / "verifier"
    opened = {one.body.number: one for one in dossier.openings if one.body.number != 3}
    async with world(bed, tmp_path) as peer:
        config = settings(bed, directory, peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_verifier, config, bed.chain)
            await tell(peer, dossier, openings=(1, 2))
            while len(peer.pool.seals(0)) < 2:
                await peer.changed()
            ends = {bed.open(bed.made[0, n], one.body.segment).body.end_moments for n, one in opened.items()}
            assert not ends & {path.name for path in (directory / "blobs").glob("[0-9a-f][0-9a-f]/*")}
            assert peer.pool.verdicts(0) == {}, "no fingerprint is shown while somebody could copy it"
            await seal_too(peer, bed, {1, 2})
            found = await heard(peer, {1, 2})
            for number in (1, 2):
                seal = peer.pool.seals(0)[number, ME].body
                assert needs_seal(found[number].body)
                assert broken_seal(bed.run, 0, found[number].body, seal) == ""
                assert found[number].body.fingerprint == bed.reports[0, number].fingerprint
            assert found[1].body.outcome == PASSED
            assert found[2].body.outcome == PROVEN_FALSE
            assert found[2].body.reason
            for number in (1, 2):
                assert (
                    found[number].body.opening == bed.open(bed.made[0, number], found[number].body.segment).id
                )
                assert found[number].body.distance == bed.reports[0, number].distance
                assert found[number].body.replay_cpu_s > 0
            assert peer.pool.ready()[ME].body.program == bed.manifest.program
            assert 3 not in found
            bed.chain.height += bed.manifest.deadlines.verify // 2
            ready = Ready(number=1, program=bed.manifest.program, addresses=())
            await peer.publish(sign(key(1), bed.manifest, 0, "contributor", ready))
            late = (await heard(peer, {3}))[3].body
            assert (late.outcome, late.reason, late.opening) == (REJECTED, "not opened in time", None)
            while True:
                status = json.loads((directory / "status.json").read_text())
                if status["verdicts"] == {"passed": 1, "rejected": 1, "proven_false": 1, "inconclusive": 0}:
                    break
                await trio.sleep(0.05)
            assert status["number"] == ME
            assert status["error"] is None
            assert status["judges"] == [{"unit": "cpu-fp32", "replay": "cpu-fp32", "reason": ""}]
            assert status["machine"]["device"] == "cpu"
            kept = {path.name for path in (directory / "blobs").glob("[0-9a-f][0-9a-f]/*")}
            opening = bed.open(bed.made[0, 1], found[1].body.segment).body
            assert {opening.end_parameters, opening.start_moments, bed.run} <= kept
            nursery.cancel_scope.cancel()
        bed.chain.rotate(ME, NEW)
        save_peer_key(directory / NEXT_FILE, NEW)
        take_place(directory, "verifier", complete=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_verifier, config, bed.chain)
            while peer.pool.ready()[ME].author != NEW.address:
                await peer.changed()
            with trio.move_on_after(1):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
        assert (await heard(peer, {1, 2, 3}))[1].id == found[1].id
        assert peer.pool.equivocations == []


class Elsewhere(Testbed):
    """Judges of the test's own rounds have the machine that this process lacks."""

    def replay(self, made: Made, segment: int, **changes: object) -> ReplayReport:
        return ReplayReport(PASSED)


async def test_a_machine_without_the_profile_says_inconclusive_and_never_guesses(
    corpus: Path, tmp_path: Path
) -> None:
    other = CPU_FP32.model_copy(update={"torch": "2.12.0"})
    verification = tiny_manifest(corpus, tmp_path / "data").verification
    manifest = tiny_manifest(
        corpus, tmp_path / "data", verification=verification.model_copy(update={"profiles": (other,)})
    )
    bed = Elsewhere(tmp_path, manifest, contributors=2, verifiers=2)
    bed.chain.height += 1
    dossier = bed.play_round(0)
    bed.chain.height = bed.chain.anchors[0] + 1 + bed.manifest.deadlines.verify // 2
    with pytest.raises(ProofInconclusive, match=r"cannot judge a unit of cpu-fp32: .* torch 2\.12\.0"):
        Testbed.replay(bed, bed.made[0, 1], 0)
    directory = tmp_path / "verifier"
    async with world(bed, tmp_path) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(run_verifier, settings(bed, directory, peer), bed.chain)
        await tell(peer, dossier, openings=(1,))
        found = await heard(peer, {1, 2})
        assert found[1].body.outcome == INCONCLUSIVE
        assert "torch 2.12.0" in found[1].body.reason
        assert found[1].body.replay_cpu_s == 0
        # That nothing was opened needs no replay.
        assert (found[2].body.outcome, found[2].body.reason) == (REJECTED, "not opened in time")
        while True:
            if [one["replay"] for one in read_status(directory)["judges"]] == [None]:
                break
            await trio.sleep(0.05)
        kept = {path.name for path in (directory / "blobs").glob("[0-9a-f][0-9a-f]/*")}
        assert dossier.openings[0].body.end_parameters not in kept
        nursery.cancel_scope.cancel()


async def test_false_roots_forged_residuals_and_files_that_are_not_served(
    two_judges: Testbed, tmp_path: Path
) -> None:
    bed = two_judges
    dossier = bed.play_round(0, {2: {"symbols": forged_residual}})
    bed.chain.height = bed.chain.anchors[0] + 1 + 3 * bed.manifest.deadlines.verify // 4
    openings = {one.body.number: one for one in dossier.openings}
    lie = bed.open(bed.made[0, 1], openings[1].body.segment, final_parameters="ab" * 32)
    async with world(bed, tmp_path) as peer:
        peer.store.delete(openings[3].body.end_moments)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_verifier, settings(bed, tmp_path / "verifier", peer), bed.chain)
            await tell(peer, dossier, openings=(2, 3))
            await peer.publish(lie)
            await seal_too(peer, bed, {2, 3})
            found = await heard(peer, {1, 2, 3})
            assert (found[1].body.outcome, found[1].body.opening) == (PROVEN_FALSE, lie.id)
            assert "final state does not give the committed root" in found[1].body.reason
            assert found[2].body.outcome == PROVEN_FALSE
            assert "residual does not follow" in found[2].body.reason
            assert (found[3].body.outcome, found[3].body.opening) == (REJECTED, None)
            assert found[3].body.reason.startswith("not opened")
            assert "end_moments" in found[3].body.reason
            nursery.cancel_scope.cancel()


async def test_a_replayer_must_fit_the_run_and_is_started_again_when_it_dies(
    two_judges: Testbed, tmp_path: Path
) -> None:
    bed = two_judges
    bed.play_round(0)
    async with world(bed, tmp_path) as peer:
        (tmp_path / "verifier").mkdir()
        config = settings(bed, tmp_path / "verifier", peer)
        (config.directory / "manifest.json").write_bytes(bed.manifest.to_bytes())
        bench = ReplayBench(config, peer)
        try:
            peer.manifest = bed.manifest.model_copy(update={"program": "ab" * 32})
            with pytest.raises(ConfigError, match="the run demands"):
                await bench.prepare()
            peer.manifest = bed.manifest
            assert await bench.prepare() == bed.manifest.program
            made = bed.made[0, 1]
            unit, opened = bed.drawn(made, 1), bed.open(made, 1)
            shown, proven = await bench.begin(unit, opened)
            assert (len(shown), proven) == (VALUES, None)
            report = await bench.compare(unit, opened)
            assert (report.outcome, report.distance, report.fingerprint) == (PASSED, 0.0, shown)
            assert report.cpu_s > 0
            assert bench.pid is not None
            os.kill(bench.pid, signal.SIGKILL)
            with pytest.raises(OwnFault):
                await bench.begin(unit, opened)
            again = await bench.compare(unit, opened)
            assert (again.outcome, again.fingerprint) == (PASSED, shown), (
                "a replay that is lost is done again"
            )
            peer.store.delete(opened.body.final_parameters)
            with pytest.raises(NotServed, match="final_parameters"):
                await bench.bring(unit, opened.body, late=True)
            await bench.bring(unit, opened.body, late=False)
        finally:
            await bench.close()
        assert not bench.alive


async def test_a_replayer_must_be_loaded_first(two_judges: Testbed, tmp_path: Path) -> None:
    from verification.replayer import Replayer

    with pytest.raises(OwnFault, match="not loaded"):
        Replayer().begin({}, lambda told: None)


async def test_only_a_registered_verifier_can_start(two_judges: Testbed, tmp_path: Path) -> None:
    bed = two_judges
    async with world(bed, tmp_path) as peer:
        bed.chain.rotate(ME, NEW)
        refused = {9: "not registered", 1: "registered as a contributor", ME: "was given another peer key"}
        for number, message in refused.items():
            directory = tmp_path / f"peer-{number}"
            save_peer_key(directory / "peer.key", key(number))
            with pytest.raises(BaseExceptionGroup) as raised:
                await run_verifier(settings(bed, directory, peer), bed.chain)
            error = raised.value
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            assert isinstance(error, ConfigError)
            assert message in error.message
