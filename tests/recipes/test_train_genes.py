"""Parts of training a gene network: which genes, whose medians, and a start that is the closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.tiny import cells_of
from tests.tiny_dna import counted

from syncyte.baselines.amounts import amounts, nonzero_medians
from syncyte.baselines.gene_space import fit_gene_space
from syncyte.baselines.prediction import log_values
from syncyte.errors import DataError
from syncyte.models.genes import GeneSizes, GeneSpec
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.recipes.train import configure
from syncyte.recipes.train_genes import GeneReader, choose_genes, learn_medians, start_network

ROWS = np.arange(350)


@pytest.fixture(scope="module")
def cells(dna_world: Regulation):
    return cells_of(dna_world.cells).only(["rna"])


def chosen(cells, wanted: np.ndarray | None = None, *settings: str) -> pd.Index:
    config = configure("bio_dta", "tiny", settings)
    wanted = np.zeros(150, dtype=bool) if wanted is None else wanted
    return choose_genes(cells, "rna", ROWS, config, wanted).part("rna").features


def test_genes_must_be_in_enough_training_cells(cells):
    seen = (counted(cells)[ROWS] > 0).toarray().sum(axis=0)
    assert chosen(cells).tolist() == cells.part("rna").features[seen >= 10].tolist()
    few = chosen(cells, None, "cells=300")
    assert few.tolist() == cells.part("rna").features[seen >= len(ROWS) // 20].tolist(), "never over a twentieth"


def test_the_commonest_and_the_wanted_are_kept(cells):
    seen = (counted(cells)[ROWS] > 0).toarray().sum(axis=0)
    wanted = np.zeros(150, dtype=bool)
    wanted[np.argsort(seen)[len(seen) // 2]] = True
    found = chosen(cells, wanted, "features=20")
    assert 20 <= len(found) <= 21
    assert set(cells.part("rna").features[wanted]) <= set(found)
    common = cells.part("rna").features[np.argsort(-seen, kind="stable")[:20]]
    assert set(common) <= set(found)


def test_no_gene_at_all_is_said(cells):
    config = configure("bio_dta", "tiny", ())
    with pytest.raises(DataError, match="No gene is expressed"):
        choose_genes(_silent(cells), "rna", ROWS, config, np.zeros(150, dtype=bool))


def _silent(cells):
    from anndata import AnnData

    names = cells.part("rna").features
    counts = np.zeros((400, 150), dtype=np.float32)
    counts[350:] = 1
    with pytest.warns(UserWarning, match="no count at all"):
        return cells_of(AnnData(counts, var=pd.DataFrame(index=names)))


def test_medians_of_the_training_cells_or_of_a_table(cells):
    counts = counted(cells)[ROWS]
    own = learn_medians(cells, "rna", ROWS, cells.part("rna").var)
    assert np.array_equal(own, nonzero_medians([counts], 150))
    ids = cells.part("rna").var["gene_id"]
    given = pd.Series({"TF2": 4.0, ids.iloc[0]: 9.0, "TF3": np.nan, ids.iloc[3]: -1.0})
    found = learn_medians(cells, "rna", ROWS, cells.part("rna").var, given)
    assert found[:2].tolist() == [9, 4]
    assert np.array_equal(found[2:], own[2:]), "what is no positive number is learned"


@pytest.mark.parametrize("tied", [True, False])
def test_the_start_is_the_closed_form(cells, tied: bool):
    sizes = GeneSizes(components=6, tied=tied)
    spec = GeneSpec(modality="rna", features=150, encoding="rank", sizes=sizes)
    medians = learn_medians(cells, "rna", ROWS, cells.part("rna").var)
    model = start_network(spec, cells, ROWS, medians, seed=0)
    counts = counted(cells)[ROWS]
    space = fit_gene_space(amounts(counts, "rank", medians), 6, 0)
    assert np.array_equal(model.table.detach().numpy(), space.table)
    assert np.array_equal(model.mix.detach().numpy(), space.mix)
    values = log_values(counts, 1e4).toarray()
    assert model.level.numpy() == pytest.approx(values.mean(axis=0), abs=1e-4)
    assert model.spread.numpy() == pytest.approx(np.maximum(values.std(axis=0), 0.05), abs=1e-3)
    assert (model.output is None) == tied
    if not tied:
        assert np.array_equal(model.output.detach().numpy(), space.table)


def test_a_reader_gives_amounts_and_values_of_rows(cells):
    reader = GeneReader(cells, "rna", "bins", np.ones(150), 1e4)
    rows = np.array([5, 2, 9])
    found, values = reader(rows)
    counts = counted(cells)[rows]
    assert np.array_equal(found.numpy(), amounts(counts, "bins", np.ones(150)).toarray())
    assert np.array_equal(values.numpy(), log_values(counts, 1e4).toarray())
