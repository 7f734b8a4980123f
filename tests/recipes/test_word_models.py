"""Text models from a user's folder in a run of words: a sentence model that reads, a language model that speaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import syncyte
from syncyte.errors import DataError
from syncyte.tasks.word_run import WordRun
from syncyte.train.folder import SPEAKER

pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def cells():
    made = syncyte.simulate(120, seed=3, types=4, genes=120, regions=200)
    rna = made["rna"].copy()
    rna.obs["cell_type"] = made.obs["cell_type"].astype(str).to_numpy()
    return rna


def train(cells, out: Path, *settings: str, **more):
    how = {"preset": "tiny", "label_key": "cell_type", "quiet": True, **more}
    return syncyte.train("scmmgpt", cells, out=out, settings=["words.texts=4", *settings], **how)


def test_a_sentence_model_reads_in_place_of_the_small_transformer(cells, tmp_path: Path) -> None:
    import transformers
    from tests.text_models import bert_config, save

    folder = save(tmp_path / "bert", transformers.BertModel(bert_config()), framed=True, pad_token="<pad>")
    run = train(cells, tmp_path / "run", f"words.reader={folder}")
    words = WordRun(run)
    assert words.reader is not None and run.model.words.sizes.sentence == words.reader.width
    vectors = words.texts(["a cell of the blood", "a cell of the blood", "liver"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[1]) and not np.allclose(vectors[0], vectors[2], atol=1e-3)
    made = syncyte.generate(run, text="a cell of the blood", n=3, quiet=True)
    assert made.counts.shape[0] == 3
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors|weights"):
        WordRun(syncyte.load(tmp_path / "run")).texts(["liver"])


def test_a_language_model_is_taught_and_its_unsound_sentences_are_replaced(cells, tmp_path: Path) -> None:
    import transformers
    from tests.text_models import save

    config = transformers.GPT2Config(vocab_size=40, n_positions=256, n_embd=32, n_layer=2, n_head=2)
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    folder = save(tmp_path / "gpt", transformers.GPT2LMHeadModel(config), **marks)
    before = (folder / "model.safetensors").read_bytes()
    run = train(cells, tmp_path / "run", f"words.speaker={folder}", "words.speaker_steps=3")
    assert (tmp_path / "run" / SPEAKER / "language.safetensors").is_file()
    assert (folder / "model.safetensors").read_bytes() == before
    result = syncyte.describe(run, cells[:4], quiet=True)
    table = result.uns["evidence"]
    assert all(str(name) for name in table["description"])
    train(cells, tmp_path / "run", overwrite=True)  # a run that is replaced leaves no speaker behind
    assert not (tmp_path / "run" / SPEAKER).exists()
    assert "replaced" in " ".join(result.provenance["settings"]["notes"])  # a model of a dozen words says nothing sound


def test_a_folder_without_weights_is_refused_before_anything_is_trained(cells, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        train(cells, tmp_path / "run", f"words.reader={tmp_path / 'empty'}")
