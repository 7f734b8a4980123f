"""A small ontology of blood cells, enough for relations, synonyms and definitions."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SmallTerm:
    label: str
    synonyms: tuple[str, ...] = ()
    definition: str = ""
    ancestors: dict[str, int] = field(default_factory=dict)


_ROWS = {  # id: label, synonyms, definition, parent
    "X:0": ("cell", (), "A unit of life.", None),
    "X:1": ("leukocyte", ("white blood cell",), "A cell of the blood that moves.", "X:0"),
    "X:2": ("lymphocyte", (), "A leukocyte with a large nucleus.", "X:1"),
    "X:3": ("T cell", ("T lymphocyte",), "A lymphocyte with a T cell receptor.", "X:2"),
    "X:4": ("CD4-positive, alpha-beta T cell", (), "A T cell with the CD4 coreceptor.", "X:3"),
    "X:5": ("CD8-positive, alpha-beta T cell", (), "A T cell with the CD8 coreceptor.", "X:3"),
    "X:6": ("cytotoxic T cell", ("cytotoxic lymphocyte",), "A T cell that kills.", "X:3"),
    "X:7": ("natural killer cell", ("NK cell",), "A lymphocyte that kills targets without activation.", "X:2"),
    "X:8": ("lymphocyte of B lineage", (), "A lymphocyte of B lineage.", "X:2"),
    "X:9": ("B cell", ("B lymphocyte",), "A lymphocyte capable of immunity.", "X:8"),
    "X:10": ("antibody secreting cell", ("plasma cell",), "Secretes large amounts of immunoglobulin.", "X:8"),
    "X:11": ("monocyte", (), "A leukocyte that becomes a macrophage.", "X:1"),
    "X:12": ("CD14-positive monocyte", (), "A monocyte that expresses CD14.", "X:11"),
    "X:13": ("non-classical monocyte", ("CD16 monocyte",), "A monocyte that patrols vessels.", "X:11"),
    "X:14": ("megakaryocyte", (), "A large cell that forms each platelet.", "X:0"),
    "X:15": ("naive B cell", (), "A B cell before antigen.", "X:9"),
    "X:16": ("group B, or else C, cell", (), "A name with a comma in it.", "X:0"),
}


def _line(key: str) -> dict[str, int]:
    found, parent, far = {}, _ROWS[key][3], 1
    while parent is not None:
        found[parent] = far
        parent, far = _ROWS[parent][3], far + 1
    return found


TERMS = {key: SmallTerm(row[0], row[1], row[2], _line(key)) for key, row in _ROWS.items()}
CLASSES = ("X:4", "X:5", "X:7", "X:9", "X:12", "X:13", "X:14")
