"""Encoders of DNA windows: what they promise, and the one trained here, in a folder of its own.

Folder: ``encoder.safetensors`` and ``encoder.json`` (shape, report, hash of the weights). Nothing is unpickled.
Leaves out: training (``train.sequences``) and networks of others (``dna_pretrained``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from syncyte.atomic import atomic_dir
from syncyte.errors import CheckpointError, ConfigError
from syncyte.models.dna_pretrained import check_windows, open_borzoi, open_enformer
from syncyte.models.pretrained_folder import CONFIG, read_json
from syncyte.nn.sequence import SequenceNet, SequenceSizes
from syncyte.types import json_ready

WEIGHTS, ABOUT, FORMAT = "encoder.safetensors", "encoder.json", 1
HALVES = ("start.table", "start.centres")  # kept in half precision, and rounded to it before they are used


class SequenceEncoder(Protocol):
    """What turns windows of ``length`` bases into vectors of ``width`` numbers.

    ``fingerprint`` changes with anything that changes the vectors. ``embed`` takes ``(b, 4, length)`` indicators with
    four zeros for an unknown base, and gives ``(b, width)`` float32 on the CPU.
    """

    length: int
    width: int
    fingerprint: str

    def embed(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b d"]:
        """Vectors of windows."""
        ...


class TrainedEncoder:
    """An encoder trained here.

    Attributes
    ----------
    length, width, fingerprint
        As of ``SequenceEncoder``.
    report
        What was measured when it was trained; ``verdict`` says whether it beats GC content and short words.

    Parameters
    ----------
    network
        The network, trained.
    report
        See ``train.sequences``.
    device
        Where it runs.
    """

    def __init__(
        self, network: SequenceNet, report: Mapping[str, Any] | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.network = network.to(device).eval().requires_grad_(False)
        self.sizes = network.sizes
        self.length, self.width, self.tasks = self.sizes.length, self.sizes.width, self.sizes.tasks
        self.report = dict(report or {})
        self._device = torch.device(device)
        self.fingerprint = _fingerprint(_state(network), self.sizes)

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        return str(self.report.get("verdict", "never tested"))

    @torch.no_grad()
    def embed(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b d"]:
        """Vectors of windows."""
        return self.network(check_windows(onehot, self.length).to(self._device)).cpu()

    @torch.no_grad()
    def predict(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b t"]:
        """Probabilities of binary targets, or expected counts: the exponential of the predicted logarithm, less one."""
        answers = self.network.both(check_windows(onehot, self.length).to(self._device))[1].cpu()
        return torch.sigmoid(answers) if self.sizes.task == "binary" else torch.expm1(answers.clamp(0, 60))

    @torch.no_grad()
    def logits(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b t"]:
        """Logits of binary targets, or logarithms of one more than the count."""
        return self.network.both(check_windows(onehot, self.length).to(self._device))[1].cpu()

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the folder; whole or not at all."""
        from safetensors.torch import save_file

        about = {
            "format": FORMAT,
            "kind": "syncyte sequence encoder",
            "sizes": self.sizes.model_dump(),
            "fingerprint": self.fingerprint,
            "report": json_ready(self.report),
        }
        with atomic_dir(folder, overwrite) as tmp:
            save_file(_state(self.network), tmp / WEIGHTS)
            (tmp / ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")
        return Path(folder)


def open_trained(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> TrainedEncoder:
    """An encoder from the folder it was saved to.

    Raises
    ------
    CheckpointError
        If files are missing or damaged, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    missing = [name for name in (WEIGHTS, ABOUT) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} holds no sequence encoder: {', '.join(missing)} missing. Give its folder.")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has format {about['format']}; this version reads {FORMAT}. Train it again."
            )
        network = SequenceNet(SequenceSizes.parse(about["sizes"]))
        state = load_file(folder / WEIGHTS)
        network.load_state_dict({name: tensor.float() if name in HALVES else tensor for name, tensor in state.items()})
        encoder = TrainedEncoder(network, about["report"], device)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError, ConfigError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The encoder in {folder} is damaged ({reason}). Copy the folder again.") from error
    if encoder.fingerprint != about["fingerprint"]:
        raise CheckpointError(f"The weights in {folder} are not those its {ABOUT} speaks of. Copy the folder again.")
    return encoder


def open_sequence_encoder(folder: str | os.PathLike[str], **options: Any) -> SequenceEncoder:
    """The encoder of a folder, whichever kind it is; ``options`` are those of its kind.

    Raises
    ------
    ConfigError
        If the folder is not there or holds none of them.
    """
    folder = Path(folder).expanduser()
    if (folder / ABOUT).is_file():
        return open_trained(folder, **options)
    kinds: dict[str, Any] = {"enformer": open_enformer, "borzoi": open_borzoi}
    said = read_json(folder / CONFIG).get("model_type")
    if said not in kinds:
        raise ConfigError(
            f"{folder} holds no sequence encoder ({ABOUT}, or {CONFIG} of type {' or '.join(kinds)}; found {said!r}). "
            "Nothing is downloaded: give the folder of one."
        )
    return kinds[said](folder, **options)


def _state(network: SequenceNet) -> dict[str, Tensor]:
    state = network.state_dict()
    return {name: (tensor.half() if name in HALVES else tensor).cpu().contiguous() for name, tensor in state.items()}


def _fingerprint(state: Mapping[str, Tensor], sizes: SequenceSizes) -> str:
    digest = hashlib.blake2b(json.dumps(sizes.model_dump(), sort_keys=True).encode(), digest_size=16)
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    return digest.hexdigest()
