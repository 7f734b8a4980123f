"""The table of features of a store: as text that any tool reads, or in a form that opens at once.

``.tsv.gz`` holds names and columns as text. ``.h5`` holds the names as one piece of UTF-8, one a line (line ends within
a name, and backslashes, are escaped by a backslash), numbers as arrays and texts as numbers into their distinct values;
a million regions open in a fraction of a second, and the hash of their names is that of the piece. Both give back the
same table.
Leaves out: what features mean, and where the table lies (``data.store``).
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from syncyte.data.manifest import StoredModality, damaged, hash_names
from syncyte.data.shards import smallest_dtype


def column_types(var: pd.DataFrame) -> dict[str, str]:
    """Type of each column: that of numbers and flags as it is, ``str`` for everything else."""
    plain = {str(key): column.dtype for key, column in var.items()}
    return {key: str(dtype) if pd.api.types.is_numeric_dtype(dtype) else "str" for key, dtype in plain.items()}


def write_text(path: Path, var: pd.DataFrame) -> None:
    """Write the table as ``.tsv.gz``."""
    text = var.rename(columns=str).to_csv(sep="\t", index_label="name")
    path.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))


def write_binary(path: Path, var: pd.DataFrame) -> None:
    """Write the table as ``.h5``."""
    types = column_types(var)
    with h5py.File(path, "w") as file:
        _write_bytes(file, "names", _joined(var.index))
        for number, (kind, (_, column)) in enumerate(zip(types.values(), var.items(), strict=True)):
            group = file.create_group(f"columns/{number}")
            if kind == "str":
                codes, values = pd.factorize(column.astype(object).map(str, na_action="ignore"))
                group["codes"] = (codes + 1).astype(smallest_dtype(len(values)))  # 0 = missing
                _write_bytes(group, "values", _joined(values))
            else:
                missing = column.isna().to_numpy()
                filled = column.fillna(0) if isinstance(column.dtype, pd.api.extensions.ExtensionDtype) else column
                group["numbers"] = filled.to_numpy(dtype=getattr(column.dtype, "numpy_dtype", column.dtype))
                if missing.any() and filled is not column:
                    group["missing"] = missing


def read_features(folder: Path, entry: StoredModality) -> pd.DataFrame:
    """Table of the features of one modality; the hash of their names is compared.

    Raises
    ------
    DataError
        If the file cannot be read or holds other features than the manifest says.
    """
    path = entry.feature_table.path
    try:
        table, found = (_read_binary if path.endswith(".h5") else _read_text)(folder / path, entry)
    except (OSError, EOFError, KeyError, ValueError, zlib.error) as error:
        raise damaged(folder, path, str(error)) from error
    table.index.name = None
    if found != entry.feature_names_sha256:
        raise damaged(folder, path, "its feature names are not those that the manifest names")
    return table


def _read_text(path: Path, entry: StoredModality) -> tuple[pd.DataFrame, str]:
    keys = list(entry.columns)
    table = pd.read_csv(
        path,
        sep="\t",
        header=0,
        names=["\0name", *keys],  # a column may be called name as well
        dtype={"\0name": str, **entry.columns},
        keep_default_na=False,  # NA and nan are names of features
        na_values={key: [""] for key in keys},
        float_precision="round_trip",
    ).set_index("\0name")
    return table, hash_names(table.index)


def _read_binary(path: Path, entry: StoredModality) -> tuple[pd.DataFrame, str]:
    with h5py.File(path, "r") as file:
        content = file["names"][:].tobytes()
        names = _split(content, entry.features)
        columns = {}
        for number, (key, kind) in enumerate(entry.columns.items()):
            columns[key] = _read_column(file[f"columns/{number}"], kind, entry.features)
    index = pd.Index(names, dtype=object)
    return pd.DataFrame(columns, index=index), _hash(content, index)


def _read_column(group: h5py.Group, kind: str, features: int) -> Any:
    if kind == "str":
        codes = group["codes"][:].astype(np.int64)
        texts = _split(group["values"][:].tobytes(), int(group["values"].attrs["texts"]))
        if codes.max(initial=0) > len(texts) or len(codes) != features:
            raise ValueError("its texts do not fit its features")
        return np.array([np.nan, *texts], dtype=object)[codes]
    values: Any = pd.array(group["numbers"][:], dtype=kind) if "missing" in group else group["numbers"][:]
    if "missing" in group:
        values[group["missing"][:]] = pd.NA
    if len(values) != features:
        raise ValueError(f"it holds a column of {len(values):,} values for {features:,} features")
    return values if str(values.dtype) == kind else pd.array(values, dtype=kind)


def _write_bytes(group: h5py.Group, key: str, texts: list[str]) -> None:
    group[key] = np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)
    group[key].attrs["texts"] = len(texts)


def _joined(names: pd.Index) -> list[str]:
    """Names that hold no line end: it and the sign that escapes it are escaped."""
    texts = list(map(str, names))
    if not any("\\" in text or "\n" in text for text in texts):
        return texts
    return [text.replace("\\", "\\\\").replace("\n", "\\n") for text in texts]


def _split(content: bytes, count: int) -> list[str]:
    texts = content.decode().split("\n") if count else []
    if len(texts) != count:
        raise ValueError(f"it holds {len(texts):,} names, the manifest says {count:,}")
    if b"\\" not in content:
        return texts
    return [re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text) for text in texts]


def _hash(content: bytes, names: pd.Index) -> str:
    """As ``hash_names``, which without escapes is the hash of what the file holds."""
    return hash_names(names) if b"\\" in content else hashlib.sha256(content).hexdigest()
