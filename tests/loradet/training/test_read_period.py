"""Losses are read off the device once a period: what is logged is the same, and nothing that is ruined is saved."""

import json
import math

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils.events import JSONWriter
from torch import nn
from torch.overrides import TorchFunctionMode

from loradet.checkpoint import Checkpointer
from loradet.event_storage import put_tensors
from loradet.training.hooks import KeepCheckpoints, WriteMetrics
from loradet.training.hooks.evaluation import EvaluateAndKeepBest
from loradet.training.trainer import NonFiniteLossError, Trainer

READS = {"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "__array__", "cpu", "numpy"}


class Toy(nn.Module):
    """Two losses of a linear layer, and a number to log that is on the device; a sample is {"x": (2, 3), "y": (2,)}."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, batch):
        (sample,) = batch
        a, b = self.layer(sample["x"]).T
        put_tensors({"spread": (a - b).detach().abs().max()})
        if not sample.get("finite", True) and torch.isnan(self.layer.weight).any():
            raise FloatingPointError("The boxes are NaN.")
        return {"loss_a": ((a - sample["y"]) ** 2).mean(), "loss_b": (b - sample["y"]).abs().mean()}


def batches(count, bad=(), value=math.nan):
    generator = torch.Generator().manual_seed(0)
    data = [
        [{"x": torch.randn(2, 3, generator=generator), "y": torch.randn(2, generator=generator), "image_id": i}]
        for i in range(count)
    ]
    for i in bad:
        data[i][0]["y"][0] = value
    return data


class Rate(HookBase):
    """A number that is put at once, as the learning rate is."""

    def after_step(self):
        self.trainer.storage.put_scalar("rate", 0.1 * self.trainer.iter, smoothing_hint=False)


def train(folder, period, *, data=None, steps=12, log_period=4, **hooks):
    """Train and return the trainer; `metrics.json` is in the folder."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = Trainer(
        model, data or batches(steps), optimizer, read_period=period, ema_decay=0.9, clip_norm=1.0, output_dir=folder
    )
    checkpointer = Checkpointer(model, folder, trainer=trainer)
    writing = WriteMetrics([JSONWriter(str(folder / "metrics.json"))], period=log_period)
    trainer.register_hooks([Rate(), writing, *(make(checkpointer) for make in hooks.values())])
    trainer.failure = None
    try:
        trainer.train(0, steps)
    except NonFiniteLossError as error:
        trainer.failure = str(error)
    return trainer


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    for line in found:
        line.pop("data_time", None)  # the only number that a clock has made
    return found


def save_every(period):
    return lambda checkpointer: KeepCheckpoints(checkpointer, period, None)


@pytest.mark.parametrize("period", [2, 3, 4, 5, 12, 100])
def test_lines_histories_and_weights_do_not_depend_on_the_period(tmp_path, period):
    one, other = train(tmp_path / "1", 1), train(tmp_path / "n", period)
    assert lines(tmp_path / "n") == lines(tmp_path / "1")
    assert [line["iteration"] for line in lines(tmp_path / "n")] == [3, 7, 11]
    assert {"loss_a", "loss_b", "total_loss", "grad_norm", "spread", "rate"} < lines(tmp_path / "n")[0].keys()
    for name in ("loss_a", "total_loss", "grad_norm", "spread"):
        values = other.storage.history(name).values()
        assert values == one.storage.history(name).values() and len(values) == 12
    for mine, theirs in zip(other.module.parameters(), one.module.parameters()):
        assert torch.equal(mine, theirs)


class Counting(TorchFunctionMode):
    """Notes the iteration of each read of a tensor by the host; on a GPU the host waits in each of these calls."""

    def __init__(self):
        super().__init__()
        self.iteration, self.reads = None, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in READS:
            self.reads.append(self.iteration)
        return function(*args, **(kwargs or {}))


class Count(HookBase):
    def __init__(self, counting):
        self.counting = counting

    def before_step(self):
        self.counting.iteration = self.trainer.iter


@pytest.mark.parametrize(("period", "expected"), [(1, list(range(12))), (4, [3, 7, 11]), (5, [4, 9, 11])])
def test_the_device_is_read_once_a_period(tmp_path, period, expected):
    with Counting() as counting:
        train(tmp_path, period, log_period=period, count=lambda _: Count(counting))
    assert counting.reads == expected


def test_the_device_is_read_for_whoever_asks(tmp_path):
    class Ask(HookBase):
        seen: list = []

        def after_step(self):
            self.seen.append(self.trainer.storage.latest()["total_loss"][1])

    train(tmp_path, 100, ask=lambda _: Ask())
    assert Ask.seen == list(range(12))


@pytest.mark.parametrize(
    ("value", "names"), [(math.nan, "loss_a=nan, loss_b=nan"), (math.inf, "loss_a=inf, loss_b=inf")]
)
def test_a_bad_loss_ends_training_within_the_period_and_is_named(tmp_path, value, names):
    trainer = train(tmp_path, 4, data=batches(12, bad=[5], value=value))
    assert f"at iteration 5 (process 0: {names}; images of the batch: [5])" in trainer.failure
    assert "It was read at iteration 7; nothing was saved since." in trainer.failure
    assert trainer.iter == 6
    train(tmp_path / "at once", 1, data=batches(12, bad=[5], value=value))
    # What comes after the bad step is of ruined weights, so no line has it.
    late, at_once = (
        [{k: v for k, v in line.items() if k != "rate"} for line in lines(folder) if "total_loss" in line]
        for folder in (tmp_path, tmp_path / "at once")
    )
    assert late == at_once and [line["iteration"] for line in late] == [3, 4]


def test_a_bad_gradient_of_good_losses_is_found_too():
    class Root(Toy):
        def forward(self, batch):
            (sample,) = batch
            scale = 0.0 if sample["image_id"] == 2 else 1.0  # the derivative of the root is infinite at 0
            return {"loss": (self.layer(sample["x"]) * scale).pow(2).sum().sqrt()}

    model = Root()
    trainer = Trainer(model, batches(8), torch.optim.SGD(model.parameters(), lr=0.01), read_period=8)
    with pytest.raises(
        NonFiniteLossError, match=r"at iteration 2 \(process 0: grad_norm=nan; images of the batch: \[2\]"
    ):
        trainer.train(0, 8)


def test_no_checkpoint_of_ruined_weights_is_written(tmp_path):
    trainer = train(tmp_path, 100, data=batches(12, bad=[5]), save=save_every(2))
    assert "at iteration 5" in trainer.failure and "It was read at iteration 5" not in trainer.failure
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == ["model_0000001.pth", "model_0000003.pth"]
    assert "Last good checkpoint" in trainer.failure and "model_0000003.pth" in trainer.failure
    saved = torch.load(tmp_path / "model_0000003.pth", weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_ruined_weights_are_not_evaluated(tmp_path):
    evaluated = []

    def evaluate():
        evaluated.append(len(evaluated))
        return {"bbox": {"AP": 1.0}}

    best = lambda checkpointer: EvaluateAndKeepBest(3, evaluate, checkpointer, metric="bbox/AP", mode="max")  # noqa: E731
    trainer = train(tmp_path, 100, data=batches(12, bad=[4]), best=best)
    assert "at iteration 4" in trainer.failure and evaluated == [0]


def test_a_forward_pass_that_fails_for_ruined_weights_names_the_step_that_ruined_them(tmp_path):
    data = batches(12, bad=[3])
    data[6][0]["finite"] = False  # this model looks at its weights there
    trainer = train(tmp_path, 100, data=data)
    assert "at iteration 3 (process 0: loss_a=nan, loss_b=nan; images of the batch: [3])" in trainer.failure
    assert "It was read at iteration 6" in trainer.failure


def test_a_resumed_run_logs_what_one_long_run_logs(tmp_path):
    whole = train(tmp_path / "whole", 4, steps=12)
    part = train(tmp_path / "part", 4, steps=6, data=batches(12), save=save_every(3))
    torch.manual_seed(1)
    model = Toy()
    resumed = Trainer(
        model,
        batches(12)[6:],
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        read_period=4,
        ema_decay=0.9,
        clip_norm=1.0,
        output_dir=tmp_path / "part",
    )
    Checkpointer(model, tmp_path / "part", trainer=resumed).resume()
    assert part.iter == 5
    resumed.train(6, 12)
    assert resumed.storage.history("loss_a").values() == whole.storage.history("loss_a").values()


def test_fp16_reads_in_every_step():
    model = Toy()
    trainer = Trainer(model, [], torch.optim.SGD(model.parameters(), lr=0.1), amp_dtype=torch.float16, read_period=20)
    assert trainer.read_period == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_is_not_waited_for_between_two_reads():
    class Watch(HookBase):
        def before_step(self):
            reads = (self.trainer.iter + 1) % 4 == 0
            # The first steps make kernels and buffers, which may wait.
            torch.cuda.set_sync_debug_mode("default" if reads or self.trainer.iter < 4 else "error")

    torch.manual_seed(1)
    model = Toy().cuda()
    data = batches(12)
    for (sample,) in data:
        sample.update(x=sample["x"].cuda(), y=sample["y"].cuda())
    trainer = Trainer(model, data, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True), read_period=4)
    trainer.register_hooks([Watch()])
    try:
        trainer.train(0, 12)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(trainer.storage.history("grad_norm").values()) == 12
