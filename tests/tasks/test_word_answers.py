"""Types without a training label, and cells from texts, on one tiny run of known biology."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tests.tiny_words import IDS, UNSEEN, told_cells, train_words, training_cells, write_ontology

import syncyte
from syncyte.data.cells import Cells
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.tasks import say_cells, zero_shot
from syncyte.tasks.generate import read_sampling
from syncyte.tasks.word_run import WordRun
from syncyte.words.markers import score_marker_blocks, score_markers

OWN = ["CL:0000236", "CL:0001054", "CL:0000624", "Erythroid", "HSC"]
NK = IDS[UNSEEN]


@pytest.fixture(scope="module")
def data():
    """Six types of cells, of which the run knows five; not to be changed."""
    return told_cells()


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run with an ontology; not to be changed."""
    folder = tmp_path_factory.mktemp("words")
    return train_words(training_cells(data), folder / "RUN", ontology=write_ontology(folder))


@pytest.fixture(scope="module")
def bare(data, tmp_path_factory):
    """A run without one; not to be changed."""
    return train_words(training_cells(data), tmp_path_factory.mktemp("bare") / "RUN")


def typed(run, data, **options):
    return syncyte.annotate(run, data, zero_shot=True, quiet=True, **options)


def classes_of(result) -> list[str]:
    return list(result.uns["classes"].index)


# --- candidates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["NK"], ["NK cell"], ["natural killer cell"], [NK], ["CL_0000623", "NK", "B cell"]])
def test_candidates_are_names_or_ids(run, data, given):
    made = typed(run, data, candidates=given)
    assert classes_of(made) == [*OWN, NK]
    assert list(made.uns["classes"]["trained_on"]) == [True] * 5 + [False]


def test_candidates_of_a_file(run, data, tmp_path):
    path = tmp_path / "types.txt"
    path.write_text("NK cell\nplatelet\n\n", encoding="utf-8")
    made = typed(run, data, candidates=str(path))
    assert classes_of(made) == [*OWN, NK, "CL:0000233"]
    with pytest.raises(DataError, match="cannot be read: No such file"):
        typed(run, data, candidates=tmp_path / "none.txt")


def test_candidates_of_a_tissue_of_markers_and_of_all_terms(run, bare, data):
    blood = typed(run, data, tissue=" Blood ")
    assert NK in classes_of(blood) and "CL:0000129" not in classes_of(blood)  # no microglia in blood
    usual = typed(run, data)
    note = usual.provenance["settings"]["notes"][0]
    assert note.startswith("Candidates: 5 types of training and all with markers in the data")
    table = WordRun(run).markers
    genes = set(data.var_names)
    assert all(len(genes.intersection(table.of(key))) >= 2 for key in classes_of(usual)[5:])
    every = typed(run, data, candidates="all")
    assert set(WordRun(run).ontology.active) <= set(classes_of(every))
    assert any("open vocabulary is beyond" in note for note in every.provenance["settings"]["notes"])
    with pytest.raises(ConfigError, match="takes every term of an ontology, and this run was trained without one"):
        typed(bare, data, candidates="all")


@pytest.mark.parametrize("given", [[], ["B cell"], ["CD4 T", "Erythroid"]])
def test_without_further_candidates_the_classifier_answers(run, data, given):
    made = typed(run, data, candidates=given)
    words = WordRun(run)
    chance = words.chances(words.ask(syncyte.api.open_data(data)))
    np.testing.assert_allclose(made.obsm["syncyte_type_probability"], chance, atol=1e-6)
    assert classes_of(made) == OWN and made.metrics["unseen"] == 0
    assert made.provenance["settings"]["notes"][-1] == "All candidates are types of training."


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"candidates": ["Klingon"]}, ConfigError, "Candidates that mean no term: 'Klingon'. Give ids or names"),
        ({"candidates": ["CL:9999999", "NK"]}, ConfigError, "mean no term: 'CL:9999999'"),
        ({"candidates": ["NK"], "tissue": "blood"}, ConfigError, "--candidates and --tissue both say"),
        ({"tissue": "bloood"}, ConfigError, "Unknown tissue of the marker table 'bloood'. Did you mean 'blood'"),
        ({"by": "cluster", "smooth": True}, ConfigError, "give one of them"),
        ({"by": "clusters"}, DataError, "Unknown obs column 'clusters'. Did you mean 'cluster'"),
        ({"threshold": 1.5}, ConfigError, "threshold is 1.5; it is a probability between 0 and 1"),
        ({"unseen_share": 0.0}, ConfigError, "unseen_share is 0.0; it must lie between 0 and 1"),
        ({"unseen_share": 1.0, "candidates": []}, ConfigError, "unseen_share is 1.0; it must lie between 0 and 1"),
        ({"label_key": "cell_type"}, ConfigError, "--zero-shot needs no reference and no --label-key"),
    ],
)
def test_what_does_not_fit_is_refused(run, data, options, kind, says):
    with pytest.raises(kind, match=says):
        typed(run, data, **options)


def test_words_need_a_run_of_words(tiny_run, tiny_data, run, data):
    with pytest.raises(CapabilityError, match="clm_x run, which cannot type cells by words"):
        typed(tiny_run, tiny_data)
    with pytest.raises(ConfigError, match="--candidates and --tissue belong to --zero-shot: add it"):
        syncyte.annotate(run, data, candidates=["NK"])
    with pytest.raises(ConfigError, match="--unseen-share belongs to --zero-shot: add it"):
        syncyte.annotate(run, data, unseen_share=0.1)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_type_that_no_training_cell_had_is_an_answer(run, data):
    made = typed(run, data, candidates=["NK"])
    table = pd.crosstab(data.obs["cell_type"].to_numpy(), made.obs["syncyte_type"])
    named = table["natural killer cell"] / table.sum(axis=1)
    assert named[UNSEEN] > 0.3 and named.drop(UNSEEN).max() < 0.2
    right = (data.obs["cell_type"] == UNSEEN).to_numpy()
    chance = made.obsm["syncyte_type_probability"][:, classes_of(made).index(NK)]
    assert chance[right].mean() > 3 * chance[~right].mean()
    by = typed(run, data, candidates=["NK"], by="cluster")
    assert set(by.obs["syncyte_type"][right]) == {"natural killer cell"}
    assert set(by.obs["syncyte_type_id"][right]) == {NK}


def test_probabilities_are_probabilities(run, data):
    for options in ({}, {"candidates": ["NK"]}, {"tissue": "blood"}, {"smooth": True}, {"by": "cluster"}):
        made = typed(run, data, **options)
        chance = made.obsm["syncyte_type_probability"]
        assert chance.shape == (len(data), len(classes_of(made))) and chance.min() >= 0
        np.testing.assert_allclose(chance.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(made.uns["classes"]["mean_probability"].sum(), 1, atol=1e-5)
    merged = pd.DataFrame(chance).groupby(data.obs["cluster"].to_numpy()).nunique()
    assert (merged == 1).all().all()  # one answer a cluster


def test_counts_are_read_in_blocks_and_the_numbers_stay(run, data, monkeypatch):
    words = WordRun(run)
    asked = words.ask(syncyte.api.open_data(data))
    counts = words.counts(asked)
    places = words.space.transform(counts)
    genes = run.vocabularies[words.modality].index.astype(str)
    scores = score_markers(counts, genes, [*OWN, NK], words.markers)
    whole = typed(run, data, candidates=["NK"])
    seen = []

    def blocks(self, modality, rows=None, size=0, real=Cells.blocks):
        for block, part in real(self, modality, rows, 37):
            seen.append(part.shape[0])
            yield block, part

    def forbidden(*given):
        raise AssertionError("all counts were read at once")

    monkeypatch.setattr(Cells, "blocks", blocks)
    monkeypatch.setattr(WordRun, "counts", forbidden)
    np.testing.assert_allclose(words.space.transform_blocks(zero_shot.blocks_of(words, asked)), places, atol=1e-4)
    cut = score_marker_blocks(zero_shot.blocks_of(words, asked), genes, [*OWN, NK], words.markers)
    np.testing.assert_allclose(cut.values, scores.values, atol=1e-5)
    made = typed(run, data, candidates=["NK"])
    np.testing.assert_allclose(made.obsm["syncyte_type_probability"], whole.obsm["syncyte_type_probability"], atol=1e-4)
    assert list(made.obs["syncyte_type"]) == list(whole.obs["syncyte_type"]) and max(seen) == 37
    typed(run, data, candidates=["NK"], smooth=True)


def test_cells_without_counts_get_no_answer(run, data):
    from mudata import MuData

    other = data[:, :20].copy()
    other.var_names = [f"chr1:{1000 * place}-{1000 * place + 500}" for place in range(20)]
    both = MuData({"rna": data[::2].copy(), "atac": other})
    made, alone = typed(run, both, candidates=["NK"]), typed(run, data[::2].copy(), candidates=["NK"])
    answers = pd.DataFrame(made.obs, index=made.cells)["syncyte_type"]
    assert list(answers.loc[data.obs_names[::2]]) == list(alone.obs["syncyte_type"])
    assert set(answers.loc[data.obs_names[1::2]]) == {"unknown"} and len(answers) == len(data)
    assert "cells have no rna and get no answer" in made.provenance["settings"]["notes"][0]


def test_fewer_unseen_cells_are_found_where_fewer_are_expected(run, data):
    some, few = (typed(run, data, candidates=["NK"], unseen_share=share) for share in (0.5, 0.01))
    chances = [made.uns["classes"]["mean_probability"][NK] for made in (some, few)]
    assert chances[1] < chances[0] and few.provenance["settings"]["unseen_share"] == 0.01
    np.testing.assert_array_equal(
        typed(run, data, candidates=["NK"]).obsm["syncyte_type_probability"], some.obsm["syncyte_type_probability"]
    )


def test_below_the_threshold_answers_are_wider_or_none(run, data):
    made = typed(run, data, candidates=["NK"], threshold=0.9)
    kinds, coarser = made.obs["syncyte_type"], made.obs["syncyte_type_coarser"]
    ontology = WordRun(run).ontology
    wide = set(made.obs["syncyte_type_id"][coarser])
    assert wide and all(any(key in ontology.active[one].ancestors for one in OWN[:3]) for key in wide)
    sure = (kinds != "unknown") & ~coarser
    assert (made.obs["syncyte_confidence"][kinds != "unknown"] >= 0.9 - 1e-6).all()
    assert set(made.obs["syncyte_type_id"][sure]) <= {*OWN, NK}
    assert made.metrics["unknown"] == pytest.approx((kinds == "unknown").mean())
    assert made.metrics["coarser"] == pytest.approx(coarser.mean())
    loose = typed(run, data, candidates=["NK"])
    assert loose.metrics["unknown"] < made.metrics["unknown"] + made.metrics["coarser"]


def test_labels_of_the_query_never_matter(run, data):
    hidden = data.copy()
    hidden.obs = hidden.obs[[]]
    lying = data.copy()
    lying.obs["cell_type"] = lying.obs["cell_type"].to_numpy()[::-1]
    first = typed(run, data, candidates=["NK"])
    for other in (hidden, lying):
        again = typed(run, other, candidates=["NK"])
        np.testing.assert_array_equal(again.obsm["syncyte_type_probability"], first.obsm["syncyte_type_probability"])
        assert list(again.obs["syncyte_type"]) == list(first.obs["syncyte_type"])


def test_genes_that_were_not_measured_say_nothing(run, data):
    half = data[:, ::2].copy()
    made = typed(run, half, candidates=[])
    words = WordRun(run)
    known = data.obs["cell_type"].isin(words.labels).to_numpy()
    best = np.array(words.labels)[made.obsm["syncyte_type_probability"].argmax(axis=1)]
    assert (best == data.obs["cell_type"].to_numpy())[known].mean() > 0.75
    few = typed(run, data[:, :30].copy(), candidates=[])
    assert any("The data have 30 of the 120 genes" in note for note in few.provenance["settings"]["notes"])


def test_typing_leaves_the_data_alone_and_is_written(run, data, tmp_path):
    before = data.copy()
    made = typed(run, data, candidates=["NK"], out=tmp_path / "out.h5ad")
    assert list(data.obs.columns) == list(before.obs.columns) and "syncyte" not in data.uns
    import anndata

    read = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(read.obs["syncyte_type"].astype(str)) == list(made.obs["syncyte_type"])
    assert {"syncyte_type_id", "syncyte_confidence", "syncyte_type_coarser"} <= set(read.obs.columns)


# --- cells from texts ------------------------------------------------------------------------------------------------


def said(run, text, n=12, **options):
    return syncyte.generate(run, text=text, n=n, quiet=True, **options)


def same(one, other) -> bool:
    return (one.counts != other.counts).nnz == 0


def with_arrays(run, **arrays):
    return replace(run, arrays={**run.arrays, **arrays})


def test_same_seed_same_cells(run):
    first = said(run, "B cells")
    assert first.counts.shape == (12, 120) and first.counts.data.min() >= 1
    assert same(first, said(run, "B cells"))
    assert not same(first, said(run, "B cells", seed=1))
    assert list(first.obs["syncyte_text"]) == ["B cells"] * 12


def test_cells_follow_their_text(run):
    """Codes, before counts are drawn: tiny flows differ too little for every count to tell."""

    def codes(texts, n):
        return say_cells.plan_said(run, texts, n, read_sampling(8, 1.0, ()), 0).points(0, n * len(texts))

    both, turned, other = codes(["B cells", "HSC"], 6), codes(["HSC", "B cells"], 6), codes(["B cells", "NK"], 6)
    assert both.shape == (12, 5) and (both != turned).any(axis=1).all()
    np.testing.assert_allclose(both[:6], other[:6], atol=1e-5)
    assert (both[6:] != other[6:]).any(axis=1).all()
    np.testing.assert_allclose(codes(["B cells"], 12), codes(["B cells", "B cells"], 6), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "same_as", "says"),
    [
        ("unstimulated B cells", "control B cells", "'unstimulated' is read as 'control'"),
        ("B cells without interferon", "control B cells", "'without interferon' is read as 'control'"),
        ("B cells from lung", "B cells", "'from lung' is left out: no training text of this run spoke of it"),
    ],
)
def test_denied_conditions_and_fields_never_heard_do_not_move_the_cells(run, text, same_as, says):
    plans = [say_cells.plan_said(run, [one], 4, read_sampling(8, 1.0, ()), 0) for one in (text, same_as)]
    np.testing.assert_array_equal(*(plan.points(0, 4) for plan in plans))
    assert plans[0].facts["notes"][0].startswith(says) and plans[1].facts["notes"] == []
    assert plans[0].facts["texts"] == [text] and plans[0].facts["read_as"] == [same_as]
    assert set(plans[0].obs["syncyte_text"]) == {text}


def test_several_texts_make_cells_of_each(run):
    made = said(run, ["B cells", "HSC"], n=6)
    assert list(made.obs["syncyte_text"]) == ["B cells"] * 6 + ["HSC"] * 6 and made.counts.shape == (12, 120)


def test_no_training_cell_is_looked_at(run):
    plain = said(run, "B cells")
    none = replace(run, arrays={key: value for key, value in run.arrays.items() if not key.startswith("reference.")})
    assert same(plain, said(none, "B cells"))
    noise = {
        key: np.random.default_rng(0).normal(size=run.arrays[key].shape).astype(run.arrays[key].dtype)
        for key in ("reference.codes", "reference.vectors")
    }
    assert same(plain, said(with_arrays(run, **noise), "B cells"))
    assert plain.facts["neighbours"] == 0 and plain.facts["notes"] == []


def test_with_neighbours_training_cells_are_looked_at(run):
    near = said(run, "B cells", neighbours=5)
    order = np.random.default_rng(0).permutation(len(run.arrays["reference.codes"]))
    other = with_arrays(run, **{"reference.codes": run.arrays["reference.codes"][order]})
    assert same(near, said(run, "B cells", neighbours=5)) and not same(near, said(run, "B cells"))
    assert not same(near, said(other, "B cells", neighbours=5))
    assert near.facts["neighbours"] == 5
    assert near.facts["notes"][-1] == (
        "Also conditioned on the 5 training cells nearest to the text: not from text alone."
    )


def test_neighbours_are_the_nearest_to_the_text(run):
    vectors = WordRun(run).texts(["B cells", "HSC"])
    codes = say_cells._neighbours(run, vectors, 4)
    scores = run.arrays["reference.vectors"].astype(np.float32) @ vectors.T
    for place in (0, 1):
        best = np.argsort(-scores[:, place], kind="stable")[:4]
        np.testing.assert_array_equal(codes[place], run.arrays["reference.codes"][best])


def test_what_a_text_excludes_is_said_not_to_be_understood(run):
    made = said(run, "lymphocytes, not T cells", n=2)
    assert made.facts["notes"][0] == (
        "'lymphocytes, not T cells': what a text excludes is not understood when cells are generated; say what they "
        "are."
    )


def test_a_strange_text_is_said_to_be_strange(run, monkeypatch):
    words = WordRun(run)
    monkeypatch.setattr(say_cells, "UNLIKE", 2.0)
    (note,) = say_cells.check_text(words, "quantum umbrella")
    assert note.startswith("'quantum umbrella' is unlike every text of training (nearest: ")
    assert note.endswith("): cells may be anything.")
    monkeypatch.setattr(say_cells, "UNLIKE", -1.0)
    assert say_cells.check_text(words, "quantum umbrella") == []


@pytest.mark.parametrize(
    ("text", "options", "kind", "says"),
    [
        ([""], {}, ConfigError, "The search is empty"),
        ("  ", {}, ConfigError, "The search is empty"),
        ("😀", {}, ConfigError, "has no letters"),
        ("the", {}, ConfigError, "has only common words"),
        (["B cells", "细胞"], {}, ConfigError, "is not in Latin letters"),
        ("x" * 501, {}, DataError, "has 501 characters"),
        ("B cells", {"n": 0}, ConfigError, "n is 0; at least one cell is made"),
        ("B cells", {"neighbours": -1}, ConfigError, "neighbours is -1; expected 0"),
        ("B cells", {"neighbours": 1001}, ConfigError, r"neighbours is 1001; expected .* to 1,000"),
        ("B cells", {"where": ["cell_type=B"]}, ConfigError, "leave out --where and --mode"),
        ("B cells", {"mode": "unconditional"}, ConfigError, "leave out --where and --mode"),
    ],
)
def test_texts_and_options_that_do_not_fit_are_refused(run, text, options, kind, says):
    with pytest.raises(kind, match=says):
        said(run, text, **{"n": 2, **options})


def test_text_needs_a_run_of_words(tiny_sets_run):
    with pytest.raises(CapabilityError, match="scldm run, which cannot generate cells from text"):
        said(tiny_sets_run, "B cells")


def test_labels_can_still_be_asked_for(run):
    made = syncyte.generate(run, n=5, where=["cell_type=B"], quiet=True)
    assert list(made.obs["cell_type"]) == ["B"] * 5 and made.counts.shape == (5, 120)
