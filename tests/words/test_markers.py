"""Marker table and marker scores."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.errors import DataError
from syncyte.genome.reference import Reference, build_reference
from syncyte.words.markers import known_names, read_markers, score_marker_blocks, score_markers

GENES = ["CD3D", "CD3E", "CD79A", "MS4A1", "ACTB", "LYZ"]
TABLE = "label,genes\nT cell,CD3D CD3E\nB cell,CD79A;MS4A1\nghost,NOSUCH\n"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def counts(rng: np.random.Generator, cells: int = 60) -> tuple[sp.csr_matrix, np.ndarray]:
    types = np.arange(cells) % 2
    rate = np.array([[5, 5, 0.1, 0.1, 20, 1], [0.1, 0.1, 5, 5, 20, 1]])[types]
    return sp.csr_matrix(rng.poisson(rate)), types


def table(tmp_path, text: str = TABLE):
    path = tmp_path / "markers.csv"
    path.write_text(text)
    return read_markers(path)


def test_embedded_table_is_sound():
    found = read_markers()
    assert len(found.genes) >= 40
    for key, genes in found.genes.items():
        assert key.startswith("CL:") and len(key) == 10
        assert len(genes) >= 4 and len(set(genes)) == len(genes)
        assert found.labels[key] and found.sources[key][-4:].isdigit()
    assert found.of("natural killer cell") == found.of("CL:0000623") == found.genes["CL:0000623"]
    assert found.of("no such cell") == ()


def test_scores_tell_types_and_absent_types_are_zero(tmp_path, rng):
    matrix, types = counts(rng)
    found = score_markers(matrix, GENES, ["T cell", "B cell", "ghost", "unlisted"], table(tmp_path))
    assert found.values.shape == (60, 4)
    assert (found.values[types == 0, 0] > found.values[types == 1, 0].max()).all()
    assert (found.values[:, 2:] == 0).all() and np.isfinite(found.values).all()
    assert found.missing == ("ghost", "unlisted") and "ghost" in found.warning
    assert found.used["B cell"] == ("CD79A", "MS4A1")


def test_score_is_the_mean_of_standardised_logs(tmp_path):
    matrix = sp.csr_matrix(np.array([[1, 0, 9], [0, 2, 8], [0, 0, 10]]))
    found = score_markers(matrix, ["CD3D", "CD3E", "ACTB"], ["T cell"], table(tmp_path))
    logs = np.log1p(matrix.toarray() / 10 * 1e4)[:, :2]
    expected = ((logs - logs.mean(axis=0)) / logs.std(axis=0)).mean(axis=1)
    np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_blocks_of_cells_score_as_all_at_once(tmp_path, rng, size):
    matrix, _ = counts(rng)
    cut = [matrix[first : first + size] for first in range(0, 60, size)]
    asked = (GENES, ["T cell", "B cell", "ghost"], table(tmp_path))
    whole, blocks = score_markers(matrix, *asked), score_marker_blocks(lambda: cut, *asked)
    np.testing.assert_allclose(blocks.values, whole.values, atol=1e-6)
    np.testing.assert_allclose(blocks.spread, whole.spread, atol=1e-9)
    assert (blocks.used, blocks.missing, blocks.warning) == (whole.used, whole.missing, whole.warning)
    with pytest.raises(DataError, match="no cells to score by markers"):
        score_marker_blocks(lambda: [], *asked)


def test_few_cells_take_the_statistics_of_many(tmp_path, rng):
    matrix, _ = counts(rng)
    many = score_markers(matrix, GENES, ["T cell"], table(tmp_path))
    one = score_markers(matrix[:1], GENES, ["T cell"], table(tmp_path), like=many)
    np.testing.assert_allclose(one.values, many.values[:1])
    with pytest.raises(DataError, match="genes"):
        score_markers(matrix[:, :3], GENES[:3], ["T cell"], table(tmp_path), like=many)


def test_names_in_other_spelling(tmp_path, rng):
    matrix, _ = counts(rng)
    spelled = ["cd3d", "Cd3e", "CD79A", "CD20", "ACTB", "LYZ"]
    found = score_markers(matrix, spelled, ["T cell", "B cell"], table(tmp_path))
    assert found.used == {"T cell": ("cd3d", "Cd3e"), "B cell": ("CD79A", "CD20")}
    assert "PF4" in known_names("PF4")


def test_names_through_a_reference(tmp_path, rng):
    rows = [f"{gene}\tENSG{number:011d}\tchr1\t{100 + number}\t{200 + number}\t+" for number, gene in enumerate(GENES)]
    genes = tmp_path / "genes.tsv"
    genes.write_text("symbol\tgene_id\tchrom\tstart\tend\tstrand\n" + "\n".join(rows) + "\n")
    aliases = tmp_path / "aliases.tsv"
    aliases.write_text("alias\tcurrent\nT3D\tCD3D\n")
    reference: Reference = build_reference(tmp_path / "reference", genes=genes, aliases=aliases)
    matrix, _ = counts(rng)
    ids = [f"ENSG{number:011d}" for number in range(len(GENES))]
    marked = table(tmp_path, "label,genes\nT cell,T3D CD3E\n")
    found = score_markers(matrix, ids, ["T cell"], marked, reference=reference)
    assert found.used["T cell"] == (ids[0], ids[1])
    assert score_markers(matrix, ids, ["T cell"], marked).missing == ("T cell",)


@pytest.mark.parametrize(
    ("text", "match"),
    [("a,b\n1,2\n", "expected columns"), ("", "expected columns"), ("label,genes\nT cell,\n", "names no marker")],
)
def test_bad_tables_are_refused(tmp_path, text, match):
    with pytest.raises(DataError, match=match):
        table(tmp_path, text)


def test_one_gene_a_row_and_missing_file(tmp_path):
    found = table(tmp_path, "id\tmarker\tlabel\nCL:1\tCD3D\tT cell\nCL:1\tCD3E\tT cell\n")
    assert found.genes == {"CL:1": ("CD3D", "CD3E")} and found.labels == {"CL:1": "T cell"}
    with pytest.raises(DataError, match="cannot be read"):
        read_markers(tmp_path / "none.tsv")


def test_names_and_columns_must_fit(tmp_path, rng):
    matrix, _ = counts(rng)
    with pytest.raises(DataError, match="gene names"):
        score_markers(matrix, GENES[:2], ["T cell"], table(tmp_path))
    with pytest.raises(DataError, match="at least one cell"):
        score_markers(matrix[:0], GENES, ["T cell"], table(tmp_path))
