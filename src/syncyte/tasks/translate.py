"""Translate: predict one modality of cells from another.

The target modality is taken out of the cells before anything is read, so a prediction cannot see it even when the file
holds it. Written in blocks; memory does not grow with the number of cells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError
from syncyte.modalities import modalities
from syncyte.models.cell import everything
from syncyte.tasks.result import Layer, Result
from syncyte.tasks.trained import Trained
from syncyte.tasks.write import PredictionWriter
from syncyte.types import Batch, json_ready

MOST_BYTES = 4e9  # a larger dense prediction asks for --features or --min-prob
MOST_ENTRIES = 32e6  # of one block
Block = NDArray[np.float32] | sp.csr_matrix


def source_cells(trained: Trained, cells: Cells, source: str, target: str) -> Cells:
    """Cells that have the source, aligned, with nothing but the source in them."""
    trained.need_capability("decodes", "translate")
    for name in (source, target):
        trained.need(name)
    if source == target:
        raise ConfigError(f"Source and target are both {source!r}. Name two modalities.")
    alone = cells.only([source])
    have = alone.present(source)
    if not have.any():
        raise DataError(f"No cell has the modality {source!r} to translate from.")
    if not have.all():
        note = f"{int((~have).sum()):,} of {len(have):,} cells have no {source!r} and are left out of the translation."
        alone = alone.take(np.flatnonzero(have))
        alone.report["notes"] = [*alone.report.get("notes", []), note]
    return trained.align(alone, only=(source,))


def choose_features(
    trained: Trained, target: str, features: Path | Sequence[str] | None
) -> tuple[NDArray[np.int64] | None, pd.DataFrame]:
    """Columns asked for (None for all) and the table of the features written."""
    var = trained.vocabularies[target]
    if features is None:
        return None, var
    if isinstance(features, str | Path):
        path = Path(features)
        if not path.is_file():
            raise DataError(f"There is no file {path} of features. Give a text file with one name a line.")
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        names = list(features)
    columns = var.index.get_indexer(pd.Index(names))
    unknown = [name for name, column in zip(names, columns, strict=True) if column < 0]
    if unknown or not names:
        raise DataError(
            f"{len(unknown):,} of {len(names):,} features asked for are not in the model's {len(var):,} {target} "
            f"features ({', '.join(unknown[:5])}). The model knows e.g. {', '.join(map(str, var.index[:3]))}."
        )
    return columns.astype(np.int64), var.iloc[columns]


def predictions(
    trained: Trained,
    cells: Cells,
    target: str,
    *,
    columns: NDArray[np.int64] | None = None,
    min_prob: float | None = None,
    residual: bool = True,
    batch_size: int | None = None,
) -> Iterator[Block]:
    """Predicted blocks of aligned source cells, in order; sparse where values below ``min_prob`` are dropped.

    Without ``residual`` they are those of the linear path alone.
    """
    width = len(trained.vocabularies[target])
    size = batch_size or int(np.clip(MOST_ENTRIES // width, 8, 512))
    compute = partial(_block, target=target, columns=columns, min_prob=min_prob, residual=residual)
    return trained.each(cells, compute, size)


def _block(
    trained: Trained,
    batch: Batch,
    *,
    target: str,
    columns: NDArray[np.int64] | None,
    min_prob: float | None,
    residual: bool,
) -> Block:
    encoded = trained.model.encode(batch.tokens, everything(batch))
    encoded = encoded if residual else replace(encoded, latent=encoded.base)
    block = trained.model.predict(encoded, target).float().cpu().numpy()
    block = block if columns is None else block[:, columns]
    if min_prob is None:
        return block
    return sp.csr_matrix(np.where(block >= min_prob, block, 0).astype(np.float32))


def translate_cells(
    trained: Trained,
    cells: Cells,
    source: str,
    target: str,
    *,
    out: Path | None = None,
    features: Path | Sequence[str] | None = None,
    min_prob: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Result:
    """Predict ``target`` from ``source``; see ``syncyte.translate``. With ``out`` the blocks go to that file only."""
    known = source_cells(trained, cells, source, target)
    columns, var = choose_features(trained, target, features)
    if min_prob is not None and min_prob <= 0:
        raise ConfigError(f"--min-prob {min_prob} keeps every value. Give a number above 0, or leave it out.")
    size = 4.0 * len(known) * len(var)
    if min_prob is None and size > MOST_BYTES:
        raise DataError(
            f"The dense prediction of {len(known):,} cells x {len(var):,} features takes {size / 1e9:.1f} GB. "
            "Restrict it with --features FILE, or store it sparse with --min-prob P (e.g. 0.01)."
        )
    settings = {"source": source, "target": target, "seed": seed, "min_prob": min_prob}
    provenance = trained.provenance(known, **settings, unit=modalities[target].unit)
    blocks = predictions(trained, known, target, columns=columns, min_prob=min_prob, batch_size=batch_size)
    if out is not None:
        uns = {"syncyte": {"translate": json.dumps(json_ready(provenance))}}
        with PredictionWriter(Path(out), known.obs, var, sparse=min_prob is not None, uns=uns) as writer:
            for block in blocks:
                writer.append(block)
        return Result("translate", known.names, provenance=provenance)
    pieces = list(blocks)
    values = sp.vstack(pieces, format="csr") if min_prob is not None else np.concatenate(pieces)
    layer = Layer(values, var.index, target)
    return Result("translate", known.names, layers={f"syncyte_from_{source}": layer}, provenance=provenance)
