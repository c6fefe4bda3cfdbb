"""Measures a training step of a timm backbone by one kind of adapter against that by another.

python -m loradet.benchmarks.adapter_steps --adapter dora --against lora --pairs 50
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from loradet.adapters import adaptformer, freeze, lora, mona, parameter_table
from loradet.adapters.variants.registry import VARIANTS
from loradet.benchmarks.arguments import refuse_below_one
from loradet.benchmarks.lora_memory import kept_mib, random_backbone, step
from loradet.benchmarks.turns import interleave, ratio_figures

TOLERANCE = 1e-5  # of the largest feature, before a step


BLOCK_ADAPTERS: dict[str, Callable[..., nn.Module]] = {"mona": mona, "adaptformer": adaptformer}
ADAPTERS = (*VARIANTS, *BLOCK_ADAPTERS)


def adapted(model_name: str, adapter: str, targets: Sequence[str], rank: int, block_rank: int) -> nn.Module:
    """A frozen backbone of random weights with an adapter as it begins, in train mode.

    Args:
        adapter: of `ADAPTERS`.
        targets, rank: of LoRA and its variants.
        block_rank: of Mona and AdaptFormer, which are in all blocks.
    """
    net = random_backbone(model_name)
    if adapter in BLOCK_ADAPTERS:
        return BLOCK_ADAPTERS[adapter](freeze(net), rank=block_rank).train()
    return lora(freeze(net), targets, rank, 2.0 * rank, variant=adapter).train()


def benchmark_adapters(
    model_name: str,
    adapter: str,
    against: str,
    targets: Sequence[str],
    *,
    rank: int,
    block_rank: int = 64,
    size: int,
    batch: int,
    pairs: int,
    cpu_time: bool = False,
) -> dict[str, Any]:
    """Seconds of a step of both sides, what they keep for backward, and their ratios.

    Adapters change a network in different ways, so nothing but their beginning can be equal: the features of both are
    found to be those of the base first.

    Args:
        adapter, against: of `ADAPTERS`.
        targets, rank, block_rank: as of `adapted`.
        size, batch: of the images.
        cpu_time: count the seconds that this process computes, on a machine with other work; with one thread.

    Raises:
        RuntimeError: the features of both sides differ.
    """
    nets = [adapted(model_name, name, targets, rank, block_rank) for name in (adapter, against)]
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    difference = _difference(nets, x)
    seconds = interleave(
        lambda images: step(nets[0], images),
        lambda images: step(nets[1], images),
        [x],
        pairs=pairs,
        warmup=1,
        clock=time.process_time if cpu_time else time.perf_counter,
    )
    kept = [kept_mib(net, x) for net in nets]
    trainable = [parameter_table(net).all.trainable for net in nets]
    return {
        "largest_difference": difference,
        "trainable": trainable[0],
        "against_trainable": trainable[1],
        "kept_mib": kept[0],
        "against_kept_mib": kept[1],
        "step_s": statistics.median(seconds[0]),
        "against_step_s": statistics.median(seconds[1]),
        **ratio_figures(*seconds),
    }


def _difference(nets: Sequence[nn.Module], x: Tensor) -> float:
    with torch.no_grad():
        ours, theirs = (list(net.eval()(x).values()) for net in nets)
    for net in nets:
        net.train()
    worst = max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(ours, theirs))
    if worst > TOLERANCE:
        raise RuntimeError(f"The features of both sides differ by {worst:.1e} of the largest before any step.")
    return worst


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m loradet.benchmarks.adapter_steps`; prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convnext_small.dinov3_lvd1689m", help="a timm name; weights are random")
    parser.add_argument("--adapter", choices=ADAPTERS, default="dora")
    parser.add_argument("--against", choices=ADAPTERS, default="lora")
    parser.add_argument("--targets", nargs="+", default=["mlp.fc1", "mlp.fc2"])
    parser.add_argument("--rank", type=int, default=16, help="of LoRA and its variants")
    parser.add_argument("--block-rank", type=int, default=64, help="of Mona and AdaptFormer")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--cpu-time", action="store_true", help="with OMP_NUM_THREADS=1, where other work runs too")
    options = vars(parser.parse_args(arguments))
    refuse_below_one(parser, {name: options[name] for name in ("rank", "block_rank", "size", "batch", "pairs")})
    words = [options.pop(name) for name in ("model", "adapter", "against", "targets")]
    print(tabulate(benchmark_adapters(*words, **options).items(), tablefmt="plain", floatfmt=".4g"))


if __name__ == "__main__":
    main()
