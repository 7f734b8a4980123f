"""Shuffled minibatches of 256 cells: compact and plain store against a backed .h5ad read through anndata.

    python benchmarks/loader.py [--cells 100000] [--nonzeros 1500] [--folder DIR]
        [--case 20000:0.6] [--case 1200000:0.6] [--case 1200000:0.95]
    python benchmarks/loader.py --sizes DATA/a.h5ad DATA/b.h5mu

A case is features:share of ones. Synthetic counts at random columns, one thread, every arm cut at a few seconds, arms
alternate, medians are printed. "cold" asks the kernel to drop the file from its cache first. Before that, an epoch of
either store is passed through whole: every cell must come once, with the counts that were written. ``--sizes`` packs
the counts of given files and says how many bits they take, as they are and with their features spread at random over
1.2 million.
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
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.load import held
from syncyte.data.packed import pack_rows
from syncyte.data.sample import BlockSampler, storage_order
from syncyte.data.store import open_store, write_store

BATCH = 256
MANY = 1_200_000
Arm = Callable[[int], Iterator[int]]


def simulate(cells: int, features: int, nonzeros: int, ones: float = 0.6) -> sp.csr_matrix:
    """Counts with about ``nonzeros`` entries a row, mostly 1 to 3."""
    generator = np.random.default_rng(0)
    data, indices, lengths = [], [], []
    for start in range(0, cells, 4096):
        size = min(4096, cells - start)
        columns = np.sort(generator.integers(0, features, (size, nonzeros), dtype=np.int32), axis=1)
        keep = np.diff(columns, axis=1, prepend=-1) > 0
        data.append(generator.geometric(ones, int(keep.sum())).astype(np.float32))
        indices.append(columns[keep])
        lengths.append(keep.sum(1))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)
    return sp.csr_matrix((np.concatenate(data), np.concatenate(indices), indptr), shape=(cells, features))


def names_of(features: int) -> pd.Index:
    """Genes, or bins of 2,500 bp where there are many."""
    if features < 100_000:
        return pd.Index([f"g{i}" for i in range(features)])
    share = -(-features // 24)
    places = ((i // share + 1, i % share * 2500) for i in range(features))
    return pd.Index([f"chr{chrom}:{start}-{start + 2500}" for chrom, start in places])


def from_store(store: Path, block: int, fetch: int) -> Arm:
    cells = open_store(store)

    def arm(seed: int) -> Iterator[int]:
        for rows, counts in minibatches(cells, block, fetch, seed):
            assert counts.shape[0] == len(rows)
            yield len(rows)

    return arm


def minibatches(cells: Cells, block: int, fetch: int, seed: int) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
    """As ``syncyte.data.load`` makes them."""
    rows = storage_order([cells.part("counts").index])
    fetches = BlockSampler(rows, BATCH, block=block, fetch=fetch, seed=seed).fetches()
    for read, batches, counts in held(cells, ["counts"], fetches):
        for positions in batches:
            yield read[positions], counts["counts"][positions]
        del counts


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
    total = sum(file.stat().st_size for file in files)

    def arm(seed: int) -> Iterator[int]:
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
    """Cells a second, CPU microseconds a cell (reading ahead included), and peak extra memory in GB."""
    process = psutil.Process()
    before, peak, stop = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, used, done = time.perf_counter(), time.process_time(), 0.0
    for count in arm(seed):
        done += count
        if time.perf_counter() - started > seconds:
            break
    rate, used = done / (time.perf_counter() - started), (time.process_time() - used) / done * 1e6
    stop.set()
    watcher.join()
    return rate, used, max(peak[0] - before, 0) / 1e9


def check_once(store: Path, sums: np.ndarray, weights: np.ndarray) -> None:
    """Every cell comes once in an epoch, with its counts: their sum, and their sum weighted by column."""
    seen = np.zeros(len(sums), dtype=int)
    for rows, counts in minibatches(open_store(store), 16, 64, 1):
        seen[rows] += 1
        found = np.stack([counts @ np.ones(len(weights)), counts @ weights], axis=1)
        assert np.array_equal(found, sums[rows]), "cells came with other counts than were written"
    assert (seen == 1).all(), "cells were left out or came twice"


def written(folder: Path, options: argparse.Namespace, features: int, ones: float) -> dict[str, Path]:
    """The same cells in three forms, checked; says how long writing and opening take."""
    matrix = simulate(options.cells, features, options.nonzeros, ones)
    weights = np.random.default_rng(1).integers(0, 1000, features).astype(float)
    sums = np.stack([matrix @ np.ones(features), matrix @ weights], axis=1)
    obs, var = pd.DataFrame(index=[f"c{i}" for i in range(options.cells)]), pd.DataFrame(index=names_of(features))
    paths = {"h5ad": folder / "plain.h5ad", "plain": folder / "plain", "compact": folder / "compact"}
    ad.AnnData(matrix, obs=obs, var=var).write_h5ad(paths["h5ad"])
    cells = Cells(obs, {"counts": Part(MemoryRows(matrix), np.arange(options.cells), var)})
    write_store(cells.take(np.arange(10)), folder / "warm", compact=True)  # compiles the loops, or loads them
    print(
        f"\n{matrix.nnz / options.cells:,.0f} of {features:,} features a cell, {np.mean(matrix.data == 1):.0%} ones\n"
    )
    print("| store | kB a cell | written, s | opened, s | every cell once |\n|---|---|---|---|---|")
    for name in ("plain", "compact"):
        started = time.perf_counter()
        write_store(cells, paths[name], compact=name == "compact")
        made = time.perf_counter()
        open_store(paths[name])
        opened = time.perf_counter()
        check_once(paths[name], sums, weights)
        size = sum(file.stat().st_size for file in (paths[name] / "shards").iterdir()) / options.cells / 1e3
        print(f"| {name} | {size:.2f} | {made - started:.1f} | {opened - made:.2f} | yes |")
    print(f"| .h5ad | {paths['h5ad'].stat().st_size / options.cells / 1e3:.2f} | | | |")
    return paths


def compare(folder: Path, options: argparse.Namespace, features: int, ones: float) -> None:
    """One case: all arms, cold and warm, as a table."""
    paths = written(folder, options, features, ones)
    shards = {name: sorted((paths[name] / "shards").iterdir()) for name in ("plain", "compact")}
    arms: dict[str, tuple[Arm, list[Path]]] = {}
    for name, files in shards.items():
        arms[f"sequential read of the {name} store's bytes"] = (sequential(files, options.cells), files)
        for block in (64, 16, 1):
            arms[f"{name} store, block {block}, fetch 64"] = (from_store(paths[name], block, 64), files)
    arms["anndata backed, X[sorted 256]"] = (from_backed(paths["h5ad"]), [paths["h5ad"]])
    if features < 100_000:  # a dense minibatch of a million columns takes more than a gigabyte
        arms["AnnLoader, shuffle (densifies)"] = (from_annloader(paths["h5ad"]), [paths["h5ad"]])
    results: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
    for seed in range(options.rounds):
        for cold in (True, False):
            for name, (arm, files) in arms.items():
                if cold:
                    forget(files)
                results.setdefault((name, cold), []).append(measure(arm, seed, options.seconds))
    columns = ["way", "warm, k cells/s", "CPU, us a cell", "cold, k cells/s", "cold, MB/s", "extra memory, GB"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, (_, files) in arms.items():
        warm, cold = (statistics.median(rate for rate, _, _ in results[name, flag]) / 1e3 for flag in (False, True))
        used = statistics.median(used for _, used, _ in results[name, False])
        memory = max(extra for flag in (False, True) for _, _, extra in results[name, flag])
        read = cold * sum(file.stat().st_size for file in files) / options.cells / 1e3
        print(f"| {name} | {warm:.1f} | {used:.1f} | {cold:.1f} | {read:.0f} | {memory:.2f} |", flush=True)


def tables(path: Path) -> Iterator[tuple[str, sp.csr_matrix]]:
    if path.suffix == ".h5mu":
        import mudata

        for key, adata in mudata.read_h5mu(path).mod.items():
            yield f"{path.parent.name}, {key}", sp.csr_matrix(adata.X)
    else:
        yield path.parent.name, sp.csr_matrix(ad.read_h5ad(path).X)


def sizes(paths: list[Path]) -> None:
    """Bits that real counts take."""
    print("| counts | non-zeros a cell | ones | bits a non-zero | spread over 1.2 million |\n|---|---|---|---|---|")
    for path in paths:
        for label, matrix in tables(path):
            matrix.sort_indices()
            matrix.eliminate_zeros()
            places = np.sort(np.random.default_rng(0).choice(MANY, matrix.shape[1], replace=False))
            far = sp.csr_matrix((matrix.data, places[matrix.indices], matrix.indptr), shape=(matrix.shape[0], MANY))
            bits = [(8 * words.nbytes) / matrix.nnz for words in (pack_rows(matrix)[0], pack_rows(far)[0])]
            mean, ones = matrix.nnz / matrix.shape[0], np.mean(matrix.data == 1)
            print(f"| {label} ({matrix.shape[1]:,}) | {mean:,.0f} | {ones:.0%} | {bits[0]:.1f} | {bits[1]:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cells", 100_000), ("nonzeros", 1_500), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", action="append", metavar="FEATURES:ONES")
    parser.add_argument("--sizes", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.sizes:
        sizes(options.sizes)
        return
    if find_spec("annbatch") is None:
        print("annbatch is not installed (it asks for Python 3.12) and is left out.")
    for case in options.case or ["20000:0.6", f"{MANY}:0.6", f"{MANY}:0.95"]:
        features, ones = case.split(":")
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            compare(Path(folder), options, int(features), float(ones))


if __name__ == "__main__":
    main()
