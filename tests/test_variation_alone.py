"""Two calls into one folder, and columns that are no groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from syncyte.errors import DataError


def test_a_second_call_into_one_folder_is_refused(ask_variants, tmp_path: Path):
    folder = tmp_path / "O"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(DataError, match="Another call is writing"):
        ask_variants(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_column_with_a_value_for_every_cell_is_no_group(ask_variants, dna_files, tmp_path: Path):
    import anndata as ad
    import mudata

    cells: ad.AnnData = mudata.read(dna_files["cells.h5mu"])["rna"].copy()
    cells.obs["own"] = [f"cell {number}" for number in range(cells.n_obs)]
    with pytest.raises(DataError, match="400 values"):
        ask_variants(tmp_path / "O", cells=cells, group="own")
    assert not (tmp_path / "O").exists() or not any((tmp_path / "O").iterdir())
