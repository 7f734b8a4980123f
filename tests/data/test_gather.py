"""Many files become one store on one reference: exact, resumable, through any executor, in steady memory."""

from __future__ import annotations

import itertools
import os
import signal
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from tests.data.made import SCHEMAS, names, peaks, table
from tests.processes import join, start

from syncyte.data import gather as module
from syncyte.data import parts, scatter
from syncyte.data.gather import Options, gather, work_folder
from syncyte.data.join import stems
from syncyte.data.parts import FlatRows
from syncyte.data.place import How
from syncyte.data.store import open_store
from syncyte.errors import DataError, GenomeError
from syncyte.genome.overlap import map_peaks
from syncyte.genome.reference import Reference, build_reference
from syncyte.genome.regions import parse_regions


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    (folder / "sizes").write_text("".join(f"chr{number}\t400000\n" for number in range(1, 6)))
    return build_reference(folder / "bins", bins=500, chrom_sizes=folder / "sizes", name="bins")


def atac(cells: list[str], seed: int, count: int = 300, spelled: str = "chr{}:{}-{}") -> AnnData:
    """Peaks at places of their own, some across two bins, by chromosomes in the order 10x writes them or any other."""
    generator = np.random.default_rng(seed)
    places = [(1 + generator.integers(5), generator.integers(399_000)) for _ in range(count)]
    found = sorted({spelled.format(chrom, start, start + 501) for chrom, start in places})
    adata = peaks(cells, found, seed)
    return adata


def run(
    files: list[Path], reference: Reference, out: Path, how: How | None = None, executor=None, workers=1, **options
):
    return gather(
        files,
        schemas=SCHEMAS,
        reference=reference.path,
        out=out,
        how=how or How(),
        options=Options(**options),
        executor=executor,
        workers=workers,
    )


def saved(folder: Path, **tables) -> list[Path]:
    paths = []
    for name, adata in tables.items():
        paths.append(folder / f"{name}.{'h5mu' if hasattr(adata, 'mod') else 'h5ad'}")
        adata.write(paths[-1])
    return paths


def expected(adata: AnnData, reference: Reference, rule: str = "largest") -> np.ndarray:
    found = map_peaks(parse_regions(adata.var_names), reference.index, rule)
    weight = np.ones(len(found.target), dtype=np.float32)
    matrix = sp.csr_matrix((weight, found.target, found.pointer), shape=(adata.n_vars, len(reference.index)))
    return (adata.X @ matrix).toarray()


@pytest.mark.parametrize("rule", ["largest", "any"])
def test_files_with_different_peaks_meet_on_the_reference(reference: Reference, tmp_path: Path, rule: str):
    first, second = atac(names(9, "a"), 1), atac(names(7, "b"), 2, 90, spelled="{}_{}_{}")
    done = run(saved(tmp_path, first=first, second=second), reference, tmp_path / "store", How(rule))
    cells = open_store(done.path, verify=True)
    part = cells.parts["atac"]
    assert part.features.equals(reference.index.names()) and list(cells.names) == names(9, "a") + names(7, "b")
    truth = np.concatenate([expected(first, reference, rule), expected(second, reference, rule)])
    np.testing.assert_array_equal(cells.counts("atac").toarray(), truth)
    assert cells.report["reference"] == {"name": "bins", "hash": reference.hash}
    files = cells.report["files"]
    assert [file["cells"] for file in files] == [9, 7] and [file["file"].endswith("d") for file in files]
    assert files[0]["modalities"]["atac"]["mapping"]["total"] == first.n_vars
    assert any("spelled '1' were read as 'chr1'" in note for note in cells.report["notes"])
    assert cells.obs["syncyte_file"].tolist() == ["first"] * 9 + ["second"] * 7
    few = pd.read_csv(done.few, sep="\t")
    assert few["cell"].tolist() == [name for name, row in zip(cells.names, truth) if (row > 0).sum() < 100]
    assert cells.report["atac"]["few_regions"] == len(few)


def test_split_counts_are_whole_and_conserved(reference: Reference, tmp_path: Path):
    adata = atac(names(30), 3)
    done = run(saved(tmp_path, one=adata), reference, tmp_path / "store", How("fraction"))
    counts = open_store(done.path).counts("atac")
    np.testing.assert_array_equal(counts.sum(axis=1), adata.X.sum(axis=1))
    assert 2 * counts.nnz > expected(adata, reference, "any").astype(bool).sum() > counts.nnz


def test_lost_counts_are_reported_and_too_many_refused(reference: Reference, tmp_path: Path):
    adata = atac(names(20), 4)
    outside = AnnData(adata.X.copy(), adata.obs.copy(), adata.var.copy())
    moved = adata.var_names.to_numpy().copy()
    moved[:60] = [f"chr9:{1000 * number}-{1000 * number + 500}" for number in range(60)]
    outside.var_names = moved
    done = run(saved(tmp_path, some=outside), reference, tmp_path / "store")
    lost = done.report["files"][0]["modalities"]["atac"]["lost"]
    assert lost == pytest.approx(adata.X[:, :60].sum() / adata.X.sum()) and lost > 0.1
    heavy = adata.copy()
    heavy.X = sp.csr_matrix(heavy.X.multiply(np.where(np.arange(adata.n_vars) < 60, 50, 1)).astype(np.float32))
    heavy.var_names = moved
    (path,) = saved(tmp_path, heavy=heavy)
    with pytest.raises(DataError, match=r"heavy\.h5ad: Only \d+\.\d% of the counts lie in regions .*--force"):
        run([path], reference, tmp_path / "other")
    forced = run([path], reference, tmp_path / "other", How(force=True))
    assert any("forced" in note for note in forced.report["notes"])


def test_names_that_clash_get_the_stem_and_pairs_stay_pairs(reference: Reference, tmp_path: Path):
    alone = table(names(5, "x"))
    files = saved(tmp_path, lane1=atac(names(6), 5), lane2=atac(names(5), 6), other=atac(names(3, "o"), 7))
    files += saved(tmp_path, tags=table(names(3, "o")), more=alone)
    done = run(files, reference, tmp_path / "store")
    cells = open_store(done.path)
    assert done.report["prefixed"] == ["lane1", "lane2"]
    assert list(cells.names) == [f"lane1:{n}" for n in names(6)] + [f"lane2:{n}" for n in names(5)] + names(
        3, "o"
    ) + names(5, "x")
    assert cells.report["paired"] == 3 and "lane1, lane2" in "".join(cells.report["notes"])
    np.testing.assert_array_equal(cells.counts("rna").toarray()[-5:], alone.X.toarray())


def test_genes_of_files_meet_by_name(reference: Reference, tmp_path: Path):
    first, second = table(names(4, "a"), ["A", "B", "C"]), table(names(3, "b"), ["C", "D"], seed=2)
    done = run(saved(tmp_path, first=first, second=second), reference, tmp_path / "store")
    cells = open_store(done.path)
    assert list(cells.parts["rna"].features) == ["A", "B", "C", "D"]
    truth = np.zeros((7, 4))
    truth[:4, :3], truth[4:, 2:] = first.X.toarray(), second.X.toarray()
    np.testing.assert_array_equal(cells.counts("rna").toarray(), truth)


def test_only_what_is_missing_or_changed_is_done(reference: Reference, tmp_path: Path, monkeypatch):
    files = saved(tmp_path, a=atac(names(6, "a"), 1), b=atac(names(6, "b"), 2))
    first = run(files, reference, tmp_path / "store")
    assert (first.made, first.kept) == (2, 0)
    monkeypatch.setattr(module, "write_store", lambda *_, **__: pytest.fail("nothing has changed"))
    again = run(files, reference, tmp_path / "store")
    assert (again.made, again.kept, again.few) == (0, 2, first.few)
    monkeypatch.undo()
    files += saved(tmp_path, c=atac(names(6, "c"), 3))
    with pytest.raises(DataError, match=r"a store of other files or options.*--overwrite"):
        run(files, reference, tmp_path / "store")
    more = run(files, reference, tmp_path / "store", overwrite=True)
    assert (more.made, more.kept, len(open_store(more.path))) == (1, 2, 18)
    saved(tmp_path, b=atac(names(8, "b"), 4))
    assert run(files, reference, tmp_path / "store", overwrite=True).made == 1
    assert run(files, reference, tmp_path / "store", How("any"), overwrite=True).made == 3


def test_a_renamed_file_is_another_file(reference: Reference, tmp_path: Path):
    (path,) = saved(tmp_path, lane1=atac(names(6), 1))
    run([path], reference, tmp_path / "store")
    renamed = path.rename(tmp_path / "lane9.h5ad")
    with pytest.raises(DataError, match="other files or options"):
        run([renamed], reference, tmp_path / "store")
    done = run([renamed], reference, tmp_path / "store", overwrite=True)
    assert set(open_store(done.path).obs["syncyte_file"].astype(str)) == {"lane9"}


def test_a_failed_file_does_not_stop_the_others(reference: Reference, tmp_path: Path):
    files = saved(
        tmp_path, a=atac(names(6, "a"), 1), wrong=peaks(features=[f"chr1:{9**9 + n}-{9**9 + n + 9}" for n in range(15)])
    )
    (tmp_path / "broken.h5ad").write_bytes(b"no file at all")
    files += [tmp_path / "broken.h5ad", tmp_path / "absent.h5ad"]
    with pytest.raises(DataError) as error:
        run(files, reference, tmp_path / "store")
    text = str(error.value)
    assert "3 of 4 files failed" in text and "wrong.h5ad: atac: Peaks do not fit" in text and "absent.h5ad" in text
    assert not (tmp_path / "store").exists()
    done = run(files, reference, tmp_path / "store", skip_failed=True)
    assert (done.made, done.kept, len(done.failed)) == (0, 1, 3) and len(open_store(done.path)) == 6
    assert len(done.report["harmonise"]["failed"]) == 3
    with pytest.raises(DataError, match="1 of 1 files failed"):
        run(files[2:3], reference, tmp_path / "none", skip_failed=True)


def test_requests_that_cannot_be_met(reference: Reference, tmp_path: Path):
    (path,) = saved(tmp_path, a=atac(names(6), 1))
    with pytest.raises(DataError, match="more than once"):
        run([path, path], reference, tmp_path / "store")
    with pytest.raises(DataError, match="No files"):
        run([], reference, tmp_path / "store")
    with pytest.raises(GenomeError, match="Did you mean 'largest'"):
        run([path], reference, tmp_path / "store", How("larges"))
    with pytest.raises(DataError, match="something else"):
        run([path], reference, tmp_path)
    with pytest.raises(DataError, match=r"chain file .*nowhere\.chain cannot be read"):
        run([path], reference, tmp_path / "store", How(chain=tmp_path / "nowhere.chain"))
    (tmp_path / "sizes").write_text("chr1\t1000\n")
    bare = build_reference(tmp_path / "bare", chrom_sizes=tmp_path / "sizes")
    with pytest.raises(DataError, match="holds no regions to put atac on"):
        run([path], bare, tmp_path / "store", How(force=True))


def test_any_executor_gives_the_same_store(reference: Reference, tmp_path: Path):
    files = saved(tmp_path, **{f"f{number}": atac(names(6, f"{number}_"), number) for number in range(5)})
    run(files, reference, tmp_path / "serial")
    with ThreadPoolExecutor(3) as pool:
        run(files, reference, tmp_path / "threads", executor=pool)
    run(files, reference, tmp_path / "processes", workers=2)
    first, *others = [open_store(tmp_path / kind) for kind in ("serial", "threads", "processes")]
    for other in others:
        assert other.names.equals(first.names) and (other.counts("atac") != first.counts("atac")).nnz == 0


def test_a_dask_client_serves_as_it_is(reference: Reference, tmp_path: Path):
    distributed = pytest.importorskip("distributed")
    files = saved(tmp_path, a=atac(names(6, "a"), 1), b=atac(names(6, "b"), 2))
    (tmp_path / "broken.h5ad").write_bytes(b"no file at all")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        done = run([*files, tmp_path / "broken.h5ad"], reference, tmp_path / "store", executor=client, skip_failed=True)
    assert done.made == 2 and len(done.failed) == 1 and len(open_store(done.path)) == 12


class Breaking:
    """An executor whose tasks are lost."""

    def submit(self, fn, *args):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: 1 / 0)


def test_lost_tasks_are_failed_files(reference: Reference, tmp_path: Path):
    files = saved(tmp_path, a=atac(names(6, "a"), 1))
    with pytest.raises(DataError, match="ZeroDivisionError"):
        run(files, reference, tmp_path / "store", executor=Breaking())


def run_until_killed(when: int, folder: Path, reference: Path) -> None:
    """Kill this process at the call of that number that looks at a block of counts."""
    calls = itertools.count(1)

    def count(original):
        def counted(*arguments):
            if next(calls) == when:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        return counted

    parts.check_raw = count(parts.check_raw)
    scatter.check_raw = count(scatter.check_raw)
    parts.FIRST_ROWS = parts.MOST_ROWS = scatter.ROWS = 4
    run(sorted(folder.glob("*.h5ad")), Reference.load(reference), folder / "store")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
@pytest.mark.parametrize("when", [2, 4, 6])  # in the first file, in the second, in the store
def test_a_kill_leaves_nothing_half_done(reference: Reference, tmp_path: Path, when: int):
    files = saved(tmp_path, a=atac(names(8, "a"), 1), b=atac(names(8, "b"), 2))
    assert join([start(run_until_killed, when, tmp_path, reference.path)], 60) == [-signal.SIGKILL]
    assert not (tmp_path / "store").exists()
    kept = [entry for entry in work_folder(tmp_path / "store").iterdir() if not entry.name.startswith(".")]
    assert all((part / "part.json").is_file() for part in kept) and len(kept) == when // 2 - 1
    finished = run(files, reference, tmp_path / "store")
    assert (finished.made, finished.kept) == (2 - len(kept), len(kept)) and len(open_store(finished.path)) == 16
    left = [*work_folder(tmp_path / "store").iterdir(), *tmp_path.iterdir()]
    assert not [entry for entry in left if entry.name.startswith(".")]


def test_memory_does_not_grow_with_the_cells(reference: Reference, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("syncyte.data.parts.ENTRIES", 20_000)
    monkeypatch.setattr("syncyte.data.scatter.ROWS", 200)
    peak = {}
    for count in (200, 1000, 10_000):  # the first warms up
        (path,) = saved(tmp_path, **{f"n{count}": atac(names(count), 1)})
        tracemalloc.start()
        run([path], reference, tmp_path / f"store{count}", shard_cells=1000)
        peak[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(count, peak)
    assert peak[10_000] - peak[1000] < 9000 * 1000  # bytes a cell: its name and covariates, no counts


def test_stems_tell_files_apart():
    paths = [Path("/a/x.h5ad"), Path("/b/x.h5ad"), Path("/a/y.tar.gz"), Path("/c/a/x.h5ad")]
    assert stems(paths) == ["a_x", "b_x", "y", "a_x_2"]


def test_a_part_cut_short_is_told(tmp_path: Path):
    np.save(tmp_path / "m.indptr.npy", np.array([0, 2, 4]))
    np.arange(4, dtype="<i4").tofile(tmp_path / "m.indices")
    np.arange(3, dtype="<u4").tofile(tmp_path / "m.data")
    rows = FlatRows(str(tmp_path / "m"), (2, 9))
    assert rows.read(np.array([0])).toarray()[0, :2].tolist() == [0, 1]
    with pytest.raises(DataError, match="ends too early"):
        rows.read(np.array([1]))


def test_the_same_call_with_files_left_out_changes_nothing(reference: Reference, tmp_path: Path):
    files = saved(tmp_path, a=atac(names(6, "a"), 1))
    (tmp_path / "broken.h5ad").write_bytes(b"no file at all")
    files += [tmp_path / "broken.h5ad"]
    first = run(files, reference, tmp_path / "store", skip_failed=True)
    written = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    again = run(files, reference, tmp_path / "store", skip_failed=True)
    assert set(again.failed) == set(first.failed) and (again.made, again.kept) == (0, 1)
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == written
    saved(tmp_path, a=atac(names(8, "a"), 2))
    with pytest.raises(DataError, match="--overwrite"):
        run(files, reference, tmp_path / "store", skip_failed=True)
