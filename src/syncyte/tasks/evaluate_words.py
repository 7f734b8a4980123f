"""Evaluate words: the tables and sentences of a run of cells and words, for a report or a page of numbers.

What a cheap baseline does better is said in the sentence of its table. What cannot be scored on some cells (too few of
a type, no label that the run knows) is said in place of the table. Leaves out: the numbers (``compare_words``,
``compare_said``) and the pages (``report``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from syncyte.errors import DataError
from syncyte.tasks.compare_said import (
    CEILING,
    COMMONEST,
    PREDICTED,
    compare_descriptions,
    compare_said_cells,
    compare_searches,
)
from syncyte.tasks.compare_words import (
    COLUMNS,
    WordTest,
    compare_prompts,
    compare_retrieval,
    compare_typing,
    prepare_test,
)
from syncyte.tasks.work import Work

Scored = dict[str, tuple[pd.DataFrame | None, str]]
BEFORE = "words "  # of the keys of tables
CONTROLS = ("shuffled texts (control)", CEILING)
LOWER = ("log_loss", "ece")  # better where lower
SAID_OF = {
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced recall",
    "ece": "calibration error",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "accuracy_10": "accuracy (10 neighbours)",
}
TYPING = (
    "Types of held-out cells. The first row is the classifier of the run; the text head compares cells with the texts "
    "of the types, the matcher ranks the five likeliest again, the speaker scores what it would say. Baselines stand "
    "on 50 principal components of the reference."
)
PROMPTS = "The text head under each wording of the same question, and how far apart the wordings are."
RETRIEVAL = (
    "How soon the first candidate of the same term comes, and by chance. Where many candidates are of the same term, "
    "chance is high."
)
DESCRIPTIONS = (
    "Sentences read back and compared with the truth. A template with the predicted label says as much; BLEU, ROUGE-L "
    "and discrepancy (squared MMD in the run's space of texts) are likeness of words, no evidence of being right."
)
SAID = (
    "Cells from the text of a type, told by their nearest real training cells; the ceiling is real held-out cells. "
    "Shuffled texts show chance; the mean of a type is easily told and is no cell."
)
SEARCH = (
    "Precision of the first cells found. By vectors a sentence is compared as a whole, which does not understand what "
    "is excluded; chance is the share of relevant cells."
)


def score_words(work: Work) -> None:
    """Fill in what the words of a run are worth."""
    if work.label_key is None or work.given is None:
        work.notes.append("Words are not scored: there is no label column (--label-key).")
        return
    given = work.given.take(np.flatnonzero(work.given.names.isin(work.held.names)))  # aligned, it measured every gene
    try:
        test = prepare_test(
            work.trained,
            given,
            work.reference,
            work.label_key,
            unclear=work.unclear,
            seed=work.seed,
            name=work.name,
        )
    except DataError as error:  # the rest of the evaluation stands
        work.notes.append(f"WARNING: words are not scored. {error}")
        return
    work.notes.extend(test.notes)
    for title, (table, text) in score_all(test, work.say).items():
        if table is None:
            work.notes.append(f"WARNING: {title} is not scored. {text}")
        else:
            work.tables[BEFORE + title], work.text[BEFORE + title] = table, text


def score_all(test: WordTest, say: Callable[[str], None] = lambda text: None) -> Scored:
    """By title a table and what is to be said of it; without a table, why there is none."""
    parts: dict[str, tuple[Callable[[WordTest], pd.DataFrame], Callable[[WordTest, pd.DataFrame], str]]] = {
        "typing": (compare_typing, _on_typing),
        "prompts": (compare_prompts, lambda test, table: PROMPTS),
        "retrieval": (compare_retrieval, lambda test, table: RETRIEVAL),
        "descriptions": (compare_descriptions, _on_descriptions),
        "text to cells": (compare_said_cells, _on_said),
        "search": (compare_searches, _on_search),
    }
    found: Scored = {}
    for title, (compare, words) in parts.items():
        say(f"words: {title}")
        try:
            table = compare(test)
        except DataError as error:
            found[title] = None, str(error)
            continue
        found[title] = (table, words(test, table)) if len(table) else (None, "No type has enough held-out cells.")
    return found


def ahead(table: pd.DataFrame, column: str, row: str, rivals: list[str]) -> str:
    """Which rivals have the better value, as a sentence; nothing where none has."""
    own, lower = float(table.loc[row, column]), column in LOWER
    better = table.loc[[name for name in rivals if name in table.index], column].astype(float)
    better = better[better < own if lower else better > own].sort_values(ascending=lower, kind="stable")
    if better.empty:
        return ""
    label = SAID_OF.get(column, column.replace("_", " "))
    verb = "is" if len(better) == 1 else "are"
    names = " and ".join(f"{name} ({value:.3f})" for name, value in better.items())
    return f"In {label} {names} {verb} ahead of {row} ({own:.3f})."


def _on_typing(test: WordTest, table: pd.DataFrame) -> str:
    others = [str(name) for name in table.index if name != test.name]
    heads = [ahead(table, column, test.name, others) for column in COLUMNS]
    words = ahead(table, "accuracy", f"{test.name}, text head", [test.name])
    return " ".join(filter(None, [TYPING, *heads, words]))


def _on_descriptions(test: WordTest, table: pd.DataFrame) -> str:
    rivals = [PREDICTED, COMMONEST]
    count = int(table.loc[test.name, "hallucinated_genes"])
    invented = f"WARNING: {count:,} genes are named that the cells do not express." if count else ""
    heads = [ahead(table, column, test.name, rivals) for column in ("slot_accuracy", "bleu", "rouge_l")]
    return " ".join(filter(None, [DESCRIPTIONS, invented, *heads]))


def _on_said(test: WordTest, table: pd.DataFrame) -> str:
    rivals = [str(name) for name in table.index if name not in (test.name, *CONTROLS)]
    return " ".join(filter(None, [SAID, ahead(table, "accuracy_10", test.name, rivals)]))


def _on_search(test: WordTest, table: pd.DataFrame) -> str:
    del test
    worse = [str(name) for name, row in table.iterrows() if row["precision"] < row["by_vectors"]]
    said = f"By vectors is ahead of by terms: {'; '.join(worse)}." if worse else ""
    return " ".join(filter(None, [SEARCH, said]))
