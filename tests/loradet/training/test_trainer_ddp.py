"""The trainer on two processes: one exchange of gradients a step, stops and errors on all processes at once."""

import copy
import math
import os
import signal

import pytest
import torch
from detectron2.engine import HookBase, create_ddp_model
from detectron2.utils import comm
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from loradet.training.checkpoints.batch_statistics import average_statistics
from loradet.training.distributed import run_distributed
from loradet.training.trainer import NonFiniteLossError, Trainer, UnusedParameterError

STEPS, ACCUMULATE = 3, 3


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.idle = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        y = torch.tensor([sample["y"] for sample in batch])
        if torch.isinf(y).any():
            raise FloatingPointError("The boxes are NaN.")  # as the proposal generator does, without a loss
        return {"loss": ((self.layer(x)[:, 0] - y) ** 2).mean()}


def batches(rank):
    generator = torch.Generator().manual_seed(rank)
    return [
        [{"x": torch.randn(3, generator=generator), "y": float(rank), "image_id": 100 * rank + i}]
        for i in range(STEPS * ACCUMULATE)
    ]


def make(data, **kwargs):
    torch.manual_seed(1)
    model = kwargs.pop("model", None) or Toy()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ddp = create_ddp_model(model, device_ids=None, broadcast_buffers=False, find_unused_parameters=False)
    return Trainer(ddp, data, optimizer, **kwargs)


class InterruptAt(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def _error(kind, run):
    try:
        run()
    except kind as error:
        return str(error)
    return None


def work(folder):
    """What each process does; its findings go into a file."""
    rank = comm.get_rank()
    found = {}

    exchanges = []

    def counted(state, bucket):
        exchanges.append(bucket.index())
        return allreduce_hook(state, bucket)

    trainer = make(batches(rank), accumulate=ACCUMULATE)
    trainer.model.register_comm_hook(None, counted)
    trainer.train(0, STEPS)
    found["exchanges"] = len(exchanges)
    found["weight"] = trainer.module.layer.weight.detach().clone()
    found["loss"] = trainer.storage.latest()["loss"][0]
    found["images"] = trainer.images_seen
    found["generators"] = len(trainer.state_dict()["ranks"])

    data = batches(rank)
    if rank == 1:
        data[2][0]["y"] = math.nan
    trainer = make(data)
    found["nan"] = _error(NonFiniteLossError, lambda: trainer.train(0, STEPS))
    found["nan_iter"] = trainer.iter

    data = batches(rank)
    if rank == 1:
        data[1][0]["y"] = math.nan
    trainer = make(data, read_period=100)
    found["late nan"] = _error(NonFiniteLossError, lambda: trainer.train(0, STEPS))

    # In a micro-batch without exchange, and in that with it, of iteration 1.
    for place in (3, 5):
        data = batches(rank)
        if rank == 1:
            data[place][0]["y"] = math.inf
        trainer = make(data, accumulate=ACCUMULATE)
        found[f"forward {place}"] = _error(NonFiniteLossError, lambda trainer=trainer: trainer.train(0, STEPS))

    trainer = make(batches(rank))
    if rank == 1:
        signal.signal(signal.SIGTERM, lambda *_: trainer.interrupt())
        trainer.register_hooks([InterruptAt(1)])
    trainer.train(0, STEPS)
    found["stop"] = (trainer.stop_reason, trainer.iter)

    model = Toy()
    model.idle.requires_grad_(True)
    found["unused"] = _error(UnusedParameterError, lambda: make(batches(rank), model=model).train(0, 1))
    norms = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    norms[1].eval()
    for norm in norms:
        norm.running_mean += 1.0 + 4.0 * rank
    average_statistics(norms)
    found["means"] = [norm.running_mean[0].item() for norm in norms]
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        run_distributed(work, num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", args=(folder,))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_gradients_are_exchanged_once_a_step(found):
    assert [f["exchanges"] for f in found] == [STEPS, STEPS]


def test_a_step_takes_the_mean_over_processes_and_micro_batches(found):
    torch.manual_seed(1)
    model = Toy()
    optimizer = torch.optim.SGD(model.layer.parameters(), lr=0.1)
    for step in range(STEPS):
        chosen = slice(step * ACCUMULATE, (step + 1) * ACCUMULATE)
        losses = [model(batch)["loss"] for rank in (0, 1) for batch in batches(rank)[chosen]]
        loss = sum(losses) / len(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for f in found:
        torch.testing.assert_close(f["weight"], model.layer.weight.detach())
        assert f["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert f["images"] == 2 * STEPS * ACCUMULATE
        assert f["generators"] == 2


def test_a_bad_loss_on_one_process_is_the_same_error_on_all(found):
    first, second = (f["nan"] for f in found)
    assert first == second
    assert "at iteration 2 (process 1: loss=nan; images of the batch: [102])" in first
    assert [f["nan_iter"] for f in found] == [1, 1]


def test_a_bad_loss_that_is_read_late_is_the_same_error_on_all(found):
    first, second = (f["late nan"] for f in found)
    assert first == second
    assert "at iteration 1 (process 1: loss=nan; images of the batch: [101]). It was read at iteration 2;" in first


@pytest.mark.parametrize("place", [3, 5])
def test_a_forward_pass_that_fails_on_one_process_is_the_same_error_on_all(found, place):
    first, second = (f[f"forward {place}"] for f in found)
    assert first == second
    assert "at iteration 1 (process 1: The boxes are NaN; images of the batch: [103, 104, 105])" in first


def test_an_interrupt_of_one_process_stops_all_after_the_same_step(found):
    assert [tuple(f["stop"]) for f in found] == [("interrupted", 1)] * 2


def test_a_parameter_without_gradient_is_an_error_on_all(found):
    for f in found:
        assert "2 trainable parameters get no gradient: idle.weight, idle.bias" in f["unused"]


def test_statistics_that_are_gathered_become_the_mean_of_the_processes(found):
    assert [f["means"] for f in found] == [[3.0, 1.0], [3.0, 5.0]]


def test_a_parameter_outside_the_optimizer_is_named():
    model = Toy()
    optimizer = torch.optim.SGD([model.layer.weight], lr=0.1)
    with pytest.raises(UnusedParameterError, match=r"1 trainable parameters are not in the optimizer: layer\.bias"):
        Trainer(model, [], optimizer)


def test_a_bad_gradient_of_a_good_loss_stops_before_the_weights():
    torch.manual_seed(0)
    model = Toy()
    data = batches(0)
    model.layer.weight.register_hook(lambda grad: grad * math.inf if trainer.iter == 1 else grad)
    trainer = Trainer(model, data, torch.optim.SGD(model.layer.parameters(), lr=0.1))
    held = copy.deepcopy(model.layer.state_dict())
    with pytest.raises(NonFiniteLossError, match=r"at iteration 1 .*grad_norm=.*images of the batch: \[1\]"):
        trainer.train(0, 2)
    assert all(torch.isfinite(value).all() for value in model.layer.state_dict().values())
    assert not torch.equal(model.layer.weight, held["weight"])
