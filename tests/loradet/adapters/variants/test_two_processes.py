"""Every kind of adapter on two processes: a step on halves of a batch is the step on the whole."""

import copy
from pathlib import Path

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from helpers.timm_nets import make_net, randomize
from torch import nn

from loradet.adapters import adaptformer, freeze, lora, mona
from loradet.training.distributed import run_distributed

MLP = ["mlp.fc1", "mlp.fc2"]
KINDS = {
    "norms": lambda net: freeze(net, unfreeze=["kind:norm"]),
    "biases": lambda net: freeze(net, unfreeze=["kind:bias"]),
    "mona": lambda net: mona(freeze(net), rank=3, dropout=0.0),
    "adaptformer": lambda net: adaptformer(freeze(net), rank=3),
    **{
        variant: lambda net, variant=variant: lora(freeze(net), MLP, 3, 6.0, variant=variant)
        for variant in ("lora", "rslora", "dora", "pissa")
    },
}


def net_and_images(kind: str, start: Path) -> tuple[nn.Module, torch.Tensor]:
    """The same in every process: how many threads one has shows in the last digits of random starts."""
    net, x = make_net("convnext")
    images = torch.cat([x, x.flip(3) * 0.5])
    net = randomize(KINDS[kind](net)).train().double()  # in which order is added tells nothing
    if start.exists():
        net.load_state_dict(torch.load(start, weights_only=True))
    else:
        torch.save(net.state_dict(), start)
    return net, images.double()


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Mean over images, so that the mean over processes is that over the batch."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):  # DDP says in the second step what had no gradient in the first
        optimizer.zero_grad()
        features = model(x)
        sum(feature.square().flatten(1).mean(1).mean() for feature in features.values()).backward()
        optimizer.step()


def work(folder: str) -> None:
    """What each process does."""
    trained = {}
    for kind in KINDS:
        net, x = net_and_images(kind, Path(folder, f"{kind}.start"))
        ddp = create_ddp_model(net, device_ids=None, broadcast_buffers=False, find_unused_parameters=False)
        step(ddp, x.chunk(comm.get_world_size())[comm.get_rank()])
        trained[kind] = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
    torch.save(trained, f"{folder}/{comm.get_rank()}.pth")


def test_two_processes_take_the_steps_of_one(tmp_path):
    alone = {kind: net_and_images(kind, tmp_path / f"{kind}.start") for kind in KINDS}
    run_distributed(work, num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", args=(str(tmp_path),))
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    for kind, (net, x) in alone.items():
        before = copy.deepcopy(net.state_dict())
        step(net, x)
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                assert torch.equal(first[kind][name], second[kind][name]), (kind, name)
                torch.testing.assert_close(first[kind][name], parameter.detach(), rtol=1e-6, atol=1e-9)
                assert not torch.equal(parameter, before[name]), (kind, name)
        assert len(first[kind]) > 0
