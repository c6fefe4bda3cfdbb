"""Peak memory of training, each measurement in a process of its own."""

import contextlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from loradet.benchmarks.training_step import RandomImages, TrainingStep, training_loader
from loradet.config import load_config
from loradet.config.device import choose_device
from loradet.errors import UserError, is_user_error, one_line
from loradet.evaluation.process_memory import status_mb
from loradet.training.memory import peak_memory_mb

_RATIOS = {"peak_mb": "peak_ratio", "training_mb": "training_ratio"}


def training_memory(
    config_file: str,
    overrides: Sequence[str] = (),
    *,
    steps: int = 3,
    images: RandomImages | None = None,
    trusted: bool = False,
) -> dict[str, Any]:
    """Peak memory of training steps of a config in a fresh process.

    Args:
        config_file: a LazyConfig file.
        overrides: of its keys.
        steps: optimizer steps; the optimizer's state is there from the second on.
        images: in place of the config's own.
        trusted: as in `load_config`.

    Returns:
        in MiB: `before_model_mb`, held when everything is imported and the first batch is read, but no model built;
        `peak_mb`, the most held while the steps ran; `training_mb`, the difference: weights, gradients, optimizer
        state, activations and what kernels need. On the CPU it is what the process has resident, data workers not
        counted; on CUDA what torch had allocated.

    Raises:
        ValueError: fewer than two steps, or the config does not work; the message is that of the process.
        ChildProcessError: the process was ended, by the system for want of memory, say.
    """
    if steps < 2:
        raise UserError(f"steps={steps}: at least 2 are needed, since the optimizer has no state before its first.")
    # Not forked: a forked process would hold, and count, what this one does.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            words = (config_file, list(overrides), steps, images, trusted)
            outcome = pool.submit(_measure, *words, torch.get_num_threads())
            result = outcome.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"The process that measured {config_file} was ended from outside, most likely for want of memory; "
                "smaller images or a smaller dataloader.train.total_batch_size need less."
            ) from error
    if isinstance(result, str):
        raise UserError(f"{config_file}: {result}")
    return result


def compare_memory(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Two results of `training_memory` in one, those of the second as `against_…`, with their ratios."""
    both = {**ours, **{f"against_{name}": value for name, value in theirs.items() if name.endswith("_mb")}}
    return {**both, **{ratio: ours[name] / theirs[name] for name, ratio in _RATIOS.items()}}


def _measure(
    config_file: str, overrides: list[str], steps: int, images: RandomImages | None, trusted: bool, threads: int
) -> dict[str, Any] | str:
    """The figures, or what a user did wrong."""
    torch.set_num_threads(threads)
    try:
        return _run_steps(load_config(config_file, overrides, trusted=trusted), steps, images)
    except Exception as error:
        if is_user_error(error):
            return one_line(error)
        raise


def _run_steps(cfg: DictConfig, steps: int, images: RandomImages | None) -> dict[str, Any]:
    torch.manual_seed(0)
    device = choose_device(cfg.train.device)
    loader = training_loader(cfg, images)
    next(iter(loader))
    before = _held_mb(device)
    step = TrainingStep(cfg, loader)
    forget_peak(device)
    with step.trainer.stream():
        for _ in range(steps):
            step.run()
    peak = peak_mb(device)
    return {
        "peak_mb": peak,
        "before_model_mb": before,
        "training_mb": peak - before,
        "steps": steps,
        "images": step.images,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }


def _held_mb(device: torch.device) -> float:
    return torch.cuda.memory_allocated() / 2**20 if device.type == "cuda" else status_mb("VmRSS")


def peak_mb(device: torch.device) -> float:
    """The most that was held, in MiB: on CUDA what torch had allocated, else what this process had resident."""
    # ru_maxrss would begin with what the parent process held when it started this one.
    return peak_memory_mb() if device.type == "cuda" else status_mb("VmHWM")


def forget_peak(device: torch.device) -> None:
    """Let the peak count from here: building a model may take more than training it, as when it reads weights."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    # See proc(5); where a system forbids it the peak has the building in it too.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
