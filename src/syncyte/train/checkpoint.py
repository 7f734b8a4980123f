"""The finished checkpoint in a RUN folder: written once, loaded strictly.

Which files there are is listed in ``folder``; ``checkpoint.json`` holds their fingerprints and is written last.
Loading is strict, executes nothing and maps every tensor to the CPU. Left out: building a model from the recipe.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from syncyte.atomic import atomic_file
from syncyte.errors import CheckpointError
from syncyte.train.card import render_card
from syncyte.train.folder import (
    CARD,
    CHECKPOINT_FORMAT,
    MANIFEST,
    MARK,
    METRICS,
    PREPROCESSING,
    README,
    RECIPE,
    VOCABULARIES,
    WEIGHTS,
    is_finished,
    package_version,
)
from syncyte.train.state import drop_state, sha256
from syncyte.types import json_ready

REQUIRED = (WEIGHTS, RECIPE, PREPROCESSING, CARD, METRICS)


@dataclass(frozen=True)
class Checkpoint:
    """A finished run, read and checked.

    Attributes
    ----------
    path
        RUN folder.
    recipe
        The recipe as plain values.
    weights
        Tensors by parameter name, on the CPU.
    vocabularies
        Tables by name; the index names the features.
    preprocessing
        Arrays by name.
    card, metrics
        As they were saved.
    """

    path: Path
    recipe: dict[str, Any]
    weights: dict[str, torch.Tensor]
    vocabularies: dict[str, pd.DataFrame]
    preprocessing: dict[str, np.ndarray]
    card: dict[str, Any]
    metrics: dict[str, Any]


def save_checkpoint(
    run: str | os.PathLike[str],
    *,
    weights: Mapping[str, torch.Tensor],
    recipe: Mapping[str, Any],
    vocabularies: Mapping[str, pd.DataFrame],
    preprocessing: Mapping[str, np.ndarray],
    card: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Write the finished checkpoint and remove the training state. With several processes, call it in the first only.

    Parameters
    ----------
    run
        RUN folder.
    weights, recipe
        Tensors by name, from any device; all that builds the model again, as plain values.
    vocabularies
        Tables by name; the index names the features. Text, numbers and booleans; missing text becomes empty.
    preprocessing, metrics
        Numeric arrays and numbers by name.
    card
        Sections of the model card, see ``card.render_card``.

    Raises
    ------
    CheckpointError
        If the folder holds a finished checkpoint already.
    """
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file as save_tensors

    run = Path(run)
    if is_finished(run):
        raise CheckpointError(f"{run} holds a finished checkpoint, which is never changed. Write into another folder.")
    recipe, card, metrics = json_ready(dict(recipe)), json_ready(dict(card)), json_ready(dict(metrics))
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in preprocessing.items()}
    writers: dict[str, Callable[[Path], object]] = {
        WEIGHTS: lambda path: save_tensors(copies, path),
        PREPROCESSING: lambda path: save_arrays(arrays, path),
        **{f"{VOCABULARIES}/{name}.tsv.gz": partial(_write_table, table) for name, table in vocabularies.items()},
        RECIPE: partial(_write_json, recipe),
        CARD: partial(_write_json, card),
        METRICS: partial(_write_json, metrics),
    }
    files = {}
    for name, write in writers.items():
        with atomic_file(run / name) as tmp:
            write(tmp)
            files[name] = {"bytes": tmp.stat().st_size, "sha256": sha256(tmp)}
    with atomic_file(run / README) as tmp:  # has no fingerprint: people may edit the text, it decides nothing
        tmp.write_text(render_card(card, recipe, metrics), encoding="utf-8")
    kinds = {name: _kinds(table) for name, table in vocabularies.items()}
    manifest = {"format": CHECKPOINT_FORMAT, "syncyte": package_version(), "files": files, "vocabularies": kinds}
    with atomic_file(run / MANIFEST) as tmp:
        _write_json(manifest, tmp)
    drop_state(run)


def load_checkpoint(run: str | os.PathLike[str]) -> Checkpoint:
    """Read a finished run, every file checked against its fingerprint.

    Raises
    ------
    CheckpointError
        If the folder is no finished run, a file is missing, damaged or changed, or another version wrote it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file as load_arrays
    from safetensors.torch import load_file as load_tensors

    run = Path(run).expanduser()
    manifest = _manifest(run)
    for name, facts in manifest["files"].items():
        _check_file(run / name, facts)
    try:
        return Checkpoint(
            path=run,
            recipe=_read_json(run / RECIPE),
            weights=load_tensors(run / WEIGHTS, device="cpu"),
            vocabularies={
                name: _read_table(run / f"{VOCABULARIES}/{name}.tsv.gz", kinds)
                for name, kinds in manifest["vocabularies"].items()
            },
            preprocessing=load_arrays(run / PREPROCESSING),
            card=_read_json(run / CARD),
            metrics=_read_json(run / METRICS),
        )
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The checkpoint in {run} cannot be read ({error}). Copy the folder again.") from error


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str | os.PathLike[str]) -> None:
    """Put weights into a module, strictly.

    Raises
    ------
    CheckpointError
        Naming ``source`` and the first names that are missing, left over, or of another shape.
    """
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    found = {"missing": missing, "unexpected": extra, "of another shape": shapes}
    text = "; ".join(f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in found.items() if names)
    if text:
        raise CheckpointError(
            f"The weights in {source} do not fit the model: {text}. Use the recipe they were trained with."
        )
    module.load_state_dict(dict(weights))


def _manifest(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise CheckpointError(f"There is no RUN folder {run}. Give the folder that syncyte train wrote (--out).")
    path = run / MANIFEST
    if not path.exists():
        if (run / MARK).exists():
            raise CheckpointError(
                f"Training in {run} is not finished. Go on with the same syncyte train command and --resume."
            )
        raise CheckpointError(
            f"{run} is not a run of syncyte: it has no {MANIFEST}. Give the folder that syncyte train wrote."
        )
    manifest = _read_json(path)
    if manifest.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{run} has checkpoint format {manifest.get('format')!r} of syncyte {manifest.get('syncyte', '?')}; "
            f"this is syncyte {package_version()}, which reads format {CHECKPOINT_FORMAT}. Install the version that "
            "wrote it, or train again."
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("vocabularies"), dict):
        raise CheckpointError(f"{path} is damaged: it lists no files. Copy the folder again.")
    for name in (*REQUIRED, *(f"{VOCABULARIES}/{name}.tsv.gz" for name in manifest["vocabularies"])):
        if name not in files:
            raise CheckpointError(f"{path} does not list {name}; it was changed by hand. Copy the folder again.")
    return manifest


def _check_file(path: Path, facts: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Copy the whole RUN folder again, or train again.")
    size = path.stat().st_size
    if size != facts["bytes"]:
        raise CheckpointError(
            f"{path} has {size} bytes instead of {facts['bytes']}; it was cut short or changed. Copy it again."
        )
    if sha256(path) != facts["sha256"]:
        raise CheckpointError(f"{path} is not the file that training wrote (its sha256 differs). Copy it again.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Copy it again.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no mapping. Copy it again.")
    return values


def _write_json(values: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _kinds(table: pd.DataFrame) -> dict[str, Any]:
    """List what a table needs beside its text to come back as it was."""

    def kind(values: pd.Series | pd.Index) -> str:
        return str(values.dtype) if values.dtype.kind in "biuf" else "str"

    columns = {str(name): kind(table[name]) for name in table.columns}
    return {"index": table.index.name, "index_kind": kind(table.index), "columns": columns}


def _write_table(table: pd.DataFrame, path: Path) -> None:
    text = table.to_csv(sep="\t", na_rep="", lineterminator="\n")
    # no name and time in the header: the same table gives the same bytes
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=4, mtime=0, fileobj=raw) as packed:
        packed.write(text.encode("utf-8"))


def _read_table(path: Path, kinds: Mapping[str, Any]) -> pd.DataFrame:
    table = pd.read_csv(path, sep="\t", dtype=str, na_filter=False, compression="gzip")

    def typed(values: pd.Series, kind: str) -> pd.Series:
        if kind == "bool":
            return values == "True"
        if kind.startswith("float"):
            return values.replace("", "nan").astype(kind)
        return values.astype(kind) if kind != "str" else values.astype(object)

    index = pd.Index(typed(table.iloc[:, 0], kinds["index_kind"]).to_numpy(), name=kinds["index"])
    columns = {
        name: typed(table.iloc[:, number], kind).to_numpy()
        for number, (name, kind) in enumerate(kinds["columns"].items(), start=1)
    }
    return pd.DataFrame(columns, index=index)
