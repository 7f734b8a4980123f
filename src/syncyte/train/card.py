"""The model card: what a person reads before she trusts a checkpoint.

Rendered as Markdown with the front matter that model hubs read. Every key of the card becomes a section: text a
paragraph, a list bullets, a mapping a table. Left out: deciding what is in it (the recipe's affair).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DEFAULTS: dict[str, Any] = {
    "intended use": "Research on single cells like those it was trained on: embedding, integration, annotation, "
    "translation between measured modalities. Not for diagnosis or for decisions about patients.",
    "limits": [
        "Cells, tissues, species or protocols unlike the training data are extrapolation; compare with the baselines "
        "of `syncyte evaluate` on your own data before use.",
        "Features outside of the vocabularies of this checkpoint are ignored on the way in and never predicted.",
        "Predicted values are expectations; they are smoother than measurements and no substitute for them in tests "
        "between groups.",
    ],
}


def render_card(card: Mapping[str, Any], recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Markdown of a model card.

    Parameters
    ----------
    card
        Sections by title (``data``, ``intended use``, ``limits``, ...); ``name`` is the heading, ``license``
        and ``tags`` go to the front matter. Intended use and limits have a general text where missing.
    recipe
        The whole recipe, printed as JSON.
    metrics
        Numbers by name, one level of nesting allowed.
    """
    name = str(card.get("name", recipe.get("name", "syncyte model")))
    tags = ["syncyte", "single-cell", *map(str, card.get("tags", ()))]
    front = {"library_name": "syncyte", "tags": tags, **({"license": card["license"]} if "license" in card else {})}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "", f"# {name}", ""]
    sections = {**{key: value for key, value in card.items() if key not in ("name", "tags", "license")}}
    for key, value in DEFAULTS.items():
        sections.setdefault(key, value)
    for title, value in sections.items():
        lines += [f"## {title.replace('_', ' ').capitalize()}", "", *_block(value), ""]
    lines += ["## Metrics", "", *(_block(metrics) if metrics else ["None were recorded."]), ""]
    lines += [
        "## How to load",
        "",
        "```python",
        "import syncyte",
        "",
        'model = syncyte.load("path/to/this/folder")',
        "```",
        "",
        "or `syncyte embed path/to/this/folder DATA --out OUT`. Every file is checked against `checkpoint.json`;",
        "nothing in this folder is executed.",
        "",
        "## Recipe",
        "",
        "```json",
        json.dumps(recipe, indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _block(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        flat = {key: item for outer, inner in value.items() for key, item in _flat(str(outer), inner)}
        return ["| | |", "| --- | --- |", *(f"| {_cell(key)} | {_cell(item)} |" for key, item in flat.items())]
    if isinstance(value, list | tuple):
        return [f"- {item}" for item in value]
    return [str(value)]


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(f"{name}: {key}", item)]
    return [(name, value)]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
