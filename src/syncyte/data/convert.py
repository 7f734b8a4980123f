"""Cells back into files that anndata and mudata open, block by block.

One modality gives an AnnData, several a MuData; ``.zarr`` holds either. Counts are written as CSR in ``X`` without
compression, so that any row is cheap to read. The file appears under its name only when it is whole.
Leaves out: embeddings, graphs and layers of the source; shuffled shards (``data.store``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from syncyte.atomic import atomic_dir, atomic_file
from syncyte.data.cells import BLOCK, Cells
from syncyte.data.read import open_cells
from syncyte.errors import DataError

SUFFIXES = (".h5ad", ".h5mu", ".zarr")


def convert(source: Any, out: str | os.PathLike[str], *, overwrite: bool = True, **options: Any) -> Path:
    """Write cells to ``.h5ad``, ``.h5mu`` or ``.zarr``; memory does not grow with their number.

    Parameters
    ----------
    source
        Cells, or anything ``open_cells`` takes.
    out
        The file (or zarr folder) to write; an existing file is replaced.
    overwrite
        Whether an existing zarr folder is replaced.
    options
        Of ``open_cells``, where the source is not open yet.

    Raises
    ------
    DataError
        If the suffix does not fit the modalities, or the place cannot be written.
    """
    final = Path(out).expanduser()
    if final.suffix not in SUFFIXES:
        raise DataError(f"Cannot tell the format of {final} by its suffix. Use one of {', '.join(SUFFIXES)}.")
    cells = source if isinstance(source, Cells) else open_cells(source, **options)
    if final.suffix == ".h5ad" and len(cells.parts) != 1:
        raise DataError(
            f"These cells have {len(cells.parts)} modalities ({', '.join(cells.parts)}), an .h5ad holds one. Write "
            f"{final.with_suffix('.h5mu').name} instead, or choose one with modality (--modality)."
        )
    if final.suffix == ".zarr":
        import zarr

        with atomic_dir(final, overwrite=overwrite) as folder:
            _write(cells, zarr.open_group(str(folder), mode="w"), len(cells.parts) > 1)
        return final
    import h5py

    with atomic_file(final) as path, h5py.File(path, "w") as root:
        _write(cells, root, final.suffix == ".h5mu")
    return final


def _write(cells: Cells, root: Any, several: bool) -> None:
    report = {"syncyte_read": json.dumps(cells.report)}
    if not several:
        name = next(iter(cells.parts))
        _write_part(cells, name, root, cells.obs.iloc[np.flatnonzero(cells.present(name))], report)
        return
    from anndata.io import write_elem

    root.attrs.update(
        {"encoding-type": "MuData", "encoding-version": "0.1.0", "encoder": "syncyte", "encoder-version": "1"}
    )
    root.attrs["axis"] = 0
    _write_elem(root, "obs", cells.obs)
    var = pd.DataFrame(
        index=pd.Index(np.concatenate([part.features.to_numpy(dtype=object) for part in cells.parts.values()]))
    )
    _write_elem(root, "var", var)
    write_elem(root, "uns", report)
    mods = root.require_group("mod")
    mods.attrs["mod-order"] = list(cells.parts)
    starts = np.cumsum([0, *(len(part.features) for part in cells.parts.values())])
    maps: dict[str, dict[str, np.ndarray]] = {"obsmap": {}, "varmap": {}}
    for number, (name, part) in enumerate(cells.parts.items()):
        have = part.index >= 0
        maps["obsmap"][name] = np.where(have, np.cumsum(have), 0).astype(np.uint32)  # 1-based, 0 where not measured
        varmap = np.zeros(len(var), dtype=np.uint32)
        varmap[starts[number] : starts[number + 1]] = np.arange(1, len(part.features) + 1)
        maps["varmap"][name] = varmap
        _write_part(cells, name, mods.require_group(name), pd.DataFrame(index=cells.names[have]), {})
    for key, value in maps.items():
        write_elem(root, key, value)
    write_elem(root, "obsm", {name: part.index >= 0 for name, part in cells.parts.items()})
    write_elem(root, "varm", {name: maps["varmap"][name] > 0 for name in cells.parts})
    for key in ("obsp", "varp"):
        write_elem(root, key, {})


def _write_part(cells: Cells, name: str, group: Any, obs: pd.DataFrame, uns: dict[str, str]) -> None:
    """One AnnData: tables first, then the counts appended block by block."""
    from anndata.io import sparse_dataset, write_elem

    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    _write_elem(group, "obs", obs)
    _write_elem(group, "var", cells.part(name).var)
    for key in ("layers", "obsm", "obsp", "varm", "varp"):
        write_elem(group, key, {})
    write_elem(group, "uns", uns)
    have = np.flatnonzero(cells.present(name))
    first = cells.counts(name, have[:BLOCK])
    write_elem(group, "X", first, dataset_kwargs={"indptr_dtype": np.int64})
    for _, block in cells.blocks(name, have[BLOCK:]):
        sparse_dataset(group["X"]).append(block)


def _write_elem(group: Any, key: str, table: pd.DataFrame) -> None:
    import anndata
    from anndata.io import write_elem

    with anndata.settings.override(allow_write_nullable_strings=True):
        write_elem(group, key, table)
