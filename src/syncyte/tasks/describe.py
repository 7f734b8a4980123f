"""Describe: a sentence about every cell or cluster, and what it rests on.

Values (type, tissue, disease, stage, condition) are those the classifiers of the run find likeliest, or those that are
forced; the speaker words the sentence, and what it says beside them is checked: a sentence that is none of the known
ones is replaced. Genes are filled in from what the cell expresses, so none is named that it does not.
Evidence: term with probability, alternatives, what the speaker itself would say, most specific genes, nearest cells of
training.
Trap: a description says no more than its values; that it reads well is no evidence.
Leaves out: types without a training label (``zero_shot``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import column_means, log_cp10k
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, unknown
from syncyte.tasks.result import Result
from syncyte.tasks.speak import AT_ONCE, LONGEST, cell_states, sentences, spoken_before, value_chances
from syncyte.tasks.trained import Trained
from syncyte.tasks.word_run import Asked, WordRun
from syncyte.train.folder import SPEAKER
from syncyte.words.spoken import FIELDS, SAY, fill_spoken, read_spoken, sound, write_spoken

TOP_GENES, NAMED, NEAREST = 10, 6, 3
OFTEN = 0.5  # share of a cluster's cells that express a gene for it to be named
MOST_SPOKEN = 2_000  # units with sentences of their own; beyond, one sentence serves all with the same values
PLAIN = 0  # wording that replaces an unsound sentence


def describe_cells(
    trained: Trained,
    cells: Cells,
    *,
    by: str | None = None,
    forced: Sequence[str] = (),
    seed: int = 0,
    batch_size: int | None = None,
) -> Result:
    """Describe cells; see ``syncyte.describe``."""
    del seed
    run = WordRun(trained, "describe cells")
    said = read_forced(run, forced)
    asked = run.ask(cells)
    units = _units(cells, by)
    counts = run.counts(asked)
    chances = {name: _shares(_mean(run.chances(asked, name), units)) for name in run.facts["classifiers"]}
    states = _mean(cell_states(run, asked, batch_size), units).astype(np.float32)
    values = choose_values(run, chances, said, len(units))
    table = pd.DataFrame(values)
    table["probability"] = np.round(_probability(run, chances["type"], values), 3)
    table["term"] = [run.term(str(label)) for label in table["type"]]
    table["alternatives"] = [_alternatives(run, row) for row in chances["type"]]
    genes, specific = unit_genes(run, counts, units, [str(term) for term in table["term"]])
    table["genes"] = [", ".join(row) for row in specific]
    table["nearest"] = _nearest(run, counts, units)
    table["speaker"] = own_values(run, states)
    spoken, replaced = speak(run, states, values)
    table["description"] = [
        _filled(run, sentence, row, own)
        for sentence, row, own in zip(spoken, table.to_dict("records"), genes, strict=True)
    ]
    notes = [*asked.notes]
    if replaced:
        notes.append(f"{replaced:,} sentences of the speaker were none of the known ones and were replaced.")
    return _result(run, cells, asked, by, units, table, notes, said, replaced)


def read_forced(run: WordRun, forced: Sequence[str]) -> dict[str, str]:
    """Values that are said whatever the cells look like."""
    found = {}
    for pair in forced:
        name, sign, value = str(pair).partition("=")
        name, value = name.strip(), value.strip()
        if not sign or not value:
            raise ConfigError(f"{pair!r}: expected FIELD=VALUE, for instance tissue=blood.")
        if name not in FIELDS:
            raise ConfigError(unknown("field of a description", name, FIELDS))
        if name == "type":
            labels = {**{run.term(label): label for label in run.labels}, **{label: label for label in run.labels}}
            names = {run.name(run.term(label)).lower(): label for label in run.labels}
            label = labels.get(value) or names.get(value.lower())
            if label is None:
                raise ConfigError(unknown("type of this run", value, run.labels))
            value = label
        found[name] = value
    return found


def choose_values(
    run: WordRun, chances: Mapping[str, NDArray[np.float64]], said: Mapping[str, str], count: int
) -> dict[str, list[str]]:
    """By field the likeliest value of each unit, the only one of training, or the forced one."""
    values: dict[str, list[str]] = {}
    for name in FIELDS:
        known = run.facts["values"].get(name, [])
        if name in said:
            values[name] = [said[name]] * count
        elif name in chances:
            classes = run.facts["classifiers"][name]["classes"]
            values[name] = [classes[place] for place in chances[name].argmax(axis=1)]
        elif len(known) == 1:
            values[name] = [known[0]] * count
    return values


def speak(run: WordRun, states: NDArray[np.float32], values: Mapping[str, list[str]]) -> tuple[list[str], int]:
    """Sentences with marks, and how many had to be replaced."""
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    said = [{**row, "type": run.name(run.term(row["type"]))} for row in rows]
    before = [spoken_before(row) for row in said]
    taught = run.trained.path / SPEAKER
    if taught.is_dir():
        found = taught_sentences(taught, states, said)
    elif len(rows) > MOST_SPOKEN:
        kinds, first, inverse = np.unique(before, return_index=True, return_inverse=True)
        made = sentences(run, states[first], list(kinds))
        found = [made[place] for place in inverse]
    else:
        found = sentences(run, states, before)
    good = [sound(sentence) for sentence in found]
    plain = [write_spoken(row, ("markers", "ancestors"), PLAIN).partition(SAY)[2].strip() for row in said]
    return [s if fine else other for s, fine, other in zip(found, good, plain, strict=True)], good.count(False)


def taught_sentences(folder: Path, states: NDArray[np.float32], said: Sequence[Mapping[str, str]]) -> list[str]:
    """Sentences of a language model that was taught; those that say another type than is told are left empty."""
    import torch

    from syncyte.models.pretrained_language import LanguageModel

    model, found = LanguageModel.load(folder), []
    for first in range(0, len(states), AT_ONCE):
        texts = model.generate(torch.from_numpy(states[first : first + AT_ONCE]), max_new=LONGEST)
        for text, row in zip(texts, said[first : first + AT_ONCE], strict=True):
            values, sentence = read_spoken(text)
            found.append(sentence if values.get("type") == row["type"] else "")
    return found


def own_values(run: WordRun, states: NDArray[np.float32]) -> list[str]:
    """What the speaker itself would say first, unforced: type and its probability."""
    names = [run.name(key) for key in run.classes]
    if len(states) > MOST_SPOKEN:
        return [""] * len(states)
    chance = value_chances(run, states, "type", names)
    best = chance.argmax(axis=1)
    return [f"{run.labels[place]} {chance[row, place]:.2f}" for row, place in enumerate(best)]


def _filled(run: WordRun, sentence: str, row: Mapping[str, Any], genes: Sequence[str]) -> str:
    """The sentence with its values; one whose type could not be filled in is replaced."""
    slots = slots_of(run, row, genes)
    text = fill_spoken(sentence, slots)
    if str(slots["type"]) in text:
        return text
    plain = write_spoken({name: str(slots[name]) for name in FIELDS if name in slots}, ("markers",), PLAIN)
    return fill_spoken(plain.partition(SAY)[2], slots)


def slots_of(run: WordRun, row: Mapping[str, Any], genes: Sequence[str]) -> dict[str, str | Sequence[str]]:
    """What a sentence may be filled with."""
    term = run.term(str(row["type"]))
    slots: dict[str, str | Sequence[str]] = {name: str(row[name]) for name in FIELDS if row.get(name)}
    slots["type"] = run.name(term)
    slots["markers"] = tuple(genes[:NAMED])
    known = None if run.ontology is None else run.ontology.active.get(term)
    if known is not None and run.ontology is not None:
        active = run.ontology.active
        near = sorted(known.ancestors, key=lambda key: (known.ancestors[key], key))
        slots["ancestors"] = tuple(active[key].label for key in near if key in active)[:3]
        slots["synonyms"] = tuple(known.synonyms[:3])
        slots["definition"] = known.definition
    return slots


def unit_genes(
    run: WordRun, counts: sp.csr_matrix, units: pd.Series, terms: Sequence[str]
) -> tuple[list[list[str]], list[list[str]]]:
    """Of each unit the genes a sentence may name (expressed; markers of its type first), and its most specific ones."""
    features = run.trained.vocabularies[run.modality].index.astype(str).to_numpy()
    logs = log_cp10k(counts)
    mean = column_means(logs)
    spread = np.sqrt(np.maximum(column_means(logs.multiply(logs).tocsr()) - mean**2, 0)) + 0.1
    named, specific = [], []
    members: list[Any] = list(units)
    for place, term in enumerate(terms):
        rows = members[place]
        own = logs[rows]
        share = column_means(sp.csr_matrix(own > 0))
        columns = np.flatnonzero(share >= OFTEN)
        lift = (column_means(own)[columns] - mean[columns]) / spread[columns]
        ranked = [str(features[column]) for column in columns[np.argsort(-lift, kind="stable")]]
        expressed = set(ranked)
        first = [gene for gene in run.markers.of(term) if gene in expressed]
        named.append([*first, *(gene for gene in ranked[:NAMED] if gene not in first)])
        specific.append(ranked[:TOP_GENES])
    return named, specific


def _units(cells: Cells, by: str | None) -> pd.Series:
    """Rows of each unit: a cell, or a cluster."""
    if by is None:
        return pd.Series([np.array([row]) for row in range(len(cells))], index=cells.names)
    labels = cells.column(by).astype(str).to_numpy()
    names = sorted(set(labels))
    return pd.Series([np.flatnonzero(labels == name) for name in names], index=pd.Index(names))


def _mean(values: NDArray[Any], units: pd.Series) -> NDArray[Any]:
    """Mean over the cells of each unit."""
    if all(len(rows) == 1 for rows in units):
        return values
    return np.stack([values[rows].mean(axis=0) for rows in units])


def _shares(chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities among the cells of a unit that were measured: the others have none."""
    return chance / np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)


def _probability(run: WordRun, chance: NDArray[np.float64], values: Mapping[str, list[str]]) -> NDArray[np.float64]:
    place = [run.labels.index(label) for label in values["type"]]
    return chance[np.arange(len(chance)), place]


def _alternatives(run: WordRun, chance: NDArray[np.float64]) -> str:
    best = np.argsort(-chance, kind="stable")[1:3]
    return ", ".join(f"{run.labels[place]} {chance[place]:.2f}" for place in best if chance[place] >= 0.01)


def _nearest(run: WordRun, counts: sp.csr_matrix, units: pd.Series) -> list[str]:
    """Names and types of the nearest cells of training."""
    from sklearn.neighbors import NearestNeighbors

    places = _mean(run.space.transform(counts), units)
    reference = run.trained.tables["reference"]
    known = run.trained.arrays["reference.places"]
    count = min(NEAREST, len(known))
    near = NearestNeighbors(n_neighbors=count).fit(known).kneighbors(places, return_distance=False)
    names, types = reference.index.astype(str).to_numpy(), reference["type"].astype(str).to_numpy()
    return [", ".join(f"{names[place]} ({types[place]})" for place in row) for row in near]


def _result(
    run: WordRun,
    cells: Cells,
    asked: Asked,
    by: str | None,
    units: pd.Series,
    table: pd.DataFrame,
    notes: list[str],
    said: Mapping[str, str],
    replaced: int,
) -> Result:
    owner = np.zeros(len(cells), dtype=np.int64)
    for place, rows in enumerate(units):
        owner[rows] = place
    have = asked.cells.present(run.modality)
    text = np.where(have, table["description"].to_numpy(dtype=object)[owner], "")
    kind = np.where(have, table["type"].to_numpy(dtype=object)[owner], "")
    chance = np.where(have, table["probability"].to_numpy()[owner], np.nan)
    table = table.set_axis(pd.Index(units.index.astype(str), name=by or "cell"))
    return Result(
        "describe",
        cells.names,
        obs={
            "syncyte_description": text.astype(str),
            "syncyte_type": kind.astype(str),
            "syncyte_confidence": chance.astype(np.float32),
        },
        uns={"evidence": table},
        provenance=run.trained.provenance(asked.cells, by=by, forced=dict(said), notes=notes),
        metrics={"units": len(units), "replaced": replaced},
    )
