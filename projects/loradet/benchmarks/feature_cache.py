"""Training steps with and without kept features, in interleaved pairs."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from loradet.benchmarks.training_step import Batch, RandomImages, TrainingStep, training_loader
from loradet.benchmarks.turns import interleave, ratio_figures, wait_for_device
from loradet.errors import UserError
from loradet.feature_cache.frozen_part import FrozenPart, check_frozen_part, find_frozen_part
from loradet.feature_cache.probe import fixed_padding, probe
from loradet.feature_cache.replay import MARK, Features, Mark, Replay
from loradet.feature_cache.stores import Key, MemoryStore
from loradet.feature_cache.views import View
from loradet.training.checkpoints.state import RankState

_PREPARED = 4
TOLERANCE = 1e-5  # of a loss
ALLOWED = 1.05  # times what is left of a step without its frozen part


def benchmark_cache(
    cfg: DictConfig,
    *,
    pairs: int = 50,
    warmup: int = 5,
    images: RandomImages | None = None,
    cpu_time: bool = False,
) -> dict[str, Any]:
    """The training step of a config with all features kept, against the same step that computes them.

    Both sides are one model on the same prepared batches; losses must be equal before time is taken. What data
    processes do is not in it: decoding on the one side, reading entries on the other.

    Args:
        cfg: complete.
        pairs: measured pairs of steps.
        warmup: pairs before those.
        images: in place of the config's own.
        cpu_time: count the seconds that this process computes, on a machine with other work.

    Returns:
        median seconds of both (`s/iter`, `plain_s_per_iter`), `median_ratio` and its quartiles; `frozen_share`, what
        the frozen part takes of the plain step; `wanted_ratio`, `ALLOWED` times the rest; `mb_per_image`, of an entry.

    Raises:
        UserError: nothing can be kept, images of a batch differ in size, or losses differ.
    """
    step = TrainingStep(cfg, training_loader(cfg, images))
    trainer = step.trainer
    plain = step.prepare(_PREPARED)
    part = find_frozen_part(trainer.module)
    check_frozen_part(trainer.module, part)
    kept, megabytes = _kept(step, part, plain)
    difference = _largest_difference(step, plain, kept)
    frozen: list[float] = []  # seconds of a plain step

    def run_plain(number: int) -> None:
        begin = len(passes)
        step.run_on(plain[number])
        frozen.append(sum(passes[begin:]))

    clock = time.process_time if cpu_time else time.perf_counter
    with _seconds_of(trainer.module, part, clock) as passes:
        numbers = list(range(len(plain)))
        seconds = interleave(
            lambda n: step.run_on(kept[n]), run_plain, numbers, pairs=pairs, warmup=warmup, clock=clock
        )
    share = statistics.median(f / s for f, s in zip(frozen[-pairs:], seconds[1], strict=True))
    return {
        "largest_loss_difference": difference,
        "s/iter": statistics.median(seconds[0]),
        "plain_s_per_iter": statistics.median(seconds[1]),
        **ratio_figures(*seconds),
        "frozen_share": share,
        "wanted_ratio": ALLOWED * (1.0 - share),
        "mb_per_image": megabytes,
    }


def _kept(step: TrainingStep, part: FrozenPart, plain: Sequence[Batch]) -> tuple[list[Batch], float]:
    """The batches as a cache's mapper gives them, and MB of an entry."""
    model, trainer = step.trainer.module, step.trainer
    sizes = {tuple(item["image"].shape[-2:]) for batch in plain for item in batch}
    if len(sizes) > 1 and not fixed_padding(model):
        raise UserError(f"Images of several sizes, {sorted(sizes)[:3]} among them: features are kept of one size.")
    found = probe(model, part, next(iter(sizes)), trainer.amp_dtype, None)
    places = [(n, i) for n, batch in enumerate(plain) for i in range(len(batch))]
    store = MemoryStore([f"{n} {i}" for n, i in places], 1, found.layout)
    replay = Replay(model, part)
    replay.features["benchmark"] = Features(store, found.layout, found.padded, trainer.amp_dtype)
    marked: list[Batch] = []
    for n, batch in enumerate(plain):
        keys = [Key(f"{n} {i}", View("", 0, tuple(item["image"].shape[-2:]))) for i, item in enumerate(batch)]
        fresh = [{**item, MARK: Mark("benchmark", key, None, is_kept=False)} for item, key in zip(batch, keys)]
        _losses(step, fresh)
        rows = [store.read(key) for key in keys]
        marked.append(
            [
                {**_without_image(item), MARK: Mark("benchmark", key, row, is_kept=True)}
                for item, key, row in zip(batch, keys, rows)
            ]
        )
    return marked, found.layout.nbytes / 1e6


def _without_image(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "image"}


def _losses(step: TrainingStep, batch: Batch) -> dict[str, float]:
    """Of one step's images, leaving generators and normalizers as they were."""
    trainer = step.trainer
    found: dict[str, float] = {}
    state = RankState.of(trainer.module)
    with (
        EventStorage(),
        torch.no_grad(),
        torch.autocast(trainer.device.type, dtype=trainer.amp_dtype, enabled=trainer.amp_dtype is not None),
    ):
        for number, part in enumerate(step.micro_batches(batch)):
            found |= {f"{name} {number}": float(value) for name, value in trainer.model(part).items()}
    state.restore(trainer.module)
    return found


def _largest_difference(step: TrainingStep, plain: Sequence[Batch], kept: Sequence[Batch]) -> float:
    worst = 0.0
    for ours, theirs in zip(kept, plain):
        a, b = _losses(step, ours), _losses(step, theirs)
        worst = max([worst, *(abs(a[name] - b[name]) / max(abs(b[name]), 1e-12) for name in b)])
    if not worst <= TOLERANCE:
        raise UserError(f"Losses with and without kept features differ by {worst:.1e} of a loss; not measured.")
    return worst


@contextmanager
def _seconds_of(model: nn.Module, part: FrozenPart, clock: Callable[[], float]) -> Iterator[list[float]]:
    """Seconds of every pass through the frozen part inside the block."""
    seconds: list[float] = []
    began = [0.0]

    def begin(*_: Any) -> None:
        wait_for_device()
        began[0] = clock()

    def end(*_: Any) -> None:
        wait_for_device()
        seconds.append(clock() - began[0])

    hooks = [
        model.get_submodule(part.steps[0]).register_forward_pre_hook(begin),
        model.get_submodule(part.steps[-1]).register_forward_hook(end),
    ]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()
