"""What a run knows of effects, and how cells are moved: by hand where that can be done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests.tiny import cells_of
from tests.treated import CONTROL, FEATURES, GIVEN, KEY, LACKING, treated

from syncyte.baselines.prediction import log_cp10k
from syncyte.errors import DataError
from syncyte.models.conditions import as_text
from syncyte.tasks import draw, respond
from syncyte.tasks.draw import Sampling, coder_of, encode_points
from syncyte.tasks.respond import gene_features, mean_logs, open_book, parts_of, predict_response


@pytest.fixture(scope="module")
def book(tiny_treated_run):
    return open_book(tiny_treated_run, KEY, CONTROL)


@pytest.fixture(scope="module")
def some(tiny_treated_run):
    """Counts, codes and table of new control cells."""
    cells = tiny_treated_run.align(cells_of(treated(each=10, seed=5)))
    cells = cells.take(np.flatnonzero((cells.obs[KEY] == CONTROL).to_numpy()))
    return cells.counts("rna"), encode_points(tiny_treated_run, cells, (0, 3)), cells.obs


def predict(run, book, some, target: str, method: str, **how):
    return predict_response(run, book, *some, target, method, Sampling(**how), 0)


def test_targets_are_read():
    assert parts_of("A") == ("A",) and parts_of("A+B") == ("A", "B") == parts_of(" A + B ") == parts_of(("A", "B"))


# --- what is known ---------------------------------------------------------------------------------------------------


def test_groups_are_those_of_the_training_cells(tiny_treated_run, book):
    """By type and drug; the pair that was lacking is not there, and cells of validation are not counted."""
    data = treated()
    kind, drug = (data.obs[name].astype(str).to_numpy() for name in ("cell_type", KEY))
    pairs = list(zip(book.groups.table["context"], book.groups.table["perturbation"], strict=True))
    assert LACKING not in pairs and ("B", "d1") in pairs and len(pairs) == 4 * 7 - 1
    assert book.contexts == ["cell_type"] and book.effects.names == list(GIVEN)
    logs = log_cp10k(data.X).toarray()
    for (context, value), mean, cells in zip(pairs, book.groups.means, book.groups.cells, strict=True):
        whole = logs[(kind == context) & (drug == value)]
        assert 0.6 * len(whole) < cells <= len(whole) and np.abs(mean - whole.mean(axis=0)).mean() < 0.2
    assert 0.8 < book.groups.cells.sum() / len(data) < 1


def test_contexts_are_the_other_labels(tiny_treated_run, book):
    table = pd.DataFrame({"cell_type": ["B", "HSC"], KEY: "none", "more": [1, 2]})
    assert book.context_of(table).tolist() == ["B", "HSC"]
    assert book.context_of(table.drop(columns="cell_type")).tolist() == ["", ""]
    two = replace(book, contexts=["cell_type", "more"])
    assert two.context_of(table).tolist() == ["B | 1", "HSC | 2"]
    one = open_book(tiny_treated_run, KEY, CONTROL, contexts=[])
    assert one.context_of(table).tolist() == ["all", "all"] and set(one.groups.table["context"]) == {"all"}
    assert one.groups.cells.sum() == book.groups.cells.sum()


def test_vectors_are_kept_where_the_flow_was_trained_on_such(tiny_treated_run):
    assert open_book(tiny_treated_run, KEY, CONTROL).vectors.empty
    assert open_book(tiny_treated_run, KEY, CONTROL, FEATURES).vectors is FEATURES
    wide = FEATURES.assign(third=0.0)
    assert open_book(tiny_treated_run, KEY, CONTROL, wide).vectors.empty
    strange = FEATURES.rename(index=lambda name: f"x{name}")
    with pytest.raises(DataError, match=r"names xd1, xd2, xd3 \.\.\., none of which .*'drug' .*\(d1, d2, d3 \.\.\.\)"):
        open_book(tiny_treated_run, KEY, CONTROL, strange)


def test_perturbed_genes_have_the_vectors_of_the_decoder(tiny_treated_run):
    genes = tiny_treated_run.vocabularies["rna"].index
    table = gene_features(tiny_treated_run, [*genes[:3], "other"])
    assert list(table.index) == list(genes) and gene_features(tiny_treated_run, [*genes[:2], "other"]).empty
    np.testing.assert_array_equal(table.loc[genes[5]], tiny_treated_run.model.decoder.table[5].detach())


# --- how cells are moved ---------------------------------------------------------------------------------------------


def test_regressed_cells_move_by_the_effects(tiny_treated_run, book, some):
    """In every context: means under two drugs lie as far apart as their effects, and depth as far as it was seen to."""
    counts, table, drugs = sp.vstack([some[0]] * 10, format="csr"), pd.concat([some[2]] * 10), ("d2", "d4")
    kinds = as_text(table["cell_type"]).to_numpy()
    many = counts, np.tile(some[1], (10, 1)), table
    found = [predict(tiny_treated_run, book, many, drug, "regression").counts for drug in drugs]
    for kind in np.unique(kinds):
        rows = kinds == kind
        first, second = (book.effect((drug,), mean_logs(counts[rows])) for drug in drugs)
        apart, wanted = mean_logs(found[1][rows]) - mean_logs(found[0][rows]), second.value - first.value
        assert np.corrcoef(apart, wanted)[0, 1] > 0.95 and 0.75 < apart @ wanted / (wanted @ wanted) < 1.15
        depths = [np.log(np.asarray(one[rows].sum(axis=1)).ravel()).mean() for one in found]
        assert depths[1] - depths[0] == pytest.approx(second.depth - first.depth, abs=0.06)


def test_rows_keep_their_order_whatever_their_context(tiny_treated_run, book, some):
    """Contexts are made one after the other, and put back where their cells stand."""
    counts, points, table = some
    kinds = as_text(table["cell_type"]).to_numpy()
    order = np.argsort(kinds, kind="stable")
    mixed = predict(tiny_treated_run, book, some, "d3", "regression")
    sorted_ = predict(tiny_treated_run, book, (counts[order], points[order], table.iloc[order]), "d3", "regression")
    depth = np.log(np.asarray(mixed.counts.sum(axis=1)).ravel())
    assert np.corrcoef(depth, points[:, -1])[0, 1] > 0.7
    for kind in np.unique(kinds):
        first, second = (one.counts[rows] for one, rows in ((mixed, kinds == kind), (sorted_, kinds[order] == kind)))
        assert np.abs(mean_logs(first) - mean_logs(second)).mean() < 0.5
    np.testing.assert_allclose(mixed.effect, sorted_.effect)


def test_the_effect_of_many_contexts_is_their_mean(tiny_treated_run, book, some):
    kinds = as_text(some[2]["cell_type"]).to_numpy()
    parts = [book.effect(("d1",), mean_logs(some[0][kinds == kind])) for kind in np.unique(kinds)]
    shares = np.array([np.mean(kinds == kind) for kind in np.unique(kinds)])
    for method in respond.METHODS:
        found = predict(tiny_treated_run, book, some, "d1", method)
        np.testing.assert_allclose(found.error**2, shares @ np.array([one.error**2 for one in parts]))
    found = predict(tiny_treated_run, book, some, "d1", "regression")
    np.testing.assert_allclose(found.effect, shares @ np.array([one.value for one in parts]))


def moved(run, book, some, target: tuple[str, ...], method: str, **how) -> np.ndarray:
    return respond._moved(run, book, some[1], some[2], target, method, Sampling(**how), 0)


def test_transport_to_the_control_itself_stays(tiny_treated_run, book, some):
    """There and back under the same condition; under another it goes away, and not far."""
    stayed = moved(tiny_treated_run, book, some, (CONTROL,), "transport", steps=40)
    np.testing.assert_allclose(stayed, some[1], atol=0.05)
    went = moved(tiny_treated_run, book, some, ("d3",), "transport", steps=40)
    away = np.abs(went - some[1]).mean(axis=0)
    assert away.max() > 0.2
    r = [np.corrcoef(went[:, axis], some[1][:, axis])[0, 1] for axis in range(went.shape[1])]
    fresh = moved(tiny_treated_run, book, some, ("d3",), "flow", steps=40)
    other = [np.corrcoef(fresh[:, axis], some[1][:, axis])[0, 1] for axis in range(went.shape[1])]
    assert np.mean(r) > np.mean(other) + 0.2  # a cell stays more itself than a new one of its type is like it


@pytest.mark.parametrize("method", ["transport", "flow"])
def test_combinations_add_up_in_codes(tiny_treated_run, book, some, method):
    one, two, both = (moved(tiny_treated_run, book, some, drugs, method) for drugs in (("d1",), ("d2",), ("d1", "d2")))
    base = some[1] if method == "transport" else moved(tiny_treated_run, book, some, (CONTROL,), method)
    np.testing.assert_allclose(both - base, (one - base) + (two - base), atol=1e-4)


def test_the_flow_is_told_the_features_of_what_it_never_saw(tiny_treated_run, some):
    book, coder = open_book(tiny_treated_run, KEY, CONTROL, FEATURES), coder_of(tiny_treated_run)
    table = some[2].iloc[:3]
    seen, unseen = (respond._told(coder, book, table, drug) for drug in ("d2", "d7"))
    assert f"{KEY}.features" not in seen and (seen[KEY] == 2).all()  # its own are looked up by its code
    assert (unseen[KEY] == 0).all() and unseen[f"{KEY}.features"].tolist() == [[np.float32(1.3), -0.5]] * 3
    assert unseen["cell_type"].tolist() == seen["cell_type"].tolist()
    found = coder.tensors(unseen)
    assert found[f"{KEY}.features"].shape == (3, 2) and not found[f"{KEY}.features"].isnan().any()


def test_blocks_are_put_together_in_order(tiny_treated_run, book, some, monkeypatch):
    """Of any size: codes do not hang on them where there is no noise."""
    whole = moved(tiny_treated_run, book, some, ("d2",), "transport")
    for module in (draw, respond):
        monkeypatch.setattr(module, "BLOCK", 32)
    np.testing.assert_allclose(moved(tiny_treated_run, book, some, ("d2",), "transport"), whole, atol=1e-4)
    for method in respond.METHODS:
        found = predict(tiny_treated_run, book, some, "d2", method)
        assert found.counts.shape == (120, 80) and found.counts.dtype == np.int32
        hit = np.argsort(-np.abs(book.effect(("d2",), mean_logs(some[0])).value))[:4]
        assert (np.sign(found.effect[hit]) == np.sign(book.effect(("d2",), mean_logs(some[0])).value[hit])).all()
