"""scMMGPT: cells and text (see docs/recipes/scmmgpt).

Paper -> parts: all token states of the cell encoder (``models.sets``), learned queries that read them
(``nn.language.Bridge``), contrast and matching of cells and texts and generation of texts (``objectives.words``), cells
from texts. Beyond the paper: every cell of a term is a positive of every text of it, both directions count, terms near
by in the ontology count in part; texts are drawn from many wordings with fields left out; the speaker says values that
can be checked and fills in genes that are there; cells are generated from the text alone, by the flow of ``scldm``
under the vector of the text, never from a reference cell. Another cell encoder, an earlier run of any modalities or a
published gene transformer, may be read beside the set model; it does not learn, a small adapter on it does.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.data.split import Split
from syncyte.errors import ConfigError
from syncyte.models.language import SAID, WordSizes
from syncyte.models.pretrained import open_text_model
from syncyte.models.pretrained_folder import check_complete
from syncyte.models.sets import SetModel
from syncyte.objectives.words import Align, Read, Speak, Texts, words_of
from syncyte.recipes import scldm
from syncyte.recipes.base import Learn, Order, Recipe, recipes
from syncyte.recipes.scldm import SAME
from syncyte.recipes.train_sets import Added, Built, More, SetRecipe, prepare_sets
from syncyte.recipes.word_encoder import Second
from syncyte.recipes.word_memory import remember
from syncyte.recipes.word_speaker import teach
from syncyte.recipes.word_texts import Lexis, read_lexis, write_pairs, write_texts
from syncyte.recipes.word_types import WordsConfig
from syncyte.train.distributed import Worker
from syncyte.train.plan import StageConfig
from syncyte.words.markers import read_markers
from syncyte.words.pieces import GRAMS

READ_AT_ONCE = 512  # texts


def prepare_words(recipe: Recipe, config: SetRecipe, cells: Cells, order: Order) -> Learn:
    """Check what can be checked before anything is written, and give what trains."""
    if order.label_key is None:
        raise ConfigError("scmmgpt learns from the types of cells: name their column with --label-key.")
    if config.words is None:
        raise ConfigError("The settings have no part 'words', without which this recipe is scldm.")
    if order.text_key is not None:
        cells.column(order.text_key)
    if config.words.speaker:
        check_complete(config.words.speaker, "AutoModelForCausalLM")
    if config.words.states < 1:
        raise ConfigError(f"words.states={config.words.states}: at least one state of the encoder is read of a cell.")
    return prepare_sets(recipe, config, cells, order, partial(_words, config, order))


def _words(config: SetRecipe, order: Order, cells: Cells, whole: Cells, split: Split, notes: list[str]) -> More:
    """Texts, objectives, and what is kept."""
    words = config.words
    assert words is not None and order.label_key is not None
    second = None if order.encoder is None else Second.of(order.encoder, whole, words.states, notes)
    lexis = read_lexis(
        words,
        cells,
        split.train,
        label_key=order.label_key,
        text_key=order.text_key,
        ontology=order.ontology,
        markers=read_markers() if order.markers is None else order.markers,
        seed=order.seed,
        quiet=order.quiet,
        notes=notes,
    )
    reader = open_text_model(words.reader) if words.reader else None
    texts, pairs = write_texts(words, lexis, order.seed, reader), write_pairs(words, lexis, reader)
    name = cells.modalities[0]
    shape = {key: getattr(words, key) for key in WordSizes.model_fields if key in type(words).model_fields}
    del shape["pieces"]  # so many are asked for; how many there are is known now
    shape["sentence"] = 0 if reader is None else reader.width
    if second is not None:
        shape |= {"given": second.encoder.width, "given_states": second.encoder.states}
    sizes = WordSizes(pieces=len(lexis.pieces), grams=GRAMS, **shape)

    def objectives(built: Built, run: Path, worker: Worker) -> dict[str, torch.nn.Module]:
        seen = None if second is None else second.read(built, run, worker, order.quiet)
        return {
            "align": Align(name, texts, sigmoid=words.sigmoid, match=words.match, seen=seen),
            "speak": Speak(name, texts, seen=seen),
            "read": Read(pairs),
        }

    if pairs is None:
        notes.append("Without an ontology the reader of texts learns from the texts of the cells alone.")
    finish = partial(_finish, lexis=lexis, texts=texts, order=order, second=second)
    return More(sizes, objectives, partial(_said, texts), finish)


def _finish(built: Built, run: Path, *, lexis: Lexis, texts: Texts, order: Order, second: Second | None) -> Added:
    """Teach a language model to speak, where one is named, and remember."""
    words, seen = built.config.words, None if second is None else second.seen
    assert words is not None
    if words.speaker:
        teach(built, lexis, texts.group, run, seen=seen, seed=order.seed, quiet=order.quiet)
    added = remember(built, lexis, order.batch_key, order.seed, seen)
    if second is not None:
        added.facts["words"]["encoder"] = second.finish(run)
    return added


@torch.no_grad()
def _said(texts: Texts, model: SetModel) -> Any:
    """Gives vectors of texts that are drawn for cells, as a condition of the flow; of no text, null."""
    words, training = words_of(model), model.training
    model.eval()
    groups, count = texts.pieces.shape[:2]
    owner, which = (axis.ravel() for axis in np.indices((groups, count)))
    device = words.log_scale.device
    found = []
    for first in range(0, len(owner), READ_AT_ONCE):
        some = owner[first : first + READ_AT_ONCE], which[first : first + READ_AT_ONCE]
        found.append(texts.read(words, *some, device).cpu())
    vectors = torch.cat(found).view(groups, count, -1)
    model.train(training)

    def drawn(rows: NDArray[np.int64], generator: torch.Generator) -> dict[str, torch.Tensor]:
        group, number = texts.draw(rows, generator)
        chosen = vectors[torch.from_numpy(group.clip(0)), torch.from_numpy(number)].clone()
        chosen[torch.from_numpy(group < 0)] = torch.nan
        return {SAID: chosen}

    return drawn


def _with_words(made: SetRecipe, words: dict[str, Any] | None = None, **changes: Any) -> SetRecipe:
    """A preset of ``scldm`` with a stage of words before its flow; ``changes`` are of that stage."""
    align = {
        "name": "align",
        "objectives": {"align": 1.0, "speak": 1.0, "read": 1.0},
        "epochs": 20,
        "batch_size": 128,
        "lr": 1e-3,
        "warmup_steps": 50,
        "clip": 1.0,
        "validate_every": 5.0,
        "trainable": (r"^words\.",),
        **SAME,
        **changes,
    }
    first, flow = made.stages["autoencode"], made.stages["flow"]
    added = {
        "name": "scmmgpt",
        "steps": {**made.steps, "align": (600, 6_000)} if made.steps else {},
        "each": 0.5,  # labels and texts are said alone as often as together
        "every": 0.0,
        "words": WordsConfig.parse(words or {}),
        "stages": {"autoencode": first, "align": StageConfig.parse(align), "flow": flow},
    }
    return made.model_copy(update=added)


def tiny() -> SetRecipe:
    """Seconds; for tests."""
    sizes = {"shared": 16, "queries": 2, "width": 16, "heads": 2, "layers": 1, "deep": 1, "adapter": 4}
    words = {**sizes, "pieces": 400, "texts": 8, "length": 32, "spoken": 64, "reference": 60, "map": "fast"}
    return _with_words(scldm.tiny(), words, epochs=2, batch_size=32, warmup_steps=2, validate_every=1.0)


def lite() -> SetRecipe:
    """Without attention among genes: minutes on a laptop CPU."""
    return _with_words(scldm.lite())


def small() -> SetRecipe:
    """The bridge reads the states of 192 genes too."""
    return _with_words(scldm.small())


def base() -> SetRecipe:
    """Wider texts and cells, the encoder learns on with the words while it still gives back its counts."""
    words = {"width": 192, "heads": 6, "layers": 4, "deep": 6, "pieces": 6_000, "queries": 16}
    return _with_words(
        scldm.base(),
        words,
        objectives={"align": 1.0, "speak": 1.0, "read": 1.0, "elbo": 0.01},
        trainable=(r"^words\.", r"^encoder\.", r"^decoder\."),
        lr_factors={r"^(en|de)coder\.": 0.1},
    )


recipes.add("scmmgpt")(
    Recipe(
        "scmmgpt",
        ("rna",),
        ("annotate", "search", "describe", "generate", "embed", "evaluate"),
        {"tiny": tiny, "lite": lite, "small": small, "base": base},
        prepare_words,
    )
)
