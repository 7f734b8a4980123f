"""Cells like given ones: reconstructed, denoised, between two conditions, filled up; and how many counts they get."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from tests.tiny import cells_of, world

import syncyte
from syncyte.errors import ConfigError, DataError
from syncyte.tasks import draw, generate, plans
from syncyte.tasks.draw import Sampling, coder_of, encode_points
from syncyte.tasks.plans import plan_between, plan_new, read_where

ENDS = ({"cell_type": "B", "batch": "batch_1"}, {"cell_type": "HSC", "batch": "batch_1"})


def make(run, **options):
    return syncyte.generate(run, quiet=True, **options)


def same(first: sp.csr_matrix, second: sp.csr_matrix) -> bool:
    return first.shape == second.shape and (sp.csr_matrix(first) != sp.csr_matrix(second)).nnz == 0


def totals(counts) -> np.ndarray:
    return np.asarray(counts.sum(axis=1)).ravel()


@pytest.fixture(scope="module")
def given():
    """New cells of the same biology."""
    return world(60, seed=5)["rna"]


# --- reconstruct -----------------------------------------------------------------------------------------------------


def test_a_cell_is_drawn_from_the_posterior_of_each_given_one(tiny_sets_run, given):
    made = make(tiny_sets_run, mode="reconstruct", cells=given)
    assert made.counts.shape == given.shape and made.counts.dtype == np.int32
    assert made.obs["syncyte_from"].tolist() == list(given.obs_names)
    assert made.obs["cell_type"].astype(str).tolist() == given.obs["cell_type"].astype(str).tolist()
    real, own = np.log1p(given.X.toarray()), np.log1p(made.counts.toarray())
    r = np.corrcoef(real, own)[:60, 60:]
    assert np.diag(r).mean() > r.mean() + 0.05  # each is like its own cell, more than like any
    assert np.corrcoef(np.log(totals(given.X)), np.log(totals(made.counts)))[0, 1] > 0.7
    assert not same(made.counts, given.X) and same(
        made.counts, make(tiny_sets_run, mode="reconstruct", cells=given).counts
    )
    assert not same(made.counts, make(tiny_sets_run, mode="reconstruct", cells=given, seed=1).counts)


def test_codes_are_means_or_samples_of_the_posterior(tiny_sets_run, given):
    cells = tiny_sets_run.align(cells_of(given))
    mean, again = encode_points(tiny_sets_run, cells), encode_points(tiny_sets_run, cells)
    drawn = np.stack([encode_points(tiny_sets_run, cells, (seed,)) for seed in range(60)])
    np.testing.assert_array_equal(mean, again)
    spread = drawn.std(axis=0)
    assert (spread[:, :-1] > 0.01).all() and (np.abs(drawn.mean(axis=0) - mean) < 5 * spread / 60**0.5 + 1e-5).all()
    assert (drawn[:, :, -1] == mean[:, -1]).all()
    np.testing.assert_allclose(mean[:, -1], np.log(totals(given.X)), rtol=1e-6)


# --- denoise ---------------------------------------------------------------------------------------------------------


def test_expectations_sum_to_the_total_of_the_cell(tiny_sets_run, given):
    found = make(tiny_sets_run, mode="denoise", cells=given)
    values = found.layers["syncyte_denoised"].values
    assert values.shape == (60, 80) and list(found.layers["syncyte_denoised"].features) == list(
        tiny_sets_run.vocabularies["rna"].index
    )
    np.testing.assert_allclose(values.sum(axis=1), totals(given.X), rtol=1e-4)
    real = given.X.toarray()
    flat = real.sum(axis=0) / real.sum() * totals(given.X)[:, None]
    assert ((real - values) ** 2).mean() < ((real - flat) ** 2).mean()  # nearer than the mean profile
    adata = given.copy()
    found.write(adata)
    np.testing.assert_array_equal(adata.layers["syncyte_denoised"], values)


def test_some_features_are_those_of_all(tiny_sets_run, given, tmp_path):
    whole = make(tiny_sets_run, mode="denoise", cells=given).layers["syncyte_denoised"].values
    names = [str(name) for name in given.var_names[[40, 3, 17]]]
    (tmp_path / "genes.txt").write_text("\n".join(names) + "\n")
    for features in (names, tmp_path / "genes.txt", str(tmp_path / "genes.txt")):
        layer = make(tiny_sets_run, mode="denoise", cells=given, features=features).layers["syncyte_denoised"]
        assert list(layer.features) == names
        np.testing.assert_allclose(layer.values, whole[:, [40, 3, 17]], rtol=1e-4)
    out = tmp_path / "smooth.h5ad"
    make(tiny_sets_run, mode="denoise", cells=given, features=names, out=out)
    written = anndata.read_h5ad(out)
    np.testing.assert_allclose(written.X, whole[:, [40, 3, 17]], rtol=1e-4)
    assert list(written.var_names) == names and list(written.obs_names) == list(given.obs_names)
    with pytest.raises(DataError, match=r"1 of 2 features asked for are not in the model's 80 rna"):
        make(tiny_sets_run, mode="denoise", cells=given, features=[names[0], "NOGENE"])


def test_expectations_that_do_not_fit_are_refused(tiny_sets_run, given, monkeypatch):
    monkeypatch.setattr(generate, "MOST_BYTES", 1000)
    with pytest.raises(
        DataError, match=r"Expectations of 60 cells x 80 features take .* Restrict with --features FILE"
    ):
        make(tiny_sets_run, mode="denoise", cells=given)
    names = list(given.var_names[:2])
    assert (
        make(tiny_sets_run, mode="denoise", cells=given, features=names).layers["syncyte_denoised"].values.size == 120
    )


# --- interpolate -----------------------------------------------------------------------------------------------------


def test_the_ends_of_a_way_are_the_cells_of_the_two_conditions(tiny_sets_run, monkeypatch):
    """Also where they take several blocks."""
    monkeypatch.setattr(plans, "BLOCK", 10)
    attributes = coder_of(tiny_sets_run).attributes
    ends = [read_where(end, attributes) for end in ENDS]
    plan = plan_between(tiny_sets_run, 25, ends, 3, Sampling(), 7)
    begin, end = (
        np.concatenate([own.points(first, min(first + 10, 25)) for first in (0, 10, 20)])
        for own in (plan_new(tiny_sets_run, 25, one, Sampling(), 7) for one in ends)
    )
    np.testing.assert_array_equal(plan.points(0, 25), begin)
    np.testing.assert_array_equal(plan.points(50, 75), end)
    np.testing.assert_allclose(plan.points(25, 50), (begin + end) / 2, atol=1e-6)
    np.testing.assert_array_equal(plan.points(20, 55), plan.points(0, 75)[20:55])
    assert np.abs(begin - end).max() > 0.2


def test_places_between_two_conditions(tiny_sets_run):
    made = make(tiny_sets_run, mode="interpolate", between=ENDS, n=12, stops=4)
    assert made.counts.shape == (48, 80)
    assert made.obs["syncyte_place"].value_counts().to_dict() == dict.fromkeys(np.linspace(0, 1, 4), 12)
    assert made.obs["syncyte_path"].tolist() == list(range(12)) * 4
    assert made.facts["between"] == [dict(end) for end in ENDS]
    texts = make(tiny_sets_run, mode="interpolate", between=["cell_type=B", "cell_type=HSC"], n=4, stops=2)
    assert texts.facts["between"] == [{"cell_type": "B"}, {"cell_type": "HSC"}] and texts.counts.shape == (8, 80)
    with pytest.raises(DataError, match="Unknown value of 'cell_type' 'X'"):
        make(tiny_sets_run, mode="interpolate", between=["cell_type=B", "cell_type=X"], n=4)


# --- augment ---------------------------------------------------------------------------------------------------------


def test_rare_labels_are_filled_up_behind_the_real_cells(tiny_sets_run, given):
    counts = given.obs["cell_type"].value_counts()
    made = make(tiny_sets_run, mode="augment", cells=given, key="cell_type")
    new = made.obs["syncyte_generated"].to_numpy()
    assert not new[:60].any() and new[60:].all()
    assert same(made.counts[:60], given.X) and list(made.obs.index[:60]) == list(given.obs_names)
    assert set(made.obs["cell_type"].astype(str).value_counts()) == {counts.max()}
    assert made.facts["least"] == counts.max() and made.counts.dtype == np.int32
    assert (totals(made.counts[60:]) > 0).all() and made.obs.index.is_unique
    some = make(tiny_sets_run, mode="augment", cells=given, key="cell_type", least=int(counts.max()) + 5)
    assert set(some.obs["cell_type"].astype(str).value_counts()) == {counts.max() + 5}
    few = make(tiny_sets_run, mode="augment", cells=given, least=int(counts.min()) + 1)  # by the label of the run
    added = few.obs["cell_type"].astype(str)[few.obs["syncyte_generated"].to_numpy()]
    assert set(added) == set(counts.index[counts == counts.min()])


def test_augmented_cells_do_not_hang_on_blocks_that_real_cells_take(tiny_sets_run, given, tmp_path, monkeypatch):
    """Stretches of labels and blocks cross in every way: the coordinates of a new cell are the same."""
    for module in (draw, plans, generate):
        monkeypatch.setattr(module, "BLOCK", 16)
    how = {"mode": "augment", "cells": given, "key": "cell_type", "least": 30}
    seen = []
    real = generate.draw_counts
    monkeypatch.setattr(generate, "draw_counts", lambda run, points, key: seen.append(points) or real(run, points, key))
    made = make(tiny_sets_run, **how)
    cells = tiny_sets_run.align(cells_of(given))
    plan = plans.plan_augment(tiny_sets_run, cells, "cell_type", 30, Sampling(), 0)
    new = len(plan.obs) - 60
    np.testing.assert_array_equal(np.concatenate(seen), plan.points(0, new))
    for row in range(0, new, 7):
        np.testing.assert_allclose(plan.points(row, row + 1)[0], np.concatenate(seen)[row], atol=1e-6)
    assert len(np.unique(np.concatenate(seen), axis=0)) == new
    out = tmp_path / "more.h5ad"
    make(tiny_sets_run, **how, out=out)
    assert same(anndata.read_h5ad(out).X, made.counts)


def test_labels_that_cannot_be_filled_are_refused(tiny_sets_run, given):
    with pytest.raises(ConfigError, match=r"Every value of 'cell_type' has 2 cells or more already"):
        make(tiny_sets_run, mode="augment", cells=given, key="cell_type", least=2)
    with pytest.raises(DataError, match=r"Unknown condition of this run 'pseudotime'|Unknown obs column 'pseudotime'"):
        make(tiny_sets_run, mode="augment", cells=given, key="pseudotime")
    strange = given.copy()
    strange.obs["cell_type"] = strange.obs["cell_type"].astype(str).replace({"B": "NKT"})
    with pytest.raises(DataError, match="Unknown value of 'cell_type' 'NKT'"):
        make(tiny_sets_run, mode="augment", cells=strange, key="cell_type")


def test_unlabelled_cells_are_kept_and_not_filled(tiny_sets_run, given, tmp_path):
    """And columns that new cells lack, or that lack some values, are written all the same."""
    some = given.copy()
    some.obs["sample"] = ["s1", "s2"] * 30
    labels = some.obs["cell_type"].astype(object)
    labels.iloc[:7] = None
    some.obs["cell_type"] = labels
    made = make(tiny_sets_run, mode="augment", cells=some, key="cell_type", least=25)
    assert same(made.counts[:60], some.X) and made.obs["cell_type"].isna().sum() == 7
    assert set(made.obs["cell_type"].dropna().value_counts()) == {25}
    make(tiny_sets_run, mode="augment", cells=some, key="cell_type", least=25, out=tmp_path / "more.h5ad")
    written = anndata.read_h5ad(tmp_path / "more.h5ad")
    assert same(written.X, made.counts) and written.obs["sample"].tolist()[:2] == ["s1", "s2"]
    assert written.obs["sample"].isna().sum() == len(made.obs) - 60 and written.obs["cell_type"].isna().sum() == 7


def test_given_cells_without_the_modality_are_left_out(tiny_sets_run):
    mosaic = world(40, paired=0.4, seed=3)
    cells = cells_of(mosaic)
    have = cells.present("rna")
    made = make(tiny_sets_run, mode="reconstruct", cells=mosaic)
    assert made.obs["syncyte_from"].tolist() == list(cells.names[have]) and (totals(made.counts) > 0).all()
    assert made.facts["notes"] == [f"{(~have).sum()} given cells have no rna and are left out."]
    smooth = make(tiny_sets_run, mode="denoise", cells=mosaic)
    assert list(smooth.cells) == list(cells.names[have])
    assert smooth.layers["syncyte_denoised"].values.shape == (have.sum(), 80)


# --- what a result hangs on ------------------------------------------------------------------------------------------


def recounted(given) -> anndata.AnnData:
    """The same cells, one count more in one of them."""
    other = given.copy()
    values = other.X.toarray()
    values[11, 5] += 1
    other.X = sp.csr_matrix(values)
    return other


def test_a_fingerprint_of_counts_changes_with_each_count(tiny_sets_run, given):
    cells = tiny_sets_run.align(cells_of(given))
    own = plans.counts_digest(cells, "rna")
    assert own == plans.counts_digest(tiny_sets_run.align(cells_of(given.copy())), "rna") and len(own) == 16
    for other in (recounted(given), given[::-1].copy(), given[:, ::-1][:, 1:].copy(), given[:59].copy()):
        assert plans.counts_digest(tiny_sets_run.align(cells_of(other)), "rna") != own
    swapped = given[:, ::-1].copy()  # which aligning puts back
    assert plans.counts_digest(tiny_sets_run.align(cells_of(swapped)), "rna") == own
    renamed = given.copy()
    renamed.obs_names = [f"x{name}" for name in renamed.obs_names]
    assert plans.counts_digest(tiny_sets_run.align(cells_of(renamed)), "rna") == own  # names are stamped by the table


@pytest.mark.parametrize("mode", ["augment", "reconstruct"])
def test_blocks_of_other_counts_are_not_taken_up(tiny_sets_run, given, tmp_path, monkeypatch, mode):
    """A file that was begun with a count less in a cell is begun anew, and with the same counts it goes on."""
    for module in (draw, plans, generate):
        monkeypatch.setattr(module, "BLOCK", 16)
    out, key = tmp_path / "O.h5ad", {"augment": "given", "reconstruct": "points"}[mode]
    real, done = generate.draw_counts, []

    def killed(*asked):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*asked)

    taken = []
    for other in (given, recounted(given)):
        done.clear()
        monkeypatch.setattr(generate, "draw_counts", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tiny_sets_run, mode=mode, cells=given, out=out)
        monkeypatch.setattr(generate, "draw_counts", real)
        made = make(tiny_sets_run, mode=mode, cells=other, out=out)
        taken.append(made.facts["blocks_taken_up"])
        assert same(made.adata().X, make(tiny_sets_run, mode=mode, cells=other).counts)
    assert taken[0] >= 2 and taken[1] == 0
    assert made.facts[key] != make(tiny_sets_run, mode=mode, cells=given).facts[key]


def test_every_plan_that_follows_the_flow_tells_what_it_cost(tiny_sets_run, given):
    between = {"mode": "interpolate", "between": ENDS, "stops": 2, "n": 2}
    ways = ({"n": 2}, {"n": 2, "mode": "unconditional"}, between, {"mode": "augment", "cells": given})
    for asked in ways:
        assert make(tiny_sets_run, **asked, steps=3).facts["evaluations"] == 6
        assert make(tiny_sets_run, **asked, steps=3, settings=["solver=euler"]).facts["evaluations"] == 3
    assert "evaluations" not in make(tiny_sets_run, mode="reconstruct", cells=given).facts


# --- depth -----------------------------------------------------------------------------------------------------------


def test_totals_come_from_the_flow_a_table_or_the_user(tiny_sets_run, tiny_data):
    asked = {"n": 300, "where": {"batch": "batch_1"}}
    real = totals(tiny_data["rna"].X)[(tiny_data.obs["batch"] == "batch_1").to_numpy()]
    found = {depth: totals(make(tiny_sets_run, **asked, depth=depth).counts) for depth in ("flow", "attributes", 500)}
    for depth in ("flow", "attributes"):
        assert np.median(found[depth]) == pytest.approx(np.median(real), rel=0.25)
        assert 0.4 < np.log(found[depth]).std() / np.log(real).std() < 2
    assert found[500].mean() == pytest.approx(500, rel=0.05) and np.log(found[500]).std() < 0.4
    assert not np.array_equal(found["flow"], found["attributes"])
    np.testing.assert_array_equal(found[500], totals(make(tiny_sets_run, **asked, depth="500").counts))


def test_a_slip_of_the_flow_makes_no_endless_cell(tiny_sets_run):
    points = np.zeros((2, 5), dtype=np.float32)
    points[:, -1] = [5.0, 400.0]
    made = totals(draw.draw_counts(tiny_sets_run, points, (0,)))
    assert made[0] < 1_000 and made[1] == pytest.approx(np.exp(draw.MOST_LOG_TOTAL), rel=0.5)


def test_counts_do_not_hang_on_how_many_are_made_at_once(tiny_sets_run, monkeypatch):
    """The totals agree: parts of a block are drawn one after the other, with the same expectations."""
    points = np.tile(np.r_[np.zeros(4), 6.0].astype(np.float32), (400, 1))
    whole = draw.draw_counts(tiny_sets_run, points, (1,))
    monkeypatch.setattr(draw, "ENTRIES", 80 * 150)
    parts = draw.draw_counts(tiny_sets_run, points, (1,))
    expected = draw.expected_counts(tiny_sets_run, points[:1])[0]
    for counts in (whole, parts):
        assert counts.shape == (400, 80) and counts.dtype == np.int32
        assert np.abs(np.asarray(counts.mean(axis=0)).ravel() - expected).max() < 0.2 * expected.max() + 0.3
    assert totals(parts).mean() == pytest.approx(totals(whole).mean(), rel=0.05)


def test_depth_of_given_cells_is_their_own(tiny_sets_run, given):
    """Real cells of an augmented table are never drawn again, whatever the depth of new ones."""
    made = make(tiny_sets_run, mode="augment", cells=given, key="cell_type", depth=300)
    assert same(made.counts[:60], given.X)
    assert totals(made.counts[60:]).mean() == pytest.approx(300, rel=0.15)
