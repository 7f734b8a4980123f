"""What every test stands on: one thread a process, no network, real data by name where there are any."""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from mudata import MuData

    from syncyte.recipes.simulate_regulation import Regulation
    from syncyte.tasks.gene_run import GeneRun
    from syncyte.tasks.trained import Trained
    from syncyte.tasks.variants import VariantEffects

# Before numpy, torch or numba are imported anywhere: two workers on two cores must not fight over them.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["MPLBACKEND"] = "Agg"

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("house", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("house")


def pytest_collection_finish() -> None:
    """Spare every later garbage collection the modules that are loaded by now, a quarter of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """Path of a real data file, or a skip that names it: ``real("pbmc3k/rna.h5ad")``."""
    folder = Path(os.environ.get("SYNCYTE_TEST_DATA", ROOT / "../shared/data"))

    def find(path: str) -> Path:
        target = folder / path
        if not target.exists():
            pytest.skip(f"real data {path} is not here (set SYNCYTE_TEST_DATA to the folder that holds it)")
        return target.resolve()

    return find


@pytest.fixture(scope="session")
def tiny_data() -> MuData:
    """240 paired simulated cells; not to be changed."""
    from tests.tiny import world

    return world()


@pytest.fixture(scope="session")
def tiny_run(tiny_data: MuData, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One run of the smallest preset on them, trained once for all tests; not to be changed."""
    from tests.tiny import train_tiny

    return train_tiny(tiny_data, tmp_path_factory.mktemp("tiny") / "RUN")


@pytest.fixture(scope="session")
def tiny_sets_run(tiny_data: MuData, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One set model of the RNA, trained long enough to know types and batches; not to be changed."""
    from tests.tiny import train_tiny_sets

    longer = ["stages.autoencode.epochs=25", "stages.autoencode.lr=5e-3", "sizes.dropout=0"]
    longer += ["stages.flow.epochs=60", "stages.flow.lr=4e-3"]
    return train_tiny_sets(tiny_data, tmp_path_factory.mktemp("sets") / "RUN", settings=longer)


@pytest.fixture(scope="session")
def tiny_treated_run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One set model of cells with drugs whose effects are known (``tests.treated``); not to be changed."""
    from tests.treated import train_treated

    return train_treated(tmp_path_factory.mktemp("treated") / "RUN")


@pytest.fixture(scope="session")
def dna_world() -> Regulation:
    """A tiny genome and 400 cells that it regulates; not to be changed."""
    from tests.tiny_dna import regulation

    return regulation()


@pytest.fixture(scope="session")
def dna_files(dna_world: Regulation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same as files, by name."""
    from syncyte.recipes.simulate_regulation import write_regulation

    return write_regulation(dna_world, tmp_path_factory.mktemp("regulation"))


@pytest.fixture(scope="session")
def dna_run(dna_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> GeneRun:
    """A network of genes without attention, adapted to the tiny genome; not to be changed."""
    from tests.tiny_dna import train_dna

    from syncyte.tasks.gene_run import open_gene_run

    return open_gene_run(train_dna(dna_files, tmp_path_factory.mktemp("dna") / "RUN"))


@pytest.fixture(scope="session")
def dna_deep_run(dna_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> GeneRun:
    """The same with attention; not to be changed."""
    from tests.tiny_dna import DEEP, train_dna

    from syncyte.tasks.gene_run import open_gene_run

    return open_gene_run(train_dna(dna_files, tmp_path_factory.mktemp("deep") / "RUN", DEEP))


@pytest.fixture(scope="session")
def dna_vcf(dna_world: Regulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variants of all sorts in the tiny genome, with two people."""
    from tests.tiny_dna import write_vcf

    return write_vcf(dna_world, tmp_path_factory.mktemp("vcf") / "all.vcf")


@pytest.fixture(scope="session")
def ask_variants(dna_run: GeneRun, dna_files: dict[str, Path], dna_vcf: Path) -> Callable[..., VariantEffects]:
    """The verb ``variants`` with the tiny world's files: a folder, and what is to be otherwise."""
    import syncyte

    def ask(out: Path, **options: Any) -> VariantEffects:
        chosen = {"vcf": dna_vcf, "fasta": dna_files["genome.fa"], "cells": dna_files["cells.h5mu"], "device": "cpu"}
        chosen |= {"nulls": 6, "close": 1, "group": "cell_type", "donor": "donor", "quiet": True, **options}
        return syncyte.variants(chosen.pop("run", dna_run.trained), out=out, **chosen)

    return ask


@pytest.fixture(scope="session")
def dna_answer(
    ask_variants: Callable[..., VariantEffects], dna_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[VariantEffects, Path]:
    """One answer with all there is, and its folder; not to be changed."""
    folder = tmp_path_factory.mktemp("answers") / "EFFECTS"
    return ask_variants(folder, targets=dna_files["targets.tsv"]), folder


def _is_local(host: object) -> bool:
    if host in ("", "localhost", None):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test speak to another machine: connecting, and looking up names, fails except on this one."""

    def guard(call: Callable, host_of: Callable) -> Callable:
        def guarded(*arguments, **keywords):
            host = host_of(arguments)
            if not _is_local(host):
                raise PermissionError(f"tests may not use the network (wanted {host!r})")
            return call(*arguments, **keywords)

        return guarded

    def address(arguments: tuple) -> object:
        sock, target = arguments[:2]
        return None if sock.family == getattr(socket, "AF_UNIX", None) else target[0]

    monkeypatch.setattr(socket.socket, "connect", guard(socket.socket.connect, address))
    monkeypatch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex, address))
    own = socket.gethostname()
    monkeypatch.setattr(
        socket, "getaddrinfo", guard(socket.getaddrinfo, lambda given: None if given[0] == own else given[0])
    )
