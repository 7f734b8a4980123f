"""Responses by a cell model: expected values of control cells, from perturbed cells that are given beside the run."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from tests.tiny import cells_of, world
from tests.treated import CONTROL, FEATURES, GIVEN, KEY, log_change, treated, true_effect

import syncyte
from syncyte.baselines.prediction import column_means, log_cp10k
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.tasks.embed import latents
from syncyte.tasks.perturb_expected import open_reference


@pytest.fixture(scope="module")
def controls():
    new = treated(each=10, seed=5)
    return new[(new.obs[KEY] == CONTROL).to_numpy()].copy()


@pytest.fixture(scope="module")
def reference():
    return treated()


@pytest.fixture
def ask(tiny_run, controls, reference, tmp_path):
    """Predict with the cell model; all options may be given otherwise."""

    def perturb(target="d3", **options):
        given = {"key": KEY, "control": CONTROL, "reference": reference, "out": tmp_path / "p.h5ad", "quiet": True}
        cells = options.pop("cells", controls)
        return syncyte.perturb(tiny_run, cells, target=target, **{**given, **options})

    return perturb


def effects_of(found, target: str) -> np.ndarray:
    own = found.effects[found.effects["target"] == target].set_index("gene")
    return own.loc[found.var.index, "effect"].to_numpy()


def test_known_effects_are_found(ask, controls, tmp_path):
    """In the table and in the expected values; controls hold what was measured."""
    found = ask(["d3", "d4", "d1+d2"])
    stored, n = found.adata(), len(controls)
    assert found.counts is None and sorted(path.name for path in tmp_path.iterdir()) == ["p.effects.csv", "p.h5ad"]
    assert stored.shape == (4 * n, 80) and stored.X.dtype == np.float32 and stored.X.min() >= 0
    np.testing.assert_allclose(stored.X[:n], log_cp10k(controls.X).toarray(), rtol=1e-5)
    plain = column_means(log_cp10k(controls.X))
    for number, target in enumerate(("d3", "d4", "d1+d2"), 1):
        truth, hit = true_effect(controls.X, target), log_change(target) != 0
        assert np.corrcoef(effects_of(found, target), truth)[0, 1] > 0.8
        moved = np.asarray(stored.X[number * n : (number + 1) * n].mean(axis=0)).ravel() - plain
        assert (np.sign(moved[hit]) == np.sign(truth[hit])).mean() > 0.8
    assert stored.obs[KEY].tolist() == [kind for kind in (CONTROL, "d3", "d4", "d1+d2") for _ in range(n)]
    assert stored.obs["syncyte_predicted"].sum() == 3 * n and stored.obs_names.is_unique
    assert stored.obs["syncyte_from"].tolist()[n:] == list(controls.obs_names) * 3
    record = json.loads(stored.uns["syncyte"]["perturb"])
    assert record["unit"] == "expected log1p counts per 10,000" and record["modality"] == "rna" and not record["notes"]
    table = pd.read_csv(tmp_path / "p.effects.csv")
    assert list(table.columns) == ["target", "gene", "effect", "error", "z", "sign", "rank"] and len(table) == 240
    assert found.plot().axes


def test_it_is_the_same_again(ask, tmp_path):
    first, second = ask(), ask(out=tmp_path / "q.h5ad")
    np.testing.assert_array_equal(first.adata().X, second.adata().X)
    assert first.effects.equals(second.effects)


def test_another_modality_is_predicted_from_what_was_measured_in_it(tiny_run, tmp_path):
    """Chromatin under a drug, of cells of which only the RNA is known, within 0 and 1."""
    data = world(200, seed=3)
    data.obs[KEY] = np.where(np.arange(200) % 2 == 0, CONTROL, "d1")
    atac = data["atac"].copy()
    opened = atac.X.toarray()
    opened[1::2, :60] = 1
    atac.X = opened
    both = MuData({"rna": data["rna"], "atac": atac})
    both.obs[KEY] = data.obs[KEY]
    cells = data["rna"][::2].copy()
    found = syncyte.perturb(
        tiny_run, cells, key=KEY, control=CONTROL, target="d1", reference=both, of="atac", out=tmp_path / "p.h5ad"
    )
    stored = found.adata()
    assert stored.shape == (200, 300) and stored.X.min() >= 0 and stored.X.max() <= 1
    effect = effects_of(found, "d1")
    assert effect[:60].mean() > 0.3 > 0.05 > np.abs(effect[60:]).mean() and found.facts["modality"] == "atac"
    assert (found.effects["sign"].iloc[:30] == 1).all()
    assert (stored.X[100:, :60].mean(axis=0) > stored.X[:100, :60].mean(axis=0) + 0.1).mean() > 0.8


def test_what_was_never_seen_is_noted(ask, tmp_path):
    FEATURES.to_csv(tmp_path / "drugs.csv")
    bare, told = ask("d7"), ask("d7", features=tmp_path / "drugs.csv", out=tmp_path / "q.h5ad")
    assert bare.facts["notes"] == [
        "d7: d7 was never seen and has no features: it gets the mean effect of all perturbations."
    ]
    assert told.facts["notes"] == ["d7: d7 was never seen: its effect comes from features of perturbations."]
    change = log_change("d7")
    assert np.corrcoef(effects_of(told, "d7"), change)[0, 1] > np.corrcoef(effects_of(bare, "d7"), change)[0, 1] + 0.2


def test_profiles_are_those_of_the_latent_space(tiny_run, reference):
    book = open_reference(tiny_run, cells_of(reference), "rna", KEY, CONTROL, ["cell_type"], pd.DataFrame())
    assert book.effects.names == list(GIVEN) and set(book.effects.profiles) == {"B", "CD14 Mono", "CD4 T", "HSC"}
    controls = reference[((reference.obs["cell_type"] == "B") & (reference.obs[KEY] == CONTROL)).to_numpy()].copy()
    wanted = latents(tiny_run, tiny_run.align(cells_of(controls), only=("rna",))).mean(axis=0)
    np.testing.assert_allclose(book.effects.profiles["B"], wanted, rtol=1e-4, atol=1e-5)
    assert book.groups.cells.sum() == len(reference)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"reference": None}, ConfigError, "keeps no perturbed cells: name them, with their controls, with --ref"),
        ({"out": None}, ConfigError, r"written to a file: give --out FILE\.h5ad"),
        ({"target": CONTROL}, ConfigError, "--target none is the control"),
        ({"target": ["d1", "d1"]}, ConfigError, "--target d1 is given twice"),
        ({"target": []}, ConfigError, r"Name what is to be done.*Trained on: d1, d2, d3, d4, d5, d6\."),
        ({"target": "d1+"}, ConfigError, r"'d1\+': give a value of 'drug'"),
        ({"key": "drg"}, DataError, r"Unknown obs column 'drg'\. Did you mean 'drug'"),
        ({"control": "ctrl"}, DataError, r"no cell that is perturbed .*\(drug=ctrl\).*holds 'drug' = d1, .*, none\."),
        ({"of": "protein"}, CapabilityError, "trained on rna and atac and knows no 'protein'"),
        ({"of": "atac"}, DataError, "reads atac; the cells have rna"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_with_what_exists(ask, options, kind, words, tmp_path):
    with pytest.raises(kind, match=words):
        ask(**options)
    assert list(tmp_path.iterdir()) == []


def test_references_that_hold_no_response_are_refused(ask, controls, reference, tmp_path):
    with pytest.raises(DataError, match=r"is perturbed beside control cells \(drug=none\).*'drug' = none\."):
        ask(reference=controls)
    others = (reference.obs[KEY] != CONTROL).to_numpy()
    with pytest.raises(DataError, match=r"no cell that is perturbed beside control cells .*'drug' = d1, d2"):
        ask(reference=reference[others].copy())
    with pytest.raises(DataError, match=r"0 of 288 cells are controls\. Unknown value of 'drug' 'none'"):
        ask(cells=reference[others].copy())
    FEATURES.rename(index=lambda name: f"x{name}").to_csv(tmp_path / "drugs.csv")
    with pytest.raises(DataError, match=r"names xd1, xd2, xd3 \.\.\., none of which is a known value of 'drug'"):
        ask(features=tmp_path / "drugs.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["drugs.csv"]


def test_a_killed_command_leaves_nothing_half_written(ask, tmp_path, monkeypatch):
    def interrupted(*given) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("syncyte.tasks.write.PredictionWriter.append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"method": "flow"}, {"guidance": 2.0}, {"settings": ["shift=2"]}])
def test_what_is_for_flows_is_refused(ask, options):
    with pytest.raises(ConfigError, match="no flow"):
        ask(**options)


def test_what_is_for_cell_models_is_refused_by_others(tiny_treated_run, controls, reference):
    for options in ({"reference": reference}, {"of": "rna"}):
        with pytest.raises(ConfigError, match="--reference and --of"):
            syncyte.perturb(tiny_treated_run, controls, key=KEY, control=CONTROL, target="d3", quiet=True, **options)
