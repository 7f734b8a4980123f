"""A transformer over rank-value gene tokens that others have trained, from a folder: BERT and its kin, as it is.

The folder holds ``config.json``, weights as safetensors, a dictionary of tokens (``*token_dictionary*``) and one of
medians (``*gene_median*``), each JSON or a pickle of plain values; where genes of the data go by symbol,
``*gene_name_id*`` has their Ensembl ids. Where the file calls its tensors otherwise than transformers does, a table of
names lies beside it (``rename``). A dictionary with ``<cls>`` and ``<eos>`` says that lists stand between these two.
The states of all tokens of the last layer are given out; nothing learns, nothing is downloaded, no code is run.
Leaves out: heads, training, what the states are used for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import nn

from syncyte.data.rank_tokens import rank_tokens
from syncyte.errors import ConfigError, DataError
from syncyte.genome.dictionaries import read_medians, read_symbols, read_token_numbers
from syncyte.models.pretrained_folder import (
    CONFIG,
    SHARDS,
    WEIGHTS,
    check_complete,
    fingerprint,
    optional,
    quiet,
    read_config,
    read_json,
    said,
)
from syncyte.models.rename import TABLES, read_renames, rename

TOKENS, MEDIANS, SYMBOLS = "*token_dictionary*", "*gene_median*", "*gene_name_id*"
READABLE = (".json", ".pkl", ".pickle")
PAD, BEGIN, END = "<pad>", "<cls>", "<eos>"
BATCH = 16  # cells: attention over thousands of genes is wide


class GeneTransformer:
    """A gene-token transformer from a folder.

    Parameters
    ----------
    folder
        See above.
    device
        Where it runs.
    length
        Most tokens of a cell, special ones included; 0 for what the folder has places for.
    batch
        Cells at a time; changes the speed alone.

    Attributes
    ----------
    vocabulary
        Names of the genes that have a token and a median, in the order of their tokens.
    symbols
        Ensembl id by symbol, where the folder has them.
    width
        Of the states.

    Raises
    ------
    ConfigError
        If there is no such folder, or ``length`` does not fit.
    DataError, GenomeError
        If files are missing or damaged, or do not fit each other.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, device: str | torch.device = "cpu", length: int = 0, batch: int = BATCH
    ) -> None:
        self.folder = check_complete(folder, "AutoModel", tokenizer=False)
        self.name, self.batch = self.folder.name, max(1, batch)
        numbers = read_token_numbers(_one(self.folder, TOKENS))
        medians = read_medians(_one(self.folder, MEDIANS))
        symbols = _one(self.folder, SYMBOLS, needed=False)
        self.symbols = {} if symbols is None else read_symbols(symbols)
        genes = sorted((name for name in numbers if name in medians), key=numbers.__getitem__)
        if not genes:
            raise DataError(
                f"No token of {self.folder} has a median: the two dictionaries are of different models. Copy both from "
                "where the model came from."
            )
        self.vocabulary = pd.Index(genes, dtype=object)
        self.medians = np.array([medians[name] for name in genes])
        self._number = np.array([numbers[name] for name in genes], dtype=np.int64)
        self._pad = numbers.get(PAD, 0)
        self._frame = [numbers[BEGIN], numbers[END]] if BEGIN in numbers and END in numbers else []
        config = read_config(self.folder)
        if config.is_encoder_decoder or not hasattr(config, "hidden_size"):
            raise ConfigError(f"{self.folder} holds a {config.model_type} model; an encoder such as BERT is needed.")
        largest = max(numbers.values())
        if largest >= config.vocab_size:
            raise DataError(
                f"The dictionary in {self.folder} goes to number {largest:,}, the model has {config.vocab_size:,} "
                "tokens: they are of different models. Copy both from where the model came from."
            )
        self._model = _load(self.folder, config).to(device)
        self.width = int(config.hidden_size)
        places = int(getattr(config, "max_position_embeddings", 0)) or 2048
        least = len(self._frame) + 1
        if length and not least <= length <= places:
            raise ConfigError(f"length={length} does not fit {self.folder}: give a number from {least} to {places}.")
        self.length = length or places

    def to(self, device: torch.device) -> None:
        """Move it."""
        self._model.to(device)

    @property
    def fingerprint(self) -> str:
        """Short word for what it does: model, dictionaries and table of names."""
        digest = sha256(fingerprint(self.folder).encode())
        for path in self.files:
            if path.suffix != ".safetensors" and path.name != CONFIG:
                digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:32]

    @property
    def files(self) -> list[Path]:
        """All that it was read from."""
        weights = sorted(self.folder.glob("model*.safetensors"))
        shards = [self.folder / SHARDS] if (self.folder / SHARDS).is_file() else []
        tables = [self.folder / name for name in TABLES if (self.folder / name).is_file()]
        dictionaries = [_one(self.folder, pattern, needed=False) for pattern in (TOKENS, MEDIANS, SYMBOLS)]
        return [self.folder / CONFIG, *weights, *shards, *tables, *(path for path in dictionaries if path is not None)]

    def states(self, counts: sp.csr_matrix) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """States ``(b, n, d)`` of the last layer and which are of genes ``(b, n)``, some cells at a time, in order.

        Parameters
        ----------
        counts
            ``(cells, g)`` raw counts, columns as ``vocabulary``. A cell without any of its genes has no valid state.
        """
        for first in range(0, counts.shape[0], self.batch):
            yield self._read(sp.csr_matrix(counts[first : first + self.batch]))

    @torch.inference_mode()
    def _read(self, counts: sp.csr_matrix) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        found = rank_tokens(counts, self.medians, self.length - len(self._frame))
        cells, longest = found.genes.shape
        before, size = len(self._frame) // 2, found.valid.sum(axis=1)
        ids = np.full((cells, max(longest + len(self._frame), 1)), self._pad, dtype=np.int64)
        seen = np.zeros(ids.shape, dtype=bool)
        genes = np.zeros(ids.shape, dtype=bool)
        genes[:, before : before + longest] = found.valid
        ids[genes] = self._number[found.genes[found.valid]]
        seen |= genes
        if self._frame:
            ids[:, 0], ids[np.arange(cells), size + 1] = self._frame
            seen[:, 0] = seen[np.arange(cells), size + 1] = True
        device = self._model.device
        seen[:, 0] = True  # a cell without genes must have something to look at
        out = self._model(
            input_ids=torch.from_numpy(ids).to(device), attention_mask=torch.from_numpy(seen).long().to(device)
        )
        return out.last_hidden_state.float().cpu().numpy(), genes


def is_gene_transformer(folder: Path) -> bool:
    """Whether a folder looks like one: a configuration of transformers and a dictionary of tokens."""
    return (folder / CONFIG).is_file() and any(path.suffix in READABLE for path in folder.glob(TOKENS))


def _one(folder: Path, pattern: str, needed: bool = True) -> Any:
    """The one file of a pattern; a JSON file goes before the pickle it was made from."""
    found = sorted(path for path in folder.glob(pattern) if path.suffix in READABLE)
    plain = [path for path in found if path.suffix == ".json"]
    found = plain if len(plain) == 1 else found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder} holds {len(found)} files like {pattern} ({names}); one is read. Remove the others.")
    if needed:
        raise DataError(
            f"{folder} has no file like {pattern}.json or {pattern}.pkl, which says how genes become tokens. Copy the "
            "dictionaries of tokens and of medians that the model was published with."
        )
    return None


def _load(folder: Path, config: Any) -> Any:
    """The encoder with its weights, which do not learn; what the file holds besides is left."""
    from safetensors.torch import load_file

    transformers = optional("transformers", "A gene transformer from a folder")
    shards = sorted(set(read_json(folder / SHARDS).get("weight_map", {}).values())) or [WEIGHTS]
    with said(folder), quiet(), torch.random.fork_rng(devices=[]):
        model: nn.Module = transformers.AutoModel.from_config(config)
        theirs = {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()}
    own = model.state_dict()
    names = rename(theirs, read_renames(folder), own)
    weights = {new: theirs[old] for old, new in names.items() if new in own}
    lacking = sorted(
        name for name in own if name not in weights and "pooler" not in name and "position_ids" not in name
    )
    if lacking:
        spare = sorted(old for old, new in names.items() if new not in own)
        raise DataError(
            f"The weights in {folder} lack {len(lacking)} tensors of the model ({', '.join(lacking[:3])}); they hold "
            f"{len(spare)} of other names ({', '.join(spare[:3]) or 'none'}). Say in {TABLES[0]} beside them which is "
            "which: two columns, ours and theirs, * for one part of a name."
        )
    wrong = [name for name in weights if weights[name].shape != own[name].shape]
    if wrong:
        raise DataError(
            f"The tensor {wrong[0]} in {folder} is {tuple(weights[wrong[0]].shape)}, by {CONFIG} it would be "
            f"{tuple(own[wrong[0]].shape)}: they are of different models. Copy the folder again."
        )
    model.load_state_dict({**own, **weights})
    return model.float().eval().requires_grad_(False)
