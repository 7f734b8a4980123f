"""Where a trained model keeps its genes, whatever the recipe."""

from __future__ import annotations

import numpy as np
import pytest
from tests.tiny_dna import gene_model

from syncyte.errors import CapabilityError
from syncyte.models.gene_tables import gene_table


def lengths(table: np.ndarray) -> np.ndarray:
    return np.linalg.norm(table, axis=0)


def test_a_gene_network_keeps_coordinates():
    model = gene_model()
    found = gene_table(model, "rna")
    own = model.table.detach().numpy()
    assert found == pytest.approx(own / lengths(own), abs=1e-6)


@pytest.mark.parametrize("name", ["tiny_run", "tiny_sets_run"])
def test_cell_and_set_models_have_a_row_a_gene(name: str, request: pytest.FixtureRequest):
    run = request.getfixturevalue(name)
    found = gene_table(run.model, "rna")
    assert len(found) == len(run.vocabularies["rna"])
    kept = lengths(found) > 0
    assert kept.any()
    assert lengths(found)[kept] == pytest.approx(1, abs=1e-5)
    assert len(np.unique(found.round(6), axis=0)) > 10, "genes lie in places of their own"


def test_a_modality_that_is_not_there_is_refused(tiny_run):
    with pytest.raises(CapabilityError, match="no table of 'protein' features"):
        gene_table(tiny_run.model, "protein")
