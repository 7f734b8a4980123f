"""``syncyte ontology map | info``: free-text labels of cells to terms, and what is in an ontology."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options

app = typer.Typer(
    help="Find the terms that labels of cells mean.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FORMATS = "OBO text, OBO graphs (.json) or cellxgene-ontology-guide (.json.zst); may be compressed."


def map_(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Text file with one label a line.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="CSV to write or replace.", show_default=False)],
    ontology: options.OntologyFile = None,
    names: Annotated[
        Path | None, typer.Option("--names", metavar="FILE", help="Your own names: NAME or NAME,ID a line.")
    ] = None,
    subset: Annotated[
        Path | None, typer.Option("--subset", metavar="FILE", help="Ids that may be answers, one a line.")
    ] = None,
    cut: Annotated[float, typer.Option("--cut", metavar="SCORE", help="Score from which an answer is given.")] = 0.5,
    fast: Annotated[
        bool, typer.Option("--fast", "--no-train", help="Letters and words alone: at once, fewer answers.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="DIR", help="Keeps what was learned, instead of the user's cache.")
    ] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Write the term that each label means: label, term id, term, score, evidence.

    A label that nothing fits gets no answer, and one that fits several kinds of a cell the term above them, flagged
    "coarser". The first call with an ontology learns its names (some minutes on one core) and keeps what it learned.
    Without --ontology, embedded names of blood and marrow and your own --names are all there is.

    Examples
    --------
    syncyte ontology map labels.txt --ontology cl.json.zst --out map.csv
    syncyte ontology map labels.txt --ontology cl.obo --out map.csv --fast
    syncyte ontology map labels.txt --ontology cl.json.zst --subset ids.tsv --cut 0.7 --out map.csv
    syncyte ontology map labels.txt --names mine.csv --out map.csv
    """
    del device  # small networks: the processor is fast enough
    values = {"labels": labels, "ontology": ontology, "out": out, "names": names, "subset": subset, "cut": cut}
    found = options.call("map_labels", values | {"fast": fast, "cache": cache, "seed": seed, "quiet": quiet})
    counts = found.counts()
    options.note(found.notes, quiet)
    options.say(
        f"Wrote {out}: {len(found.matches):,} labels, {counts['same']:,} the same as a name, "
        f"{counts['close']:,} close, {counts['coarser']:,} coarser, {counts['none']:,} without an answer\n"
        "Next: read the evidence of what is close or coarser before you use it",
        quiet,
    )


def info(
    ontology: Annotated[Path, typer.Argument(metavar="ONTOLOGY", help=FORMATS, show_default=False)],
    term: Annotated[
        str | None, typer.Option("--term", metavar="NAME", help="Id or name of a term to tell about.")
    ] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Say what is in an ontology, or what it knows of one term.

    Examples
    --------
    syncyte ontology info cl.json.zst
    syncyte ontology info cl.obo --term "T cell"
    """
    del device, seed  # reading is exact
    from syncyte.genome.ontology_files import read_ontology

    known = read_ontology(ontology)
    if term is None:
        active = known.active.values()
        retired = [item for item in known.terms.values() if item.retired]
        replaced = sum(known.resolve(item.id) is not None for item in retired)
        lines = [
            f"{known.name}: {len(known):,} terms in use ({known.prefix})",
            f"synonyms: {sum(len(item.synonyms) for item in active):,}",
            f"with a definition: {sum(bool(item.definition) for item in active):,}",
            f"retired: {len(retired):,}, {replaced:,} of them replaced by a term in use",
            f"fingerprint: {known.fingerprint[:16]}",
        ]
    else:
        found = known[term]
        above = sorted(found.ancestors.items(), key=lambda item: (item[1], item[0]))
        named = [f"{known.terms[key].label} ({far})" for key, far in above if key in known.terms]
        lines = [f"{found.id} {found.label}", f"synonyms: {'; '.join(found.synonyms) or 'none'}"]
        lines += [f"definition: {found.definition or 'none'}", f"above, with steps: {', '.join(named) or 'nothing'}"]
        lines += [f"below: {len(known.descendants(found.id)):,} terms"]
    options.say("\n".join(lines), quiet)


options.add(app, "map", map_)
options.add(app, "info", info)
