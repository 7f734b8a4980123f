"""Both tables of regions together: as the result of a verb, as CSV files, and as part of an evaluation.

Leaves out how regions are found (``tasks.regions``, ``tasks.gene_regions``), and pages (``report``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from syncyte.atomic import atomic_file
from syncyte.data.cells import Cells
from syncyte.errors import CapabilityError, ConfigError
from syncyte.modalities import modalities
from syncyte.tasks.gene_regions import REACH, gene_regions
from syncyte.tasks.regions import FLOOR, modality_of, top_regions
from syncyte.tasks.trained import Trained

if TYPE_CHECKING:
    from syncyte.tasks.work import Work

REPORTED = 10  # regions a label or gene in an evaluation

LEGEND = (
    "For each cell type the mean state of its held-out cells is decoded into a profile over all regions. Score is log2 "
    "of that profile over the mean profile of the other types: 1 is twice as open as elsewhere, less where a region is "
    f"hardly ever open ({FLOOR:g} mean region is added on both sides). Observed is the same ratio in the raw counts of "
    "these cells, free of depth, the other types pooled. Open in and open out are the shares of cells, inside and "
    "outside the type, in which the region is open; cells open is how many of the type. A high score with no open cell "
    "is a claim that these data do not support."
)
NEAREST = (
    "Gene is the nearest transcription start (of protein-coding genes, where the reference says which), distance in bp "
    "from it to the region's middle, negative upstream; promoter is 2 kb before to 500 bp after it. The nearest gene "
    "need not be the one a region acts on."
)
GENE_LEGEND = (
    "For each gene the regions whose opening moves its prediction most through the linear part of the model. Effect is "
    "the change of the predicted value ({unit}) when the region opens in a cell of mean depth; moved, by which regions "
    "are ranked, is the effect times how much the opening varies between cells. These are regions that tell the model "
    "about the gene, often because both mark the same cells; none of it says that the region acts on the gene."
)


@dataclass(frozen=True)
class RegionTables:
    """What ``syncyte.top_regions`` gives back.

    Attributes
    ----------
    types
        Regions by label, see ``tasks.regions.top_regions``.
    genes
        Regions by gene, see ``tasks.gene_regions.gene_regions``; None where the run knows no genes.
    notes
        Sentences a reader should know: agreement with the raw counts, counts against chance, what is missing.
    provenance
        JSON-ready: recipe, run hash, version, settings.
    """

    types: pd.DataFrame
    genes: pd.DataFrame | None
    notes: tuple[str, ...]
    provenance: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """Regions by label."""
        return self.types

    def files(self, path: str | Path) -> list[Path]:
        """Where ``write`` puts the tables."""
        return [Path(path), *([Path(path).with_suffix(".genes.csv")] if self.genes is not None else [])]

    def write(self, path: str | Path) -> list[Path]:
        """Write the tables as CSV files, each whole or not at all."""
        check_table(path)
        for place, table in zip(self.files(path), (self.types, self.genes)):
            assert table is not None
            with atomic_file(place) as tmp:
                table.convert_dtypes().to_csv(tmp, index=False)
        return self.files(path)


def check_table(out: str | Path | None) -> None:
    """Refuse early a table that is no CSV file."""
    if out is not None and Path(out).suffix != ".csv":
        raise ConfigError(f"--out {out} does not end in .csv; tables of regions are written as CSV. Name a .csv file.")


def list_regions(
    trained: Trained,
    cells: Cells,
    label_key: str,
    genes: Sequence[str] | None = None,
    top: int = 20,
    *,
    places: Mapping[str, pd.DataFrame | None] | None = None,
    unclear: Sequence[str] = (),
    batch_size: int | None = None,
    seed: int = 0,
) -> RegionTables:
    """Regions of cell types and of genes; see ``syncyte.top_regions``.

    Parameters
    ----------
    places
        ``genes``: all genes of a reference; ``starts``: of those the run knows (``compare_translate.gene_starts``).
    """
    trained.need_capability("decodes", "list regions")
    places = places or {}
    named = [genes] if isinstance(genes, str) else list(genes) if genes else None
    if named and modality_of(trained, "gene") is None:
        raise CapabilityError(
            f"Regions of {', '.join(named[:3])} were asked for, and the run {trained.path} predicts no genes (it knows "
            f"{' and '.join(trained.modalities)}). Leave the genes (--genes) out."
        )
    # first what needs no pass over cells: unknown genes fail at once
    by_gene = None
    if modality_of(trained, "gene") is not None and modality_of(trained, "region") is not None:
        by_gene = gene_regions(trained, named, max(1, top // 2), starts=places.get("starts"), seed=seed)
    by_type = top_regions(trained, cells, label_key, places.get("genes"), top, unclear=unclear, batch_size=batch_size)
    notes = dict.fromkeys([*by_type.notes, *(by_gene.notes if by_gene is not None else ())])
    settings = {"label_key": label_key, "genes": named, "top": top, "unclear": list(unclear), "seed": seed}
    provenance = trained.provenance(cells, **settings)
    return RegionTables(by_type.table, None if by_gene is None else by_gene.table, tuple(notes), provenance)


def score_regions(work: Work, starts: pd.DataFrame | None) -> None:
    """Add both tables to an evaluation, with legends in plain words; nothing where the run knows no regions."""
    trained = work.trained
    if modality_of(trained, "region") is None or trained.model.published is not None:
        return
    labels = work.labels_of(work.held)
    if labels is None or work.label_key is None or len(set(labels) - {""}) < 2:
        work.notes.append("Top regions of cell types are not listed: they need at least two labels (--label-key).")
    else:
        work.say("top regions")
        found = top_regions(trained, work.held, work.label_key, work.genes, REPORTED, unclear=work.unclear)
        work.tables["top_regions"] = found.table.set_index("label")
        legend = LEGEND if work.genes is None else f"{LEGEND} {NEAREST}"
        work.text["top_regions"] = "\n\n".join([" ".join(reversed(found.notes)), legend])
    gene = modality_of(trained, "gene")
    if gene is not None:
        listed = gene_regions(trained, None, REPORTED, starts=starts, seed=work.seed)
        work.tables["gene_regions"] = listed.table.set_index("gene")
        legend = GENE_LEGEND.format(unit=modalities[gene].unit)
        near = f" Near is within {REACH // 1000} kb of the gene's start." if starts is not None else ""
        work.text["gene_regions"] = "\n\n".join([" ".join(listed.notes), legend + near])
