"""Encoders of cells that do not learn: what they give, how long lists are shortened, refusals, copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.tiny import cells_of

from syncyte.errors import CheckpointError, ConfigError, DataError
from syncyte.tasks.encoders import RunEncoder, gather, open_encoder

MOST = 8


def read(encoder, cells, most=MOST, size=512):
    found = list(encoder.read(encoder.align(cells)[0], most, size))
    states = [one.states for one in found if one.states is not None]
    return np.concatenate([one.vector for one in found]), states, np.concatenate([one.count for one in found])


# --- lists -----------------------------------------------------------------------------------------------------------


def test_short_lists_are_kept_whole():
    states = np.arange(2 * 4 * 1, dtype=np.float32).reshape(2, 4, 1)
    valid = np.array([[True, False, True, True], [False, True, False, False]])
    for most in (0, 3, 9):
        found, count = gather(states, valid, most)
        assert count.tolist() == [3, 1] and found[0, :, 0].tolist() == [0, 2, 3] and found[1, 0, 0] == 5


def test_of_long_lists_the_first_is_kept_and_neighbours_are_averaged():
    states = np.arange(7, dtype=np.float32).reshape(1, 7, 1)
    found, count = gather(states, np.ones((1, 7), dtype=bool), 4)
    assert count.tolist() == [4] and found[0, :, 0].tolist() == [0, 1.5, 3.5, 5.5]
    assert gather(states, np.ones((1, 7), dtype=bool), 1)[0][0, 0, 0] == 3.0


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 8, 40])
def test_nothing_is_lost_on_the_way(most):
    rng = np.random.default_rng(most)
    states, valid = rng.normal(size=(6, 12, 3)).astype(np.float32), rng.random((6, 12)) < 0.6
    valid[0] = False
    found, count = gather(states, valid, most)
    assert (count <= (most or 12)).all() and count[0] == 0 and found.shape[1] == count.max()
    for row in range(6):
        kept = found[row, : count[row]]
        own = states[row][valid[row]]
        assert np.isfinite(kept).all() and not found[row, count[row] :].any()
        if len(own):
            assert kept.min() >= own.min() - 1e-2 and kept.max() <= own.max() + 1e-2
    assert gather(states[:0], valid[:0], most)[0].shape[0] == 0


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_gives_latents_axes_and_states(tiny_run, tiny_data):
    encoder = open_encoder(tiny_run)
    vector, states, count = read(encoder, cells_of(tiny_data))
    assert encoder.modalities == ("rna", "atac") and vector.shape == (240, encoder.width) == (240, sum(encoder.blocks))
    assert states[0].shape == (240, MOST, encoder.states) and (count == MOST).all()
    parts, _, _ = read(encoder, cells_of(tiny_data), size=50)
    assert np.allclose(vector, parts, atol=1e-4)


def test_cells_with_one_modality_are_read_and_it_is_said(tiny_run, tiny_data):
    encoder = RunEncoder(tiny_run)
    aligned, notes = encoder.align(cells_of(tiny_data["rna"]))
    assert aligned.modalities == ("rna",) and "the cells have no atac" in " ".join(notes)
    assert np.isfinite(read(encoder, cells_of(tiny_data["rna"]))[0]).all()
    assert encoder.align(cells_of(tiny_data))[1] == []
    few = encoder.align(cells_of(tiny_data["rna"][:, :20]))[1]
    assert any("20 of the 80 rna features" in note for note in few)


def test_a_set_model_is_an_encoder_too(tiny_sets_run, tiny_data):
    encoder = RunEncoder(tiny_sets_run)
    vector, states, _ = read(encoder, cells_of(tiny_data["rna"]))
    assert vector.shape == (240, encoder.width) and states[0].shape[2] == encoder.states > 0


def test_cells_without_a_known_gene_are_refused(tiny_run, tiny_data):
    other = tiny_data["rna"][:, :20].copy()
    other.var_names = [f"Gene{number}" for number in range(20)]
    with pytest.raises(DataError, match="None of the 20 rna features"):
        RunEncoder(tiny_run).align(cells_of(other))


def test_a_copy_gives_the_same(tiny_run, tiny_data, tmp_path: Path):
    first = open_encoder(tiny_run.path, "cpu")
    first.keep(tmp_path / "copy")
    first.keep(tmp_path / "copy")  # in place of the other
    again = open_encoder(tmp_path / "copy", "cpu")
    assert again.fingerprint == first.fingerprint
    cells = cells_of(tiny_data)
    assert np.array_equal(read(first, cells)[0], read(again, cells)[0])
    assert not (tmp_path / "copy" / "metrics.csv").exists()


def test_what_is_no_encoder_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no encoder of cells: there is no such folder"):
        open_encoder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"neither checkpoint\.json nor a dictionary"):
        open_encoder(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not finished"):
        open_encoder(tmp_path)
