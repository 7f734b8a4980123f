"""Annotation by training: loadings move with the labels, and a linear and a small nonlinear head read the latents.

``full`` trains a copy of the loading tables of the modalities in use. ``lora`` leaves them and learns low-rank updates
``A B`` (Hu et al., ICLR 2022), in the tables and, where the model has a backbone, in its attention and feed-forward
layers, whose cell token then feeds the heads too. The stored model is never touched. Few epochs at a small rate: a
feature with twenty counts is fitted by heart within three passes. Leaves out: choosing and calibrating (``annotate``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from syncyte.data.cells import Cells
from syncyte.data.load import Loader
from syncyte.data.sample import BlockSampler
from syncyte.models.cell import CellModel
from syncyte.objectives.masked import augment
from syncyte.tasks.labelled import Labelled
from syncyte.tasks.trained import Trained
from syncyte.types import Batch, Tokens, Visible

Adapter = Literal["full", "lora"]

HIDDEN, DROPOUT, RANK = 128, 0.3, 8
TABLE_RATE, HEAD_RATE, HEAD_DECAY = 5e-5, 2e-3, 0.1
SMALLEST_BATCH, BATCH, SMOOTHING = 16, 128, 0.05
SHOWN, PASSES = 30_000, (2, 12)  # cells shown in all, and the least and most passes: more only fits noise
COUNT_DROPOUT, OPEN_DROPOUT = 0.5, 0.2  # most of a cell's counts, and of its open regions, that are hidden


class LowRank(nn.Module):
    """A matrix plus a learned product of two thin ones, zero at the start."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.zeros(rows, rank))
        self.right = nn.Parameter(torch.randn(rank, columns) / rank**0.5)

    def forward(self, table: Float[Tensor, "f k"]) -> Float[Tensor, "f k"]:
        """The updated matrix."""
        return table + self.left @ self.right


class Labeller(nn.Module):
    """A copy of the cell model with heads for classes.

    Parameters
    ----------
    model
        Copied, frozen but for what ``adapter`` trains.
    names
        Modalities that are read.
    """

    def __init__(self, model: CellModel, names: tuple[str, ...], classes: int, adapter: Adapter) -> None:
        super().__init__()
        self.names = names
        self.places = [model.names.index(name) for name in names]
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._forget()
        paths: dict[str, Any] = dict(self.model.paths.items())
        width = sum(paths[name].components + 2 for name in names)
        if adapter == "full":
            self.model.backbone = None
        elif self.model.backbone is not None:
            _adapt_backbone(self.model.backbone)
            width += self.model.sizes.width
        for name in names:
            path = paths[name]
            if adapter == "full":
                path.table.requires_grad_(True)
            else:
                parametrize.register_parametrization(
                    path, "table", LowRank(path.table.shape[0], path.table.shape[1], RANK)
                )
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(width, classes)
        last = nn.Linear(HIDDEN, classes, bias=False)
        nn.init.zeros_(last.weight)
        self.deep = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), last)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor]) -> Float[Tensor, "b c"]:
        """Class logits of cells."""
        visible = {
            name: Visible(flags if name in self.names else torch.zeros_like(flags)) for name, flags in present.items()
        }
        encoded = self.model.encode(tokens, visible)
        blocks = [encoded.parts[name] for name in self.names] + [encoded.context[:, place] for place in self.places]
        if encoded.states is not None:
            blocks.append(encoded.states[:, 0])
        features = self.dropout(torch.cat(blocks, dim=1))
        return self.linear(features) + self.deep(features)

    def train(self, mode: bool = True) -> Labeller:
        """Only the heads' dropout differs: the model's own stays off."""
        super().train(mode)
        self.model.eval()
        self._forget()
        return self

    def _forget(self) -> None:
        """Drop products with the table that a path keeps while the table does not change."""
        paths: dict[str, Any] = dict(self.model.paths.items())
        for path in paths.values():
            path._cached = None

    def groups(self) -> list[dict[str, object]]:
        """Parameter groups of the optimiser: what adapts the model, and the heads."""
        adapted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        heads = [*self.linear.parameters(), *self.deep.parameters()]
        return [
            {"params": adapted, "lr": TABLE_RATE, "weight_decay": 0.0},
            {"params": heads, "lr": HEAD_RATE, "weight_decay": HEAD_DECAY},
        ]


def _adapt_backbone(backbone: nn.Module) -> None:
    """Put LoRA layers into attention and experts, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    target = r".*(query|key_value|outward|experts\.\w+\.[03])"
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=target), backbone)


def finetune(
    trained: Trained,
    labelled: Labelled,
    rows: NDArray[np.int64],
    new: Cells,
    adapter: Adapter,
    *,
    seed: int = 0,
    batch_size: int | None = None,
) -> NDArray[np.float64]:
    """Learn from some reference cells and predict new ones.

    Parameters
    ----------
    rows
        Reference cells to learn from.
    new
        Aligned cells with the same modalities.

    Returns
    -------
    numpy.ndarray
        ``(n, c)`` probabilities, zero for classes without a cell among ``rows``.
    """
    devices = [trained.device] if trained.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        labeller = Labeller(trained.model, labelled.cells.modalities, len(labelled.classes), adapter).to(trained.device)
        _train(trained, labeller, labelled, rows, seed)
    count = np.bincount(labelled.codes[rows], minlength=len(labelled.classes))
    chance = _predict(trained, labeller.eval(), new, batch_size) * (count > 0)
    return chance / np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)


def _train(trained: Trained, labeller: Labeller, labelled: Labelled, rows: NDArray[np.int64], seed: int) -> None:
    epochs = int(np.clip(round(SHOWN / len(rows)), *PASSES))
    size = int(np.clip(len(rows) // 16, SMALLEST_BATCH, BATCH))
    sampler = BlockSampler(rows, min(size, len(rows)), block=1, seed=seed, drop_last=True)
    loader = Loader(labelled.cells, trained.tokenizers, sampler)
    count = np.bincount(labelled.codes[rows], minlength=len(labelled.classes))
    scale = np.where(count > 0, 1 / np.sqrt(np.maximum(count, 1)), 0.0)
    scale *= count.sum() / (scale * count).sum()
    weight = torch.as_tensor(scale, dtype=torch.float32, device=trained.device)
    truth = torch.from_numpy(labelled.codes).to(trained.device)
    groups = labeller.groups()
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [TABLE_RATE, HEAD_RATE], total_steps=max(steps, 2))
    generator = torch.Generator().manual_seed(seed)
    labeller.train()
    for epoch in range(epochs):
        for batch in _on(trained, loader.epoch(epoch)):
            tokens = {name: _augmented(labeller, name, tokens, generator) for name, tokens in batch.tokens.items()}
            logits = labeller(tokens, batch.present)
            loss = F.cross_entropy(logits, truth[batch.rows], weight=weight, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(labeller.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def _augmented(labeller: Labeller, name: str, tokens: Tokens, generator: torch.Generator) -> Tokens:
    """Hide entries: more where values are counts, since few open regions are all a cell has."""
    share = COUNT_DROPOUT if labeller.model.paths[name].pearson else OPEN_DROPOUT
    return augment(tokens, generator, share, 0.0)


def _on(trained: Trained, batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield batch.to(trained.device)


@torch.no_grad()
def _predict(trained: Trained, labeller: Labeller, cells: Cells, batch_size: int | None) -> NDArray[np.float64]:
    blocks = [
        labeller(batch.tokens, batch.present).softmax(dim=1).cpu().double().numpy()
        for batch in trained.batches(cells, batch_size)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, labeller.linear.out_features))
