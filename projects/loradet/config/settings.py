"""The `train` part of a config: every key, its meaning, its default."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch.nn.parallel import DistributedDataParallel

from loradet.errors import UserError
from loradet.precision import DTYPES


@dataclass
class TrainSettings:
    """Keys of `cfg.train`. A duration is a number of iterations, or a text such as "12 epochs".

    An iteration is one optimizer step on `dataloader.train.total_batch_size` images, whatever the number of
    processes and micro-batches.
    """

    output_dir: str = "work_dirs/run"
    overwrite: bool = False  # start afresh where another run's files lie
    init_checkpoint: str = ""  # weights to start from (a full or partial checkpoint)
    max_iter: int | str = "12 epochs"
    seed: int = 0  # -1: draw one (it is logged and saved)
    device: str = "auto"  # "auto": CUDA where there is a device, else CPU
    cudnn_benchmark: bool = False
    # dtype: or "fp16", with a scaler; or "auto": bf16 where the device has it, else fp16.
    amp: dict = field(default_factory=lambda: {"enabled": False, "dtype": "bf16"})
    # Also the other arguments of DistributedDataParallel; fp16_compression: exchange gradients as float16.
    ddp: dict = field(
        default_factory=lambda: {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        }
    )
    accumulate: int = 1  # micro-batches a step
    max_batch_per_gpu: int | None = None  # works `accumulate` out instead, so that no forward sees more images
    clip_grad: dict = field(default_factory=lambda: {"max_norm": None, "norm_type": 2.0})
    ema: dict = field(default_factory=lambda: {"enabled": False, "decay": 0.999})
    log_period: int = 20
    eval_period: int | str = "1 epochs"  # 0: at the end only
    smoke: bool = False  # a short trial: the metrics of its one split go to smoke_metrics.json
    eval_splits: list = field(default_factory=lambda: ["val"])  # the first one is evaluated during training
    # period 0: at the end only; max_to_keep null: keep all
    checkpointer: dict = field(default_factory=lambda: {"period": "1 epochs", "max_to_keep": 2})
    best: dict = field(default_factory=lambda: {"metric": "bbox/AP", "mode": "max"})
    # speed and memory of inference with the best weights, measured at the end: batches, and those before them
    efficiency: dict = field(default_factory=lambda: {"enabled": False, "steps": 50, "warmup": 5})
    early_stopping: dict = field(default_factory=lambda: {"enabled": False, "patience": 5, "min_delta": 0.0})
    # Reports beside TensorBoard, each where it has a project; name null: that of the output folder.
    trackio: dict = field(default_factory=lambda: {"project": None, "name": None, "space_id": None, "private": True})
    wandb: dict = field(default_factory=lambda: {"project": None, "name": None, "entity": None, "mode": None})
    hub: dict = field(default_factory=lambda: {"repo_id": None, "private": True})  # uploads every checkpoint


def complete_train_settings(cfg: DictConfig) -> None:
    """Fill the keys that `cfg.train` does not name with their defaults, in place.

    Raises:
        ValueError: a key that does not exist (the nearest ones are named), or a value out of range.
    """
    given = cfg.get("train") or {}
    defaults = asdict(TrainSettings())
    _reject_unknown(given, defaults, "train")
    merged = OmegaConf.merge(OmegaConf.create(defaults, flags={"allow_objects": True}), given)
    OmegaConf.update(cfg, "train", merged, merge=False, force_add=True)
    _check_values(cfg.train)


def _reject_unknown(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    if where == "train.ddp":
        known = {**inspect.signature(DistributedDataParallel).parameters, **known}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=3, cutoff=0.4) or sorted(known)
            raise UserError(f"{where}.{key} is not a setting; nearest: {', '.join(f'{where}.{n}' for n in near)}.")
        if isinstance(known[key], dict):
            if not isinstance(given[key], Mapping):
                raise UserError(f"{where}.{key}={given[key]!r}: expected keys {', '.join(known[key])} with values.")
            _reject_unknown(given[key], known[key], f"{where}.{key}")


_KINDS = {
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "a number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "true or false": lambda value: isinstance(value, bool),
    "a text": lambda value: isinstance(value, str),
    "a list of names, as [val,test]": lambda value: (
        isinstance(value, ListConfig) and all(isinstance(name, str) for name in value)
    ),
}
_OPTIONAL_TEXTS = (
    *("trackio.project", "trackio.name", "trackio.space_id"),
    *("wandb.project", "wandb.name", "wandb.entity", "wandb.mode", "hub.repo_id"),
)
_KIND_OF = {
    "a whole number": (
        *("seed", "accumulate", "max_batch_per_gpu", "log_period"),
        *("checkpointer.max_to_keep", "early_stopping.patience", "efficiency.steps", "efficiency.warmup"),
    ),
    "a number": ("clip_grad.max_norm", "clip_grad.norm_type", "ema.decay", "early_stopping.min_delta"),
    "true or false": (
        *("overwrite", "cudnn_benchmark", "smoke", "amp.enabled", "ema.enabled"),
        *("early_stopping.enabled", "efficiency.enabled", "trackio.private", "hub.private"),
    ),
    "a text": ("output_dir", "init_checkpoint", "device", "best.metric", *_OPTIONAL_TEXTS),
    "a list of names, as [val,test]": ("eval_splits",),
}
_OPTIONAL = (
    *("max_batch_per_gpu", "checkpointer.max_to_keep", "clip_grad.max_norm", "init_checkpoint"),
    *_OPTIONAL_TEXTS,
)


def _check_kinds(train: DictConfig) -> None:
    for kind, keys in _KIND_OF.items():
        for key in keys:
            value = OmegaConf.select(train, key)
            if value is None and key in _OPTIONAL:
                continue
            if value is None or not _KINDS[kind](value):
                raise UserError(f"train.{key}={value!r}: expected {kind}{', or null' if key in _OPTIONAL else ''}.")


def _check_values(train: DictConfig) -> None:
    _check_kinds(train)
    for key in (
        *("checkpointer.max_to_keep", "early_stopping.patience", "clip_grad.max_norm"),
        *("efficiency.steps", "efficiency.warmup"),
    ):
        value = OmegaConf.select(train, key)
        if value is not None and value <= 0:
            raise UserError(f"train.{key}={value!r}: expected more than 0.")
    if train.amp.dtype not in DTYPES:
        raise UserError(f"train.amp.dtype={train.amp.dtype!r}: expected one of {', '.join(DTYPES)}.")
    if train.best.mode not in ("max", "min"):
        raise UserError(f'train.best.mode={train.best.mode!r}: expected "max" or "min".')
    if train.smoke and len(train.eval_splits) != 1:
        raise UserError(f"train.smoke=True: expected one split in train.eval_splits, found {list(train.eval_splits)}.")
    if train.accumulate < 1:
        raise UserError(f"train.accumulate={train.accumulate!r}: expected a whole number of at least 1.")
    if train.max_batch_per_gpu is not None and train.accumulate != 1:
        raise UserError(
            "train.accumulate and train.max_batch_per_gpu are both set: the second works the first out, "
            "so leave train.accumulate at 1."
        )
    if not 0.0 <= train.ema.decay < 1.0:
        raise UserError(f"train.ema.decay={train.ema.decay!r}: expected a fraction in [0, 1).")
    if train.log_period < 1:
        raise UserError(f"train.log_period={train.log_period!r}: expected at least 1.")
    _check_writers(train)


def _check_writers(train: DictConfig) -> None:
    for key in _OPTIONAL_TEXTS:
        value = OmegaConf.select(train, key)
        if value is not None and not value.strip():
            raise UserError(f"train.{key} is empty: expected a text, or null.")
        writer = key.partition(".")[0]
        if value is not None and writer != "hub" and train[writer].project is None:
            raise UserError(f"train.{key}={value!r} has no effect without train.{writer}.project.")
    if train.wandb.mode not in (None, "online", "offline", "disabled"):
        raise UserError(f'train.wandb.mode={train.wandb.mode!r}: expected "online", "offline", "disabled" or null.')
