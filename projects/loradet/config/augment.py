"""`data.augment`: a preset of `configs/common/augment.py` in the place of the training mapper's augmentations."""

import copy
import logging
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from loradet.config.library import get_config
from loradet.errors import UserError

logger = logging.getLogger(__name__)

KEY = "data.augment"
LIST = "dataloader.train.mapper.augmentations"
FILE = "common/augment.py"


def presets() -> dict[str, ListConfig]:
    """Lists of augmentations by name, as the file has them."""
    return {name: value for name, value in get_config(FILE).items() if OmegaConf.is_list(value)}


def add_key(cfg: DictConfig) -> None:
    """Give a config's `data` the key, in place: those of users, and of older runs, do not have it."""
    data = cfg.get("data")
    if OmegaConf.is_dict(data) and "augment" not in data:
        with open_dict(data):
            data.augment = None


def choose_augmentations(cfg: DictConfig, *, asked: bool, from_run: bool = False) -> None:
    """Put the preset that `data.augment` names in the place of the training mapper's augmentations; null leaves them.

    Args:
        cfg: changed in place.
        asked: whether an override names the preset. Then it replaces whatever list there is, with a warning where that
            is the config's own. Else it replaces the one of the data configs (`basic`).
        from_run: the config was saved by a run, whose list stands.

    Raises:
        UserError: there is no such preset, nothing to put it into, or a file has both a preset and a list of its own.
    """
    name = OmegaConf.select(cfg, KEY, throw_on_missing=False)
    if name is None:
        return
    known = presets()
    if name not in known:
        raise UserError(f"{KEY}={name}: there is no such preset; expected one of {', '.join(known)}, or null.")
    given = _list(cfg)
    if given is None:
        raise UserError(f"{KEY}={name}: this config has no list {LIST} to put it into.")
    if absent := [key for key in ("image_size", "max_size") if key not in cfg.data]:
        raise UserError(
            f"{KEY}={name} is in pixels of data.{' and data.'.join(absent)}, which the config does not have."
        )
    if _same(cfg, given, known[name]):
        return
    is_own = not _same(cfg, given, known["basic"])
    if is_own and not asked:
        _keep_list(name, from_run)
        return
    if is_own and not any(_same(cfg, given, one) for one in known.values()):
        logger.warning("%s=%s takes the place of the config's own list: %s.", KEY, name, ", ".join(_names(given)))
    OmegaConf.update(cfg, LIST, copy.deepcopy(known[name]), merge=False)
    _warn_of_other_resize(cfg, name)


def forget_edited(cfg: DictConfig, typed: set[str]) -> None:
    """Set `data.augment` to null where overrides have changed its list: a file with the name would lose the change."""
    if OmegaConf.select(cfg, KEY) is not None and any(key == LIST or key.startswith(f"{LIST}.") for key in typed):
        cfg.data.augment = None


def _keep_list(name: str, from_run: bool) -> None:
    if not from_run:
        raise UserError(
            f"{KEY}={name}, and {LIST} is a list of the config's own: one of the two has to go. In a file write "
            f'{LIST} = get_config("{FILE}", "{name}") and change that list; or set {KEY} to null.'
        )
    logger.warning("%s=%s has been another list when this run began, which stands.", KEY, name)


def _list(cfg: DictConfig) -> ListConfig | None:
    try:
        found = OmegaConf.select(cfg, LIST)
    except OmegaConfBaseException:
        return None
    return found if OmegaConf.is_list(found) else None


def _same(cfg: DictConfig, given: ListConfig, preset: ListConfig) -> bool:
    try:
        return _plain(cfg, given) == _plain(cfg, preset)
    except (OmegaConfBaseException, ImportError):  # a value that is missing, a reference to nothing, a foreign class
        return False


def _plain(cfg: DictConfig, calls: ListConfig) -> Any:
    """The calls with all references worked out, and what they call as objects, not names."""
    calls = copy.deepcopy(calls)
    calls._set_parent(cfg)
    return _located(OmegaConf.to_container(calls, resolve=True))


def _located(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _target(item) if key == "_target_" else _located(item) for key, item in value.items()}
    return [_located(item) for item in value] if isinstance(value, list | tuple) else value


def _target(target: Any) -> Any:
    return locate(target) if isinstance(target, str) else target


def _names(calls: ListConfig) -> list[str]:
    targets = [one.get("_target_") if OmegaConf.is_dict(one) else type(one) for one in calls]
    return [one.rpartition(".")[2] if isinstance(one, str) else getattr(one, "__name__", str(one)) for one in targets]


def _warn_of_other_resize(cfg: DictConfig, name: str) -> None:
    """The presets keep the shape of images: an evaluation that does not sees other shapes than training."""
    for split, loader in (cfg.get("dataloader") or {}).items():
        mapper = loader.get("mapper") if OmegaConf.is_dict(loader) and split != "train" else None
        calls = mapper.get("augmentations") if OmegaConf.is_dict(mapper) else None
        if calls and "Resize" in _names(calls):
            logger.warning(
                "%s=%s keeps the aspect ratio of training images, and dataloader.%s resizes to one shape: they differ "
                "where images are not of that shape.",
                *(KEY, name, split),
            )
            return
