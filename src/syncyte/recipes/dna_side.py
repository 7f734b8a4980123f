"""What genes are read from beside cells, made ready for an adapter: vectors of DNA, or of anything given.

Leaves out: the network of genes and the adapter (``train_dna``), what a sequence model learns from (``dna_targets``).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.data.split import Split
from syncyte.errors import DataError
from syncyte.genome.gene_windows import SLOTS, GeneWindows, gene_windows, match_starts
from syncyte.models.dna_encoder import SequenceEncoder, TrainedEncoder, open_trained
from syncyte.recipes.base import Order, SequenceOrder
from syncyte.recipes.dna_targets import (
    Examples,
    choose_parts,
    expression_examples,
    group_expression,
    group_openness,
    region_examples,
    regions_of,
    split_parts,
)
from syncyte.recipes.train_genes import GeneRecipe
from syncyte.tasks.encoded import embed_cached
from syncyte.tasks.gene_run import ENCODER, hash_of, with_outputs
from syncyte.train.sequences import fit_encoder

SEQUENCES = ".sequences"  # folder of encoded windows, while a run is trained
TRAINING = ".encoder"  # folder of where the training of a sequence model stands
FEWEST_GENES = 50  # with a window, below which a note says that an adapter cannot learn much


@dataclass
class Side:
    """What genes are read from beside cells: vectors, and for DNA their windows and the sequence model."""

    vectors: NDArray[np.float32]
    covered: NDArray[np.bool_]
    parts: NDArray
    windows: GeneWindows | None = None
    encoder: SequenceEncoder | None = None
    report: dict[str, Any] = field(default_factory=dict)
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    outputs: int = 0
    pruned: Side | None = None

    def without(self, slot: int) -> Side:
        """The same with one slot's windows gone."""
        assert self.windows is not None
        each = self.vectors.shape[1] // len(SLOTS)
        vectors = self.vectors.copy()
        vectors[:, slot * each : (slot + 1) * each] = 0
        windows = self.windows.without(slot)
        hashes = self.hashes[np.isin(np.arange(len(self.hashes)), self.windows.used(slot))]
        return replace(self, vectors=vectors, windows=windows, hashes=hashes)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """``(d,)`` which numbers of a vector belong together: features and outputs of each slot."""
        slots = 1 if self.windows is None else len(SLOTS)
        each = self.vectors.shape[1] // slots
        inner = np.repeat([0, 1], [each - self.outputs, self.outputs])
        return np.concatenate([inner + 2 * slot for slot in range(slots)])


def sequence_side(
    config: GeneRecipe,
    cells: Cells,
    name: str,
    own: Cells,
    var: pd.DataFrame,
    asked: SequenceOrder,
    order: Order,
    split: Split,
    notes: list[str],
    run: Path,
) -> Side:
    """Vectors of genes: given ones, or of the windows around their starts and of the peaks near them."""
    if asked.vectors is not None:
        return given_side(asked, var, notes)
    assert asked.genome is not None and asked.starts is not None
    starts = match_starts(asked.starts, var)
    peaks, source = _regions(cells, name, asked)
    length = config.window if asked.encoder is None else asked.encoder.length
    how: dict[str, Any] = {"peaks": peaks, "reach": config.reach, "decay": config.decay}
    windows = gene_windows(asked.genome, starts, var.index, length, **how)
    covered = windows.covered()
    notes.append(f"{int(covered.sum()):,} of {len(var):,} genes have a window in the genome; the others stay static.")
    if covered.sum() < FEWEST_GENES:
        notes.append(f"So few genes ({int(covered.sum())}) cannot teach an adapter much: see its held-out numbers.")
    encoder: SequenceEncoder | None = asked.encoder
    report: dict[str, Any] = {"source": "given", "verdict": "not trained here", "tasks": [], "own": False}
    if isinstance(encoder, TrainedEncoder):
        named = encoder.report.get("tasks") or [f"output {number + 1}" for number in range(encoder.tasks)]
        report |= {"verdict": encoder.verdict, "tasks": list(named), "training": encoder.report.get("training", {})}
    if encoder is None:
        examples = _examples(config, own, name, var, asked, windows, peaks, source, order, split)
        notes.extend(examples.notes)
        encoder = _trained_encoder(config, examples, order, run)
        report = {**encoder.report, "source": examples.source, "weak": examples.weak, "tasks": list(examples.names)}
        report |= {"verdict": encoder.verdict, "own": True}
        notes.append(f"Sequence model ({examples.source}): {encoder.verdict}.")
    report["folder"] = str(asked.folder or run / ENCODER)
    codes = windows.fetch(asked.genome)
    cache = asked.cache or (None if report["own"] else run / SEQUENCES)  # a large encoder goes on where it broke off
    values = embed_cached(with_outputs(encoder), codes, cache, batch_size=64, progress=not order.quiet)
    parts = gene_parts(windows)
    hashes = np.array([hash_of(one) for one in codes], dtype=np.uint64)
    outputs = len(report["tasks"])
    return Side(windows.gather(values), covered, parts, windows, encoder, report, hashes, outputs)


def _trained_encoder(config: GeneRecipe, examples: Examples, order: Order, run: Path) -> TrainedEncoder:
    """A sequence model of the run's own; one that an interrupted run left there is taken, or trained on."""
    folder, keep = run / ENCODER, run / TRAINING
    if order.resume and folder.is_dir():
        return open_trained(folder)
    if not order.resume:
        shutil.rmtree(keep, ignore_errors=True)
    valid, test = choose_parts(examples.parts, order.seed)
    settings: dict[str, Any] = dict(config.encoder)
    encoder = fit_encoder(
        examples.codes,
        examples.targets,
        examples.parts,
        valid=valid,
        test=test,
        task=examples.task,
        seed=order.seed,
        quiet=order.quiet,
        keep=keep,
        **settings,
    )
    encoder.report["tasks"] = list(examples.names)
    encoder.save(folder, overwrite=True)
    shutil.rmtree(keep, ignore_errors=True)
    return encoder


def given_side(asked: SequenceOrder, var: pd.DataFrame, notes: list[str]) -> Side:
    """Vectors from a table by gene."""
    assert asked.vectors is not None
    table = asked.vectors
    place = table.index.get_indexer(var.index)
    if "gene_id" in var:
        by_id = table.index.get_indexer(var["gene_id"].astype(str).str.split(".").str[0])
        place = np.where(place < 0, by_id, place)
    covered = place >= 0
    if covered.sum() < 3:
        raise DataError(
            f"{int(covered.sum())} of {len(var):,} genes are in the table of vectors, whose names look like "
            f"{', '.join(map(str, table.index[:3]))}. Name its rows as the cells name genes, or by Ensembl id."
        )
    vectors = np.zeros((len(var), table.shape[1]), dtype=np.float32)
    vectors[covered] = table.to_numpy(dtype=np.float32)[place[covered]]
    notes.append(f"{int(covered.sum()):,} of {len(var):,} genes have a vector; the others stay static.")
    parts = np.arange(len(var)) % 10  # no chromosomes are known: tenths, in the order of the table
    return Side(vectors, covered, parts)


def _regions(cells: Cells, name: str, asked: SequenceOrder) -> tuple[pd.DataFrame | None, tuple[Cells, str] | None]:
    """Regions near genes, and the cells in which their openness is measured."""
    others = [one for one in cells.modalities if one != name]
    source = None
    if asked.atac is not None:
        source = (asked.atac, asked.atac.modalities[0])
    elif others:
        source = (cells, others[0])
    if asked.peaks is not None:
        return asked.peaks, source
    return (None, None) if source is None else (regions_of(*source), source)


def _examples(
    config: GeneRecipe,
    own: Cells,
    name: str,
    var: pd.DataFrame,
    asked: SequenceOrder,
    windows: GeneWindows,
    peaks: pd.DataFrame | None,
    source: tuple[Cells, str] | None,
    order: Order,
    split: Split,
) -> Examples:
    """What the sequence model learns from."""
    assert asked.genome is not None
    length = config.window
    if source is not None:
        cells, modality = source
        groups = _groups(cells, order.label_key)
        rows = split.train if cells.names.equals(own.names) else np.arange(len(cells))
        rows = rows[cells.present(modality)[rows]]
        openness, names = group_openness(cells, modality, groups, rows)
        return region_examples(asked.genome, regions_of(cells, modality), length, openness, names, order.seed)
    if peaks is not None:
        return region_examples(asked.genome, peaks, length, None, ("region",), order.seed)
    if not len(windows.table):
        raise DataError("No gene of the cells has its start in the genome given. Check build and --offset.")
    values, names = group_expression(own, name, _groups(own, order.label_key), split.train, 1e4)
    return expression_examples(asked.genome, windows, values, names)


def _groups(cells: Cells, label_key: str | None) -> pd.Series:
    if label_key is None or label_key not in cells.obs:
        return pd.Series("all", index=cells.names)
    return cells.column(label_key)


def gene_parts(windows: GeneWindows) -> NDArray:
    """``(g,)`` what each gene is held out with: its chromosome, or a stretch of it."""
    links = windows.links.drop_duplicates("gene")
    table = windows.table.iloc[links["window"].to_numpy()]
    parts = np.full(len(windows.genes), "", dtype=object)
    parts[links["gene"].to_numpy()] = split_parts(table["chrom"].to_numpy(), table["anchor"].to_numpy())[0]
    return parts
