"""Integration baselines: PCA of the counts as they are, and Harmony on top of it.

PCA is what everyone starts from and corrects nothing; Harmony (Korsunsky et al., Nature Methods 2019) is the method to
beat at its cost. Harmony comes with the ``bench`` extra.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.space import Scaling, Space
from syncyte.errors import MissingExtraError


def pca_embedding(
    counts: sp.csr_matrix, scaling: Scaling = "log_cp10k", components: int = 30, seed: int = 0
) -> NDArray[np.float32]:
    """``(n, k)`` scores of the cells on their own leading axes, no batch correction."""
    return Space(scaling, components, seed).fit(counts).transform(counts)


def harmony_embedding(embedding: NDArray[np.floating], batches: ArrayLike, seed: int = 0) -> NDArray[np.float32]:
    """``(n, k)`` Harmony-corrected copy of an embedding.

    Raises
    ------
    MissingExtraError
        Where harmonypy is not installed.
    """
    try:
        import harmonypy
    except ImportError:
        raise MissingExtraError("harmonypy", "bench", "The Harmony baseline") from None
    names = pd.DataFrame({"batch": np.asarray(batches).astype(str)})
    found = harmonypy.run_harmony(
        np.asarray(embedding, dtype=np.float64), names, ["batch"], random_state=seed, verbose=False
    ).Z_corr
    found = np.asarray(found, dtype=np.float32)
    return found if found.shape == np.shape(embedding) else found.T  # versions before 2 return axes x cells
