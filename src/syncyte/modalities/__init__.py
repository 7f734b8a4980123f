"""The modalities; importing this package registers them all."""

from syncyte.modalities import atac, rna
from syncyte.modalities.base import Layout, Modality, Tokenizer, all_schemas, embedder, modalities

__all__ = ["Layout", "Modality", "Tokenizer", "all_schemas", "atac", "embedder", "modalities", "rna"]
