"""Verbs of words: ``search`` and ``describe``, and cell types without a training label.

Leaves out: all science (tasks) and all formatting (cli).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.errors import ConfigError
from syncyte.files import check_out, deliver, open_data

if TYPE_CHECKING:
    from syncyte.tasks.result import Result
    from syncyte.tasks.search import Found
    from syncyte.tasks.trained import Trained


def read_words(recipe: str, text_key: str | None, ontology: Any, markers: Any, encoder: Any = None) -> dict[str, Any]:
    """What a training of words is given, read; refused for recipes that would pass it over."""
    from syncyte.genome.ontology import Ontology
    from syncyte.genome.ontology_files import read_ontology
    from syncyte.recipes import recipes
    from syncyte.words.markers import MarkerTable, read_markers

    given = {"--text-key": text_key, "--ontology": ontology, "--markers": markers, "--encoder": encoder}
    named = [name for name, value in given.items() if value is not None]
    if named and "describe" not in recipes[recipe].tasks:
        able = ", ".join(name for name, one in recipes.items() if "describe" in one.tasks)
        raise ConfigError(f"The recipe {recipe} knows no words: leave out {' and '.join(named)}, or train {able}.")
    known = ontology if ontology is None or isinstance(ontology, Ontology) else read_ontology(ontology)
    table = markers if markers is None or isinstance(markers, MarkerTable) else read_markers(markers)
    beside = None
    if encoder is not None:
        from syncyte.tasks.encoders import open_encoder

        beside = open_encoder(encoder, "cpu")  # every process moves it to where it computes
    return {"text_key": text_key, "ontology": known, "markers": table, "encoder": beside}


def type_by_words(
    run: Any,
    query: Any,
    *,
    candidates: str | Path | Sequence[str] | None = None,
    tissue: str | None = None,
    threshold: float | None = None,
    by: str | None = None,
    smooth: bool = False,
    unseen_share: float | None = None,
    out: str | Path | None = None,
    key_added: str | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    batch_size: int | None = None,
) -> Result:
    """Cell types of a ``scmmgpt`` run, those it never saw among them: ``obs["syncyte_type"]`` and more.

    Parameters
    ----------
    candidates
        Types that may be answers beside those of training: ids or names, a file with one a line, or ``all``; None takes
        those of the marker table that have markers in the data, and an empty list none.
    tissue
        Only candidates that the marker table places there, such as ``blood``.
    threshold
        Least probability of an answer (0.5 by default); below it the answer is a wider term, or ``unknown``.
    by
        obs column of clusters that are answered as one; ``smooth`` mixes each cell with its neighbours instead.
    unseen_share
        Share of cells that is taken to be of types without a training label, all together, between 0 and 1. One half
        (where none is given) weighs seen and unseen alike; lower it where nearly all cells should be of known types.
    """
    from syncyte.tasks.trained import together
    from syncyte.tasks.zero_shot import type_cells

    del quiet
    how: dict[str, Any] = {"candidates": candidates, "tissue": tissue, "by": by}
    how |= {"threshold": 0.5 if threshold is None else threshold}
    how |= {"unseen_share": 0.5 if unseen_share is None else unseen_share}
    how |= {"smooth": smooth, "seed": seed, "batch_size": batch_size}

    def work(trained: Trained) -> Result:
        check_out(out)
        cells = open_data(query, modality, genome, layer, force)
        result = type_cells(trained, cells, **how)
        return deliver(result, query, cells, out, key_added)

    return together(run, device, work)


def needed_key(
    zero_shot: bool,
    reference: Any,
    label_key: str | None,
    candidates: Any,
    tissue: str | None,
    unseen_share: float | None = None,
) -> str | None:
    """Label column of the reference; None where cells are typed by words. Options that do not fit are refused."""
    if zero_shot and (reference is not None or label_key is not None):
        raise ConfigError("--zero-shot needs no reference and no --label-key: leave them out, or leave it out.")
    if zero_shot and candidates is not None and tissue is not None:
        raise ConfigError("--candidates and --tissue both say which types may be answers; give one of them.")
    if not zero_shot and (candidates is not None or tissue is not None):
        raise ConfigError("--candidates and --tissue belong to --zero-shot: add it.")
    if not zero_shot and unseen_share is not None:
        raise ConfigError("--unseen-share belongs to --zero-shot: add it.")
    if reference is not None and label_key is None:
        raise ConfigError("Say which column of the reference holds the labels: --label-key.")
    if reference is None and label_key is not None:
        raise ConfigError("--label-key names a column of --reference: give both, or neither.")
    return label_key


def describe(
    run: Any,
    data: Any,
    *,
    by: str | None = None,
    force_slots: Sequence[str] = (),
    out: str | Path | None = None,
    key_added: str | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    batch_size: int | None = None,
) -> Result:
    """A sentence about every cell, or every cluster: ``obs["syncyte_description"]``, with evidence in ``uns``.

    Parameters
    ----------
    by
        obs column of clusters that get one sentence each.
    force_slots
        ``FIELD=VALUE`` that is said whatever the cells look like, ``type=B cell`` or ``tissue=blood``.
    """
    from syncyte.tasks.describe import describe_cells
    from syncyte.tasks.trained import together

    del quiet

    def work(trained: Trained) -> Result:
        check_out(out)
        cells = open_data(data, modality, genome, layer, force)
        result = describe_cells(trained, cells, by=by, forced=force_slots, seed=seed, batch_size=batch_size)
        return deliver(result, data, cells, out, key_added)

    return together(run, device, work)


def search(
    run: Any,
    query: str,
    data: Any,
    *,
    top: int = 200,
    mode: str = "terms",
    index: str | Path | None = None,
    nearest: str = "auto",
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    batch_size: int | None = None,
) -> Found:
    """Find the cells that a sentence asks for, or those like a given cell.

    Parameters
    ----------
    query
        Plain language, ``cytotoxic lymphocytes, not T cells``; or the name of a cell of the data, ``cell:NAME``.
    mode
        ``terms``: the sentence is read into types that are wanted and unwanted, and cells are ranked by their
        probability; ``vectors``: cells nearest to the sentence in the space of cells and texts.
    index
        Folder in which the vectors of the cells are kept, and found again by the next search of the same counts.
    nearest
        How the nearest vectors are found (mode ``vectors`` and ``cell:NAME``): ``exact``; ``faiss``, faster among
        millions of cells, may miss some; ``auto`` takes faiss for an index of two million cells, where it is installed.
    out
        CSV: cell, score, evidence.
    """
    from syncyte.tasks.search import search_cells
    from syncyte.tasks.trained import together

    del quiet, seed

    def work(trained: Trained) -> Found:
        check_out(out)
        cells = open_data(data, modality, genome, layer, force)
        place = None if index is None else Path(index)
        how: dict[str, Any] = {"top": top, "mode": mode, "nearest": nearest, "batch_size": batch_size}
        found = search_cells(trained, query, cells, index=place, **how)
        if out is not None:
            found.write(Path(out))
        return found

    return together(run, device, work)
