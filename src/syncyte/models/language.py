"""Words beside a set model: a reader of texts, a bridge from the tokens of cells, a matcher and a speaker.

Cells and texts meet on one sphere. What a cell shows the bridge are its gene tokens and the states of the encoder's own
queries, so nothing has to be squeezed through one vector first; where a cell model that does not learn is given beside
them, what it makes of a cell too. Knows neither cell types nor genes by name.
Leaves out: tokenizers and sentences (``words``), what is learned (``objectives.words``).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syncyte.config import Config
from syncyte.nn.language import Adapter, Bridge, Given, GivenReader, Matcher, Speaker, TextReader, likeness

SAID = ".said"  # condition of a flow: the vector of a text


class WordSizes(Config):
    """Sizes of the parts that know words.

    Attributes
    ----------
    pieces, grams
        Sizes of the vocabularies of texts.
    length, spoken
        Most pieces of a text that is read, and of one that is spoken.
    shared
        Width of the space of cells and texts.
    queries, width, heads, layers
        Of bridge and reader.
    deep
        Layers of the speaker.
    adapter
        Width of a residual layer on the tokens of cells; 0 for none.
    sentence
        Width of the vectors of a sentence model that reads instead of the small transformer; 0 for none.
    given, given_states
        Widths of the vectors and token states of another encoder of cells; 0 for none.
    """

    pieces: int
    grams: int
    length: int = 64
    spoken: int = 64
    shared: int = 256
    queries: int = 8
    width: int = 96
    heads: int = 4
    layers: int = 2
    deep: int = 3
    adapter: int = 0
    sentence: int = 0
    given: int = 0
    given_states: int = 0


class Words(nn.Module):
    """The parts of a model that know words.

    Parameters
    ----------
    inward
        Width of the tokens of cells.
    sizes
        See ``WordSizes``.
    """

    def __init__(self, inward: int, sizes: WordSizes) -> None:
        super().__init__()
        self.sizes = sizes
        layers = {"width": sizes.width, "heads": sizes.heads}
        self.reader = TextReader(
            sizes.pieces,
            sizes.grams,
            length=sizes.length,
            layers=sizes.layers,
            shared=sizes.shared,
            sentence=sizes.sentence,
            **layers,
        )
        self.adapter = Adapter(inward, sizes.adapter) if sizes.adapter else None
        self.bridge = Bridge(inward, queries=sizes.queries, layers=1, shared=sizes.shared, **layers)
        self.given: GivenReader | None = None
        if sizes.given:
            self.given = GivenReader(sizes.given, sizes.given_states, queries=sizes.queries, **layers)
        self.matcher = Matcher(sizes.shared, sizes.width)
        self.speaker = Speaker(sizes.pieces, length=sizes.spoken, inward=sizes.width, layers=sizes.deep, **layers)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.offset = nn.Parameter(torch.tensor(-5.0))  # of the sigmoid loss

    def read(
        self, pieces: Int[Tensor, "t l"], grams: Int[Tensor, "t g"], given: Float[Tensor, "t s"] | None = None
    ) -> Float[Tensor, "t d"]:
        """Vectors of texts; ``given`` are those of the sentence model, where there is one."""
        return self.reader(pieces, grams, given)

    def show(
        self, tokens: Float[Tensor, "b n e"], valid: Bool[Tensor, "b n"], given: Given | None = None
    ) -> tuple[Float[Tensor, "b q w"], Float[Tensor, "b q d"]]:
        """States of the bridge's queries, and the vectors of cells; ``given`` is what another encoder makes of them."""
        if (self.given is None) != (given is None):
            raise ValueError("Cells are shown with what another encoder makes of them where, and only where, it reads.")
        start = None if self.given is None or given is None else self.given(given)
        return self.bridge(tokens if self.adapter is None else self.adapter(tokens), valid, start)

    def scores(self, cells: Float[Tensor, "b q d"], texts: Float[Tensor, "t d"]) -> Float[Tensor, "b t"]:
        """Scaled likeness of cells and texts."""
        return self.log_scale.exp().clamp_max(100.0) * likeness(cells, texts)
