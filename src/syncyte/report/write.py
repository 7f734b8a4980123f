"""A report as files: one HTML page that loads nothing, and a JSON twin with every number.

Figures are put into the page: drawings as SVG, those with many points or pixels as PNG of few colours. All text is
escaped. Leaves out: what is said (``report.sections``).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from syncyte.atomic import atomic_file
from syncyte.report.base import Report, Section
from syncyte.report.measures import measure
from syncyte.report.tables import layout, metric_columns, number, sentence_case
from syncyte.types import json_ready

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDED = 15  # rows of a table that are shown without a click
PRINTED = 200  # rows of a table that reach the page; the JSON twin has all
LISTS = ("top_regions", "gene_regions")  # tables that are lists to work with: files of their own
POINTS = 400  # marks in a figure above which it is stored as pixels


def write_report(report: Report, out_dir: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a folder, which is made; older ones are replaced in one step.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    folder = Path(out_dir)
    page, twin = folder / "report.html", folder / "report.json"
    made = datetime.now().astimezone().replace(microsecond=0)
    text = render(report, made.strftime("%Y-%m-%d %H:%M %Z").strip())
    numbers = json.dumps(
        {**as_numbers(report), "made": made.isoformat()}, indent=1, ensure_ascii=False, allow_nan=False
    )
    for path, content in ((page, text), (twin, numbers)):
        with atomic_file(path) as tmp:
            tmp.write_text(content, encoding="utf-8")
    return page, twin


def write_tables(tables: Mapping[str, pd.DataFrame], out_dir: str | Path) -> list[Path]:
    """Write the tables of an evaluation that are lists to work with as CSV files; the JSON twin has all tables."""
    written = []
    for name in (name for name in LISTS if name in tables):
        written.append(Path(out_dir) / f"{name}.csv")
        with atomic_file(written[-1]) as tmp:
            tables[name].convert_dtypes().to_csv(tmp)
    return written


def render(report: Report, made: str = "") -> str:
    """Report as one HTML page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    sections = [_shown(section, place) for place, section in enumerate(report.sections)]
    return pages.get_template("template.html.j2").render(report=report, sections=sections, made=made)


def as_numbers(report: Report) -> dict[str, Any]:
    """Everything in the report but the pictures, JSON-ready: NaN becomes null."""
    sections = [
        {
            "title": section.title,
            "text": section.paragraphs,
            "verdicts": [{"text": item.text, "outcome": item.outcome} for item in section.verdicts],
            "metrics": section.metrics,
            "tables": {caption: _table_numbers(table) for caption, table in section.tables.items()},
            "figures": list(section.figures),
            "data": section.data,
        }
        for section in report.sections
    ]
    plain = {"title": report.title, "subtitle": report.subtitle, "facts": report.facts, "sections": sections}
    # once more through text, so that dates and the like become strings
    return json.loads(json.dumps(json_ready(_missing(plain)), default=str))


def embed_figure(figure: Figure) -> str:
    """Figure as a data address for ``<img src>``."""
    import matplotlib

    buffer = io.BytesIO()
    if _has_many_marks(figure):
        from PIL import Image

        figure.savefig(buffer, format="png", dpi=150)
        image = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        kind = "png"
    else:
        with matplotlib.rc_context({"svg.hashsalt": "syncyte"}):
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        kind = "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _has_many_marks(figure: Figure) -> bool:
    marks = 0
    for axes in figure.axes:
        marks += (POINTS + 1) * len(axes.images)
        marks += sum(np.shape(drawn.get_offsets())[0] for drawn in axes.collections)
        marks += sum(np.size(line.get_xdata()) // 10 for line in axes.lines)
    return marks > POINTS


def _shown(section: Section, place: int) -> dict[str, Any]:
    """Section as the template wants it."""
    tables = []
    for caption, table in section.tables.items():
        compare = caption in section.compared
        header, rows = layout(table.head(PRINTED), section.model, compare)
        words = [measure(str(name)) for name in metric_columns(table)] if compare else []
        tables.append(
            {
                "caption": sentence_case(caption),
                "header": header,
                "rows": rows,
                "folded": len(table) > FOLDED and not compare,
                "left_out": max(0, len(table) - PRINTED),
                "total": len(table),
                "intervals": any(cell.note for row in rows for cell in row.cells),
                "oracle": any(row.role == "oracle" for row in rows),
                "words": [(item.label, item.meaning) for item in words if item.meaning],
            }
        )
    figures = [
        {
            "caption": caption.partition(": "),
            "source": embed_figure(figure),
            "width": int(figure.get_size_inches()[0] * 96),
        }
        for caption, figure in section.figures.items()
    ]
    tiles = [(name, number(value)) for name, value in section.metrics.items()]
    return {"id": f"part-{place + 1}", "section": section, "tables": tables, "figures": figures, "tiles": tiles}


def _table_numbers(table: pd.DataFrame) -> dict[str, Any]:
    values = table.astype(object).where(table.notna(), None)
    return {
        "index_name": table.index.name,
        "index": list(table.index),
        "columns": list(table.columns),
        "data": values.to_numpy().tolist(),
    }


def _missing(value: Any) -> Any:
    """Tables anywhere in plain data become dictionaries of columns."""
    if isinstance(value, pd.DataFrame):
        return {str(name): list(value[name]) for name in value}
    if isinstance(value, dict):
        return {key: _missing(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_missing(item) for item in value]
    return value
