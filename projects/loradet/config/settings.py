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


def _setting(default: Any, doc: str = "", words: str = "", holds: Callable[[Any], bool] = bool) -> Any:
    """A key with its meaning, for the reference, and the range of its values (but null), in words and as a test."""
    return field(default=default, metadata={"doc": doc, "range": (words, holds)})


def _positive(default: Any, doc: str) -> Any:
    return _setting(default, doc, "more than 0", lambda value: value > 0)


def _fraction(default: Any, doc: str) -> Any:
    return _setting(default, doc, "a fraction in (0, 1]", lambda value: 0.0 < value <= 1.0)


def _one_of(default: Any, doc: str, *values: str) -> Any:
    *first, last = (f'"{value}"' for value in values)
    # A key that has no value by itself goes on with "or null".
    words = ", ".join([*first, last]) if default is None else f"{', '.join(first)} or {last}"
    return _setting(default, doc, words, lambda value: value in values)


@dataclass
class AmpSettings:
    """Mixed precision: the forward pass runs under autocast, weights stay float32."""

    enabled: bool = _setting(False)
    dtype: str = _one_of(
        "bf16",
        "fp16 comes with a gradient scaler, which skips steps whose gradient overflows (`grad_scale` in "
        "`metrics.json`); auto is bf16 where the device has it, else fp16",
        *DTYPES,
    )


@dataclass
class DdpSettings:
    """Arguments of DistributedDataParallel, of which others may be given too."""

    broadcast_buffers: bool = _setting(False)
    find_unused_parameters: bool = _setting(False, "stays off: frozen parameters take no part in the exchange")
    fp16_compression: bool = _setting(False, "exchange gradients as float16")


@dataclass
class ClipSettings:
    """Clipping of the gradients' norm; `grad_norm` is in `metrics.json` in any case."""

    max_norm: float | None = _positive(None, "the largest norm; null: no clipping")
    norm_type: float = _setting(2.0)


@dataclass
class EmaSettings:
    """A moving average of what trains. Evaluation, `model_best.pth` and the adapter take it; training does not."""

    enabled: bool = _setting(False)
    decay: float = _setting(
        0.999,
        "at the start less: min(decay, (1 + step) / (10 + step))",
        "a fraction in [0, 1)",
        lambda value: 0.0 <= value < 1.0,
    )


@dataclass
class CompileSettings:
    """torch.compile of what trains, where all images have one size: [processes.md](../processes.md#compiled-steps)."""

    enabled: bool = _setting(False, "the first step takes minutes; evaluation is not compiled")
    what: str = _one_of("backbone", "model: heads and DETR's transformer too", "backbone", "model")
    mode: str = _one_of(
        "default",
        "as of torch.compile",
        *("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    )


@dataclass
class CheckpointerSettings:
    """When checkpoints are saved."""

    period: int | str = _setting("1 epochs", "a duration; 0: at the end only")
    max_to_keep: int | None = _positive(2, "null: keep all")


@dataclass
class BestSettings:
    """What makes `model_best.pth`."""

    metric: str = _setting("bbox/AP", "a number of the evaluation, as `bbox/AP50`, `bbox/AP-ship` or `val/total_loss`")
    mode: str = _one_of("max", "which of two numbers is better", "max", "min")


@dataclass
class EfficiencySettings:
    """Speed and memory of inference with the best weights, measured at the end."""

    enabled: bool = _setting(False)
    steps: int = _positive(50, "batches")
    warmup: int = _positive(5, "batches before them, not measured")


@dataclass
class OperatingPointSettings:
    """How score thresholds are chosen on the first split."""

    precision: float | None = _fraction(None, "the wished precision; null: the best F1")
    match_iou: float = _fraction(0.5, "IoU from which a detection finds a box")


@dataclass
class ValidationLossSettings:
    """Losses on the first split at each evaluation."""

    enabled: bool = _setting(True)
    max_images: int | None = _positive(2000, "off where the split has more; null: any number")


@dataclass
class EarlyStoppingSettings:
    """Ends a run after so many evaluations in a row without a better one."""

    enabled: bool = _setting(False)
    patience: int = _positive(5, "evaluations")
    min_delta: float = _setting(0.0, "what counts as better")


@dataclass
class FeatureCacheSettings:
    """Outputs of what is frozen are kept per image and view, and not computed again: docs/feature_cache.md."""

    enabled: bool = _setting(False)
    where: str = _one_of(
        "disk", "disk: this run and others read them; memory: of this run, a copy a process", "disk", "memory"
    )
    folder: str = _setting("work_dirs/feature_cache", "of all runs, with `where=disk`")
    dtype: str | None = _one_of(
        None, "what they are kept in; null: as they are, which changes no number", "bf16", "fp16"
    )
    max_gb: float | None = _positive(50.0, "the most that those of a run may take, 10^9 bytes; null: any")


@dataclass
class TrackioSettings:
    """Reports to Trackio, where there is a project."""

    project: str | None = _setting(None)
    name: str | None = _setting(None, "of the run; null: that of its folder")
    space_id: str | None = _setting(None, "a Hugging Face Space, as USER/SPACE; null: nothing leaves the machine")
    private: bool = _setting(True, "where the run makes the Space")


@dataclass
class WandbSettings:
    """Reports to Weights & Biases, where there is a project."""

    project: str | None = _setting(None)
    name: str | None = _setting(None, "of the run; null: that of its folder")
    entity: str | None = _setting(None)
    mode: str | None = _one_of(None, "null: as WANDB_MODE says", "online", "offline", "disabled")


@dataclass
class HubSettings:
    """A repository of the Hugging Face Hub, to which every checkpoint is uploaded."""

    repo_id: str | None = _setting(None, "as USER/NAME")
    private: bool = _setting(True, "where the run makes the repository")


@dataclass
class MirrorSettings:
    """A copy of the run's folder in a store, as in S3: [remote.md](../remote.md#a-mirror-of-the-run)."""

    url: str | None = _setting(
        None,
        "as s3://BUCKET/runs/mine, which gets every checkpoint; `--resume` goes on from there where it has more",
    )


@dataclass
class TrainSettings:
    """Keys of `cfg.train`. A duration is a number of iterations, or a text such as "12 epochs".

    An iteration is one optimizer step on `dataloader.train.total_batch_size` images, whatever the number of
    processes and micro-batches.
    """

    output_dir: str = _setting("work_dirs/run", "the run's folder")
    overwrite: bool = _setting(False, "start afresh where another run's files lie; without it, that is an error")
    init_checkpoint: str | None = _setting(
        "",
        "weights to start from; what the file lacks keeps its start, nothing at all in common is an error",
    )
    allow_random_frozen: bool = _setting(
        False, "let frozen parts stay random that nothing filled with weights; without it, that is an error"
    )
    allow_other_pixel_statistics: bool = _setting(
        False,
        "let `model.pixel_mean` and `pixel_std` differ from what the backbone states; without it, that is an error",
    )
    accept_changed_data: bool = _setting(
        False,
        "let `--resume` go on although annotation files have changed since the run began; without it, that is an error",
    )
    max_iter: int | str = _setting("12 epochs", "length, a duration")
    # numpy takes no larger ones, and every process adds its number.
    seed: int = _setting(
        0,
        "of weights, order, augmentation, dropout; -1 draws one, which the log and `run.json` tell",
        "a whole number up to 4000000000",
        lambda value: value <= 4_000_000_000,
    )
    device: str = _setting("auto", "CUDA where there is a device, else CPU; or cpu, cuda, cuda:1")
    cudnn_benchmark: bool = _setting(False, "let cuDNN try kernels: faster where all images have one size")
    amp: AmpSettings = field(default_factory=AmpSettings)
    ddp: DdpSettings = field(default_factory=DdpSettings)
    accumulate: int = _setting(
        1, "micro-batches of a step, each so much smaller", "a whole number of at least 1", lambda value: value >= 1
    )
    max_batch_per_gpu: int | None = _setting(
        None, "works `accumulate` out instead, so that no forward pass sees more images"
    )
    clip_grad: ClipSettings = field(default_factory=ClipSettings)
    ema: EmaSettings = field(default_factory=EmaSettings)
    compile: CompileSettings = field(default_factory=CompileSettings)
    log_period: int = _setting(
        20,
        "iterations between lines in log, `metrics.json`, TensorBoard, and on a GPU between reads of losses; "
        "an evaluation is written at once",
        "at least 1",
        lambda value: value >= 1,
    )
    eval_period: int | str = _setting("1 epochs", "a duration; 0: at the end only")
    smoke: bool = _setting(False, "a short trial: the metrics of its one split go to `smoke_metrics.json`")
    eval_splits: list[str] = field(
        default_factory=lambda: ["val"],
        metadata={"doc": "the first is evaluated during training and chooses the best weights, all of them at the end"},
    )
    checkpointer: CheckpointerSettings = field(default_factory=CheckpointerSettings)
    best: BestSettings = field(default_factory=BestSettings)
    efficiency: EfficiencySettings = field(default_factory=EfficiencySettings)
    operating_point: OperatingPointSettings = field(default_factory=OperatingPointSettings)
    validation_loss: ValidationLossSettings = field(default_factory=ValidationLossSettings)
    validation_pictures: int = _setting(
        4, "images of the first split that are painted at each evaluation", "from 0 to 32", lambda v: 0 <= v <= 32
    )
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)
    feature_cache: FeatureCacheSettings = field(default_factory=FeatureCacheSettings)
    trackio: TrackioSettings = field(default_factory=TrackioSettings)
    wandb: WandbSettings = field(default_factory=WandbSettings)
    hub: HubSettings = field(default_factory=HubSettings)
    mirror: MirrorSettings = field(default_factory=MirrorSettings)


# What a key of a type takes, in words.
_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    int | str: 'a number of iterations or a text such as "12 epochs"',
    list[str]: "a list of names, as [val,test]",
}


@dataclass(frozen=True)
class Setting:
    """A key of `train`, for people.

    Attributes:
        key: as `train.ema.decay`; of a group of keys, the group's.
        default: None of a group.
        takes: what values it takes, in words; empty of a group.
        doc: what it means.
        is_group: whether it has keys of its own, which follow.
    """

    key: str
    default: Any
    takes: str
    doc: str
    is_group: bool = False


def describe_settings(settings: type = TrainSettings, where: str = "train") -> Iterator[Setting]:
    """All keys of `train` in their order."""
    for one in dataclasses.fields(settings):
        key, doc = f"{where}.{one.name}", one.metadata.get("doc", "")
        if dataclasses.is_dataclass(one.type):
            yield Setting(key, None, "", inspect.getdoc(one.type), is_group=True)
            yield from describe_settings(one.type, key)
            continue
        default = one.default_factory() if one.default is dataclasses.MISSING else one.default
        words, optional = _expected(one.type)
        words = one.metadata.get("range", ("", bool))[0] or words
        yield Setting(key, default, f"{words}{', or null' if optional else ''}", doc)


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
    if _lacks_any(given, defaults):
        merged = OmegaConf.merge(OmegaConf.create(defaults, flags={"allow_objects": True}), given)
        OmegaConf.update(cfg, "train", merged, merge=False, force_add=True)
    _check_values(cfg.train, OmegaConf.structured(TrainSettings), TrainSettings, "train")
    _check_together(cfg.train)


def _lacks_any(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    groups = [key for key, value in defaults.items() if isinstance(value, dict)]
    return not defaults.keys() <= given.keys() or any(_lacks_any(given[key], defaults[key]) for key in groups)


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
        if writer not in ("hub", "mirror") and train[writer].project is None:
            raise UserError(f"train.{writer}.{key}={value!r} has no effect without train.{writer}.project.")


def _texts_of_writers(train: DictConfig) -> Iterator[tuple[str, str, str]]:
    for writer in ("trackio", "wandb", "hub", "mirror"):
        for key, value in train[writer].items():
            if isinstance(value, str):
                yield writer, key, value
