"""Terms of the labels of two data sets of blood, and the ontology, for the benchmarks of words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

KANG = {
    "B cells": "CL:0000236",
    "CD14+ Monocytes": "CL:0001054",
    "CD4 T cells": "CL:0000624",
    "CD8 T cells": "CL:0000625",
    "Dendritic cells": "CL:0000451",
    "FCGR3A+ Monocytes": "CL:0000875",
    "Megakaryocytes": "CL:0000556",
    "NK cells": "CL:0000623",
}
LABELS = {term: label for label, term in KANG.items()}
SAME = {  # labels of pbmc3k as those of kang, for scoring between the two
    "B": "B cells",
    "CD14+ Mono": "CD14+ Monocytes",
    "CD8 T": "CD8 T cells",
    "DC": "Dendritic cells",
    "FCGR3A+ Mono": "FCGR3A+ Monocytes",
    "Memory CD4 T": "CD4 T cells",
    "NK": "NK cells",
    "Naive CD4 T": "CD4 T cells",
    "Platelet": "Megakaryocytes",
}
PBMC = {label: KANG[same] for label, same in SAME.items()}
PBMC_OWN = {**PBMC, "Memory CD4 T": "CL:0000897", "Naive CD4 T": "CL:0000895", "Platelet": "CL:0000233"}


def read_terms(path: Path) -> dict[str, Any]:
    """Terms of an ontology file."""
    from numcodecs.zstd import Zstd

    table = json.loads(Zstd().decode(path.read_bytes()))
    live = {key: item for key, item in table.items() if key.startswith("CL:") and not item.get("deprecated")}
    return {
        key: SimpleNamespace(
            label=item["label"],
            synonyms=tuple(item.get("synonyms", ())),
            definition=item.get("description", ""),
            ancestors={above: far for above, far in item["ancestors"].items() if above in live},
        )
        for key, item in live.items()
    }
