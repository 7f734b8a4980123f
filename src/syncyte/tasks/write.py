"""Results and predictions as files: in blocks, without loading ``X``, whole or not at all.

``write_result_file`` copies the user's file and adds only the new slots to the copy, so every other byte stays hers;
where the kinds differ (10x, a folder, a store) it writes the cells it was given, in blocks.
``PredictionWriter`` appends a translated matrix block by block. Everything appears under its final name in one step.
Leaves out: what goes into the slots (``tasks.result``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.atomic import atomic_dir, atomic_file, check_room
from syncyte.errors import DataError
from syncyte.tasks.result import STEM, Layer, Result, align_layer, find_host, refuse_foreign, uns_entries

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from syncyte.data.cells import Cells

KINDS = (".h5ad", ".h5mu", ".zarr")
SPARE = 4_000_000  # bytes a disk must keep while sparse blocks are appended: HDF5 holds some of them back
CHUNK = 1 << 20  # bytes of a dense prediction stored as one piece


def write_result_file(
    result: Result,
    source: Path | AnnData | MuData | Cells,
    out: Path,
    *,
    cells: Cells | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the data with the result's slots added; ``X`` and everything else as in ``source``.

    Parameters
    ----------
    result
        What to add; cells are matched by name.
    source
        File the task was given, an object in memory, or ``Cells``. It is not changed (unless it is ``out``).
    out
        ``.h5ad``, ``.h5mu`` or ``.zarr``. May be ``source`` itself; an existing one is replaced in one step.
    cells
        The opened cells, used where ``source`` is of another kind than ``out`` (a 10x file, a store, ``.h5ad`` into
        ``.h5mu``). Opened again where not given. The file then holds raw counts, covariates and the result.
    key_added, overwrite
        As in ``Result.write``.

    Raises
    ------
    DataError
        If ``out`` cannot be written, its ending is unknown, several modalities would go into an ``.h5ad``, or a slot of
        the same name was not written by syncyte.
    """
    out = Path(out)
    if out.suffix not in KINDS:
        raise DataError(f"Cannot write {out.name!r}: the ending says the kind of file. Use one of {', '.join(KINDS)}.")
    place = atomic_dir(out, overwrite=True) if out.suffix == ".zarr" else atomic_file(out)
    with ExitStack() as stack:
        if isinstance(source, str | Path):
            source = Path(source)
            if source.suffix == out.suffix:  # refuse before a large file is copied
                with _opened(source, "r") as root:
                    _checked(result, root, key_added, overwrite)
            elif cells is None:
                cells = _open_cells(source)
        tmp = stack.enter_context(place)
        _write_data(source, cells, tmp)
        with _opened(tmp, "r+") as root:
            _add(result, root, key_added, overwrite)
    return out


class PredictionWriter:
    """Context that writes a predicted matrix as ``.h5ad``, rows appended in blocks, memory flat.

    Parameters
    ----------
    out
        File to write; an existing one is replaced when all rows are there.
    obs, var
        Tables of the cells and of the predicted features; their indexes hold the names.
    sparse
        Store CSR and drop zeros; otherwise dense float32.
    dtype
        Of a sparse matrix: int32 for counts.
    uns
        Stored as it is, e.g. ``{"syncyte": {"translate": <JSON text>}}``.

    Raises
    ------
    DataError
        On closing, if rows are missing or too many were given; at the start, if the place cannot be written.
    """

    def __init__(
        self,
        out: Path,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        *,
        sparse: bool = False,
        dtype: type[np.generic] = np.float32,
        uns: Mapping[str, Any] | None = None,
    ) -> None:
        self.dtype = dtype
        self.out, self.obs, self.var, self.sparse, self.uns = Path(out), obs, var, sparse, dict(uns or {})
        self.rows = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        import anndata
        import h5py

        if self.out.suffix != ".h5ad":
            raise DataError(f"Predictions are written as .h5ad, got {self.out.name!r}. Name the output NAME.h5ad.")
        with ExitStack() as stack:
            room = 0 if self.sparse else 4 * len(self.obs) * len(self.var)
            tmp = stack.enter_context(atomic_file(self.out, room))
            skeleton = anndata.AnnData(obs=_writable(self.obs), var=_writable(self.var), uns=self.uns)
            with anndata.settings.override(allow_write_nullable_strings=True):
                skeleton.write_h5ad(tmp, convert_strings_to_categoricals=False)
            self._file = _bare(stack.enter_context(h5py.File(tmp, "r+")))
            if not self.sparse:
                self._dense()
            self._stack = stack.pop_all()
        return self

    def append(self, block: NDArray[np.float32] | sp.csr_matrix) -> None:
        """Add the next rows, ``(rows, f)``."""
        end = self.rows + block.shape[0]
        if block.shape[1] != len(self.var) or end > len(self.obs):
            raise DataError(
                f"A block of shape {block.shape} after {self.rows:,} rows does not fit a prediction of "
                f"{len(self.obs):,} cells by {len(self.var):,} features. Give each cell once, with every feature."
            )
        if self.sparse:
            rows = sp.csr_matrix(block, dtype=self.dtype)
            check_room(self.out, SPARE + rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes)
            _append(self._file, rows)
        else:
            self._file["X"][self.rows : end] = sp.csr_matrix(block).toarray() if sp.issparse(block) else block
        self.rows = end

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # handed on, so that the half file is dropped
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self.rows != len(self.obs):
                raise DataError(
                    f"{self.rows:,} of {len(self.obs):,} cells were given to {self.out.name}. Append every cell."
                )
            if self.sparse and not self.rows:
                _append(self._file, sp.csr_matrix((0, len(self.var)), dtype=self.dtype))

    def _dense(self) -> None:
        shape = (len(self.obs), len(self.var))
        rows = min(max(1, CHUNK // (4 * max(1, shape[1]))), max(1, shape[0]))
        matrix = self._file.create_dataset("X", shape, np.float32, chunks=(rows, shape[1]) if min(shape) else None)
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def _writable(table: pd.DataFrame) -> pd.DataFrame:
    """Copy whose columns of text beside nothing are categories, which files take."""
    mixed = [name for name in table.select_dtypes("object") if table[name].isna().any()]
    return table.assign(**{name: table[name].map(str, na_action="ignore").astype("category") for name in mixed})


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[Any]:
    """Root group of an ``.h5ad``, ``.h5mu`` or zarr folder, fit for adding elements."""
    if path.suffix == ".zarr":
        import zarr

        consolidated = zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None
        yield zarr.open_group(path, mode=mode, use_consolidated=False)  # type: ignore[arg-type]
        if consolidated and mode != "r":
            zarr.consolidate_metadata(str(path))
        return
    import h5py

    try:
        file = h5py.File(path, mode)
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened as HDF5 ({error}). It is missing, truncated or of another kind; copy it again."
        ) from error
    with file:
        if not isinstance(file.get("obs"), h5py.Group):
            raise DataError(
                f"{path} has no obs table as anndata 0.7 and later write it. Save it anew: "
                f"anndata.read_h5ad({str(path)!r}).write_h5ad({str(path)!r})"
            )
        yield file


def _open_cells(source: Path) -> Cells:
    from syncyte.data.read import open_cells
    from syncyte.modalities import all_schemas

    return open_cells(source, schemas=all_schemas())


def _write_data(source: Any, cells: Cells | None, tmp: Path) -> None:
    """Put the data, without the result, at ``tmp``."""
    from syncyte.data.convert import convert

    kind = tmp.suffix
    if isinstance(source, Path) and source.suffix == kind:
        if source.is_dir():
            shutil.copytree(source, tmp, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, tmp)
    elif isinstance(source, Path) and (source.suffix, kind) == (".h5ad", ".h5mu") and len(cells.parts) == 1:  # type: ignore[union-attr]
        _wrap(source, next(iter(cells.parts)), tmp)  # type: ignore[union-attr]
    elif hasattr(source, "parts"):
        convert(source, tmp, schemas=())
    elif hasattr(source, "mod") and kind != ".h5ad":
        source.write(tmp) if kind == ".h5mu" else source.write_zarr(str(tmp))
    elif getattr(source, "isbacked", False) and kind == ".h5ad":
        source.copy(tmp).file.close()  # write_h5ad would tie the user's object to the temporary file
    elif hasattr(source, "write_h5ad") and not hasattr(source, "mod") and kind != ".h5mu":
        write = source.write_h5ad if kind == ".h5ad" else source.write_zarr
        write(tmp, convert_strings_to_categoricals=False)
    else:
        convert(cells if cells is not None else _open_cells(source), tmp, schemas=())


def _wrap(source: Path, modality: str, tmp: Path) -> None:
    """Make a whole AnnData file the one modality of a MuData file; its matrices are copied on disk."""
    import anndata
    import h5py
    from anndata.io import read_elem
    from mudata import MuData, set_options

    with h5py.File(source, "r") as file:
        obs, var = read_elem(file["obs"]), read_elem(file["var"])
        with set_options(pull_on_update=False), anndata.settings.override(allow_write_nullable_strings=True):
            whole = MuData({modality: anndata.AnnData(obs=obs[[]], var=var[[]])})
            whole.obs = obs
            whole.write(tmp)
        with h5py.File(tmp, "r+") as out:
            del out["mod"][modality]
            file.copy(file["/"], out["mod"], modality)
            out["mod"][modality].attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _append(group: Any, block: sp.csr_matrix) -> None:
    """Append rows to the CSR matrix ``X`` of an open file."""
    from anndata.io import sparse_dataset, write_elem

    if "X" in group:
        sparse_dataset(group["X"]).append(block)
    else:
        write_elem(group, "X", block, dataset_kwargs={"indptr_dtype": np.dtype(np.int64)})


def _bare(group: Any) -> Any:
    """Drop the placeholder of a missing matrix."""
    if "X" in group:
        del group["X"]
    return group


def _index(table: Any) -> pd.Index:
    from anndata.io import read_elem

    return pd.Index(read_elem(table[table.attrs["_index"]])).astype(str)


def _hosts(root: Any) -> dict[str, Any]:
    return dict(root["mod"].items()) if "mod" in root else {"": root}


def _checked(result: Result, root: Any, key_added: str | None, overwrite: bool) -> tuple[Any, dict[str, str], Any]:
    """Values aligned to the cells of an open file, where each layer goes, and what the task wrote earlier."""
    from anndata.io import read_elem

    slots = result.slots(_index(root["obs"]), key_added)
    features = {key: _index(group["var"]) for key, group in _hosts(root).items()} if slots.layers else {}
    hosts = {key: find_host(layer, features) for key, layer in slots.layers.items()}
    held = {"obsm": list(root["obsm"]) if "obsm" in root else [], "obs": list(root["obs"])}
    held["layers"] = [key for key, host in hosts.items() if key in _hosts(root)[host].get("layers", {})]
    stem = key_added or STEM
    stored = read_elem(root["uns"][stem]) if "uns" in root and stem in root["uns"] else {}
    return slots, hosts, refuse_foreign(slots, held, stored, result.task, stem, overwrite)


def _add(result: Result, root: Any, key_added: str | None, overwrite: bool) -> None:
    """Write the slots of a result into an open file."""
    from anndata.io import write_elem

    slots, hosts, earlier = _checked(result, root, key_added, overwrite)
    for key, values in slots.obsm.items():
        write_elem(_mapping(root, "obsm"), key, values)
    if slots.obs:
        order = [name.decode() if isinstance(name, bytes) else str(name) for name in root["obs"].attrs["column-order"]]
        for key, column in slots.obs.items():
            write_elem(root["obs"], key, _plain(column))
        root["obs"].attrs["column-order"] = [*order, *(key for key in slots.obs if key not in order)]
    for key, host in hosts.items():
        write_elem(_mapping(_hosts(root)[host], "layers"), key, _aligned(result, slots.layers[key], _hosts(root)[host]))
    uns, stem = _mapping(root, "uns"), key_added or STEM
    if stem in uns and not hasattr(uns[stem], "keys"):
        del uns[stem]
    for key, entry in uns_entries(slots, result.task, earlier).items():
        write_elem(_mapping(uns, stem), key, entry)


def _aligned(result: Result, layer: Layer, group: Any) -> Any:
    return align_layer(layer, result.cells, _index(group["obs"]), _index(group["var"]))


def _plain(column: pd.Series) -> Any:
    """Values of a column as anndata stores them: numpy, or the extension array of categories and missing flags."""
    return column.array if isinstance(column.dtype, pd.api.extensions.ExtensionDtype) else column.to_numpy()


def _mapping(group: Any, key: str) -> Any:
    """Existing or new folder of elements inside an open file."""
    from anndata.io import write_elem

    if key not in group:
        write_elem(group, key, {})
    return group[key]
