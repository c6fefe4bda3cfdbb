"""E0002 against the same model as stock Detectron2 trains it, its LoRA written the way PEFT writes it."""

import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.solver import get_default_optimizer_params
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from loradet.adapters import LoRALinear, adapter_layers
from loradet.benchmarks.gpu.measuring import (
    BOTTOM_UP,
    E0002,
    free_memory,
    pairs_in_time,
    retinanet,
    square_batches,
    warm_step,
)
from loradet.benchmarks.gpu.sections import Bench
from loradet.benchmarks.memory import forget_peak, peak_mb
from loradet.benchmarks.training_step import Batch, TrainingStep
from loradet.benchmarks.turns import interleave, ratio_figures, wait_for_device
from loradet.config.device import choose_device
from loradet.model import initial_model

TOLERANCE = 2e-2  # of a loss in bf16


class PeftStyleLinear(nn.Module):
    """A frozen linear layer, and beside it the low-rank path as two linear layers of their own.

    Args:
        layer: whose weights and hyperparameters it takes, dropout left out.
    """

    def __init__(self, layer: LoRALinear):
        super().__init__()
        self.base_layer = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.base_layer.weight, self.base_layer.bias = layer.weight, layer.bias
        self.base_layer.requires_grad_(False)
        self.lora_A = nn.Linear(layer.in_features, layer.rank, bias=False, device="meta")
        self.lora_B = nn.Linear(layer.rank, layer.out_features, bias=False, device="meta")
        self.lora_A.weight, self.lora_B.weight = layer.lora_a, layer.lora_b
        self.scaling = layer.scaling

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) → (..., out_features)."""
        return self.base_layer(x) + self.lora_B(self.lora_A(x)) * self.scaling


def with_peft_style(model: nn.Module) -> nn.Module:
    """Put `PeftStyleLinear` in place of every LoRA layer, in place; returns the model."""
    for path, layer in list(adapter_layers(model)):
        if not isinstance(layer, LoRALinear):
            raise TypeError(f"{path} is a {type(layer).__name__}; only linear layers are written that way.")
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, PeftStyleLinear(layer))
    return model


class StockStep:
    """Detectron2's own trainer and parameter groups, in bf16 on CUDA, in float32 on the CPU.

    Args:
        model: in training.
        lr: of AdamW.
    """

    def __init__(self, model: nn.Module, lr: float):
        self.device = next(model.parameters()).device
        self._images: deque[Batch] = deque()
        loader = iter(self._images.popleft, None)
        optimizer = torch.optim.AdamW(get_default_optimizer_params(model), lr=lr)
        if self.device.type == "cuda":
            scaler = torch.amp.GradScaler("cuda", enabled=False)  # bf16 needs none
            self.trainer: SimpleTrainer = AMPTrainer(
                model, loader, optimizer, grad_scaler=scaler, precision=torch.bfloat16
            )
        else:  # where an installed Detectron2 has no mixed precision
            self.trainer = SimpleTrainer(model, loader, optimizer)
        self.trainer.iter = 0
        self.storage = self.trainer.storage = EventStorage()

    def run_on(self, images: Batch) -> None:
        """An optimizer step on these images."""
        self._images.append(images)
        with self.storage:
            self.trainer.run_step()
            self.storage.step()
        self.trainer.iter += 1


def stock(bench: Bench) -> Iterator[dict[str, Any]]:
    """Both sides' images a second, and the peak of stock alone; `ratio` is stock's time over ours, in turn.

    Raises:
        RuntimeError: their losses differ, so that a time would be of another computation.
    """
    sizes, batches = bench.sizes, square_batches(bench.sizes)
    device = choose_device(bench.device)
    free_memory()
    torch.manual_seed(0)
    words = [f"+{BOTTOM_UP}.memory=plain", f"+{E0002[1]}.channels_last=False"]
    model = _fill_deltas(initial_model(retinanet(bench, E0002, *words), device=device))
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    theirs = StockStep(with_peft_style(model).train(), lr=1e-4)
    losses = _losses(model, batches[0])
    peak = _peak(theirs, batches, sizes.warmup)
    ours = TrainingStep(retinanet(bench, E0002), loader=())
    ours.trainer.module.load_state_dict(state)
    _check_losses(_losses(ours.trainer.module, batches[0]), losses)

    seconds, _ = warm_step(ours, batches, sizes)
    pairs = pairs_in_time(sizes, 3 * seconds)
    times = interleave(theirs.run_on, ours.run_on, batches, pairs=pairs, warmup=1)
    stock_s, ours_s = (statistics.median(side) for side in times)
    row = {"case": "E0002 by stock code", "images/s": sizes.batch / stock_s, "seconds": stock_s, "peak MiB": peak}
    yield row | {"pairs": pairs, "note": "Detectron2's trainer, PEFT-style LoRA"}
    row = {"case": "E0002 lean", "images/s": sizes.batch / ours_s, "seconds": ours_s}
    yield row | {"ratio": ratio_figures(*times)["median_ratio"], "to": "stock, times as fast", "pairs": pairs}


def _fill_deltas(model: nn.Module) -> nn.Module:
    """B is zero at first, and the low-rank path would not show in a loss."""
    for _, layer in adapter_layers(model):
        nn.init.normal_(layer.adapter_tensors()["lora_b"], std=0.02)
    return model


def _losses(model: nn.Module, batch: Batch) -> dict[str, float]:
    device = next(model.parameters()).device
    with EventStorage(), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return {name: float(value) for name, value in model(batch).items()}


def _check_losses(ours: dict[str, float], theirs: dict[str, float]) -> None:
    for name, value in ours.items():
        if not abs(value - theirs[name]) <= TOLERANCE * abs(value):
            raise RuntimeError(f"{name} is {value:.6g} of ours and {theirs[name]:.6g} of the other side.")


def _peak(step: StockStep, batches: Sequence[Batch], warmup: int) -> float:
    for number in range(warmup):
        step.run_on(batches[number % len(batches)])
    wait_for_device()
    forget_peak(step.device)
    for batch in batches[:2]:
        step.run_on(batch)
    wait_for_device()
    return peak_mb(step.device)
