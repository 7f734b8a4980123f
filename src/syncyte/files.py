"""Verbs about files: read, inspect, harmonise, store, convert, count fragments, map labels; and how data are opened.

Leaves out: models. ``api`` hands these on beside its own verbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd
    from mudata import MuData

    from syncyte.data.cells import Cells
    from syncyte.data.fragments.cells import FragmentCounts
    from syncyte.data.gather import Executor, Gathered
    from syncyte.genome.ontology import Ontology
    from syncyte.words.map import LabelMap


def open_data(
    data: Any,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> Cells:
    """Open cells from whatever the user gave; see ``read`` for the options."""
    from syncyte.data.read import open_cells
    from syncyte.modalities import all_schemas

    return open_cells(data, schemas=all_schemas(), modality=modality, reference=genome, layer=layer, force=force)


def deliver(result: Result, data: Any, cells: Cells, out: Any, key_added: str | None) -> Result:
    """Write the user's data with the result added, where ``out`` says so."""
    from syncyte.tasks.write import write_result_file

    if out is not None:
        several = isinstance(data, list | tuple)
        write_result_file(result, cells if several else data, Path(out), cells=cells, key_added=key_added)
    return result


def read_features(pairs: Sequence[Any]) -> dict[str, pd.DataFrame]:
    """Tables of feature vectors by column of ``obs``, from ``KEY=TABLE`` or mappings of a key to a table.

    Raises
    ------
    ConfigError
        Where a pair is not written so, or a file is missing.
    DataError
        Where a table repeats a name, holds text beside the names, or nothing.
    """
    import numpy as np
    import pandas as pd

    found: dict[str, pd.DataFrame] = {}
    for pair in [pairs] if isinstance(pairs, str | Mapping) else pairs:
        if isinstance(pair, Mapping):
            found |= {key: table.astype(np.float32) for key, table in pair.items()}
            continue
        key, separator, place = str(pair).partition("=")
        if not separator or not Path(place).is_file():
            raise ConfigError(
                f"--features {pair}: expected KEY=TABLE, a column of obs and a .csv or .tsv file whose first column "
                f"holds its values{'' if not separator else f'; there is no file {place!r}'}."
            )
        table = pd.read_csv(place, sep="," if place.endswith(".csv") else "\t", index_col=0, dtype={0: str})
        table.index = table.index.astype(str)
        words = [str(name) for name, kind in table.dtypes.items() if kind.kind not in "biuf"]
        if table.index.has_duplicates or words or table.empty:
            problem = "names repeat" if table.index.has_duplicates else f"columns {words[:3]} are no numbers"
            raise DataError(f"The table {place} cannot be used: {'it is empty' if table.empty else problem}.")
        found[key] = table.astype(np.float32)
    return found


def read(
    source: Any,
    *,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> MuData:
    """Read cells into a new MuData of raw counts under canonical modality and feature names.

    Parameters
    ----------
    source
        ``.h5ad``, ``.h5mu``, ``.zarr``, 10x ``.h5``, mtx folder, store; a list of these; AnnData; MuData.
    modality
        What a plain table holds, where its features do not say it (``rna``, ``atac``).
    genome
        Reference folder that maps gene names and regions (``syncyte reference build``).
    layer
        Where the raw counts are, if they should not be looked for.
    force
        Go on although regions look like those of another genome build.

    Raises
    ------
    DataError, GenomeError
        Saying what was found, what was expected and what to do.
    """
    from syncyte.data.read import read as read_source
    from syncyte.modalities import all_schemas

    return read_source(source, schemas=all_schemas(), modality=modality, reference=genome, layer=layer, force=force)


def inspect_data(
    data: Any,
    *,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """What is in the data: the report of reading, and ``summary``, text for people."""
    from syncyte.data.describe import describe_cells

    del quiet
    cells = open_data(data, modality, genome, layer, force)
    return {**cells.report, "summary": describe_cells(cells)}


def write_store(
    data: Any,
    *,
    out: str | Path,
    shard_cells: int = 16384,
    compact: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write cells as shuffled shards that train from disk.

    Shards are files that plain anndata opens. With ``compact`` they take a fifth of the bytes, and syncyte alone reads
    them; ``convert`` makes a plain file of such a store.
    """
    from syncyte.data.store import write_store as write

    del quiet
    cells = open_data(data, modality, genome, layer, force)
    return write(cells, Path(out), shard_cells=shard_cells, seed=seed, overwrite=overwrite, compact=compact)


def harmonise(
    files: Any,
    *,
    reference: str | Path,
    out: str | Path,
    chain: str | Path | None = None,
    rule: str = "largest",
    workers: int = 1,
    executor: Executor | None = None,
    skip_failed: bool = False,
    shard_cells: int = 16384,
    compact: bool = True,
    overwrite: bool = False,
    seed: int = 0,
    modality: str | None = None,
    layer: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Gathered:
    """Put many files on one reference and join them in a store; what an earlier call did is not done again.

    Parameters
    ----------
    files
        Paths of files of cells, see ``read``; one task each.
    reference
        Reference folder. Regions become all of its regions, whatever a file's peaks.
    out
        Store to make. Parts stay in ``OUT.parts``, names of cells with few open regions in ``OUT.few_regions.tsv``.
    chain, rule
        Chain file from the build of the peaks; how a peak's counts go to regions: ``largest``, ``any``, ``fraction``.
    workers, executor
        Processes of this machine, or anything with ``submit`` as in ``concurrent.futures``, a dask client included.
    skip_failed, compact
        Write the store without the files that failed (else one failure means no store); pack its counts, for syncyte
        alone to read (else plain anndata opens the shards, each of which repeats all names).
    force
        Go on where the genome build looks wrong or less than 30 % of peaks or counts lie in regions.

    Returns
    -------
    Gathered
        ``path``, ``report`` (each file's coverage in ``report["files"]``), ``made``, ``kept``, ``failed``, ``few``.
    """
    from syncyte.data.gather import Options, gather
    from syncyte.data.place import How
    from syncyte.meter import Lines
    from syncyte.modalities import all_schemas

    return gather(
        [Path(path).expanduser() for path in (files if isinstance(files, list | tuple) else [files])],
        schemas=all_schemas(),
        reference=Path(reference),
        out=Path(out).expanduser(),
        how=How(rule, None if chain is None else Path(chain).expanduser(), force),
        options=Options(modality, layer, skip_failed, overwrite, seed, shard_cells, compact),
        executor=executor,
        workers=workers,
        told=None if quiet else Lines(),
    )


def convert(
    data: Any,
    *,
    out: str | Path,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write raw counts, covariates and canonical names as ``.h5ad``, ``.h5mu`` or ``.zarr``."""
    from syncyte.data.convert import convert as write

    del quiet
    return write(open_data(data, modality, genome, layer, force), Path(out))


def count_fragments(
    fragments: str | Path,
    *,
    genome: Any,
    out: str | Path | None = None,
    barcodes: str | Path | Sequence[str] | None = None,
    min_fragments: int | None = None,
    rule: str = "ends",
    shift: tuple[int, int] = (0, 0),
    peaks: str | Path | None = None,
    plots: str | Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> FragmentCounts:
    """Count a fragment file on the regions of a reference: cells x regions, and the quality of each cell.

    One line is one fragment; column 5 (read pairs) gives the share of duplicates and nothing else. Memory does not grow
    with the file, which may be in any order.

    Parameters
    ----------
    fragments
        ``.tsv.gz`` (gzip or bgzip; no index needed) or ``.tsv``: chromosome, start, end, barcode, read pairs.
    genome
        Reference folder with regions (``syncyte reference build``), or a loaded ``Reference``; with genes, enrichment
        at transcription starts is measured.
    out
        ``.h5ad`` to write. Without it the counts stay in memory (``.adata``).
    barcodes
        The cells: a list, or a file with one a line. All of them become rows. Without it, cells are the barcodes above
        the gap in fragments per barcode.
    min_fragments
        Least fragments of a cell, instead of the gap.
    rule
        ``ends``: once for each region that holds an end of the fragment. ``insertions``: each end by itself.
        ``overlap``: once for each region the fragment overlaps.
    shift
        bp added to start and end: ``(4, -5)`` where the file was not corrected for Tn5 (10x files are).
    peaks, plots
        BED of peaks for the share of fragments in peaks (by default the regions, unless they tile the genome); folder
        for plots of quality.
    force
        Go on although the fragments look like those of another genome build.
    """
    from syncyte.data.fragments.cells import count_file
    from syncyte.data.fragments.count import Counting, listed_barcodes
    from syncyte.data.fragments.target import make_target
    from syncyte.genome.reference import Reference
    from syncyte.meter import Meter
    from syncyte.report.fragments import write_plots

    _check_counting(shift, min_fragments, plots)
    how = Counting(rule, (int(shift[0]), int(shift[1])), listed_barcodes(barcodes))
    target = make_target(genome if isinstance(genome, Reference) else Reference.load(genome), peaks)
    path, final = Path(fragments).expanduser(), None if out is None else Path(out).expanduser()
    with Meter("counting fragments", "fragments", quiet) as meter:
        counts = count_file(path, target, how, final, min_fragments=min_fragments, force=force, advance=meter.advance)
    if plots is not None:
        write_plots(counts, plots)
    return counts


def map_labels(
    labels: str | Path | Sequence[str],
    *,
    ontology: Any = None,
    out: str | Path | None = None,
    names: str | Path | Mapping[str, str] | None = None,
    subset: str | Path | Sequence[str] | None = None,
    cut: float = 0.5,
    fast: bool = False,
    cache: str | Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> LabelMap:
    """Find the terms that free-text labels of cells mean; labels that nothing fits get no answer.

    Parameters
    ----------
    labels
        Labels, or a ``Path`` (or text that names a file) with one a line.
    ontology
        Ontology file (OBO, OBO graphs, JSON of cellxgene-ontology-guide; may be compressed) or a read ``Ontology``.
        Without it, embedded names of blood and marrow and ``names`` are all there is.
    out
        CSV to write: label, term id, term, score, evidence.
    names
        Your own names: ``{name: id}`` (an empty id for a name that stands for itself), or a file of them.
    subset
        Terms that may be answers: ids, or a file that lists them. A label that means another gets the closest above.
    cut
        Score from which an answer is given, between 0 and 1.
    fast
        Letters and words alone: nothing is trained, and answers come at once.
    cache
        Folder for what is learned from an ontology (some minutes, once), instead of the user's cache.

    Returns
    -------
    LabelMap
        ``matches`` in the order of the labels, ``table()`` and ``notes``.
    """
    from syncyte.genome.ontology import Ontology
    from syncyte.genome.ontology_files import read_ontology
    from syncyte.words.labels import read_labels, read_names, write_map
    from syncyte.words.map import LabelMap, LabelMapper, check_cut
    from syncyte.words.trained import trained_for, without_training

    check_out(out)
    check_cut(cut)
    listed = read_labels(Path(labels).expanduser()) if isinstance(labels, str | Path) else list(map(str, labels))
    own = list(names.items()) if isinstance(names, Mapping) else read_names(Path(names)) if names is not None else []
    known = ontology if isinstance(ontology, Ontology) or ontology is None else read_ontology(ontology)
    among = None if subset is None else _chosen_terms(known, subset)
    models, note = without_training(), ""
    if known is not None and not fast:
        models, note = trained_for(known, cache=None if cache is None else Path(cache), seed=seed, quiet=quiet)
    mapper = LabelMapper(known, names=own, models=models, cut=cut, among=among)
    found = LabelMap(tuple(mapper.map(listed)), (*filter(None, [note]), *mapper.notes))
    if out is not None:
        write_map(found, Path(out).expanduser())
    return found


def _chosen_terms(ontology: Ontology | None, subset: str | Path | Sequence[str]) -> Iterable[str]:
    if ontology is None:
        raise ConfigError("--subset chooses terms of an ontology, and none was given. Pass --ontology FILE.")
    return ontology.subset(Path(subset) if isinstance(subset, str | Path) else subset).active


def _check_counting(shift: Sequence[int], min_fragments: int | None, plots: str | Path | None) -> None:
    """Refuse before the count what would fail after it."""
    if len(shift) != 2 or (min_fragments is not None and min_fragments < 1):
        raise ConfigError(
            f"shift is {tuple(shift)} and min_fragments {min_fragments}; expected two numbers of bp and at least 1."
        )
    if plots is not None and Path(plots).expanduser().is_file():
        raise ConfigError(f"--plots {plots} is a file; name a folder.")


def check_out(out: str | Path | None) -> None:
    """Refuse early what could not be written in the end."""
    if out is None:
        return
    path = Path(out)
    if path.is_dir() and path.suffix != ".zarr":
        raise ConfigError(f"--out {path} is a folder; name a file in it.")
    if path.parent.exists() and not path.parent.is_dir():
        raise DataError(f"Cannot write {path}: {path.parent} is not a folder.")
