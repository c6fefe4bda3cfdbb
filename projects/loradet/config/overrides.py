"""Command-line overrides: checked against the config, read one by one, applied."""

import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config.another_backbone import no_model_name
from loradet.config.calls import Argument, arguments_by_key
from loradet.config.override_values import holds_path, parse_value
from loradet.config.unread import check_has_effect, is_referred_to
from loradet.errors import UserError, one_line

logger = logging.getLogger(__name__)

_ADDED_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")


def apply_overrides(cfg: DictConfig, overrides: Sequence[str], *, needs_data: bool = True) -> DictConfig:
    """Change a config in place by `key=value` words, each by itself; returns it.

    Args:
        needs_data: whether the caller reads data (see `check_has_effect`).

    Raises:
        UserError: as `check_overrides`; a value that cannot be read, or of another kind than the config's own; an
            override of `data` that would change nothing.
    """
    arguments = arguments_by_key(cfg) if overrides else {}
    typed = typed_keys(overrides)
    for override in overrides:
        check_overrides(cfg, [override])
        key, value = _value(cfg, override, arguments)
        if not override.startswith("+"):
            check_has_effect(cfg, key, value, needs_data=needs_data, typed=typed)
        _apply(cfg, override, key, value)
    for key in (_plain_key(word.partition("=")[0].lstrip("+")) for word in overrides if word.startswith("+data.")):
        # What is added may be referred to by an override behind it.
        if not is_referred_to(cfg, key):
            logger.warning("+%s: nothing in this config refers to it, so that it changes nothing.", key)
    return cfg


def override_words(overrides: Sequence[str]) -> list[str]:
    """The overrides as a list; one text alone, which would be taken letter by letter, is an error.

    Raises:
        UserError: it is a text, or an item is none.
    """
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        example = [overrides] if isinstance(overrides, str) else ["train.max_iter=1000"]
        raise UserError(f"overrides={overrides!r}: expected a list of key=value texts, for example {example}.")
    return list(overrides)


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """Keys that overrides name, with list items as `sizes.0`."""
    return {_plain_key(override.partition("=")[0].lstrip("+")) for override in overrides}


def _value(cfg: DictConfig, override: str, arguments: dict[str, list[Argument]]) -> tuple[str, Any]:
    """Key and value of an override, which is of the kind that is taken there."""
    key, _, text = override.partition("=")
    key = _plain_key(key.lstrip("+"))
    given, taken = _given(cfg, key), arguments.get(key, ())
    value = parse_value(override, key, text, given=given, hints=[one.hint for one in taken])
    if value == "???" and key.startswith("train."):
        raise UserError(f"Override {override!r}: ??? stands for a value that is missing; give one.")
    if not taken and not key.startswith("train."):  # whose settings have types
        _refuse_other_kind(key, value, given)
    return key, value


def _apply(cfg: DictConfig, override: str, key: str, value: Any) -> None:
    try:
        key = _written_at(cfg, key)
        _refuse_inside_value(cfg, key)
        OmegaConf.update(cfg, key, value, merge=True)
        if isinstance(value, str) and OmegaConf.is_interpolation(_parent(cfg, key), _last(key)):
            OmegaConf.select(cfg, key, throw_on_missing=False)
    except RecursionError as error:
        raise UserError(f"Override {override!r}: the value refers to itself.") from error
    except (OmegaConfBaseException, KeyError, IndexError, AttributeError, TypeError, AssertionError) as error:
        raise UserError(f"Override {override!r}: {one_line(error)}.") from error


def _plain_key(key: str) -> str:
    return key.replace("[", ".").replace("]", "")


def _written_at(cfg: DictConfig, key: str) -> str:
    """The key without references above its last part: below one, a key belongs to what it leads to."""
    node, path = cfg, []
    *above, last = key.split(".")
    for part in above:
        if isinstance(node, ListConfig):
            node = node._get_node(int(part)) if part.isdigit() else None
        else:
            node = node._get_node(part) if isinstance(node, DictConfig) else None
        path.append(part)
        if isinstance(node, Node) and node._is_interpolation():
            node = node._maybe_dereference_node()
            if OmegaConf.is_config(node):
                path = _plain_key(node._get_full_key(None)).split(".")
    return ".".join([*path, last])


def _last(key: str) -> str | int:
    last = key.rpartition(".")[2]
    return int(last) if last.isdigit() else last


def _parent(cfg: DictConfig, key: str) -> Any:
    above = key.rpartition(".")[0]
    return OmegaConf.select(cfg, above) if above else cfg


def _given(cfg: DictConfig, key: str) -> Any:
    """What a config has at a key; a text where it is to be given, or refers to nothing; None where it has nothing."""
    try:
        return OmegaConf.select(cfg, key, throw_on_missing=True)
    except OmegaConfBaseException:
        return ""


def _refuse_other_kind(key: str, value: Any, given: Any) -> None:
    """Raise where a value that no signature knows is of another kind than the file's own; null is always taken."""
    if value is None and given is not None and ("." not in key or holds_path(key)):
        raise UserError(f"{key}=null: expected {'a path' if holds_path(key) else 'keys with values'}.")
    if value is None or given is None:
        return
    kinds = (
        (bool, "true or false", isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))),
        (int | float, "a number", isinstance(value, int | float) and not isinstance(value, bool)),
        (DictConfig, "keys with values", isinstance(value, dict)),
        (ListConfig | list | tuple, "a list", isinstance(value, list)),
        (str, "a text", not isinstance(value, dict | list)),
    )
    for kind, words, same in kinds:
        if isinstance(given, kind):
            if not same and not _is_reference(value):
                raise UserError(f"{key}={value!r}: expected {words}, as the config has there.")
            return


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and ("${" in value or value == "???")


def _refuse_inside_value(cfg: DictConfig, key: str) -> None:
    parts = key.split(".")
    for end in range(1, len(parts)):
        above = ".".join(parts[:end])
        held = OmegaConf.select(cfg, above, throw_on_missing=False)
        if held is None:
            return
        if not OmegaConf.is_config(held):
            raise KeyError(f"{above} is {held!r}, which has no keys")
        if OmegaConf.is_list(held) and not parts[end].isdigit():
            raise KeyError(f"{above} is a list: its items are 0 to {len(held) - 1}, and {parts[end]} is none")


def check_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise for the first override whose key the config does not have; `+key=value` adds one and passes.

    Raises:
        UserError: not of the form key=value, or an unknown key; the nearest keys are named.
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if key.startswith("~"):
            raise UserError(f"Override {override!r}: keys cannot be deleted; {key.lstrip('~')}=null empties one.")
        if not equals or not key.strip("+"):
            raise UserError(f"Override {override!r}: expected key=value, for example train.max_iter=1000.")
        if key.startswith("+"):
            if not _ADDED_KEY.fullmatch(key.lstrip("+")) and not _exists(cfg, key.lstrip("+")):
                raise UserError(f"Override {override!r}: {key.lstrip('+')!r} is no key; expected names joined by dots.")
            continue
        if _exists(cfg, key):
            continue
        known = list(_keys(cfg))
        last = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, known, n=4, cutoff=0.6)
        near += [k for k in known if k.rsplit(".", 1)[-1] == last and k not in near][:4]
        hint = f" Nearest: {', '.join(near[:5])}." if near else ""
        if last == "model_name" and (instead := no_model_name(cfg)):
            raise UserError(f"Override {override!r}: the config has no key {key!r}. {instead}")
        raise UserError(f"Override {override!r}: the config has no key {key!r}.{hint}{_instead(cfg, override, key)}")


def _instead(cfg: DictConfig, override: str, key: str) -> str:
    """What to type for a key that is not there, where that is known."""
    if key.startswith("train."):  # whose settings are fixed
        return ""
    if key == "data.root" and "data_yaml" in (cfg.get("data") or {}):
        return " These are YOLO data: data.data_yaml=PATH, the description or its folder."
    return f" Write +{override} to add it."


def _exists(cfg: DictConfig, key: str) -> bool:
    node: Any = cfg
    parts = _plain_key(key).split(".")
    for depth, part in enumerate(parts, start=1):
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                return False
            part = int(part)
        elif not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118 (`in` skips missing values)
            return False
        if depth == len(parts):
            break  # its own value may hang on one that another override gives
        if OmegaConf.is_missing(node, part):
            node = None
        elif OmegaConf.is_interpolation(node, part):
            # A key below an interpolation belongs to the node that it points to.
            node = OmegaConf.select(cfg, node._get_node(part)._get_full_key(None), throw_on_missing=False)
        else:
            node = node[part]
    return True


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    names = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        path = f"{prefix}.{name}" if prefix else str(name)
        yield path
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        if isinstance(node[name], DictConfig | ListConfig):
            yield from _keys(node[name], path)
