"""Search in plain language across data sets: precision at 50 of queries with a known answer.

    python benchmarks/search_cells.py --kang kang/rna.h5ad --pbmc pbmc3k/rna.h5ad --ontology CL.json.zst [--show]

Classes and their probabilities come from logistic regression on the other data set (standardised log counts of the
shared genes, each data set with its own statistics). Queries and answers were written down before anything was
tuned. P@50 takes the 50 best cells, or as many as are right where these are fewer.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
from cell_terms import KANG, PBMC_OWN, SAME, arguments, read_terms
from sklearn.linear_model import LogisticRegression

from syncyte.baselines.prediction import log_cp10k
from syncyte.errors import SyncyteError
from syncyte.metrics.text import precision_at
from syncyte.words.matching import Meanings, score
from syncyte.words.query import parse_query

B, CD4, CD8, NK = "B cells", "CD4 T cells", "CD8 T cells", "NK cells"
M14, M16, DC, MK = "CD14+ Monocytes", "FCGR3A+ Monocytes", "Dendritic cells", "Megakaryocytes"
EVERY = (B, CD4, CD8, NK, M14, M16, DC, MK)
# sentence, right cells, kind: n negated, d set difference (negated too), f what cells do
QUERIES = (
    ("B cells", (B,), ""),
    ("CD4 T cells", (CD4,), ""),
    ("CD8 positive T cells", (CD8,), ""),
    ("natural killer cells", (NK,), ""),
    ("CD14 positive monocytes", (M14,), ""),
    ("non-classical monocytes", (M16,), ""),
    ("dendritic cells", (DC,), ""),
    ("monocytes", (M14, M16), ""),
    ("T cells", (CD4, CD8), ""),
    ("lymphocytes", (B, CD4, CD8, NK), ""),
    ("platelets or megakaryocytes", (MK,), ""),
    ("T cells or NK cells", (CD4, CD8, NK), ""),
    ("monocytes and dendritic cells", (M14, M16, DC), ""),
    ("helper T cells", (CD4,), ""),
    ("antigen presenting cells", (B, M14, M16, DC), "f"),
    ("cells that make antibodies", (B,), "f"),
    ("cells that kill virus infected cells", (NK, CD8), "f"),
    ("phagocytes", (M14, M16, DC), "f"),
    ("blood clotting cells", (MK,), "f"),
    ("T cells but not CD8 T cells", (CD4,), "d"),
    ("lymphocytes but not B cells", (CD4, CD8, NK), "d"),
    ("monocytes, not CD14 positive", (M16,), "d"),
    ("neither T cells nor B cells", (NK, M14, M16, DC, MK), "d"),
    ("white blood cells without monocytes", (B, CD4, CD8, NK, DC), "d"),
    ("cytotoxic lymphocytes, not T cells", (NK,), "n"),
    ("leukocytes that are not lymphocytes", (M14, M16, DC), "d"),
)
# Written when the rules were final; scored once, nothing was changed after.
LATER = (
    ("T lymphocytes", (CD4, CD8), ""),
    ("mononuclear phagocytes", (M14, M16, DC), ""),
    ("CD16 monocytes", (M16,), ""),
    ("NK or B cells", (NK, B), ""),
    ("anything but lymphocytes", (M14, M16, DC, MK), "d"),
    ("myeloid cells except monocytes", (DC, MK), "d"),
    ("lymphocytes other than T and B cells", (NK,), "d"),
    ("alpha-beta T cells that are not CD4 positive", (CD8,), "d"),
    ("cells with a T cell receptor", (CD4, CD8), "f"),
    ("cells that engulf bacteria", (M14, M16, DC), "f"),
    ("cells that patrol blood vessels", (M16,), "f"),
    ("cells that release antimicrobial factors", (M14,), "f"),
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--show", action="store_true", help="print how each query was read")
    options = parser.parse_args()
    terms = read_terms(options.ontology)
    kang, pbmc = ad.read_h5ad(options.kang), ad.read_h5ad(options.pbmc)
    shared = [gene for gene in kang.var_names if gene in set(pbmc.var_names)]
    values = [standardised(data[:, shared].X) for data in (kang, pbmc)]
    ours, theirs = kang.obs["cell_type"].astype(str).to_numpy(), pbmc.obs["cell_type"].astype(str).to_numpy()
    same = np.array([SAME[name] for name in theirs])
    tests = (
        ("kang to pbmc3k", values[0], ours, KANG, values[1], same),
        ("pbmc3k to kang", values[1], theirs, PBMC_OWN, values[0], ours),
    )
    columns, readings = [], []
    for title, x, labels, ids, asked, truth in tests:
        model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=300).fit(x, labels)
        chance = model.predict_proba(asked)
        found = [ids[name] for name in model.classes_]
        meanings = Meanings(found, terms, labels=dict(zip(found, model.classes_, strict=True)))
        columns.append([one(query, meanings, chance, truth) for query in (*QUERIES, *LATER)])
        readings.append((title, meanings))
    titles, truths = [test[0] for test in tests], [test[-1] for test in tests]
    table(QUERIES, titles, [column[: len(QUERIES)] for column in columns], truths, "0.92 / 0.90")
    print("\nWritten later, when the rules were final; scored once:\n")
    table(LATER, titles, [column[len(QUERIES) :] for column in columns], truths, "")
    if options.show:
        for title, meanings in readings:
            print(f"\n{title}\n")
            for sentence, _, _ in (*QUERIES, *LATER):
                print("   ", reading(sentence, meanings).replace("\n", "\n    "))


def one(query: tuple, meanings: Meanings, chance: np.ndarray, truth: np.ndarray) -> float:
    """Precision of the best cells; a search that is refused has none."""
    sentence, good = query[0], np.isin(truth, query[1])
    try:
        resolved = meanings.resolve(parse_query(sentence, meanings.known))
    except SyncyteError:
        return 0.0
    return precision_at(score(resolved, chance), good, min(50, int(good.sum())))


def reading(sentence: str, meanings: Meanings) -> str:
    try:
        return meanings.resolve(parse_query(sentence, meanings.known)).explain()
    except SyncyteError as error:
        return f"Refused: {error}"


def standardised(counts) -> np.ndarray:
    values = log_cp10k(counts).toarray()
    spread = values.std(axis=0)
    return np.clip((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0), -10, 10)


def table(queries: tuple, titles: list[str], columns: list[list[float]], truths: list[np.ndarray], bar: str) -> None:
    print("| search | right cells | " + " | ".join(f"{title} (chance)" for title in titles) + " |")
    print("|---" * (2 + len(titles)) + "|")
    for place, (sentence, right, _) in enumerate(queries):
        cells = [
            f"{column[place]:.2f} ({np.isin(truth, right).mean():.2f})"
            for column, truth in zip(columns, truths, strict=True)
        ]
        print(f"| {sentence} | {', '.join(right)} | " + " | ".join(cells) + " |")
    for word, kinds, aim in (
        ("all", ("", "n", "d", "f"), bar),
        ("negated", ("n", "d"), "0.83 to 1.0"),
        ("set differences", ("d",), "0.95"),
        ("what cells do", ("f",), ""),
    ):
        chosen = [place for place, query in enumerate(queries) if query[2] in kinds]
        means = [f"**{np.mean([column[place] for place in chosen]):.3f}**" for column in columns]
        print(f"| **{word}** ({len(chosen)}) | {aim and 'bar ' + aim} | " + " | ".join(means) + " |")


if __name__ == "__main__":
    main()
