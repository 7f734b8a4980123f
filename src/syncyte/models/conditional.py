"""A small conditional autoencoder over latents: what the technical batch explains, the code need not hold.

The encoder reads latents of a cell, the decoder reads the code *and* the cell's technical batch and gives the profile
of every modality; batch effects that differ by cell type are fitted in the decoder and so leave the code. Counts are
negative binomial around profile x depth, open regions multinomial. Leaves out: the training loop and the adversary on
the code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.nn.likelihood import likelihoods


class ConditionalAutoencoder(nn.Module):
    """Code of cells and its decoders.

    Parameters
    ----------
    inputs
        Width of the latents that are read.
    shares
        By modality ``(f,)`` training share of each decoded feature, where its decoder starts.
    batches
        Number of technical batches.
    counts
        Modalities that are counts; the others are open or closed.
    code, hidden
        Widths.
    """

    def __init__(
        self,
        inputs: int,
        shares: Mapping[str, Tensor],
        batches: int,
        counts: frozenset[str],
        *,
        code: int = 16,
        hidden: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.counts = counts
        self.encoder = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 2 * code),
        )
        self.decoder = nn.Sequential(nn.Linear(code + batches, hidden), nn.LayerNorm(hidden), nn.GELU())
        self.nonlinear = nn.ModuleDict({name: nn.Linear(hidden, len(share)) for name, share in shares.items()})
        self.linear = nn.ModuleDict({name: nn.Linear(code, len(share), bias=False) for name, share in shares.items()})
        self.shift = nn.ParameterDict({name: torch.zeros(batches, len(share)) for name, share in shares.items()})
        self.dispersion = nn.ParameterDict(
            {name: torch.full((len(share),), 2.0) for name, share in shares.items() if name in counts}
        )
        for layer in self.linear.values():
            nn.init.zeros_(layer.get_parameter("weight"))
        for name, share in shares.items():
            self.nonlinear[name].get_parameter("bias").data.copy_(torch.log(share))

    def encode(self, inputs: Float[Tensor, "b i"]) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Mean and log variance of the code."""
        mean, spread = self.encoder(inputs).chunk(2, dim=1)
        return mean, spread.clamp(-8, 4)

    def decode(self, code: Float[Tensor, "b z"], batch: Float[Tensor, "b c"], modality: str) -> Float[Tensor, "b f"]:
        """Logits of a modality's profile; ``batch`` is one-hot, or shares where the batch is unknown."""
        hidden = self.decoder(torch.cat([code, batch], dim=1))
        return self.nonlinear[modality](hidden) + self.linear[modality](code) + batch @ self.shift[modality]

    def error(self, logits: Float[Tensor, "b f"], target: Float[Tensor, "b f"], modality: str) -> Float[Tensor, "b"]:
        """Negative log-likelihood of each cell, summed over features, given its depth."""
        if modality not in self.counts:
            return -(target * torch.log_softmax(logits, dim=1)).sum(dim=1)
        rate = torch.softmax(logits, dim=1) * target.sum(dim=1, keepdim=True)
        return -likelihoods["nb"].log_prob(target, rate, self.dispersion[modality].clamp(-4, 8).exp()).sum(dim=1)


def divergence(mean: Float[Tensor, "b z"], spread: Float[Tensor, "b z"]) -> Float[Tensor, "b"]:
    """Kullback-Leibler divergence of each cell's code from the standard normal."""
    return 0.5 * (mean**2 + spread.exp() - 1 - spread).sum(dim=1)


def draw(mean: Tensor, spread: Tensor) -> Tensor:
    """One draw of the code."""
    return mean + torch.randn_like(mean) * (0.5 * spread).exp()


def one_hot(codes: Tensor, shares: Float[Tensor, "c"]) -> Float[Tensor, "b c"]:
    """One-hot technical batches; the shares of all batches where unknown (-1)."""
    known = F.one_hot(codes.clamp_min(0), len(shares)).to(shares.dtype)
    return torch.where((codes >= 0)[:, None], known, shares)
