"""Rankings of genes against known targets: numbers by hand, and a planted answer found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from tests.tiny_dna import moved, network_of

from syncyte.errors import DataError, GenomeError
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.target_sets import (
    CONTROLS,
    FIRST,
    all_targets,
    co_expression,
    controls_of,
    rankings,
    read_targets,
    score_targets,
)

GENES = 200
RNG = np.random.default_rng(0)
LEVEL = RNG.permutation(np.linspace(0.1, 3, GENES))
TARGETS = np.array([3, 50, 77, 120, 199])


@pytest.fixture(scope="module")
def network(dna_run: GeneRun, dna_world: Regulation) -> NetworkCells:
    return network_of(dna_run, dna_world)


def one(score: np.ndarray, targets: np.ndarray = TARGETS, level: np.ndarray = LEVEL) -> pd.Series:
    return score_targets({"a": score}, level, 0, targets).iloc[0]


def test_a_planted_score_is_perfect():
    score = RNG.uniform(0, 1, GENES)
    score[TARGETS] += 5
    found = one(score)
    assert found["auroc"] == found["auprc"] == found["auroc_low"] == found["auroc_high"] == 1
    assert found["p"] == pytest.approx(1 / 1001)
    assert (found["in_first_50"], found["targets"]) == (5, 5)


def test_a_turned_score_is_the_worst():
    score = RNG.uniform(0, 1, GENES)
    score[TARGETS] -= 5
    found = one(score)
    assert found["auroc"] == 0
    assert found["p"] == 1
    assert found["in_first_50"] == 0
    assert found["p_first_50"] == 1


def test_auroc_by_hand():
    # six genes of one level: two targets, and the others are controls; 0.5 beats two of three, 0.9 beats all
    score = np.array([np.nan, 0.5, 0.9, 0.6, 0.4, 0.5])
    found = one(score, np.array([1, 2]), np.ones(6))
    wins = [(1 + 0.5) / 3, 1.0]
    assert found["auroc"] == pytest.approx(np.mean(wins))
    assert (found["auroc_low"], found["auroc_high"]) == pytest.approx((wins[0], 1.0))
    # precision at the first hit 1, at the second 2 of 3 or of 4 by how a tie is broken: sklearn takes all ties in
    assert found["auprc"] == pytest.approx((1 + 2 / 4) / 2)
    assert found["auprc_chance"] == pytest.approx(2 / 5)


def test_the_first_fifty_by_hand():
    score = -np.arange(GENES, dtype=float)  # gene 1 first, as gene 0 is the factor itself
    found = one(score)
    among = GENES - 1
    hits = int((TARGETS <= FIRST).sum())
    assert found["in_first_50"] == hits == 2
    assert found["expected_in_first_50"] == pytest.approx(FIRST * 5 / among)
    assert found["p_first_50"] == pytest.approx(stats.hypergeom.sf(hits - 1, among, 5, FIRST))


def test_the_enrichment_curve_by_hand():
    found = one(-np.arange(GENES, dtype=float))
    for step in (10, 20, 50, 100, 200, 500, 1_000):
        assert found[f"found_at_{step}"] == (step >= TARGETS).mean()


def test_ties_find_what_chance_finds():
    found = one(np.zeros(GENES), np.arange(1, 101))
    assert found["auroc"] == 0.5
    assert abs(found["in_first_50"] - found["expected_in_first_50"]) < 12
    assert one(np.zeros(GENES)).equals(one(np.zeros(GENES)))


def test_the_factor_is_neither_target_nor_control():
    score = RNG.uniform(0, 1, GENES)
    plain = score_targets({"a": score}, LEVEL, 3, TARGETS)
    score[3] = 100
    assert plain.equals(score_targets({"a": score}, LEVEL, 3, TARGETS))
    assert plain["targets"].iloc[0] == 4


def test_controls_are_of_like_expression():
    allowed = np.setdiff1d(np.arange(GENES), TARGETS)
    found = controls_of(LEVEL, TARGETS, allowed)
    assert not np.intersect1d(found, TARGETS).size
    assert len(found) <= CONTROLS * len(TARGETS)
    width = np.ptp(LEVEL) / GENES
    for target in TARGETS:
        near = np.abs(LEVEL[found] - LEVEL[target]) <= CONTROLS * width
        assert near.sum() >= CONTROLS
    assert len(controls_of(LEVEL, TARGETS, allowed[:4])) == 4


def test_expression_alone_gains_nothing():
    targets = np.argsort(-LEVEL)[:30:2]
    found = one(LEVEL.copy(), targets)
    assert 0.35 < found["auroc"] < 0.65, "controls of like expression take the advantage away"
    assert roc_auc_score(np.isin(np.arange(1, GENES), targets), LEVEL[1:]) > 0.9


def test_p_of_random_scores_is_uniform():
    rng = np.random.default_rng(4)
    p = [one(rng.uniform(0, 1, GENES))["p"] for _ in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    assert np.min(p) > 0.001


def test_rankings_that_say_nothing_are_left_out():
    assert score_targets({"a": np.full(GENES, np.nan)}, LEVEL, 0, TARGETS).empty


def test_co_expression_is_numpys(network: NetworkCells):
    gene = 1
    values = network.values.toarray().astype(float)
    with np.errstate(invalid="ignore"):
        found, expected = co_expression(network, gene), np.abs(np.nan_to_num(np.corrcoef(values.T)[gene]))
    assert found["co-expression"] == pytest.approx(expected, abs=1e-5)
    group = network.units["group"].to_numpy()[network.unit]
    inside = np.zeros(values.shape[1])
    for name in np.unique(group):
        with np.errstate(invalid="ignore"):
            inside += (group == name).mean() * np.nan_to_num(np.corrcoef(values[group == name].T)[gene])
    assert found["co-expression within groups"] == pytest.approx(np.abs(inside), abs=1e-5)


def test_rankings_know_the_gene_itself_no_rank(network: NetworkCells, dna_run: GeneRun):
    found = rankings(network, 1, moved(dna_run, 1))
    ways = ("sequence", "sequence, token alone", "down", "delete", "mask", "random direction")
    expected = {f"{way}: {what}" for way in ways for what in ("change", "shift")}
    assert set(found) == expected | {"co-expression", "co-expression within groups", "mean expression"}
    for score in found.values():
        assert np.isnan(score[1])
        assert np.isfinite(np.delete(score, 1)).all()
    assert not {name for name in rankings(network, 1, None) if name.startswith("sequence")}
    again = rankings(network, 1, moved(dna_run, 1))
    assert all(np.array_equal(found[name], again[name], equal_nan=True) for name in found)
    assert network.model.level.isfinite().all(), "the run's own levels were written into"


def test_true_targets_are_scored_for_every_factor(network: NetworkCells, dna_run: GeneRun, dna_world: Regulation):
    pairs = dna_world.targets.rename(columns={"factor": "gene"}).assign(set="targets")
    strongest = {0: [("v1", moved(dna_run, 0), True), ("v2", moved(dna_run, 0, seed=1), False)]}
    table, notes = all_targets(network, dna_run.symbols, pairs, strongest)
    assert table["gene"].unique().tolist() == ["TF1", "TF2", "TF3", "TF4"]
    assert set(table.loc[table["ranking"] == "sequence: change", "gene"]) == {"TF1"}
    sequence = table[table["ranking"].str.startswith("sequence")]
    assert set(sequence["allele"]) == {"v1", "v2"}
    assert (sequence.loc[sequence["allele"] == "v2", "auroc"] == 0.5).all(), "moved no further than at random"
    assert sequence.set_index("allele")["beyond_random"].to_dict() == {"v1": True, "v2": False}
    others = table[~table["ranking"].str.startswith("sequence")]
    assert not others.duplicated(["gene", "set", "ranking"]).any(), "what needs no allele is scored once"
    assert set(others["allele"]) == {""}
    said = " ".join(note for note in notes if "no sequence edit" in note)
    assert all(name in said for name in ("TF2", "TF3", "TF4"))
    assert "TF1" not in said
    best = table[table["ranking"] == "co-expression"].set_index("gene")["auroc"]
    assert best.mean() > 0.6, "simulated targets follow their factor"


def test_lists_that_cannot_be_scored_are_told(network: NetworkCells, dna_run: GeneRun):
    pairs = pd.DataFrame({"gene": ["TF1", "TF1", "NOBODY"], "target": ["TF2", "TF3", "TF1"], "set": "targets"})
    table, notes = all_targets(network, dna_run.symbols, pairs, {})
    assert table.empty
    assert "No list of targets" in notes[-1]


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("gene\ttarget\nA\tB\nA\tC\nA\tB\n", ["targets", "targets"]),
        ("A\tB\tActivation\t123\nA\tC\tUnknown\t5\n", ["targets", "targets"]),  # as TRRUST has it
        ("gene,target,kind\nA,B,direct\nA,C,indirect\n", ["direct", "indirect"]),
        ("# said before\ngene\ttarget\tset\nA\tB\tx\nA\tC\tx\n\t\t\n", ["x", "x"]),
    ],
    ids=["named", "without names", "lists", "comment"],
)
def test_tables_of_targets_are_read(tmp_path: Path, text: str, sets: list[str]):
    path = tmp_path / "targets"
    path.write_text(text)
    found = read_targets(path)
    assert found[["gene", "target"]].to_numpy().tolist() == [["A", "B"], ["A", "C"]]
    assert found["set"].tolist() == sets


@pytest.mark.parametrize("text", [None, "", "A\nB\n"], ids=["missing", "empty", "one column"])
def test_what_is_no_table_of_targets_is_said(tmp_path: Path, text: str | None):
    path = tmp_path / "targets"
    if text is not None:
        path.write_text(text)
    with pytest.raises((DataError, GenomeError), match="targets"):
        read_targets(path)
