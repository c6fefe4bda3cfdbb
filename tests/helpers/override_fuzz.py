"""Seeded overrides, valid and broken, and what becomes of each."""

import random
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

# What is typed, and the value that it must have where it is taken (... where that depends on the key).
_VALUES: list[tuple[str, Any]] = [
    *(("3", 3), ("0", 0), ("-1", -1), ("64", 64), ("1.5", 1.5), ("64.5", 64.5), ("1e-3", 1e-3), ("-0.5", -0.5)),
    *(("true", True), ("false", False), ("null", None), ("nan", ...), ("inf", float("inf")), ("", "")),
    *(("abc", "abc"), ("'3'", "3"), ('"a b"', "a b"), ("5%", "5%"), ("3 epochs", "3 epochs"), ("a b", "a b")),
    *(("[]", []), ("[1,2]", [1, 2]), ("[1.5]", [1.5]), ("[a,b]", ["a", "b"]), ("[[1],[2]]", [[1], [2]])),
    *(("[1,a]", [1, "a"]), ("[null]", [None]), ('["a(b)",c]', ["a(b)", "c"]), ("{a:1}", ...), ("{}", ...)),
    *(("~/x", "~/x"), ("/a b/(c)=d,e", "/a b/(c)=d,e"), ("straße", "straße"), ("日本", "日本"), ("a#b&c", "a#b&c")),
    *(("1,2", ...), ("choice(1,2)", ...), ("range(1,3)", ...), ("int(3)", ...), ("[a (b),c]", ...)),
    *(("[1,2", ...), ("1]", ...), ("{a", ...), ("'a", ...), ('a"b', ...), ("a=b", ...), ("(", ...), ("\\", ...)),
    *(("${train.seed}", ...), ("${nothing}", ...), ("${a", ...), ("${.}", ...), ("${oc.env:LORADET_NO}", ...)),
    *(("???", ...), ("torch.nn.Linear", "torch.nn.Linear"), ("no.such.Thing", "no.such.Thing"), ("x\ny", ...)),
]
_BREAKS = ("{}x", "+{}", "+{}.new", "~{}", "{}.", ".{}", "{}..a", "{}[0]", "{}[", "++{}", " {}", "{}@a", "a/{}", "-{}")


def overrides(cfg: DictConfig, count: int, seed: int) -> Iterator[tuple[str, str, Any]]:
    """(override, key, value) with keys of a config, one of five broken; `...` for a value that is not foretold."""
    draw = random.Random(seed)
    keys = sorted(_keys(cfg, ""))
    for _ in range(count):
        key = draw.choice(keys)
        text, value = draw.choice(_VALUES)
        if draw.random() < 0.2:
            yield draw.choice(_BREAKS).format(key) + draw.choice(["=", "=", "=", ""]) + text, key, ...
        else:
            yield f"{key}={text}", key, value


def _keys(node: Any, path: str) -> Iterator[str]:
    for name in node if OmegaConf.is_dict(node) else range(len(node)):
        key = f"{path}.{name}" if path else str(name)
        yield key
        is_here = not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name)
        if is_here and OmegaConf.is_config(node[name]):
            yield from _keys(node[name], key)
