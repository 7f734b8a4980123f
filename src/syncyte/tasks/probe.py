"""Annotation with a frozen model: logistic regression on its latents and on class profiles.

A *class profile* is the mean of the model's scaled residuals over the cells of a class, and a cell's score on it the
product with its own residuals: one linear readout a class, in closed form. Every reference cell is scored on profiles
made without its own part, so the scores look as those of new cells do; loadings fitted to the same cells do not
(at 90 open regions a cell 79 % of held-out cells were right with profiles and 72 % with the latents).
Latents are read standardised, or as *axes*, each as wide as its singular value rises above the last: where labels are
few, that the first axes matter most is half of what there is to know. Which blocks are used is chosen for each modality
on held-out cells. Leaves out: training of the model (``finetune``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.baselines.encode import CLIP, axis_widths
from syncyte.baselines.residual import Residual, ResidualMatrix
from syncyte.data.cells import Cells
from syncyte.modalities import modalities
from syncyte.models.cell import everything
from syncyte.tasks.calibrate import fit_temperature, log_loss, temper
from syncyte.tasks.labelled import FEW_LABELS, Labelled
from syncyte.tasks.trained import Trained
from syncyte.types import Batch, Visible

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
NARROW = (3.0, 10.0)  # more of them for axes, which are narrower than standardised evidence
FIRST_STRENGTH, FIRST_NARROW = 0.1, 1.0
MOST_TRIED = 8000  # cells a trial learns from; the final fit takes all
NEAR = 1.05  # log losses within this factor of the least count as equal; labels decide between them
EQUAL = 0.005  # and so do qualities this close to the best
BETTER = 0.93  # other blocks are taken for a log loss below this share of what the usual ones give
BLOCKS: tuple[tuple[str, ...], ...] = (
    ("profiles", "latents"),
    ("profiles",),
    ("latents",),
    ("profiles", "axes"),
    ("axes",),
)
LATENT = {"latents", "axes"}  # blocks that know the cells the model was trained on


@dataclass(frozen=True)
class Evidence:
    """What the frozen model says of cells, for one modality.

    Attributes
    ----------
    latents
        ``(n, k)`` linear latents.
    context
        ``(n, 2)`` standardised log depth and richness.
    scores
        ``(n, parts, c)`` product with the sums of residuals of each class in each part of the reference.
    width
        ``(k,)`` standard deviation that latents have as axes, the first one's being 1.
    """

    latents: NDArray[np.float32]
    context: NDArray[np.float32]
    scores: NDArray[np.float32]
    width: NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """Settings of a probe, and how it did on held-out cells.

    Attributes
    ----------
    blocks
        What is read, by modality.
    strength
        Inverse of the L2 penalty.
    weight
        Classes weigh by their size to the minus this power: 0 plain, 1 balanced.
    loss, quality
        Log loss at the best temperature; mean of accuracy and macro-F1.
    """

    blocks: dict[str, tuple[str, ...]]
    strength: float = FIRST_STRENGTH
    weight: float = 0.0
    loss: float = float("inf")
    quality: float = 0.0

    def words(self) -> str:
        """For the provenance."""
        parts = "; ".join(f"{name}: {' and '.join(blocks)}" for name, blocks in self.blocks.items())
        return f"{parts}; C {self.strength:g}; class weights 1 / n^{self.weight:g}"


class Profiles:
    """Sums of residuals by part and class of the reference, by modality."""

    def __init__(self, trained: Trained, labelled: Labelled) -> None:
        self.tables: dict[str, NDArray[np.float32]] = {}
        self.residuals = {name: _residual(trained, name) for name in labelled.cells.modalities}
        hot = np.eye(len(labelled.classes), dtype=np.float32)[labelled.codes]
        # classes weigh by the root of their size; the common mean drops out
        target = (hot - hot.mean(axis=0)) / np.sqrt(np.maximum(hot.sum(axis=0), 1))
        folds = int(labelled.parts.max()) + 1
        for name, (residual, center) in self.residuals.items():
            table = np.zeros((folds, len(residual.share), len(labelled.classes)), dtype=np.float32)
            for rows, counts in labelled.cells.blocks(name):
                for fold in np.unique(labelled.parts[rows]):
                    inside = np.flatnonzero(labelled.parts[rows] == fold)
                    matrix = ResidualMatrix(*residual.split(counts[inside]), center)
                    table[fold] += matrix.transpose_dot(target[rows[inside]])
            self.tables[name] = table

    def scores(self, cells: Cells, name: str) -> NDArray[np.float32]:
        """``(n, parts, c)`` scores of cells."""
        table = self.tables[name]
        folds, features, classes = table.shape
        flat = np.ascontiguousarray(table.transpose(1, 0, 2).reshape(features, folds * classes))
        residual, center = self.residuals[name]
        scores = np.zeros((len(cells), folds, classes), dtype=np.float32)
        for rows, counts in cells.blocks(name):
            block = ResidualMatrix(*residual.split(counts), center).dot(flat)
            scores[rows] = block.reshape(len(rows), folds, classes)
        return scores


def _residual(trained: Trained, name: str) -> tuple[Residual, NDArray[np.float32]]:
    """The scaling of a modality for sparse matrices, and its centre."""
    if not trained.can("decodes"):  # the centre cancels out of class profiles
        share = trained.arrays["share"].astype(np.float64)
        return Residual.from_share(modalities[name].residual, share / share.sum()), np.zeros(len(share), np.float32)
    path = trained.model.paths[name]
    share, nodes, zero, center = (
        value.detach().cpu().numpy() for value in (path.share, path.nodes, path.zero, path.center)
    )
    kind = "pearson" if path.pearson else "depth"
    offset = float(path.scale[0]) ** 2 - float(share[0])
    return Residual(kind, share.astype(np.float64), nodes.astype(np.float64), zero, offset), center  # type: ignore[arg-type]


def read_evidence(
    trained: Trained, profiles: Profiles, cells: Cells, *, private: bool, batch_size: int | None = None
) -> dict[str, Evidence]:
    """Evidence of aligned cells by modality; ``private`` leaves out the latents that were fitted across modalities."""
    names = cells.modalities
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for read in trained.each(cells, partial(_read, names=names, private=private), batch_size):
        for name, block in zip(names, read, strict=True):
            found[name].append(block)
    whole = {name: np.concatenate(blocks) for name, blocks in found.items()}
    width = {  # codes of a set model have no order
        name: axis_widths(trained.strengths.get(name, np.ones(both.shape[1], dtype=np.float32)))[-both.shape[1] + 2 :]
        for name, both in whole.items()
    }
    return {
        name: Evidence(both[:, 2:], both[:, :2], profiles.scores(cells, name), width[name])
        for name, both in whole.items()
    }


def _read(trained: Trained, batch: Batch, *, names: tuple[str, ...], private: bool) -> list[NDArray[np.float32]]:
    """Context and latents of a minibatch, side by side, for each modality."""
    model: Any = trained.model
    blocks = []
    if not trained.can("decodes"):
        encoded = model.encode(batch.tokens, everything(batch))
        return [torch.cat([encoded.context[:, 0], encoded.latent], dim=1).cpu().numpy()]
    for name in names:
        index = model.names.index(name)
        latent, amounts, _, _ = model.paths[name](batch.tokens[name], Visible(batch.present[name]))
        if model.published is not None:
            latent = model.published.embed(batch.tokens[name], len(batch))
        context = (amounts.clamp_min(1).log() - model.context_mean[index]) / model.context_sd[index]
        shared = latent.shape[1] > model.components  # else all components are the modality's own, fitted on it alone
        first = model.components if private and shared else 0
        blocks.append(torch.cat([context, latent[:, first:]], dim=1).cpu().numpy())
    return blocks


class Probe:
    """Logistic regression on chosen blocks of evidence.

    Parameters
    ----------
    labelled
        Reference.
    evidence
        Of the reference, by modality.
    """

    def __init__(self, labelled: Labelled, evidence: Mapping[str, Evidence]) -> None:
        self.labelled, self.evidence = labelled, dict(evidence)
        self.parts = np.arange(int(labelled.parts.max()) + 1)

    def choose(self) -> Choice:
        """Blocks of one modality after the other, then penalty and class weights, on the held folds."""
        # the more labels, the more can be learned beside the order of the axes; few are not asked to tell which
        usual = BLOCKS[0] if len(self.labelled.codes) >= FEW_LABELS else ("axes",)
        choice = self._scored(_first(dict.fromkeys(self.evidence, usual)))
        for name in self.evidence:  # given those of the others: what one lacks, another may bring
            others = [self._scored(_first({**choice.blocks, name: one})) for one in BLOCKS]
            best = min(others, key=lambda trial: trial.loss)
            choice = best if best.loss < BETTER * choice.loss else choice
        narrow = any("axes" in blocks for blocks in choice.blocks.values())
        strengths = STRENGTHS + NARROW if narrow else STRENGTHS
        trials = [self._scored(Choice(choice.blocks, *both)) for both in product(strengths, WEIGHTS)]
        least = min(trial.loss for trial in trials)
        near = [trial for trial in trials if trial.loss <= NEAR * least]
        enough = max(trial.quality for trial in near) - EQUAL
        # new cells have other shares of the classes: of equals, the one that relies least on those of the reference
        return max(
            (trial for trial in near if trial.quality >= enough), key=lambda trial: (trial.weight, trial.quality)
        )

    def held_out(self, choice: Choice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cells of the held folds and their probabilities ``(h, c)`` from the other folds.

        Profiles alone know nothing of a held-out cell, whatever the model was trained on, so that all folds are held
        out in turn where no latents are read.
        """
        honest = not any(LATENT & set(blocks) for blocks in choice.blocks.values())
        rows, chances = [], []
        for fold in self.labelled.large if honest else self.labelled.held:
            train, held = self.labelled.rows(fold)
            if len(train) > MOST_TRIED:
                train = np.sort(np.random.default_rng(fold).choice(train, MOST_TRIED, replace=False))
            rows.append(held)
            use = np.setdiff1d(self.parts, self.labelled.parts[held])
            chances.append(self._fit_predict(choice, train, use, self.evidence, held))
        return np.concatenate(rows), np.concatenate(chances)

    def predict(self, choice: Choice, query: Mapping[str, Evidence]) -> NDArray[np.float64]:
        """Probabilities ``(n, c)`` of new cells from the whole reference."""
        return self._fit_predict(choice, np.arange(len(self.labelled.codes)), self.parts, query, None)

    def _scored(self, choice: Choice) -> Choice:
        from sklearn.metrics import f1_score

        rows, chance = self.held_out(choice)
        truth, found = self.labelled.codes[rows], chance.argmax(axis=1)
        quality = ((found == truth).mean() + f1_score(truth, found, average="macro", zero_division=0)) / 2
        return replace(
            choice, loss=log_loss(temper(chance, fit_temperature(chance, truth)), truth), quality=float(quality)
        )

    def _fit_predict(
        self,
        choice: Choice,
        train: NDArray[np.int64],
        use: NDArray[np.int64],
        new: Mapping[str, Evidence],
        rows: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        """Learn from ``train`` cells, which lie in the parts ``use``; predict ``rows`` (all by default) of ``new``."""
        known, asked = [], []
        widths: list[NDArray] = []
        for name, blocks in choice.blocks.items():
            old, fresh = self.evidence[name], new[name]
            pick = slice(None) if rows is None else rows
            known.append(old.context[train])
            asked.append(fresh.context[pick])
            widths.append(np.ones(2))
            if LATENT & set(blocks):
                known.append(old.latents[train])
                asked.append(fresh.latents[pick])
                widths.append(old.width if "axes" in blocks else np.ones(len(old.width)))
            if "profiles" in blocks:
                all_scores = old.scores[train][:, use].sum(axis=1)
                own = all_scores - old.scores[train, self.labelled.parts[train]]
                other = fresh.scores[pick][:, use].sum(axis=1) * (1 - 1 / len(use))
                middle, spread = own.mean(axis=0), np.maximum(own.std(axis=0), 1e-6)
                known.append(CLIP * np.tanh((own - middle) / spread / CLIP))
                asked.append(CLIP * np.tanh((other - middle) / spread / CLIP))
                widths.append(np.ones(own.shape[1]))
        chance = np.zeros((len(asked[0]), len(self.labelled.classes)))
        x, width = np.hstack(known), np.concatenate(widths)
        middle, scale = x.mean(axis=0), width / np.maximum(x.std(axis=0), 1e-6)
        model = _regression((x - middle) * scale, self.labelled.codes[train], choice)
        if len(chance):
            chance[:, model.classes_] = model.predict_proba((np.hstack(asked) - middle) * scale)
        return chance


def _first(blocks: dict[str, tuple[str, ...]]) -> Choice:
    """Blocks with the penalty at which they are compared."""
    narrow = any("axes" in names for names in blocks.values())
    return Choice(blocks, FIRST_NARROW if narrow else FIRST_STRENGTH)


def _regression(x: NDArray[np.float32], codes: NDArray[np.int64], choice: Choice) -> Any:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    present, count = np.unique(codes, return_counts=True)
    weight = count.astype(float) ** -choice.weight
    weight *= len(codes) / (weight * count).sum()  # so that the penalty means the same
    model = LogisticRegression(C=choice.strength, class_weight=dict(zip(present, weight, strict=True)), max_iter=2000)
    with threadpool_limits(1):  # many small products: on busy cores waiting threads cost twenty times the work
        return model.fit(x, codes)
