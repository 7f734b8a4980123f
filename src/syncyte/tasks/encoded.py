"""Vectors of sequences, kept on disk by what they are: the sequence, the encoder and its options.

A large encoder takes most of a minute for one window, and the same windows come back in every question. Each different
sequence is encoded once. What is new is written in blocks that appear whole or not at all, so a killed run goes on
where it stopped, and several processes may fill one cache: the worst that happens is that a sequence is encoded twice.
A block whose checksum is wrong is removed and made again.
Leaves out: which windows there are, and throwing away what is old.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.errors import DataError
from syncyte.genome.sequence import content_hash, one_hot
from syncyte.meter import Meter
from syncyte.models.dna_encoder import SequenceEncoder

SECONDS, ROWS = 20.0, 512  # a block is written when either is full
FORMAT = "1"


def embed_cached(
    encoder: SequenceEncoder,
    codes: NDArray[np.uint8],
    cache: str | os.PathLike[str] | None,
    batch_size: int = 32,
    progress: bool = False,
    *,
    options: str = "",
) -> NDArray[np.float32]:
    """Vectors of windows, out of the cache where they are there.

    Parameters
    ----------
    encoder
        What makes them; its ``fingerprint`` names the folder in the cache.
    codes
        ``(n, L)`` bases; ``L`` is the length of the encoder. A memory map is read by minibatches.
    cache
        Folder, made where it is missing; ``None`` keeps nothing.
    batch_size
        Windows at a time; changes speed and memory, and the numbers by rounding alone.
    progress
        Show how far it is.
    options
        Whatever else the vectors hang on, in words.

    Returns
    -------
    numpy.ndarray
        ``(n, encoder.width)`` float32.

    Raises
    ------
    DataError
        If the windows are of another length, a vector is not finite, or the cache cannot be written.
    """
    if codes.ndim != 2 or codes.shape[1] != encoder.length:
        raise DataError(
            f"The windows have shape {codes.shape}, and the encoder reads {encoder.length:,} bases: expected "
            f"(n, {encoder.length}). Cut the windows to the length of the encoder."
        )
    keys = [content_hash(codes[row]) for row in range(len(codes))]
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    store = None if cache is None else Blocks(cache, encoder, options)
    known = {} if store is None else store.read(first)
    todo = [key for key in first if key not in known]
    known.update(_encoded(encoder, codes, [first[key] for key in todo], todo, store, batch_size, progress))
    found = np.empty((len(codes), encoder.width), dtype=np.float32)
    for row, key in enumerate(keys):
        found[row] = known[key]
    return found


def _encoded(
    encoder: SequenceEncoder,
    codes: NDArray[np.uint8],
    rows: Sequence[int],
    keys: Sequence[str],
    store: Blocks | None,
    batch_size: int,
    progress: bool,
) -> dict[str, NDArray[np.float32]]:
    """Vectors of some rows by key; written to the store while they come."""
    made: dict[str, NDArray[np.float32]] = {}
    waiting: list[str] = []
    begin = time.monotonic()
    with Meter("encoding", "windows", not progress) as meter:
        for start in range(0, len(rows), max(1, batch_size)):
            chosen = list(rows[start : start + max(1, batch_size)])
            batch = np.stack([np.asarray(codes[row]) for row in chosen])
            vectors = encoder.embed(torch.from_numpy(one_hot(batch))).detach().cpu().numpy().astype(np.float32)
            _check(vectors, len(chosen), encoder)
            names = keys[start : start + len(chosen)]
            made.update(zip(names, vectors))
            waiting += names
            if store is not None and (len(waiting) >= ROWS or time.monotonic() - begin >= SECONDS):
                store.write(waiting, np.stack([made[key] for key in waiting]))
                waiting, begin = [], time.monotonic()
            meter.advance(start + len(chosen), len(rows), start + len(chosen))
    if store is not None and waiting:
        store.write(waiting, np.stack([made[key] for key in waiting]))
    return made


def _check(vectors: NDArray[np.float32], rows: int, encoder: SequenceEncoder) -> None:
    if vectors.shape != (rows, encoder.width) or not np.isfinite(vectors).all():
        raise DataError(
            f"The encoder gave vectors of shape {vectors.shape}, all finite: {bool(np.isfinite(vectors).all())}; "
            f"expected finite ({rows}, {encoder.width}). Check its weights."
        )


class Blocks:
    """What is kept for one encoder and its options: files of vectors under the hashes of their sequences.

    Parameters
    ----------
    cache
        Folder of all encoders.
    encoder
        Its fingerprint, width and length choose the folder within.
    options
        Further words the vectors hang on.
    """

    def __init__(self, cache: str | os.PathLike[str], encoder: SequenceEncoder, options: str = "") -> None:
        about = {"format": FORMAT, "encoder": encoder.fingerprint, "width": encoder.width, "options": options}
        name = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()
        self.folder = Path(cache).expanduser() / name
        self.width = encoder.width
        self.damaged: list[str] = []  # names of blocks that were thrown away

    def read(self, wanted: dict[str, int]) -> dict[str, NDArray[np.float32]]:
        """Vectors that are here, of those ``wanted``; damaged blocks are removed."""
        found: dict[str, NDArray[np.float32]] = {}
        # not what another writer is still at: its file begins with a dot, and would be taken for a damaged block
        for path in sorted(self.folder.glob("[!.]*.npz")) if self.folder.is_dir() else ():
            block = self._block(path)
            if block is not None:
                keys, vectors = block
                found.update((key, vectors[row].copy()) for row, key in enumerate(keys) if key in wanted)
        return found

    def write(self, keys: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep ``(n, width)`` vectors as one more block."""
        names = np.array([bytes.fromhex(key) for key in keys], dtype="S16").view(np.uint8).reshape(len(keys), 16)
        check = np.frombuffer(_checksum(names, vectors), dtype=np.uint8)
        place = self.folder / f"{hashlib.blake2b(names.tobytes(), digest_size=12).hexdigest()}.npz"
        with atomic_file(place) as tmp, tmp.open("wb") as file:
            np.savez(file, keys=names, vectors=vectors, check=check)

    def _block(self, path: Path) -> tuple[list[str], NDArray[np.float32]] | None:
        try:
            with np.load(path, allow_pickle=False) as parts:
                names, vectors, check = parts["keys"], parts["vectors"], parts["check"]
        except FileNotFoundError:
            return None  # another process found it damaged first
        except PermissionError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}. Choose a cache you may read.") from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            self._drop(path)
            return None
        fits = vectors.ndim == 2 and vectors.shape == (len(names), self.width) and vectors.dtype == np.float32
        if not fits or names.shape[1:] != (16,) or check.tobytes() != _checksum(names, vectors):
            self._drop(path)
            return None
        return [row.tobytes().hex() for row in names], vectors

    def _drop(self, path: Path) -> None:
        self.damaged.append(path.name)
        path.unlink(missing_ok=True)


def _checksum(names: NDArray[np.uint8], vectors: NDArray[np.float32]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in (names, vectors):
        digest.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    return digest.digest()
