"""From an evaluation to a report: which sections, in which order, from which keys.

The keys are those of ``tasks.result.Evaluation``. A table whose name begins with that of a section (``annotate by
donor``) is printed in it; tables no section knows come at the end, under their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from syncyte.report import sections as write
from syncyte.report.base import Report, Section
from syncyte.report.depth import depth_section
from syncyte.report.generated import generation, responses
from syncyte.tasks.result import Evaluation

TITLES = {
    "embed": "Embedding",
    "integrate": "Integration",
    "top_regions": "Top regions of cell types",
    "gene_regions": "Regions that move predicted genes",
    "words typing": "Words: types",
    "words prompts": "Words: wordings of a question",
    "words retrieval": "Words: retrieval",
    "words descriptions": "Words: descriptions",
    "words text to cells": "Words: cells from texts",
    "words search": "Words: searches",
}
FACTS = ("recipe", "preset", "run", "data", "reference", "cells", "seed", "device", "version", "syncyte")


def report_from_evaluation(evaluation: Evaluation) -> Report:
    """Everything an evaluation holds as a page: verdicts first, provenance last."""
    tables = dict(evaluation.tables)
    curves = tables.pop("training", None)
    parts: dict[str, Section] = {}
    keys = [key for key in dict.fromkeys([*tables, *evaluation.arrays]) if not key.startswith("umap")]
    own = ("annotate", "depth", "generate", "perturb")
    main = [key for key in keys if key in TITLES or key in own or _direction(key)]
    main += [key for key in keys if not any(key == one or key.startswith(f"{one} ") for one in main)]
    umaps = {key: arrays for key, arrays in evaluation.arrays.items() if key.startswith("umap")}
    for key, arrays in umaps.items():
        title = "UMAP" if key == "umap" else f"UMAP: {key.removeprefix('umap').strip(' _')}"
        parts[title] = write.umap_section(title, arrays, evaluation.text.get(key, ""))
    for key in main:
        section = _section(key, evaluation, tables)
        parts[section.title] = section
    if curves is not None:
        parts["Training"] = write.training(curves, evaluation.text.get("training", ""))
    facts = evaluation.provenance
    if isinstance(facts.get("coverage"), Mapping):
        parts["Coverage"] = write.coverage(facts["coverage"], evaluation.text.get("coverage", ""))
    if facts:
        parts["Provenance"] = write.provenance(facts, evaluation.text.get("provenance", ""))
    notes = "\n\n".join(filter(None, (evaluation.text.get("summary", ""), evaluation.text.get("notes", ""))))
    first = write.summary(parts, notes)
    shown = [first] if first.verdicts or first.paragraphs else []
    return Report(
        evaluation.text.get("title", "syncyte evaluation"),
        [*shown, *parts.values()],
        evaluation.text.get("subtitle", ""),
        {key: str(facts[key]) for key in FACTS if _short(facts.get(key))},
    )


def _section(key: str, evaluation: Evaluation, tables: Mapping[str, pd.DataFrame]) -> Section:
    own, arrays, model = tables.get(key), evaluation.arrays.get(key, {}), evaluation.model
    more = {name: table for name, table in tables.items() if name.startswith(f"{key} ")}
    text = evaluation.text.get(key, "")
    if key == "annotate":
        return write.annotation(own, arrays, model, text, more)
    if _direction(key):
        words = {
            word: evaluation.text[f"{key} {word}"]
            for word in ("baseline", "measure")
            if f"{key} {word}" in evaluation.text
        }
        return write.translation(key, own, arrays, model, {"note": text, **words}, more)
    if key == "generate" and own is not None:
        return generation(own, arrays, model, text, more)
    if key == "perturb" and own is not None:
        return responses(own, arrays, model, text, more)
    if key == "depth" and own is not None:
        return depth_section(own, tables.get("depth equal"), model, text)
    title = TITLES.get(key, f"{key[0].upper()}{key[1:]}")
    if own is None:
        return Section(title, text=text, tables=more, data=dict(arrays))
    if any(str(name).startswith(model) for name in own.index):
        return write.comparison(title, own, model, text, more)
    return Section(title, text=text, tables={title: own, **more})


def _direction(key: str) -> bool:
    """Whether a key is ``translate <a> to <b>`` itself, not a further table of it."""
    words = key.split(" ")
    return len(words) == 4 and words[0] == "translate" and words[2] == "to"


def _short(value: Any) -> bool:
    return isinstance(value, str | int | float) and 0 < len(str(value)) <= 60
