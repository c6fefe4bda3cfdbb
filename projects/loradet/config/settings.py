"""The `train` part of a config: every key, its type, its range, its meaning, its default."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn.parallel import DistributedDataParallel

from loradet.backbones.precision import DTYPES
from loradet.errors import UserError


def _ranged(default: Any, words: str, holds: Callable[[Any], bool]) -> Any:
    """A key whose values (but null) have a range."""
    return field(default=default, metadata={"range": (words, holds)})


def _positive(default: Any) -> Any:
    return _ranged(default, "more than 0", lambda value: value > 0)


def _one_of(default: Any, *values: str) -> Any:
    *first, last = (f'"{value}"' for value in values)
    # A key that has no value by itself goes on with "or null".
    words = ", ".join([*first, last]) if default is None else f"{', '.join(first)} or {last}"
    return _ranged(default, words, lambda value: value in values)


@dataclass
class AmpSettings:
    """Mixed precision. "fp16" takes a scaler; "auto" is bf16 where the device has it, else fp16."""

    enabled: bool = False
    dtype: str = _one_of("bf16", *DTYPES)


@dataclass
class DdpSettings:
    """Arguments of DistributedDataParallel, of which others may be given too."""

    broadcast_buffers: bool = False
    find_unused_parameters: bool = False
    fp16_compression: bool = False  # exchange gradients as float16


@dataclass
class ClipSettings:
    """Clipping of the gradients' norm."""

    max_norm: float | None = _positive(None)
    norm_type: float = 2.0


@dataclass
class EmaSettings:
    """A moving average of the weights, which is evaluated and kept as the best."""

    enabled: bool = False
    decay: float = _ranged(0.999, "a fraction in [0, 1)", lambda value: 0.0 <= value < 1.0)


@dataclass
class CheckpointerSettings:
    """When checkpoints are saved. period 0: at the end only; max_to_keep null: keep all."""

    period: int | str = "1 epochs"
    max_to_keep: int | None = _positive(2)


@dataclass
class BestSettings:
    """What is better: a metric of the evaluation."""

    metric: str = "bbox/AP"
    mode: str = _one_of("max", "max", "min")


@dataclass
class EfficiencySettings:
    """Speed and memory of inference with the best weights, measured at the end: batches, and those before them."""

    enabled: bool = False
    steps: int = _positive(50)
    warmup: int = _positive(5)


@dataclass
class OperatingPointSettings:
    """How score thresholds are chosen on the first split: for a wished precision, by the best F1 where that is null."""

    precision: float | None = _ranged(None, "a fraction in (0, 1]", lambda value: 0.0 < value <= 1.0)
    match_iou: float = _ranged(0.5, "a fraction in (0, 1]", lambda value: 0.0 < value <= 1.0)


@dataclass
class ValidationLossSettings:
    """Losses on the first split at each evaluation; off where it has more images. max_images null: any number."""

    enabled: bool = True
    max_images: int | None = _positive(2000)


@dataclass
class EarlyStoppingSettings:
    """Ends a run after so many evaluations without a better one."""

    enabled: bool = False
    patience: int = _positive(5)
    min_delta: float = 0.0


@dataclass
class TrackioSettings:
    """Reports beside TensorBoard where there is a project; name null: that of the output folder."""

    project: str | None = None
    name: str | None = None
    space_id: str | None = None
    private: bool = True


@dataclass
class WandbSettings:
    """The same."""

    project: str | None = None
    name: str | None = None
    entity: str | None = None
    mode: str | None = _one_of(None, "online", "offline", "disabled")


@dataclass
class HubSettings:
    """A repository of the Hugging Face Hub, to which every checkpoint is uploaded."""

    repo_id: str | None = None
    private: bool = True


@dataclass
class TrainSettings:
    """Keys of `cfg.train`. A duration is a number of iterations, or a text such as "12 epochs".

    An iteration is one optimizer step on `dataloader.train.total_batch_size` images, whatever the number of
    processes and micro-batches.
    """

    output_dir: str = "work_dirs/run"
    overwrite: bool = False  # start afresh where another run's files lie
    init_checkpoint: str | None = ""  # weights to start from (a full or partial checkpoint)
    allow_random_frozen: bool = False  # let frozen parts stay random, which nothing filled with weights
    accept_changed_data: bool = False  # let a run go on although its annotation files have changed since
    max_iter: int | str = "12 epochs"
    # -1: draw one (it is logged and saved). numpy takes no larger ones, and every process adds its number.
    seed: int = _ranged(0, "a whole number up to 4000000000", lambda value: value <= 4_000_000_000)
    device: str = "auto"  # "auto": CUDA where there is a device, else CPU
    cudnn_benchmark: bool = False
    amp: AmpSettings = field(default_factory=AmpSettings)
    ddp: DdpSettings = field(default_factory=DdpSettings)
    accumulate: int = _ranged(1, "a whole number of at least 1", lambda value: value >= 1)  # micro-batches a step
    max_batch_per_gpu: int | None = None  # works `accumulate` out instead, so that no forward sees more images
    clip_grad: ClipSettings = field(default_factory=ClipSettings)
    ema: EmaSettings = field(default_factory=EmaSettings)
    log_period: int = _ranged(20, "at least 1", lambda value: value >= 1)
    eval_period: int | str = "1 epochs"  # 0: at the end only
    smoke: bool = False  # a short trial: the metrics of its one split go to smoke_metrics.json
    eval_splits: list[str] = field(default_factory=lambda: ["val"])  # the first one is evaluated during training
    checkpointer: CheckpointerSettings = field(default_factory=CheckpointerSettings)
    best: BestSettings = field(default_factory=BestSettings)
    efficiency: EfficiencySettings = field(default_factory=EfficiencySettings)
    operating_point: OperatingPointSettings = field(default_factory=OperatingPointSettings)
    validation_loss: ValidationLossSettings = field(default_factory=ValidationLossSettings)
    validation_pictures: int = _ranged(4, "from 0 to 32", lambda value: 0 <= value <= 32)  # painted at each evaluation
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)
    trackio: TrackioSettings = field(default_factory=TrackioSettings)
    wandb: WandbSettings = field(default_factory=WandbSettings)
    hub: HubSettings = field(default_factory=HubSettings)


# What a key of a type takes, in words.
_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    int | str: 'a number of iterations or a text such as "12 epochs"',
    list[str]: "a list of names, as [val,test]",
}


def complete_train_settings(cfg: DictConfig) -> None:
    """Fill the keys that `cfg.train` does not name with their defaults, in place.

    Raises:
        UserError: a key that does not exist (the nearest ones are named), or a value of another type or out of range.
    """
    given = cfg.get("train") or {}
    if not OmegaConf.is_dict(given) and not isinstance(given, Mapping):
        raise UserError(f"train={given!r}: expected settings by name, as train.max_iter.")
    defaults = asdict(TrainSettings())
    _reject_unknown(given, defaults, "train")
    merged = OmegaConf.merge(OmegaConf.create(defaults, flags={"allow_objects": True}), given)
    OmegaConf.update(cfg, "train", merged, merge=False, force_add=True)
    _check_values(cfg.train, OmegaConf.structured(TrainSettings), TrainSettings, "train")
    _check_together(cfg.train)


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


def _check_values(train: DictConfig, schema: DictConfig, settings: type, where: str) -> None:
    """Put every value into the structured config of the same keys, which refuses what is of another type."""
    for one in dataclasses.fields(settings):
        name, value = f"{where}.{one.name}", train[one.name]
        if dataclasses.is_dataclass(one.type):
            _check_values(value, schema[one.name], one.type, name)
            continue
        words, optional = _expected(one.type)
        try:
            schema[one.name] = value
            fits = _is_same(value, schema[one.name])
        except OmegaConfBaseException:
            fits = False
        if not fits:
            raise UserError(f"{name}={value!r}: expected {words}{', or null' if optional else ''}.")
        words, holds = one.metadata.get("range", ("", bool))
        if words and value is not None and not holds(value):
            raise UserError(f"{name}={value!r}: expected {words}{' or null' if optional else ''}.")


def _expected(kind: Any) -> tuple[str, bool]:
    """What a type takes in words, and whether null is among it."""
    if kind in _TYPES:
        return _TYPES[kind], False
    (inner,) = (one for one in _TYPES if one | None == kind)
    return _TYPES[inner], True


def _is_same(given: Any, taken: Any) -> bool:
    """Whether OmegaConf took a value as it is: it would make 1 of "1", and True of "yes"."""
    if OmegaConf.is_list(given):
        return len(given) == len(taken) and all(map(_is_same, given, taken))
    if given != given:  # NaN
        return False
    return type(given) is type(taken) or (type(given) is int and type(taken) is float)


def _check_together(train: DictConfig) -> None:
    if train.smoke and len(train.eval_splits) != 1:
        raise UserError(f"train.smoke=True: expected one split in train.eval_splits, found {list(train.eval_splits)}.")
    if train.max_batch_per_gpu is not None and train.accumulate != 1:
        raise UserError(
            "train.accumulate and train.max_batch_per_gpu are both set: the second works the first out, "
            "so leave train.accumulate at 1."
        )
    for writer, key, value in _texts_of_writers(train):
        if not value.strip():
            raise UserError(f"train.{writer}.{key} is empty: expected a text, or null.")
        if writer != "hub" and train[writer].project is None:
            raise UserError(f"train.{writer}.{key}={value!r} has no effect without train.{writer}.project.")


def _texts_of_writers(train: DictConfig) -> Iterator[tuple[str, str, str]]:
    for writer in ("trackio", "wandb", "hub"):
        for key, value in train[writer].items():
            if isinstance(value, str):
                yield writer, key, value
