"""Multi-head self-attention over padded tokens, through torch's scaled_dot_product_attention.

No compiled kernels of third parties: the same code runs on CPU and every GPU. Leaves out dropout on the
attention weights (no gain was seen at these sizes) and positional terms (tokens carry their identity).
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Shared attention of all modalities.

    Parameters
    ----------
    width
        Token width ``d``.
    heads
        Number of heads; divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.outward = nn.Linear(width, width)

    def forward(
        self, states: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"], queries: int | None = None
    ) -> Float[Tensor, "b q d"]:
        """Attend over valid tokens only; with ``queries`` only the first tokens ask, and only they are returned."""
        cells, tokens, width = states.shape
        asked = tokens if queries is None else queries
        query = self.query(states[:, :asked]).view(cells, asked, self.heads, -1).transpose(1, 2)
        shaped = self.key_value(states).view(cells, tokens, 2, self.heads, width // self.heads)
        key, value = shaped.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None, :])
        return self.outward(mixed.transpose(1, 2).reshape(cells, asked, width))
