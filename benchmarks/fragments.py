"""Fragments to counts on bins of 2,500 bp: syncyte beside SnapATAC2, the same sum and non-zeros asked of both.

    python benchmarks/fragments.py --chrom-sizes hg38.chrom.sizes --peer PYTHON [--millions 10 20] [--rounds 3]
    python benchmarks/fragments.py --chrom-sizes hg38.chrom.sizes --peer PYTHON --file fragments.tsv.gz --least 1

Each tool runs in a process of its own, in turn, from the fragment file to an .h5ad of cells x bins on disk; PYTHON is
an interpreter that has snapatac2, left out without it. In a round: one run of each tool, and gunzip (zlib, one thread)
as a mark. Imports are not in the time, opening the reference is. syncyte's loops are compiled once a machine (about ten
seconds) and loaded before the time begins. Memory is the peak of the process over what it had before the first
fragment.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH = 2500
PEER = """
import json, resource, sys, time
import snapatac2 as snap
given = json.loads(sys.argv[1])
rows = [line.split() for line in open(given["chrom_sizes"]) if line.strip()]
sizes = {row[0]: int(row[1]) for row in rows}
folder = given["folder"]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin, used = time.perf_counter(), time.process_time()
cells = snap.pp.import_fragments(given["file"], chrom_sizes=sizes, file=folder + "/import.h5ad", tempdir=folder,
                                 sorted_by_barcode=False, min_num_fragments=given["least"])
middle = time.perf_counter()
counts = snap.pp.make_peak_matrix(cells, peak_file=given["bed"], file=folder + "/peer.h5ad")
counts.close()
end, cpu = time.perf_counter(), time.process_time() - used
cells.close()
extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
found = snap.read(folder + "/peer.h5ad").to_memory()
said = {"seconds": end - begin, "import": middle - begin, "matrix": end - middle, "cpu": cpu, "extra": extra / 2**20}
print(json.dumps(said | {"cells": found.n_obs, "sum": int(found.X.sum()), "nonzero": int(found.X.nnz)}))
"""


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def own(given: dict[str, Any]) -> None:
    """One run of syncyte in this process."""
    import syncyte
    from syncyte.genome.reference import build_reference
    from syncyte.recipes.simulate_fragments import simulate_fragments

    folder = Path(given["folder"])
    with tempfile.TemporaryDirectory() as small:  # loads the compiled loops
        (Path(small) / "sizes").write_text("chr1\t100000\n")
        build_reference(Path(small) / "ref", bins=WIDTH, chrom_sizes=Path(small) / "sizes")
        simulate_fragments(Path(small) / "f.tsv.gz", 2000, cells=20, chrom_sizes={"chr1": 100_000})
        out = Path(small) / "x.h5ad"
        syncyte.count_fragments(
            Path(small) / "f.tsv.gz", genome=Path(small) / "ref", min_fragments=1, out=out, quiet=True
        )
    before, begin, used = peak(), time.perf_counter(), time.process_time()
    counts = syncyte.count_fragments(
        given["file"],
        genome=given["genome"],
        min_fragments=given["least"],
        out=folder / "own.h5ad",
        quiet=True,
        force=True,
    )
    said = {"seconds": time.perf_counter() - begin, "extra": (peak() - before) / 2**20}
    said["cpu"] = time.process_time() - used
    report = counts.report
    said |= {"cells": report["cells"], "sum": report["counts"], "nonzero": report["nonzero"]}
    print(json.dumps(said))


def child(command: list[str], given: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([*command, json.dumps(given)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def gunzip(file: str) -> dict[str, Any]:
    begin, used = time.perf_counter(), time.process_time()
    with gzip.open(file) as stream:
        while stream.read(1 << 20):
            continue
    return {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - used}


def rounds(given: dict[str, Any], peer: str | None, count: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"syncyte": [], "SnapATAC2": [], "gunzip": []}
    for _ in range(count):
        found["syncyte"].append(child([sys.executable, "-W", "ignore", __file__, "--child"], given))
        found["gunzip"].append(gunzip(given["file"]))
        if peer:
            found["SnapATAC2"].append(child([peer, "-W", "ignore", "-c", PEER], given))
            same = [found[tool][-1][key] for key in ("cells", "sum", "nonzero") for tool in ("syncyte", "SnapATAC2")]
            if same[::2] != same[1::2]:
                raise SystemExit(
                    f"The answers differ: cells, sum, non-zeros of syncyte {same[::2]}, SnapATAC2 {same[1::2]}"
                )
    return found


def middle(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def rows(label: str, fragments: int, found: dict[str, list[dict[str, Any]]]) -> None:
    """Lines of the table for one file."""
    own_runs = found["syncyte"]
    for tool, runs in found.items():
        if not runs:
            continue
        seconds = middle(runs, "seconds")
        spread = f"{min(run['seconds'] for run in runs):.2f} - {max(run['seconds'] for run in runs):.2f}"
        wall, cpu = (
            statistics.median(run[key] / mine[key] for run, mine in zip(runs, own_runs)) for key in ("seconds", "cpu")
        )
        extra = f"{middle(runs, 'extra'):.2f}" if "extra" in runs[0] else ""
        same = f"{runs[0]['cells']:,} | {runs[0]['sum']:,} | {runs[0]['nonzero']:,}" if "sum" in runs[0] else " | | "
        name = f"{tool} ({middle(runs, 'import'):.1f} + {middle(runs, 'matrix'):.1f})" if "import" in runs[0] else tool
        speed = fragments / seconds / 1e6
        print(
            f"| {label} | {name} | {seconds:.2f} | {spread} | {speed:.2f} | {wall:.1f} | "
            f"{middle(runs, 'cpu'):.2f} | {cpu:.1f} | {extra} | {same} |",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        own(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chrom-sizes", type=Path, required=True)
    parser.add_argument("--peer", help="interpreter with snapatac2")
    parser.add_argument("--millions", type=float, nargs="+", default=[10, 20])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="a fragment file instead of simulated ones")
    parser.add_argument("--least", type=int, default=200, help="fragments of a cell")
    parser.add_argument("--folder", type=Path, help="where files are made and kept")
    given = parser.parse_args()
    from syncyte.genome.reference import build_reference
    from syncyte.genome.tables import read_chrom_sizes
    from syncyte.recipes.simulate_fragments import simulate_fragments

    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        genome = build_reference(folder / "genome", bins=WIDTH, chrom_sizes=given.chrom_sizes, overwrite=True)
        bed = folder / "bins.bed"
        assert genome.regions is not None
        genome.regions.to_csv(bed, sep="\t", header=False, index=False)
        shown = [Path(word).name if "/" in word else word for word in sys.argv]
        print(f"`{shlex.join(['python', 'benchmarks/fragments.py', *shown[1:]])}`, {len(genome.regions):,} regions\n")
        if not given.peer:
            print("SnapATAC2 was left out: no interpreter given with --peer.\n")
        print(
            "| fragments | tool | median s | least - most | M fragments/s | times syncyte | CPU s | "
            "times syncyte | extra GB | cells | sum | nnz |"
        )
        print("|" + " --- |" * 12)
        sizes = read_chrom_sizes(given.chrom_sizes)
        for number in [0] if given.file else given.millions:
            file = given.file or folder / f"{int(number * 1e6)}.tsv.gz"
            if not file.exists():
                simulate_fragments(file, int(number * 1e6), 1, cells=given.cells, chrom_sizes=sizes, sites=150_000)
            job = {"file": str(file), "least": given.least, "genome": str(genome.path), "bed": str(bed)}
            job |= {"folder": str(folder), "chrom_sizes": str(given.chrom_sizes)}
            found = rounds(job, given.peer, given.rounds)
            with gzip.open(file) as stream:
                count = int(number * 1e6) or sum(1 for line in stream if not line.startswith(b"#"))
            rows(file.name if given.file else f"{number:g} M", count, found)


if __name__ == "__main__":
    main()
