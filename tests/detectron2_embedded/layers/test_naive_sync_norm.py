"""Batch norm over two processes, against the formula in one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.layers import NaiveSyncBatchNorm
from torch import nn

CHANNELS = 3
# Maps of each process: (number, height, width).
CASES = {
    "same sizes": ("", [(2, 4, 5), (2, 4, 5)]),
    "every process alike": ("", [(2, 4, 5), (1, 6, 2)]),
    "by number of maps": ("N", [(3, 4, 5), (1, 6, 2)]),
    "one without maps": ("N", [(3, 4, 5), (0, 4, 5)]),
    "none at all": ("N", [(0, 4, 5), (0, 4, 5)]),
}


def inputs(case: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = CASES[case][1]
    return [1 + 2 * torch.randn(n, CHANNELS, h, w, generator=generator) for n, h, w in shapes]


def build(mode: str) -> NaiveSyncBatchNorm:
    norm = NaiveSyncBatchNorm(CHANNELS, momentum=0.3, stats_mode=mode)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    return norm.train()


def along(y: torch.Tensor) -> torch.Tensor:
    return (y * torch.arange(y.numel()).cos().view_as(y)).sum()


def _run(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for case, (mode, _) in CASES.items():
        norm, x = build(mode), inputs(case)[rank].requires_grad_()
        y = norm(x)
        along(y).backward()
        tensors = {"y": y.detach(), "grad": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        found[case] = {**tensors, "mean": norm.running_mean, "var": norm.running_var}
    half = torch.full((1, CHANNELS, 1, 2), 300.0, dtype=torch.float16) + rank
    found["half"] = build("")(half).detach()
    torch.save(found, Path(folder, f"{rank}.pth"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("norms")
    mp.start_processes(_run, args=(str(folder),), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_outputs_gradients_and_statistics(found, case):
    mode, _ = CASES[case]
    xs, norm = [x.requires_grad_() for x in inputs(case)], build(mode)
    counted = [x for x in xs if len(x)]
    weights = [1.0 if mode == "" else len(x) for x in counted]
    mean = square = torch.zeros(CHANNELS)
    for x, weight in zip(counted, weights):
        mean = mean + weight / sum(weights) * x.mean((0, 2, 3))
        square = square + weight / sum(weights) * x.square().mean((0, 2, 3))
    var = square - mean**2
    shape = (1, CHANNELS, 1, 1)
    ys = [
        (x - mean.view(shape)) / (var + norm.eps).sqrt().view(shape) * norm.weight.view(shape) + norm.bias.view(shape)
        for x in xs
    ]
    gradients = torch.autograd.grad(sum(map(along, ys)), xs)
    for rank, produced in enumerate(found):
        produced = produced[case]
        torch.testing.assert_close(produced["y"], ys[rank].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(produced["grad"], gradients[rank], rtol=1e-4, atol=1e-5)
        moved = 0.3 if counted else 0.0
        torch.testing.assert_close(produced["mean"], moved * mean.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(produced["var"], 1 - moved + moved * var.detach(), rtol=1e-4, atol=1e-5)
        assert produced["weight"] is not None and produced["bias"] is not None


def test_half_precision_counts_in_float32(found):
    for rank, y in enumerate(produced["half"] for produced in found):
        assert y.dtype == torch.float16
        # 300 and 301: squares of these have no place in float16.
        side = 1.0 if rank else -1.0
        expected = side * torch.tensor([0.5, 1.0, 2.0]) + torch.tensor([1.0, 0.0, -1.0])
        torch.testing.assert_close(y[0, :, 0, 0].float(), expected, rtol=0.05, atol=0.05)


def test_alone_and_in_evaluation_it_is_the_ordinary_norm():
    x = torch.randn(2, CHANNELS, 4, 5)
    ours, ordinary = NaiveSyncBatchNorm(CHANNELS), nn.BatchNorm2d(CHANNELS)
    assert list(ours.state_dict()) == list(ordinary.state_dict())
    torch.testing.assert_close(ours(x), ordinary(x))
    torch.testing.assert_close(ours.eval()(x), ordinary.eval()(x))
    with pytest.raises(AssertionError):
        NaiveSyncBatchNorm(CHANNELS, stats_mode="M")
