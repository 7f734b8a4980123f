"""What was found in the cells, in words: the text of ``syncyte data inspect``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from syncyte.data.cells import Cells

COLUMNS = 12  # covariates listed with their values


def describe_cells(cells: Cells) -> str:
    """Several lines on cells, modalities, counts, features, covariates and everything worth knowing."""
    report = cells.report
    lines = [_line("cells", f"{len(cells):,}{_shared(cells)}")]
    for name, part in cells.parts.items():
        measured = int((part.index >= 0).sum())
        lines.append(_line(name, f"{measured:,} cells x {len(part.var):,} features"))
        for sentence in (report.get(name, {}).get("counts"), report.get("features", {}).get(name)):
            if sentence:
                lines.append(_line("", sentence))
    own = [key for key in cells.obs.columns if str(key).partition(":")[2] not in cells.obs]  # no copies by MuData
    shown = own[:COLUMNS]
    for place, key in enumerate(shown):
        lines.append(_line("obs" if place == 0 else "", f"{key}: {_column(cells.obs[key])}"))
    if len(own) > COLUMNS:
        lines.append(_line("", f"... and {len(own) - COLUMNS} more columns"))
    for place, source in enumerate(report.get("sources", [])):
        size = f", {source['bytes'] / 1e6:,.1f} MB" if "bytes" in source else ""
        lines.append(
            _line("sources" if place == 0 else "", f"{source.get('path', '')} ({source.get('kind', '')}{size})".strip())
        )
    for place, note in enumerate(report.get("notes", [])):
        lines.append(_line("notes" if place == 0 else "", note))
    return "\n".join(lines)


def _line(head: str, text: str) -> str:
    return f"{head:<10}{text}"


def _shared(cells: Cells) -> str:
    names = cells.modalities
    if len(names) < 2:
        return ""
    present = np.array([cells.present(name) for name in names])
    text = f" ({int(present.all(axis=0).sum()):,} with {' and '.join(names)}"
    for place, name in enumerate(names):
        alone = int((present[place] & (present.sum(axis=0) == 1)).sum())
        if alone:
            text += f", {alone:,} with {name} alone"
    return text + ")"


def _column(column: pd.Series) -> str:
    known = column.dropna()
    missing = f", {len(column) - len(known):,} unknown" if len(known) < len(column) else ""
    if pd.api.types.is_numeric_dtype(column) and known.nunique() > 20:
        return f"{known.min():g} to {known.max():g}{missing}"
    counts = known.astype(str).value_counts()
    if len(counts) == len(known) and len(known) > 20:
        return f"a different value for every cell{missing}"
    values = ", ".join(f"{value} ({count:,})" for value, count in counts.head(4).items())
    return f"{len(counts):,} values: {values}{', ...' if len(counts) > 4 else ''}{missing}"
