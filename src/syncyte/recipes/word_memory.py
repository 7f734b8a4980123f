"""What a run of words remembers of its training cells: how to tell their values, and cells to compare others with.

A classifier on all genes for every field with two values or more, and beside it what another encoder has to say where
one was given; axes, places and marker scores of a few thousand
cells, from which types without a training label are told (``words.zero_shot``); names of these cells.
Leaves out: use (``tasks.word_run``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from syncyte.baselines.genewise import GeneClassifier
from syncyte.baselines.own_space import OwnSpace
from syncyte.baselines.second import SecondOpinion
from syncyte.data.load import predict_batches
from syncyte.genome.ontology_files import ontology_table
from syncyte.models.conditions import as_text
from syncyte.objectives.words import Seen, words_of
from syncyte.recipes.train_sets import Added, Built
from syncyte.recipes.word_texts import Lexis
from syncyte.words.markers import score_markers

AXES = 30  # of the space in which unseen types are told
MINIBATCH = 512  # cells
FEWEST = 100  # cells of a rare label
MOST_LEARNED = 20_000  # cells that classifiers and axes are fitted on


def remember(built: Built, lexis: Lexis, batch_key: str | None, seed: int, seen: Seen | None = None) -> Added:
    """Facts, arrays and tables of the checkpoint; ``seen`` is what another encoder makes of the cells."""
    config = built.config.words
    assert config is not None
    table = pd.DataFrame({name: as_text(built.cells.obs[column]).to_numpy() for name, column in lexis.columns.items()})
    labelled = built.split.train[lexis.group[built.split.train] >= 0]
    rng = np.random.default_rng([seed, 4])
    rows = _stratified(labelled, table["type"].to_numpy(), MOST_LEARNED, rng)
    counts = built.cells.counts(built.spec.modality, rows)
    batches = None if batch_key is None else built.cells.obs[batch_key].astype(str).to_numpy()[rows]
    vectors = None if seen is None else _standardised(built, seen, rows)
    arrays, fields = _classifiers(lexis, table.iloc[rows], counts, batches, vectors)
    space = OwnSpace(AXES, seed).fit(counts)
    kept = _stratified(np.arange(len(rows)), table["type"].to_numpy()[rows], config.reference, rng)
    reference = rows[kept]
    told = table.iloc[reference].set_axis(built.cells.names[reference].astype(str))
    names = tuple(map(str, built.cells.part(built.spec.modality).var.index))
    marked = [*lexis.known.markers.genes]
    scores = score_markers(counts, names, marked, lexis.known.markers)
    arrays |= {f"space.{key}": value for key, value in space.arrays().items()}
    arrays["reference.places"] = space.transform(counts)[kept]
    arrays["reference.markers"] = scores.values[kept].astype(np.float32)
    arrays |= _places(built, reference, seen)
    tables = {"reference": told.rename_axis("cell")}
    ontology = lexis.known.ontology
    if ontology is not None:
        tables["ontology"] = ontology_table(ontology)
    return Added({"words": _facts(lexis, fields)}, arrays, tables)


def _standardised(built: Built, seen: Seen, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """``(n, v)`` vectors of the other encoder on the scale the model reads them in."""
    reader, device = words_of(built.model).given, next(built.model.parameters()).device
    assert reader is not None
    return reader.standardise(torch.from_numpy(np.asarray(seen.vector[rows])).to(device)).cpu().numpy()


@torch.no_grad()
def _places(built: Built, rows: NDArray[np.int64], seen: Seen | None) -> dict[str, NDArray]:
    """Codes with log totals, and vectors among texts, of some cells."""
    model, name = built.model, built.spec.modality
    device = next(model.parameters()).device
    model.eval()
    codes, vectors = [], []
    for batch in predict_batches(built.cells.take(rows), {name: built.tokenizer}, MINIBATCH):
        tokens = batch.to(device).tokens[name]
        mean, _, total = model.encoder(tokens)
        codes.append(torch.cat([mean, total.clamp_min(1).log()[:, None]], dim=1).cpu())
        given = None if seen is None else seen.read(rows[batch.rows.cpu().numpy()], device)
        shown = model.show(tokens, given)[1].mean(dim=1)
        vectors.append(torch.nn.functional.normalize(shown, dim=1).cpu())
    return {
        "reference.codes": torch.cat(codes).numpy(),
        "reference.vectors": torch.cat(vectors).numpy().astype(np.float16),
    }


def _facts(lexis: Lexis, fields: dict[str, Any]) -> dict[str, Any]:
    known = lexis.known
    matches = {
        label: {"id": one.id, "term": one.term, "score": one.score, "how": one.how, "evidence": one.evidence}
        for label, one in known.matches.items()
    }
    markers = known.markers
    return {
        "columns": dict(lexis.columns),
        "values": dict(lexis.values),
        "classifiers": fields,
        "matches": matches,
        "pieces": lexis.pieces.plain,
        # the record of what texts said: of which cells, and which genes they named
        "groups": lexis.groups.to_dict("list"),
        "expressed": [list(one.expressed) for one in lexis.facts],
        "ontology": None if known.ontology is None else {"name": known.ontology.name, "prefix": known.ontology.prefix},
        "markers": {
            key: {
                "genes": list(genes),
                "label": markers.labels.get(key, key),
                "source": markers.sources.get(key, ""),
                "tissue": markers.tissues.get(key, ""),
            }
            for key, genes in markers.genes.items()
        },
    }


def _classifiers(
    lexis: Lexis,
    table: pd.DataFrame,
    counts: sp.csr_matrix,
    batches: NDArray[Any] | None,
    vectors: NDArray[np.float32] | None,
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Arrays of a classifier of each field, and what they tell apart."""
    arrays: dict[str, NDArray] = {}
    fields: dict[str, Any] = {}
    for name, values in lexis.values.items():
        if len(values) < 2:
            continue
        labels = table[name].to_numpy()
        known = labels != ""
        groups = None if batches is None else batches[known]
        model = GeneClassifier().fit(counts[known], labels[known], groups=groups)
        arrays |= {f"classifier.{name}.{key}": value for key, value in model.arrays().items()}
        fields[name] = {"classes": list(map(str, model.classes)), "calibration_error": model.calibration_error}
        if vectors is not None:
            second = SecondOpinion().fit(model, vectors[known], labels[known])
            arrays |= {f"second.{name}.{key}": value for key, value in second.arrays().items()}
            fields[name]["encoder_heard"] = second.weight
    return arrays, fields


def _stratified(
    rows: NDArray[np.int64], labels: NDArray[Any], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """About so many rows, in order: labels by their shares, but some of each."""
    if len(rows) <= most:
        return rows
    own, chosen = labels[rows], []
    for name in np.unique(own):
        member = rows[own == name]
        chosen.append(rng.permutation(member)[: max(FEWEST, round(most * len(member) / len(rows)))])
    return np.sort(np.concatenate(chosen))
