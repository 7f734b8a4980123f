"""What goes into a reference folder: sources read, checked against each other, and written as its tables.

Overlapping regions are merged into one, regions on contigs without a size are left out, aliases of unknown genes too;
each is counted in the notes. Intervals beyond the end of a chromosome are an error. Human genes also get a small
embedded table of everyday and retired names (``CD16``, ``GNB2L1``). A pair of names works both ways: where only the
retired one is in the reference, the current one leads to it.

Leaves out the folder itself, its manifest and hashes (``reference``), and how files are read (``tables``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import merge_overlaps
from syncyte.genome.genes import canonical_names, strip_version
from syncyte.genome.index import save_regions
from syncyte.genome.tables import opened, read_aliases, read_bed, read_chrom_sizes, read_gene_table, read_gtf

GENES, ALIASES, SIZES, REGIONS = "genes.tsv.gz", "aliases.tsv.gz", "chrom_sizes.tsv", "regions.npy"


@dataclass(frozen=True)
class Made:
    """Regions that are made rather than read: bins of a width, or peaks of files brought to one width."""

    bins: int | None = None
    peaks: tuple[Path, ...] = ()
    width: int = 501


def check_request(paths: Mapping[str, Path], made: Made) -> None:
    """Refuse requests with nothing to build, two sources for one place, or one that needs another."""
    bins = made.bins
    given = {*paths, *(["bins"] if bins is not None else []), *(["peaks"] if made.peaks else [])}
    if not {"gtf", "genes", "regions", "peaks", "chrom_sizes"} & given:
        raise GenomeError("Nothing to build a reference from: give genes (GTF), regions (BED) or chromosome sizes.")
    for first, second in (("gtf", "genes"), ("regions", "bins"), ("regions", "peaks"), ("bins", "peaks")):
        if first in given and second in given:
            raise GenomeError(f"Both {first} and {second} were given, and they fill the same place: give one of them.")
    if made.width < 1:
        raise GenomeError(f"Regions of {made.width} bp were asked for; the width must be at least 1 (501 is usual).")
    if bins is not None and (bins < 1 or "chrom_sizes" not in paths):
        raise GenomeError("Bins need a width of at least 1 bp and chromosome sizes (chrom_sizes, --chrom-sizes).")
    if "aliases" in paths and not {"gtf", "genes"} & paths.keys():
        raise GenomeError("Aliases need genes to point to: give a GTF as well.")


def write_contents(folder: Path, paths: Mapping[str, Path], made: Made) -> dict[str, Any]:
    """Write every table; the manifest's ``chain``, ``region_chroms``, ``counts`` and ``notes``."""
    notes: list[str] = []
    counts: dict[str, int] = {}
    sizes = read_chrom_sizes(paths["chrom_sizes"]) if "chrom_sizes" in paths else None
    if sizes:
        (folder / SIZES).write_text("".join(f"{name}\t{size}\n" for name, size in sizes.items()), encoding="utf-8")
        counts["chromosomes"] = len(sizes)
    if "gtf" in paths or "genes" in paths:
        genes = read_gtf(paths["gtf"]) if "gtf" in paths else read_gene_table(paths["genes"])
        _check_ends(genes, genes["gene_id"], sizes, paths["gtf" if "gtf" in paths else "genes"])
        genes["name"] = canonical_names(genes)
        pairs = _aliases(genes, paths.get("aliases"), notes)
        for table, file in ((genes, GENES), (pairs, ALIASES)):
            table.to_csv(
                folder / file, sep="\t", index=False, compression={"method": "gzip", "mtime": 0, "compresslevel": 5}
            )
        counts |= {"genes": len(genes), "aliases": len(pairs)}
    chroms: list[str] = []
    regions = _made_regions(paths, made, sizes, notes)
    if regions is not None:
        chroms = regions["chrom"].cat.categories.tolist()
        save_regions(folder / REGIONS, regions)
        counts["regions"] = len(regions)
    chain = _copy_chain(folder, paths["chain"]) if "chain" in paths else None
    return {"counts": counts, "notes": notes, "region_chroms": chroms, "chain": chain}


def _made_regions(
    paths: Mapping[str, Path], made: Made, sizes: Mapping[str, int] | None, notes: list[str]
) -> pd.DataFrame | None:
    if made.bins is not None:
        return _bins(sizes or {}, made.bins)
    if made.peaks:
        from syncyte.genome.peaks import regions_of_peaks

        return regions_of_peaks(made.peaks, made.width, sizes, notes)
    return _regions(paths["regions"], sizes, notes) if "regions" in paths else None


def _check_ends(table: pd.DataFrame, label: pd.Series, sizes: Mapping[str, int] | None, path: Path) -> None:
    """Refuse intervals that end beyond a chromosome of known length."""
    if not sizes:
        return
    length = table["chrom"].map(sizes).astype(float)  # NaN for contigs without a size
    wrong = table.index[table["end"] > length]
    if len(wrong):
        row = table.loc[wrong[0]]
        raise GenomeError(
            f"{path}: {len(wrong):,} of {len(table):,} intervals end beyond their chromosome, first {label[wrong[0]]} "
            f"at {row['chrom']}:{row['start']}-{row['end']}, which has {sizes[row['chrom']]:,} bp. Do the files belong "
            "to one genome build?"
        )


def _aliases(genes: pd.DataFrame, path: Path | None, notes: list[str]) -> pd.DataFrame:
    """Pairs of alias and gene id: the embedded names (human only), then the user's; those of no gene are noted."""
    pairs = pd.DataFrame({"alias": [], "current": []}, dtype=object)
    if genes["gene_id"].str.startswith("ENSG0").mean() > 0.5:
        embedded = pd.read_csv(str(files("syncyte.genome") / "aliases.tsv"), sep="\t", comment="#", dtype=str)
        pairs = embedded.assign(alias=embedded["alias"].str.split("|")).explode("alias")[["alias", "current"]]
    given = read_aliases(path) if path is not None else pairs[:0]
    pairs = pd.concat([pairs, given], ignore_index=True)
    known = pd.concat([genes["gene_id"].set_axis(genes[key]) for key in ("name", "gene_id")])
    known = known[~known.index.duplicated()]
    names = pairs.apply(lambda column: column.map(strip_version))
    owner = {key: names[key].map(known) for key in names}
    back = owner["current"].isna() & owner["alias"].notna()
    pairs["gene_id"] = owner["current"].where(~back, owner["alias"])
    pairs["alias"] = pairs["alias"].where(~back, pairs["current"])
    lost = int(pairs["gene_id"].iloc[len(pairs) - len(given) :].isna().sum())
    if lost:
        notes.append(f"{lost:,} of {len(given):,} aliases name no gene of the reference and were left out")
    pairs = pairs.dropna(subset="gene_id")[["alias", "gene_id"]].drop_duplicates()
    return pairs.sort_values(["alias", "gene_id"], ignore_index=True)


def _bins(sizes: Mapping[str, int], width: int) -> pd.DataFrame:
    """Tile chromosomes with bins of ``width`` bp, the last of each cut at its end; the mitochondrion has none."""
    chroms = [name for name in sizes if name != "chrM"]
    starts = [np.arange(0, sizes[name], width, dtype=np.int64) for name in chroms]
    ends = [np.minimum(start + width, sizes[name]) for name, start in zip(chroms, starts)]
    codes = np.repeat(np.arange(len(chroms)), [len(start) for start in starts])
    chrom = pd.Categorical.from_codes(codes, categories=chroms)  # sizes are in genome order
    return pd.DataFrame({"chrom": chrom, "start": np.concatenate(starts), "end": np.concatenate(ends)})


def _regions(path: Path, sizes: Mapping[str, int] | None, notes: list[str]) -> pd.DataFrame:
    """Disjoint regions of a BED in genome order."""
    table = read_bed(path)
    _check_ends(table, "line " + table["line"].astype(str), sizes, path)
    if sizes:
        known = table["chrom"].isin(list(sizes))
        if not known.all():
            notes.append(f"{int((~known).sum()):,} regions on contigs without a size were left out")
        table = table[known]
    if not len(table):
        raise GenomeError(f"{path} holds no regions on known chromosomes. Compare its chromosome names with the sizes.")
    merged = merge_overlaps(table[["chrom", "start", "end"]])
    if len(merged) < len(table):
        notes.append(f"{len(table):,} regions overlapped and were merged into {len(merged):,} disjoint ones")
    return merged


def _copy_chain(folder: Path, path: Path) -> str:
    with opened(path) as stream:
        first = next((line for line in stream if line.strip() and not line.startswith(b"#")), b"")
        if not first.startswith(b"chain "):
            raise GenomeError(f"{path} is no chain file: expected a line 'chain ...', found {first[:60]!r}.")
        while stream.read(1 << 20):  # to the end, which checks gzip
            continue
    name = "liftover.chain.gz" if path.suffix == ".gz" else "liftover.chain"
    shutil.copyfile(path, folder / name)
    return name


def digest(path: Path) -> str:
    """Give the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_of(contents: Mapping[str, str]) -> str:
    """Hash over a folder: of the names and hashes of its files."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
