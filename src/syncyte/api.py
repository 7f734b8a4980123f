"""The public verbs: files or objects in, results out. The command line calls exactly these.

Every verb takes a path, a list of paths, an AnnData, a MuData or opened cells, and never changes what it was given.
With ``out`` the user's data are written there with the result added; the result comes back in any case.
In several processes (``torchrun``) all get the result, and the first alone writes and prints.
Leaves out: all science (tasks, recipes) and all formatting (report, cli).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.asking import describe, needed_key, read_words, search, type_by_words
from syncyte.files import (
    check_out,
    convert,
    count_fragments,
    deliver,
    harmonise,
    inspect_data,
    map_labels,
    open_data,
    read,
    read_features,
    write_store,
)
from syncyte.generation import generate, perturb
from syncyte.places import genes_of, top_regions
from syncyte.variation import variants

if TYPE_CHECKING:
    from syncyte.tasks.result import Evaluation, Result
    from syncyte.tasks.trained import Trained

__all__ = [
    "annotate",
    "convert",
    "count_fragments",
    "describe",
    "embed",
    "evaluate",
    "generate",
    "harmonise",
    "inspect_data",
    "integrate",
    "load",
    "map_labels",
    "perturb",
    "read",
    "search",
    "top_regions",
    "train",
    "translate",
    "variants",
    "write_store",
]

ORDERED = ("batch_key", "label_key", "validation", "resume", "seed", "overwrite", "device", "quiet")


def train(
    recipe: str,
    data: Any,
    *,
    out: str | Path,
    preset: str = "small",
    batch_key: str | None = None,
    label_key: str | None = None,
    condition_keys: Sequence[str] = (),
    features: Sequence[str | Path] = (),
    text_key: str | None = None,
    ontology: Any = None,
    markers: Any = None,
    encoder: Any = None,
    fasta: Any = None,
    offset: Any = None,
    tss: Any = None,
    peaks: Any = None,
    atac: Any = None,
    dna_encoder: Any = None,
    gene_features: Any = None,
    gene_medians: Any = None,
    backbone: Any = None,
    validation: str | Sequence[str] | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> Trained:
    """Train a recipe on cells and write a RUN folder.

    Parameters
    ----------
    recipe, preset, data, out
        A name that ``syncyte train --help`` lists, and its size: ``tiny``, ``lite``, ``small``, ``base`` or ``paper``;
        cells, see ``read``; RUN folder. One that exists is an error without ``resume`` or ``overwrite``.
    batch_key, label_key, validation, settings
        Columns of technical batches and types, batches held out; settings (``"stages.rna.epochs=5"``).
    condition_keys, features
        More columns that ``scldm`` can be asked for, and ``KEY=TABLE`` of feature vectors of the values of one.
    text_key ... backbone
        Of single recipes; see ``asking.read_words`` and ``recipes.dna_order``.
    """
    given = locals()
    from syncyte.recipes.dna_order import read_sequences
    from syncyte.recipes.train import configure, train_recipe

    config = configure(recipe, preset, settings)
    keys = {**read_words(recipe, text_key, ontology, markers, encoder), **read_sequences(recipe, given, open_data)}
    cells = open_data(data, modality, genome, layer, force)
    keys |= {name: given[name] for name in ORDERED} | {"features": read_features(features)}
    keys["condition_keys"] = (condition_keys,) if isinstance(condition_keys, str) else tuple(condition_keys)
    train_recipe(config, cells, Path(out), command=_command(), **keys)
    return load(out, device=device)


def _command() -> str:
    """How this run was started, for its card."""
    return shlex.join(["syncyte", *sys.argv[1:]]) if Path(sys.argv[0]).stem == "syncyte" else "syncyte.train(...)"


def load(run: str | Path, *, device: str = "auto") -> Trained:
    """Load a finished run; every file is checked, nothing in it is executed."""
    from syncyte.tasks.trained import Trained, load_trained

    return run if isinstance(run, Trained) else load_trained(run, device)


def embed(
    run: Any,
    data: Any,
    *,
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
    """One vector a cell: ``obsm["X_syncyte"]``."""
    from syncyte.tasks.embed import embed_cells
    from syncyte.tasks.trained import together

    del quiet

    def work(trained: Trained) -> Result:
        check_out(out)
        cells = open_data(data, modality, genome, layer, force)
        result = embed_cells(trained, cells, batch_size=batch_size, seed=seed)
        return deliver(result, data, cells, out, key_added)

    return together(run, device, work)


def integrate(
    run: Any,
    data: Any,
    *,
    batch_key: str,
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
    """An embedding without technical batch effects: ``obsm["X_syncyte_integrated"]``. Labels are never used."""
    from syncyte.tasks.integrate import integrate_cells
    from syncyte.tasks.trained import together

    def work(trained: Trained) -> Result:
        check_out(out)
        cells = open_data(data, modality, genome, layer, force)
        result = integrate_cells(trained, cells, batch_key=batch_key, seed=seed, quiet=quiet, batch_size=batch_size)
        return deliver(result, data, cells, out, key_added)

    return together(run, device, work)


def annotate(
    run: Any,
    query: Any,
    *,
    reference: Any = None,
    label_key: str | None = None,
    zero_shot: bool = False,
    candidates: Any = None,
    tissue: str | None = None,
    by: str | None = None,
    smooth: bool = False,
    unseen_share: float | None = None,
    method: str = "auto",
    threshold: float | None = None,
    unclear: Sequence[str] = (),
    batch_key: str | None = None,
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
    """Cell types from a labelled reference: ``obs["syncyte_<label key>"]`` and ``obs["syncyte_confidence"]``.

    Parameters
    ----------
    reference
        Labelled cells; ``batch_key`` names their technical batch, which calibration holds out.
    method
        ``probe``, ``lora``, ``full`` (fine-tuned), or ``auto``: what a held-out part of the reference prefers.
    threshold, unclear
        Abstain below this confidence; labels that mean no class (doublets) and are not learned from.
    zero_shot, candidates, tissue, by, smooth, unseen_share
        Without a reference, by words: see ``syncyte.asking.type_by_words``.
    """
    from syncyte.tasks.annotate import annotate_cells
    from syncyte.tasks.trained import together

    key = needed_key(zero_shot, reference, label_key, candidates, tissue, unseen_share)
    if key is None:
        told: dict[str, Any] = {"candidates": candidates if zero_shot else (), "tissue": tissue, "by": by, "out": out}
        told |= {"smooth": smooth, "threshold": threshold, "device": device, "key_added": key_added}
        told |= {"modality": modality, "genome": genome, "layer": layer, "force": force, "seed": seed}
        return type_by_words(run, query, **told, unseen_share=unseen_share, batch_size=batch_size)
    how: dict[str, Any] = {"method": method, "threshold": threshold, "unclear": unclear, "batch_key": batch_key}
    how |= {"seed": seed, "quiet": quiet, "batch_size": batch_size}

    def work(trained: Trained) -> Result:
        check_out(out)
        cells = open_data(query, modality, genome, layer, force)
        labelled = open_data(reference, modality, genome, layer, force)
        result = annotate_cells(trained, cells, labelled, key, **how)
        return deliver(result, query, cells, out, key_added)

    return together(run, device, work)


def translate(
    run: Any,
    data: Any,
    *,
    source: str,
    target: str,
    out: str | Path | None = None,
    features: str | Path | Sequence[str] | None = None,
    min_prob: float | None = None,
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
    """Predict one modality from another; the target is never seen, even when the data hold it.

    Parameters
    ----------
    source, target
        Modalities. RNA is predicted as expected log1p of counts per 10,000, ATAC as probability of being open.
    out
        ``.h5ad`` whose X is the prediction, one row a cell that has the source.
    features
        Names (or a file of names, one a line) to restrict the prediction to.
    min_prob
        Keep only values at least this large, as a sparse matrix.
    """
    from syncyte.tasks.trained import together
    from syncyte.tasks.translate import translate_cells

    del quiet, key_added
    place = None if out is None else Path(out)
    wanted = Path(features) if isinstance(features, str) else features
    how: dict[str, Any] = {"features": wanted, "min_prob": min_prob, "batch_size": batch_size, "seed": seed}

    def work(trained: Trained) -> Result:
        check_out(out)
        cells = open_data(data, modality, genome, layer, force)
        return translate_cells(trained, cells, source, target, out=place, **how)

    return together(run, device, work)


def evaluate(
    run: Any,
    data: Any,
    *,
    reference: Any,
    out: str | Path | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    unclear: Sequence[str] = (),
    peers: bool = False,
    perturbation: str | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    batch_size: int | None = None,
) -> Evaluation:
    """Score a run on held-out cells beside its baselines, fitted on ``reference``; writes report.html and report.json.

    A run of regions also gives ``top_regions.csv`` and ``gene_regions.csv``, one of words the sections of its words.

    Parameters
    ----------
    reference
        Cells the baselines are fitted on: those the run was trained on.
    batch_key, label_key, unclear
        Those the run was trained with, by default; labels that mean no class: their cells count as unlabelled.
    peers
        Also train MultiVI, scVI, scANVI, CellTypist, PeakVI, PoissonVI, SnapATAC2, where installed: minutes to hours.
    perturbation
        ``KEY=CONTROL``: condition of a ``scldm`` run whose responses are scored, and its value in control cells.
    genome
        As in ``read``; with a reference folder that has genes, gene activity is among the baselines, and regions have
        their nearest genes.
    """
    from syncyte.report.build import report_from_evaluation
    from syncyte.report.write import write_report, write_tables
    from syncyte.tasks.evaluate import evaluate_cells
    from syncyte.tasks.trained import together

    del batch_size
    asked = {"batch_key": batch_key, "label_key": label_key}

    def work(trained: Trained) -> Evaluation:
        """Score and report, in the process that leads."""
        cells = open_data(data, modality, genome, layer, force)
        known = open_data(reference, modality, genome, layer, force)
        keys: dict[str, Any] = {key: given or trained.recipe.get(key) for key, given in asked.items()}
        how: dict[str, Any] = {"unclear": unclear, "peers": peers, "seed": seed, "quiet": quiet}
        how["perturbation"] = perturbation
        evaluation = evaluate_cells(trained, cells, known, **keys, **how, **genes_of(trained, genome))
        if out is not None:
            write_report(report_from_evaluation(evaluation), Path(out))
            write_tables(evaluation.tables, Path(out))
        return evaluation

    return together(run, device, work)
