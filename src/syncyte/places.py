"""Verbs about places in the genome: ``top_regions``. ``api`` hands them on beside its own verbs.

Leaves out: all science (tasks) and all formatting (cli).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.files import check_out, open_data

if TYPE_CHECKING:
    from syncyte.tasks.region_tables import RegionTables
    from syncyte.tasks.trained import Trained


def genes_of(trained: Trained, genome: Any) -> dict[str, Any]:
    """All genes of a reference, and the starts of those a run knows; None both without a reference."""
    from syncyte.genome.reference import Reference
    from syncyte.tasks.compare_translate import gene_starts

    if genome is None:
        return {"genes": None, "starts": None}
    book = Reference.load(genome)
    return {"genes": book.genes, "starts": gene_starts(trained, book)}


def top_regions(
    run: Any,
    data: Any,
    *,
    label_key: str,
    genes: Sequence[str] | None = None,
    top: int = 20,
    unclear: Sequence[str] = (),
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    batch_size: int | None = None,
) -> RegionTables:
    """List the regions a run calls specific for each cell type, beside what the cells show, and those of genes.

    Parameters
    ----------
    label_key
        Column of the cell type.
    genes
        Names of predicted genes whose regions are listed (half of ``top`` each); by default the 50 whose prediction
        varies most. Only where the run knows genes too.
    top
        Regions a type.
    unclear
        Labels that mean no class (doublets, unassigned); their cells are left out.
    out
        ``.csv`` for the types; the table of genes goes to ``.genes.csv`` beside it.
    genome
        As in ``read``; with a reference folder that has genes, the nearest genes and distances are listed.
    """
    from syncyte.tasks.region_tables import check_table, list_regions
    from syncyte.tasks.trained import together

    del quiet
    how: dict[str, Any] = {"unclear": unclear, "batch_size": batch_size, "seed": seed}

    def work(trained: Trained) -> RegionTables:
        check_table(out)
        check_out(out)
        cells = open_data(data, modality, genome, layer, force)
        found = list_regions(trained, cells, label_key, genes, top, places=genes_of(trained, genome), **how)
        if out is not None:
            found.write(Path(out))
        return found

    return together(run, device, work)
