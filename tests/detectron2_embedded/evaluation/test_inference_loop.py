import logging
from collections import OrderedDict

import pytest
import torch
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn


class Sums(DatasetEvaluator):
    def __init__(self, key: str = "sum"):
        self.key = key

    def reset(self) -> None:
        self.total = 0.0

    def process(self, inputs, outputs) -> None:
        assert len(inputs) == len(outputs)
        self.total += sum(output.item() for output in outputs)

    def evaluate(self) -> dict:
        return {self.key: {"AP": self.total}}


class Doubler(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.seen = []

    def forward(self, batch):
        outputs = [self.scale * x for x in batch]
        self.seen.append((self.training, outputs[0].requires_grad))
        return outputs


@pytest.mark.parametrize("training", [True, False])
def test_runs_without_gradients_in_eval_mode_and_restores_the_mode(training):
    model = Doubler().train(training)
    results = inference_on_dataset(model, [[1.0, 2.0], [3.0]], Sums())
    assert results == {"sum": {"AP": 12.0}}
    assert model.seen == [(False, False)] * 2
    assert model.training is training


def test_a_second_run_starts_from_zero():
    evaluator = Sums()
    for _ in range(2):
        assert inference_on_dataset(Doubler(), [[1.0]], evaluator) == {"sum": {"AP": 2.0}}


def test_several_evaluators_none_and_a_plain_function():
    results = inference_on_dataset(Doubler(), [[1.0]], [Sums("a"), Sums("b")])
    assert results == {"a": {"AP": 2.0}, "b": {"AP": 2.0}}
    assert inference_on_dataset(Doubler(), [[1.0]], None) == {}
    assert inference_on_dataset(lambda batch: [torch.tensor(x) for x in batch], [[5.0]], Sums())["sum"]["AP"] == 5


def test_two_evaluators_with_one_key_are_an_error():
    with pytest.raises(AssertionError, match="sum"):
        inference_on_dataset(Doubler(), [[1.0]], [Sums(), Sums()])


def test_an_evaluator_without_results_gives_an_empty_dict():
    assert inference_on_dataset(Doubler(), [[1.0]], DatasetEvaluator()) == {}
    assert DatasetEvaluators([DatasetEvaluator()]).evaluate() == OrderedDict()


def test_an_empty_loader():
    assert inference_on_dataset(Doubler(), [], Sums()) == {"sum": {"AP": 0.0}}


def test_callbacks_in_order():
    calls = []
    names = ["on_start", "before_inference", "after_inference", "on_end"]
    callbacks = {name: (lambda name=name: calls.append(name)) for name in names}
    inference_on_dataset(Doubler(), [[1.0], [1.0]], None, callbacks=callbacks)
    assert calls == [names[0], *names[1:3], *names[1:3], names[3]]


@pytest.mark.subset  # in Detectron2 0.6 the words are others
def test_the_log_says_where_the_seconds_went(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("detectron2.evaluation.evaluator.time.perf_counter", lambda: now[0])
    caplog.set_level(logging.INFO)

    def spend(seconds: float) -> None:
        now[0] += seconds

    class SlowEvaluator(Sums):
        def process(self, inputs, outputs) -> None:  # noqa: ARG002
            spend(1)

        def evaluate(self) -> None:
            spend(50)

    class SlowLoader:
        def __len__(self) -> int:
            return 12

        def __iter__(self):
            for i in range(12):
                spend(100 if i == 0 else 3)  # the first iteration warms up
                yield [1.0]

    inference_on_dataset(lambda _: spend(2), SlowLoader(), SlowEvaluator())
    progress = [r.message for r in caplog.records if "ETA" in r.message]
    assert "8/12" in progress[-5]
    assert all(part in progress[-5] for part in ("data 3.0", "compute 2.0", "eval 1.0", "total 6.0", "0:00:24"))
    last = caplog.records[-1].message
    parts = ("169.0 s", "data 3.0", "compute 2.0", "eval 1.0", "total 6.0", "metrics took 50.0 s")
    assert all(part in last for part in parts)


@pytest.mark.subset  # in Detectron2 0.6 it stays that of inference
def test_the_mode_comes_back_after_an_error():
    model = Doubler()
    with pytest.raises(RuntimeError), inference_context(model):
        assert not model.training
        raise RuntimeError
    assert model.training


def test_csv_lines(caplog):
    caplog.set_level(logging.INFO)
    print_csv_format({"bbox": {"AP": 41.23456, "AP50": float("nan"), "AP-ship": 3.0}, "speed": 5})
    assert [r.message for r in caplog.records] == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 41.2346,nan",
        "copypaste: speed=5",
    ]


def test_flatten():
    assert flatten_results_dict({"bbox": {"AP": 1, "per": {"x": 2}}, "t": 3}) == {
        "bbox/AP": 1,
        "bbox/per/x": 2,
        "t": 3,
    }
