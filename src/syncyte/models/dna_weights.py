"""Weights of published sequence networks: which files a folder must hold, and tensors put into a network by name.

Every tensor of the files and of the network must find the other. ``pytorch_model.bin`` is read as tensors alone,
without running what it holds. Leaves out: what the networks are (``dna_pretrained``).
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from syncyte.errors import ConfigError, DataError, MissingExtraError
from syncyte.models.pretrained_folder import CONFIG, SHARDS, WEIGHTS, read_json

PICKLED = "pytorch_model.bin"
_ADVICE = "Install the versions that its package asks for, in an environment of its own if need be."


def package_of(name: str, extra: str) -> Any:
    """An optional package; an error says which extra brings it, or what keeps it from being imported."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or name, extra, f"A folder of {extra.capitalize()}") from error
    except Exception as error:  # whatever a package does on import with a transformers it was not made for
        raise ConfigError(f"{_versions(name)} cannot be imported: {_short(error)}. {_ADVICE}") from error


def _versions(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} (version unknown)"

    return f"{of(package.replace('_', '-'))} with {of('transformers')}"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def checked_folder(folder: str | os.PathLike[str], kind: str) -> Path:
    """The folder, once its files are seen to be there and its configuration to be of this kind."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}. Nothing is downloaded: fetch the model and give its folder.")
    missing = [] if (folder / CONFIG).is_file() else [CONFIG]
    if not weight_files(folder):
        missing.append(f"weights ({WEIGHTS}, {SHARDS} or {PICKLED})")
    missing += [path.name for path in weight_files(folder) if not path.is_file()]
    if missing:
        raise DataError(f"{folder} is no complete model. Missing: {'; '.join(missing)}. Copy the whole folder.")
    said = read_json(folder / CONFIG).get("model_type")
    if said != kind:
        raise DataError(f"{folder / CONFIG} speaks of a model of type {said!r}; expected {kind!r}. Give its folder.")
    return folder


def weight_files(folder: Path) -> list[Path]:
    """Files of weights a folder speaks of: shards, safetensors, or the state of a model."""
    if (folder / SHARDS).is_file():
        return [folder / name for name in sorted(set(read_json(folder / SHARDS).get("weight_map", {}).values()))]
    for name in (WEIGHTS, PICKLED):
        if (folder / name).is_file():
            return [folder / name]
    return []


def built(network: Any, config: Any, values: dict[str, Any], folder: Path) -> Any:
    """A network of the package from the values of its configuration."""
    kind = network.__name__
    try:
        return network(config(**{key: value for key, value in values.items() if key != "model_type"}))
    except Exception as error:  # packages of others, with a transformers that changes under them
        raise ConfigError(
            f"{kind} of {folder} cannot be built by {_versions(network.__module__.split('.')[0])}: {_short(error)}. "
            f"{_ADVICE}"
        ) from error


def load_weights(network: nn.Module, folder: Path) -> None:
    """Put the tensors of the files into the network; every tensor of either must find the other."""
    given: dict[str, Tensor] = {}
    for path in weight_files(folder):
        given.update(_tensors(path))
    own = network.state_dict(keep_vars=True)
    names = defaultdict(list)  # Enformer knows each of its modules under two names, and files may hold one of them
    for name, tensor in own.items():
        names[id(tensor)].append(name)
    strange = sorted(set(given) - set(own))
    lacking, wrong = [], []
    for same in names.values():
        target = own[same[0]]
        found = [given[name] for name in same if name in given]
        if not found and not same[0].endswith("num_batches_tracked"):
            lacking.append(same[0])
        for tensor in found:
            if tensor.shape != target.shape:
                wrong.append(same[0])
            elif target.dtype.is_floating_point and not torch.isfinite(tensor).all():
                wrong.append(f"{same[0]} (not finite)")
            else:
                target.data.copy_(tensor)
    if strange or lacking or wrong:
        raise DataError(
            f"The weights in {folder} do not fit its {CONFIG}: {len(lacking)} tensors are missing "
            f"({', '.join(lacking[:2]) or 'none'}), {len(strange)} unknown ({', '.join(strange[:2]) or 'none'}), "
            f"{len(wrong)} of another shape or broken ({', '.join(wrong[:2]) or 'none'}). Copy the whole folder again."
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, ValueError, EOFError, RuntimeError, SafetensorError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({_short(error)}). Copy the folder of the model again.") from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise DataError(
            f"{path} holds more than tensors, and nothing of it was run. Save it as safetensors."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{path} is no table of tensors by name. Save the state of the model, not the model.")
    return found


def fingerprint(folder: Path, options: str) -> str:
    """Hash of configuration, weights and ``options``; reads the files whole."""
    digest = hashlib.blake2b(options.encode(), digest_size=16)
    for path in [folder / CONFIG, *weight_files(folder)]:
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "blake2b").digest())
    return digest.hexdigest()
