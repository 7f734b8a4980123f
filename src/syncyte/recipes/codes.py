"""Codes of all cells, made once by the trained encoder and kept on disk while the flow over them is trained.

The file lies in the RUN folder, is mapped and not read, and is removed after training: memory does not grow with the
cells. Leaves out: what is learned from the codes (``objectives.sets``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.data.load import Tokenizer, predict_batches
from syncyte.models.sets import SetModel
from syncyte.train.distributed import Worker
from syncyte.train.folder import CODES

MINIBATCH = 512  # cells


@torch.no_grad()
def write_codes(
    model: SetModel, cells: Cells, tokenizers: Mapping[str, Tokenizer], run: Path, worker: Worker
) -> NDArray[np.float32]:
    """``(cells, 2 z + 1)`` means, log standard deviations and log totals: a map of a file the first process makes.

    The scale of the coordinates of the flow is set from them, which is why every process comes here.
    """
    shape = (len(cells), 2 * model.components + 1)
    training = model.training
    model.eval()
    if worker.rank == 0:
        out = np.lib.format.open_memmap(run / CODES, mode="w+", dtype=np.float32, shape=shape)
        for batch in predict_batches(cells, tokenizers, MINIBATCH, in_order=False):
            batch = batch.to(worker.device)
            mean, log_sd, total = model.encoder(batch.tokens[model.names[0]])
            rows = torch.cat([mean, log_sd, total.clamp_min(1).log()[:, None]], dim=1)
            out[batch.rows.cpu().numpy()] = rows.float().cpu().numpy()
        out.flush()
    worker.barrier()
    model.train(training)
    return np.load(run / CODES, mmap_mode="r", allow_pickle=False)


def set_scale(model: SetModel, values: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """Mean and spread of the coordinates over posterior samples of training cells."""
    z = model.components
    some = np.asarray(values[rows], dtype=np.float64)
    mean = np.append(some[:, :z].mean(axis=0), some[:, -1].mean())
    within = np.append(np.exp(2 * some[:, z : 2 * z]).mean(axis=0), 0.0)
    between = np.append(some[:, :z].var(axis=0), some[:, -1].var())
    model.flow.mean.copy_(torch.from_numpy(mean))
    model.flow.sd.copy_(torch.from_numpy(np.sqrt(np.maximum(within + between, 1e-6))))
