"""``syncyte data harmonise`` from files to a store, and what it says on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import syncyte
from syncyte.cli import app
from syncyte.data.store import open_store
from syncyte.genome.reference import build_reference


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated data sets with peaks of their own, and bins of 50 kb."""
    folder = tmp_path_factory.mktemp("files")
    for seed in (1, 2):
        syncyte.simulate(60, seed=seed, genes=60, regions=400).write(folder / f"lane{seed}.h5mu")
    chroms = [f"chr{name}" for name in [*range(1, 23), "X", "Y"]]
    (folder / "sizes").write_text("".join(f"{name}\t250000000\n" for name in chroms))
    build_reference(folder / "bins", bins=50_000, chrom_sizes=folder / "sizes")
    return folder


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", "harmonise", *map(str, words)])
    return done.exit_code, done.output


def test_from_files_to_a_store(files: Path, tmp_path: Path):
    lanes = [files / "lane1.h5mu", files / "lane2.h5mu"]
    words = (*lanes, "--reference", files / "bins", "--out", tmp_path / "store")
    code, out = run(*words)
    assert code == 0 and "2 of 2 files" in out and "(2 files read, 0 kept from before)" in out
    assert "0.00% of the counts lie in no region" in out and "fewer than 100 open regions" in out
    cells = open_store(tmp_path / "store")
    assert len(cells) == 120 and cells.report["paired"] == 120
    assert cells.report["prefixed"] == ["lane1", "lane2"] and cells.names[0].startswith("lane1:")
    assert set(cells.obs["batch"].astype(str)) >= {"batch_1"}
    code, out = run(*words)
    assert code == 0 and "(0 files read, 2 kept from before)" in out


def test_failures_are_listed_and_end_with_an_error(files: Path, tmp_path: Path):
    words = (files / "lane1.h5mu", files / "absent.h5ad", "--reference", files / "bins", "--out", tmp_path / "store")
    code, _ = run(*words)
    assert code == 1 and not (tmp_path / "store").exists()
    code, out = run(*words, "--skip-failed")
    assert code == 0 and "failed, left out: absent.h5ad" in out and "(0 files read, 1 kept from before)" in out


def test_the_verb_takes_one_path_or_several(files: Path, tmp_path: Path):
    done = syncyte.harmonise(str(files / "lane1.h5mu"), reference=files / "bins", out=tmp_path / "one", quiet=True)
    assert len(open_store(done.path)) == 60 and done.made == 1


def test_another_build_is_lifted_over(real, tmp_path: Path):
    sizes, chain = real("reference/hg38.chrom.sizes"), real("reference/GRCh37_to_GRCh38.chain.gz")
    build_reference(tmp_path / "bins", bins=2500, chrom_sizes=sizes, name="hg38")
    words = (real("granja_bmmc_scatac/atac.h5ad"), "--reference", tmp_path / "bins", "--out", tmp_path / "store")
    code, out = run(*words)
    assert code == 1 and "beyond the end of their chromosome" in out and "--chain" in out
    code, out = run(*words, "--chain", chain)
    assert code == 0, out
    report = open_store(tmp_path / "store").report["files"][0]["modalities"]["atac"]
    assert report["liftover"]["lifted"] == 9974 and report["mapping"]["mapped"] == 9974
    assert report["lost"] < 0.01 and report["width"] == 1_235_319
