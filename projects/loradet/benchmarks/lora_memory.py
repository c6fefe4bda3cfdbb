"""Measures what LoRA of a timm backbone keeps for backward, and its step, against memory="plain" or PEFT.

python -m loradet.benchmarks.lora_memory --memory lean --against plain --pairs 50
python -m loradet.benchmarks.lora_memory --memory lean --against peft --pairs 50      # pip install peft
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from loradet.adapters import adapter_layers, freeze, lora
from loradet.backbones import TimmBackbone, TimmViT
from loradet.benchmarks.arguments import refuse_below_one
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.errors import UserError

RANK = 16
TOLERANCE = 1e-4  # of the largest gradient; PEFT adds in another order


def random_backbone(model_name: str) -> nn.Module:
    """A timm backbone of random weights, those of seed 0, whose blocks do something."""
    torch.manual_seed(0)
    vit = model_name.startswith(("vit", "eva"))
    net = TimmViT(model_name) if vit else TimmBackbone(model_name, out_features=["stage1", "stage2", "stage3"])
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):  # layer scales begin at next to nothing
            nn.init.constant_(parameter, 0.5)
    return net


def adapted(model_name: str, targets: Sequence[str], memory: str | None) -> nn.Module:
    """A frozen backbone of random weights with LoRA whose B is not zero; None: without LoRA."""
    net = random_backbone(model_name)
    if memory is None:
        return net.train()
    net = lora(freeze(net), targets, RANK, 2.0 * RANK, memory=memory)
    for name, parameter in net.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.02)
    return net.train()


def with_peft(model_name: str, targets: Sequence[str], ours: nn.Module) -> nn.Module:
    """The same backbone with PEFT's LoRA of the same tensors."""
    try:
        import peft
    except ImportError as error:
        raise UserError("--against peft: install it first (pip install peft).") from error
    net = adapted(model_name, targets, None)
    config = peft.LoraConfig(r=RANK, lora_alpha=2.0 * RANK, target_modules=list(targets), lora_dropout=0.0)
    peft.inject_adapter_in_model(config, net)
    with torch.no_grad():
        for path, layer in adapter_layers(ours):
            twin = net.get_submodule(path)
            twin.lora_A["default"].weight.copy_(layer.lora_a)
            twin.lora_B["default"].weight.copy_(layer.lora_b)
    return net


def step(net: nn.Module, x: Tensor) -> Tensor:
    """Forward and backward, with fresh gradients."""
    net.zero_grad(set_to_none=True)
    loss = sum(feature.float().square().mean() for feature in net(x).values())
    loss.backward()
    return loss.detach()


def kept_mib(net: nn.Module, x: Tensor) -> float:
    """MiB of distinct storages kept for backward, those of parameters not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(net, x)
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own) / 2**20


def largest_difference(ours: nn.Module, theirs: nn.Module, x: Tensor) -> float:
    """Of loss and every gradient, over the largest of each.

    Raises:
        RuntimeError: above `TOLERANCE`, so that a time would be of another computation.
    """
    losses = [float(step(net, x)) for net in (ours, theirs)]
    worst = abs(losses[0] - losses[1]) / abs(losses[1])
    for (path, layer), twin in zip(adapter_layers(ours), _twins(ours, theirs)):
        for name, parameter in (("lora_a", layer.lora_a), ("lora_b", layer.lora_b)):
            other = twin[name].grad
            worst = max(worst, float((parameter.grad - other).abs().max() / other.abs().max()))
            if worst > TOLERANCE:
                raise RuntimeError(f"{path}.{name}: gradients differ by {worst:.1e} of the largest.")
    return worst


def _twins(ours: nn.Module, theirs: nn.Module) -> list[dict[str, nn.Parameter]]:
    layers = [theirs.get_submodule(path) for path, _ in adapter_layers(ours)]
    return [
        {"lora_a": layer.lora_A["default"].weight, "lora_b": layer.lora_B["default"].weight}
        if hasattr(layer, "lora_A")
        else {"lora_a": layer.lora_a, "lora_b": layer.lora_b}
        for layer in layers
    ]


def benchmark_lora_memory(
    model_name: str,
    targets: Sequence[str],
    memory: str,
    against: str,
    *,
    size: int,
    batch: int,
    pairs: int,
    amp: bool = False,
    cpu_time: bool = False,
) -> dict[str, Any]:
    """What both sides keep in MiB, seconds of a step, and the ratios; equality is asserted first.

    Args:
        memory: of our side, as of `lora`.
        against: another such word, or "peft".
        size, batch: of the images.
        amp: bf16 autocast.
        cpu_time: count the seconds that this process computes, on a machine with other work; with one thread.
    """
    ours = adapted(model_name, targets, memory)
    theirs = with_peft(model_name, targets, ours) if against == "peft" else adapted(model_name, targets, against)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    difference = largest_difference(ours, theirs, x)
    clock = time.process_time if cpu_time else time.perf_counter
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        kept = [kept_mib(net, x) for net in (ours, theirs)]
        seconds = interleave(
            lambda images: step(ours, images),
            lambda images: step(theirs, images),
            [x],
            pairs=pairs,
            warmup=1,
            clock=clock,
        )
    return {
        "largest_difference": difference,
        "kept_mib": kept[0],
        "against_kept_mib": kept[1],
        "kept_ratio": kept[0] / kept[1],
        "step_s": statistics.median(seconds[0]),
        "against_step_s": statistics.median(seconds[1]),
        **ratio_figures(*seconds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m loradet.benchmarks.lora_memory`; prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convnext_small.dinov3_lvd1689m", help="a timm name; weights are random")
    parser.add_argument("--targets", nargs="+", default=["mlp.fc1", "mlp.fc2"])
    parser.add_argument("--memory", default="lean")
    parser.add_argument("--against", default="plain", help="plain, lean, least or peft")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--amp", action="store_true", help="bf16 autocast")
    parser.add_argument("--cpu-time", action="store_true", help="with OMP_NUM_THREADS=1, where other work runs too")
    options = vars(parser.parse_args(arguments))
    refuse_below_one(parser, {name: options[name] for name in ("size", "batch", "pairs")})
    words = [options.pop(name) for name in ("model", "targets", "memory", "against")]
    print(tabulate(benchmark_lora_memory(*words, **options).items(), tablefmt="plain", floatfmt=".4g"))


if __name__ == "__main__":
    main()
