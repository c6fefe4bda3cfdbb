"""Overrides without effect: in a saved config all is a value, and nothing refers to `data` any more."""

import logging
import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config.override_values import holds_path
from loradet.errors import UserError
from loradet.wording import shorten

logger = logging.getLogger(__name__)

_REFERRED = re.compile(r"\$\{(?:[\w.]+:)?(\.*)([A-Za-z_][\w.]*)")


def check_has_effect(
    cfg: DictConfig, key: str, value: Any, *, needs_data: bool = True, typed: Collection[str] = ()
) -> None:
    """Refuse an override of `data.…` that nothing refers to; warn of one of `train.…` that others have as a value.

    Args:
        cfg: before the override.
        key, value: of the override.
        needs_data: whether the caller reads data. Who does not takes places of them, and looks himself for class names
            where the weights do not say them.
        typed: keys of all overrides.

    Raises:
        UserError: names the keys that hold the value of now, which may be what is meant.
    """
    table = key.partition(".")[0]
    if table not in ("data", "train") or key == table:
        return
    before = _select(cfg, key)
    # A preset is put into the config once it is loaded.
    is_no_matter = key in ("data.name", "data.augment") or (
        not needs_data and (holds_path(key) or key.startswith("data.classes"))
    )
    if before == value or is_no_matter or is_referred_to(cfg, key):
        return
    if table == "train":
        last = key.rpartition(".")[2]
        # Keys of `train` itself are what they are, as `enabled` of amp and of ema.
        others = [(one, held) for one, held in _values(cfg) if not one.startswith("train.")]
        same = [one for one, held in others if one.rpartition(".")[2] == last and held == before]
        if stay := [one for one in same if one not in typed]:
            logger.warning("%s=%s leaves %s at %s: say it there too.", key, value, " and ".join(stay), before)
        return
    holders = [one for one, held in _values(cfg) if one.partition(".")[0] != table and _holds(held, before)]
    hint = f" What has its value now: {shorten(holders, 6)}." if holders else ""
    raise UserError(
        f"Override {key}={value}: nothing in this config refers to {key}, so that it would change nothing. In a run's "
        f"config.yaml all is worked out: override what is meant itself, or take the .py file that it came from.{hint}"
    )


def is_referred_to(cfg: DictConfig, key: str) -> bool:
    """Whether an interpolation of the config leads to a key, to what holds it, or into it."""
    return any(_reaches(target, key) for target in references(cfg))


def references(cfg: DictConfig) -> set[str]:
    """What interpolations of a config refer to; of relative ones the last name, behind a dot."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    texts = [text for _, text in _leaves(plain, "") if isinstance(text, str) and "${" in text]
    found = {(bool(dots), name) for text in texts for dots, name in _REFERRED.findall(text)}
    return {f".{name.rpartition('.')[2]}" if relative else name for relative, name in found}


def _reaches(target: str, key: str) -> bool:
    if target.startswith("."):
        return key.endswith(target)
    return target == key or key.startswith(f"{target}.") or target.startswith(f"{key}.")


def _values(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Keys with plain values; lists are values too."""
    for key, value in _leaves(OmegaConf.to_container(cfg, resolve=False), ""):
        if not (isinstance(value, str) and "${" in value):
            yield key, value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path and not isinstance(value, dict):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _leaves(item, f"{path}.{name}" if path else str(name))


def _holds(held: Any, before: Any) -> bool:
    """Whether a value is the same as another, or a path below it."""
    if isinstance(held, str) and isinstance(before, str) and before:
        return held == before or held.startswith(f"{before.rstrip('/')}/")
    return before is not None and type(held) is type(before) and held == before


def _select(cfg: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return None
    return OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
