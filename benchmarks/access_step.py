"""One training step at 1.2 million regions: the published layout against ours at equal width and layers.

    OMP_NUM_THREADS=2 python benchmarks/access_step.py --chrom-sizes hg38.chrom.sizes [--width 64] [--layers 2]

Simulated cells of about 1,500 open regions. The published layout is dense (1,998 patches of 600 slots, full attention
over 2,000 tokens, 15 % of the patches hidden); ours hides 30 % of the regions and learns from open and sampled ones. A
step is forward, backward and optimiser; minibatches are in memory. Arms alternate, medians of cells a second are
printed. Weights are random: this is about time.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from access_scale import simulated

from syncyte.data.cells import Cells
from syncyte.data.load import predict_batches
from syncyte.modalities import Tokenizer, modalities
from syncyte.models.assemble import CellSpec, empty_model
from syncyte.objectives.masked import Augmented
from syncyte.objectives.regions import MaskedRegions, MaskedSlots
from syncyte.train.optim import make_optimizer
from syncyte.train.plan import StageConfig
from syncyte.train.rows import clip_gradients

COMPONENTS = 50


def arm(cells: Cells, given: argparse.Namespace, kind: str, patches: int, batch: int) -> Callable[[int], int]:
    """A function that takes one step and gives the number of cells in it."""
    published = kind == "published"
    layout = modalities["atac"].layout(
        cells.part("atac").var, tokens=patches, groups=patches, slots=600 if published else 0
    )
    features = len(layout.token_of)
    shape = {"features": features, "components": COMPONENTS, "nodes": 9, "likelihood": "profile", "samples": 4096,
             "tied": True}  # fmt: skip
    sizes = {"width": given.width, "layers": given.layers if kind != "no attention" else 0, "heads": 4, "hidden": 128}
    spec = CellSpec.parse({"modalities": {"atac": shape}, "components": COMPONENTS, "published": published, **sizes})
    torch.manual_seed(0)
    model = empty_model(spec, {"atac": layout})
    path, head = model.paths["atac"], model.heads["atac"]
    with torch.no_grad():
        path.table.normal_(std=0.01)
        path.zero.uniform_(-1e-3, -1e-4)
        path.nodes.copy_(torch.tensor([0.0, 1, 2, 4, 7, 10, 14, 20, 1e6]))
    train_table = kind == "table learns"
    for parameter in [path.table, *head.parameters()]:
        parameter.requires_grad_(train_table and parameter is path.table)
    objective = MaskedSlots("atac", ratio=0.15) if published else MaskedRegions(
        "atac", ratio=0.3, whole=0.5, augmented=Augmented({"atac": 0.1}, {}))  # fmt: skip
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = make_optimizer(learned, StageConfig(name="step", objectives={"regions": 1.0}, lr=1e-4))
    tokenizer = Tokenizer(layout, np.full(features, 1 / features, dtype=np.float32))
    batches = list(predict_batches(cells.take(np.arange(4 * batch)), {"atac": tokenizer}, batch))
    model.train()

    def step(number: int) -> int:
        work = batches[number % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        objective(model, work, torch.Generator().manual_seed(number)).total.backward()
        clip_gradients(learned.values(), 1.0)
        optimizer.step()
        return len(work)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chrom-sizes", type=Path, required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    cells = simulated(given.chrom_sizes, 4096)
    arms = {
        "published layout": arm(cells, given, "published", 1998, 8),
        "ours, 2,000 patches, empty ones dropped": arm(cells, given, "plain", 2000, 32),
        "ours, 512 patches": arm(cells, given, "plain", 512, 64),
        "ours, 96 patches": arm(cells, given, "plain", 96, 128),
        "ours, 96 patches, the table learns": arm(cells, given, "table learns", 96, 128),
        "ours, no attention": arm(cells, given, "no attention", 96, 128),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for step in arms.values():
        step(0)
    for _ in range(given.rounds):
        for name, step in arms.items():
            done, number, began = 0, 1, time.perf_counter()
            while time.perf_counter() - began < given.seconds:
                done += step(number)
                number += 1
            rates[name].append(done / (time.perf_counter() - began))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(f"`{shlex.join(['python', *sys.argv])}`\n")
    print(f"Width {given.width}, {given.layers} layers, {torch.get_num_threads()} threads.\n")
    print("| training step | cells a second | times the published layout |\n| --- | --- | --- |")
    for name, value in middle.items():
        print(f"| {name} | {value:.1f} | {value / middle['published layout']:.1f} |")


if __name__ == "__main__":
    main()
