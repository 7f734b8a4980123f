"""Search of a million vectors of 256 numbers: exact ways, a guess ranked again, and faiss; speed, recall, memory.

    OMP_NUM_THREADS=1 python benchmarks/vector_index.py [--count 1000000] [--width 256] [--rounds 7] [--folder DIR]
        [--case random|clustered] [--without hnsw]

``random`` vectors are uniform on the sphere; ``clustered`` ones lie around 2,000 centres of very unequal sizes (cosine
to their centre about 0.9, to each other 0.8). A query is a stored vector with noise (cosine 0.95). Truth is the exact
answer among vectors stored as float32, ties by row; recall@10 is over 320 queries. Times are medians over rounds, new
queries each, files in the system's cache; ways take turns. "cold" is one query after the system was asked to drop the
files, which the machine below may keep. Memory is what is not mapped from a file, beyond what was held before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from syncyte.data.vector_scan import Best, score_pairs
from syncyte.data.vectors import VectorIndex

TOP, BLOCK, CHECKED = 10, 1024, 320
Way = Callable[[np.ndarray], np.ndarray]  # queries (q, d) of length one to rows (q, TOP)


def simulate(case: str, count: int, width: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((2000, width), dtype=np.float32)
    sizes = generator.dirichlet(np.full(len(centres), 0.5))
    for start in range(0, count, 50_000):
        noise = generator.standard_normal((min(50_000, count - start), width), dtype=np.float32)
        yield noise if case == "random" else centres[generator.choice(len(centres), len(noise), p=sizes)] + 0.5 * noise


def ask(index: VectorIndex, count: int, seed: int) -> np.ndarray:
    """Stored vectors with noise, of length one."""
    generator = np.random.default_rng([1, seed])
    rows = generator.integers(0, len(index), count)
    noise = generator.standard_normal((count, index.width)) / index.width**0.5
    found = index.vectors[rows] + 0.33 * noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def plain(vectors: np.ndarray) -> Way:
    """All vectors as float32, block by block, and the best so far: no bounds, scores as they come."""

    def way(queries: np.ndarray) -> np.ndarray:
        best, turned = Best(len(queries), TOP), np.ascontiguousarray(queries.T)
        for start in range(0, len(vectors), BLOCK):
            score = np.asarray(vectors[start : start + BLOCK], dtype=np.float32) @ turned
            keep(best, score, start)
        return best.result()[0]

    return way


def ranked_again(index: VectorIndex, factor: int) -> Way:
    """The ``factor * TOP`` best by codes alone, ranked again by their vectors."""

    def way(queries: np.ndarray) -> np.ndarray:
        first, turned = Best(len(queries), factor * TOP), np.ascontiguousarray(queries.T)
        for start in range(0, len(index), BLOCK):
            score = index.codes[start : start + BLOCK].astype(np.float32) @ turned
            score *= index.bounds[start : start + BLOCK, :1]
            keep(first, score, start)
        rows = first.result()[0]
        query, row = np.repeat(np.arange(len(rows)), rows.shape[1]), rows.ravel()
        last = Best(len(rows), TOP)
        last.add(query, row, score_pairs(index.vectors, queries, query, row))
        return last.result()[0]

    return way


def keep(best: Best, score: np.ndarray, start: int) -> None:
    pairs = np.flatnonzero(score > best.floor)
    if len(pairs):
        row, query = np.divmod(pairs, score.shape[1])
        best.add(query, row + start, score.ravel()[pairs])


def flat(index: VectorIndex) -> Way:
    """faiss without an approximation: all vectors as float32 in memory."""
    import faiss

    peer = faiss.IndexFlatIP(index.width)
    for start in range(0, len(index), 50_000):
        peer.add(np.asarray(index.vectors[start : start + 50_000], dtype=np.float32))
    return lambda queries: peer.search(queries, TOP)[1]


def watched(call: Callable) -> tuple[object, float, float]:
    """Result, seconds, and peak of memory not mapped from files, in GB beyond that before."""
    before, peak, stop = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - started
    peak[0] = max(peak[0], anonymous())
    stop.set()
    watcher.join()
    return result, seconds, max(peak[0] - before, 0)


def anonymous() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e6
    return float("nan")


def forget(folder: Path) -> None:
    """Ask the kernel to drop clean pages of the files."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size(folder: Path, *names: str) -> float:
    return sum((folder / name).stat().st_size for name in names) / 1e6


def approximate(index: VectorIndex) -> Way:
    return lambda queries: index.search(queries, TOP, exact=False)[0]


def build(folder: Path, options: argparse.Namespace, case: str) -> tuple[VectorIndex, VectorIndex, dict, dict]:
    """Indexes of both types, ways to search, and what each costs: s and GB of building, MB read, GB held."""
    made, ways, costs = {}, {}, {}
    for dtype in ("float16", "float32"):
        vectors = simulate(case, options.count, options.width)
        names = map("cell{}".format, range(options.count))
        call = lambda: VectorIndex.build(vectors, names, folder / dtype, dtype=dtype)  # noqa: B023, E731
        made[dtype], seconds, memory = watched(call)
        costs[f"VectorIndex, {dtype}"] = [seconds, memory, size(folder / dtype, "codes.npy", "bounds.npy"), 0.0]
        costs[f"plain scan, {dtype}"] = [0.0, 0.0, size(folder / dtype, "vectors.npy"), 0.0]
        ways[f"VectorIndex, {dtype}"] = lambda queries, index=made[dtype]: index.search(queries, TOP)[0]
        ways[f"plain scan, {dtype}"] = plain(made[dtype].vectors)
    half = made["float16"]
    ways["codes, 10 times as many ranked again"] = ranked_again(half, 10)
    costs["codes, 10 times as many ranked again"] = costs["VectorIndex, float16"]
    if find_spec("faiss") is None:
        print("faiss is not installed and is left out.")
        return half, made["float32"], ways, costs
    ways["faiss flat"], seconds, held = watched(lambda: flat(half))
    costs["faiss flat"] = [seconds, held, 0.0, held]
    for kind in ("ivf", "hnsw"):
        if kind in options.without:
            continue
        again, seconds, memory = watched(lambda: half.with_faiss(kind))  # noqa: B023
        _, opened, held = watched(lambda: again.search(ask(half, 1, 0), TOP, exact=False))  # noqa: B023
        print(f"faiss {kind}: built in {seconds:.0f} s, read and checked in {opened:.1f} s", flush=True)
        ways[f"with_faiss, {kind}"] = approximate(again)
        costs[f"with_faiss, {kind}"] = [seconds, memory, size(half.folder, "faiss.index"), held]
    return half, made["float32"], ways, costs


def compare(folder: Path, options: argparse.Namespace, case: str) -> None:
    half, single, ways, costs = build(folder, options, case)
    asked = ask(single, CHECKED, 0)
    truth = single.search(asked, TOP)[0]
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(options.rounds):
        for count in (1, 32):
            queries = ask(single, count, turn + 1)
            for name, way in ways.items():
                started = time.perf_counter()
                way(queries)
                times.setdefault((name, count), []).append(time.perf_counter() - started)
    print(f"\n{case}: {options.count:,} x {options.width}\n")
    columns = ["way", "1 query, s", "queries/s", "32 queries, s", "queries/s", "cold 1, s", "recall@10", "read, MB"]
    columns += ["memory of a search, GB", "held, GB", "built, s", "memory of building, GB"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, way in ways.items():
        found, _, memory = watched(lambda: way(asked[:32]))  # noqa: B023
        found = np.concatenate([way(asked[start : start + 32]) for start in range(0, CHECKED, 32)])
        recall = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(truth, found)])
        one, many = (statistics.median(times[name, count]) for count in (1, 32))
        cold = "" if "faiss" in name else f"{cold_start(half.folder, single.folder, way, asked):.2f}"
        built, most, read, held = costs[name]
        row = [name, f"{one:.3f}", f"{1 / one:.1f}", f"{many:.3f}", f"{32 / many:.0f}", cold, f"{recall:.4f}"]
        row += [f"{read:,.0f}" if read else "", f"{memory:.3f}", f"{held:.2f}"]
        print(f"| {' | '.join([*row, *([f'{built:.0f}', f'{most:.2f}'] if built else ['', ''])])} |", flush=True)
    disk = [
        sum(path.stat().st_size for path in index.folder.iterdir() if path.suffix == ".npy") for index in (half, single)
    ]
    moved = np.abs(half.search(asked, TOP)[1] - single.search(asked, TOP)[1])
    print(
        f"\nOn disk without faiss: {disk[0] / 1e6:,.0f} MB (float16), {disk[1] / 1e6:,.0f} MB (float32). float16 moves"
    )
    print(f"the ten best scores by {moved.mean():.1e} on average, {moved.max():.1e} at most.")
    print(f"Mean loss of the codes {half.bounds[:, 1].mean():.4f}.")
    started = time.perf_counter()
    VectorIndex.open(half.folder)
    opened = time.perf_counter()
    print(
        f"Opened in {opened - started:.4f} s, {len(half.names):,} names read in {time.perf_counter() - opened:.2f} s."
    )


def cold_start(half: Path, single: Path, way: Way, asked: np.ndarray) -> float:
    forget(half)
    forget(single)
    started = time.perf_counter()
    way(asked[:1])
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("count", 1_000_000), ("width", 256), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", action="append", choices=["random", "clustered"])
    parser.add_argument("--without", action="append", default=[], choices=["hnsw", "ivf"])
    options = parser.parse_args()
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, {os.cpu_count()} cores")
    for case in options.case or ["random", "clustered"]:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            compare(Path(folder), options, case)


if __name__ == "__main__":
    main()
