"""Folders of tiny text models with random weights and a token a word, as a user would have them of real ones."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from torch import nn

WORDS = [
    "a",
    "cell",
    "of",
    "the",
    "blood",
    "liver",
    "lung",
    "kills",
    "infected",
    "cells",
    "makes",
    "antibodies",
    "which",
]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
PAD, UNKNOWN, BEGIN, END = range(4)
TEXTS = ["a cell of the blood", "liver", "a cell which kills infected cells of the lung", "makes antibodies"]


def number(text: str) -> list[int]:
    return [len(SPECIAL) + WORDS.index(word) if word in WORDS else UNKNOWN for word in text.split()]


def write_tokenizer(folder: Path, *, framed: bool, **special: str) -> None:
    """A token a word; ``framed`` texts get a beginning and an end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
        )
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special).save_pretrained(
        folder
    )


def save(folder: Path, model: nn.Module, *, framed: bool = False, seed: int = 0, **special: str) -> Path:
    """A folder with random weights that are far from where they begin."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    write_tokenizer(folder, framed=framed, **special)
    return folder


def bert_config(**more):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.BertConfig(vocab_size=40, max_position_embeddings=24, pad_token_id=PAD, **sizes, **more)


def save_gpt(folder: Path, seed: int = 0, **special: str) -> Path:
    config = transformers.GPT2Config(vocab_size=40, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    special = special or {"bos_token": "<s>", "eos_token": "</s>"}
    return save(folder, transformers.GPT2LMHeadModel(config), seed=seed, **special)


def save_llama(folder: Path) -> Path:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.LlamaConfig(vocab_size=40, max_position_embeddings=32, **sizes)
    return save(folder, transformers.LlamaForCausalLM(config), eos_token="</s>")
