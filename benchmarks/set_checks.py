"""What must hold of a trained set model, asked of its trained weights.

    python benchmarks/set_checks.py RUN CELLS.h5ad [--cells 200]

*Order and padding*: largest change of a code when entries and tokens are shuffled among 60 more columns of padding.
*Subset*: largest change of a score when a tenth of the features is decoded by itself. *Scrambled counts*: mean move of
a code when the counts of a cell are dealt anew among its measured features, in units of the mean distance between cells
(also of the attention alone, with the sum silenced). All else in standard deviations of a code over cells.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.read import open_cells
from syncyte.modalities import all_schemas
from syncyte.tasks.trained import Trained, load_trained
from syncyte.types import Tokens


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cells", type=int, default=200)
    options = parser.parse_args()
    trained = load_trained(options.run, "cpu")
    cells = trained.align(open_cells(options.data, schemas=all_schemas()))
    cells = cells.take(np.arange(min(options.cells, len(cells))))
    name = trained.modalities[0]
    counts = cells.counts(name).astype(np.float32)
    print("| check | found |\n|---|---|")
    wanted, tokens = codes(trained, cells), tokens_of(trained, cells)
    spread = wanted.std(dim=0)
    moved = (encode(trained, [shuffled(one) for one in tokens]) - wanted).abs() / spread
    print(f"| order and padding, largest change of a code | {moved.max():.1e} |")
    print(f"| subset, largest change of a score | {subset(trained, wanted):.1e} |")
    for words, silence in (("", False), (", attention alone", True)):
        if silence and trained.model.encoder.pool is None:
            continue
        if silence:
            for layer in (trained.model.encoder.mean, trained.model.encoder.log_sd):
                layer.weight.data.zero_()
        first = codes(trained, cells)
        second = codes(trained, with_counts(cells, name, scrambled(counts)))
        apart = torch.cdist(first, first).sum() / (len(first) * (len(first) - 1))
        print(f"| scrambled counts{words}, mean move of a code | {(first - second).norm(dim=1).mean() / apart:.2f} |")


def tokens_of(trained: Trained, cells: Cells) -> list[Tokens]:
    """Minibatches of tokens."""
    return [batch.tokens[trained.modalities[0]] for batch in trained.batches(cells)]


@torch.inference_mode()
def encode(trained: Trained, tokens: list[Tokens]) -> torch.Tensor:
    """Posterior means."""
    return torch.cat([trained.model.encoder(one)[0] for one in tokens])


def codes(trained: Trained, cells: Cells) -> torch.Tensor:
    """Posterior means of cells."""
    return encode(trained, tokens_of(trained, cells))


def shuffled(tokens: Tokens, more: int = 60) -> Tokens:
    """The same cells: entries in another order, tokens in other columns among ``more`` columns of padding."""
    rng = torch.Generator().manual_seed(0)
    rows, columns = tokens.ids.shape
    order = torch.argsort(tokens.cell + 0.9 * torch.rand(len(tokens.cell), generator=rng))
    place = torch.stack([torch.randperm(columns + more, generator=rng)[:columns] for _ in range(rows)])
    token = tokens.token[order]
    moved = (token // columns) * (columns + more) + place[token // columns, token % columns]
    ids = torch.zeros((rows, columns + more), dtype=tokens.ids.dtype).scatter_(1, place, tokens.ids)
    valid = torch.zeros((rows, columns + more), dtype=torch.bool).scatter_(1, place, tokens.valid)
    unread = torch.where(token >= 0, moved, token)
    return Tokens(tokens.feature[order], tokens.value[order], tokens.cell[order], unread, ids, valid)


@torch.inference_mode()
def subset(trained: Trained, latent: torch.Tensor) -> float:
    """Largest difference of scores asked for alone and among all."""
    count = len(trained.vocabularies[trained.modalities[0]])
    some = torch.from_numpy(np.sort(np.random.default_rng(0).choice(count, count // 10, replace=False)))
    everything, alone = trained.model.decoder(latent)[0], trained.model.decoder(latent, some)[0]
    return float((everything[:, some] - alone).abs().max())


def scrambled(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Counts of every cell dealt anew among its measured features."""
    found, rng = counts.copy(), np.random.default_rng(0)
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        found.data[start:stop] = rng.permutation(counts.data[start:stop])
    return found


def with_counts(cells: Cells, name: str, counts: sp.csr_matrix) -> Cells:
    """The same cells with other counts."""
    part = Part(MemoryRows(counts), np.arange(len(cells)), cells.part(name).var)
    return replace(cells, parts={name: part})


if __name__ == "__main__":
    main()
