"""A language model that others have trained speaks of cells: a soft prefix in front, low-rank updates inside.

The states of a cell are projected to the width of a causal language model and stand before the text (BLIP-2, Li et al.
2023); the projection and low-rank updates learn, the model itself does not change (LoRA, Hu et al. 2022).
Leaves out: which sentences to say (``words``), when to learn them (``objectives``), sampling, and models that have an
encoder of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.atomic import atomic_dir
from syncyte.config import Config
from syncyte.errors import CheckpointError, ConfigError, DataError, SyncyteError
from syncyte.models.pretrained_folder import (
    check_complete,
    fingerprint,
    optional,
    quiet,
    read_config,
    read_model,
    speaks,
)

LEARNED, SAVED, FORMAT = "language.safetensors", "language.json", 1
UNSCORED = -100


class LanguageSizes(Config):
    """How a language model learns.

    Attributes
    ----------
    rank, alpha, dropout
        Of the low-rank updates, which are scaled by ``alpha / rank``.
    targets
        Names of the layers that get one; by default those that peft knows for the architecture.
    length
        Most pieces of a text that is learned.
    precision
        Of the weights that do not learn; those that do are float32.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    targets: tuple[str, ...] | None = None
    length: Annotated[int, Field(ge=1)] = 128
    precision: Literal["float32", "bfloat16"] = "float32"


class LanguageModel(nn.Module):
    """A causal language model from a folder that speaks after a soft prefix; the prefix and low-rank updates learn.

    A sentence is: the token of the beginning (where the tokenizer has one), the projected states, the pieces, the token
    of the end. ``state_dict`` holds what learns and nothing else, and ``load_state_dict`` asks for no more.

    Parameters
    ----------
    folder
        ``config.json``, weights as safetensors, and a tokenizer.
    inward
        Width of the states of cells.
    sizes
        See ``LanguageSizes``.

    Raises
    ------
    DataError
        If files are missing, damaged, or pickled.
    ConfigError
        If the model is no causal one, has no token for the end, or no known layers to update.
    """

    def __init__(self, folder: str | os.PathLike[str], inward: int, sizes: LanguageSizes | None = None) -> None:
        super().__init__()
        self.folder = check_complete(folder, "AutoModelForCausalLM")
        self.inward, self.sizes = inward, sizes or LanguageSizes()
        self._config = read_config(self.folder)
        if not speaks(self._config):
            raise ConfigError(
                f"{self.folder} holds a {self._config.model_type} model, which is no causal language model. Give the "
                "folder of one (GPT, Llama and their kin); encoders are for SentenceEncoder."
            )
        dtype = getattr(torch, self.sizes.precision)
        base, self._tokenizer = read_model(self.folder, self._config, "AutoModelForCausalLM", dtype)
        if self._tokenizer.eos_token_id is None:
            raise ConfigError(
                f"The tokenizer in {self.folder} has no token for the end of a text, so no sentence would ever end. "
                "Set eos_token in its tokenizer_config.json."
            )
        self.base = _adapted(base.requires_grad_(False), self._config.model_type, self.sizes)
        width = self.base.get_input_embeddings().weight.shape[1]
        self.projection = nn.Sequential(nn.Linear(inward, width), nn.GELU(), nn.Linear(width, width))
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        # by name: a stage may freeze some of them for a while
        self._learned = frozenset(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        self.register_state_dict_post_hook(_without_base)
        self.register_load_state_dict_pre_hook(_with_base)

    def loss(self, prefix: Float[Tensor, "b q w"], texts: Sequence[str]) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Mean cross-entropy of the pieces of texts after their cells (nats), and how many were scored.

        The end counts as a piece, unless the text was cut at ``length``; prefix and padding do not.

        Raises
        ------
        DataError
            If prefix and texts do not go together.
        """
        before = self._before(prefix)
        check_texts(texts)
        if len(texts) != len(prefix):
            raise DataError(f"There are {len(prefix)} cells and {len(texts)} texts. Give one text a cell.")
        pieces, real = self._pieces(texts)
        self._check_room(before.shape[1] + pieces.shape[1])
        states = torch.cat([before, self.base.get_input_embeddings()(pieces)], dim=1)
        seen = torch.cat([real.new_ones(before.shape[:2]), real], dim=1).long()
        scores = self.base(inputs_embeds=states, attention_mask=seen, use_cache=False).logits
        scores = scores[:, before.shape[1] - 1 : -1].float()
        target = pieces.masked_fill(~real, UNSCORED)
        total = F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=UNSCORED, reduction="sum")
        count = real.sum().clamp_min(1)
        return total / count, count

    @torch.no_grad()
    def generate(self, prefix: Float[Tensor, "b q w"], max_new: int = 64, beams: int = 1) -> list[str]:
        """The likeliest sentence after each cell: greedily, or by beams; the same prefix gives the same sentence.

        Parameters
        ----------
        max_new
            Most pieces; a sentence that has not ended by then is cut off.
        beams
            Sentences followed at a time; 1 takes the likeliest piece at each step.
        """
        before = self._before(prefix)
        if not len(before):
            return []
        self._check_room(before.shape[1] + max_new)
        learning = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with quiet():  # settings of the folder for sampling are not used, which would be warned of
                pieces = self.base.generate(
                    inputs_embeds=before,
                    attention_mask=torch.ones(before.shape[:2], dtype=torch.long, device=before.device),
                    max_new_tokens=max_new,
                    num_beams=beams,
                    do_sample=False,
                    eos_token_id=self._tokenizer.eos_token_id,
                    pad_token_id=self._tokenizer.eos_token_id,
                )
        finally:
            for module in learning:
                module.training = True
        return [text.strip() for text in self._tokenizer.batch_decode(pieces, skip_special_tokens=True)]

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write what was learned, and where the base model lies; its weights are not copied."""
        from safetensors.torch import save_file

        base = {"folder": str(self.folder.resolve()), "fingerprint": fingerprint(self.folder)}
        facts = {"format": FORMAT, "inward": self.inward, "sizes": self.sizes.model_dump(mode="json"), "base": base}
        with atomic_dir(folder, overwrite) as tmp:
            save_file({name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}, tmp / LEARNED)
            (tmp / SAVED).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> Self:
        """Read what ``save`` wrote.

        Parameters
        ----------
        base
            Folder of the base model, where it is no longer in its old place.

        Raises
        ------
        CheckpointError
            If files are missing or damaged, or the base model is not the one that was trained on.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder).expanduser()
        try:
            facts = json.loads((folder / SAVED).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']}; known is {FORMAT}")
            weights = load_file(folder / LEARNED)
            known = facts["base"]["fingerprint"]
            place = Path(base or facts["base"]["folder"]).expanduser()
            inward, sizes = int(facts["inward"]), LanguageSizes.parse(facts["sizes"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, SyncyteError) as error:
            raise CheckpointError(f"{folder} holds no language model that was saved here ({error}).") from error
        if not place.is_dir():
            raise CheckpointError(f"The base model of {folder} is not in {place}. Say where it is: base=FOLDER.")
        if fingerprint(place) != known:
            raise CheckpointError(
                f"The model in {place} is not the one that {folder} was trained on: configuration, tokenizer or "
                "weights differ. Give the folder of that one: base=FOLDER."
            )
        model = cls(place, inward, sizes)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"The weights in {folder} do not fit the model ({error}). Copy it again.") from error
        return model

    def _before(self, prefix: Float[Tensor, "b q w"]) -> Float[Tensor, "b p h"]:
        """What stands before the pieces: the beginning, and the cell."""
        if prefix.ndim != 3 or prefix.shape[2] != self.inward:
            raise DataError(
                f"The prefix has the shape {tuple(prefix.shape)}; needed is (cells, queries, {self.inward})."
            )
        embed, first = self.base.get_input_embeddings(), self._tokenizer.bos_token_id
        states = self.projection(prefix.to(next(self.projection.parameters()).dtype)).to(embed.weight.dtype)
        if first is None:
            return states
        begin = embed(torch.full((len(states), 1), first, device=states.device))  # some models scale in this step
        return torch.cat([begin, states], dim=1)

    def _pieces(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Numbers of pieces, and which are real."""
        end = self._tokenizer.eos_token_id
        most = self.sizes.length
        found = self._tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=most)["input_ids"]
        cut = [torch.tensor([*pieces, end][:most]) for pieces in found]
        padded = nn.utils.rnn.pad_sequence(cut, batch_first=True, padding_value=end)
        real = torch.arange(padded.shape[1]) < torch.tensor([len(pieces) for pieces in cut])[:, None]
        device = next(self.projection.parameters()).device
        return padded.to(device), real.to(device)

    def _check_room(self, count: int) -> None:
        most = getattr(self._config, "max_position_embeddings", None)
        if most and count > most:
            raise ConfigError(
                f"Beginning, prefix and text take {count} places, and the model in {self.folder} has {most}. Lower "
                "length or max_new."
            )


def _adapted(base: Any, kind: str, sizes: LanguageSizes) -> Any:
    """A frozen language model with low-rank updates in it, which start at zero."""
    peft = optional("peft", "A language model that learns")
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    head = base.get_output_embeddings()
    layers = {name.rpartition(".")[2]: part for name, part in base.named_modules() if isinstance(part, kinds)}
    names = ", ".join(sorted(name for name, part in layers.items() if part is not head))
    targets = KNOWN.get(kind) if sizes.targets is None else list(sizes.targets)
    if targets is None:
        raise ConfigError(f"peft knows no layers to update in a {kind} model. Give targets, some of: {names}.")
    transposed = any(isinstance(part, Conv1D) for part in layers.values())
    settings = {"r": sizes.rank, "lora_alpha": sizes.alpha, "lora_dropout": sizes.dropout}
    lora = peft.LoraConfig(**settings, target_modules=targets, fan_in_fan_out=transposed)
    try:
        return peft.inject_adapter_in_model(lora, base)
    except ValueError as error:
        raise ConfigError(
            f"The layers {targets} cannot be updated in a {kind} model. Give some of: {names}."
        ) from error


def _without_base(module: LanguageModel, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Hook: take what does not learn out of a state."""
    for name in [name for name in state if name.startswith(prefix) and name[len(prefix) :] not in module._learned]:
        del state[name]


def _with_base(module: LanguageModel, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Hook: fill a state up with the model's own base, so that it is strictly complete."""
    for name, tensor in module.base.state_dict(prefix="base.").items():
        if name not in module._learned:
            state.setdefault(prefix + name, tensor)


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is no list of texts, with the row."""
    if isinstance(texts, str):
        raise DataError(f"One text was given ({texts!r:.60}); needed is a list of texts.")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"Text {row} is {text!r:.60}, which is no text. Leave out what has none.")
