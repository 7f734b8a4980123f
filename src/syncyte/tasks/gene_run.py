"""A finished run of a gene network: model, medians, windows and the sequence model, put together from its checkpoint.

Leaves out: training (recipes), what is asked of it (``variants``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import CapabilityError, DataError
from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import GeneWindows
from syncyte.genome.sequence import content_hash
from syncyte.models.dna_encoder import SequenceEncoder, TrainedEncoder, open_sequence_encoder
from syncyte.models.genes import GeneModel
from syncyte.tasks.encoded import embed_cached
from syncyte.tasks.trained import Trained
from syncyte.tasks.variant_tokens import SequenceSide

ENCODER = "sequence"  # folder in a run
LOOKED = 200  # windows whose bases are compared with those of the training
OTHER = 0.2  # share of them that may differ: more is another genome, not an edited one
FEW = 50  # genes with a window that an adapter should have at least
WORSE = "predicted worse from adapted tokens"  # words of a note of the training
WINDOWS, LINKS, MEDIANS, HASHES = "windows", "links", "medians", "windows.hash"


@dataclass(frozen=True)
class GeneRun:
    """Parts of a run that variants need.

    Attributes
    ----------
    trained
        The run.
    model
        Its gene network.
    medians
        ``(g,)`` of training cells.
    windows
        Windows of genes and what they speak for.
    encoder
        Sequence model.
    hashes
        ``(w,)`` hash of the bases that each window had in training.
    """

    trained: Trained
    model: GeneModel
    medians: NDArray[np.float64]
    windows: GeneWindows | None
    encoder: SequenceEncoder | None
    hashes: NDArray[np.uint64]

    @property
    def genes(self) -> pd.Index:
        """Names of the genes."""
        return self.trained.vocabularies[self.model.spec.modality].index

    @property
    def symbols(self) -> NDArray:
        """Symbols of the genes where the run knows them, else their names."""
        var = self.trained.vocabularies[self.model.spec.modality]
        return var["symbol"].to_numpy() if "symbol" in var else var.index.to_numpy()

    def align(self, cells: Cells) -> Cells:
        """Cells in the genes of the run."""
        return self.trained.align(cells)

    def side(self, genome: Genome, cache: Path | None, quiet: bool) -> tuple[SequenceSide, list[str]]:
        """Windows in a genome with what reads them, and notes on how the genome agrees with that of the training.

        Raises
        ------
        CapabilityError
            If the run has no sequence side.
        DataError
            If the genome covers none of its windows.
        """
        windows, encoder, inside = self._parts(genome)

        def vectors(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
            return embed_cached(encoder, codes, cache, batch_size=64, progress=not quiet)

        tasks = tuple(self.trained.recipe["encoder"].get("tasks", ()))
        side = SequenceSide(windows, genome, vectors, tasks if isinstance(encoder, WithOutputs) else ())
        return side, self._notes(genome, inside)

    def check_genome(self, genome: Genome, force: bool = False) -> None:
        """Refuse a genome in which windows have other bases than in training, unless ``force``.

        Raises
        ------
        CapabilityError, DataError
            As of ``side``; and if more than 20 % of the windows looked at differ.
        """
        differ, looked = self._differing(genome, self._parts(genome)[2])
        if differ > OTHER * looked and not force:
            raise DataError(
                f"{differ:,} of {looked:,} windows looked at have other bases than in training; at most "
                f"{OTHER:.0%} may, in an edited genome. Is it another build, or another species? Give the genome that "
                "the run was trained on, or --force to go on with this one."
            )

    def training_notes(self) -> list[str]:
        """What the training found that those who read an answer should know: few genes, worse predictions."""
        genes = self.trained.recipe.get("covered")
        notes = []
        if genes is not None and genes < FEW:
            notes.append(
                f"The run has {genes:,} genes with a window: so few cannot teach an adapter much. See its held-out "
                "numbers (adapter in recipe.json)."
            )
        return notes + [note for note in self.trained.recipe.get("notes", ()) if WORSE in note]

    def _parts(self, genome: Genome) -> tuple[GeneWindows, SequenceEncoder, NDArray[np.bool_]]:
        """Windows, the sequence model, and which windows lie in the genome; see ``side``."""
        if self.windows is None or self.encoder is None or not len(self.windows.table):
            raise CapabilityError(
                f"The run {self.trained.path} has no sequence side (no gene had a window, or vectors were given with "
                "--gene-features). Train it with --fasta and --tss."
            )
        inside = np.array(
            [
                genome.covers(c, s, e)
                for c, s, e in self.windows.table[["chrom", "start", "end"]].itertuples(index=False)
            ]
        )
        if not inside.any():
            raise DataError(
                f"The genome covers {_spans(genome)} and none of the {len(inside):,} windows of the run. Give the "
                "genome that the run was trained on, of the same build."
            )
        return self.windows, self.encoder, inside

    def _differing(self, genome: Genome, inside: NDArray[np.bool_]) -> tuple[int, int]:
        """How many windows have other bases than in training, and how many were looked at."""
        assert self.windows is not None
        windows, rows = self.windows, np.flatnonzero(inside)
        rows = rows[:: max(1, len(rows) // LOOKED)]
        codes = (replace(windows, table=windows.table.iloc[[row]]).fetch(genome)[0] for row in rows)
        return sum(hash_of(one) != self.hashes[row] for row, one in zip(rows, codes)), len(rows)

    def _notes(self, genome: Genome, inside: NDArray[np.bool_]) -> list[str]:
        notes = []
        if not inside.all():
            notes.append(
                f"{int((~inside).sum()):,} of {len(inside):,} windows of the run lie outside the genome given."
            )
        differ, looked = self._differing(genome, inside)
        if differ:
            notes.append(
                f"{differ:,} of {looked:,} windows looked at have other bases than in training: another build? "
                "Effects are differences within the genome given."
            )
        return notes


class WithOutputs:
    """A sequence model trained here whose vectors end with what it predicts, on its own scale.

    Outputs are the best summary that a model has of a window: vectors alone named the right gene far less often.
    """

    def __init__(self, encoder: TrainedEncoder) -> None:
        self.encoder = encoder
        self.length, self.width = encoder.length, encoder.width + encoder.tasks
        self.fingerprint = f"{encoder.fingerprint}-outputs"

    @torch.no_grad()
    def embed(self, onehot: torch.Tensor) -> torch.Tensor:
        """Vectors and outputs of windows."""
        place = next(self.encoder.network.parameters()).device
        vectors, answers = self.encoder.network.both(onehot.to(place))
        return torch.cat([vectors, answers], dim=1).cpu()


def with_outputs(encoder: SequenceEncoder) -> SequenceEncoder:
    """The same, with its outputs where it has any of its own."""
    return WithOutputs(encoder) if isinstance(encoder, TrainedEncoder) else encoder


def hash_of(codes: NDArray[np.uint8]) -> np.uint64:
    """Short hash of a window's bases."""
    return np.uint64(int(content_hash(codes)[:16], 16))


def _spans(genome: Genome) -> str:
    some = [f"{name}:{start:,}-{end:,}" for name, (start, end) in list(genome.spans.items())[:4]]
    return ", ".join(some) + (" and more" if len(genome.spans) > 4 else "")


def open_gene_run(trained: Trained) -> GeneRun:
    """Parts of a loaded run.

    Raises
    ------
    CapabilityError
        If it is no run of a gene network.
    """
    trained.need_capability("adapts", "say what variants do")
    model: Any = trained.model
    windows = None
    if WINDOWS in trained.tables:
        links = trained.tables[LINKS].reset_index(drop=True)
        table = trained.tables[WINDOWS].reset_index(drop=True)
        names = trained.vocabularies[model.spec.modality].index
        length = int(table["end"].iloc[0] - table["start"].iloc[0]) if len(table) else 0
        windows = GeneWindows(table, links, names, length)  # as long as the sequence model that was given reads
    hashes = trained.arrays.get(HASHES, np.zeros(0, dtype=np.int64)).view(np.uint64)
    medians = trained.arrays[MEDIANS].astype(np.float64)
    return GeneRun(trained, model, medians, windows, _encoder(trained) if windows is not None else None, hashes)


def _encoder(trained: Trained) -> SequenceEncoder:
    """The sequence model of a run: in its folder, or where it was when the run was trained."""
    said = trained.recipe["encoder"]
    folder = trained.path / ENCODER if said["own"] else Path(said["folder"])
    encoder = open_sequence_encoder(folder, device=trained.device)
    if encoder.fingerprint != said["fingerprint"]:
        raise DataError(
            f"The sequence model in {said['folder']} is another one than the run {trained.path} was trained with. "
            "Put that one back, or train again."
        )
    return with_outputs(encoder)
