"""Peaks onto a million regions: the join and the re-aggregation of counts, against numpy, polars-bio and scipy.

    python benchmarks/regions.py --chrom-sizes hg38.chrom.sizes [--peer-python VENV/bin/python] [--out FILE]

Simulated peaks of 500 bp and counts; arms alternate, medians are printed; answers are compared first. Compilation and
the building of indexes (ours, and the sorted keys of the numpy arm) are outside the timings. polars-bio is run by the
interpreter given, in a process that stays; without it the table says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp

from syncyte.data.regroup import Regroup
from syncyte.genome.index import RegionIndex
from syncyte.genome.overlap import map_peaks
from syncyte.genome.reference import Reference, build_reference

PEER = """
import json, sys, time
import polars as pl, polars_bio as pb
frames = [pl.read_csv(path) for path in sys.argv[1:3]]
for frame in frames:
    frame.config_meta.set(coordinate_system_zero_based=True)
print(json.dumps({"version": pb.__version__}), flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    found = pb.overlap(frames[0], frames[1], output_type="polars.DataFrame")
    seconds = time.perf_counter() - began
    check = int((found["peak_1"].cast(pl.Int64) * 31 + found["region_2"].cast(pl.Int64)).sum())
    print(json.dumps({"seconds": seconds, "pairs": len(found), "check": check}), flush=True)
"""


class Peer:
    """polars-bio in a process of its own."""

    def __init__(self, python: str | None, peaks: pd.DataFrame, index: RegionIndex, folder: Path) -> None:
        self.process = None
        self.said = "not run: give --peer-python, an interpreter with polars-bio"
        if python is None:
            return
        regions = index.table()
        regions["region"] = np.arange(len(regions))
        for name, table in (("peaks", peaks.assign(peak=np.arange(len(peaks)))), ("regions", regions)):
            table.assign(chrom=table["chrom"].astype(str)).to_csv(folder / f"{name}.csv", index=False)
        command = [python, "-c", PEER, str(folder / "peaks.csv"), str(folder / "regions.csv")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = self._line()
        self.said = f"polars-bio {first['version']}" if first else "polars-bio did not start"

    def _line(self) -> dict[str, Any] | None:
        assert self.process is not None and self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        self.process = None
        return None

    def ask(self) -> dict[str, Any] | None:
        """Seconds, number of pairs and their checksum; None without the peer."""
        if self.process is None or self.process.stdin is None:
            return None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._line()


def make_peaks(index: RegionIndex, count: int, generator: np.random.Generator) -> pd.DataFrame:
    """Peaks of 500 bp in different bins, in genome order."""
    rows = np.sort(generator.choice(len(index), count, replace=False))
    table = index.table(rows)
    table["start"] += generator.integers(0, int((index.end - index.start).max()), count)
    table["end"] = table["start"] + 500
    return table.sort_values(["chrom", "start"], ignore_index=True)


def make_counts(cells: int, nonzeros: int, peaks: int, generator: np.random.Generator) -> sp.csr_matrix:
    columns = np.empty((cells, nonzeros), dtype=np.int32)
    for row in columns:
        row[:] = np.sort(generator.integers(0, peaks, nonzeros))
    keep = np.diff(columns, axis=1, prepend=-1) > 0
    indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
    data = generator.geometric(0.6, int(indptr[-1])).astype(np.float32)
    return sp.csr_matrix((data, columns[keep], indptr), shape=(cells, peaks))


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, wall and processor seconds."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def extra_memory(run: Callable[[], sp.csr_matrix]) -> float:
    """Peak memory above what was there before, over the size of the result."""
    gc.collect()
    process, peak, stop = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.wait(0.001):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = run()
    peak[0] = max(peak[0], process.memory_info().rss)
    stop.set()
    watcher.join()
    return (peak[0] - before) / (result.data.nbytes + result.indices.nbytes + result.indptr.nbytes)


def join(index: RegionIndex, peaks: pd.DataFrame, peer: Peer, rounds: int) -> list[str]:
    """Rows of the table on finding all pairs of peak and region."""
    chrom = index.chrom_codes() << 32
    left, right = chrom + index.start, chrom + index.end
    code = index.code_of(peaks)
    start, end = (np.ascontiguousarray(peaks[key], dtype=np.int64) for key in ("start", "end"))

    def numpy_arm() -> tuple[np.ndarray, np.ndarray]:
        low = np.searchsorted(right, (code << 32) + start, side="right")
        count = np.searchsorted(left, (code << 32) + end, side="left") - low
        pointer = np.cumsum(count) - count
        return np.repeat(np.arange(len(low)), count), np.arange(count.sum()) - np.repeat(pointer - low, count)

    def our_arm() -> Any:
        return map_peaks(peaks, index, "any")

    def low_high() -> Any:
        return index.touching(code, start, end)

    peak, region = numpy_arm()
    found = our_arm()
    assert np.array_equal(found.target, region) and np.array_equal(
        np.repeat(np.arange(len(code)), np.diff(found.pointer)), peak
    )
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, arm in (("numpy", numpy_arm), ("lookup", low_high), ("whole", our_arm)):
            times.setdefault(name, []).append(timed(arm)[1])
        if answer := peer.ask():
            assert (answer["pairs"], answer["check"]) == (len(peak), int((peak * 31 + region).sum())), "other pairs"
            times.setdefault("peer", []).append(answer["seconds"])
    middle = {name: statistics.median(values) for name, values in times.items()}
    rows = [f"| numpy searchsorted, pairs | {middle['numpy'] * 1e3:.1f} | 1 |"]
    for name, said in (("lookup", "syncyte, first and last region"), ("whole", "syncyte, pairs, bases shared, report")):
        rows.append(f"| {said} | {middle[name] * 1e3:.1f} | {middle['numpy'] / middle[name]:.1f} |")
    if "peer" in middle:
        rows.append(f"| {peer.said}, pairs | {middle['peer'] * 1e3:.1f} | {middle['numpy'] / middle['peer']:.2f} |")
        rows.append(f"| **syncyte (whole) over polars-bio** | | **{middle['peer'] / middle['whole']:.1f}** |")
    else:
        rows.append(f"| polars-bio | {peer.said} | |")
    return ["| join, " + f"{len(peak):,} pairs | ms | times as fast as numpy |", "|---|---:|---:|", *rows]


def tables(index: RegionIndex, peaks: pd.DataFrame, generator: np.random.Generator) -> dict[str, Regroup]:
    """The moves that are timed, by name."""
    orders = {"": np.arange(len(peaks))}
    code = peaks["chrom"].cat.codes.to_numpy()
    chroms = generator.permutation(code.max() + 1)
    orders[", chromosomes in another order"] = np.argsort(np.argsort(chroms)[code], kind="stable")
    orders[", peaks shuffled"] = generator.permutation(len(peaks))
    made = {}
    for rule in ("any", "largest"):
        for order, rows in orders.items():
            found = map_peaks(peaks.iloc[rows].reset_index(drop=True), index, rule)
            made[rule + order] = Regroup(found.pointer, found.target, len(index))
    found = map_peaks(peaks, index, "fraction")
    made["fraction, whole counts"] = Regroup(found.pointer, found.target, len(index), found.bases)
    return made


def move(name: str, table: Regroup, counts: sp.csr_matrix, rounds: int) -> str:
    """One row of the table on moving counts."""
    weight = np.ones(len(table.target), dtype=np.float32)
    matrix = sp.csr_matrix((weight, table.target, table.pointer), shape=(counts.shape[1], table.width))
    arms: dict[str, Callable[[], sp.csr_matrix]] = {
        "scipy": lambda: counts @ matrix,
        "one": lambda: table.apply(counts, threads=1),
        "two": lambda: table.apply(counts, threads=2),
        "binary": lambda: table.apply(counts, threads=1, binary=True),
    }
    for arm in ("one", "two", "binary"):  # compile, and touch the memory once
        found = arms[arm]()
        if arm != "binary" and table.bases is None:
            truth = arms["scipy"]()
            truth.sort_indices()
            for key in ("indptr", "indices", "data"):
                assert np.array_equal(getattr(found, key), getattr(truth, key)), f"{name}: other {key}"
            del truth
        elif arm != "binary":
            kept = counts.data[table.kept[counts.indices]].sum(dtype=np.float64)
            assert found.sum(dtype=np.float64) == kept, "counts are not conserved"
    size = found.nnz
    del found
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for arm, run in arms.items():
            times.setdefault(arm, []).append(timed(run)[1:])
    wall = {arm: statistics.median(value[0] for value in values) for arm, values in times.items()}
    cpu = {arm: statistics.median(value[1] for value in values) for arm, values in times.items()}
    memory = extra_memory(arms["two"])
    cells = [f"{size / 1e6:.1f} M", f"{wall['scipy']:.2f}"]
    cells += [f"{wall[arm]:.2f} ({wall['scipy'] / wall[arm]:.1f}x)" for arm in ("one", "two", "binary")]
    cells += [f"{cpu['scipy'] / cpu['one']:.1f}x", f"{memory:.2f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chrom-sizes", type=Path, required=True)
    for name, default in (("bins", 2500), ("peaks", 200_000), ("cells", 10_000), ("nonzeros", 5_000), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peer-python")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        _, build, _ = timed(
            lambda: build_reference(Path(folder, "bins"), bins=options.bins, chrom_sizes=options.chrom_sizes)
        )
        opening = [timed(lambda: Reference.load(Path(folder, "bins")).index) for _ in range(options.rounds)]
        index = opening[0][0]
        peaks = make_peaks(index, options.peaks, generator)
        peer = Peer(options.peer_python, peaks, index, Path(folder))
        lines = join(index, peaks, peer, options.rounds)
    counts = make_counts(options.cells, options.nonzeros, options.peaks, generator)
    head = "| re-aggregation | out | scipy X @ M, s | 1 thread, s | 2 threads, s | open or not, 1 thread |"
    head += " CPU, 1 thread | extra memory / output |"
    rows = [move(name, table, counts, options.rounds) for name, table in tables(index, peaks, generator).items()]
    seconds = statistics.median(item[1] for item in opening)
    words = " ".join(Path(word).name if os.sep in word else word for word in sys.argv[1:] if word != "")
    text = [
        "# Peaks onto a million regions",
        "",
        f"    python benchmarks/regions.py {words}",
        "",
        f"{len(index):,} bins of {options.bins:,} bp (built in {build:.1f} s, opened in {seconds * 1e3:.0f} ms, every "
        f"byte checked), {options.peaks:,} peaks of 500 bp, {options.cells:,} cells, {counts.nnz / 1e6:.1f} M counts. "
        f"Medians of {options.rounds} alternations; ratios are times of the peer over ours. {os.cpu_count()} cores, "
        f"load {os.getloadavg()[1]:.1f} over the last five minutes: other work may have shared the machine. scipy's "
        "result is not sorted, ours is. Answers are equal. Extra memory is the peak above what there was, with 2 "
        "threads.",
        "",
        *lines,
        "",
        head,
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]
    print("\n".join(text))
    if options.out:
        options.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
