"""The one place where a config becomes a model, with the weights that it starts from or those that were trained."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError
from torch import nn

from loradet.adapters import AdapterError, load_adapter, merged_state_dict
from loradet.adapters.layer import adapter_layers
from loradet.adapters.matching import UnmatchedNameError
from loradet.backbones.weights import ForeignWeightsError, read_state_dict, resolve
from loradet.checkpoint import Checkpointer, check_is_there
from loradet.class_rows import published_rows_by_name
from loradet.config.another_backbone import another_backbone, key_of_name
from loradet.config.build import build
from loradet.config.calls import source_of
from loradet.config.edits import with_num_classes, without_lora, without_weights
from loradet.config.signatures import is_of_detectron2
from loradet.detectors.strides import check_strides
from loradet.errors import MissingFileError, UserError, one_line
from loradet.remote import UnreachableError, is_url, local_copy, split_heuristics
from loradet.weight_classes import WeightClasses, read_weight_classes

logger = logging.getLogger(__name__)

_HINT = (
    "Where the data set is not on this machine, say what the model finds: data.classes=[ship,tank], or "
    "data.num_classes=2 (in a config whose model does not refer to it, model.num_classes=2, or "
    "model.roi_heads.num_classes=2 of a two-stage detector)."
)


def build_model(model_cfg: DictConfig) -> nn.Module:
    """Instantiate a config's model; where the data set is missing, the error says how to do without it.

    Args:
        model_cfg: `cfg.model`, or a copy of it with other parts (see `loradet.config.edits`).

    Raises:
        FileNotFoundError: the annotation file that tells the number of classes is not there.
        UserError: the config does not say where it is, a part of the model does not take what it is given, or strides
            of anchors and poolers are not those of the backbone's maps.
    """
    try:
        model = build(model_cfg, "The model")
    except FileNotFoundError as error:
        raise MissingFileError(f"{error} {_HINT}") from error
    except (InterpolationKeyError, InterpolationToMissingValueError) as error:
        raise UserError(f"{one_line(error)} {_HINT}") from error
    except UnmatchedNameError as error:
        key = key_of_name(model_cfg, error)
        raise UserError(f"{error} The name is of {key}." if key else str(error)) from error
    except ForeignWeightsError as error:
        raise UserError(f"{error} {another_backbone(model_cfg, error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"The model cannot be built: the config's `model` makes a {type(model).__name__}, no module.")
    check_strides(model)
    return model


def initial_model(
    cfg: DictConfig,
    *,
    device: str | torch.device = "cpu",
    metadata: Any = None,
    initialize: bool = True,
) -> nn.Module:
    """A config's model as its training starts: pretrained weights, and `train.init_checkpoint` where there is one.

    Args:
        cfg: with `model` and `train.init_checkpoint`.
        device: to put it on.
        metadata: Detectron2's, of the data to train on; None compares nothing.
        initialize: whether to load `train.init_checkpoint`.

    Raises:
        UserError: as `build_model`, `check_classes` and `Checkpointer.load_weights`.
    """
    model = _build_for(cfg.model, metadata).to(device)
    if metadata is not None and (names := metadata.get("thing_classes")):
        published_rows_by_name(model, names)
    if initialize and cfg.train.get("init_checkpoint"):
        classes = WeightClasses.of(metadata)
        Checkpointer(model, classes=classes).load_weights(cfg.train.init_checkpoint, strict=False)
    return model


def build_adapter_base(cfg: DictConfig, file: str | Path) -> nn.Module:
    """A config's model with the base weights that an adapter was trained on, on the CPU; the adapter is not loaded.

    Neither the data set is needed (the file knows its classes), nor `train.init_checkpoint` where all that came from
    there is in the file: loading that compares the base.

    Args:
        cfg: of the training.
        file: adapter, or checkpoint of the training.

    Raises:
        UserError: as `initial_model`.
    """
    classes = read_weight_classes(file)
    model = build_model(cfg.model if classes is None else with_num_classes(cfg.model, len(classes.names)))
    if classes is not None:
        published_rows_by_name(model, classes.names)
    if missing := _missing_start(cfg):
        logger.info("train.init_checkpoint=%r is not here: %s must hold all that came from it.", missing, file)
    elif init := cfg.train.get("init_checkpoint"):
        Checkpointer(model, classes=classes).load_weights(init, strict=False)
    return model


@contextlib.contextmanager
def explain_missing_base(cfg: DictConfig) -> Iterator[None]:
    """Let an adapter that does not fit the base also say that `train.init_checkpoint` was not there."""
    try:
        yield
    except AdapterError as error:
        if not (missing := _missing_start(cfg)):
            raise
        raise UserError(f"{error}\nThe base lacks train.init_checkpoint={missing!r}: there is no such file.") from error


def _missing_start(cfg: DictConfig) -> str:
    init = str(cfg.train.get("init_checkpoint") or "")
    if is_url(init):
        try:
            local_copy(split_heuristics(init)[0])
        except (MissingFileError, UnreachableError) as error:
            logger.info("%s", error)
            return init
        return ""
    is_missing = init and "://" not in init and not Path(init.partition("?")[0]).is_file()
    return init if is_missing else ""


def load_detector(
    cfg: DictConfig,
    checkpoint: str | Path,
    *,
    device: str | torch.device = "cpu",
    metadata: Any = None,
    merge: bool = False,
) -> nn.Module:
    """A config's detector with trained weights, in eval mode: `load_trained` without what else the checkpoint holds."""
    return load_trained(cfg, checkpoint, device=device, metadata=metadata, merge=merge)[0]


def load_trained(
    cfg: DictConfig,
    checkpoint: str | Path,
    *,
    device: str | torch.device = "cpu",
    metadata: Any = None,
    merge: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a config's detector with trained weights, in eval mode.

    Args:
        cfg: with `model`, and `train.init_checkpoint` where an adapter's base comes from there.
        checkpoint: a run's `.pth`, an adapter's `.safetensors`, or a merged `.pth` without LoRA tensors, for which
            the config's `lora` is left out; a URL (`loradet.remote`), and the URIs that Detectron2 knows.
        device: to put it on.
        metadata: Detectron2's, of the data to run on; None compares nothing.
        merge: return a plain model without LoRA layers, whose weights include the deltas. Mona and AdaptFormer, which
            cannot be merged, stay.

    Returns:
        The model, and what the checkpoint holds besides weights ("iteration" …); {} of an adapter.

    Raises:
        FileNotFoundError: there is no such checkpoint, or the annotation file that tells the number of classes.
        UserError: it is broken, or of another model, or the model is of other classes than the data.
    """
    checkpoint = str(checkpoint)
    model_cfg = cfg.model
    if is_url(checkpoint):
        checkpoint = str(local_copy(checkpoint))
    check_is_there(checkpoint)
    classes = read_weight_classes(checkpoint)
    _check_names(classes, metadata, checkpoint)
    if checkpoint.endswith(".safetensors"):
        model, more = build_adapter_base(cfg, checkpoint), {}
        if metadata is not None:
            check_classes(model, metadata)
        with explain_missing_base(cfg):
            load_adapter(model, checkpoint)
    else:
        if not _has_lora(checkpoint):
            model_cfg = without_lora(model_cfg)
        if classes is not None:
            model_cfg = with_num_classes(model_cfg, len(classes.names))
        model = _build_for(model_cfg, metadata)
        more = Checkpointer(model, classes=classes).load_weights(checkpoint, strict=True)
    if merge and any(not layer.unmergeable for _, layer in adapter_layers(model)):
        plain = build_model(without_weights(without_lora(model_cfg)))
        plain.load_state_dict(merged_state_dict(model, partly=True))
        model = plain
    return model.to(device).eval(), more


def _check_names(classes: WeightClasses | None, metadata: Any, checkpoint: str) -> None:
    names = None if metadata is None else metadata.get("thing_classes")
    if classes is not None and names and tuple(names) != classes.names:
        raise UserError(
            f"{checkpoint} is of the classes {', '.join(classes.names)}, in this order; the data have been read as "
            f"{', '.join(names)}. Read them by data.classes=[{','.join(classes.names)}]."
        )


def _has_lora(checkpoint: str) -> bool:
    try:
        names = read_state_dict(resolve(checkpoint))
    except UserError:
        return True  # loading it says what is wrong, if anything is
    return any("lora_" in name.rpartition(".")[2] for name in names)


def _build_for(model_cfg: DictConfig, metadata: Any) -> nn.Module:
    if metadata is None:
        return build_model(model_cfg)
    # Already here, as far as the config tells: before memory is taken for a wrong number of them.
    key, (top, detector) = None, _detector(model_cfg)
    for path, node in ((top, detector), (f"{top}.roi_heads", detector.get("roi_heads"))):
        if _counts_classes(node):
            key = source_of(node, "num_classes", path)
            if isinstance(node.num_classes, int):
                _check_num_classes(key, node.num_classes, metadata)
    model = build_model(model_cfg)
    check_classes(model, metadata, key)
    return model


def _detector(model_cfg: DictConfig) -> tuple[str, DictConfig]:
    """Path and config of the detector, which `freeze` and `lora` may be around."""
    path, node = "model", model_cfg
    while OmegaConf.is_dict(node.get("module")) and "_target_" in node.module:
        path, node = f"{path}.module", node.module
    return path, node


def _counts_classes(node: Any) -> bool:
    """Whether a part of a config gives the number of classes, in the sense that Detectron2 and loradet have of it."""
    if not OmegaConf.is_dict(node) or "_target_" not in node or OmegaConf.is_missing(node, "num_classes"):
        return False
    target = node._target_
    target = locate(target) if isinstance(target, str) else target
    own = is_of_detectron2(target) or getattr(target, "__module__", "").startswith("loradet.")
    return "num_classes" in node and own


def check_classes(model: nn.Module, metadata: Any, key: str | None = None) -> None:
    """Compare a model's classes with the data's: their number, and a mapping of `categories` if it has one.

    Args:
        key: where the config has their number.

    Raises:
        UserError: they differ.
    """
    # R-CNNs have it in their heads.
    owner, own_key = model, "model.num_classes"
    if (heads := getattr(model, "roi_heads", None)) is not None:
        owner, own_key = heads, "model.roi_heads.num_classes"
    if (count := getattr(owner, "num_classes", None)) is not None:
        _check_num_classes(key or own_key, count, metadata)
    places = metadata.get("thing_dataset_id_to_contiguous_id")
    if places and (check := getattr(getattr(model, "categories", None), "check", None)):
        check(sorted(places, key=places.get), metadata.get("thing_classes"))


def _check_num_classes(key: str, count: int, metadata: Any) -> None:
    classes = metadata.get("thing_classes")
    if classes is not None and count != len(classes):
        where = metadata.get("json_file") or metadata.get("name")
        raise UserError(
            f"{key}={count}, but {where} has {len(classes)} categories: {', '.join(classes)}. "
            f"Set {key}={len(classes)}, or choose classes by data.classes."
        )


def model_classes(model: nn.Module) -> int | None:
    """`num_classes` of a detector, or of its `roi_heads`; None where it does not say."""
    counts = (getattr(owner, "num_classes", None) for owner in (model, getattr(model, "roi_heads", None)))
    return next((count for count in counts if isinstance(count, int)), None)


def number_of_classes(model: nn.Module) -> int:
    """`model_classes`; UserError where it does not say."""
    if (count := model_classes(model)) is None:
        raise UserError(f"{type(model).__name__} does not say its num_classes.")
    return count
