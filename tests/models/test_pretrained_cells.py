"""Gene transformers from a folder: tokens and states as transformers gives them, names of tensors, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("transformers")

import torch
import transformers
from tests.gene_models import RENAMES, call_otherwise, ensembl, save_gene_model

from syncyte.errors import ConfigError, DataError
from syncyte.models.pretrained_cells import GeneTransformer, is_gene_transformer
from syncyte.models.rename import read_renames, rename

GENES = [ensembl(number) for number in range(1, 31)]


@pytest.fixture
def counts() -> sp.csr_matrix:
    values = np.random.default_rng(0).poisson(0.8, size=(7, 30)).astype(np.float32)
    values[3] = 0  # a cell without a count
    return sp.csr_matrix(values)


def read(model: GeneTransformer, counts: sp.csr_matrix):
    found = list(model.states(counts))
    width = max(states.shape[1] for states, _ in found)
    states = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0))) for one, _ in found]
    genes = [np.pad(one, ((0, 0), (0, width - one.shape[1]))) for _, one in found]
    return np.concatenate(states), np.concatenate(genes)


@pytest.mark.parametrize("framed", [False, True])
def test_states_are_those_of_transformers(tmp_path: Path, counts, framed):
    folder = save_gene_model(tmp_path / "model", GENES, framed=framed)
    model = GeneTransformer(folder, batch=3)
    states, genes = read(model, counts)
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    numbers = json.loads((folder / "token_dictionary.json").read_text())
    medians = json.loads((folder / "gene_median_dictionary.json").read_text())
    for row in (0, 6):  # alone and unpadded: neither company nor padding counts
        own = counts[row].toarray()[0]
        order = sorted(np.flatnonzero(own), key=lambda g: (-own[g] / medians[GENES[g]], -own[g], g))
        ids = [numbers[GENES[gene]] for gene in order]
        ids = [numbers["<cls>"], *ids, numbers["<eos>"]] if framed else ids
        with torch.no_grad():
            wanted = theirs(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        assert np.allclose(states[row, : len(ids)], wanted, atol=1e-5)
        assert np.flatnonzero(genes[row]).tolist() == list(range(framed, framed + len(order)))
    assert not genes[3].any() and np.isfinite(states).all()


def test_lists_are_cut_at_the_places_there_are(tmp_path: Path, counts):
    folder = save_gene_model(tmp_path / "model", GENES, framed=True, places=10)
    assert read(GeneTransformer(folder), counts)[1].sum(axis=1).max() == 8
    assert read(GeneTransformer(folder, length=5), counts)[1].sum(axis=1).max() == 3
    for length in (2, 11):
        with pytest.raises(ConfigError, match=f"length={length} does not fit .* from 3 to 10"):
            GeneTransformer(folder, length=length)


def test_pickled_dictionaries_are_read_and_json_goes_first(tmp_path: Path, counts):
    plain = save_gene_model(tmp_path / "plain", GENES)
    pickled = save_gene_model(tmp_path / "pickled", GENES, pickled=True)
    assert is_gene_transformer(pickled) and is_gene_transformer(plain) and not is_gene_transformer(tmp_path)
    wanted = read(GeneTransformer(plain), counts)[0]
    assert np.array_equal(read(GeneTransformer(pickled), counts)[0], wanted)
    (pickled / "token_dictionary.json").write_text((plain / "token_dictionary.json").read_text())
    assert GeneTransformer(pickled).files[-2].suffix == ".json"


def test_other_names_of_tensors_are_mapped_by_a_table(tmp_path: Path, counts):
    folder = save_gene_model(tmp_path / "model", GENES)
    first = GeneTransformer(folder)
    wanted, known = read(first, counts)[0], first.fingerprint
    call_otherwise(folder)
    with pytest.raises(DataError, match=r"lack \d+ tensors of the model .* of other names \(net\..*rename\.tsv"):
        GeneTransformer(folder)
    (folder / "rename.tsv").write_text(RENAMES, encoding="utf-8")
    again = GeneTransformer(folder)
    assert np.array_equal(read(again, counts)[0], wanted)
    assert folder / "rename.tsv" in again.files and again.fingerprint != known


def test_shards_are_read(tmp_path: Path, counts):
    folder = save_gene_model(tmp_path / "model", GENES)
    wanted = read(GeneTransformer(folder), counts)[0]
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    again = GeneTransformer(folder)
    assert np.array_equal(read(again, counts)[0], wanted) and len(again.files) > 4


def test_folders_that_do_not_hold_together_are_refused(tmp_path: Path):
    def folder(name: str) -> Path:
        return save_gene_model(tmp_path / name, GENES)

    with pytest.raises(ConfigError, match="There is no folder"):
        GeneTransformer(tmp_path / "nowhere")
    bare = folder("bare")
    (bare / "gene_median_dictionary.json").unlink()
    with pytest.raises(DataError, match=r"no file like \*gene_median\*"):
        GeneTransformer(bare)
    two = folder("two")
    (two / "old_token_dictionary.json").write_text("{}")
    with pytest.raises(DataError, match="2 files like"):
        GeneTransformer(two)
    strange = folder("strange")
    (strange / "gene_median_dictionary.json").write_text('{"X": 1.0}')
    with pytest.raises(DataError, match=r"No token of .* has a median"):
        GeneTransformer(strange)
    large = folder("large")
    (large / "token_dictionary.json").write_text(json.dumps({GENES[0]: 500}))
    with pytest.raises(DataError, match="goes to number 500, the model has 32"):
        GeneTransformer(large)
    empty = folder("empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(DataError, match="Missing: weights"):
        GeneTransformer(empty)
    cut = folder("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be opened"):
        GeneTransformer(cut)
    wide = folder("wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
    with pytest.raises(DataError, match=r"by config\.json it would be"):
        GeneTransformer(wide)


# --- names of tensors ------------------------------------------------------------------------------------------------


def test_stars_stand_for_parts_of_names():
    table = [("layer.*.q.*", "h.*.attn.*"), ("**.w", "old.**.kernel")]
    found = rename(["h.3.attn.bias", "old.a.b.kernel", "same", "h.3.x.attn.bias"], table, [])
    assert list(found.values()) == ["layer.3.q.bias", "a.b.w", "same", "h.3.x.attn.bias"]


def test_usual_prefixes_and_old_spellings_need_no_table():
    wanted = ["encoder.a.weight", "norm.weight", "norm.bias", "x"]
    found = rename(["bert.encoder.a.weight", "bert.norm.gamma", "norm.beta", "model.x", "cls.y"], [], wanted)
    assert list(found.values()) == ["encoder.a.weight", "norm.weight", "norm.bias", "x", "cls.y"]
    with pytest.raises(DataError, match=r"model\.x and module\.x would both be called x"):
        rename(["model.x", "module.x"], [], wanted)


def test_tables_are_read_from_text_and_json(tmp_path: Path):
    assert read_renames(tmp_path) == []
    (tmp_path / "rename.json").write_text('{"a.*": "b.*"}')
    assert read_renames(tmp_path) == [("a.*", "b.*")]
    (tmp_path / "rename.tsv").write_text("a\tb\n")
    with pytest.raises(DataError, match="one table"):
        read_renames(tmp_path)
    (tmp_path / "rename.json").unlink()
    for row in ("a b", "a.*\tb", "a\tb\tc", "*.**\t**.*"):
        (tmp_path / "rename.tsv").write_text(row + "\n")
        with pytest.raises(DataError, match="is no row of names"):
            read_renames(tmp_path)
