"""What a run says and what is said to it, scored: descriptions, cells from texts, searches by sentences.

Descriptions are read back and compared slot by slot with what is true of the cell; beside them stand a template with
the predicted label, one with the commonest label of the reference, and one with the true label. Cells from texts are
told by their neighbours among real training cells that neither the resampled nor the averaged rows have seen; real
held-out cells are the ceiling. Searches are scored by precision beside the share of relevant cells.
Traps. Words are alike whatever a sentence says: BLEU, ROUGE-L and discrepancy are not evidence of being right. Averages
of a type may be told perfectly by their neighbours, and are no cells.
Leaves out: typing and retrieval (``compare_words``), how real generated cells look (``compare_generate``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.classify import NeighborClassifier
from syncyte.baselines.prediction import column_means
from syncyte.errors import DataError
from syncyte.metrics.distribution import median_square, mmd2
from syncyte.metrics.text import Value, bleu, hallucinated_genes, precision_at, rouge_l, statement_scores
from syncyte.models.conditions import as_text
from syncyte.tasks.compare_generate import Ground
from syncyte.tasks.compare_words import FEWEST, WordTest
from syncyte.tasks.describe import describe_cells, slots_of
from syncyte.tasks.draw import Sampling, coder_of
from syncyte.tasks.generate import draw_plan
from syncyte.tasks.plans import plan_new
from syncyte.tasks.say_cells import plan_said
from syncyte.tasks.search import read_sentence, sentence_vector, term_scores
from syncyte.tasks.search_index import library_of
from syncyte.words.captions import Facts, parse_caption, write_captions
from syncyte.words.spoken import FIELDS

DESCRIBED = 300  # cells
TEMPLATE = 0  # wording of the templates
EACH = 60  # cells of a type that are made
NEAR = (5, 10, 25)  # neighbours
FEWEST_KIND = 5  # cells of a type in either half of the reference and among held-out cells
TOP = 50  # cells of a search
PREDICTED, ORACLE = "predicted label in a template", "true label in a template (oracle)"
COMMONEST = "commonest label in a template"
CEILING = "real held-out cells (oracle)"
Said = list[dict[str, str]]


def compare_descriptions(test: WordTest, count: int = DESCRIBED) -> pd.DataFrame:
    """Sentences about held-out cells against what is true of them.

    Columns: accuracy of each field (``slot_<field>``; such with one value in all cells are not judged) and of all
    (``slot_accuracy``), ``contradictions`` (share of sentences with a value that the truth has otherwise),
    ``hallucinated_genes`` (named but not expressed, in all); ``bleu``, ``rouge_l`` and ``discrepancy`` (squared MMD of
    vectors of sentences and references, in the run's own space of texts) against captions of the true label in any
    wording.
    """
    known = np.flatnonzero(np.isin(test.truth, test.classes))
    rows = np.sort(np.random.default_rng([test.seed, 12]).permutation(known)[:count])
    if not len(rows):
        raise DataError("No held-out cell has a label that the run knows, so no description can be right. Check names.")
    cells, expressed = test.held.take(rows), _expressed(test, rows)
    true = _true_values(test, rows)
    result = describe_cells(test.run.trained, cells, seed=test.seed)
    told = result.uns["evidence"].to_dict("records")
    guessed = [{name: str(row[name]) for name in FIELDS if row.get(name)} for row in told]
    common = _commonest(test, len(rows))
    every = {
        test.name: ([str(row["description"]) for row in told], guessed),
        PREDICTED: (_captions(test, guessed, expressed, TEMPLATE), guessed),
        COMMONEST: (_captions(test, common, expressed, TEMPLATE), common),
        ORACLE: (_captions(test, true, expressed, TEMPLATE), true),
    }
    references = _captions(test, true, expressed, None)
    scores = {name: _described(test, texts, said, true, references, expressed) for name, (texts, said) in every.items()}
    return pd.DataFrame(scores).T.astype(float).rename_axis("method")


def _described(
    test: WordTest, texts: list[str], said: Said, true: Said, references: list[str], expressed: Sequence[set[str]]
) -> dict[str, float]:
    """All numbers of one way to describe; ``said`` are the values whose quotes name no gene as expressed."""
    names = {test.run.name(test.run.term(label)).lower(): label for label in test.run.labels}
    values = {
        name: set(test.run.facts["values"].get(name, ())) | {row.get(name, "") for row in true} for name in FIELDS
    }
    judged = [name for name in FIELDS if len(values[name] - {""}) > 1]  # where all have one value, none can be wrong
    right = [{name: value for name, value in _classed(test, row).items() if name in judged} for row in true]
    found: list[dict[str, Value]] = []
    for text in texts:
        slots = {name: str(value) for name, value in parse_caption(text).items() if name in FIELDS}
        if "type" in slots:
            slots["type"] = names.get(slots["type"].lower(), slots["type"])
        found.append(_classed(test, slots))
    scores = statement_scores(right, found)
    genes = set(test.run.trained.vocabularies[test.run.modality].index.astype(str))
    invented = sum(
        len(hallucinated_genes(_unquoted(test, text, row), genes, seen))
        for text, row, seen in zip(texts, said, expressed, strict=True)
    )
    points, targets = test.run.texts(texts), test.run.texts(references)
    return {
        "slot_accuracy": scores.accuracy,
        **{f"slot_{name}": value for name, value in scores.slots.items()},
        "contradictions": scores.contradictions,
        "hallucinated_genes": float(invented),
        "bleu": bleu(references, texts),
        "rouge_l": rouge_l(references, texts),
        "discrepancy": mmd2(targets, points, scale=max(median_square(targets), 1e-9)),
    }


def _classed(test: WordTest, row: Mapping[str, str]) -> dict[str, Value]:
    """Values with the class in place of the label."""
    return {name: test.same.get(value, value) if name == "type" else value for name, value in row.items()}


def _unquoted(test: WordTest, text: str, row: Mapping[str, str]) -> str:
    """The text without its values and what it quotes of the ontology: a name or a definition may bear a gene's name."""
    slots = slots_of(test.run, row, ())
    quoted = [part for value in slots.values() for part in ([value] if isinstance(value, str) else value)]
    if test.run.ontology is not None and (term := test.run.ontology.active.get(test.run.term(str(row["type"])))):
        quoted += [*term.synonyms, *(test.run.name(key) for key in term.ancestors)]
    for part in sorted(filter(None, quoted), key=len, reverse=True):
        text = text.replace(part, " ")
    return text


def _expressed(test: WordTest, rows: NDArray[np.int64]) -> list[set[str]]:
    features = test.run.trained.vocabularies[test.run.modality].index.astype(str).to_numpy()
    counts = sp.csr_matrix(test.counts[rows])
    counts.eliminate_zeros()
    return [set(features[counts.indices[a:b]]) for a, b in zip(counts.indptr, counts.indptr[1:])]


def _true_values(test: WordTest, rows: NDArray[np.int64]) -> Said:
    """What the data say of cells, in the labels of the run."""
    label = dict(zip(reversed(test.own), reversed(test.run.labels), strict=True))
    found: Said = [{"type": label[name]} for name in test.truth[rows]]
    for name, column in test.run.facts["columns"].items():
        if name in FIELDS and name != "type" and column in test.held.obs.columns:
            for row, value in zip(found, as_text(test.held.obs[column]).to_numpy()[rows], strict=True):
                row |= {name: str(value)} if value else {}
    return found


def _commonest(test: WordTest, count: int) -> Said:
    """The commonest value of each field in what the run remembers of the reference, for every cell alike."""
    table = test.run.trained.tables["reference"]
    names = [name for name in FIELDS if name in table and (as_text(table[name]) != "").any()]
    said = {name: str(as_text(table[name]).loc[lambda column: column != ""].mode().iloc[0]) for name in names}
    return [dict(said) for _ in range(count)]


def _captions(test: WordTest, said: Said, expressed: Sequence[set[str]], wording: int | None) -> list[str]:
    run = test.run
    facts = []
    for row, seen in zip(said, expressed, strict=True):
        key = run.term(row["type"])
        more = {name: value for name, value in row.items() if name != "type"}
        facts.append(Facts(type=key if key in run.terms else run.name(key), expressed=tuple(sorted(seen)), **more))
    markers = run.markers.genes
    written = write_captions(facts, terms=run.terms, markers=markers, drop=0.0, wording=wording, seed=test.seed)
    return [caption.text for caption in written]


def compare_said_cells(test: WordTest, each: int = EACH, how: Sampling | None = None) -> pd.DataFrame:
    """Cells made from the text of each type, told by their nearest real training cells.

    ``accuracy_k`` is the share of cells whose k nearest cells, of one half of the reference and on its principal
    components, are mostly of the type that was asked for; ``share_k`` the same over that of the ceiling. Types with few
    cells on either side are left out; all others weigh alike.
    """
    rng = np.random.default_rng([test.seed, 13])
    order = rng.permutation(len(test.known))
    near, other = order[: len(order) // 2], order[len(order) // 2 :]
    labels = [label for label, name in zip(test.run.labels, test.own, strict=True) if _enough(test, name, near, other)]
    if len(labels) < 2:
        raise DataError(
            f"{len(labels)} types have {FEWEST_KIND} cells in each half of the reference and among held-out cells; two "
            "are needed to score cells from texts. Give more cells, or check that labels are spelled alike."
        )
    counts = test.reference_counts
    ground = Ground.fit(sp.csr_matrix(counts[near]), test.seed)
    judges = {k: NeighborClassifier(k).fit(ground.training, test.known[near]) for k in NEAR}
    asked = np.repeat([test.same.get(label, label) for label in labels], each)
    rows: dict[str, dict[str, float]] = {}
    for name, (made, wanted) in _made(test, labels, asked, each, how or Sampling(), rng, other).items():
        points = ground.place(made)
        found = {k: model.classes[model.predict(points).argmax(axis=1)] for k, model in judges.items()}
        rows[name] = {f"accuracy_{k}": _balanced(wanted, guess) for k, guess in found.items()}
    table = pd.DataFrame(rows).T
    for k in NEAR:
        table[f"share_{k}"] = table[f"accuracy_{k}"] / max(float(table.loc[CEILING, f"accuracy_{k}"]), 1e-12)
    return table.astype(float).rename_axis("cells")


def _made(
    test: WordTest,
    labels: Sequence[str],
    asked: NDArray[np.str_],
    each: int,
    how: Sampling,
    rng: np.random.Generator,
    other: NDArray[np.int64],
) -> dict[str, tuple[sp.csr_matrix, NDArray[np.str_]]]:
    """Counts of cells by method, and the class each cell should be of."""
    texts = type_texts(test, labels)
    said = said_counts(test, texts, each, how)
    held = [_some(test.truth, name, each, rng) for name in dict.fromkeys(asked)]
    found = {test.name: (said, asked)}
    if (column := test.run.facts["columns"]["type"]) in coder_of(test.run.trained).attributes:
        plans = [plan_new(test.run.trained, each, {column: x}, how, test.seed, salt=i) for i, x in enumerate(labels)]
        drawn = [_drawn(test, plan) for plan in plans]
        found["labels instead of texts"] = sp.vstack(drawn, format="csr"), asked
    rows = np.concatenate([_some(test.known[other], name, each, rng) for name in asked[::each]])
    found["resampled training cells"] = sp.csr_matrix(test.reference_counts[other][rows]), asked
    means = [column_means(test.reference_counts[other][test.known[other] == name]) for name in asked[::each]]
    found["mean expression of each type"] = sp.csr_matrix(np.repeat(np.stack(means), each, axis=0)), asked
    found["shuffled texts (control)"] = said, rng.permutation(asked)  # as if every cell had got the text of any type
    rows = np.concatenate(held)
    found[CEILING] = sp.csr_matrix(test.counts[rows]), test.truth[rows]
    return found


def type_texts(test: WordTest, labels: Sequence[str]) -> list[str]:
    """The sentence that asks for a type: its name in the first wording."""
    facts = [Facts(type=test.run.name(test.run.term(label))) for label in labels]
    return [caption.text for caption in write_captions(facts, drop=0.0, wording=TEMPLATE)]


def said_counts(test: WordTest, texts: Sequence[str], each: int, how: Sampling) -> sp.csr_matrix:
    """``(t * each, f)`` counts of cells from texts alone."""
    return _drawn(test, plan_said(test.run.trained, texts, each, how, test.seed))


def _drawn(test: WordTest, plan: Any) -> sp.csr_matrix:
    counts = draw_plan(test.run.trained, plan, seed=test.seed, quiet=True).counts
    return sp.csr_matrix(counts, dtype=np.float32)


def _enough(test: WordTest, name: str, near: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    sides = (test.known[near], test.known[other], test.truth)
    return all(int((side == name).sum()) >= FEWEST_KIND for side in sides)


def _some(labels: NDArray[np.str_], name: str, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """So many cells of a class; from the start again where there are fewer."""
    rows = rng.permutation(np.flatnonzero(labels == name))
    return np.resize(rows, count)


def _balanced(wanted: NDArray[np.str_], guess: NDArray[Any]) -> float:
    return float(np.mean([(guess[wanted == name] == name).mean() for name in np.unique(wanted)]))


def compare_searches(test: WordTest) -> pd.DataFrame:
    """Searches for each class by its name, and for two of three classes with the third excluded.

    ``precision`` is of the first ``k`` cells (50, or as many as there are), by terms; ``by_vectors`` the same of the
    sentence as a whole; ``chance`` the share of relevant cells. ``read_as`` is what the run took the sentence for.
    """
    names = np.asarray(test.truth)
    classes = [name for name in test.classes if int((names == name).sum()) >= FEWEST]
    library = library_of(test.run, test.asked)
    queries = [(name, names == name) for name in classes]
    often = sorted(classes, key=lambda name: (-int((names == name).sum()), name))
    for turn in range(2 if len(often) >= 3 else 0):
        a, b, c = (often[(place + turn) % len(often)] for place in range(3))
        queries.append((f"{_asked(test, a)} or {_asked(test, b)}, not {_asked(test, b)}", names == a))
        if turn == 0:
            wanted = np.isin(names, [a, c])
            queries.append(
                (f"{_asked(test, a)} or {_asked(test, b)} or {_asked(test, c)}, not {_asked(test, b)}", wanted)
            )
    rows = {}
    for query, right in queries:
        text = _asked(test, query) if query in classes else query
        read, k = read_sentence(test.run, text), min(TOP, int(right.sum()))
        cosines = np.asarray(library.vectors) @ sentence_vector(test.run, text)
        rows[text] = {
            "precision": precision_at(term_scores(test.run, library, read), right, k),
            "by_vectors": precision_at(cosines, right, k),
            "chance": float(right.mean()),
            "k": k,
            "read_as": read.explain().splitlines()[0].removeprefix("Read as: "),
        }
    return pd.DataFrame(rows).T.infer_objects().rename_axis("query")


def _asked(test: WordTest, name: str) -> str:
    """The spelling of the run for a class."""
    return test.run.labels[test.own.index(name)]
