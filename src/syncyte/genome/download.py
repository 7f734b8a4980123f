"""Named public sources of references, and fetching their files on request.

The network is used by ``fetch_parts`` alone, and only through the function it is handed. Every file is checked before
it is used: that something came, that it is no web page, that gzip is whole, and its hash where one is known.

Leaves out making the folder (``reference``) and any other place the files could come from.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from syncyte.errors import GenomeError
from syncyte.genome.tables import opened

Fetch = Callable[[str, Path], None]


@dataclass(frozen=True)
class Part:
    """One file: the argument of ``build_reference`` it serves, where it is, which version, its hash where known."""

    role: str
    url: str
    version: str
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A named reference: what it is, and its files."""

    title: str
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return f"{self.title}: {', '.join(part.version for part in self.parts)}"


_GENCODE = "https://ftp.ebi.ac.uk/pub/databases/gencode"
_UCSC = "https://hgdownload.soe.ucsc.edu/goldenPath"
_ENSEMBL = "https://ftp.ensembl.org/pub/assembly_mapping"
_CCRE = "https://downloads.wenglab.org/Registry-V4"

SOURCES: dict[str, Source] = {
    "hg38": Source(
        "human, GRCh38",
        (
            Part("gtf", f"{_GENCODE}/Gencode_human/release_47/gencode.v47.basic.annotation.gtf.gz", "GENCODE 47 basic"),
            Part("chrom_sizes", f"{_UCSC}/hg38/bigZips/hg38.chrom.sizes", "UCSC hg38 sizes"),
            Part("regions", f"{_CCRE}/GRCh38-cCREs.bed", "ENCODE cCREs V4"),
            Part("chain", f"{_ENSEMBL}/homo_sapiens/GRCh37_to_GRCh38.chain.gz", "Ensembl chain GRCh37 to GRCh38"),
            Part(
                "aliases",
                "https://storage.googleapis.com/public-download-files/hgnc/tsv/tsv/hgnc_complete_set.txt",
                "HGNC names of the day",
            ),
        ),
    ),
    "mm10": Source(
        "mouse, GRCm38",
        (
            Part(
                "gtf", f"{_GENCODE}/Gencode_mouse/release_M25/gencode.vM25.basic.annotation.gtf.gz", "GENCODE M25 basic"
            ),
            Part("chrom_sizes", f"{_UCSC}/mm10/bigZips/mm10.chrom.sizes", "UCSC mm10 sizes"),
            Part("regions", f"{_CCRE}/mm10-cCREs.bed", "ENCODE cCREs V4"),
            Part("aliases", "https://www.informatics.jax.org/downloads/reports/MRK_List2.rpt", "MGI names of the day"),
        ),
    ),
}


def fetch_parts(source: Source, folder: Path, fetch: Fetch | None = None) -> dict[str, tuple[Path, dict[str, str]]]:
    """Fetch and check a source's files.

    Parameters
    ----------
    source
        What to fetch.
    folder
        An existing folder to put the files in.
    fetch
        ``fetch(url, path)`` writes the file behind ``url`` to ``path``; by default over https.

    Returns
    -------
    dict
        For each role the file and what to record of it: ``url``, ``version``, ``sha256``, ``retrieved`` (UTC).

    Raises
    ------
    GenomeError
        If a file cannot be had, is damaged, or its hash differs from the known one.
    """
    found = {}
    for part in source.parts:
        path = folder / part.url.rsplit("/", 1)[1]
        (fetch or _over_https)(part.url, path)
        digest = _check(part, path)
        found[part.role] = (path, {"url": part.url, "version": part.version, "sha256": digest, "retrieved": now()})
    return found


def now() -> str:
    """Give the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check(part: Part, path: Path) -> str:
    if not path.is_file() or path.stat().st_size == 0:
        raise GenomeError(f"{part.url} gave no data. Try again later.")
    with opened(path) as stream:  # also walks the whole of a gzip file, which checks it
        start = stream.read(256).lstrip().lower()
        while stream.read(1 << 20):
            continue
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise GenomeError(f"{part.url} gave a web page instead of a file. Try again later, or fetch it by hand.")
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    if part.sha256 is not None and digest != part.sha256:
        raise GenomeError(f"{part.url} has the hash {digest}, expected {part.sha256}: changed or damaged on the way.")
    return digest


def _over_https(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)
            length = answer.headers.get("Content-Length")
    except (OSError, http.client.HTTPException) as error:
        raise GenomeError(
            f"{url} could not be fetched ({error}). Check the connection, or fetch it by hand and use "
            "'syncyte reference build'."
        ) from error
    if length is not None and path.stat().st_size != int(length):
        raise GenomeError(f"{url} broke off after {path.stat().st_size:,} of {int(length):,} bytes. Try again.")
