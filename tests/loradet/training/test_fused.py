"""Where an optimizer is fused: on CUDA, where the config does not say how it steps; and resuming on another device."""

import copy
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyCall as L
from torch import nn

from loradet.training.fused import keep_fused, with_fused

CUDA, CPU = (SimpleNamespace(type=name) for name in ("cuda", "cpu"))


def parameter(device=CUDA, *, trains=True, is_float=True):
    return SimpleNamespace(device=device, requires_grad=trains, is_floating_point=lambda: is_float)


class Own(torch.optim.SGD):
    """Whose arguments say nothing of fusing."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_optimizers_with_kernels_for_cuda_are_fused_there(kind):
    assert with_fused(L(kind)(lr=0.1), [parameter(), parameter(CPU, trains=False)]).fused is True
    assert "fused" not in with_fused(L(kind)(lr=0.1), [parameter(), parameter(CPU)])
    assert "fused" not in with_fused(L(kind)(lr=0.1), [parameter(is_float=False)])


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, Own, torch.optim.lr_scheduler.StepLR])
def test_others_stay_as_they_are(kind):
    assert "fused" not in with_fused(L(kind)(lr=0.1), [parameter()])


@pytest.mark.parametrize("choice", [{"fused": False}, {"foreach": True}, {"capturable": True}])
def test_a_config_that_says_how_to_step_is_obeyed(choice):
    node = L(torch.optim.AdamW)(lr=0.1, **choice)
    assert with_fused(copy.deepcopy(node), [parameter()]) == node


def steps(model, optimizer, count):
    for number in range(count):
        optimizer.zero_grad()
        model(torch.full((2, 3), 1.0 + number)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(("before", "after"), [(True, None), (None, True), (False, True), (True, False)])
def test_a_run_goes_on_with_the_optimizer_of_its_own_device(before, after):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    first = torch.optim.AdamW(model.parameters(), lr=0.1, fused=before)
    steps(model, first, 3)
    other = copy.deepcopy(model)
    second = torch.optim.AdamW(other.parameters(), lr=0.1, fused=after)
    second.load_state_dict(keep_fused(copy.deepcopy(first.state_dict()), second))
    assert [group["fused"] for group in second.param_groups] == [after]
    assert [group["lr"] for group in second.param_groups] == [0.1]
    steps(model, first, 2)
    steps(other, second, 2)
    torch.testing.assert_close(other.weight, model.weight)


def test_a_state_of_other_groups_is_refused_by_the_optimizer():
    model = nn.Linear(3, 2)
    two = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
    one = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        one.load_state_dict(keep_fused(two.state_dict(), one))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_fused_steps_on_cuda_are_near_the_others(kind):
    torch.manual_seed(0)
    models = [nn.Linear(3, 2).cuda()]
    models.append(copy.deepcopy(models[0]))
    for model, fused in zip(models, (True, False)):
        node = with_fused(L(kind)(lr=0.1), model.parameters())
        assert node.fused
        optimizer = kind(model.parameters(), lr=0.1, fused=fused)
        for number in range(5):
            optimizer.zero_grad()
            model(torch.full((2, 3), 1.0 + number, device="cuda")).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight)
