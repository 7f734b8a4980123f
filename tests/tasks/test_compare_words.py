"""Scores of cells and words on simulated cells: what may not leak, what must be near chance, what must not win."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.tiny import cells_of
from tests.tiny_words import UNSEEN, told_cells, train_words, training_cells, write_ontology

from syncyte.data.cells import Cells
from syncyte.errors import CapabilityError, DataError
from syncyte.report.build import report_from_evaluation
from syncyte.report.write import write_report
from syncyte.tasks import compare_said, compare_words, evaluate_words
from syncyte.tasks.compare_said import (
    CEILING,
    COMMONEST,
    ORACLE,
    PREDICTED,
    compare_descriptions,
    compare_said_cells,
    compare_searches,
    said_counts,
    type_texts,
)
from syncyte.tasks.compare_words import (
    NearestCentroid,
    WordTest,
    baseline_chances,
    class_vectors,
    compare_prompts,
    compare_retrieval,
    compare_typing,
    first_hits,
    matched_chances,
    prepare_test,
    text_chances,
    type_chances,
    wordings_of,
)
from syncyte.tasks.describe import describe_cells
from syncyte.tasks.draw import Sampling
from syncyte.tasks.evaluate import evaluate_cells
from syncyte.tasks.evaluate_words import ahead, score_all
from syncyte.tasks.say_cells import plan_said
from syncyte.tasks.search import search_cells

LONGER = ("stages.autoencode.epochs=25", "stages.align.epochs=20", "words.map=fast")
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "words.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run that was trained for some seconds, held-out cells, and those it was trained on."""
    data = training_cells(told_cells(500))
    held = np.arange(data.n_obs) % 3 == 0
    folder = tmp_path_factory.mktemp("compare_words")
    known = data[~held].copy()
    run = train_words(known, folder / "RUN", ontology=write_ontology(folder), settings=LONGER)
    return run, cells_of(data[held].copy()), cells_of(known)


@pytest.fixture(scope="module")
def test(world) -> WordTest:
    return prepare_test(*world, "cell_type")


def shuffled(cells: Cells, seed: int = 0) -> Cells:
    """The same cells with their labels in another order."""
    labels = np.random.default_rng(seed).permutation(cells.obs["cell_type"].astype(str).to_numpy())
    return replace(cells, obs=cells.obs.assign(cell_type=labels))


def test_true_labels_change_no_prediction(world, test):
    run, held, known = world
    other = prepare_test(run, shuffled(held), known, "cell_type")
    assert (other.truth != test.truth).mean() > 0.5
    for name, chance in type_chances(test).items():
        np.testing.assert_array_equal(chance, type_chances(other)[name])
        np.testing.assert_allclose(chance.sum(axis=1), 1, atol=1e-6)
    for name, (chance, _) in baseline_chances(test).items():
        np.testing.assert_array_equal(chance, baseline_chances(other)[name][0])


def test_true_labels_change_no_sentence_and_no_generated_cell(world, test):
    run, held, known = world
    told = [
        describe_cells(run, cells).uns["evidence"] for cells in (held, shuffled(held), replace(held, obs=held.obs[[]]))
    ]
    for other in told[1:]:
        pd.testing.assert_series_equal(told[0]["description"], other["description"])
    other = compare_said_cells(prepare_test(run, shuffled(held), known, "cell_type"), 20)
    columns = ["accuracy_5", "accuracy_10", "accuracy_25"]
    rest = compare_said_cells(test, 20).drop(index=CEILING)[columns]  # the ceiling alone is made of held-out cells
    pd.testing.assert_frame_equal(rest, other.drop(index=CEILING)[columns])


def test_typing_has_every_method_and_says_who_is_ahead(test):
    table = compare_typing(test)
    heads = ["syncyte", "syncyte, text head", "syncyte, text head, matcher", "syncyte, speaker"]
    cheap = ["logistic regression, plain", "logistic regression, balanced", "nearest centroid", "15-NN"]
    assert list(table.index) == [*heads, *cheap, "majority class"]
    assert list(table.columns) == ["accuracy", "macro_f1", "balanced_accuracy", "log_loss", "ece"]
    assert np.isfinite(table.to_numpy()).all()
    most = np.unique(test.known, return_counts=True)
    share = float((test.truth == most[0][most[1].argmax()]).mean())
    assert table.loc["majority class", "accuracy"] == pytest.approx(share)
    assert table.loc["syncyte", "accuracy"] > 0.8 > table.loc["majority class", "accuracy"]
    assert table.loc["syncyte, text head", "accuracy"] > share + 0.1
    assert "majority" not in ahead(table, "accuracy", "syncyte", list(table.index))


def test_labels_that_mean_nothing_are_typed_near_chance(world):
    run, held, known = world
    table = compare_typing(prepare_test(run, shuffled(held), known, "cell_type"))
    assert table.loc[["syncyte", "syncyte, text head"], "balanced_accuracy"].max() < 0.35  # five types


def test_random_texts_are_near_chance(test):
    rng = np.random.default_rng(0)
    width = class_vectors(test.run, test.keys).shape[1]
    scores = []
    for _ in range(20):
        texts = rng.normal(size=(len(test.keys), width)).astype(np.float32)
        chance = text_chances(test, texts / np.linalg.norm(texts, axis=1, keepdims=True))
        guess = np.array(test.own)[chance.argmax(axis=1)]
        scores.append(np.mean([(guess[test.truth == name] == name).mean() for name in test.classes]))
    assert abs(np.mean(scores) - 1 / len(test.keys)) < 0.12


def test_the_matcher_deals_out_only_what_the_likeliest_have(test, monkeypatch):
    texts = class_vectors(test.run, test.keys)
    chance = text_chances(test, texts)
    monkeypatch.setattr(compare_words, "MATCHED", 2)
    again = matched_chances(test, chance, texts)
    order = np.argsort(-chance, axis=1, kind="stable")
    rows = np.arange(len(chance))[:, None]
    np.testing.assert_array_equal(again[rows, order[:, 2:]], chance[rows, order[:, 2:]])
    np.testing.assert_allclose(again.sum(axis=1), 1)
    assert (again != chance).any()


def test_nearest_centroid_by_hand():
    x = np.array([[0.0], [2.0], [10.0], [12.0]])
    model = NearestCentroid().fit(x, np.array(["a", "a", "b", "b"]))
    assert model.spread == 1.0
    odds = np.log(model.predict(np.array([[5.0]]))[0])
    assert odds[0] - odds[1] == pytest.approx((6.0**2 - 4.0**2) / 2)  # centres at 1 and 11


def test_first_hits_by_hand():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    relevant = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    found = first_hits(scores, relevant)
    assert found["queries"] == 3 and found["candidates"] == 3
    assert found["recall_at_1"] == pytest.approx((1 + 0 + 1 / 3) / 3) and found["recall_at_5"] == 1
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + (1 + 1 / 2 + 1 / 3) / 3) / 3)
    assert found["chance_at_1"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3) and found["chance_at_5"] == 1
    two = 2 / 3 + 1 / 3 / 2  # first of two good ones among three: at 1, or at 2
    assert found["chance_mrr"] == pytest.approx((two + 2 * (1 + 1 / 2 + 1 / 3) / 3) / 3)
    assert np.isnan(first_hits(scores[:1], relevant[3:])["mrr"])


def test_chance_is_what_random_scores_reach():
    rng = np.random.default_rng(0)
    relevant = np.tile(np.arange(30) < 3, (4000, 1))
    found = first_hits(rng.random((4000, 30)), relevant)
    for name in ("at_1", "at_5", "at_10"):
        assert found[f"recall_{name}"] == pytest.approx(found[f"chance_{name}"], abs=0.03)
    assert found["mrr"] == pytest.approx(found["chance_mrr"], abs=0.02)


def test_retrieval_is_better_than_chance_and_shuffled_labels_are_not(world, test):
    table = compare_retrieval(test)
    directions = ["cell to text", "text to cell", "cell to cell", "cell to text"]
    assert [name.split(",")[0] for name in table.index] == directions
    assert "13 terms" in table.index[-1] and table.iloc[-1]["candidates"] == 13
    assert table.iloc[2]["candidates"] == len(test.truth) - 1
    assert (table["mrr"] > table["chance_mrr"] + 0.1).all()
    run, held, known = world
    none = compare_retrieval(prepare_test(run, shuffled(held), known, "cell_type"))
    assert abs(none.loc["cell to cell", "mrr"] - none.loc["cell to cell", "chance_mrr"]) < 0.1


def test_prompts_have_every_wording_and_their_spread(test):
    table = compare_prompts(test)
    wordings = table[[str(name).startswith("wording") for name in table.index]]
    texts = wordings_of(test.run, test.keys)
    assert len(texts) == len({tuple(one) for one in texts.values()}) == len(wordings)
    assert len(wordings) >= 5 and list(table.columns) == ["accuracy", "macro_f1"]
    spread = wordings.max() - wordings.min()
    pd.testing.assert_series_equal(table.loc["best minus worst wording"], spread, check_names=False)
    assert table.index[-3].startswith("bare name")


def test_descriptions_name_no_gene_that_is_not_there(test):
    table = compare_descriptions(test, 60)
    assert list(table.index) == ["syncyte", PREDICTED, COMMONEST, ORACLE]
    assert (table["hallucinated_genes"] == 0).all()
    assert table.loc[ORACLE, "slot_accuracy"] == 1 and table.loc[ORACLE, "contradictions"] == 0
    assert table.loc["syncyte", "slot_type"] == pytest.approx(table.loc[PREDICTED, "slot_type"])
    assert table.loc["syncyte", "slot_type"] > 0.75
    assert {"slot_type", "slot_condition", "bleu", "rouge_l", "discrepancy"} <= set(table.columns)


def test_a_field_with_one_value_is_not_judged(world):
    run, held, known = world
    one = replace(held, obs=held.obs.assign(condition=""))
    table = compare_descriptions(prepare_test(run, one, known, "cell_type"), 40)
    assert "slot_condition" not in table and (table["slot_accuracy"] == table["slot_type"]).all()
    alike = replace(held, obs=held.obs.assign(condition="control"))
    facts = {**run.recipe["words"], "values": {**run.recipe["words"]["values"], "condition": ["control"]}}
    test = prepare_test(run, alike, known, "cell_type")
    test.run.facts = facts
    assert "slot_condition" not in compare_descriptions(test, 40)


def test_always_the_commonest_type_does_not_win(test, monkeypatch):
    honest = compare_descriptions(test, 60)
    assert honest.loc[COMMONEST, "slot_type"] < honest.loc["syncyte", "slot_type"] - 0.2
    known = np.flatnonzero(np.isin(test.truth, test.classes))
    rows = np.sort(np.random.default_rng([test.seed, 12]).permutation(known)[:60])
    most = pd.Series(test.known).mode().iloc[0]
    assert honest.loc[COMMONEST, "slot_type"] == pytest.approx((test.truth[rows] == most).mean())
    real = compare_said.describe_cells
    monkeypatch.setattr(
        compare_said, "describe_cells", lambda run, cells, **how: real(run, cells, forced=[f"type={most}"], **how)
    )
    lazy = compare_descriptions(test, 60)
    assert lazy.loc["syncyte", "slot_type"] == honest.loc[COMMONEST, "slot_type"]
    assert lazy.loc["syncyte", "contradictions"] > honest.loc["syncyte", "contradictions"]


def test_a_gene_that_is_not_expressed_is_counted(test, monkeypatch):
    real = compare_said.describe_cells
    gene = str(test.run.trained.vocabularies[test.run.modality].index[0])

    def lying(run, cells, **how):
        found = real(run, cells, **how)
        evidence = found.uns["evidence"]
        found.uns["evidence"] = evidence.assign(description=evidence["description"] + f" It is full of {gene}.")
        return found

    monkeypatch.setattr(compare_said, "describe_cells", lying)
    table = compare_descriptions(test, 40)
    rows = np.sort(np.random.default_rng([test.seed, 12]).permutation(len(test.truth))[:40])
    silent = int((test.counts[rows][:, 0].toarray() == 0).sum())
    assert table.loc["syncyte", "hallucinated_genes"] == silent > 0
    assert "WARNING" in evaluate_words._on_descriptions(test, table)


def test_cells_from_texts_beside_ceiling_and_controls(test):
    table = compare_said_cells(test, 20)
    assert list(table.columns) == [f"{name}_{k}" for name in ("accuracy", "share") for k in (5, 10, 25)]
    assert (table.loc[CEILING, ["share_5", "share_10", "share_25"]] == 1).all()
    assert abs(table.loc["shuffled texts (control)", "accuracy_10"] - 0.2) < 0.15  # five types
    assert table.loc["resampled training cells", "accuracy_10"] > 0.4
    assert "labels instead of texts" in table.index and "mean expression of each type" in table.index


def test_cells_hang_on_the_text_and_on_no_reference_cell(world, test):
    run = test.run.trained
    texts = type_texts(test, ["B", "CD14 Mono"])
    assert texts[0].startswith("This cell is a B cell")
    how, places = Sampling(steps=2), ("reference.codes", "reference.vectors", "reference.places")
    first = said_counts(test, texts, 5, how)
    order = np.random.default_rng(0).permutation(len(run.arrays["reference.codes"]))
    kept = {key: run.arrays[key] for key in places}
    try:
        run.arrays.update({key: value[order] for key, value in kept.items()})
        again = said_counts(test, texts, 5, how)
        near = plan_said(run, texts, 5, how, 0, neighbours=3).points(0, 10)
        run.arrays["reference.codes"] = kept["reference.codes"]
        assert not np.allclose(near, plan_said(run, texts, 5, how, 0, neighbours=3).points(0, 10))
    finally:
        run.arrays.update(kept)
    np.testing.assert_array_equal(first.toarray(), again.toarray())
    swapped = said_counts(test, texts[::-1], 5, how)
    assert (first != swapped).nnz


def test_searches_have_precision_beside_chance(test):
    table = compare_searches(test)
    asked = [name for name in test.classes if (test.truth == name).sum() >= 20]
    assert list(table.index[: len(asked)]) == asked
    negated = table[[", not " in str(query) for query in table.index]]
    assert len(negated) >= 2
    for name in asked:
        assert table.loc[name, "chance"] == pytest.approx((test.truth == name).mean())
        assert table.loc[name, "k"] == min(50, (test.truth == name).sum())
        assert table.loc[name, "precision"] > table.loc[name, "chance"] + 0.3
    assert table["precision"].between(0, 1).all() and negated["read_as"].str.contains("NOT").all()


def test_searches_are_scored_as_they_are_answered(test):
    truth = pd.Series(test.truth, index=test.held.names)
    for name, row in compare_searches(test).iterrows():
        if name in test.classes:
            found = search_cells(test.run.trained, name, test.held, top=int(row["k"])).table["cell"]
            assert row["precision"] == pytest.approx((truth[found] == name).mean())


def test_labels_of_another_spelling_are_scored_by_class(world, test):
    run, held, known = world
    spelled = replace(held, obs=held.obs.assign(cell_type="my " + held.obs["cell_type"].astype(str)))
    same = {f"my {name}": name for name in test.classes}
    other = prepare_test(run, spelled, known, "cell_type", same=same)
    np.testing.assert_array_equal(other.truth, test.truth)
    pd.testing.assert_frame_equal(compare_typing(other), compare_typing(test))
    lost = prepare_test(run, spelled, known, "cell_type")
    assert "does not know (my B" in lost.notes[-1] and compare_typing(lost).loc["syncyte", "accuracy"] == 0
    table, text = score_all(lost)["descriptions"]
    assert table is None and "No held-out cell has a label that the run knows" in text


def test_two_labels_of_one_class_are_added_up(test):
    joined = replace(test, same={"B": "lymphocyte", "CD4 T": "lymphocyte"})
    assert joined.classes == ("lymphocyte", "CD14 Mono", "Erythroid", "HSC")
    chance = type_chances(test)["syncyte"]
    folded = type_chances(joined)["syncyte"]
    np.testing.assert_allclose(
        folded[:, 0], chance[:, test.classes.index("B")] + chance[:, test.classes.index("CD4 T")]
    )
    truth = np.where(np.isin(test.truth, ["B", "CD4 T"]), "lymphocyte", test.truth)
    relevant = replace(joined, truth=truth).relevant(joined.keys)
    assert (relevant.sum(axis=1) == np.where(truth == "lymphocyte", 2, 1)).all()


def test_few_cells_are_refused_in_words(world):
    run, held, known = world
    with pytest.raises(DataError, match="Found 3 held-out cells with a label in 'cell_type'"):
        prepare_test(run, held.take(np.arange(3)), known, "cell_type")


def test_evaluate_has_the_sections_and_the_report_prints_them(world, tmp_path):
    run, held, known = world
    found = evaluate_cells(run, held, known, label_key="cell_type", tasks=("words",), quiet=True)
    titles = ["typing", "prompts", "retrieval", "descriptions", "text to cells", "search"]
    assert [name for name in found.tables if name.startswith("words ")] == [f"words {title}" for title in titles]
    table = found.tables["words typing"]
    assert table.index[0] == "syncyte tiny" == found.model
    best = table.drop(index="syncyte tiny")["accuracy"]
    if best.max() > table.loc["syncyte tiny", "accuracy"]:
        assert f"{best.idxmax()} ({best.max():.3f})" in found.text["words typing"]
    report = report_from_evaluation(found)
    names = [section.title for section in report.sections]
    assert {"Words: types", "Words: retrieval", "Words: cells from texts", "Words: searches"} <= set(names)
    section = next(section for section in report.sections if section.title == "Words: types")
    assert section.verdicts and section.model == "syncyte tiny"
    write_report(report, tmp_path)
    assert "Words: descriptions" in (tmp_path / "report.html").read_text(encoding="utf-8")
    bare = evaluate_cells(run, held, known, tasks=("words",), quiet=True)
    assert "words typing" not in bare.tables and any("label column" in note for note in bare.text["notes"].split("\n"))


def test_runs_without_words_are_evaluated_as_before(tiny_sets_run, tiny_data):
    cells = cells_of(tiny_data).only(["rna"])
    found = evaluate_cells(tiny_sets_run, cells, cells, label_key="cell_type", tasks=("words",), quiet=True)
    assert not any(name.startswith("words") for name in found.tables)
    with pytest.raises(CapabilityError, match="is a scldm run, which cannot score words"):
        prepare_test(tiny_sets_run, cells, cells, "cell_type")


def test_who_is_ahead_is_said():
    table = pd.DataFrame({"macro_f1": [0.5, 0.7, 0.6, 0.1]}, index=["syncyte", "a", "b", "c"])
    assert ahead(table, "macro_f1", "syncyte", ["a", "b", "c", "none"]) == (
        "In macro F1 a (0.700) and b (0.600) are ahead of syncyte (0.500)."
    )
    assert ahead(table, "macro_f1", "a", ["b"]) == ""
    lower = table.rename(columns={"macro_f1": "ece"})
    assert ahead(lower, "ece", "syncyte", ["a", "b", "c"]) == (
        "In calibration error c (0.100) is ahead of syncyte (0.500)."
    )


def test_the_benchmark_prints_every_table(world, test, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("words_benchmark", BENCHMARK)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    run, held, known = world
    monkeypatch.setattr(script, "opened", {"held": held, "known": known}.__getitem__)
    monkeypatch.setattr(script, "load_trained", lambda path, device: run)
    monkeypatch.setattr(script, "Path", str)
    out, same = tmp_path / "o.md", tmp_path / "same.tsv"
    same.write_text("B\tlymphocyte\nCD4 T\tlymphocyte\n", encoding="utf-8")
    line = ["words.py", "run", "held", "--label-key", "cell_type", "--reference", "known", "--same", str(same)]
    monkeypatch.setattr(sys, "argv", line)
    script.main()
    printed = capsys.readouterr().out
    assert "## Typing" in printed and "## Search" in printed and "| lymphocyte" not in printed.split("## Search")[0]
    assert not out.exists() and UNSEEN not in test.classes
    assert script.shown(0.25) == "0.2500" and script.shown(144.0) == "144" and script.shown("a") == "a"
