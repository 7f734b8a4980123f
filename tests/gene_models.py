"""Folders of tiny gene transformers with random weights and dictionaries, as a user would have published ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

SPECIAL = ("<pad>", "<mask>")
FRAMED = (*SPECIAL, "<cls>", "<eos>")
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def ensembl(number: int) -> str:
    return f"ENSG{number:011d}"


def save_gene_model(
    folder: Path, genes: Sequence[str], *, framed: bool = False, places: int = 48, pickled: bool = False, seed: int = 0
) -> Path:
    """A BERT for masked tokens, its dictionary of tokens and medians of 0.5 to 2."""
    special = FRAMED if framed else SPECIAL
    numbers = {name: place for place, name in enumerate([*special, *genes])}
    rng = np.random.default_rng(seed)
    medians = {name: float(value) for name, value in zip(genes, rng.uniform(0.5, 2, len(genes)), strict=True)}
    config = transformers.BertConfig(
        vocab_size=len(numbers), max_position_embeddings=places, pad_token_id=0, attn_implementation="eager", **SIZES
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.BertForMaskedLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    for name, values in {"token_dictionary": numbers, "gene_median_dictionary": medians}.items():
        if pickled:
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(values))
        else:
            (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def call_otherwise(folder: Path) -> None:
    """Give the tensors names of somebody else's, in place."""
    place = folder / "model.safetensors"
    tensors = load_file(place)
    save_file({_other(name): tensor.clone() for name, tensor in tensors.items()}, place)


def _other(name: str) -> str:
    name = name.removeprefix("bert.").replace("encoder.layer.", "blocks.").replace("attention.self.", "mix.")
    return f"net.{name.replace('attention.output.', 'mixed.')}"


RENAMES = """# names of somebody else
ours\ttheirs
encoder.layer.*.attention.self.**\tnet.blocks.*.mix.**
encoder.layer.*.attention.output.**\tnet.blocks.*.mixed.**
encoder.layer.*.**\tnet.blocks.*.**
**\tnet.**
"""
