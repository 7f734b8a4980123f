"""The verb ``variants``; ``api`` hands it on beside its own verbs.

Leaves out: all science (tasks, recipes) and all formatting (report, cli).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.atomic import atomic_file
from syncyte.errors import ConfigError, DataError
from syncyte.files import check_out, deliver, open_data

if TYPE_CHECKING:
    import pandas as pd

    from syncyte.tasks.gene_run import GeneRun
    from syncyte.tasks.variants import VariantEffects

CLOSE = 10  # pairs that are looked at closely
TRACKED = 2  # genes with a mutagenesis track
MARK = "manifest.json"
FORMAT = 1


def variants(
    run: Any,
    *,
    fasta: Any,
    cells: Any,
    out: str | Path,
    vcf: str | Path | None = None,
    edits: str | Path | Sequence[str] | None = None,
    sample: str | None = None,
    offset: Any = None,
    group: str | None = None,
    donor: str | None = None,
    targets: str | Path | None = None,
    nulls: int = 200,
    each: int | None = None,
    close: int = CLOSE,
    shifts: bool = True,
    cache: str | Path | None = None,
    cells_out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> VariantEffects:
    """Say what variants do to the genes they touch, and through cells to other genes.

    Parameters
    ----------
    run, cells, fasta, offset
        A ``bio_dta`` run; cells that changes are followed through, see ``read``; genome that the variants are called on
        (one file or several), and where slices of one begin.
    vcf, edits
        Variants (VCF, BCF, or a table with chrom, pos, ref, alt), and edits such as ``chr22:100-200=shuffle``.
    sample
        Score the haplotypes of this sample of the VCF instead of each allele by itself.
    group, donor
        Columns of the cells: groups that are told apart, and donors, the replicates of all tests.
    targets, out, cells_out
        Table of genes and their targets, whose ranking is tested; folder of ``effects.tsv``, ``report.html``,
        ``manifest.json`` and more; file for the cells with the tables in ``uns``.
    nulls, each, close, shifts
        Random variants each is compared with, cells of a donor in a group that are followed, pairs that are looked at
        closely, and whether contextual embeddings are compared too.
    cache
        Folder that keeps encoded sequences; inside ``out`` by default.
    """
    asked, folder = locals(), Path(out)
    _check(asked, folder, overwrite)
    with _alone(folder):
        found = _answer(asked, folder / ".work")
        write_effects(found, folder)
    if cells_out is not None:
        deliver(found.result(), cells, open_data(cells, modality, genome, layer, force), cells_out, None)
    return found


def _check(asked: Mapping[str, Any], out: Path, overwrite: bool) -> None:
    """Refuse at once what could not end well."""
    if out.is_file():
        raise DataError(f"--out {out} is a file; a folder is made there. Give another name.")
    if (out / MARK).exists() and not overwrite:
        raise DataError(f"{out} holds finished results. Give another folder, or --overwrite.")
    check_out(asked["cells_out"])
    if asked["vcf"] is None and asked["edits"] is None and asked["targets"] is None:
        raise ConfigError("Nothing to score: give --vcf, --edits or --targets.")
    if asked["sample"] is not None and (asked["vcf"] is None or asked["edits"] is not None):
        raise ConfigError("--sample scores haplotypes of a --vcf: give that, and edits in a call of their own.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second call into one folder while the first is at work: tables of two would be mixed."""
    from filelock import FileLock, Timeout

    new, lock = not folder.exists(), FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"Another call is writing into {folder}. Wait for it, or give another folder.") from None
    except OSError as error:
        raise DataError(f"Cannot write into {folder}: {error.strerror or error}. Give another folder.") from error
    try:
        yield
    finally:
        lock.release()
        (folder / ".lock").unlink(missing_ok=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()


SETTINGS = ("group", "donor", "sample", "nulls", "each", "close", "shifts", "seed")  # that numbers depend on


def _answer(asked: Mapping[str, Any], work: Path) -> VariantEffects:
    """Open everything, score, and look closely; nothing is written but to the folder ``work``."""
    from syncyte.genome.fasta import Genome
    from syncyte.recipes.dna_order import genome_paths, read_offset
    from syncyte.tasks.gene_run import open_gene_run
    from syncyte.tasks.target_sets import read_targets
    from syncyte.tasks.trained import load_trained
    from syncyte.tasks.variants import variant_effects

    run = asked["run"]
    book = open_gene_run(run if not isinstance(run, str | Path) else load_trained(run, asked["device"]))
    opened = Genome.open(genome_paths(asked["fasta"]), offset=read_offset(asked["offset"]))
    book.check_genome(opened, asked["force"])
    given = _variants(asked["vcf"], asked["edits"], opened, asked["seed"])
    pairs = None if asked["targets"] is None else read_targets(asked["targets"])
    people = open_data(*(asked[name] for name in ("cells", "modality", "genome", "layer", "force")))
    chosen = {name: asked[name] for name in ("group", "donor", "sample", "nulls", "shifts", "each", "seed", "quiet")}
    cache = work / "sequences" if asked["cache"] is None else Path(asked["cache"])
    found = variant_effects(book, given, opened, people, cache=cache, keep=work / "cells", **chosen)
    found = _closer(book, found, pairs, asked["close"], asked["seed"])
    found = replace(found, notes=[*book.training_notes(), *found.notes])
    settings = {name: asked[name] for name in SETTINGS}
    return replace(found, provenance=_provenance(book, opened, people, asked["vcf"], asked["edits"], settings))


def _variants(vcf: Any, edits: Any, genome: Any, seed: int) -> Any:
    from syncyte.genome.edits import parse_edits, read_edits
    from syncyte.genome.variants import Variants, variants_of
    from syncyte.genome.vcf import read_variants

    parts: list[Variants] = []
    if vcf is not None:
        parts.append(read_variants(vcf, genome))
    if edits is not None:
        text = isinstance(edits, list | tuple) or (isinstance(edits, str) and "=" in edits)
        parts.append(parse_edits(edits, genome, seed=seed) if text else read_edits(edits, genome, seed=seed))
    if len(parts) == 2:
        import pandas as pd

        table = pd.concat([part.table for part in parts], ignore_index=True)
        return Variants(table, notes=tuple(note for part in parts for note in part.notes))
    return parts[0] if parts else variants_of([])


def _closer(book: GeneRun, found: VariantEffects, pairs: pd.DataFrame | None, close: int, seed: int) -> VariantEffects:
    """The same with tables of single pairs, of a mutagenesis track, and of lists of targets."""
    from syncyte.tasks.target_sets import all_targets
    from syncyte.tasks.variant_close import close_tables, strongest_alleles

    tables = {**found.tables, **close_tables(book, found, close, TRACKED, seed)}
    notes = list(found.notes)
    if pairs is not None:
        scored, more = all_targets(found.cells, book.symbols, pairs, strongest_alleles(found), seed)
        notes += more[:20] + ([f"and {len(more) - 20} more such notes."] if len(more) > 20 else [])
        if len(scored):
            tables["targets"] = scored
    return replace(found, tables=tables, notes=notes)


def _provenance(
    book: GeneRun, genome: Any, cells: Any, vcf: Any, edits: Any, settings: dict[str, Any]
) -> dict[str, Any]:
    from syncyte.train.state import sha256

    found = book.trained.provenance(cells, **settings)
    found["sequence model"] = book.trained.recipe.get("encoder", {})
    found["adapter"] = book.trained.recipe.get("adapter", {})
    found["genes with a window"] = book.trained.recipe.get("covered")
    found["training notes"] = book.training_notes()
    found["genome"] = genome.fingerprint
    found["genome spans"] = {name: list(span) for name, span in genome.spans.items()}
    if vcf is not None:
        found["vcf"], found["vcf sha256"] = str(vcf), sha256(Path(vcf))
    if edits is not None:
        found["edits"] = edits if isinstance(edits, str | list | tuple) else str(edits)
    return found


def write_effects(found: VariantEffects, folder: Path) -> None:
    """Write tables, page and, last, the manifest."""
    import shutil

    from syncyte.report.variants import scored_rows, variant_report
    from syncyte.report.write import write_report
    from syncyte.tasks.variants import LIMITS
    from syncyte.train.state import sha256
    from syncyte.types import json_ready

    tables = {"effects": found.effects, "ranked": scored_rows(found), **found.tables}
    head = "".join(f"# {line}\n" for line in (LIMITS, *_told(found.provenance)))
    page = variant_report(found)
    _clear(folder)
    written = {}
    for name, table in tables.items():
        path = folder / f"{name}.tsv"
        with atomic_file(path) as tmp:
            tmp.write_text(head + table.to_csv(sep="\t", index=False, float_format="%.6g"))
        written[path.name] = sha256(path)
    written |= {path.name: sha256(path) for path in write_report(page, folder)}
    manifest = {
        "format": FORMAT,
        "files": written,
        "metrics": found.metrics,
        "notes": found.notes,
        "limits": LIMITS,
        **found.provenance,
    }
    with atomic_file(folder / MARK) as tmp:
        tmp.write_text(json.dumps(json_ready(manifest), indent=1))
    shutil.rmtree(folder / ".work" / "cells", ignore_errors=True)


def _told(provenance: Mapping[str, Any]) -> list[str]:
    """What the head of every table says of the run beside the limits of all such models."""
    told = [f"Sequence model: {provenance['sequence model'].get('verdict', 'not trained here')}."]
    genes = provenance["genes with a window"]
    if genes is not None:
        told.append(f"Adapter: {genes:,} genes with a window.")
    return told + provenance["training notes"]


def _clear(folder: Path) -> None:
    """Take away what an earlier call finished here, its manifest first: until the new one is there, nothing is."""
    mark = folder / MARK
    if not mark.exists():
        return
    try:
        names = list(json.loads(mark.read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError):
        names = []  # damaged: what is written now replaces files of the same names
    mark.unlink()
    for name in names:
        (folder / Path(name).name).unlink(missing_ok=True)
