"""What is learned from one ontology, found again by its content: encoder and re-ranker in one file of a cache folder.

The name of the file is a hash of the ontology, the table of spellings, the recipe and the seed; a file that does not
fit or is damaged is made anew. 500 synonyms are hidden from encoder and index and train the re-ranker; an ontology with
few synonyms has none to spare and is mapped by letters and words alone.
Leaves out: use (``map``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.errors import SyncyteError
from syncyte.genome.ontology import Ontology
from syncyte.meter import Meter
from syncyte.words.candidates import FEATURES, Candidates
from syncyte.words.characters import LENGTH, LETTERS, PAIRS, STEPS, CharacterVectors, train_characters
from syncyte.words.lexical import Lexicon
from syncyte.words.normalise import normalise
from syncyte.words.rerank import ENSEMBLES, TREES, Reranker, train_reranker, untrained

VERSION = 2  # of the recipe: to be raised with every change of code that training or features go through
HIDDEN = 500
FEWEST = 120  # synonyms below which nothing is trained


@dataclass(frozen=True)
class Models:
    """Encoder (None where there is none) and re-ranker."""

    encoder: CharacterVectors | None
    reranker: Reranker


def without_training() -> Models:
    """Letters and words, with fixed weights."""
    return Models(None, untrained())


def cache_folder() -> Path:
    """Folder of the user for what can be made again: ``XDG_CACHE_HOME``, ``LOCALAPPDATA`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "syncyte" / "labels"


def trained_for(
    ontology: Ontology,
    *,
    cache: Path | None = None,
    seed: int = 0,
    steps: int = STEPS,
    quiet: bool = False,
) -> tuple[Models, str]:
    """Models of an ontology from the cache, or trained and put there.

    Parameters
    ----------
    ontology
        Names to learn from.
    cache
        Folder, by default that of the user.
    seed, steps
        Of training.
    quiet
        Show no progress.

    Returns
    -------
    models, note
        The note says in a sentence why something is missing; empty where nothing is.
    """
    count = sum(len(term.synonyms) for term in ontology.active.values())
    if count < FEWEST:
        why = f"{ontology.name} has {count} synonyms, and training takes {FEWEST}"
        return without_training(), f"{why}: mapped by letters and words alone."
    folder = cache_folder() if cache is None else cache.expanduser()
    place = folder / f"{_content(ontology, seed, steps)[:32]}.safetensors"
    found = _load(place)
    if found is not None:
        return found, ""
    if not quiet:
        sys.stderr.write(f"learning the names of {ontology.name} (once; then kept in {folder})\n")
    models = train(ontology, seed=seed, steps=steps, quiet=quiet)
    try:
        _save(place, models)
    except SyncyteError as error:
        return models, f"What was learned could not be kept: {error}"
    return models, ""


def train(ontology: Ontology, *, seed: int = 0, steps: int = STEPS, quiet: bool = False) -> Models:
    """Train encoder and re-ranker on the names of an ontology; the same seed gives the same on one machine."""
    every = [(key, name) for key, term in ontology.active.items() for name in term.synonyms]
    rng = np.random.default_rng(seed)
    hidden = [every[place] for place in rng.permutation(len(every))[: min(HIDDEN, len(every) // 2)]]
    rest = ontology.without(hidden)
    with Meter("learning to spell", "pairs", quiet) as meter:
        encoder = train_characters(rest.active, steps=steps, seed=seed, advance=meter.advance)
    lexicon = Lexicon(rest.active)
    spelled = [(key, normalise(name)) for key, name in hidden]
    spelled = [(key, name) for key, name in spelled if name]
    lists = Candidates(lexicon, encoder).find([name for _, name in spelled])
    with Meter("learning to choose", "trees", quiet) as meter:
        reranker = train_reranker(lists, [lexicon.at[key] for key, _ in spelled], seed=seed, advance=meter.advance)
    return Models(encoder, reranker)


def _content(ontology: Ontology, seed: int, steps: int) -> str:
    recipe = [VERSION, LETTERS, LENGTH, PAIRS, ENSEMBLES, TREES, HIDDEN, *FEATURES, seed, steps]
    digest = sha256("\x1f".join([ontology.fingerprint, *map(str, recipe)]).encode())
    digest.update((files("syncyte.words") / "spellings.tsv").read_bytes())
    return digest.hexdigest()


def _save(place: Path, models: Models) -> None:
    from safetensors.numpy import save_file

    encoder = {} if models.encoder is None else models.encoder.arrays()
    arrays = {f"encoder.{key}": value for key, value in encoder.items()}
    arrays |= {f"reranker.{key}": value for key, value in models.reranker.arrays().items()}
    with atomic_file(place) as tmp:
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, tmp)


def _load(place: Path) -> Models | None:
    """Models of a file, or None where it is missing or damaged: it can be made again."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not place.is_file():
        return None
    try:
        arrays = load_file(place)
        encoder = CharacterVectors.restore(_part(arrays, "encoder."))
        return Models(encoder, Reranker.restore(_part(arrays, "reranker.")))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        return None


def _part(arrays: Mapping[str, NDArray], start: str) -> dict[str, NDArray]:
    return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}
