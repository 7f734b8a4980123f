"""Ontologies are read from every format alike, and say what they know of ids, names and relations."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tests.small_ontology import ROWS, compact, graphs, obo

from syncyte.errors import GenomeError
from syncyte.genome.ontology import Ontology, canonical_id, read_ids
from syncyte.genome.ontology_files import read_ontology


@pytest.fixture
def known(tmp_path) -> Ontology:
    (tmp_path / "cl.obo").write_text(obo())
    return read_ontology(tmp_path / "cl.obo")


def packed(text: str, how: str) -> bytes:
    from numcodecs.zstd import Zstd

    raw = text.encode()
    return {"": raw, ".gz": gzip.compress(raw), ".zst": bytes(Zstd().encode(raw))}[how]


@pytest.mark.parametrize("how", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("make", "suffix"), [(obo, ".obo"), (compact, ".json"), (graphs, ".json")])
def test_every_format_gives_the_same(tmp_path, known, make, suffix, how):
    path = tmp_path / f"other{suffix}{how}"
    path.write_bytes(packed(make(), how))
    other = read_ontology(path)
    assert other.prefix == "CL"
    assert list(other) == [row[0] for row in ROWS]
    assert other.fingerprint == known.fingerprint
    assert other["CL:0000236"].definition == 'A lymphocyte that makes "antibodies".'
    assert [key for key in other.terms if other.terms[key].retired] == ["CL:0000001", "CL:0000002", "CL:0000003"]


def test_windows_line_ends_are_read(tmp_path, known):
    (tmp_path / "w.obo").write_bytes(obo().replace("\n", "\r\n").encode())
    assert read_ontology(tmp_path / "w.obo").fingerprint == known.fingerprint


def test_names_and_ids_are_found(known):
    assert known["t CELL"].id == known["T lymphocyte"].id == known["CL_0000084"].id == "CL:0000084"
    assert known["http://purl.obolibrary.org/obo/CL_0000084"].label == "T cell"
    assert "mononuclear thing" not in known
    assert known.find("nothing") is None
    assert canonical_id(" a name: with a colon ") == "a name: with a colon"


def test_relations(known):
    assert known["CL:0000624"].ancestors == {"CL:0000084": 1, "CL:0000542": 2, "CL:0000738": 3, "CL:0000000": 4}
    assert list(known.descendants("monocyte")) == ["CL:0000875", "CL:0001054"]
    assert known.common_ancestor("CL:0000624", "naive B cell") == "CL:0000542"
    assert known.distance("CL:0000624", "naive B cell") == 4
    assert known.distance("T cell", "T cell") == 0
    assert known.distance("T cell", "lymphocyte") == 1
    assert known.is_under("T cell", "leukocyte")
    assert not known.is_under("leukocyte", "T cell")


def test_retired_ids_are_replaced_over_several_steps(known):
    assert known.resolve("CL:0000001") == "CL:0000084"
    assert known["CL:0000001"].label == "T cell"
    assert known.resolve("CL:0000003") is None
    with pytest.raises(GenomeError, match=r"native thing\) is retired"):
        known["CL:0000003"]


def test_a_circle_of_replacements_ends(tmp_path):
    text = obo().replace("replaced_by: CL:0000084", "replaced_by: CL:0000001")
    (tmp_path / "c.obo").write_text(text)
    assert read_ontology(tmp_path / "c.obo").resolve("CL:0000001") is None


def test_a_circle_of_parents_ends(tmp_path):
    text = obo().replace("id: CL:0000542\n", "id: CL:0000542\nis_a: CL:0000084\n")
    (tmp_path / "c.obo").write_text(text)
    assert read_ontology(tmp_path / "c.obo")["CL:0000084"].ancestors["CL:0000542"] == 1


def test_unknown_ids_and_names_name_the_nearest(known):
    with pytest.raises(GenomeError, match=r"'CL:00000845' is no id or name.*CL:0000084 \(T cell\)"):
        known["CL:00000845"]
    with pytest.raises(GenomeError, match=r"Nearest: CL:0000875 \(non-classical monocyte\)"):
        known["nonclassical monocytes"]


def test_a_name_of_two_terms_is_not_guessed(tmp_path):
    rows = (*ROWS, ("CL:9", "other", ("NK cell",), "CL:0000000", ""))
    (tmp_path / "t.obo").write_text(obo(rows))
    with pytest.raises(GenomeError, match="names 2 terms"):
        read_ontology(tmp_path / "t.obo")["nk cell"]


def test_subset_of_ids_names_and_files(tmp_path, known):
    some = known.subset(["CL:0000624", "T cell", "CL:0000001", "CL:0000003"])
    assert set(some) == {"CL:0000624", "CL:0000084"}
    assert some["CL:0000624"].ancestors == {"CL:0000084": 1}
    assert some.resolve("CL:0000001") == "CL:0000084"
    path = tmp_path / "ids.tsv"
    path.write_text("ID\tsubset\nID\tAI x:y\nCL:0000236\thttp://x/obo/cl#s\nCL_0000084\tx\n\n")
    assert read_ids(path) == ["CL:0000236", "CL:0000084"]
    assert set(known.subset(path)) == {"CL:0000236", "CL:0000084"}
    with pytest.raises(GenomeError, match="is no id or name"):
        known.subset(["CL:7777777"])
    path.write_text("nothing\n")
    with pytest.raises(GenomeError, match="no line that starts with an id"):
        known.subset(path)


def test_without_takes_synonyms_away(known):
    less = known.without([("CL:0000623", "NK cell")])
    assert less["CL:0000623"].synonyms == ()
    assert known["CL:0000623"].synonyms == ("NK cell",)
    assert less.fingerprint != known.fingerprint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"label,term\nB,x\n", "expected OBO text"),
        (b"<?xml version='1.0'?><rdf/>", "looks like OWL"),
        (b'{"a": 1}', "is JSON with keys"),
        (b"[1, 2]", "is JSON with a list"),
        (b'{"CL:1": {"label": "x"', "cut short"),
        (b'{"graphs": [{"nodes": [{"lbl": "x"}]}]}', "entry that cannot be read"),
        (b'{"CL:1": {"label": "x", "ancestors": {}, "deprecated": true}}', "no term in use"),
        (b"\xff\xfe\x00\x01", "is not text"),
        (b"format-version: 1.2\n\n[Term]\nname: x\n", "without an id"),
        (packed(obo(), ".gz")[:-40], "cut short"),
        (packed(obo(), ".zst")[:-40], "cut short"),
        (obo()[: obo().index("[Term]\nid: CL:0000623") + 25].encode(), "cut short"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, content, says):
    path = tmp_path / "bad.obo"
    path.write_bytes(content)
    with pytest.raises(GenomeError, match=says):
        read_ontology(path)


def test_a_cut_file_with_missing_parents_is_refused(tmp_path):
    path = tmp_path / "cut.obo"
    path.write_text(obo(ROWS[4:]))
    with pytest.raises(GenomeError, match="named as parents and missing"):
        read_ontology(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(GenomeError, match="does not exist"):
        read_ontology(tmp_path / "no.obo")
    with pytest.raises(GenomeError, match="is a folder"):
        read_ontology(tmp_path)


def test_the_real_cell_ontology(real):
    path: Path = real("ontology/CL-ontology-v2026-03-26.json.zst")
    known = read_ontology(path)
    assert (len(known), known.prefix) == (3324, "CL")
    assert known.is_under("natural killer cell", "lymphocyte")
    assert len(known.subset(real("ontology/cellxgene_subset.tsv"))) > 1000
