"""A small ontology of cell types in the three formats that are read."""

from __future__ import annotations

import json

ROWS = (  # id, name, synonyms, parent, definition
    ("CL:0000000", "cell", (), None, "Unit of life."),
    ("CL:0000738", "leukocyte", ("white blood cell",), "CL:0000000", "A cell of the blood that moves."),
    ("CL:0000542", "lymphocyte", (), "CL:0000738", "A leukocyte with a large nucleus."),
    ("CL:0000084", "T cell", ("T lymphocyte", "T-cell"), "CL:0000542", "A lymphocyte with a T cell receptor."),
    ("CL:0000624", "CD4-positive, alpha-beta T cell", (), "CL:0000084", "A T cell with CD4."),
    ("CL:0000625", "CD8-positive, alpha-beta T cell", (), "CL:0000084", "A T cell with CD8."),
    ("CL:0000236", "B cell", ("B lymphocyte",), "CL:0000542", "A lymphocyte that makes 'antibodies'."),
    ("CL:0000788", "naive B cell", (), "CL:0000236", "A B cell before antigen."),
    ("CL:0000623", "natural killer cell", ("NK cell",), "CL:0000542", "A lymphocyte that kills."),
    ("CL:0000576", "monocyte", (), "CL:0000738", "A leukocyte that becomes a macrophage."),
    ("CL:0001054", "CD14-positive monocyte", (), "CL:0000576", "A monocyte with CD14."),
    ("CL:0000875", "non-classical monocyte", ("patrolling monocyte",), "CL:0000576", "A monocyte with CD16."),
    ("CL:0000233", "platelet", ("thrombocyte",), "CL:0000000", "A piece of a megakaryocyte."),
)
RETIRED = (("CL:0000001", "old lymphocyte", "CL:0000002"), ("CL:0000002", "older T cell", "CL:0000084"))
ALONE = ("CL:0000003", "native thing", "")


def obo(rows=ROWS) -> str:
    """OBO text, with a term of another ontology, a broad synonym and retired ids."""
    lines = ["format-version: 1.2", "ontology: cl", ""]
    for key, name, synonyms, parent, definition in rows:
        escaped = definition.replace("'", '\\"')
        lines += ["[Term]", f"id: {key}", f"name: {name}", f'def: "{escaped}" [x:1]']
        lines += [f'synonym: "{item}" EXACT []' for item in synonyms]
        lines += ['synonym: "mononuclear thing" BROAD []'] if key == "CL:0000084" else []
        lines += [f"is_a: {parent} ! above"] if parent else []
        lines += [""]
    for key, name, by in (*RETIRED, ALONE):
        lines += ["[Term]", f"id: {key}", f"name: {name}", "is_obsolete: true"]
        lines += [f"replaced_by: {by}", ""] if by else [""]
    lines += ["[Term]", "id: GO:0000001", "name: some process", "", "[Typedef]", "id: part_of", "name: part of", ""]
    return "\n".join(lines)


def compact(rows=ROWS) -> str:
    """The JSON of cellxgene-ontology-guide."""
    parents = {key: parent for key, _, _, parent, _ in rows}
    table = {}
    for key, name, synonyms, parent, definition in rows:
        ancestors, far = {}, 1
        while parent is not None:
            ancestors[parent], far, parent = far, far + 1, parents[parent]
        described = definition.replace("'", '"')
        table[key] = {"label": name, "ancestors": ancestors, "description": described, "deprecated": False}
        table[key] |= {"synonyms": list(synonyms)} if synonyms else {}
    for key, name, by in (*RETIRED, ALONE):
        table[key] = {"label": name, "ancestors": {}, "deprecated": True} | ({"replaced_by": by} if by else {})
    return json.dumps(table)


def graphs(rows=ROWS) -> str:
    """OBO graphs."""

    def web(key: str) -> str:
        return "http://purl.obolibrary.org/obo/" + key.replace(":", "_")

    nodes, edges = [], []
    for key, name, synonyms, parent, definition in rows:
        names = [{"pred": "hasExactSynonym", "val": item} for item in synonyms]
        names += [{"pred": "hasBroadSynonym", "val": "mononuclear thing"}] if key == "CL:0000084" else []
        meta = {"definition": {"val": definition.replace("'", '"')}, "synonyms": names}
        nodes.append({"id": web(key), "lbl": name, "type": "CLASS", "meta": meta})
        edges += [{"sub": web(key), "pred": "is_a", "obj": web(parent)}] if parent else []
    for key, name, by in (*RETIRED, ALONE):
        values = [{"pred": web("IAO:0100001"), "val": web(by)}] if by else []
        nodes.append({"id": web(key), "lbl": name, "meta": {"deprecated": True, "basicPropertyValues": values}})
    nodes.append({"id": web("BFO:0000050"), "lbl": "part of", "type": "PROPERTY"})
    return json.dumps({"graphs": [{"id": web("cl.owl"), "nodes": nodes, "edges": edges}]})


def wide() -> str:
    """OBO text of 128 terms with two synonyms each: enough to train on."""
    places = ("liver", "kidney", "lung", "skin", "colon", "spleen", "retina", "muscle")
    kinds = (
        "epithelial cell",
        "fibroblast",
        "neuron",
        "macrophage",
        "stem cell",
        "endothelial cell",
        "mast cell",
        "basal cell",
    )
    states = ("", "activated ")
    rows = [("CL:1000000", "cell", (), None, "Unit of life.")]
    for place, site in enumerate(places):
        for kind, noun in enumerate(kinds):
            for state, word in enumerate(states):
                key = f"CL:2{place:02d}{kind:02d}{state:02d}".ljust(10, "9")
                synonyms = (f"{noun} of {site}", f"{site[:3]} {word}{noun.split()[0]}")
                label = f"{word}{site} {noun}"
                rows.append((key, label, synonyms, "CL:1000000", f"A {noun} that lies in the {site}."))
    return obo(tuple(rows))
