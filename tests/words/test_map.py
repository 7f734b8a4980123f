"""Labels become terms, coarser terms or nothing, and say why."""

from __future__ import annotations

import pytest
from tests.small_ontology import obo

from syncyte.errors import ConfigError, DataError, GenomeError
from syncyte.genome.ontology import Ontology
from syncyte.genome.ontology_files import read_ontology
from syncyte.words.labels import read_labels, read_names, write_map
from syncyte.words.map import LabelMap, LabelMapper


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Ontology:
    path = tmp_path_factory.mktemp("ontology") / "cl.obo"
    path.write_text(obo())
    return read_ontology(path)


@pytest.fixture(scope="module")
def mapper(known) -> LabelMapper:
    return LabelMapper(known)


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("NK cells", "CL:0000623"),
        ("CD4 T", "CL:0000624"),
        ("CD8+ T-cells", "CL:0000625"),
        ("T lymphocytes", "CL:0000084"),
        ("B naive", "CL:0000788"),
        ("FCGR3A+ Mono", "CL:0000875"),
        ("CD14.Mono.1", "CL:0001054"),
        ("03_NK", "CL:0000623"),
        ("Platelets (blood)", "CL:0000233"),
    ],
)
def test_the_same_name(mapper, label, term):
    found = mapper.map([label])[0]
    assert (found.id, found.how) == (term, "same")
    assert found.score > 0.85
    assert found.evidence.startswith("same as the ")


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("", "no Latin letter"),
        ("细胞", "no Latin letter"),
        ("клетка", "no Latin letter"),
        ("🧬🔬", "no Latin letter"),
        ("???", "no Latin letter"),
        ("17", "no Latin letter"),
        ("n/a", "nearest"),
        ("B" * 5000, "5,000 characters"),
        ("Unassigned", "it says"),
        ("doublets", "it says"),
        ("qwrtzp xkcd", "nearest"),
    ],
)
def test_no_answer(mapper, label, why):
    found = mapper.map([label])[0]
    assert (found.id, found.term, found.how) == ("", "", "none")
    assert why in found.evidence
    assert found.score < mapper.cut


def test_order_and_repeats_are_kept(mapper):
    labels = ["NK", "zzzz", "B", "NK"]
    assert [item.label for item in mapper.map(labels)] == labels
    assert mapper.map([]) == []


def test_a_marker_that_no_name_has_makes_it_coarser(known):
    found = LabelMapper(known, cut=0.55).map(["XYZ12+ patrolling monocytes"])[0]
    assert (found.id, found.how) in {("CL:0000875", "coarser"), ("CL:0000875", "close")}


def test_sums_over_a_branch_are_coarser(known, monkeypatch):
    mapper = LabelMapper(known)
    places = [mapper.lexicon.at[key] for key in ("CL:0000624", "CL:0000625")]

    def split(shortlist):
        return [0.42 if term in places else 0.0 for term in shortlist.terms]

    import numpy as np

    kind = type(mapper.models.reranker)
    monkeypatch.setattr(kind, "probabilities", lambda self, item: np.array(split(item)))
    monkeypatch.setattr("syncyte.words.map.GENERAL", 0.3)
    found = mapper.map(["CD4 or CD8 thing"])[0]
    assert (found.id, found.how) == ("CL:0000084", "coarser")
    assert "not sure which" in found.evidence


def test_terms_that_were_not_asked_for(known):
    mapper = LabelMapper(known, among=["CL:0000084", "CL:0000236"], names=[("my NK", "")])
    found = mapper.map(["CD4 T", "NK cells", "B", "my NK", "patrolling monocyte type"])
    assert [item.id for item in found] == ["CL:0000084", "", "CL:0000236", "", ""]
    assert found[0].how == "coarser"
    assert "not among the terms asked for" in found[1].evidence
    assert found[3].term == "my NK"


def test_one_candidate_is_not_enough():
    mapper = LabelMapper(names=[("B cell", "")], usual=False)
    found = mapper.map(["natural killer cell", "B cels", "memory B cell"])
    assert [item.how for item in found[:1]] == ["none"]


def test_ranked_and_match(mapper):
    assert mapper.ranked("NK cells")[0] == ("CL:0000623", 0.99)
    assert mapper.ranked("🧬") == []
    assert mapper.match("NK cells") == ("CL:0000623", 0.99)
    assert mapper.match("🧬") is None


def test_without_an_ontology_it_says_what_is_missing():
    mapper = LabelMapper()
    assert mapper.map(["CD14+ Mono"])[0].id == "CL:0001054"
    assert mapper.map(["kidney podocyte of the moon"])[0].how != "same"
    assert "No ontology" in mapper.notes[0]


def test_own_names(known):
    names = [("Pop 7", "CL:0000623"), ("Tumour X", ""), ("old one", "CL:0000001"), ("NK cell", "")]
    mapper = LabelMapper(known, names=names)
    found = mapper.map(["pop 7", "tumor x", "old one", "NK cells"])
    assert [item.id for item in found] == ["CL:0000623", "", "CL:0000084", "CL:0000623"]
    assert found[1].term == "Tumour X"
    assert "your name" in found[0].evidence
    with pytest.raises(GenomeError, match="no id or name"):
        LabelMapper(known, names=[("x", "CL:7777777")])


def test_own_names_alone():
    mapper = LabelMapper(names=[("podocyte 2a", "")], usual=False)
    assert mapper.map(["Podocytes 2a"])[0].term == "podocyte 2a"
    with pytest.raises(DataError, match="No names to map to"):
        LabelMapper(usual=False)


@pytest.mark.parametrize("cut", [0.0, 1.0, 2.0, float("nan")])
def test_a_cut_that_is_no_score_is_refused(cut):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        LabelMapper(cut=cut)


def test_files(tmp_path, mapper):
    path = tmp_path / "labels.txt"
    path.write_text("\ufeffNK cells\r\n\r\n B, naive \nNK cells\n")
    assert read_labels(path) == ["NK cells", "B, naive"]
    found = LabelMap(tuple(mapper.map(read_labels(path))))
    write_map(found, tmp_path / "out.csv")
    import pandas as pd

    back = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(back) == ["label", "term_id", "term", "score", "evidence"]
    assert back["label"].tolist() == ["NK cells", "B, naive"]
    path.write_text("# mine\nPop 7,CL:0000623\nTumour, left\n\nx\tCL_0000084\n")
    assert read_names(path) == [("Pop 7", "CL:0000623"), ("Tumour, left", ""), ("x", "CL:0000084")]


@pytest.mark.parametrize("read", [read_labels, read_names])
@pytest.mark.parametrize(
    ("content", "says"), [(b"\n \n", "holds no"), (b"\xff\xfe\x00", "no text"), (b"a\x00", "no text")]
)
def test_bad_files(tmp_path, read, content, says):
    path = tmp_path / "bad.txt"
    with pytest.raises(DataError, match="cannot be read"):
        read(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read(path)
