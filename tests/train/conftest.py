from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="package", autouse=True)
def light_garbage() -> None:
    """Training that runs out of memory collects garbage; leave out what earlier tests have loaded."""
    gc.collect()
    gc.freeze()
