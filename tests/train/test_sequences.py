"""Training of the sequence encoder on planted motifs, and what its report may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.sequences import background, planted

from syncyte.errors import ConfigError, DataError
from syncyte.genome.sequence import one_hot, to_codes
from syncyte.models.dna_encoder import TrainedEncoder
from syncyte.train import sequences
from syncyte.train.sequence_report import (
    BEATS,
    BEATS_GC,
    LOSES,
    TOO_FEW,
    UNTESTED,
    compare,
    too_few,
    verdict,
    weighted_r,
    weighted_ranking,
)
from syncyte.train.sequence_state import kept_state
from syncyte.train.sequences import fit_encoder, gate_of, indicators, middle, split_rows

SMALL = dict(filters=8, kernel=9, inner=8, members=1, axes=40, centres=150, k=5, informative=4)


def cases(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes, y = planted(n, seed)
    return codes, y, np.array([f"chr{number // 2 % 6}" for number in range(n)])


@pytest.fixture(scope="module")
def trained() -> TrainedEncoder:
    return fit_encoder(*cases(600, 0), valid=["chr1"], test=["chr2", "chr3"], epochs=4, quiet=True, **SMALL)


def test_a_motif_is_found(trained: TrainedEncoder):
    report = trained.report
    assert report["rows"] == {"train": 300, "valid": 100, "test": 200}
    scores = report["scores"]["test"]
    assert scores["encoder"]["auroc"][0] > 0.8 > scores["GC content"]["auroc"][0]
    low, high = scores["encoder"]["auroc"][1:]
    assert low < scores["encoder"]["auroc"][0] < high
    assert trained.verdict in (BEATS, BEATS_GC)


def test_the_same_seed_gives_the_same_encoder(trained: TrainedEncoder):
    state = torch.random.get_rng_state()
    again = fit_encoder(*cases(600, 0), valid=["chr1"], test=["chr2", "chr3"], epochs=4, quiet=True, **SMALL)
    assert again.fingerprint == trained.fingerprint
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are touched


def test_a_killed_training_goes_on(trained: TrainedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"valid": ["chr1"], "test": ["chr2", "chr3"], "epochs": 4, "quiet": True, "keep": tmp_path, **SMALL}
    keep, told = sequences.keep_state, []

    def killed(*args: Any, **state: Any) -> None:
        keep(*args, **state)
        told.append(state["epochs"])
        if len(told) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sequences, "keep_state", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_encoder(*cases(600, 0), **options)
    assert len(list(tmp_path.iterdir())) == 1
    again = fit_encoder(*cases(600, 0), **options)
    assert told == [1, 2, 3, 4]  # nothing was learned twice
    assert again.fingerprint == trained.fingerprint
    fit_encoder(*cases(600, 0), **{**options, "seed": 1, "epochs": 1})
    assert len(list(tmp_path.iterdir())) == 2  # another training begins anew


def test_a_damaged_state_is_passed_over(tmp_path: Path):
    rng = np.random.default_rng(0)
    first = rng.bit_generator.state
    (tmp_path / "a.pt").write_bytes(b"nothing")
    assert kept_state(tmp_path / "a.pt", rng) is None
    assert rng.bit_generator.state == first


def test_test_rows_teach_nothing(trained: TrainedEncoder):
    codes, y, groups = cases(600, 0)
    turned = np.where(np.isin(groups, ["chr2", "chr3"]), 1 - y, y)
    other = fit_encoder(codes, turned, groups, valid=["chr1"], test=["chr2", "chr3"], epochs=4, quiet=True, **SMALL)
    assert other.fingerprint == trained.fingerprint
    assert other.verdict == LOSES


def test_nothing_to_learn_is_said():
    codes, y, groups = cases(400, 5)
    mixed = np.random.default_rng(0).permutation(y)
    encoder = fit_encoder(codes, mixed, groups, valid=["chr1"], test=["chr2"], epochs=2, quiet=True, **SMALL)
    assert encoder.verdict == LOSES


def test_counts_and_several_targets():
    codes, y, groups = cases(300, 7)
    targets = np.stack([y * 20, 5 - y * 5], axis=1)
    options = {**SMALL, "members": 0}
    encoder = fit_encoder(codes, targets, groups, valid=["chr1"], test=["chr2"], task="count", quiet=True, **options)
    assert encoder.report["scores"]["test"]["encoder"]["r"][0] > 0.2
    assert encoder.predict(torch.from_numpy(one_hot(codes[:3]))).shape == (3, 2)


def test_longer_windows_give_their_middle():
    codes, y, groups = cases(200, 9)
    options = {**SMALL, "members": 0}
    wide = np.pad(codes, ((0, 0), (5, 5)), constant_values=2)
    plain = fit_encoder(codes, y, groups, valid=["chr1"], quiet=True, **options)
    cut = fit_encoder(wide, y, groups, valid=["chr1"], length=60, quiet=True, **options)
    assert plain.fingerprint == cut.fingerprint
    assert plain.verdict == UNTESTED
    with pytest.raises(DataError, match="Cut longer windows"):
        fit_encoder(codes, y, groups, valid=["chr1"], length=61, quiet=True, **options)


def test_windows_are_moved_by_hand():
    codes = to_codes("ACGTAC")[None]
    assert middle(codes, 4).tolist() == [to_codes("CGTA").tolist()]
    assert middle(codes, 4, 1).tolist() == [to_codes("GTAC").tolist()]
    assert middle(codes, 4, 2).tolist() == [to_codes("TACN").tolist()]
    assert middle(codes, 6, -2).tolist() == [to_codes("NNACGT").tolist()]
    assert torch.equal(indicators(middle(codes, 6, -2)), torch.from_numpy(one_hot(to_codes("NNACGT")[None])))


def test_gates_have_no_negative_share():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500).astype(float)
    good, noise = 4 * y - 2 + rng.normal(size=500), rng.normal(size=500)
    share = gate_of(np.stack([good, noise], axis=1), y, "binary")
    assert share[0] > 0.5 > share[1] + 0.2
    assert min(gate_of(np.stack([good, -good], axis=1), y, "binary")[:2]) >= 0
    assert gate_of(np.stack([good, noise], axis=1), np.ones(500), "binary") == [0.5, 0.5, 0.0]


def test_rows_are_split_by_chromosome():
    groups = np.repeat(["chr1", "chr2", "chr3"], 30)
    parts = split_rows(90, np.zeros((90, 1)), groups, {"chr2"}, {"chr3"})
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [30, 30, 30]
    assert set(groups[parts["train"]]) == {"chr1"}
    with pytest.raises(ConfigError, match="cannot both"):
        split_rows(90, np.zeros((90, 1)), groups, {"chr2"}, {"chr2"})
    with pytest.raises(ConfigError, match="chr9"):
        split_rows(90, np.zeros((90, 1)), groups, {"chr9"}, set())
    with pytest.raises(DataError, match="to train on"):
        split_rows(90, np.zeros((90, 1)), groups, {"chr1", "chr2"}, {"chr3"})
    with pytest.raises(DataError, match="one of each"):
        split_rows(91, np.zeros((90, 1)), groups, {"chr2"}, set())


def test_verdicts():
    clear, level, behind = (0.1, 0.05, 0.15), (0.01, -0.01, 0.03), (-0.1, -0.2, -0.05)
    for six, two, gc, expected in (
        (clear, clear, clear, BEATS),
        (level, clear, clear, BEATS_GC),
        (clear, level, clear, BEATS_GC),  # composition alone could say as much
        (clear, clear, level, LOSES),
        (behind, behind, behind, LOSES),
    ):
        assert verdict({"6-mers": six, "2-mers": two, "gc": gc}, ["6-mers", "2-mers"], "gc") == expected
    assert verdict({}, ["6-mers", "2-mers"], "gc") == UNTESTED


def test_a_handful_of_held_out_windows_gets_no_verdict():
    y = np.repeat([0.0, 1.0], [300, 19])
    assert too_few(y, "binary")
    assert not too_few(np.append(y, 1.0), "binary")
    assert not too_few(np.stack([np.append(y, 1.0), np.zeros(320)], axis=1), "binary"), "one target is enough"
    assert too_few(np.ones((300, 2)), "binary")
    assert too_few(np.arange(39), "count")
    assert not too_few(np.arange(40), "count")


def test_an_encoder_tested_on_few_windows_does_not_beat_anything():
    codes, y, groups = cases(300, 3)
    groups = np.where(np.arange(300) < 30, "chr9", groups)
    options = {"valid": ["chr1"], "test": ["chr9"], "epochs": 1, "quiet": True, **SMALL, "members": 0}
    encoder = fit_encoder(codes, y, groups, **options)
    assert encoder.verdict == TOO_FEW
    assert not encoder.verdict.startswith("beats")
    assert encoder.report["scores"]["test"]["encoder"]["auroc"][0] > 0, "scores are still told"


def test_few_chromosomes_are_resampled_by_sequence_and_many_whole():
    y = np.tile([0.0, 1.0], 60)
    guess = y + np.random.default_rng(0).normal(size=120)
    for groups in (np.repeat(["a", "b"], 60), np.repeat(list("abcdef"), 20)):
        scores, ahead = compare(y, {"one": guess, "two": -guess}, groups, "binary")
        value, low, high = scores["one"]["auroc"]
        assert low <= value <= high
        assert ahead["two"][0] == pytest.approx(2 * value - 1, abs=1e-9)


def test_measures_are_those_of_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    y, guess = rng.integers(0, 2, 80).astype(float), np.round(rng.normal(size=80), 1)  # with ties
    pick = rng.integers(0, 80, 80)
    weights = np.stack([np.ones(80), np.bincount(pick, minlength=80)])
    area, precision = weighted_ranking(y, guess, weights)
    assert area == pytest.approx([roc_auc_score(y, guess), roc_auc_score(y[pick], guess[pick])])
    expected = [average_precision_score(y, guess), average_precision_score(y[pick], guess[pick])]
    assert precision == pytest.approx(expected)
    r = weighted_r(y, guess, weights)
    assert r == pytest.approx([np.corrcoef(y, guess)[0, 1], np.corrcoef(y[pick], guess[pick])[0, 1]])
    assert np.isnan(weighted_r(y, np.ones(80), weights)).all()


def test_a_constant_target_has_no_score():
    scores, _ = compare(np.ones(30), {"one": background(30, 1, 0)[:, 0]}, np.repeat("a", 30), "binary")
    assert np.isnan(scores["one"]["auroc"][0])
