"""Lazy configs against values recorded from Detectron2."""

import builtins
import datetime
import fractions
import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def golden(golden_d2: Path) -> dict[str, Any]:
    return json.loads((golden_d2 / "lazyconfig.json").read_text())


@pytest.fixture(scope="module")
def folder(golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("configs")
    for name, text in golden["files"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("ENGINE_PACKAGE", "detectron2"))
    return root


def plain(value: Any, resolve: bool) -> Any:
    """As the recorded values are written."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=resolve)
    if isinstance(value, dict):
        return {key: plain(item, resolve) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, resolve) for item in value]
    if isinstance(value, float) and value == float("inf"):
        return "<float inf>"
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def builtin_error(names: list[str]) -> type[BaseException]:
    return next(getattr(builtins, name) for name in names if hasattr(builtins, name))


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    found = {}
    for key, item in value.items():
        found.update(leaves(item, f"{prefix}.{key}" if prefix else key))
    return found


def test_loads(golden: dict[str, Any], folder: Path) -> None:
    for name, expected in golden["loads"].items():
        cfg = LazyConfig.load(str(folder / name))
        assert type(cfg).__name__ == expected["type"], name
        assert list(cfg.keys()) == expected["keys"], name
        assert {key: type(cfg[key]).__name__ for key in cfg} == expected["value_types"], name
        assert plain(cfg, resolve=False) == expected["unresolved"], name
        assert plain(cfg, resolve=True) == expected["resolved"], name


def test_load_with_keys(golden: dict[str, Any], folder: Path) -> None:
    expected = golden["load_with_keys"]
    one = LazyConfig.load(str(folder / "common/train.py"), "train")
    assert type(one).__name__ == expected["one key type"]
    assert plain(one, resolve=False) == expected["one key"]
    two = LazyConfig.load(str(folder / "common/optim.py"), ("SGD", "AdamW"))
    assert type(two).__name__ == expected["two keys type"]
    assert plain(two, resolve=False) == expected["two keys"]
    assert LazyConfig.load(str(folder / "common/constants.py"), "limit") == expected["key that is a number"]
    one.max_iter += 1
    again = LazyConfig.load(str(folder / "common/train.py"), "train")
    assert again.max_iter == expected["second load is not the edited first"]


def test_lazy_call(golden: dict[str, Any]) -> None:
    expected = golden["lazy_call"]
    cfg = LazyCall(torch.nn.Conv2d)(in_channels=3, out_channels=8, kernel_size=1)
    assert type(cfg).__name__ == expected["type"]
    assert list(cfg.keys()) == expected["keys"]
    assert (cfg._target_ is torch.nn.Conv2d) == expected["target_kept_as_object"]
    cfg.out_channels = 64
    assert repr(instantiate(cfg)) == expected["repr_after_edit"]
    assert list(cfg.keys()) == expected["instantiate_leaves_config"]


def test_instances(golden: dict[str, Any], folder: Path) -> None:
    for name, expected in golden["instances"].items():
        file, _, key = name.partition(":")
        cfg = LazyConfig.load(str(folder / file))
        node = OmegaConf.select(cfg, key)
        assert (node is not None) == expected["present"], name
        if node is None:
            continue
        built = instantiate(node)
        assert type(built).__name__ == expected["type"], name
        assert repr(built) == expected["repr"], name
        for attribute, kind in expected.get("types", {}).items():
            assert type(getattr(built, attribute)).__name__ == kind, (name, attribute)


def test_instantiate_simple(golden: dict[str, Any]) -> None:
    fraction = "fractions.Fraction"
    values = {
        "None": None,
        "number": 3,
        "string": "abc",
        "dict without target": {"a": 1},
        "dict with target": {"_target_": fraction, "numerator": 2, "denominator": 3},
        "dict with callable": {"_target_": fractions.Fraction, "numerator": 2, "denominator": 3},
        "list of configs": [LazyCall(fractions.Fraction)(numerator=1, denominator=2), 7],
        "nested target": {
            "_target_": types.SimpleNamespace,
            "inner": {"_target_": datetime.timedelta, "days": 1},
            "rest": [1, {"b": 2}],
        },
    }
    for name, expected in golden["instantiate_simple"].items():
        assert repr(instantiate(values[name])) == expected, name


def test_overrides(golden: dict[str, Any], folder: Path) -> None:
    base_file = str(folder / golden["overrides_base"])
    for case in golden["overrides"]:
        cfg = LazyConfig.load(base_file)
        if case["error"]:
            with pytest.raises(builtin_error(case["error"])):
                LazyConfig.apply_overrides(cfg, case["overrides"])
            continue
        returned = LazyConfig.apply_overrides(cfg, case["overrides"])
        assert (returned is cfg) == golden["apply_overrides_returns_its_argument"]
        for suffix, resolve in (("", False), ("_resolved", True)):
            before = leaves(plain(LazyConfig.load(base_file), resolve))
            after = leaves(plain(cfg, resolve))
            changed = {
                k: v for k, v in after.items() if k not in before or before[k] != v or type(before[k]) is not type(v)
            }
            assert changed == case["changed" + suffix], case["overrides"]
            assert {k: type(v) for k, v in changed.items()} == {k: type(v) for k, v in case["changed" + suffix].items()}
            assert sorted(set(before) - set(after)) == case["gone" + suffix], case["overrides"]


def test_saved(golden: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    sources = {"child": "nested/child.py", "objects": "objects.py", "optim": "common/optim.py"}
    for name, expected in golden["saved"].items():
        path = tmp_path / f"{name}.yaml"
        LazyConfig.save(LazyConfig.load(str(folder / sources[name])), str(path))
        assert path.read_text() == expected["text"]
        assert Path(f"{path}.pkl").exists() == expected["pickle_written"]
        assert plain(LazyConfig.load(str(path)), resolve=False) == expected["reloaded"]


def test_errors(golden: dict[str, Any], folder: Path) -> None:
    calls = {
        "LazyCall with a positional argument": lambda: LazyCall(torch.nn.Linear)(3),
        "LazyCall(3)": lambda: LazyCall(3),
        "LazyCall(dict)(a=1)": lambda: LazyCall(dict)(a=1),
        "instantiate a name in no module": lambda: instantiate({"_target_": "no_such_module.Name"}),
        "instantiate a name that a module lacks": lambda: instantiate({"_target_": "torch.nn.NoSuchName"}),
        "instantiate a target that is not callable": lambda: instantiate({"_target_": "math.pi"}),
        "instantiate when the callable raises": lambda: instantiate(
            LazyCall(fractions.Fraction)(numerator=1, denominator=0)
        ),
        "instantiate with an unknown argument": lambda: instantiate(LazyCall(fractions.Fraction)(nothing=1)),
        "instantiate without a required argument": lambda: instantiate(LazyCall(torch.nn.Linear)(in_features=1)),
        "interpolation to nothing": lambda: instantiate(LazyCall(fractions.Fraction)(numerator="${.nothing}")),
        "load a key that is not there": lambda: LazyConfig.load(str(folder / "common/train.py"), "nothing"),
    }
    for name, names in golden["errors"].items():
        call = calls.get(name)
        if call is None:
            assert name.startswith("load "), name
            path = str(folder / name.removeprefix("load "))
            call = lambda path=path: LazyConfig.load(path)  # noqa: E731
        with pytest.raises(builtin_error(names)):
            call()


def test_containers_are_omegaconf(folder: Path) -> None:
    cfg = LazyConfig.load(str(folder / "objects.py"))
    assert isinstance(cfg, DictConfig)
    assert isinstance(cfg.listing, ListConfig)
