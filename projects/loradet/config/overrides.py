"""Checks command-line overrides against the config before they are applied."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from loradet.errors import UserError


def check_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise for the first override whose key the config does not have; `+key=value` adds one and passes.

    Raises:
        ValueError: not of the form key=value, or an unknown key; the nearest keys are named.
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if key.startswith("~"):
            raise UserError(f"Override {override!r}: keys cannot be deleted; {key.lstrip('~')}=null empties one.")
        if not equals or not key:
            raise UserError(f"Override {override!r}: expected key=value, for example train.max_iter=1000.")
        if key.startswith("+") or _exists(cfg, key):
            continue
        known = list(_keys(cfg))
        last = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, known, n=4, cutoff=0.6)
        near += [k for k in known if k.rsplit(".", 1)[-1] == last and k not in near][:4]
        hint = f" Nearest: {', '.join(near[:5])}." if near else ""
        raise UserError(f"Override {override!r}: the config has no key {key!r}.{hint} Write +{override} to add it.")


def _exists(cfg: DictConfig, key: str) -> bool:
    node: Any = cfg
    parts = key.replace("[", ".").replace("]", "").split(".")
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
