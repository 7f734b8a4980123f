"""Training of the sequence encoder: chromosomes held out, both strands, small shifts, and an honest report.

The closed form is fitted first and the towers beside it, each by itself: towers that learn only what the closed form
leaves over come out worse, since their gradients are faint. Validation chromosomes stop the towers and say how much of
either is kept; the report looks at the test chromosomes.
Leaves out: where windows and targets come from, and the parts of the report (``sequence_report``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from syncyte.baselines.sequence import Task, as_table
from syncyte.baselines.spectrum import SpectrumMachine, fit_machine, fit_spectrum
from syncyte.errors import ConfigError, DataError
from syncyte.genome.sequence import UNKNOWN
from syncyte.meter import Meter
from syncyte.models.dna_encoder import HALVES, TrainedEncoder
from syncyte.nn.sequence import SequenceNet, SequenceSizes, SequenceTower
from syncyte.train.sequence_report import make_report
from syncyte.train.sequence_state import digest_of, keep_state, kept_state

SHIFT = 3  # bases a window is moved by, to either side
BATCH, LR, DECAY = 64, 3e-3, 0.05
PATIENCE = 8  # epochs without a better loss on the validation chromosomes


def fit_encoder(
    codes: NDArray[np.uint8],
    targets: ArrayLike,
    groups: ArrayLike,
    *,
    valid: Iterable[str],
    test: Iterable[str] = (),
    task: Task = "binary",
    seed: int = 0,
    epochs: int = 24,
    length: int | None = None,
    quiet: bool = False,
    keep: Path | None = None,
    **sizes: Any,
) -> TrainedEncoder:
    """Train an encoder and measure it beside GC content and short words.

    Parameters
    ----------
    codes
        ``(n, L)`` bases. Windows longer than ``length`` give their middle, and real bases when they are moved.
    targets
        ``(n, T)`` of 0 and 1 (``binary``), or numbers that are not negative (``count``).
    groups
        Chromosome of each row; rows are never split at random.
    valid, test
        Chromosomes for early stopping, and for the report alone.
    task, seed, epochs
        Kind of targets; seed of everything random; passes at most.
    length, quiet, keep
        Bases of the encoder, by default ``L``; show no progress; folder from which a killed training goes on.
    **sizes
        Further settings, of ``nn.sequence.SequenceSizes``.

    Raises
    ------
    DataError
        If shapes do not fit, or too few rows are left to train or stop by.
    ConfigError
        For settings that are unknown, or chromosomes that are both valid and test.
    """
    table, names = as_table(targets), np.asarray(groups).astype(str)
    apart = {"valid": sorted(set(map(str, valid))), "test": sorted(set(map(str, test)))}
    parts = split_rows(len(codes), table, names, set(apart["valid"]), set(apart["test"]))
    length = length or codes.shape[1]
    shape = _sizes(sizes, length, codes.shape[1], table.shape[1], task, len(parts["train"]))
    before = torch.random.get_rng_state()
    network = SequenceNet(shape)
    load_start(network, _start(middle(codes[parts["train"]], length), table, names, parts["train"], shape, seed))
    try:
        for member, tower in enumerate(network.each()):
            _train(tower, codes, table, parts, shape, (seed, member), epochs, quiet, keep)
        _set_gate(network, middle(codes[parts["valid"]], length), table[parts["valid"]])
    finally:
        torch.random.set_rng_state(before)
    encoder = TrainedEncoder(network)
    encoder.report = make_report(encoder, middle(codes, length), table, names, parts, task, seed)
    encoder.report["training"] = {"seed": seed, "epochs": epochs, **apart}
    return encoder


def split_rows(
    rows: int, targets: NDArray[np.float64], groups: NDArray[np.str_], valid: set[str], test: set[str]
) -> dict[str, NDArray[np.int64]]:
    """Rows of train, valid and test by chromosome.

    Raises
    ------
    ConfigError, DataError
        As of ``fit_encoder``.
    """
    if not (rows == len(targets) == len(groups)):
        raise DataError(f"{rows} windows, {len(targets)} targets and {len(groups)} groups: expected one of each a row.")
    if both := valid & test:
        raise ConfigError(f"{', '.join(sorted(both))} cannot both stop the training and test it. Choose others.")
    if missing := (valid | test) - set(groups.tolist()):
        raise ConfigError(f"No row lies on {', '.join(sorted(missing))}. Known: {', '.join(sorted(set(groups)))}.")
    parts = {
        "valid": np.flatnonzero(np.isin(groups, sorted(valid))),
        "test": np.flatnonzero(np.isin(groups, sorted(test))),
        "train": np.flatnonzero(~np.isin(groups, sorted(valid | test))),
    }
    if len(parts["train"]) < 20 or not len(parts["valid"]):
        raise DataError(
            f"{len(parts['train'])} rows to train on and {len(parts['valid'])} to stop by; expected at least 20 and 1. "
            "Name other chromosomes as valid and test."
        )
    return parts


def middle(codes: NDArray[np.uint8], length: int, shift: int = 0) -> NDArray[np.uint8]:
    """Middle ``length`` bases of windows, moved by ``shift``; unknown where a window does not reach."""
    first = (codes.shape[1] - length) // 2 + shift
    out = np.full((len(codes), length), UNKNOWN, dtype=np.uint8)
    low, high = max(first, 0), min(first + length, codes.shape[1])
    out[:, low - first : high - first] = codes[:, low:high]
    return out


def indicators(codes: NDArray[np.uint8]) -> Tensor:
    """Indicators ``(n, 4, L)`` of codes, as ``genome.sequence.one_hot`` gives them."""
    table = torch.cat([torch.eye(4), torch.zeros(1, 4)])
    return table[torch.from_numpy(codes.astype(np.int64))].transpose(1, 2).contiguous()


def load_start(network: SequenceNet, machine: SpectrumMachine) -> None:
    """Put a fitted machine into a network; tables are rounded to what is stored."""
    values = {
        "table": machine.spectrum.table,
        "middle": machine.spectrum.middle,
        "centres": machine.centres,
        "weights": machine.weights,
        "bias": machine.bias,
    }
    for name, value in values.items():
        tensor = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
        getattr(network.start, name).copy_(tensor.half().float() if f"start.{name}" in HALVES else tensor)


def _sizes(given: dict[str, Any], length: int, bases: int, tasks: int, task: Task, rows: int) -> SequenceSizes:
    if length > bases:
        raise DataError(f"length={length} is more than the windows have ({bases}). Cut longer windows.")
    sizes = SequenceSizes.parse({**given, "length": length, "tasks": tasks, "task": task})
    centres = min(sizes.centres, rows)
    return sizes.model_copy(update={"centres": centres, "axes": min(sizes.axes, centres - 1)})


def _start(
    codes: NDArray[np.uint8],
    targets: NDArray[np.float64],
    groups: NDArray[np.str_],
    rows: NDArray[np.int64],
    sizes: SequenceSizes,
    seed: int,
) -> SpectrumMachine:
    """The closed form of the training rows, padded to the shape of the network."""
    options = {"k": sizes.k, "informative": sizes.informative, "axes": sizes.axes, "landmarks": sizes.centres}
    spectrum, landmarks = fit_spectrum(codes, seed=seed, **options)
    spectrum = spectrum.padded(sizes.axes)
    axes = spectrum.transform(codes)
    machine, _ = fit_machine(axes, targets[rows], groups[rows], spectrum, landmarks, task=sizes.task, gamma=sizes.gamma)
    return machine.padded(sizes.centres)


@torch.no_grad()
def _set_gate(network: SequenceNet, codes: NDArray[np.uint8], targets: NDArray[np.float64]) -> None:
    """How much of the start and of the towers is kept: a small regression on the validation chromosomes.

    Neither gets a negative share. Where a target has one class there, nothing can be said, and both get a half.
    """
    network.eval()
    start, towers = [], []
    for first in range(0, len(codes), 256):
        x = indicators(codes[first : first + 256])
        start.append(network.start.answers(network.start.axes(x)).numpy())
        heads = [tower.head(tower(x)).numpy() for tower in network.each()]
        towers.append(np.mean(heads, axis=0) if heads else np.zeros_like(start[-1]))
    parts = np.stack([np.concatenate(start), np.concatenate(towers)])
    for task in range(targets.shape[1]):
        network.gate[:, task] = torch.tensor(gate_of(parts[:, :, task].T, targets[:, task], network.sizes.task))
    if not network.each():
        network.gate.copy_(torch.tensor([[1.0], [1.0], [0.0]]).expand_as(network.gate))


def gate_of(scores: NDArray[np.floating], target: NDArray[np.floating], task: Task) -> list[float]:
    """Shares of two predictions ``(n, 2)`` and a constant that fit a target best, no share below zero.

    The penalty pulls towards a half of each, as strongly as ten rows of either.
    """
    from scipy.optimize import minimize

    if np.ptp(target) == 0:
        return [0.5, 0.5, 0.0]
    x, y = scores.astype(np.float64), np.log1p(target) if task == "count" else target
    spread = np.maximum(x.std(axis=0), 1e-9)

    def loss(gate: NDArray[np.float64]) -> float:
        answer = x @ gate[:2] + gate[2]
        fit = np.logaddexp(0, answer) - y * answer if task == "binary" else (answer - y) ** 2
        return float(fit.sum() + 10 * (((gate[:2] - 0.5) * spread) ** 2).sum())

    found = minimize(loss, np.array([0.5, 0.5, 0.0]), bounds=[(0, None), (0, None), (None, None)], method="L-BFGS-B")
    return [float(value) for value in found.x]


def _loss(answers: Tensor, targets: Tensor, task: Task) -> Tensor:
    if task == "binary":
        return F.binary_cross_entropy_with_logits(answers, targets)
    return F.mse_loss(answers, torch.log1p(targets))


def _train(
    tower: SequenceTower,
    codes: NDArray[np.uint8],
    targets: NDArray[np.float64],
    parts: dict[str, NDArray[np.int64]],
    sizes: SequenceSizes,
    key: tuple[int, int],
    epochs: int,
    quiet: bool,
    keep: Path | None,
) -> None:
    """Train one tower; it ends as the validation chromosomes liked it best."""
    rng = np.random.default_rng(key)
    torch.manual_seed(int(rng.integers(2**62)))
    fresh = SequenceTower(sizes).state_dict()
    tower.load_state_dict(fresh)
    y = torch.from_numpy(targets[parts["train"]]).float()
    train, steps = parts["train"], max(1, len(parts["train"]) // BATCH)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=epochs * steps, pct_start=0.15)
    best, kept, since = _validation(tower, codes, targets, parts, sizes), copy.deepcopy(fresh), 0
    state = {"tower": tower, "optimiser": optimiser, "schedule": schedule}
    told = digest_of(codes, targets, *parts.values(), sizes, key, epochs)
    path = None if keep is None else keep / f"{told}.pt"
    first = 0
    if (found := kept_state(path, rng, ("epochs", "best", "kept", "since"), **state)) is not None:
        first, best, kept, since = found["epochs"], found["best"], found["kept"], found["since"]
    with Meter(f"training tower {key[1] + 1} of {sizes.members}", "windows", quiet) as meter:
        for epoch in range(first, epochs):
            if since >= PATIENCE:
                break
            tower.train()
            order = rng.permutation(len(train))
            for step in range(steps):
                rows = order[step * BATCH : (step + 1) * BATCH]
                shift = int(rng.integers(-SHIFT, SHIFT + 1))
                x = indicators(middle(codes[train[rows]], sizes.length, shift))
                turned = torch.from_numpy(rng.random(len(rows)) < 0.5)
                x[turned] = x[turned].flip(1, 2)
                loss = _loss(tower.head(tower.strand(x)), y[rows], sizes.task)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                meter.advance(epoch * steps + step + 1, epochs * steps, (epoch * steps + step + 1) * BATCH)
            score = _validation(tower, codes, targets, parts, sizes)
            since += 1
            if score < best and math.isfinite(score):
                best, kept, since = score, copy.deepcopy(tower.state_dict()), 0
            keep_state(path, rng, **state, epochs=epoch + 1, best=best, kept=kept, since=since)
    tower.load_state_dict(kept)
    tower.eval()


@torch.no_grad()
def _validation(
    tower: SequenceTower,
    codes: NDArray[np.uint8],
    targets: NDArray[np.float64],
    parts: dict[str, NDArray[np.int64]],
    sizes: SequenceSizes,
) -> float:
    """Mean loss on the validation chromosomes."""
    tower.eval()
    windows = middle(codes[parts["valid"]], sizes.length)
    answers = [tower.head(tower(indicators(windows[at : at + 256]))) for at in range(0, len(windows), 256)]
    y = torch.from_numpy(targets[parts["valid"]]).float()
    return float(_loss(torch.cat(answers), y, sizes.task))
