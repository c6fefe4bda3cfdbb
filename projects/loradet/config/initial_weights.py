"""Initial weights of a config's training: pretrained or random."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from loradet.backbones.weights import ASSET, resolve
from loradet.config.description import is_library_detector
from loradet.errors import MissingFileError
from loradet.remote import is_url, local_copy, split_heuristics

logger = logging.getLogger(__name__)


def initial_weights(cfg: DictConfig) -> dict[str, str]:
    """{"initial_weights": "random"} where training starts from no pretrained weights at all, else nothing.

    That is: `train.init_checkpoint` names none, and what could have them in the model, by `pretrained` or `weights`,
    was not given any.
    """
    if cfg.train.init_checkpoint:
        return {}
    given = [g for node in _nodes(cfg.model) if (g := _weights_given(node)) is not None]
    return {"initial_weights": "random"} if given and not any(given) else {}


def check_initial_weights(cfg: DictConfig, *, fresh: bool = True) -> None:
    """Raise, before anything is read or built, where training could not start from what the config names.

    Args:
        fresh: False where a checkpoint of the run itself is gone on from: `train.init_checkpoint` is not read then.

    Raises:
        FileNotFoundError: `weights` of a part of the model, or `train.init_checkpoint`, is a file that is not there.
        UserError: `weights` of a detector of transformers is no folder.
    """
    checkpoint = cfg.train.init_checkpoint
    for node in _nodes(cfg.model):
        if not isinstance(file := node.get("weights"), str):
            continue
        if is_library_detector(node):
            from loradet.detectors.library.published import local_folder

            local_folder(file)  # a name on the hub is looked for when the model is built
        elif _is_path(file):
            resolve(file)
    # What may stand before "://" and behind "?" is the checkpointer's to know.
    if fresh and checkpoint and is_url(checkpoint):
        local_copy(split_heuristics(checkpoint)[0])
    elif fresh and checkpoint and "://" not in checkpoint and not Path(checkpoint.partition("?")[0]).is_file():
        raise MissingFileError(f"train.init_checkpoint={checkpoint!r}: no such file.")


def allows_random_frozen(cfg: DictConfig) -> bool:
    """`train.allow_random_frozen`, or `random_weights=True` of a part of the model, which was its name."""
    if cfg.train.allow_random_frozen:
        return True
    if old := any(node.get("random_weights") is True for node in _nodes(cfg.model)):
        logger.warning("random_weights=True in the model is read as train.allow_random_frozen=True, its name now.")
    return old


def _is_path(weights: str) -> bool:
    """Whether it is a file's name; torchvision's builders and some losses have `weights` of another kind."""
    return (
        weights.startswith(ASSET) or "/" in weights or Path(weights).suffix in (".pth", ".pt", ".safetensors", ".bin")
    )


def _weights_given(node: DictConfig) -> bool | None:
    """Whether a part of a model's config asks for pretrained weights; None where it cannot have any."""
    file = node.get("weights")
    # A list of weights is of something else.
    if "pretrained" in node or ("weights" in node and isinstance(file, str | None)):
        return bool(node.get("pretrained")) or file is not None
    return None


def _nodes(config: Any) -> Iterator[DictConfig]:
    """All dicts in a config, itself first. What is an interpolation is written, and found, elsewhere."""
    if OmegaConf.is_dict(config):
        yield config
    if OmegaConf.is_dict(config) or OmegaConf.is_list(config):
        for key in config if OmegaConf.is_dict(config) else range(len(config)):
            if not OmegaConf.is_interpolation(config, key) and not OmegaConf.is_missing(config, key):
                yield from _nodes(config[key])
