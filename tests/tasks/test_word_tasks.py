"""Search and descriptions on one tiny run of known biology (types and cells from words: ``test_word_answers``)."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from tests.tiny_words import SEEN, UNSEEN, told_cells, train_words, training_cells, write_ontology

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.tasks import describe, search, search_index
from syncyte.tasks.word_run import WordRun
from syncyte.words.spoken import sound

TYPE = dict(zip(("B", "CD14 Mono", "CD4 T"), ("B cell", "CD14-positive monocyte", "CD4-positive, alpha-beta T cell")))


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


def types_of(data, cells) -> list[str]:
    return list(data.obs.loc[list(cells), "cell_type"])


# --- search ----------------------------------------------------------------------------------------------------------


def test_a_type_is_found_and_scores_are_its_probabilities(run, data):
    found = syncyte.search(run, "B cells", data, top=50)
    known = [kind for kind in types_of(data, found.table["cell"]) if kind != UNSEEN]
    assert set(known) == {"B"} and len(known) > 40
    words = WordRun(run)
    chance = words.chances(words.ask(syncyte.api.open_data(data)))[:, words.labels.index("B")]
    best = np.sort(chance)[::-1][:50]
    np.testing.assert_allclose(found.table["score"], best, atol=1e-4)
    assert list(found.table.columns) == ["cell", "score", "evidence"]
    assert re.fullmatch(r"B 0\.9\d|B 1\.00", found.table["evidence"][0])
    assert len(syncyte.search(run, "B cells", data, top=10_000).table) == len(data)


@pytest.mark.parametrize(
    ("query", "wanted", "unwanted"),
    [
        ("lymphocytes, not T cells", {"B", UNSEEN}, {"CD4 T"}),
        ("not T cells", {"CD14 Mono", "HSC", "Erythroid", "B"}, {"CD4 T"}),
        ("neither B cells nor T cells", {"CD14 Mono", "HSC", "Erythroid"}, {"B", "CD4 T"}),
        ("leukocytes without B lymphocytes", {"CD14 Mono", "CD4 T"}, {"B"}),
        ("HSC or B cells", {"HSC", "B"}, {"CD4 T", "CD14 Mono"}),
        ("CD4-positive, alpha-beta T cell", {"CD4 T", UNSEEN}, {"B"}),  # a name with a comma stays whole
        ("Erythroid", {"Erythroid"}, {"HSC"}),  # a label without a term
    ],
)
def test_what_is_wanted_comes_and_what_is_not_does_not(run, data, query, wanted, unwanted):
    found = syncyte.search(run, query, data, top=20)
    assert set(types_of(data, found.table["cell"])) <= wanted and len(found.table) == 20
    scores = syncyte.search(run, query, data, top=1000).table.set_index("cell")["score"]
    kinds = data.obs["cell_type"]
    for name in unwanted:
        assert scores.reindex(kinds.index[kinds == name]).fillna(0).mean() < 0.2
    assert found.explain.startswith("Read as: ")


def test_negation_is_the_rest(run, data):
    with_, without = (
        syncyte.search(run, text, data, top=1000).table.set_index("cell")["score"]
        for text in ("T cells", "not T cells")
    )
    np.testing.assert_allclose((with_ + without.reindex(with_.index).fillna(0)), 1, atol=2e-4)
    told = syncyte.search(run, "not T cells", data).explain
    assert "all cells AND NOT T cells" in told and "without: T cells = T cell CL:0000084" in told


def test_a_type_that_is_wanted_and_unwanted_is_no_crash(run, data):
    found = syncyte.search(run, "B cells but not B cells", data, top=1000)
    assert "leaves nothing" in " ".join(found.notes)
    assert found.table["score"].max() <= 0.25  # p (1 - p)


@pytest.mark.parametrize(
    ("query", "kind", "says"),
    [
        ("", ConfigError, "The search is empty. Say which cells"),
        ("   ", ConfigError, "The search is empty"),
        ("😀😀", ConfigError, "has no letters"),
        ("Т-клетки", ConfigError, "is not in Latin letters; only English is read"),
        ("细胞", ConfigError, "is not in Latin letters"),
        ("the of cells", ConfigError, "has only common words"),
        ("x" * 501, DataError, "has 501 characters; at most 500 are read"),
        ("purple elephants", DataError, "Nothing in the search .*is like any of the classes: B, CD14 Mono"),
        ("cell:nobody", DataError, "Unknown cell 'nobody'"),
        ("cell:cell_00001", DataError, "Did you mean 'cell_000001'|Unknown cell 'cell_00001'"),
    ],
)
def test_searches_that_say_nothing_are_refused(run, data, query, kind, says):
    with pytest.raises(kind, match=says):
        syncyte.search(run, query, data)
    if not query.startswith(("cell:", "purple")):
        with pytest.raises(kind, match=says):
            syncyte.search(run, query, data, mode="vectors")


def test_options_of_search_are_checked(run, data, tiny_run):
    with pytest.raises(ConfigError, match=r"'vector'\. Did you mean 'vectors'"):
        syncyte.search(run, "B cells", data, mode="vector")
    with pytest.raises(ConfigError, match="top is 0; at least one cell"):
        syncyte.search(run, "B cells", data, top=0)
    with pytest.raises(CapabilityError, match="clm_x run, which cannot search by words"):
        syncyte.search(tiny_run, "B cells", data)


def test_vectors_rank_by_likeness_to_the_sentence(run, data):
    words = WordRun(run)
    asked = words.ask(syncyte.api.open_data(data))
    cosines = search_index.unit_vectors(words, asked) @ words.texts(["B cells"])[0]
    found = syncyte.search(run, "B cells", data, top=20, mode="vectors")
    order = np.argsort(-cosines, kind="stable")[:20]
    np.testing.assert_allclose(found.table["score"], (1 + cosines[order]) / 2, atol=1e-4)
    assert found.notes[-1].startswith("By vectors a sentence is compared as a whole")
    told = search.nearest_texts(words, search_index.unit_vectors(words, asked)[3])
    best, shown = told.split("; ")[0].rsplit(" ", 1)
    assert float(shown) == pytest.approx(
        float(words.texts([best])[0] @ search_index.unit_vectors(words, asked)[3]), abs=6e-3
    )
    assert len(told.split("; ")) >= 5 and f"nearest names: {best}" in like_of(run, data, 3)


def like_of(run, data, row: int) -> str:
    return syncyte.search(run, f"cell:{data.obs_names[row]}", data, top=1).explain


def test_cells_like_a_cell(run, data):
    found = syncyte.search(run, "cell:cell_000007", data, top=15)
    words = WordRun(run)
    vectors = search_index.unit_vectors(words, words.ask(syncyte.api.open_data(data)))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    own = data.obs_names.get_loc("cell_000007")
    cosines = np.delete(vectors @ vectors[own], own)
    assert "cell_000007" not in set(found.table["cell"]) and len(found.table) == 15
    np.testing.assert_allclose(found.table["score"], (1 + np.sort(cosines)[::-1][:15]) / 2, atol=1e-4)
    assert found.explain.startswith("Cells like cell_000007, which is ")


def test_a_search_reads_no_labels(run, data):
    hidden = data.copy()
    hidden.obs = hidden.obs[[]]
    pd.testing.assert_frame_equal(
        syncyte.search(run, "T cells", data).table, syncyte.search(run, "T cells", hidden).table
    )


# --- index -----------------------------------------------------------------------------------------------------------


def test_an_index_is_written_and_reads_no_counts_again(run, data, tmp_path, monkeypatch):
    plain = {q: syncyte.search(run, q, data, top=30, mode=m) for q, m in (("B cells", "terms"), ("HSC", "vectors"))}
    first = syncyte.search(run, "B cells", data, top=30, index=tmp_path / "index")
    files = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert files == ["chances.npy", "condition.npy", "index.json", "vectors"]
    stamp = json.loads((tmp_path / "index/index.json").read_text())
    assert stamp["cells"] == len(data) and stamp["run"] == run.recipe["fingerprint"]

    def forbidden(*given, **keywords):
        raise AssertionError("the counts were read again")

    monkeypatch.setattr(search_index, "_read", forbidden)
    again = syncyte.search(run, "B cells", data, top=30, index=tmp_path / "index")
    pd.testing.assert_series_equal(again.table["score"], plain["B cells"].table["score"], atol=1e-3)
    assert first.explain == again.explain == plain["B cells"].explain
    vectors = syncyte.search(run, "HSC", data, top=30, mode="vectors", index=tmp_path / "index")
    np.testing.assert_allclose(vectors.table["score"], plain["HSC"].table["score"], atol=2e-3)
    near = syncyte.search(run, "cell:cell_000007", data, top=3, index=tmp_path / "index")
    assert len(near.table) == 3


def test_an_index_serves_its_own_cells_and_run_alone(run, bare, data, tmp_path):
    syncyte.search(run, "B cells", data, index=tmp_path / "index")
    other_cells = r"was made for other cells \(it has 400, these are"
    trials = ((run, data[:50], other_cells), (run, data[::-1], other_cells), (bare, data, "was made by another run"))
    for other, cells, says in trials:
        with pytest.raises(DataError, match=says):
            syncyte.search(other, "B cells", cells.copy(), index=tmp_path / "index")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("text")
    with pytest.raises(DataError, match="exists and is no index of cells, so it is left alone"):
        syncyte.search(run, "B cells", data, index=tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "text"
    (tmp_path / "index/index.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read .*Remove the folder"):
        syncyte.search(run, "B cells", data, index=tmp_path / "index")


def test_an_index_is_whole_or_not_there(run, data, tmp_path, monkeypatch):
    def fail(*given, **keywords):
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(search_index.np, "save", fail)
        with pytest.raises(OSError, match="disk is full"):
            syncyte.search(run, "B cells", data, index=tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
    assert len(syncyte.search(run, "B cells", data, index=tmp_path / "index").table) == 200


def test_hits_are_written_whole(run, data, tmp_path):
    found = syncyte.search(run, "B cells", data, top=5, out=tmp_path / "hits.csv")
    read = pd.read_csv(tmp_path / "hits.csv")
    assert list(read["cell"]) == list(found.table["cell"]) and list(read.columns) == ["cell", "score", "evidence"]


# --- descriptions ----------------------------------------------------------------------------------------------------


def named_genes(sentence: str) -> list[str]:
    listed = re.search(r"Expressed markers: ([^.]*)\.", sentence)
    return [] if listed is None else listed[1].split("; ")


@pytest.fixture(scope="module")
def described(run, data):
    """Not to be changed."""
    return syncyte.describe(run, data)


def test_every_gene_that_is_named_is_expressed(described, data):
    counts, some = data.to_df(), 0
    for name, sentence in zip(data.obs_names, described.obs["syncyte_description"], strict=True):
        genes = named_genes(sentence)
        some += len(genes)
        assert all(counts.loc[name, gene] > 0 for gene in genes), sentence
    assert some > 3 * len(data)
    listed = described.uns["evidence"]["genes"].str.split(", ")
    assert all(counts.loc[name, gene] > 0 for name, genes in listed.items() for gene in genes)


def test_types_are_those_of_the_classifier(described, run, data):
    typed = syncyte.annotate(run, data, zero_shot=True, candidates=[], threshold=0.0)
    chance = typed.obsm["syncyte_type_probability"]
    labels = np.array(WordRun(run).labels)
    assert list(described.obs["syncyte_type"]) == list(labels[chance.argmax(axis=1)])
    np.testing.assert_allclose(described.obs["syncyte_confidence"], chance.max(axis=1), atol=1e-3)
    known = data.obs["cell_type"].isin(SEEN).to_numpy()
    assert (described.obs["syncyte_type"] == data.obs["cell_type"].to_numpy())[known].mean() > 0.9
    for kind, sentence in zip(described.obs["syncyte_type"], described.obs["syncyte_description"], strict=True):
        assert TYPE.get(kind, kind) in sentence
        assert "<" not in sentence and "{" not in sentence


def test_evidence_says_what_it_rests_on(described, data):
    table = described.uns["evidence"]
    assert list(table.index) == list(data.obs_names)
    assert set(table["term"]) == {"CL:0000236", "CL:0001054", "CL:0000624", "Erythroid", "HSC"}
    first = data.obs_names[(data.obs["cell_type"] != UNSEEN).to_numpy()][0]
    near = re.findall(r"(\S+) \(([^)]+)\)", table.loc[first, "nearest"])
    assert len(near) == 3 and near[0] == (first, data.obs.loc[first, "cell_type"])  # a training cell is its own nearest
    assert described.provenance["settings"]["forced"] == {} and described.metrics["units"] == len(data)


def test_clusters_get_one_sentence_each(run, data):
    made = syncyte.describe(run, data, by="cluster")
    table = made.uns["evidence"]
    assert list(table.index) == sorted(set(data.obs["cluster"])) and table.index.name == "cluster"
    assert [table.loc[f"cluster {name}", "type"] for name in SEEN] == list(SEEN)
    share = pd.DataFrame(data.to_df() > 0).groupby(data.obs["cluster"]).mean()
    for cluster, sentence in table["description"].items():
        rows = (data.obs["cluster"] == cluster).to_numpy()
        assert set(made.obs["syncyte_description"][rows]) == {sentence}
        assert all(share.loc[cluster, gene] >= 0.5 for gene in named_genes(sentence))
    with pytest.raises(DataError, match=r"Unknown obs column 'clusters'\. Did you mean 'cluster'"):
        syncyte.describe(run, data, by="clusters")


@pytest.mark.parametrize("value", ["B", "B cell", "CL:0000236"])
def test_a_forced_type_is_said_whatever_the_cell_is(run, data, value):
    monocytes = data[(data.obs["cell_type"] == "CD14 Mono").to_numpy()][:5].copy()
    made = syncyte.describe(run, monocytes, force_slots=[f"type={value}", "tissue=blood"])
    assert set(made.obs["syncyte_type"]) == {"B"} and (made.obs["syncyte_confidence"] < 0.5).all()
    assert all("a B cell." in text and "from blood." in text for text in made.obs["syncyte_description"])
    assert made.uns["evidence"]["alternatives"].notna().all()
    assert made.provenance["settings"]["forced"] == {"type": "B", "tissue": "blood"}


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("type=Klingon", "Unknown type of this run 'Klingon'.*Known: B, CD14 Mono"),
        ("tissu=blood", "Unknown field of a description 'tissu'. Did you mean 'tissue'"),
        ("tissue", "'tissue': expected FIELD=VALUE, for instance tissue=blood"),
        ("tissue=", "expected FIELD=VALUE"),
    ],
)
def test_forced_values_are_checked(run, data, pair, says):
    with pytest.raises(ConfigError, match=says):
        syncyte.describe(run, data, force_slots=[pair])


def test_forced_text_is_said_as_it_is(run, data):
    strange = "<b>{type.__class__}</b> %s <script>alert(1)</script> $HOME <=type> \\1"
    made = syncyte.describe(run, data[:3].copy(), force_slots=[f"tissue={strange}"])
    assert all(f"from {strange}." in text for text in made.obs["syncyte_description"])


def test_labels_are_text_and_nothing_else(data, tmp_path):
    told = training_cells(data)
    odd = "<script>{0.__class__} %s</script>"
    told.obs["cell_type"] = told.obs["cell_type"].replace("HSC", odd)
    told.obs["condition"] = told.obs["condition"].replace("control", "{condition} <b>$x</b> \\1")
    short = [f"stages.{name}.epochs=0.2" for name in ("autoencode", "align", "flow")]
    made = train_words(told, tmp_path / "RUN", settings=short)
    some = told[(told.obs["cell_type"] == odd).to_numpy()][:5].copy()
    result = syncyte.describe(made, some)
    assert (result.obs["syncyte_type"] == odd).all()
    for sentence, row in zip(result.obs["syncyte_description"], result.uns["evidence"]["condition"], strict=True):
        assert f"This cell is a {odd}." in sentence and row in set(told.obs["condition"])
        assert f"under {row}." in sentence or "under" not in sentence
    found = syncyte.search(made, odd, told, top=5)
    assert types_of(told, found.table["cell"]) == [odd] * 5


def test_unsound_sentences_are_replaced(run, data, monkeypatch):
    some = data[:4].copy()
    said = [
        "This cell is a <=type>. It cures cancer.",
        "This cell is a <=type>. This cell is a <=type>.",
        "",
        "This cell is a <=type>. Expressed markers: <=markers>.",
    ]
    assert [sound(text) for text in said] == [False, False, False, True]
    monkeypatch.setattr(describe, "sentences", lambda run, states, before: list(said))
    made = syncyte.describe(run, some)
    texts = list(made.obs["syncyte_description"])
    assert made.provenance["settings"]["notes"] == [
        "3 sentences of the speaker were none of the known ones and were replaced."
    ]
    assert all(text.startswith(("This cell is a ", "This cell is an ")) and "cures" not in text for text in texts)
    assert all(text.count("This cell is a") == 1 for text in texts)
    assert re.fullmatch(r"This cell is a [^.]+\. Expressed markers: [^.]+\.", texts[3])


def test_many_cells_with_the_same_values_share_a_sentence(run, data, described, monkeypatch):
    monkeypatch.setattr(describe, "MOST_SPOKEN", 10)
    made = syncyte.describe(run, data)
    assert list(made.obs["syncyte_type"]) == list(described.obs["syncyte_type"])
    assert set(made.uns["evidence"]["speaker"]) == {""}
    counts = data.to_df()
    for name, sentence in zip(data.obs_names[:50], made.obs["syncyte_description"][:50], strict=True):
        assert all(counts.loc[name, gene] > 0 for gene in named_genes(sentence))


def test_values_of_other_columns_are_read_and_turned_round(run, data):
    table = {
        text: syncyte.search(run, text, data, top=1000)
        for text in ("stimulated cells", "unstimulated B cells", "not stimulated")
    }
    assert (
        "wanted: condition = stimulated" in table["stimulated cells"].explain
        and "all cells" in table["stimulated cells"].explain
    )
    assert "without: condition = stimulated" in table["unstimulated B cells"].explain
    assert "B cells" in table["unstimulated B cells"].explain
    with_ = table["stimulated cells"].table.set_index("cell")["score"]
    without = table["not stimulated"].table.set_index("cell")["score"]
    np.testing.assert_allclose(with_ + without.reindex(with_.index).fillna(0), 1, atol=2e-4)
