"""Harmony (Korsunsky et al., Nature Methods 2019) on an embedding: the integration method to beat at its cost.

It comes with the ``bench`` extra. Leaves out: the embedding (``baselines.space``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import MissingExtraError


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
