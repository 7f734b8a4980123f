"""A reference: one folder with the genes, regions and chromosomes that data are mapped to, and a hash over it.

The folder holds ``manifest.json`` and, as far as it was given them, ``genes.tsv.gz``, ``aliases.tsv.gz``,
``chrom_sizes.tsv``, ``regions.npy`` (``(r, 3)`` int32: chromosome, start, end, column after column; sorted, disjoint,
memory-mapped) and the chain file. It is written whole or not at all, and the same sources give the same hash.

Leaves out how the files are read (``tables``), and using them (``genes``, ``regions``).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from syncyte.atomic import atomic_dir
from syncyte.errors import GenomeError, unknown
from syncyte.genome.contents import ALIASES, GENES, REGIONS, SIZES, Made, check_request, digest, hash_of, write_contents
from syncyte.genome.coordinates import region_table
from syncyte.genome.download import SOURCES, Fetch, fetch_parts, now
from syncyte.genome.index import RegionIndex
from syncyte.genome.tables import read_chrom_sizes

__all__ = ["SOURCES", "Reference", "build_reference", "download_reference"]

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference folder; its tables are read when first asked for, and None where the folder has none.

    Attributes
    ----------
    path
        The folder.
    manifest
        Format, name, hash, sources, counts and notes.
    """

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reference:
        """Open a folder and check every file in it against its hash.

        Raises
        ------
        GenomeError
            If it is no reference folder, of a newer format, or a file is missing or damaged.
        """
        folder = Path(path).expanduser()
        if not (folder / MANIFEST).is_file():
            raise GenomeError(
                f"{folder} is no reference folder ({MANIFEST} is missing). Make one: syncyte reference build."
            )
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            kind, version, contents = manifest["kind"], manifest["format"], manifest["contents"]
        except (ValueError, KeyError, TypeError) as error:
            raise GenomeError(f"{folder / MANIFEST} is damaged ({error}). Build the reference again.") from error
        if kind != "reference" or version != FORMAT:
            raise GenomeError(f"{folder} holds a {kind} of format {version}, this syncyte reads reference {FORMAT}.")
        if hash_of(contents) != manifest["hash"]:
            raise GenomeError(f"{folder / MANIFEST} was changed: its hash does not fit. Build the reference again.")
        for name, expected in contents.items():
            if not (folder / name).is_file() or digest(folder / name) != expected:
                raise GenomeError(f"{folder / name} is missing or damaged (its hash does not fit). Build it again.")
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        """Name of the reference, the genome build usually."""
        return self.manifest["name"]

    @property
    def hash(self) -> str:
        """Hash over the contents; equal for equal contents."""
        return self.manifest["hash"]

    @property
    def summary(self) -> str:
        """What it holds, in words."""
        return f"{self.name}: " + ", ".join(f"{count:,} {what}" for what, count in self.manifest["counts"].items())

    @cached_property
    def genes(self) -> pd.DataFrame | None:
        """One row per gene, in genome order.

        ``gene_id``, ``symbol``, ``chrom``, ``start``, ``end`` (0-based half-open), ``strand``, ``tss`` (the first
        transcribed base), ``biotype`` and ``name``, the unique name (``genes.canonical_names``).
        """
        table = self._table(GENES)
        if table is None:
            return None
        numbers = {key: table[key].astype(np.int64) for key in ("start", "end", "tss")}
        place = region_table(table["chrom"], numbers["start"].to_numpy(), numbers["end"].to_numpy())
        return table.assign(**numbers, chrom=place["chrom"])

    @property
    def tss(self) -> pd.DataFrame | None:
        """``(g, 4)``: ``chrom``, ``tss`` (0-based), ``gene_id``, ``name`` of each gene."""
        return None if self.genes is None else self.genes[["chrom", "tss", "gene_id", "name"]]

    @cached_property
    def aliases(self) -> pd.DataFrame | None:
        """Pairs ``alias``, ``gene_id``; one alias may mean several genes."""
        return self._table(ALIASES)

    @cached_property
    def regions(self) -> pd.DataFrame | None:
        """``(r, 3)`` regions, disjoint and in genome order."""
        return None if self.index is None else self.index.table()

    @cached_property
    def index(self) -> RegionIndex | None:
        """The regions as sorted arrays, mapped from disk."""
        if REGIONS not in self.manifest["contents"]:
            return None
        return RegionIndex.load(self.path / REGIONS, self.manifest["region_chroms"])

    @cached_property
    def chrom_sizes(self) -> dict[str, int] | None:
        """Length of each chromosome, in genome order."""
        return read_chrom_sizes(self.path / SIZES) if SIZES in self.manifest["contents"] else None

    @property
    def chain(self) -> Path | None:
        """The chain file that lifts another build onto this one."""
        return self.path / self.manifest["chain"] if self.manifest["chain"] else None

    def _table(self, name: str) -> pd.DataFrame | None:
        if name not in self.manifest["contents"]:
            return None
        return pd.read_csv(self.path / name, sep="\t", dtype=str, keep_default_na=False, na_values=[])


def build_reference(
    out: str | os.PathLike[str],
    *,
    gtf: str | os.PathLike[str] | None = None,
    genes: str | os.PathLike[str] | None = None,
    regions: str | os.PathLike[str] | None = None,
    bins: int | None = None,
    peaks: Sequence[str | os.PathLike[str]] = (),
    width: int = 501,
    chrom_sizes: str | os.PathLike[str] | None = None,
    aliases: str | os.PathLike[str] | None = None,
    chain: str | os.PathLike[str] | None = None,
    name: str | None = None,
    overwrite: bool = False,
    provenance: Mapping[str, Mapping[str, str]] | None = None,
) -> Reference:
    """Make a reference folder from local files (how each is read: see ``tables`` and ``contents``).

    Parameters
    ----------
    gtf, genes
        A GTF, or a table or BED of genes or transcription starts; one of them.
    regions, bins, peaks
        A BED, the width in bp of bins along ``chrom_sizes``, or files of peaks (see ``peaks``); one of the three.
    width
        Of the regions made from ``peaks``, in bp; how: see ``peaks``.
    chrom_sizes
        Chromosomes and their lengths; what ends of intervals are checked against.
    aliases
        Alias or retired name and current name, or a table of HGNC or MGI; needs genes.
    chain
        Chain file that lifts another build onto this one, kept as it is.
    name
        Name of the genome build; by default the name of the folder.
    overwrite
        Replace an existing reference folder; other folders never are.
    provenance
        What else to record of each source, by argument name.

    Raises
    ------
    GenomeError, DataError
        If a file is damaged, malformed or contradicts another; if ``out`` exists or cannot be written.
    """
    given = {"gtf": gtf, "genes": genes, "regions": regions, "chrom_sizes": chrom_sizes, "aliases": aliases}
    paths = {role: Path(path).expanduser() for role, path in (given | {"chain": chain}).items() if path is not None}
    made = Made(bins, tuple(Path(path).expanduser() for path in peaks), width)
    check_request(paths, made)
    final = Path(out).expanduser()
    if overwrite and final.is_dir() and any(final.iterdir()) and not (final / MANIFEST).is_file():
        raise GenomeError(f"{final} is not a reference folder and will not be replaced. Choose another folder.")
    with atomic_dir(final, overwrite) as folder:
        facts = write_contents(folder, paths, made)
        contents = {path.name: digest(path) for path in sorted(folder.iterdir())}
        sources = _sources(paths, made, provenance or {})
        manifest = {"kind": "reference", "format": FORMAT, "name": name or final.resolve().name, "created": now()}
        manifest |= {"hash": hash_of(contents), "sources": sources, "contents": contents, **facts}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return Reference.load(final)


def _sources(paths: Mapping[str, Path], made: Made, known: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Name and hash of each source by role, with what else is known of it."""
    sources: dict[str, Any] = {
        role: {"file": path.name, "sha256": digest(path), **known.get(role, {})} for role, path in paths.items()
    }
    if made.peaks:
        sources["peaks"] = [{"file": path.name, "sha256": digest(path)} for path in made.peaks]
    return sources


def download_reference(
    name: str, out: str | os.PathLike[str], *, fetch: Fetch | None = None, overwrite: bool = False
) -> Reference:
    """Fetch a named public source, check its files, and make a reference folder of them.

    The manifest records address, version, hash and time of each file. Nothing but this call uses the network.

    Parameters
    ----------
    name
        One of ``SOURCES``.
    out
        Folder to make.
    fetch
        ``fetch(url, path)`` writes the file behind ``url`` to ``path``; by default over https.
    overwrite
        Replace an existing reference folder.
    """
    if name not in SOURCES:
        raise GenomeError(unknown("reference source", name, SOURCES))
    final = Path(out).expanduser()
    if not overwrite and final.is_dir() and any(final.iterdir()):
        raise GenomeError(f"{final} exists and is not empty. Choose another folder, or pass overwrite (--overwrite).")
    with tempfile.TemporaryDirectory(prefix="syncyte-") as folder:
        parts = fetch_parts(SOURCES[name], Path(folder), fetch)
        paths: dict[str, Any] = {role: path for role, (path, _) in parts.items()}
        known = {role: record for role, (_, record) in parts.items()}
        return build_reference(out, **paths, name=name, overwrite=overwrite, provenance=known)
