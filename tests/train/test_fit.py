"""The loop: what is trained, what is kept, what is written, and what happens on bad days."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from tests.train.toy import (
    ToyLoader,
    ToyModel,
    ToyObjective,
    curves,
    make_toy_loader,
    toy_fit,
    toy_objectives,
    toy_stages,
    toy_table,
)

from syncyte.errors import DataError, SyncyteError
from syncyte.train.folder import MANIFEST
from syncyte.types import Loss


def validation_error(model: ToyModel, objective: ToyObjective) -> float:
    x, y = toy_table()
    with torch.no_grad():
        return float((model(x[64:]) + objective.shift - y[64:]).square().mean())


def rows_of(run, **wanted):
    with (run / "metrics.csv").open() as handle:
        return [row for row in csv.DictReader(handle) if all(row[key] == value for key, value in wanted.items())]


def test_trains_and_reports(tmp_path):
    before = validation_error(ToyModel().eval(), ToyObjective())
    objectives = toy_objectives()
    ended = []
    report, model = toy_fit(tmp_path, objectives=objectives, on_stage_end=ended.append)
    assert not report.finished and not report.resumed
    assert [stage.name for stage in report.stages] == ["one", "two"] and tuple(ended) == report.stages
    assert report.stages[0].steps == 28 and report.stages[0].epochs == 3.5
    assert report.stages[1].best <= report.stages[1].start < report.stages[0].start
    assert validation_error(model, objectives["two"]["fit"]) < 0.7 * before
    assert not model.training and (tmp_path / "tensorboard").is_dir()
    assert report.cpu_seconds > 0 and report.stages[0].precision == "32"


def test_curves_are_tidy(tmp_path):
    toy_fit(tmp_path)
    assert curves(tmp_path)[0] == "step,epoch,stage,split,name,value"
    train = rows_of(tmp_path, stage="one", split="train", name="total")
    assert [int(row["step"]) for row in train] == list(range(1, 29))
    rounds = rows_of(tmp_path, stage="one", split="validation", name="fit/error")
    assert [int(row["step"]) for row in rounds] == list(range(0, 29, 4))
    assert [row["epoch"] for row in rounds[:3]] == ["0", "0.5", "1"]
    second = rows_of(tmp_path, stage="two", split="train", name="lr")
    assert int(second[0]["step"]) == 29
    assert float(second[0]["value"]) == pytest.approx(0.02 / 3)


def test_same_seed_same_curves_and_other_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        toy_fit(tmp_path / name, seed=seed)
    assert curves(tmp_path / "a") == curves(tmp_path / "b") != curves(tmp_path / "c")


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    toy_fit(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_only_the_trainable_parameters_change(tmp_path):
    model, before = ToyModel(), ToyModel().state_dict()
    toy_fit(tmp_path, model=model, stages=toy_stages(trainable=["head"], lr_factors={"head.bias": 0}))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_stage_that_only_harms_falls_back_to_its_start(tmp_path, capsys):
    model, before = ToyModel(), ToyModel().state_dict()
    report, _ = toy_fit(
        tmp_path, model=model, stages=toy_stages(lr=30.0, ema=0, patience=3, warmup_steps=0)[:1], quiet=False
    )
    stage = report.stages[0]
    assert not stage.improved and stage.stopped_early and stage.best_step == 0 and stage.best == stage.start
    assert stage.steps == 12  # three rounds of four steps
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "never fell below its start" in capsys.readouterr().err


def test_the_best_weights_are_kept(tmp_path):
    objectives = toy_objectives(hide=0.0)
    stages = toy_stages(lr=0.3, ema=0, patience=0, epochs=6, schedule="constant", clip=0)[:1]
    report, model = toy_fit(tmp_path, objectives=objectives, stages=stages)
    rounds = [float(row["value"]) for row in rows_of(tmp_path, split="validation", name="total")]
    assert min(rounds) < rounds[-1]
    assert validation_error(model, objectives["one"]["fit"]) == pytest.approx(min(rounds), rel=1e-5)
    assert report.stages[0].best == min(rounds)


def test_switched_off_objectives_and_stages_cost_nothing(tmp_path):
    objectives = toy_objectives()
    objectives["one"]["other"] = ToyObjective()
    stages = toy_stages(objectives={"fit": 1.0, "other": 0.0})[:1] + toy_stages(epochs=0)[1:]
    report, _ = toy_fit(tmp_path, objectives=objectives, stages=stages)
    assert len(report.stages) == 1
    assert objectives["one"]["other"].calls == 0 and objectives["two"]["fit"].calls == 0


def test_no_validation_cells_keeps_the_average(tmp_path):
    def loader(stage, split, rank, world):
        return make_toy_loader(stage, split, rank, world) if split == "train" else None

    report, averaged = toy_fit(tmp_path / "a", make_loader=loader, stages=toy_stages()[:1])
    _, last = toy_fit(tmp_path / "b", make_loader=loader, stages=toy_stages(ema=0)[:1])
    assert report.stages[0].best is None and not report.stages[0].improved
    assert not torch.equal(averaged.head.weight, last.head.weight)


def test_no_training_cells_is_an_error(tmp_path):
    def loader(stage, split, rank, world):
        return ToyLoader(np.arange(0), stage.batch_size, True)

    with pytest.raises(DataError, match="no training minibatch"):
        toy_fit(tmp_path, make_loader=loader)


def test_validation_weighs_by_counts(tmp_path):
    class Counting(ToyObjective):
        """First minibatch: mean 1 over 30 entries; the other: mean 5 over 10; the third has nothing valid."""

        def forward(self, model, batch, generator):
            first = int(batch.rows[0])
            value, count = {64: (1.0, 30), 76: (5.0, 10)}.get(first, (float("nan"), 0))
            if self.training:
                value, count = 1.0, 1
            total = torch.tensor(value) + 0 * self.shift.sum()
            return Loss(total, {"part": total.detach()}, {"part": torch.tensor(count)})

    stages = toy_stages(batch_size=12, objectives={"fit": 2.0})[:1]
    toy_fit(tmp_path, stages=stages, objectives={"one": {"fit": Counting()}})
    values = {row["name"]: float(row["value"]) for row in rows_of(tmp_path, split="validation", step="0")}
    assert values == {"total": 4.0, "fit": 2.0, "fit/part": 2.0}


class Failing(ToyObjective):
    """Raises, or gives a loss that is not finite, in chosen training calls."""

    def __init__(self, at, error=None, above: int = 0) -> None:
        super().__init__(hide=0.0)
        self.at, self.error, self.above, self.trained = at, error, above, 0

    def forward(self, model, batch, generator):
        loss = super().forward(model, batch, generator)
        if not self.training:
            return loss
        self.trained += 1
        if self.trained not in self.at or len(batch) <= self.above:
            return loss
        if self.error is not None:
            raise self.error
        return Loss(loss.total * float("nan"), loss.parts, loss.counts)


def test_a_loss_that_is_not_finite_skips_the_step(tmp_path):
    report, model = toy_fit(tmp_path, stages=toy_stages()[:1], objectives={"one": {"fit": Failing({3, 9})}})
    assert report.stages[0].skipped == 2 and report.stages[0].steps == 28 and report.stages[0].improved
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_twenty_in_a_row_end_the_training(tmp_path):
    with pytest.raises(SyncyteError, match=r"Stage 'one', step 25: .* 20 times in a row .*\(last good one at 0\.0"):
        toy_fit(tmp_path, stages=toy_stages()[:1], objectives={"one": {"fit": Failing(set(range(6, 99)))}})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_minibatch_and_goes_on(tmp_path, capsys, error):
    stages = toy_stages()[:1]
    plain, _ = toy_fit(tmp_path / "plain", stages=stages, model=ToyModel(dropout=0), objectives=toy_objectives(0.0))
    failing = {"one": {"fit": Failing({11}, error)}}
    report, _ = toy_fit(tmp_path / "halved", stages=stages, model=ToyModel(dropout=0), objectives=failing)
    assert (report.stages[0].batch_size, report.stages[0].accumulate) == (4, 2)
    assert report.stages[0].steps == plain.stages[0].steps
    said = capsys.readouterr().err
    assert "out of memory" in said and "minibatches of 4 instead of 8 cells" in said
    for name in ("plain", "halved"):
        assert len(rows_of(tmp_path / name, split="train", name="total")) == 28
    one, other = (
        [float(row["value"]) for row in rows_of(tmp_path / name, name="total")] for name in ("plain", "halved")
    )
    assert other == pytest.approx(one, rel=1e-4)


def test_out_of_memory_in_validation(tmp_path):
    class Greedy(ToyObjective):
        def forward(self, model, batch, generator):
            if not self.training and len(batch) > 2:
                raise MemoryError
            return super().forward(model, batch, generator)

    report, _ = toy_fit(tmp_path, stages=toy_stages()[:1], objectives={"one": {"fit": Greedy()}})
    assert report.stages[0].batch_size == 2 and report.stages[0].improved


def test_out_of_memory_with_one_cell_is_an_error(tmp_path):
    failing = {"one": {"fit": Failing(set(range(999)), MemoryError())}}
    with pytest.raises(SyncyteError, match="single cell"):
        toy_fit(tmp_path, stages=toy_stages()[:1], objectives=failing)


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"):
        toy_fit(tmp_path, objectives={"one": {"fit": Failing({2}, RuntimeError("shapes differ"))}, "two": {}},
                stages=toy_stages()[:1])  # fmt: skip


def test_a_minibatch_with_nothing_valid_is_no_error(tmp_path):
    class Empty(ToyObjective):
        def forward(self, model, batch, generator):
            loss = super().forward(model, batch, generator)
            if self.training and self.calls % 2:
                return Loss(torch.zeros(()), {"error": torch.zeros(())}, {"error": torch.tensor(0)})
            return loss

    report, _ = toy_fit(tmp_path, stages=toy_stages()[:1], objectives={"one": {"fit": Empty()}})
    assert report.stages[0].skipped == 0


def test_bf16_trains(tmp_path):
    report, _ = toy_fit(tmp_path, stages=toy_stages(precision="bf16")[:1])
    assert report.stages[0].precision == "bf16" and report.stages[0].improved


def test_a_finished_run_is_left_alone(tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    objectives = toy_objectives()
    report, _ = toy_fit(tmp_path, resume=True, objectives=objectives)
    assert report.finished and objectives["one"]["fit"].calls == 0
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
