"""Sampling: what fewer steps cost, and what they save beside an adaptive solver on the same run.

    python benchmarks/sample_speed.py RUN PBMC3K.h5ad [--seed 0] [--cells 4000] [--out FILE.md]

RUN was trained by ``generate.py`` on that seed of the split. Quality is judged by 1-NN accuracy and Wasserstein
distance on halves of the held-out cells (six draws); speed by the latent path alone and with the counts drawn. The
adaptive solver is Dormand and Prince's (SciPy's RK45) at tolerances of 1e-5, the one of the released code. The share of
the machine's own matmul rate is that of the velocity in blocks, by its floating-point operations. Memory is the peak of
a process that writes few and many cells.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from generate import split

from syncyte.data.read import open_cells
from syncyte.metrics.distribution import score_sets
from syncyte.modalities import all_schemas
from syncyte.models.conditions import Shares
from syncyte.tasks.compare_generate import Ground
from syncyte.tasks.draw import BLOCK, TOGETHER, Sampling, coder_of, draw_counts, draw_points, generator_of
from syncyte.tasks.generators import attribute_table, flow_cells
from syncyte.tasks.trained import Trained, load_trained

STEPS = (2, 4, 8, 16, 32, 100)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--hold-out", metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trained = load_trained(options.run, "cpu")
    whole = open_cells(options.data, schemas=all_schemas())
    test = split(whole, options.label_key, options.hold_out, options.seed)
    train, held = trained.align(whole.take(~test)), trained.align(whole.take(test))
    name = trained.modalities[0]
    ground, counts = Ground.fit(train.counts(name), 0), held.counts(name)
    table = attribute_table(trained, held)
    shares = Shares.read(trained.recipe["shares"])
    asked = coder_of(trained).arrays(shares.draw(options.cells, {}, np.random.default_rng(0)))
    rows = {}
    for steps in STEPS:
        how = Sampling(steps=steps)
        scores = []
        for draw in range(6):
            half = np.random.default_rng([0, draw]).permutation(len(held))[: len(held) // 2]
            made = flow_cells(trained, table.iloc[half], how, 101 * draw)
            scores.append(score_sets(ground.place(counts[half]), ground.place(made), scale=ground.scale))
        mean = pd.DataFrame(scores).mean()
        path, whole = timed(trained, asked, how)
        found = {"evaluations": how.evaluations, "latents/s": path, "cells/s": whole}
        rows[f"Heun {steps}"] = found | mean[["one_nn", "w2", "recall", "energy"]].to_dict()
        print(rows[f"Heun {steps}"], flush=True)
    rate, evaluations = adaptive(trained, asked)
    rows["dopri5, 1e-5"] = {"evaluations": evaluations, "latents/s": rate}
    result = pd.DataFrame(rows).T
    gain = result.loc["Heun 8", "latents/s"] / rate
    ratio = evaluations / result.loc["Heun 8", "evaluations"]
    text = "| | " + " | ".join(result.columns) + " |\n" + "|---" * (len(result.columns) + 1) + "|\n"
    for key, row in result.iterrows():
        text += f"| {key} | " + " | ".join("-" if not np.isfinite(v) else f"{v:,.4g}" for v in row) + " |\n"
    text += f"\nHeun 8 is {gain:.1f} times as fast as dopri5 at {ratio:.1f} times fewer evaluations"
    text += f" ({gain / ratio:.2f}).\n"
    text += matmul_share(trained, asked)
    sizes = (1_000, 10_000, 100_000)
    text += f"\nPeak memory of generating {sizes} cells into a file: {[memory(options.run, n) for n in sizes]} MB.\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def timed(trained: Trained, asked: dict[str, np.ndarray], how: Sampling) -> tuple[float, float]:
    """Cells a second of the latent path, and with counts; the better of two."""
    cells, best = len(next(iter(asked.values()))), [np.inf, np.inf]
    for _ in range(2):
        begin = time.perf_counter()
        points = [draw(trained, asked, first, how) for first in range(0, cells, BLOCK)]
        middle = time.perf_counter()
        for number, some in enumerate(points):
            draw_counts(trained, some, (0, number))
        best = [min(best[0], middle - begin), min(best[1], time.perf_counter() - begin)]
    return cells / best[0], cells / best[1]


def draw(trained: Trained, asked: dict[str, np.ndarray], first: int, how: Sampling) -> np.ndarray:
    """Coordinates of one block."""
    some = {name: values[first : first + BLOCK] for name, values in asked.items()}
    return draw_points(trained, some, how, (0, first), cells=len(next(iter(some.values()))))


@torch.inference_mode()
def adaptive(trained: Trained, asked: dict[str, np.ndarray]) -> tuple[float, int]:
    """Latents a second and evaluations of the adaptive solver, block by block."""
    from scipy.integrate import solve_ivp

    model, coder = trained.model, coder_of(trained)
    cells, begin, evaluations = len(next(iter(asked.values()))), time.perf_counter(), 0
    for first in range(0, cells, BLOCK):
        condition = coder.tensors({name: values[first : first + BLOCK] for name, values in asked.items()})
        size = len(next(iter(condition.values())))
        noise = torch.randn(size, model.flow.coordinates, generator=generator_of(torch.device("cpu"), 0, first))

        def velocity(t: float, flat: np.ndarray, size: int = size, condition: dict = condition) -> np.ndarray:
            state = torch.from_numpy(flat.astype(np.float32)).view(size, -1)
            return model.flow(state, torch.full((size,), float(t)), condition).numpy().ravel()

        found = solve_ivp(velocity, (0.0, 1.0), noise.numpy().ravel(), method="RK45", rtol=1e-5, atol=1e-5)
        evaluations = max(evaluations, found.nfev)
    return cells / (time.perf_counter() - begin), evaluations


@torch.inference_mode()
def matmul_share(trained: Trained, asked: dict[str, np.ndarray]) -> str:
    """Rate of the velocity of a block beside a large matrix product."""
    from torch.utils.flop_counter import FlopCounterMode

    condition = coder_of(trained).tensors({name: values[:BLOCK] for name, values in asked.items()})
    size = len(next(iter(condition.values())))
    state, time_ = torch.randn(size, trained.model.flow.coordinates), torch.full((size,), 0.5)
    with FlopCounterMode(display=False) as counter:
        trained.model.flow(state, time_, condition)
    matrix = torch.randn(2048, 2048)
    each = TOGETHER if trained.model.flow.tokens else size
    parts = [slice(first, first + each) for first in range(0, size, each)]
    pieces = [(state[p], time_[p], {key: values[p] for key, values in condition.items()}) for p in parts]
    flow = counter.get_total_flops() / quickest(lambda: [trained.model.flow(*piece) for piece in pieces]) / 1e9
    own = 2 * 2048**3 / quickest(lambda: matrix @ matrix) / 1e9
    return f"\nVelocity {flow:.0f} GFLOP/s, matrix product of 2,048 {own:.0f} GFLOP/s: {flow / own:.2f}.\n"


def quickest(call: Callable[[], object], times: int = 7) -> float:
    """Seconds of the best of some calls."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)


def memory(run: Path, cells: int) -> int:
    """Peak resident memory of a process that generates cells into a file, in MB."""
    code = (
        "import resource, sys; from syncyte.generation import generate; "
        "generate(sys.argv[1], n=int(sys.argv[2]), out=sys.argv[3], quiet=True); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)"
    )
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", code, str(run), str(cells), str(Path(folder) / "made.h5ad")]
        return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
