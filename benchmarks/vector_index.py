"""Search of a million vectors of 256 numbers: exact ways, a guess ranked again, and faiss; speed, recall, memory.

    OMP_NUM_THREADS=1 python benchmarks/vector_index.py [--count 1000000] [--width 256] [--rounds 7] [--folder DIR]
        [--case random|clustered] [--without hnsw]

``random`` vectors are uniform on the sphere; ``clustered`` ones lie around 2,000 centres of very unequal sizes (cosine
to their centre about 0.9, to each other 0.8). A query is a stored vector with noise (cosine 0.95).

Truth is found without the index's own search: all products in float64 with the vectors stored as float32. recall@10 is
over 320 queries. Times are medians over rounds in one process, new queries each, files in the system's cache; ways take
turns. Building, memory and the cold start have a process of their own each: memory is the peak of what is not mapped
from a file, beyond that after the imports (of building, with the simulated block of 51 MB); "cold" is opening and one
query after the files, which nobody maps by then, were dropped from the cache, beside what came from the disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.connection import Connection
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
    found = index.vectors[rows] + 0.33 * generator.standard_normal((count, index.width)) / index.width**0.5
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def find_truth(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Rows by all products in float64."""
    rows, scores = [], []
    for start in range(0, len(vectors), 20_000):
        score = queries.astype(np.float64) @ vectors[start : start + 20_000].astype(np.float64).T
        best = np.argsort(-score, axis=1, kind="stable")[:, :TOP]
        rows.append(best + start)
        scores.append(np.take_along_axis(score, best, axis=1))
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1, kind="stable")[:, :TOP]
    return np.take_along_axis(np.concatenate(rows, axis=1), order, axis=1)


def plain(folder: Path) -> Way:
    """All vectors as float32, block by block, and the best so far: no bounds, scores as they come."""
    vectors = VectorIndex.open(folder).vectors

    def way(queries: np.ndarray) -> np.ndarray:
        best, turned = Best(len(queries), TOP), np.ascontiguousarray(queries.T)
        for start in range(0, len(vectors), BLOCK):
            keep(best, np.asarray(vectors[start : start + BLOCK], dtype=np.float32) @ turned, start)
        return best.result()[0]

    return way


def ranked_again(folder: Path) -> Way:
    """The ten times as many best by codes alone, ranked again by their vectors: a guess."""
    index = VectorIndex.open(folder)

    def way(queries: np.ndarray) -> np.ndarray:
        first, turned = Best(len(queries), 10 * TOP), np.ascontiguousarray(queries.T)
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


def exact(folder: Path) -> Way:
    index = VectorIndex.open(folder)
    return lambda queries: index.search(queries, TOP)[0]


def approximate(folder: Path) -> Way:
    index = VectorIndex.open(folder)
    return lambda queries: index.search(queries, TOP, exact=False)[0]


def flat(folder: Path, threshold: int | None = None) -> Way:
    """faiss without an approximation: all vectors as float32 in memory, added at once.

    ``threshold`` is the number of queries from which it multiplies matrices; some builds of faiss practically never do.
    """
    import faiss

    vectors = VectorIndex.open(folder).vectors
    peer, usual = faiss.IndexFlatIP(vectors.shape[1]), faiss.cvar.distance_compute_blas_threshold
    peer.add(np.asarray(vectors, dtype=np.float32))

    def way(queries: np.ndarray) -> np.ndarray:
        faiss.cvar.distance_compute_blas_threshold = usual if threshold is None else threshold
        return peer.search(queries, TOP)[1]

    return way


def flat_blas(folder: Path) -> Way:
    return flat(folder, 20)


# way: made by, folder, files that a search passes over
WAYS = {
    "VectorIndex, float16": (exact, "float16", ("codes.npy", "bounds.npy")),
    "VectorIndex, float32": (exact, "float32", ("codes.npy", "bounds.npy")),
    "plain scan, float16": (plain, "float16", ("vectors.npy",)),
    "plain scan, float32": (plain, "float32", ("vectors.npy",)),
    "codes, ten times as many ranked again": (ranked_again, "float16", ("codes.npy", "bounds.npy")),
    "faiss flat, as it comes": (flat, "float32", ()),
    "faiss flat, BLAS from 20 queries": (flat_blas, "float32", ()),
    "with_faiss, ivf": (approximate, "ivf", ("faiss.index",)),
    "with_faiss, hnsw": (approximate, "hnsw", ("faiss.index",)),
}


def fresh(call: Callable, *given: object) -> tuple:
    """Result of a call in a process of its own, its seconds, and its peak of memory in GB beyond that at the start."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report, args=(sender, call, *given))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:  # it died before it had an answer: say so, rather than wait or leave it out
        process.join()
        raise SystemExit(f"{call.__name__}{given[:3]} ended with code {process.exitcode} and no result.") from None
    process.join()
    return result


def report(sender: Connection, call: Callable, *given: object) -> None:
    sender.send(watched(call, *given))


def watched(call: Callable, *given: object) -> tuple:
    if find_spec("faiss") is not None:
        import faiss  # noqa: F401  its own memory is none of a search
    before, peak, stop = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = call(*given)
    seconds = time.perf_counter() - started
    peak[0] = max(peak[0], anonymous())
    stop.set()
    watcher.join()
    return result, seconds, peak[0] - before


def anonymous() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e6


def fetched() -> float:
    """MB that this process has had read from the disk, by page faults too."""
    line = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes"))
    return int(line.split()[1]) / 1e6


def make(case: str, options: argparse.Namespace, dtype: str, folder: Path) -> None:
    vectors = simulate(case, options.count, options.width)
    VectorIndex.build(vectors, map("cell{}".format, range(options.count)), folder / dtype, dtype=dtype)


def add_faiss(folder: Path, kind: str) -> None:
    VectorIndex.open(folder).with_faiss(kind)


def search_once(name: str, folder: Path, queries: np.ndarray) -> None:
    WAYS[name][0](folder / WAYS[name][1])(queries)


def start_cold(name: str, folder: Path, queries: np.ndarray) -> tuple[float, float]:
    """Seconds of opening and one query, and MB read from the disk meanwhile."""
    for path in (folder / WAYS[name][1]).iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before, started = fetched(), time.perf_counter()
    search_once(name, folder, queries[:1])
    return time.perf_counter() - started, fetched() - before


def prepare(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Queries and their true rows."""
    index = VectorIndex.open(folder / "float32")
    queries = ask(index, CHECKED, 0)
    return queries, find_truth(index.vectors, queries)


def race(names: list[str], folder: Path, rounds: int, queries: np.ndarray) -> dict:
    """By way: median seconds of 1 and of 32 queries, rows of all queries."""
    ways = {name: WAYS[name][0](folder / WAYS[name][1]) for name in names}
    times: dict[tuple[str, int], list[float]] = {(name, count): [] for name in names for count in (1, 32)}
    single = VectorIndex.open(folder / "float32")
    for way in ways.values():
        way(queries[:1])  # opens what is opened on first use
    for turn in range(rounds):
        for count in (1, 32):
            asked = ask(single, count, turn + 1)
            for name, way in ways.items():
                started = time.perf_counter()
                way(asked)
                times[name, count].append(time.perf_counter() - started)
    found = {}
    for name, way in ways.items():
        rows = np.concatenate([way(queries[start : start + 32]) for start in range(0, CHECKED, 32)])
        found[name] = (statistics.median(times[name, 1]), statistics.median(times[name, 32]), rows)
    return found


def build(case: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """Make all indexes, print what that took; the ways that can be tried."""
    print(
        f"\n{case}: {options.count:,} x {options.width}\n\n| index | built, s | memory of building, GB | on disk, MB |"
    )
    print("|---|---|---|---|")
    kinds = [kind for kind in ("ivf", "hnsw") if kind not in options.without and find_spec("faiss") is not None]
    for name in ("float16", "float32", *kinds):
        if name in kinds:
            shutil.copytree(folder / "float16", folder / name, copy_function=os.link)
            _, seconds, memory = fresh(add_faiss, folder / name, name)
            size = (folder / name / "faiss.index").stat().st_size
        else:
            _, seconds, memory = fresh(make, case, options, name, folder)
            size = sum(path.stat().st_size for path in (folder / name).iterdir())
        print(f"| {name} | {seconds:.0f} | {memory:.2f} | {size / 1e6:,.0f} |", flush=True)
    missing = {"ivf", "hnsw"} - set(kinds)
    plainly = find_spec("faiss") is None
    return [name for name, way in WAYS.items() if way[1] not in missing and not (plainly and "faiss" in name)]


def compare(folder: Path, options: argparse.Namespace, case: str) -> None:
    names = build(case, options, folder)
    queries, truth = fresh(prepare, folder)[0]
    found = fresh(race, names, folder, options.rounds, queries)[0]
    columns = ["way", "1 query, s", "queries/s", "32 queries, s", "queries/s", "recall@10", "passes over, MB"]
    columns += ["memory of 32 queries, GB", "cold, s", "from disk, MB"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in names:
        one, many, rows = found[name]
        recall = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(truth, rows)])
        size = sum((folder / WAYS[name][1] / file).stat().st_size for file in WAYS[name][2]) / 1e6
        memory = fresh(search_once, name, folder, queries[:32])[2]
        cold, read = fresh(start_cold, name, folder, queries)[0]
        row = [name, f"{one:.4f}", f"{1 / one:.1f}", f"{many:.4f}", f"{32 / many:.0f}", f"{recall:.4f}"]
        row += [f"{size:,.0f}" if size else "", f"{memory:.3f}", f"{cold:.2f}", f"{read:,.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)
    same = np.mean(found["VectorIndex, float32"][2] == truth)
    print(f"\nRows of VectorIndex, float32, that are those of the truth, place by place: {same:.4f}.")
    half, single = VectorIndex.open(folder / "float16"), VectorIndex.open(folder / "float32")
    moved = np.abs(half.search(queries, TOP)[1] - single.search(queries, TOP)[1])
    print(f"float16 moves the ten best scores by {moved.mean():.1e} on average, {moved.max():.1e} at most.")
    print(f"Mean loss of the codes: {half.bounds[:, 1].mean():.4f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("count", 1_000_000), ("width", 256), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", action="append", choices=["random", "clustered"])
    parser.add_argument("--without", action="append", default=[], choices=["hnsw", "ivf"])
    options = parser.parse_args()
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, {os.cpu_count()} cores")
    if find_spec("faiss") is None:
        print("faiss is not installed and is left out.")
    for case in options.case or ["random", "clustered"]:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            compare(Path(folder), options, case)


if __name__ == "__main__":
    main()
