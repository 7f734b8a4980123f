"""Shuffled minibatches of 256 cells: the store against a plain backed .h5ad read through anndata.

    python benchmarks/loader.py [--cells 100000] [--features 20000] [--nonzeros 1500] [--folder DIR]

Synthetic counts, one thread, every arm cut at a few seconds, arms alternate, medians are printed. "cold" asks the
kernel to drop the file from its cache first. Every arm draws each cell at most once; sums are compared first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.sample import BlockSampler, storage_order
from syncyte.data.store import open_store, write_store

BATCH = 256
Arm = Callable[[int], Iterator[int]]


def simulate(cells: int, features: int, nonzeros: int) -> sp.csr_matrix:
    """Counts with about ``nonzeros`` entries a row, mostly 1 to 3."""
    generator = np.random.default_rng(0)
    blocks = []
    for start in range(0, cells, 4096):
        size = min(4096, cells - start)
        columns = np.sort(generator.integers(0, features, (size, nonzeros), dtype=np.int32), axis=1)
        keep = np.diff(columns, axis=1, prepend=-1) > 0
        data = generator.geometric(0.6, int(keep.sum())).astype(np.float32)
        indptr = np.concatenate([[0], np.cumsum(keep.sum(1))])
        blocks.append(sp.csr_matrix((data, columns[keep], indptr), shape=(size, features)))
    return sp.vstack(blocks, format="csr")


def from_store(store: Path, block: int, fetch: int) -> Arm:
    def arm(seed: int) -> Iterator[int]:
        cells = open_store(store)
        rows = storage_order([cells.part("counts").index])
        for rows_read, batches in BlockSampler(rows, BATCH, block=block, fetch=fetch, seed=seed).fetches():
            counts = cells.counts("counts", rows_read)
            for positions in batches:
                yield counts[positions].shape[0]
            del counts

    return arm


def from_backed(path: Path) -> Arm:
    def arm(seed: int) -> Iterator[int]:
        matrix = ad.read_h5ad(path, backed="r").X
        order = np.random.default_rng(seed).permutation(matrix.shape[0])
        for start in range(0, len(order), BATCH):
            yield matrix[np.sort(order[start : start + BATCH])].shape[0]

    return arm


def from_annloader(path: Path) -> Arm:
    def arm(seed: int) -> Iterator[int]:
        import torch
        from anndata.experimental import AnnLoader

        torch.manual_seed(seed)
        for batch in AnnLoader(ad.read_h5ad(path, backed="r"), batch_size=BATCH, shuffle=True):
            yield batch.X.shape[0]

    return arm


def sequential(files: list[Path], cells: int) -> Arm:
    def arm(seed: int) -> Iterator[int]:
        total = sum(file.stat().st_size for file in files)
        buffer = bytearray(1 << 22)
        for path in files:
            with path.open("rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    yield got * cells / total

    return arm


def forget(files: list[Path]) -> None:
    """Ask the kernel to drop clean pages of the files."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(arm: Arm, seed: int, seconds: float) -> tuple[float, float]:
    """Cells a second, and peak extra memory in GB."""
    process = psutil.Process()
    before, peak, stop = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, done = time.perf_counter(), 0
    for count in arm(seed):
        done += count
        if time.perf_counter() - started > seconds:
            break
    rate = done / (time.perf_counter() - started)
    stop.set()
    watcher.join()
    return rate, max(peak[0] - before, 0) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cells", 100_000), ("features", 20_000), ("nonzeros", 1_500), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store, plain = Path(folder, "store"), Path(folder, "plain.h5ad")
        matrix = simulate(options.cells, options.features, options.nonzeros)
        obs = pd.DataFrame(index=[f"c{i}" for i in range(options.cells)])
        var = pd.DataFrame(index=[f"g{i}" for i in range(options.features)])
        ad.AnnData(matrix, obs=obs, var=var).write_h5ad(plain)
        started = time.perf_counter()
        write_store(Cells(obs, {"counts": Part(MemoryRows(matrix), np.arange(options.cells), var)}), store)
        seconds = time.perf_counter() - started
        print(f"store written in {seconds:.1f} s from memory, {matrix.nnz / options.cells:,.0f} non-zeros a cell")
        expected = float(matrix.sum(dtype=np.float64))
        del matrix
        shards = sorted((store / "shards").iterdir())
        found = sum(float(block.sum(dtype=np.float64)) for _, block in open_store(store, verify=True).blocks("counts"))
        assert found == expected, "the store holds other counts than were written"
        sizes = {"h5ad": plain.stat().st_size, "store": sum(file.stat().st_size for file in shards)}
        print(", ".join(f"{name} {size / options.cells / 1e3:.1f} kB a cell" for name, size in sizes.items()))
        arms = {
            "sequential read of the store's bytes": (sequential(shards, options.cells), shards),
            "store, block 64, fetch 64": (from_store(store, 64, 64), shards),
            "store, block 16, fetch 64": (from_store(store, 16, 64), shards),
            "store, single cells, fetch 64": (from_store(store, 1, 64), shards),
            "anndata backed, X[sorted 256]": (from_backed(plain), [plain]),
            "AnnLoader, shuffle (densifies)": (from_annloader(plain), [plain]),
        }
        results: dict[tuple[str, bool], list[tuple[float, float]]] = {}
        for seed in range(options.rounds):
            for cold in (True, False):
                for name, (arm, files) in arms.items():
                    if cold:
                        forget(files)
                    results.setdefault((name, cold), []).append(measure(arm, seed, options.seconds))
        print(f"{'way':38s} {'warm, k cells/s':>16s} {'cold, k cells/s':>16s} {'extra memory, GB':>17s}")
        for name in arms:
            warm, cold = (statistics.median(rate for rate, _ in results[name, flag]) / 1e3 for flag in (False, True))
            memory = max(extra for flag in (False, True) for _, extra in results[name, flag])
            print(f"{name:38s} {warm:16.1f} {cold:16.1f} {memory:17.2f}")


if __name__ == "__main__":
    main()
