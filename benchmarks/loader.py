"""Shuffled minibatches of 256 cells: the store, plain and packed, against a backed .h5ad read through anndata.

    python benchmarks/loader.py [--cells 100000] [--features 20000] [--nonzeros 1500] [--folder DIR]

Synthetic counts, one thread, every arm cut at a few seconds (--seconds), arms alternate, medians are printed. "cold"
asks the kernel to drop the file from its cache first. MB/s are cells a second times the bytes of a cell in the files
that are read, so that an arm compares with the sequential read of the same bytes. Sums are compared first, and a whole
epoch of the packed store must give every cell exactly once.
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
    cells = open_store(store)  # not timed: it is done once, and told apart

    def arm(seed: int) -> Iterator[int]:
        rows = storage_order([cells.part("counts").index])
        for rows_read, batches in BlockSampler(rows, BATCH, block=block, fetch=fetch, seed=seed).fetches():
            counts = cells.counts("counts", rows_read)
            for positions in batches:
                yield counts[positions].shape[0]
            del counts

    return arm


def every_cell_once(store: Path, cells: int) -> None:
    """An epoch gives each cell once, with its own counts."""
    opened = open_store(store)
    rows = storage_order([opened.part("counts").index])
    seen = np.zeros(cells, dtype=np.int64)
    for rows_read, batches in BlockSampler(rows, BATCH).fetches():
        for positions in batches:
            seen[rows_read[positions]] += 1
    assert (seen == 1).all(), "an epoch does not give every cell once"


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


def measure(arm: Arm, seed: int, seconds: float) -> tuple[float, float, float]:
    """Cells a second and a CPU-second, and peak extra memory in GB."""
    process = psutil.Process()
    before, peak, stop = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, used, done = time.perf_counter(), time.process_time(), 0
    for count in arm(seed):
        done += count
        if time.perf_counter() - started > seconds:
            break
    rate, busy = done / (time.perf_counter() - started), done / (time.process_time() - used)
    stop.set()
    watcher.join()
    return rate, busy, max(peak[0] - before, 0) / 1e9


def write_all(options: argparse.Namespace, folder: Path) -> tuple[Path, dict[str, Path]]:
    """Write the same counts as a plain file and as both kinds of store; compare what they hold."""
    matrix = simulate(options.cells, options.features, options.nonzeros)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(options.cells)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(options.features)])
    ad.AnnData(matrix, obs=obs, var=var).write_h5ad(folder / "plain.h5ad")
    expected = float(matrix.sum(dtype=np.float64))
    sample = np.random.default_rng(1).choice(options.cells, 1000, replace=False)
    stores = {}
    for name in ("store", "packed"):
        cells = Cells(obs, {"counts": Part(MemoryRows(matrix), np.arange(options.cells), var)})
        started = time.perf_counter()
        stores[name] = write_store(cells, folder / name, compact=name == "packed")
        print(f"{name} written in {time.perf_counter() - started:.1f} s from memory, ", end="")
        opened = open_store(stores[name], verify=True)
        found = sum(float(block.sum(dtype=np.float64)) for _, block in opened.blocks("counts"))
        assert found == expected, "the store holds other counts than were written"
        assert (opened.counts("counts", sample) != matrix[sample]).nnz == 0, "a cell has other counts than it was given"
        every_cell_once(stores[name], options.cells)
        started = time.perf_counter()
        open_store(stores[name])
        print(f"opened in {time.perf_counter() - started:.2f} s")
    print(f"{matrix.nnz / options.cells:,.0f} non-zeros a cell")
    return folder / "plain.h5ad", stores


def arms_of(options: argparse.Namespace, plain: Path, stores: dict[str, Path]) -> dict[str, tuple[Arm, list[Path]]]:
    """Each way of reading, and the files it reads."""
    arms: dict[str, tuple[Arm, list[Path]]] = {}
    for name, store in stores.items():
        shards = sorted((store / "shards").iterdir())
        arms[f"{name}: its bytes in sequence"] = (sequential(shards, options.cells), shards)
        for block in (64, 16, 1):
            arms[f"{name}, block {block}, fetch 64"] = (from_store(store, block, 64), shards)
    if options.features <= 100_000:  # dense minibatches of a million columns fit no memory
        arms["AnnLoader, shuffle (densifies)"] = (from_annloader(plain), [plain])
    arms["anndata backed, X[sorted 256]"] = (from_backed(plain), [plain])
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cells", 100_000), ("features", 20_000), ("nonzeros", 1_500), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        plain, stores = write_all(options, Path(folder))
        arms = arms_of(options, plain, stores)
        bytes_of = {
            name: sum(file.stat().st_size for file in files) / options.cells for name, (_, files) in arms.items()
        }
        results: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
        for seed in range(options.rounds):
            for cold in (True, False):
                for name, (arm, files) in arms.items():
                    if cold:
                        forget(files)
                    results.setdefault((name, cold), []).append(measure(arm, seed, options.seconds))
        heads = (
            "way",
            "bytes a cell",
            "warm, k cells/s",
            "by CPU",
            "cold, k cells/s",
            "cold, MB/s",
            "extra memory, GB",
        )
        print("| " + " | ".join(heads) + " |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name in arms:
            warm, cold = (statistics.median(rate for rate, *_ in results[name, flag]) / 1e3 for flag in (False, True))
            busy = statistics.median(rate for _, rate, _ in results[name, False]) / 1e3
            memory = max(extra for flag in (False, True) for *_, extra in results[name, flag])
            speed = cold * bytes_of[name] / 1e3
            rates = f"{warm:.1f} | {busy:.1f} | {cold:.1f} | {speed:,.0f}"
            print(f"| {name} | {bytes_of[name]:,.0f} | {rates} | {memory:.2f} |")


if __name__ == "__main__":
    main()
