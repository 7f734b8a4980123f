"""Texts as numbers: pieces of words by byte-pair encoding, and hashed words and runs of letters.

Byte-level pieces know every script and sign, so no text is lost or refused. Pieces are learned from the texts of a run
and kept as the JSON of ``tokenizers``. Grams are hashed with a fixed function: two names that are spelled alike share
most of theirs, whatever was trained.
Leaves out: what texts are written (``captions``), networks (``nn.language``).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

PAD, BEGIN, END = 0, 1, 2
SPECIAL = ("<pad>", "<begin>", "<end>")
GRAMS = 8192  # hash buckets; number 0 is padding
RUNS = (3, 4)  # letters
MOST_GRAMS = 160  # of a text
MOST_LETTERS = 2_000  # of a text that are looked at


class Pieces:
    """Vocabulary of pieces.

    Parameters
    ----------
    plain
        JSON text of a tokenizer, as ``plain`` gives it.
    """

    def __init__(self, plain: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(plain)

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, marks: Sequence[str] = ()) -> Self:
        """Learn at most ``size`` pieces from texts; ``marks`` are never split."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[*SPECIAL, *marks],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(texts, trainer)
        return cls(made.to_str())

    @property
    def plain(self) -> str:
        """JSON text."""
        return self._tokenizer.to_str()

    def __len__(self) -> int:
        """Number of pieces."""
        return self._tokenizer.get_vocab_size()

    def number(self, piece: str) -> int:
        """Number of a piece or mark."""
        found = self._tokenizer.token_to_id(piece)
        if found is None:
            raise KeyError(piece)
        return found

    def encode(self, texts: Sequence[str], length: int, *, closed: bool = False) -> NDArray[np.int32]:
        """``(n, length)`` numbers of pieces, padded by 0; ``closed`` puts marks of begin and end around."""
        found = np.full((len(texts), length), PAD, dtype=np.int32)
        room = length - 2 * closed
        for row, one in enumerate(self._tokenizer.encode_batch([text[:MOST_LETTERS] for text in texts])):
            ids = one.ids[:room]
            found[row, : len(ids) + 2 * closed] = [BEGIN, *ids, END] if closed else ids
        return found

    def decode(self, numbers: Sequence[int]) -> str:
        """Text of pieces up to the end mark; other marks are kept as they are."""
        kept = []
        for number in map(int, numbers):
            if number == END:
                break
            if number not in (PAD, BEGIN):
                kept.append(number)
        return self._tokenizer.decode(kept, skip_special_tokens=False).strip()


def grams_of(text: str) -> list[int]:
    """Hash buckets of the words of a text and of their runs of letters, each once."""
    found: dict[int, None] = {}
    for word in re.findall(r"\w[\w+\-]*", text[:MOST_LETTERS].lower()):
        edged = f"<{word}>"
        parts = [edged, *(edged[at : at + run] for run in RUNS for at in range(len(edged) - run + 1))]
        found.update(dict.fromkeys(1 + zlib.crc32(part.encode()) % (GRAMS - 1) for part in parts))
    return list(found)


def encode_grams(texts: Sequence[str], most: int = MOST_GRAMS) -> NDArray[np.int32]:
    """``(n, most)`` hash buckets, padded by 0."""
    found = np.zeros((len(texts), most), dtype=np.int32)
    for row, text in enumerate(texts):
        some = grams_of(text)[:most]
        found[row, : len(some)] = some
    return found
