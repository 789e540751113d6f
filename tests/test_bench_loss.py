"""Losses at equal tokens: what cells are, how they are kept, and how rates are chosen."""

import json

import numpy as np
import pytest

from murmur.churn import plan_drops
from protocol.errors import OwnFault
from protocol.manifest import CodecConfig, InnerConfig, OuterConfig
from protocol.model_config import ModelConfig
from tests.bench import _cells, churn, loss
from tests.bench._cells import Cell, Figures, train
from tests.bench._trials import Trial
from training.recipe import with_recipe

TINY = Cell(size="tiny", peers=2, rounds=2, steps=3, batch=2, warmup=0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    model = ModelConfig(width=16, layers=1, heads=1, feed_forward=16, context=8)
    monkeypatch.setitem(_cells.SIZES, "tiny", model)
    monkeypatch.setattr(_cells, "WINDOWS", 64)


def trained(directory, **fields) -> tuple[Figures, int]:
    steps: list[int] = []
    return train(TINY.model_copy(update=fields), directory, steps.append), sum(steps)


@pytest.mark.parametrize("scheme", loss.SCHEMES)
def test_every_scheme_learns_and_tells_its_steps(tmp_path, scheme):
    figures, steps = trained(tmp_path, scheme=scheme, lr=0.02)
    assert figures.choose is not None
    assert figures.report is not None
    assert max(figures.choose, figures.report) < np.log(256)
    assert steps == TINY.model_copy(update={"scheme": scheme}).work
    assert (figures.bytes == 0) == (scheme == "local")


def test_one_peer_of_diloco_with_outer_rate_one_is_that_peer_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_cells, "LOCAL_PEERS", 1)
    alone, _ = trained(tmp_path, scheme="local")
    together, _ = trained(tmp_path, scheme="diloco", peers=1, outer_lr=1.0)
    assert together.report == pytest.approx(alone.report, abs=1e-5)


def test_a_trial_of_carried_moments_is_what_the_product_does(tmp_path):
    figures, _ = trained(tmp_path)
    tried, _ = trained(tmp_path, trial=Trial())
    assert tried.report == pytest.approx(figures.report, abs=1e-4)
    fresh, _ = trained(tmp_path, trial=Trial(moments="fresh", second="factored"))
    assert abs(fresh.report - figures.report) > 1e-4


def test_the_trial_that_became_the_products_fresh_moments_is_it(tmp_path):
    figures, _ = trained(tmp_path, moments="fresh")
    trial = Trial(moments="fresh", second="factored", corrected=False, flush=True)
    tried, _ = trained(tmp_path, trial=trial)
    assert tried.report == pytest.approx(figures.report, abs=1e-4)


def test_a_cell_with_muon_takes_its_steps(tmp_path):
    adamw, _ = trained(tmp_path)
    muon, _ = trained(tmp_path, muon=5.0)
    assert muon.report < np.log(256)
    assert abs(muon.report - adamw.report) > 1e-4


def test_what_diverges_has_no_loss(tmp_path, monkeypatch):
    def diverge(*_):
        raise OwnFault("the loss is no longer finite")

    monkeypatch.setattr(_cells.Training, "ours", diverge)
    figures, _ = trained(tmp_path)
    assert figures.choose is None
    assert not loss.better(figures, Figures(9.0, 9.0, 1.0))
    assert loss.better(Figures(9.0, 9.0, 1.0), figures)


def counted(monkeypatch, figures):
    """Have cells computed by a function, and return those that were asked for."""
    asked = []

    def count(cell, *_):
        asked.append(cell)
        return figures(cell)

    monkeypatch.setattr(loss, "train", count)
    return asked


def test_a_run_that_was_interrupted_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    def interrupt(cell):
        if len(asked) == 3:
            raise KeyboardInterrupt
        return Figures(1.0, float(cell.seed), 7.0)

    asked = counted(monkeypatch, interrupt)
    cells = [TINY.model_copy(update={"seed": seed}) for seed in range(4)]
    with pytest.raises(KeyboardInterrupt):
        [loss.Keep(tmp_path, tmp_path).figures(cell) for cell in cells]
    kept = [loss.Keep(tmp_path, tmp_path).figures(cell) for cell in cells]
    assert [one.report for one in kept] == [0.0, 1.0, 2.0, 3.0]
    assert [cell.seed for cell in asked] == [0, 1, 2, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [cell.key for cell in cells]


def test_any_field_makes_another_cell_but_a_trial_that_was_not_asked_for():
    changed = [TINY.model_copy(update=one) for one in ({"k": 64}, {"lr": 1e-3}, {"trial": Trial()})]
    assert len({cell.key for cell in (TINY, *changed)}) == 4
    assert "trial" not in TINY.model_dump(exclude_none=True)


def test_rates_climb_until_both_neighbours_are_worse(tmp_path, monkeypatch):
    def valley(cell):
        outer = abs(cell.outer_lr - 1.0) + cell.momentum if cell.scheme == "diloco" else 0.0
        return Figures(abs(np.log(cell.lr / 1.6e-2)) + outer, 0.0, 1.0)

    asked = counted(monkeypatch, valley)
    found = loss.choose(loss.Keep(None, tmp_path), "diloco", TINY)
    assert (found.lr, found.outer_lr, found.momentum) == (1.6e-2, 1.0, 0.0)
    assert {cell.seed for cell in asked} == {loss.TUNING_SEED}
    assert len(asked) == len({cell.key for cell in asked})


def test_a_table_shows_the_half_that_did_not_choose_in_pairs(tmp_path, monkeypatch):
    base = {"ours": 2.0, "diloco": 2.1, "muloco": 2.05, "ddp": 1.9, "local": 2.3}

    def figures(cell):
        report = base[cell.scheme] + 0.1 * cell.seed + (0.01 * cell.seed if cell.scheme == "ours" else 0)
        return Figures(1.0, report, {"ours": 10.0, "local": 0.0}.get(cell.scheme, 400.0))

    counted(monkeypatch, figures)
    ours, *_, local = loss.rows(loss.Keep(None, tmp_path), "tiny", TINY, [0, 1, 2])
    assert ours["loss"] == pytest.approx(2.11)
    assert ours["minus diloco, ±"] == [-0.09, pytest.approx(4.303 * 0.01 / 3**0.5, abs=1e-4)]
    assert ours["bytes diloco/this"] == 40.0
    assert local["bytes diloco/this"] is None


@pytest.mark.parametrize("rounds", [10, 100])
def test_ours_is_what_a_run_of_that_length_would_be(tmp_path, rounds):
    cell = loss.by_recipe(TINY.model_copy(update={"rounds": rounds}))
    manifest, _ = cell.manifest(tmp_path)
    filled = with_recipe({"rounds": rounds, "model": manifest.model})
    assert manifest.codec == CodecConfig(**filled["codec"])
    assert manifest.outer == OuterConfig(**filled["outer"])
    assert (manifest.inner.moments == "published") is (rounds == 100)
    chosen = InnerConfig.model_validate(filled["inner"])
    for name in filled["inner"]:
        assert getattr(manifest.inner, name) == getattr(chosen, name)


def test_fields_of_a_cell_and_its_trial_are_named_in_words():
    cell = loss.parse("k=128 outer_lr=1.5 trial.moments=fresh trial.gentle=5", TINY)
    assert (cell.k, cell.outer_lr, cell.trial) == (128, 1.5, Trial(moments="fresh", gentle=5))
    assert loss.parse("", TINY) == TINY
    with pytest.raises(ValueError, match="mystery"):
        loss.parse("mystery=1", TINY)


def test_what_a_momentum_holds_is_taken_at_once_or_spread_over_last_steps(tmp_path):
    flushed, _ = trained(
        tmp_path, trial=Trial(moments="fresh", second="factored", corrected=False, flush=True)
    )
    once, _ = trained(tmp_path, trial=Trial(moments="fresh", second="factored", spread=1))
    spread, _ = trained(tmp_path, trial=Trial(moments="fresh", second="factored", spread=3))
    assert once.report == pytest.approx(flushed.report, abs=1e-4)
    assert abs(spread.report - once.report) > 1e-4


def test_who_drops_out_takes_no_steps_and_carries_nothing_into_its_next_round(tmp_path):
    base = {"peers": 3, "rounds": 6, "seed": 1}
    drops = plan_drops(1, [["1", "2", "3"]] * 6, 0.5)
    missed = sum(map(len, drops))
    assert missed
    figures, steps = trained(tmp_path, drop=0.5, **base)
    assert steps == (3 * 6 - missed) * TINY.steps
    keeping, _ = trained(tmp_path, drop=0.5, away="keeps", **base)
    staying, _ = trained(tmp_path, **base)
    assert len({figures.report, keeping.report, staying.report}) == 3


def test_a_late_peer_is_missing_before_its_round_only(tmp_path):
    _, steps = trained(tmp_path, late=1)
    assert steps == 3 * TINY.steps
    unmoved, _ = trained(tmp_path, late=0)
    assert unmoved.report == trained(tmp_path)[0].report


def test_a_newcomers_ignored_update_takes_its_steps_and_moves_nothing(tmp_path):
    counted, steps = trained(tmp_path, late=1)
    ignored, same = trained(tmp_path, late=1, newcomer="ignored")
    never, _ = trained(tmp_path, late=TINY.rounds)
    assert same == steps
    assert ignored.report == never.report != counted.report


def test_rows_of_churn_are_compared_with_the_run_in_which_all_stay():
    found = churn.variants(TINY.model_copy(update={"peers": 8}))
    assert found["6 peers, all stay"].peers == 6
    assert found["drop 0.5"].drop == 0.5
    assert churn.row("late", [2.0, 3.0], [1.5, 2.5])["minus all stay"] == 0.5
    assert churn.row("late", [2.0, None], [1.5, 2.5])["loss"] is None
