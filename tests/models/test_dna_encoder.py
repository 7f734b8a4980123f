"""The trained encoder in its folder: what is written is what is read, and nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from syncyte.errors import CheckpointError, ConfigError, DataError
from syncyte.genome.sequence import one_hot
from syncyte.models.dna_encoder import ABOUT, WEIGHTS, TrainedEncoder, open_sequence_encoder, open_trained
from syncyte.nn.sequence import SequenceNet, SequenceSizes

SIZES = dict(
    length=50, filters=8, kernel=7, inner=8, members=1, channels=4, axes=5, centres=9, k=4, informative=3, kept=2
)


def made(seed: int = 0, **more: object) -> TrainedEncoder:
    generator = torch.Generator().manual_seed(seed)
    network = SequenceNet(SequenceSizes.parse({**SIZES, **more}))
    for tensor in network.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.copy_(torch.rand(tensor.shape, generator=generator).half().float())
    return TrainedEncoder(network, {"verdict": "beats GC and k-mers"})


def windows(n: int = 4) -> torch.Tensor:
    return torch.from_numpy(one_hot(np.random.default_rng(0).integers(0, 5, (n, 50), dtype=np.uint8)))


def test_what_is_saved_is_what_is_opened(tmp_path: Path):
    encoder = made()
    encoder.save(tmp_path / "E")
    opened = open_sequence_encoder(tmp_path / "E")
    assert isinstance(opened, TrainedEncoder)
    assert (opened.length, opened.width, opened.verdict) == (50, 6, "beats GC and k-mers")
    assert opened.fingerprint == encoder.fingerprint
    assert torch.equal(opened.embed(windows()), encoder.embed(windows()))
    assert torch.equal(opened.predict(windows()), encoder.predict(windows()))
    assert sorted(path.name for path in (tmp_path / "E").iterdir()) == sorted([ABOUT, WEIGHTS])


def test_the_fingerprint_is_that_of_the_content():
    assert made(0).fingerprint == made(0).fingerprint
    assert len({made(0).fingerprint, made(1).fingerprint, made(0, kept=1).fingerprint}) == 3


def test_answers_are_probabilities_or_counts():
    binary = made()
    assert binary.predict(windows()) == pytest.approx(torch.sigmoid(binary.logits(windows())))
    count = made(task="count")
    assert (count.predict(windows()) >= 0).all()


def test_wrong_windows_are_refused():
    with pytest.raises(DataError, match=r"\(n, 4, 50\)"):
        made().embed(windows()[:, :, :40])


def test_folders_that_are_none(tmp_path: Path):
    with pytest.raises(CheckpointError, match="missing"):
        open_trained(tmp_path)
    with pytest.raises(ConfigError, match="Nothing is downloaded"):
        open_sequence_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="'bert'"):
        open_sequence_encoder(tmp_path)


@pytest.mark.parametrize("how", ["cut", "changed", "sizes", "json", "format"])
def test_damaged_folders(tmp_path: Path, how: str):
    folder = made().save(tmp_path / "E")
    weights, about = folder / WEIGHTS, json.loads((folder / ABOUT).read_text())
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "changed":
        state = load_file(weights)
        state["start.weights"] = state["start.weights"] + 1
        save_file(state, weights)
    elif how == "json":
        (folder / ABOUT).write_text("{")
    else:
        about["sizes"]["filters"] = 9 if how == "sizes" else 8
        about["format"] = 99 if how == "format" else 1
        (folder / ABOUT).write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"again"):
        open_trained(folder)


def test_a_folder_in_the_way_is_kept(tmp_path: Path):
    folder = made().save(tmp_path / "E")
    with pytest.raises(DataError, match="overwrite"):
        made(1).save(folder)
    assert open_trained(folder).fingerprint == made().fingerprint
    made(1).save(folder, overwrite=True)
    assert open_trained(folder).fingerprint == made(1).fingerprint
