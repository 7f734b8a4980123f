"""Generated cells: what is asked for, the noise they share, how the flow is followed, and files that survive a kill."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from tests.tiny import cells_of, world

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.models.conditions import Shares
from syncyte.nn.flow import Term
from syncyte.tasks import draw, generate, plans
from syncyte.tasks.blocks import write_blocks
from syncyte.tasks.draw import Sampling, coder_of, encode_points, follow, terms_of
from syncyte.tasks.plans import plan_new, read_where

B = {"cell_type": "B"}


def make(run, n: int = 40, **options):
    return syncyte.generate(run, n=n, quiet=True, **options)


def points(run, n: int = 40, where=(), seed: int = 0, **how) -> np.ndarray:
    """Coordinates of new cells."""
    asked = read_where(where, coder_of(run).attributes)
    return plan_new(run, n, asked, Sampling(**how), seed).points(0, n)


def same(first: sp.csr_matrix, second: sp.csr_matrix) -> bool:
    return first.shape == second.shape and (first != second).nnz == 0


# --- what comes out --------------------------------------------------------------------------------------------------


def test_cells_are_sparse_whole_counts_over_the_genes_of_the_run(tiny_sets_run):
    made = make(tiny_sets_run, 37)
    assert sp.issparse(made.counts) and made.counts.shape == (37, 80) and made.counts.dtype == np.int32
    assert made.counts.data.min() >= 0 and list(made.var.index) == list(tiny_sets_run.vocabularies["rna"].index)
    assert made.obs.index[:2].tolist() == ["generated_0", "generated_1"] and made.path is None
    assert list(made.obs.columns) == ["cell_type", "batch", "pseudotime"] and made.table() is made.obs
    adata = made.adata()
    assert adata.shape == (37, 80) and json.loads(adata.uns["syncyte"]["generate"])["cells"] == 37
    assert cells_of(adata).modalities == ("rna",)  # syncyte reads what it made


def test_attributes_that_are_not_asked_for_come_in_training_shares(tiny_sets_run):
    shares = Shares.read(tiny_sets_run.recipe["shares"])
    frame = shares.table.assign(n=shares.counts).groupby(["cell_type", "batch"])["n"].sum()
    made = make(tiny_sets_run, 300).obs.groupby(["cell_type", "batch"]).size()
    assert (made / 300 - frame / frame.sum()).abs().max() < 0.03
    given = make(tiny_sets_run, 60, where=B).obs
    own = frame["B"] / frame["B"].sum()
    assert (given["cell_type"] == "B").all()
    assert (given["batch"].value_counts() / 60 - own).abs().max() < 0.06


def test_what_is_asked_for_is_made(tiny_sets_run, tiny_data):
    """Generated types differ from each other in the genes in which real ones do."""
    real, labels = tiny_data["rna"].X, tiny_data.obs["cell_type"].to_numpy()

    def profile(counts) -> np.ndarray:
        return np.log1p(1e4 * np.asarray(counts.sum(axis=0)).ravel() / counts.sum())

    found, wanted = (
        profile(rows["B"]) - profile(rows["HSC"])
        for rows in (
            {name: make(tiny_sets_run, 150, where={"cell_type": name}).counts for name in ("B", "HSC")},
            {name: real[labels == name] for name in ("B", "HSC")},
        )
    )
    assert np.corrcoef(found, wanted)[0, 1] > 0.6 and np.abs(found).mean() > 0.3 * np.abs(wanted).mean()


def test_pairs_may_be_texts_or_a_mapping(tiny_sets_run):
    forms = (["cell_type=B", "pseudotime=0.5"], {"cell_type": "B", "pseudotime": 0.5}, {**B, "pseudotime": "0.5"})
    made = [make(tiny_sets_run, 8, where=where) for where in forms]
    assert (made[0].obs["pseudotime"] == 0.5).all()
    assert all(same(one.counts, made[0].counts) for one in made[1:])
    assert make(tiny_sets_run, 3, where="cell_type=B").obs["cell_type"].tolist() == ["B"] * 3


def test_an_empty_value_says_nothing(tiny_sets_run):
    made = make(tiny_sets_run, 6, where=["batch=", "pseudotime=", "cell_type=B"])
    assert (made.obs["batch"] == "").all() and made.obs["pseudotime"].isna().all()
    nothing = make(tiny_sets_run, 6, mode="unconditional")
    assert (nothing.obs[["cell_type", "batch"]] == "").all(axis=None) and nothing.obs["pseudotime"].isna().all()
    assert nothing.facts["unconditional"] and nothing.counts.sum() > 0
    with pytest.raises(ConfigError, match="--unconditional says nothing of the cells, --where does"):
        make(tiny_sets_run, 6, mode="unconditional", where=B)


# --- noise -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_cells(tiny_sets_run):
    first, again, other = (make(tiny_sets_run, where=B, seed=seed) for seed in (3, 3, 4))
    assert same(first.counts, again.counts) and first.obs.equals(again.obs)
    assert not same(first.counts, other.counts)
    state = torch.get_rng_state()
    make(tiny_sets_run, 2)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random state has no part in it


def test_the_same_noise_under_another_condition_makes_pairs(tiny_sets_run):
    asked = {"batch": "batch_1", "pseudotime": 0.5}
    first, second = (points(tiny_sets_run, 200, {**asked, "cell_type": kind}) for kind in ("B", "HSC"))
    other = points(tiny_sets_run, 200, {**asked, "cell_type": "HSC"}, seed=1)

    def r(a, b) -> float:
        return float(np.mean([np.corrcoef(a[:, axis], b[:, axis])[0, 1] for axis in range(a.shape[1])]))

    assert r(first, second) > 0.5 and abs(r(first, other)) < 0.2
    assert np.abs(first.mean(axis=0) - second.mean(axis=0)).max() > 0.2  # and yet they are other cells


def test_a_cell_hangs_on_its_block_alone(tiny_sets_run, monkeypatch):
    """More cells begin with the same ones, where the attributes are the same."""
    for module in (draw, plans, generate):
        monkeypatch.setattr(module, "BLOCK", 10)
    whole = {**B, "batch": "batch_1", "pseudotime": 0.4}
    few, many = make(tiny_sets_run, 20, where=whole), make(tiny_sets_run, 25, where=whole)
    assert same(few.counts, many.counts[:20]) and not same(few.counts[:10], few.counts[10:])


# --- how the flow is followed ----------------------------------------------------------------------------------------


def test_steps_and_scheme_change_the_result_and_their_cost_is_told(tiny_sets_run):
    found = {
        (steps, solver): make(tiny_sets_run, where=B, steps=steps, settings=[f"solver={solver}"])
        for steps in (2, 16)
        for solver in ("heun", "euler")
    }
    assert {key: one.facts["evaluations"] for key, one in found.items()} == {
        (2, "heun"): 4, (2, "euler"): 2, (16, "heun"): 32, (16, "euler"): 16,
    }  # fmt: skip
    reference = points(tiny_sets_run, where=B, steps=64)
    errors = [np.abs(points(tiny_sets_run, where=B, steps=steps) - reference).max() for steps in (2, 16)]
    assert 0 < errors[1] < errors[0]
    assert not np.allclose(points(tiny_sets_run, where=B, steps=2, solver="euler"), reference, atol=1e-3)
    assert not same(found[2, "euler"].counts, found[16, "heun"].counts)


@pytest.fixture
def calls(tiny_sets_run):
    """Rows of each forward pass of the velocity network."""
    rows: list[int] = []
    hook = tiny_sets_run.model.flow.network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    yield rows
    hook.remove()


def test_no_guidance_is_one_forward_of_the_cells_and_guidance_one_of_twice_as_many(tiny_sets_run, calls):
    plain = make(tiny_sets_run, 10, where=B)
    assert calls == [10] * plain.facts["evaluations"]
    calls.clear()
    again = make(tiny_sets_run, 10, where=B, guidance=1.0, settings=["kind=chain", "begin=0.3", "rescale=0.5"])
    assert calls == [10] * 16 and same(plain.counts, again.counts)
    calls.clear()
    strong = make(tiny_sets_run, 10, where=B, guidance=2.0)
    assert calls == [20] * 16 and not same(plain.counts, strong.counts)
    calls.clear()
    make(tiny_sets_run, 10, where=B, guidance=2.0, settings=["begin=0.5", "solver=euler", "steps=4"])
    assert calls == [10, 10, 20, 20]
    calls.clear()
    make(tiny_sets_run, 10, where=B, guidance=0.0)
    assert calls == [10] * 16


def test_guidance_leads_on_along_the_difference(tiny_sets_run):
    """What guidance 1 adds to nothing said, guidance 2 adds again (to first order, at the first step)."""
    none, one, two = (points(tiny_sets_run, 30, B, guidance=w, steps=1, solver="euler") for w in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(two - one, one - none, atol=1e-4)
    assert np.abs(one - none).max() > 0.05


def test_a_reference_is_what_guidance_leads_away_from(tiny_sets_run):
    asked = {"batch": "batch_1", "pseudotime": 0.5, "cell_type": "B"}
    with pytest.raises(ConfigError, match=r"'referenced' needs a reference condition \(--reference KEY=VALUE\)"):
        make(tiny_sets_run, 3, where=asked, guidance=2.0, settings=["kind=referenced"])
    first, second = (
        make(tiny_sets_run, 3, where=asked, guidance=2.0, settings=["kind=referenced"], reference={"cell_type": kind})
        for kind in ("HSC", "CD4 T")
    )
    assert not same(first.counts, second.counts) and first.facts["reference"] == {"cell_type": "HSC"}
    itself = make(tiny_sets_run, 3, where=asked, guidance=2.0, settings=["kind=referenced"], reference=B)
    assert same(itself.counts, make(tiny_sets_run, 3, where=asked).counts)


def test_terms_are_those_of_the_kind(tiny_sets_run):
    condition = {"a": torch.ones(2), "b": torch.ones(2)}
    null = {"a": torch.zeros(2), "b": torch.zeros(2)}

    def weights(**how) -> list[float]:
        return [term.weight for term in terms_of(condition, null, null, Sampling(**how))]

    assert weights() == [1.0] == weights(kind="chain") == weights(kind="referenced")
    assert weights(guidance=3.0) == [3.0, -2.0] == weights(guidance=3.0, kind="referenced")
    assert weights(guidance=3.0, kind="additive") == [3.0, 3.0, -5.0]
    assert weights(kind="additive") == [1.0, 1.0, -1.0]  # without an interaction it is not the plain condition
    for attribute, kept in (("b", "a"), ("a", "b"), ("", "a")):  # the last one by default
        terms = terms_of(condition, null, None, Sampling(guidance=3.0, kind="chain", attribute=attribute))
        acting = [term for term in terms if term.weight]
        assert [term.weight for term in acting] == [-2.0, 3.0] and acting[1].condition["a"].all()
        assert acting[0].condition[kept].all() and not acting[0].condition["b" if kept == "a" else "a"].any()
    with pytest.raises(ConfigError, match=r"(?i)unknown attribute of this run 'c'.*a, b"):
        terms_of(condition, null, None, Sampling(guidance=3.0, kind="chain", attribute="c"))
    described = {"a": torch.ones(2), "a.features": torch.ones(2, 3), "b": torch.ones(2)}
    blank = {name: torch.zeros_like(value) for name, value in described.items()}
    both = terms_of(described, blank, None, Sampling(guidance=2.0, kind="additive"))
    assert [term.weight for term in both] == [2.0, 2.0, -3.0]  # a category and its features are one attribute
    assert both[0].condition["a"].all() and both[0].condition["a.features"].all() and not both[0].condition["b"].any()
    one = terms_of({"a": torch.ones(2)}, {"a": torch.zeros(2)}, None, Sampling(guidance=2.0, kind="additive"))
    assert [term.weight for term in one] == [2.0, -1.0] and isinstance(one[0], Term)


def test_a_path_backward_undoes_a_path(tiny_sets_run):
    model, coder = tiny_sets_run.model, coder_of(tiny_sets_run)
    table = pd.DataFrame({"cell_type": ["B"] * 20, "batch": "batch_2", "pseudotime": 0.3})
    condition = coder.tensors(coder.arrays(table))
    noise = torch.randn(20, model.flow.coordinates, generator=torch.Generator().manual_seed(0))
    how = Sampling(steps=40)
    data = follow(model, noise, condition, how)
    assert (data - noise).abs().max() > 0.3
    np.testing.assert_allclose(follow(model, data, condition, how, backward=True), noise, atol=0.02)


# --- what is refused, and noted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"where": ["cell_type=B", "cell_type=HSC"]}, ConfigError, "cell_type=B and cell_type=HSC at once"),
        ({"where": ["cell_type"]}, ConfigError, "--where cell_type: expected KEY=VALUE"),
        ({"where": {"cel_type": "B"}}, DataError, r"'cel_type'\. Did you mean 'cell_type'\? Known: batch, cell_ty"),
        ({"where": {"cell_type": "b cell"}}, DataError, r"Unknown value of 'cell_type' .*Known: B, CD14 Mono, CD4 T"),
        ({"where": {"pseudotime": "late"}}, DataError, r"'pseudotime' is a number in this run \(mean 0\..*'late'"),
        ({"where": {"pseudotime": "inf"}}, DataError, "'pseudotime' is a number in this run .*'inf'"),
        ({"reference": {"cell_type": "X"}}, DataError, "Unknown value of 'cell_type' 'X'"),
        ({"n": 0}, ConfigError, "--n 0: give the number of cells"),
        ({"n": -3}, ConfigError, "--n -3"),
        ({"mode": "newer"}, ConfigError, r"Unknown mode 'newer'\. Did you mean 'new'"),
        ({"depth": "deep"}, ConfigError, "--depth deep: give 'flow'"),
        ({"depth": 0}, ConfigError, "--depth 0: give 'flow'"),
        ({"settings": ["solver=rk4"]}, ConfigError, "solver"),
        ({"settings": ["step=4"]}, ConfigError, r"'step'\. Did you mean 'steps'"),
        ({"guidance": -1.0}, ConfigError, "guidance"),
        ({"mode": "reconstruct"}, ConfigError, r"'reconstruct' starts from given cells: name them with --cells"),
        ({"mode": "augment"}, ConfigError, "'augment' starts from given cells"),
        ({"mode": "interpolate", "between": [B]}, ConfigError, r"--between is given twice.*found 1 ends and 5 stops"),
        ({"mode": "interpolate", "between": [B, B], "stops": 1}, ConfigError, "found 2 ends and 1 stops"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_with_what_exists(tiny_sets_run, options, kind, words):
    with pytest.raises(kind, match=words):
        make(tiny_sets_run, **{"n": 4, **options})


def test_a_combination_that_training_lacked_is_noted(tmp_path):
    from tests.tiny import train_tiny_sets

    data = world(120)
    lacking = data[~((data.obs["cell_type"] == "B") & (data.obs["batch"] == "batch_2")).to_numpy()].copy()
    run = train_tiny_sets(lacking, tmp_path / "RUN", condition_keys=("batch",))
    made = make(run, 5, where={**B, "batch": "batch_2"})
    assert made.facts["notes"] == [
        "No training cell had cell_type=B and batch=batch_2 together: this combination is put together from its parts."
    ]
    assert made.counts.sum() > 0 and not make(run, 5, where={**B, "batch": "batch_1"}).facts["notes"]
    assert not make(run, 5, where=B).facts["notes"]


def test_tasks_that_need_more_are_refused_in_one_sentence(tiny_sets_run, tiny_run, tiny_data):
    with pytest.raises(CapabilityError, match=r"is a clm_x run, which cannot generate cells\. Train a recipe that can"):
        make(tiny_run, 3)
    with pytest.raises(CapabilityError, match="is a scldm run, which cannot translate"):
        syncyte.translate(tiny_sets_run, tiny_data, source="rna", target="atac")
    with pytest.raises(CapabilityError, match="which cannot integrate technical batches"):
        syncyte.integrate(tiny_sets_run, tiny_data, batch_key="batch", quiet=True)
    with pytest.raises(CapabilityError, match=r"is a scldm run, which cannot be fine-tuned .*--method probe"):
        syncyte.annotate(
            tiny_sets_run, tiny_data, reference=tiny_data, label_key="cell_type", method="lora", quiet=True
        )


def test_codes_serve_embed_and_annotate(tiny_sets_run, tiny_data):
    new = world(120, seed=8)
    vectors = syncyte.embed(tiny_sets_run, new).obsm["X_syncyte"]
    assert vectors.shape == (120, 4)
    np.testing.assert_allclose(vectors, encode_points(tiny_sets_run, tiny_sets_run.align(cells_of(new)))[:, :4])
    keys = {"reference": tiny_data, "label_key": "cell_type", "quiet": True}
    found = syncyte.annotate(tiny_sets_run, new, method="probe", **keys)
    truth = new.obs["cell_type"].astype(str).to_numpy()
    assert (found.obs["syncyte_cell_type"] == truth).mean() > 0.6 > pd.Series(truth).value_counts(normalize=True).max()


# --- interrupted files -----------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill."""


def rows_made(first: int, last: int) -> sp.csr_matrix:
    return sp.random(last - first, 12, 0.4, format="csr", random_state=first, data_rvs=lambda n: np.full(n, first + 1))


def test_a_killed_file_goes_on_where_it_stopped(tmp_path):
    obs = pd.DataFrame({"x": np.arange(25)}, index=[f"c{number}" for number in range(25)])
    var = pd.DataFrame(index=[f"g{number}" for number in range(12)])
    out, blocks, asked = tmp_path / "out.h5ad", tmp_path / ".out.h5ad.blocks", []

    def make_some(last_good: int = 99):
        def make(first: int, last: int) -> sp.csr_matrix:
            if first > last_good:
                raise Killed
            asked.append((first, last))
            return rows_made(first, last)

        return make

    how = {"size": 10, "uns": {"said": "x"}, "quiet": True}
    with pytest.raises(Killed):
        write_blocks(out, obs, var, make_some(10), stamp={"seed": 1}, **how)
    assert not out.exists() and blocks.is_dir() and asked == [(0, 10), (10, 20)]
    asked.clear()
    assert write_blocks(out, obs, var, make_some(), stamp={"seed": 1}, **how) == 2 and asked == [(20, 25)]
    found = anndata.read_h5ad(out)
    wanted = sp.vstack([rows_made(first, min(first + 10, 25)) for first in (0, 10, 20)], format="csr")
    assert same(sp.csr_matrix(found.X), wanted) and found.X.dtype == np.int32 and found.uns["said"] == "x"
    assert found.obs["x"].tolist() == list(range(25)) and list(tmp_path.iterdir()) == [out]
    for change in ({"stamp": {"seed": 2}}, {"obs": obs.rename(index={"c0": "d0"})}, {"size": 11}):
        with pytest.raises(Killed):
            write_blocks(out, obs, var, make_some(10), stamp={"seed": 1}, **how)
        asked.clear()
        changed = {"obs": obs, "var": var, "make": make_some(), "stamp": {"seed": 1}, **how, **change}
        assert write_blocks(out, **changed) == 0 and len(asked) == 3  # other rows: nothing is taken up


def test_a_killed_command_ends_like_one_that_was_not(tiny_sets_run, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "BLOCK", 10)
    asked, out = {"where": B, "n": 35, "depth": "attributes"}, tmp_path / "cells.h5ad"
    whole = make(tiny_sets_run, **asked)
    real, done = draw.draw_counts, []

    def killed(*given):
        if len(done) == 2:
            raise Killed
        done.append(1)
        return real(*given)

    monkeypatch.setattr(generate, "draw_counts", killed)
    with pytest.raises(Killed):
        make(tiny_sets_run, out=out, **asked)
    assert not out.exists()
    monkeypatch.setattr(generate, "draw_counts", real)
    made = make(tiny_sets_run, out=out, **asked)
    assert made.facts["blocks_taken_up"] == 2 and made.path == out and made.counts is None
    assert list(tmp_path.iterdir()) == [out] and same(sp.csr_matrix(made.adata().X), whole.counts)
    assert made.adata().obs["cell_type"].tolist() == ["B"] * 35
    record = json.loads(made.adata().uns["syncyte"]["generate"])
    assert record["run_fingerprint"] == tiny_sets_run.recipe["fingerprint"] and record["where"] == B
    assert make(tiny_sets_run, out=out, **{**asked, "seed": 1}).facts["blocks_taken_up"] == 0
