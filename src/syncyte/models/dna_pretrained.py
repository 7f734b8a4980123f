"""Enformer and Borzoi, trained by others, from a folder on this machine: windows to vectors.

A window is centred on its place of interest (base ``length // 2``); the vector is the mean of the ``bins`` nearest to
that place, over both strands. Weights are put into the published classes by name, every tensor checked, so that no
loader of another package is in between: those forget settings of local folders and break with its versions. An
unknown base is four zeros; no other spelling of it is taken.
Leaves out: training them, and the tracks they predict, which change places between strands.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from syncyte.errors import ConfigError, DataError
from syncyte.models.dna_weights import built, checked_folder, fingerprint, load_weights, package_of
from syncyte.models.pretrained_folder import CONFIG, read_json

GAMMA = "use_tf_gamma"
GAMMA_BINS = 1536  # the gamma positions of the original are a table of this many bins
ENFORMER_KEPT, BORZOI_LENGTH = 896, 524_288
BORZOI_BIN, BORZOI_STEP = 32, 128  # bases of a bin, and what a window is a multiple of


@dataclass(frozen=True)
class Body:
    """A network and what must be known of it: bases in, bases of a bin, width, and how it is asked."""

    network: nn.Module
    length: int
    bin: int
    width: int
    run: Callable[[Tensor], Tensor]  # (b, 4, length) to (b, bins, channels), before what works on each bin alone
    finish: Callable[[Tensor], Tensor]  # (b, k, channels) to (b, k, width)
    settings: str


class PretrainedEncoder:
    """A network of others behind the surface of every sequence encoder.

    Attributes
    ----------
    length
        Bases of a window.
    width
        Numbers of a vector.
    fingerprint
        Hash of configuration, weights and options.

    Parameters
    ----------
    folder
        Where it came from.
    body
        The network.
    bins
        How many bins nearest to the middle are averaged.
    both_strands
        Average with the reverse complement.
    device
        Where it runs.
    """

    def __init__(
        self, folder: Path, body: Body, bins: int = 3, both_strands: bool = True, device: str | torch.device = "cpu"
    ) -> None:
        self.folder, self.length, self.width = folder, body.length, body.width
        self._body, self._both, self._device = body, both_strands, torch.device(device)
        self._count = bins
        body.network.to(self._device).eval().requires_grad_(False)
        self.fingerprint = fingerprint(folder, f"{body.settings} bins={bins} both={both_strands}")

    @torch.no_grad()
    def embed(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b d"]:
        """Vectors of windows.

        Raises
        ------
        DataError
            If the windows have another length, or entries other than 0 and 1.
        """
        x = check_windows(onehot, self.length).to(self._device)
        found = self._strand(x, False)
        if self._both:
            found = (found + self._strand(x.flip(1, 2), True)) / 2
        return found.cpu()

    def _strand(self, x: Tensor, turned: bool) -> Tensor:
        tracks = self._body.run(x)
        if turned:
            tracks = tracks.flip(1)
        middle = middle_bins(tracks.shape[1], self.length, self._body.bin, self._count)
        return self._body.finish(tracks[:, middle]).mean(dim=1).float()


def middle_bins(bins: int, length: int, size: int, count: int) -> list[int]:
    """Bins whose middle is nearest to base ``length // 2``, of ``bins`` that lie around the middle of the window.

    Of two at one distance the first is taken.

    Raises
    ------
    ConfigError
        If there are fewer than ``count``.
    """
    if not 1 <= count <= bins:
        raise ConfigError(f"bins={count} does not fit a network that gives {bins} bins. Give 1 to {bins}.")
    first = (length - bins * size) / 2
    place = length // 2 + 0.5
    away = sorted(range(bins), key=lambda number: (abs(first + (number + 0.5) * size - place), number))
    return sorted(away[:count])


def check_windows(onehot: Tensor, length: int) -> Tensor:
    """Windows as float32, once they are seen to be indicators of the right length.

    Raises
    ------
    DataError
        Otherwise.
    """
    if onehot.ndim != 3 or onehot.shape[1] != 4 or onehot.shape[2] != length:
        raise DataError(
            f"The windows have shape {tuple(onehot.shape)}; the encoder reads (n, 4, {length:,}). Cut windows of "
            "exactly that length around the place of interest."
        )
    x = onehot.to(torch.float32)
    if not (((x == 0) | (x == 1)).all() and (x.sum(dim=1) <= 1).all()):
        raise DataError(
            "The windows hold entries other than one 1 a base (a quarter for unknown bases, say). Expected indicators "
            "with four zeros where a base is unknown; make them with genome.sequence.one_hot."
        )
    return x


def open_enformer(
    folder: str | os.PathLike[str],
    *,
    bins: int = 3,
    both_strands: bool = True,
    tf_gamma: bool | None = None,
    length: int | None = None,
    device: str | torch.device = "cpu",
) -> PretrainedEncoder:
    """Enformer (Avsec et al., Nature Methods 2021) in its PyTorch port.

    Parameters
    ----------
    folder
        ``config.json`` and weights, as safetensors or ``pytorch_model.bin``.
    bins, both_strands, device
        As of ``PretrainedEncoder``.
    tf_gamma
        The gamma positions of the original instead of those computed here. By default on for windows of 1,536 bins,
        which weights from the original need, whatever the configuration says: saving a model writes False there.
        Turn it off for weights that were trained in PyTorch.
    length
        Bases; by default 1,536 bins for a network that keeps 896, else as many as it keeps.

    Raises
    ------
    MissingExtraError
        If enformer-pytorch is not installed.
    ConfigError
        If ``tf_gamma`` or ``length`` do not fit the network.
    DataError
        If files are missing, damaged or of another network.
    """
    package = package_of("enformer_pytorch", "enformer")
    folder = checked_folder(folder, "enformer")
    values = read_json(folder / CONFIG)
    network = built(package.Enformer, package.EnformerConfig, values, folder)
    size = 2**network.config.num_downsamples
    length, gamma = _enformer_geometry(network.config, length, tf_gamma, values.get("use_tf_gamma"))
    load_weights(network, folder)
    set_gamma(network, gamma)
    body = Body(
        network,
        length,
        size,
        2 * network.config.dim,
        lambda x: network(x.transpose(1, 2), return_only_embeddings=True),
        lambda h: h,
        f"enformer length={length} gamma={gamma}",
    )
    return PretrainedEncoder(folder, body, bins, both_strands, device)


def _enformer_geometry(settings: Any, length: int | None, tf_gamma: bool | None, said: Any) -> tuple[int, bool]:
    """Bases of a window and whether gamma positions are those of the original, once both are seen to fit."""
    size, kept = 2**settings.num_downsamples, settings.target_length
    if length is None:
        length = (GAMMA_BINS if kept in (ENFORMER_KEPT, -1) else kept) * size
    total = length // size
    if length % size or total < kept or (kept > 0 and (total - kept) % 2):
        raise ConfigError(
            f"length={length:,} does not fit: a multiple of {size} bases is needed, with at least {kept} bins and an "
            "even number of bins to crop. Leave it out for the length the network was trained on."
        )
    gamma = tf_gamma if tf_gamma is not None else bool(said) or total == GAMMA_BINS  # False is what saving writes
    if gamma and total != GAMMA_BINS:
        raise ConfigError(
            f"The gamma positions of the original need {GAMMA_BINS:,} bins ({GAMMA_BINS * size:,} bases) and not "
            f"{total:,}. Leave length out, or pass tf_gamma=False for weights trained in PyTorch."
        )
    return length, gamma


def set_gamma(network: nn.Module, on: bool) -> None:
    """Turn the original gamma positions on or off in every attention, and see that it took.

    Raises
    ------
    ConfigError
        If no attention has the switch: another version of the package.
    """
    layers = [module for module in network.modules() if hasattr(module, "to_rel_k")]
    for layer in layers:
        if not hasattr(layer, GAMMA):
            layers = []
            break
        setattr(layer, GAMMA, on)
    if not layers or any(getattr(layer, GAMMA) is not on for layer in layers):
        raise ConfigError(
            "The installed enformer-pytorch has no switch for gamma positions, so published weights would be used "
            "with wrong positions. Install enformer-pytorch 0.8.10 or later."
        )


def open_borzoi(
    folder: str | os.PathLike[str],
    *,
    bins: int = 3,
    both_strands: bool = True,
    length: int = BORZOI_LENGTH,
    device: str | torch.device = "cpu",
) -> PretrainedEncoder:
    """Borzoi (Linder et al., Nature Genetics 2025) in its PyTorch port.

    Parameters
    ----------
    folder, bins, both_strands, device
        As of ``open_enformer``.
    length
        Bases, a multiple of 128.

    Raises
    ------
    MissingExtraError
        If borzoi-pytorch is not installed.
    ConfigError
        If ``length`` does not fit, or the network needs attention kernels of a GPU.
    DataError
        If files are missing, damaged or of another network.
    """
    package = package_of("borzoi_pytorch", "borzoi")
    known = importlib.import_module("borzoi_pytorch.config_borzoi")
    folder = checked_folder(folder, "borzoi")
    values = read_json(folder / CONFIG)
    if values.get("flashed") and torch.device(device).type != "cuda":
        raise ConfigError(
            f"{folder} holds a Flashzoi, whose attention runs on a GPU alone. Pass device='cuda', or give the folder "
            "of a Borzoi."
        )
    kept = values.get("bins_to_return", 6144) if values.get("return_center_bins_only", True) else 16384 - 32
    if length % BORZOI_STEP or length // BORZOI_BIN < kept or (length // BORZOI_BIN - kept) % 2:
        raise ConfigError(
            f"length={length:,} does not fit: a multiple of {BORZOI_STEP} bases is needed, with at least {kept:,} bins "
            f"of {BORZOI_BIN}. Leave it out for the length the network was trained on."
        )
    network = built(package.Borzoi, known.BorzoiConfig, values, folder)
    load_weights(network, folder)
    body = Body(
        network,
        length,
        BORZOI_BIN,
        network.final_joined_convs[0].conv_layer.out_channels,
        lambda x: network.get_embs_after_crop(x).transpose(1, 2),
        lambda h: network.final_joined_convs(h.transpose(1, 2)).transpose(1, 2),
        f"borzoi length={length}",
    )
    return PretrainedEncoder(folder, body, bins, both_strands, device)
