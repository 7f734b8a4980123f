"""Memory of ``syncyte data harmonise`` onto 1.2 million regions: from 10^4 cells to 10^6, in one file and in a hundred.

    OMP_NUM_THREADS=2 python benchmarks/access_harmonise.py --chrom-sizes hg38.chrom.sizes [--cells 10000 1000000]
        [--files 1] [--folder DIR]

Files hold cells of ``access_scale.py`` on windows of 2,500 bp that are shifted against the reference by 700 bp, so
every one overlaps two of its regions. Every call is a process of its own; its peak memory is printed, and that nothing
was lost: the sums of the file and of the store.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from access_scale import simulated
from anndata.io import write_elem

SHIFT, ROWS = 700, 4096


def shifted(chrom_sizes: Path) -> pd.DataFrame:
    """Windows that begin 700 bp after those of the reference; the last of a chromosome is cut off at its end."""
    sizes = pd.read_csv(chrom_sizes, sep="\t", header=None, names=["chrom", "size"])
    sizes = sizes[~sizes["chrom"].str.contains("_|M$|EBV", regex=True)]
    names = []
    for row in sizes.itertuples():
        for at in range(0, row.size, 2500):
            start = min(at + SHIFT, row.size - 1)
            names.append(f"{row.chrom}:{start}-{min(start + 2500, row.size)}")
    return pd.DataFrame(index=pd.Index(names))


def write_file(path: Path, cells, first: int, last: int, var: pd.DataFrame) -> int:
    """Cells ``first`` to ``last`` as an ``.h5ad`` without compression; the sum of the counts."""
    total = filled = 0
    with h5py.File(path, "w") as root:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        group = root.create_group("X")
        shape = np.array((last - first, len(var)))
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        data, indices = (
            group.create_dataset(name, (0,), np.int32, maxshape=(None,), chunks=(1 << 18,))
            for name in ("data", "indices")
        )
        lengths = []
        for begin in range(first, last, ROWS):
            block = cells.part("atac").rows.read(np.arange(begin, min(begin + ROWS, last)))
            for dataset, values in ((data, block.data), (indices, block.indices)):
                dataset.resize((filled + len(values),))
                dataset[filled:] = values
            filled, total = filled + block.nnz, total + int(block.data.sum(dtype=np.float64))
            lengths.append(np.diff(block.indptr))
        group.create_dataset("indptr", data=np.append(0, np.cumsum(np.concatenate(lengths), dtype=np.int64)))
        with anndata.settings.override(allow_write_nullable_strings=True):
            write_elem(root, "obs", pd.DataFrame(index=[f"c{number}" for number in range(first, last)]))
            write_elem(root, "var", var)
        for key in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            write_elem(root, key, {})
    return total


def work(given: argparse.Namespace) -> None:
    """One call, in this process."""
    import syncyte
    from syncyte.data.store import open_store

    files = sorted(given.folder.glob("cells_*.h5ad"))
    began = time.perf_counter()
    syncyte.harmonise(files, reference=given.folder / "bins", out=given.folder / "store", overwrite=True, quiet=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = sum(float(block.sum(dtype=np.float64)) for _, block in open_store(given.folder / "store").blocks("atac"))
    print(json.dumps({"mb": peak, "seconds": seconds, "total": total}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chrom-sizes", type=Path, required=True)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--files", type=int, default=1, help="how many files the cells are spread over")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--job", action="store_true")
    given = parser.parse_args()
    if given.job:
        work(given)
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="syncyte-harmonise-"))
    command = ["reference", "build", "--bins", "2500", "--chrom-sizes", str(given.chrom_sizes)]
    subprocess.run([sys.executable, "-m", "syncyte", *command, "--out", str(folder / "bins")], check=True)
    print(f"`{shlex.join(['python', *sys.argv])}`\n")
    print("| cells | files | bytes a cell in the files | peak MB | seconds | bytes a cell of the store | lost counts |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    var = shifted(given.chrom_sizes)
    for count in given.cells:
        cells, total = simulated(given.chrom_sizes, count), 0
        edges = np.linspace(0, count, given.files + 1).astype(int)
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            total += write_file(folder / f"cells_{number:03d}.h5ad", cells, int(first), int(last), var)
        size = sum(path.stat().st_size for path in folder.glob("cells_*.h5ad"))
        call = [sys.executable, __file__, "--job", "--folder", str(folder), "--chrom-sizes", str(given.chrom_sizes)]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
        facts = json.loads(done.stdout.strip().splitlines()[-1])
        disk = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
        print(
            f"| {count:,} | {given.files} | {size / count:.0f} | {facts['mb']:.0f} | {facts['seconds']:.0f} | "
            f"{disk / count:.0f} | {total - facts['total']:,.0f} |",
            flush=True,
        )
        for path in (*folder.glob("cells_*.h5ad"), *folder.glob("store*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
