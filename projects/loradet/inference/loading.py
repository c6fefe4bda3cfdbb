"""From a config and a file of weights to a detector."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import instantiate
from omegaconf import DictConfig
from omegaconf.errors import InterpolationToMissingValueError
from torch import nn

from loradet.adapters import merged_state_dict
from loradet.adapters.layer import adapter_layers
from loradet.backbones.weights import read_state_dict
from loradet.training.command import one_line
from loradet.training.finish import load_for_evaluation

from .config_edits import without_lora, without_weights

_HINT = (
    "Where the data set is not on this machine, say what the model finds: data.classes=[ship,tank], or "
    "model.num_classes=2 (of a two-stage detector model.roi_heads.num_classes=2)."
)


def load_detector(cfg: DictConfig, checkpoint: str | Path, *, merge: bool = False) -> nn.Module:
    """Build a config's detector with trained weights, on the CPU and in eval mode.

    Args:
        cfg: with `model`, and `train.init_checkpoint` where an adapter's base comes from there.
        checkpoint: a run's `.pth`, an adapter's `.safetensors`, or a merged `.pth` without LoRA tensors, for which
            the config's `lora` is left out.
        merge: return a plain model without LoRA layers, whose weights include the deltas.

    Raises:
        FileNotFoundError: there is no such checkpoint, or the annotation file that tells the number of classes.
        ValueError: it is of another model.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"Checkpoint {path} does not exist.")
    model_cfg = cfg.model
    if path.suffix != ".safetensors" and not any("lora_" in name.rpartition(".")[2] for name in read_state_dict(path)):
        model_cfg = without_lora(model_cfg)
    model = build_model(model_cfg)
    with _errors_alone("fvcore.common.checkpoint"):  # an adapter's base need not be whole
        load_for_evaluation(model, str(path), cfg.train.get("init_checkpoint") or "")
    if merge and any(True for _ in adapter_layers(model)):
        plain = build_model(without_weights(without_lora(model_cfg)))
        plain.load_state_dict(merged_state_dict(model))
        model = plain
    return model.eval()


def evaluation_mapper(cfg: DictConfig) -> DictConfig:
    """The mapper of `dataloader.val`, else of `dataloader.test`.

    Raises:
        ValueError: the config has neither.
    """
    for split in ("val", "test"):
        loader = (cfg.get("dataloader") or {}).get(split)
        if loader is not None and loader.get("mapper") is not None:
            return loader.mapper
    raise ValueError("The config has neither dataloader.val.mapper nor dataloader.test.mapper to read images by.")


def build_model(model_cfg: DictConfig) -> nn.Module:
    """Instantiate a config's model; where the data set is missing, the error says how to do without it.

    Raises:
        FileNotFoundError: the annotation file that tells the number of classes is not there.
        ValueError: the config does not say where it is.
    """
    try:
        return instantiate(model_cfg)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {_HINT}") from error
    except InterpolationToMissingValueError as error:
        raise ValueError(f"{one_line(error)} {_HINT}") from error


@contextlib.contextmanager
def _errors_alone(name: str) -> Iterator[None]:
    """Keep a logger's warnings back: what does not fit is an exception here."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
