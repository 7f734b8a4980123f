"""Fit the conditional autoencoder of ``integrate`` on the cells at hand and give their codes.

About 25 passes over the cells. Encoder inputs are latents computed once; targets are the cells' own counts, read by
minibatch. Cells that hold several modalities are at times shown by one alone, so that cells with fewer land beside
them.
Leaves out: keeping the fitted weights; they belong to these cells and are made anew from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from syncyte.data.cells import Cells
from syncyte.data.sample import BlockSampler
from syncyte.models.conditional import ConditionalAutoencoder, divergence, draw, one_hot
from syncyte.objectives.adversary import BatchAdversary

MOST_FEATURES = 4000  # decoded in each modality: those seen most
MOST_STEPS = 5000
BATCH = 128
CLIP = 5.0


@dataclass(frozen=True)
class Target:
    """Counts to decode: modality, chosen columns, and whether they are counts or open regions."""

    modality: str
    columns: NDArray[np.int64]
    share: Tensor
    counts: bool


@dataclass(frozen=True)
class Recoded:
    """Codes ``(n, z)``, and steps and mean losses of the end of the fit."""

    code: NDArray[np.float32]
    facts: dict[str, float]


def choose_targets(cells: Cells, counts: frozenset[str]) -> list[Target]:
    """Most-seen features of every modality and their shares, from one pass over the cells."""
    targets = []
    for name in cells.modalities:
        total = np.zeros(cells.part(name).rows.shape[1])
        for _, block in cells.blocks(name):
            values = block.data if name in counts else np.ones_like(block.data)
            total += np.bincount(block.indices, weights=values, minlength=len(total))
        columns = np.sort(np.argsort(-total, kind="stable")[:MOST_FEATURES])
        share = total[columns] + 1
        targets.append(Target(name, columns, torch.from_numpy(share / share.sum()).float(), name in counts))
    return targets


def recode(
    cells: Cells,
    views: Tensor,
    codes: NDArray[np.int64],
    counts: frozenset[str],
    device: torch.device,
    *,
    seed: int = 0,
    epochs: int = 25,
    width: int = 16,
    weight: float = 1.0,
    adversary: float = 0.0,
) -> Recoded:
    """Codes of cells free of what their technical batch explains.

    Parameters
    ----------
    cells
        Aligned cells.
    views
        ``(v, n, i)`` encoder inputs: all that is measured first, then one modality alone each (NaN where not measured).
    codes
        ``(n,)`` technical batch of each cell, -1 unknown.
    counts
        Modalities that are counts.
    device
        Where to compute.
    seed
        Of everything random here.
    epochs
        Passes over the cells, at most 5,000 steps.
    width
        Of the code.
    weight
        Of the divergence from the standard normal.
    adversary
        Weight at which the encoder feels the adversary; 0 leaves it out.
    """
    targets = choose_targets(cells, counts)
    known = np.bincount(codes[codes >= 0])
    shares = torch.from_numpy(known / known.sum()).float().to(device)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        torch.manual_seed(seed)
        model = ConditionalAutoencoder(
            views.shape[2], {t.modality: t.share for t in targets}, len(known), counts, code=width
        ).to(device)
        judge = BatchAdversary(width, len(known)).to(device) if adversary else None
        facts = _fit(model, judge, cells, views, codes, shares, targets, seed, epochs, weight, adversary)
        model.eval()
        with torch.inference_mode():
            code = torch.cat([model.encode(block.to(device))[0] for block in views[0].split(4096)])
    return Recoded(code.cpu().numpy(), facts)


def _fit(
    model: ConditionalAutoencoder,
    judge: BatchAdversary | None,
    cells: Cells,
    views: Tensor,
    codes: NDArray[np.int64],
    shares: Tensor,
    targets: list[Target],
    seed: int,
    epochs: int,
    weight: float,
    adversary: float,
) -> dict[str, float]:
    """Train; number of steps, and each part of the loss over the last tenth of them."""
    size = min(BATCH, len(cells))
    sampler = BlockSampler(np.arange(len(cells)), size, seed=seed, drop_last=True)
    total = min(epochs * len(sampler), MOST_STEPS)
    parameters = [*model.parameters(), *([] if judge is None else judge.parameters())]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, total))
    record: list[dict[str, float]] = []
    generator = torch.Generator().manual_seed(seed)
    for step, (rows, blocks) in enumerate(_minibatches(cells, sampler, targets, total)):
        inputs = _look(views, rows, generator).to(shares.device)
        lanes = torch.from_numpy(codes[rows]).to(shares.device)
        mean, spread = model.encode(inputs)
        code, batch = draw(mean, spread), one_hot(lanes, shares)
        error = torch.zeros(len(rows), device=shares.device)
        for target in targets:
            wanted = blocks[target.modality].to(shares.device)
            error = error + model.error(model.decode(code, batch, target.modality), wanted, target.modality)
        bound = divergence(mean, spread)
        ramp = min(1.0, (step + 1) / (0.3 * total))
        loss = (error + weight * ramp * bound).mean() / 10
        parts = {"error": error.mean(), "divergence": bound.mean()}
        if judge is not None:
            parts["adversary"] = judge(code, lanes, adversary * ramp)
            loss = loss + parts["adversary"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        schedule.step()
        record.append({key: float(value.detach()) for key, value in parts.items()})
    last = record[-max(len(record) // 10, 1) :]
    return {"steps": len(record), **{key: float(np.mean([one[key] for one in last])) for key in last[0]}}


def _rate(step: int, total: int) -> float:
    """Warm-up over 50 steps, then a cosine to a twentieth."""
    return min(1.0, (step + 1) / 50) * (0.05 + 0.475 * (1 + math.cos(math.pi * min(step / total, 1.0))))


def _look(views: Tensor, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """Inputs of a minibatch: half the cells by all they have, the others by one modality where there is a choice."""
    every = views[0, rows]
    if len(views) == 1:
        return every
    draw_of = torch.randint(2 * (len(views) - 1), (len(rows),), generator=generator) + 1
    chosen = torch.where(draw_of < len(views), draw_of, 0)
    picked = views[chosen, torch.from_numpy(rows)]
    return torch.where(picked.isfinite().all(dim=1, keepdim=True), picked, every)


def _minibatches(
    cells: Cells, sampler: BlockSampler, targets: list[Target], total: int
) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
    """Rows and dense targets of each step; cells that lack a modality have only zeros there, which cost nothing."""
    taken = 0
    for epoch in range(-(-total // max(len(sampler), 1))):
        for fetched, batches in sampler.fetches(epoch):
            counts = {t.modality: cells.counts(t.modality, fetched)[:, t.columns] for t in targets}
            for positions in batches:
                if taken == total:
                    return
                taken += 1
                blocks = {}
                for target in targets:
                    dense = counts[target.modality][positions].toarray()
                    dense = dense if target.counts else (dense > 0).astype(np.float32)
                    blocks[target.modality] = torch.from_numpy(dense)
                yield fetched[positions], blocks
