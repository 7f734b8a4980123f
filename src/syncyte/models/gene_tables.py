"""The table in which a trained model keeps its genes: where their tokens lie, whatever the recipe.

Cell models: the loadings that entries are summed in, with the identity of tokens beside them where there is attention.
Set models: the vectors that the decoder tells genes by. Gene networks: their coordinates.
Leaves out: bringing it to another width, and what reads it (``baselines.gene_space``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.errors import CapabilityError


def gene_table(model: Any, modality: str) -> NDArray[np.float32]:
    """Vectors ``(f, d)`` of a modality's features, each column at unit length.

    Raises
    ------
    CapabilityError
        If the model keeps no such table of the modality.
    """
    parts: list[torch.Tensor] = []
    if modality in getattr(model, "names", ()):
        if hasattr(model, "paths"):
            parts.append(model.paths[modality].table)
            embedders = getattr(model, "embedders", {})
            identity = embedders[modality].identity.weight if modality in embedders else None
            if identity is not None and len(identity) == len(parts[0]):  # a token a feature
                parts.append(identity)
        elif hasattr(model, "decoder") and hasattr(model.decoder, "table"):
            parts.append(model.decoder.table)
        elif hasattr(model, "mix") and hasattr(model, "table"):
            parts.append(model.table)
    if not parts:
        raise CapabilityError(
            f"The run has no table of {modality!r} features that an adapter could fill. Give a run that was trained on "
            f"{modality}, or leave the backbone out."
        )
    found = torch.cat([part.detach().float().cpu() for part in parts], dim=1).numpy()
    return found / np.maximum(np.linalg.norm(found, axis=0), 1e-9)
