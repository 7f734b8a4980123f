"""Names of cell types to terms: held-out synonyms of the Cell Ontology, and usual spellings of blood and marrow.

    python benchmarks/label_mapping.py CL.json.zst --out benchmarks/results/label_mapping.md

Synonyms: 1,000 drawn at random leave the ontology before anything is trained or indexed; each has to find its own term
among all active ones. The embedded names are off here, for they might repeat a synonym. Ties share credit.
Usual spellings (`usual_labels.tsv`) were written down before any rule was tuned. Two rules were changed after they were
measured once; `later_labels.tsv` was written before that change, and says what the changed rules are worth.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from syncyte.genome.ontology import Ontology
from syncyte.genome.ontology_files import read_ontology
from syncyte.words.map import LabelMapper
from syncyte.words.trained import trained_for

HELD_OUT, SEED = 1000, 7
Answering = Callable[[list[str]], dict[str, tuple[str, str]]]
Ranked = Callable[[str], list[tuple[str, float]]]
HERE = Path(__file__).resolve().parent
LISTS = ("usual_labels.tsv", "later_labels.tsv")
FIRST = (
    "First measurement of usual_labels.tsv, before any change: right 0.934, coarser and true 0.008, abstained 0.000, "
    'wrong 0.057, junk refused 0.950. Changed after that: an embedded name outranks a synonym of the ontology ("CD16 '
    'monocyte"), and one letter is no name ("n/a" became the N cell). The last row below is therefore optimistic.'
)


def word_tfidf(ontology: Ontology, every_name: bool) -> Ranked:
    """Cosine of words of a label and of the labels (or all names) of terms; one-letter words are kept."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = [
        (key, name) for key, term in ontology.active.items() for name in (term.names if every_name else term.names[:1])
    ]
    reader = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    matrix = reader.fit_transform([name for _, name in rows])
    ids = list(ontology.active)
    owner = np.array([ids.index(key) for key, _ in rows])

    def ranked(label: str) -> list[tuple[str, float]]:
        scores = np.zeros(len(ids))
        np.maximum.at(scores, owner, (matrix @ reader.transform([label]).T).toarray().ravel())
        return [(ids[place], float(scores[place])) for place in np.argsort(-scores, kind="stable")]

    return ranked


def score_synonyms(ranked: Ranked, held: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Recall, mean reciprocal rank, and answers above the cut; equal scores share a place."""
    better, ties, top, right = [], [], [], []
    for key, name in held:
        found = ranked(name)
        own = dict(found).get(key, -1.0)
        scores = np.array([score for _, score in found] or [0.0])
        better.append(int((scores > own + 1e-9).sum()) if own > 0 else 10**6)
        ties.append(max(int((np.abs(scores - own) <= 1e-9).sum()), 1) if own > 0 else 1)
        top.append(scores[0])
        leaders = max(int((scores >= scores[0] - 1e-9).sum()), 1)
        right.append(1 / leaders if better[-1] == 0 else 0.0)
    first, shared, sure, hit = np.array(better), np.array(ties), np.array(top), np.array(right)
    found_at = {f"R@{k}": float(np.clip((k - first) / shared, 0, 1).mean()) for k in (1, 5, 20)}
    above = sure > 0.7
    return found_at | {
        "MRR": float((1 / (1 + first + (shared - 1) / 2)).mean()),
        "answered at 0.7": float(above.mean()),
        "precision at 0.7": float(hit[above].mean()) if above.any() else float("nan"),
    }


def read_usual(name: str) -> list[dict[str, Any]]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t"))


def score_usual(
    rows: list[dict[str, Any]], answers: dict[str, tuple[str, str]], ontology: Ontology
) -> tuple[dict[str, float], list[str]]:
    """Shares of the usual labels, the share of junk refused, and every label that was not right."""
    counts = dict.fromkeys(("right", "coarser, true", "abstained", "wrong", "junk refused"), 0)
    total, junk, listed = 0, 0, []
    for row in rows:
        id_, how = answers[row["label"]]
        if row["kind"] == "junk":
            junk += 1
            counts["junk refused"] += not id_
            if id_:
                listed.append(f"junk `{row['label']}` became {ontology[id_].label}")
            continue
        total += 1
        accepted = row["accepted"].split("|")
        true = any(ontology.is_under(key, id_) for key in accepted) if id_ else False
        what = "right" if id_ in accepted else "abstained" if not id_ else "wrong"
        what = "coarser, true" if what == "wrong" and how == "coarser" and true else what
        counts[what] += 1
        if what != "right":
            got = ontology[id_].label if id_ else "nothing"
            listed.append(f"{what}: `{row['label']}` became {got}; expected {row['names'].replace('|', ' or ')}")
    shares = {key: value / (junk if key == "junk refused" else total) for key, value in counts.items()}
    return shares, listed


def answers_of(mapper: LabelMapper) -> Answering:
    return lambda labels: {item.label: (item.id, item.how) for item in mapper.map(labels)}


def answers_by_rank(ranked: Ranked) -> Answering:
    def answer(labels: list[str]) -> dict[str, tuple[str, str]]:
        found = {label: ranked(label) for label in labels}
        return {key: ((row[0][0], "close") if row and row[0][1] >= 0.5 else ("", "none")) for key, row in found.items()}

    return answer


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    columns = list(next(iter(rows.values())))
    head = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return head + [f"| {name} | {' | '.join(f'{row[key]:.3f}' for key in columns)} |" for name, row in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ontology", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keeps what was learned; an empty folder gives the time of training")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    ontology = read_ontology(given.ontology)
    pairs = [(key, name) for key, term in ontology.active.items() for name in term.synonyms]
    held = random.Random(SEED).sample(pairs, HELD_OUT)
    rest = ontology.without(held)
    begin = time.process_time()
    models, _ = trained_for(rest, seed=given.seed, cache=given.cache)
    minutes = (time.process_time() - begin) / 60
    full = LabelMapper(rest, models=models, usual=False)
    synonyms = {
        "word TF-IDF, labels": score_synonyms(word_tfidf(rest, False), held),
        "word TF-IDF, all names": score_synonyms(word_tfidf(rest, True), held),
        "letters and words, no training (`--fast`)": score_synonyms(LabelMapper(rest, usual=False).ranked, held),
        "encoder and re-ranker": score_synonyms(full.ranked, held),
    }
    how = {"right": 0, "true, coarser": 0, "abstained": 0, "wrong": 0}
    for (key, _), item in zip(held, full.map([name for _, name in held])):
        true = bool(item.id) and ontology.is_under(key, item.id)
        kind = "right" if item.id == key else "abstained" if not item.id else "true, coarser" if true else "wrong"
        how[kind] += 1
    whole, _ = trained_for(ontology, seed=given.seed, cache=given.cache)
    methods = {
        "word TF-IDF, labels": answers_by_rank(word_tfidf(ontology, False)),
        "word TF-IDF, all names": answers_by_rank(word_tfidf(ontology, True)),
        "embedded names alone, no ontology": answers_of(LabelMapper()),
        "letters and words (`--fast`)": answers_of(LabelMapper(ontology)),
        "encoder and re-ranker, no embedded names": answers_of(LabelMapper(ontology, models=whole, usual=False)),
        "encoder and re-ranker": answers_of(LabelMapper(ontology, models=whole)),
    }
    scored = {}
    for name in LISTS:
        rows = read_usual(name)
        labels = [row["label"] for row in rows]
        scored[name] = {key: score_usual(rows, answer(labels), ontology) for key, answer in methods.items()}
    write(given, minutes, synonyms, how, scored)


def write(given: argparse.Namespace, minutes: float, synonyms: dict, how: dict, scored: dict) -> None:
    lines = [
        "# Names of cell types to terms",
        "",
        f"    python benchmarks/label_mapping.py {given.ontology.name} --out benchmarks/results/label_mapping.md",
        "",
        f"{HELD_OUT:,} synonyms held out of the index, of the encoder and of every feature (seed {SEED}); own term "
        f"among all active terms. Training took {minutes:.1f} CPU minutes on one thread (without --cache). Sampling "
        "error of R@1: about 0.015.",
        "",
        *table(synonyms),
        "",
        "Answers at the default cut, back-off to coarser terms included: "
        + ", ".join(f"{key} {value / HELD_OUT:.3f}" for key, value in how.items())
        + ".",
        "",
        "A coarser answer that is flagged and true is neither right nor wrong. Lists, embedded names and table of "
        "spellings come from one head: optimistic.",
    ]
    for name, methods in scored.items():
        usual = read_usual(name)
        junk = sum(row["kind"] == "junk" for row in usual)
        lines += ["", f"## {name}: {len(usual) - junk} usual spellings, {junk} strings that name no type", ""]
        lines += [FIRST, ""] if name == LISTS[0] else []
        lines += table({method: shares for method, (shares, _) in methods.items()})
        lines += ["", "Not right with all parts on:", ""]
        lines += [f"- {line}" for line in methods["encoder and re-ranker"][1]]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
