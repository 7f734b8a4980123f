"""Terms of an ontology as this room needs them, their texts, and vectors that put related terms close together.

Two kinds of vectors, each of unit length: ``graph`` (a term is the set of its ancestors and itself, each weighted by
how few terms are below it, ``-log`` of their share; leading singular vectors over the whole ontology) and ``words``
(TF-IDF of label, definition and labels of ancestors, likewise). ``both`` joins them. ``random`` is the control that
every score made with texts is to be printed beside: vectors of the same shape without any meaning.
Leaves out: reading an ontology (``genome.ontology``) and mapping spellings to terms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.residual import randomized_svd
from syncyte.errors import ConfigError, DataError, unknown

Kind = Literal["both", "graph", "words", "random"]

COMPONENTS = 64
ITERATIONS = 6
_WORD = re.compile(r"[a-z0-9]+")


class Term(Protocol):
    """What is known of a term. ``ancestors`` holds the distance of each, the term itself left out."""

    @property
    def label(self) -> str:
        """Name."""
        ...

    @property
    def synonyms(self) -> Sequence[str]:
        """Other names."""
        ...

    @property
    def definition(self) -> str:
        """Definition, or an empty text."""
        ...

    @property
    def ancestors(self) -> Mapping[str, int]:
        """Distance by id."""
        ...


Terms = Mapping[str, Term]


def words_of(text: str) -> list[str]:
    """Lower-case words of letters and digits; single letters are kept, for B and T are types of cells."""
    return _WORD.findall(text.lower())


def lineage(term: str, terms: Terms | None) -> dict[str, int]:
    """The term itself at distance 0 and its ancestors; the term alone where it is not known."""
    known = terms.get(term) if terms is not None else None
    return {term: 0} if known is None else {term: 0, **known.ancestors}


def text_of(term: str, terms: Terms | None, labels: Mapping[str, str] | None = None) -> str:
    """Label, definition and labels of ancestors; the given label (or the id) where the term is not known."""
    known = terms.get(term) if terms is not None else None
    if known is None or terms is None:
        return (labels or {}).get(term, term)
    above = (terms[key].label for key in known.ancestors if key in terms)
    return " ".join([known.label, known.definition, *above])


def term_vectors(
    asked: Sequence[str],
    terms: Terms | None = None,
    *,
    kind: Kind = "both",
    labels: Mapping[str, str] | None = None,
    components: int = COMPONENTS,
    seed: int = 0,
) -> tuple[NDArray[np.float64], str]:
    """Vectors of terms.

    Parameters
    ----------
    asked
        Ids, or names of types where there is no ontology.
    terms
        The ontology; None leaves the words of the labels.
    kind
        See the module.
    labels
        Names of what the ontology does not know.
    components
        Axes of each kind.
    seed
        Of the random control and the randomised SVD.

    Returns
    -------
    vectors, missing
        ``(t, k)`` float64, and one sentence on what could not be used (empty where all was).
    """
    if kind not in get_args(Kind):
        raise ConfigError(unknown("kind of term vectors", kind, get_args(Kind)))
    if not asked:
        raise DataError("No term to make vectors of; name at least one cell type.")
    if kind == "random":
        drawn = np.random.default_rng(seed).standard_normal((len(asked), 2 * components))
        return _unit(drawn), "Random vectors: a control, they carry no meaning."
    absent = [term for term in asked if terms is None or term not in terms]
    if terms is None or len(absent) == len(asked):
        missing = "No ontology: vectors come from the words of the labels alone; relations of types are not known."
        return _from_words(asked, [text_of(term, terms, labels) for term in asked], components, seed), missing
    every = [*terms, *dict.fromkeys(absent)]
    at = {term: place for place, term in enumerate(every)}
    rows = [at[term] for term in asked]
    parts = []
    if kind in ("both", "graph"):
        parts.append(_from_graph(every, terms, components, seed)[rows])
    if kind in ("both", "words"):
        texts = [text_of(term, terms, labels) for term in every]
        parts.append(_from_words(every, texts, components, seed)[rows])
    shown = ", ".join((labels or {}).get(term, term) for term in absent[:5])
    missing = f"Not in the ontology, so placed by the words of the label alone: {shown}." if absent else ""
    return np.hstack(parts), missing


def _from_graph(every: Sequence[str], terms: Terms, components: int, seed: int) -> NDArray[np.float64]:
    at = {term: place for place, term in enumerate(every)}
    rows, columns = [], []
    for term in every:
        for above in lineage(term, terms):
            if above in at:
                rows.append(at[term])
                columns.append(at[above])
    below = np.bincount(columns, minlength=len(every))
    rarity = -np.log(np.maximum(below, 1) / len(every))
    matrix = sp.csr_matrix((rarity[columns], (rows, columns)), shape=(len(every), len(every)))
    return _axes(matrix, components, seed)


def _from_words(every: Sequence[str], texts: Sequence[str], components: int, seed: int) -> NDArray[np.float64]:
    lists = [words_of(text) for text in texts]
    vocabulary = {word: place for place, word in enumerate(sorted({word for words in lists for word in words}))}
    rows = np.repeat(np.arange(len(every)), [len(words) for words in lists])
    columns = np.array([vocabulary[word] for words in lists for word in words], dtype=np.int64)
    if not len(columns):  # names without a letter or digit: nothing tells them apart
        return np.zeros((len(every), 1))
    matrix = sp.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(every), len(vocabulary)))
    matrix.sum_duplicates()
    seen = np.bincount(matrix.indices, minlength=len(vocabulary))
    weight = 1.0 + np.log((1.0 + len(every)) / (1.0 + seen))
    matrix.data = (1.0 + np.log(matrix.data)) * weight[matrix.indices]
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return _axes(sp.csr_matrix(sp.diags(1.0 / np.maximum(length, 1e-12)) @ matrix), components, seed)


def _axes(matrix: sp.csr_matrix, components: int, seed: int) -> NDArray[np.float64]:
    """Scores on the leading singular vectors, of unit length."""
    dense = matrix.astype(np.float32)
    u, s, _ = randomized_svd(
        lambda other: dense @ other, lambda other: dense.T @ other, dense.shape, components, seed, ITERATIONS
    )
    return _unit((u * s).astype(np.float64))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
