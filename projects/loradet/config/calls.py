"""Checks the arguments of every call in a config against its signature."""

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config.hints import UNKNOWN, describe_hint, fits, item_hint
from loradet.config.signatures import Signature, signature_of
from loradet.errors import UserError

_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?(\.*)([A-Za-z_][\w.]*)(?:,[^{}]*)?\}")

# Arguments that Detectron2 takes as they are, beyond which nothing is found or an image has no pixels, without a word.
_RANGES = {
    "max_detections_per_image": ("at least 1", 1, math.inf),
    "max_size": ("at least 1 pixel", 1, math.inf),
    "short_edge_length": ("pixels, 0 for images as they are", 0, math.inf),
    "test_nms_thresh": ("a number from 0 to 1", 0.0, 1.0),
    "test_score_thresh": ("a number from 0 to 1", 0.0, 1.0),
    "test_topk_candidates": ("at least 1", 1, math.inf),
}


@dataclass(frozen=True)
class Argument:
    """One value that something is called with.

    Attributes:
        key: where the value is written: where the argument is, or what it refers to.
        value: lists and dicts without calls as Python has them; UNKNOWN for what is built or given later.
        hint: type hint of what is taken.
        owner: of the argument, in words: "num_classes of RetinaNet".
        way: keys that refer to `key`, from the argument's own one on.
    """

    key: str
    value: Any
    hint: Any
    owner: str
    way: tuple[str, ...] = ()


def check_calls(cfg: DictConfig, typed: Collection[str] = ()) -> None:
    """Compare all that a config's calls are given with the signatures of what they call; nothing is built.

    Args:
        cfg: with its overrides applied.
        typed: keys of the overrides. A file leaves open by None what is to be given later (a study gives it); an
            override that gives None is another matter.

    Raises:
        UserError: a `_target_` that is not there, an argument that it does not take (the nearest ones are named), or
            a value of another type than it takes.
    """
    for path, node in calls_of(cfg):
        signature = _signature(path, node)
        if signature is None:
            continue
        _refuse_unknown(path, node, signature)
        for argument in _arguments(path, node, signature):
            if argument.value is not None or argument.key in typed:
                check_value_type(argument)
                _refuse_out_of_range(argument)


def check_value_type(argument: Argument) -> None:
    """Raise where a value is of another type than is taken."""
    if fits(argument.value, argument.hint):
        return
    value = argument.value
    shown = "null" if value is None else repr(value)
    meant = _unquoted(value) if isinstance(value, str) else UNKNOWN
    hint = f"; write {argument.key}={value}" if meant is not UNKNOWN and fits(meant, argument.hint) else ""
    raise UserError(f"{argument.key}={shown}: expected {describe_hint(argument.hint)} ({argument.owner}){hint}.")


def _refuse_out_of_range(argument: Argument) -> None:
    words, low, high = _RANGES.get(argument.owner.partition(" ")[0], ("", 0, 0))
    values = argument.value if isinstance(argument.value, list | tuple) else [argument.value]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if words and any(not low <= number <= high for number in numbers):
        raise UserError(f"{argument.key}={argument.value!r}: expected {words} ({argument.owner}).")


def _unquoted(text: str) -> Any:
    """The number or truth value that a text would be without its quotes."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(text.lower(), UNKNOWN)


def arguments_by_key(cfg: DictConfig) -> dict[str, list[Argument]]:
    """All arguments of a config's calls, by where their values are written. What cannot be found out is left out."""
    found: dict[str, list[Argument]] = {}
    for path, node in calls_of(cfg):
        try:
            signature = _signature(path, node)
        except UserError:
            continue
        for argument in _arguments(path, node, signature) if signature else ():
            # A value in place of a reference is given to the same argument.
            for key in {argument.key, *argument.way}:
                found.setdefault(key, []).append(argument)
    return found


def calls_of(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Path and config of every call, the outer ones first. What is an interpolation is found where it leads."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        names = list(node)
    elif isinstance(node, ListConfig):
        names = range(len(node))
    else:
        return
    for name in names:
        if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            yield from calls_of(node[name], _join(path, name))


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _signature(path: str, node: DictConfig) -> Signature | None:
    if OmegaConf.is_missing(node, "_target_") or OmegaConf.is_interpolation(node, "_target_"):
        return None
    target = node._target_
    if OmegaConf.is_dict(target):
        return None  # of a call that gives a callable
    if isinstance(target, str):
        target = _locate(target, f"{path}._target_")
    if not callable(target):
        raise UserError(f"{path}._target_={target!r}: expected something to call, as a class or its dotted path.")
    return _cached_signature(target)


def _locate(name: str, key: str) -> Any:
    try:
        return locate(name)
    except Exception as error:  # whatever the module does that is imported
        why = _absent_in_subset(error)
        if why:
            raise UserError(f"{key}={name!r}: {why}") from error
        raise UserError(f"{key}={name!r}: there is no such class or function, or importing it fails.") from error


def _absent_in_subset(error: BaseException | None) -> str | None:
    """What the embedded Detectron2 says of a name that only an installed one has."""
    while error is not None:
        if "detectron2_embedded" in str(error):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _cached_signature(target: Callable) -> Signature | None:
    try:
        return signature_of(target)
    except TypeError:  # an object without a hash
        return signature_of.__wrapped__(target)


def _refuse_unknown(path: str, node: DictConfig, signature: Signature) -> None:
    if signature.is_open:
        return
    for name in node:
        if name == "_target_" or name in signature.hints:
            continue
        near = difflib.get_close_matches(str(name), signature.hints, n=3, cutoff=0.5) or sorted(signature.hints)
        raise UserError(
            f"{_join(path, name)}: unexpected keyword argument {name!r} of {signature.name}; "
            f"{'nearest' if len(near) <= 3 else 'it takes'}: {', '.join(near) or 'none'}."
        )


def _arguments(path: str, node: DictConfig, signature: Signature) -> Iterator[Argument]:
    for name in node:
        if name == "_target_" or (hint := signature.hints.get(name, Any)) is Any:
            continue
        owner = f"{name} of {signature.name}"
        items = None if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name) else node[name]
        if isinstance(items, ListConfig) and (inner := item_hint(hint)) is not Any:
            for index in range(len(items)):
                if way := _way(items, index):
                    yield Argument(way[-1], _plain(items, index), inner, owner)
        *way, key = _join(path, name), *_way(node, name)
        if not key.startswith("train."):  # has settings of its own, which training makes numbers of
            yield Argument(key, _plain(node, name), hint, owner, tuple(way))


def source_of(node: DictConfig, name: str, path: str = "") -> str:
    """The key that the value of an argument is written at: its own, or the one that it refers to in the end.

    Args:
        node: a call of a config.
        name: of the argument.
        path: of the call.
    """
    return [_join(path, name), *_way(node, name)][-1]


def _way(node: DictConfig | ListConfig, name: Any) -> list[str]:
    """Keys from reference to reference, where a value is nothing else (`${data.image_size}`); the last one has it."""
    keys = []
    while node is not None and (found := _reference(node, name)) is not None:
        keys.append(found)
        *parents, name = found.split(".")
        node = _descend(node._get_root(), parents)
    return keys


def _reference(node: DictConfig | ListConfig, name: Any) -> str | None:
    text = held._value() if (held := _held(node, name)) is not None else None
    match = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    dots, key = match.groups()
    for _ in dots[1:]:
        node = node._get_parent() if node is not None else None
    start = "" if not dots or node is None else node._get_full_key(None).replace("[", ".").replace("]", "")
    return _join(start, key)


def _descend(node: Any, names: list[str]) -> Any:
    for name in names:
        node = _held(node, name)
    return node


def _held(node: Any, name: Any) -> Any:
    """The node below a dict or list as it is, references unresolved; None where there is none."""
    if isinstance(node, ListConfig):
        whole = str(name).isdigit() and not node._is_none() and not node._is_interpolation()
        return node._get_node(int(name)) if whole and int(name) < len(node) else None
    return node._get_node(name) if isinstance(node, DictConfig) else None


def _plain(node: DictConfig | ListConfig, name: Any) -> Any:
    if OmegaConf.is_missing(node, name):
        return UNKNOWN
    try:
        value = node[name]
    except (OmegaConfBaseException, RecursionError):
        return UNKNOWN  # what it refers to is given later
    if isinstance(value, ListConfig):
        return [_plain(value, index) for index in range(len(value))]
    if isinstance(value, DictConfig):
        if "_target_" in value or value._metadata.object_type not in (dict, None):
            return UNKNOWN
        return {key: _plain(value, key) for key in value}
    return value
