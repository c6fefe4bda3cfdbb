"""Lazy configs through their public interface."""

import dataclasses
import logging
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


def adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "a = dict(x=1)\nb = dict(\n    y=2)\nc = = 3\n")
    with pytest.raises(SyntaxError) as caught:
        LazyConfig.load(path)
    assert path in str(caught.value)
    assert caught.value.lineno == 4
    assert "line 4" in str(caught.value)


def test_missing_import_names_both_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", "from .sub.b import x\n")
    with pytest.raises(ImportError, match="does not exist") as caught:
        LazyConfig.load(path)
    assert path in str(caught.value)
    assert str(tmp_path / "sub" / "b.py") in str(caught.value)


def test_ordinary_imports_are_left_alone(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.py",
        """
        import os.path
        from collections import OrderedDict
        from .b import base
        cfg = dict(sep=os.path.sep, kind=OrderedDict.__name__, base=base)
        """,
    )
    write(tmp_path / "b.py", "from .c import base\nbase.n = 2\n")
    write(tmp_path / "c.py", "base = dict(n=1)\n")
    cfg = LazyConfig.load(path)
    assert cfg.cfg == {"sep": "/", "kind": "OrderedDict", "base": {"n": 2}}
    with pytest.raises(ImportError):
        # Relative imports outside of config files mean what they always meant.
        exec("from .c import base", {"__package__": "", "__name__": "x"})


def test_relative_path_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "configs/run.py", "from ..base import train\ntrain.n += 1\n")
    write(tmp_path / "base.py", "train = dict(n=1)\n")
    monkeypatch.chdir(tmp_path)
    assert LazyConfig.load("configs/run.py").train.n == 2
    monkeypatch.chdir(tmp_path / "configs")
    assert LazyConfig.load("run.py").train.n == 2


def test_import_inside_a_function_of_a_config(tmp_path: Path) -> None:
    write(tmp_path / "b.py", "value = dict(n=5)\n")
    path = write(
        tmp_path / "a.py",
        """
        from detectron2.config import LazyCall as L
        def late():
            from .b import value
            return value.n
        late_call = L(late)()
        """,
    )
    assert instantiate(LazyConfig.load(path).late_call) == 5


def test_pickling(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.py",
        """
        import torch
        from detectron2.config import LazyCall as L
        layer = L(torch.nn.Linear)(in_features="${..n.value}", out_features=4)
        n = dict(value=3)
        """,
    )
    again = pickle.loads(pickle.dumps(LazyConfig.load(path)))
    assert instantiate(again.layer).in_features == 3


def test_function_of_a_config_file_travels_by_cloudpickle(tmp_path: Path) -> None:
    import cloudpickle

    path = write(
        tmp_path / "a.py",
        """
        from detectron2.config import LazyCall as L
        factor = 3
        def times(n):
            return factor * n
        product = L(times)(n=4)
        """,
    )
    pickled = tmp_path / "cfg.pkl"
    pickled.write_bytes(cloudpickle.dumps(LazyConfig.load(path).product))
    code = (
        "import pickle, sys, detectron2_embedded\n"
        "from detectron2.config import instantiate\n"
        f"print(instantiate(pickle.load(open({str(pickled)!r}, 'rb'))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "12"


def test_save_of_what_yaml_cannot_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        tmp_path / "a.py",
        """
        from detectron2.config import LazyCall as L
        def local(n):
            return n
        call = L(local)(n=4)
        """,
    )
    with caplog.at_level(logging.WARNING, logger="detectron2"):
        LazyConfig.save(LazyConfig.load(path), tmp_path / "out.yaml")
    assert "n: 4" in (tmp_path / "out.yaml").read_text()
    assert instantiate(pickle.loads((tmp_path / "out.yaml.pkl").read_bytes()).call) == 4
    assert "out.yaml.pkl" in caplog.text


def test_yaml_gives_callables_back(tmp_path: Path) -> None:
    cfg = OmegaConf.create(
        {"layer": LazyCall(torch.nn.Linear)(in_features=2, out_features=3), "f": torch.relu},
        flags={"allow_objects": True},
    )
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml.pkl").exists()
    again = LazyConfig.load(tmp_path / "c.yaml")
    assert isinstance(instantiate(again.layer), torch.nn.Linear)
    assert again.f is torch.relu


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path / "evil.yaml", f"a: !!python/object/apply:pathlib.Path.touch [{marker}]\n")
    with pytest.raises(ValueError, match=r"evil\.yaml"):
        LazyConfig.load(path)
    assert not marker.exists()


def test_save_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("old: 1\n")
    LazyConfig.save(DictConfig({"new": 2}), path)
    assert path.read_text() == "{new: 2}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_dataclass_target() -> None:
    cfg = LazyCall(Point)(x=1)
    assert isinstance(cfg._target_, str)
    assert instantiate(DictConfig({"_target_": cfg._target_, "x": 1})) == Point(1, 2)


def test_structured_config_becomes_its_object() -> None:
    assert instantiate(OmegaConf.structured(Point(3, 4))) == Point(3, 4)


def test_target_may_be_a_call_itself() -> None:
    assert instantiate(LazyCall(LazyCall(adder)(n=1))(x=2)) == 3


def test_type_error_is_logged_with_the_target(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="detectron2"), pytest.raises(TypeError):
        instantiate(LazyCall(torch.nn.Linear)(in_featurs=1))
    assert "Linear" in caplog.text
    assert "in_featurs" in caplog.text


def test_names_of_the_yacs_system_say_where_they_are() -> None:
    with pytest.raises(ImportError, match=r"get_cfg .*installed Detectron2"):
        from detectron2.config import get_cfg  # noqa: F401
    with pytest.raises(ImportError, match="configurable"):
        from detectron2.config import configurable  # noqa: F401


def test_load_rel_needs_a_file() -> None:
    with pytest.raises(ValueError, match="not called from a file"):
        exec("from detectron2.config import LazyConfig\nLazyConfig.load_rel('x.py')", {})


def test_to_py_is_python_that_rebuilds_the_values() -> None:
    cfg = OmegaConf.create(
        {
            "model": LazyCall(torch.nn.Linear)(in_features=2, out_features="${..n}"),
            "n": 3,
            "train": {"steps": [1, 2], "name": "x", "none": None, "empty": {}},
        },
        flags={"allow_objects": True},
    )
    text = LazyConfig.to_py(cfg)
    assert "cfg.model = torch.nn.Linear(in_features=2, out_features='${..n}')" in text
    assert LazyConfig.to_py(cfg, prefix="").startswith("model = ")
    rebuilt = DictConfig({"train": {}})
    lines = [line for line in text.splitlines() if line.startswith("cfg.train")]
    exec("\n".join(lines), {"cfg": rebuilt})
    assert rebuilt.train == cfg.train


_keys = st.text("abcdefgh", min_size=1, max_size=3)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-999, 999)
    | st.floats(allow_nan=False, width=32)
    | st.text("xyz", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # files are written
@given(st.dictionaries(_keys, _values, max_size=4))
def test_saved_values_come_back(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    LazyConfig.save(OmegaConf.create({"top": content}), path)
    loaded = LazyConfig.load(path)
    assert OmegaConf.to_container(loaded) == {"top": content}


@settings(deadline=None)
@given(
    st.lists(_keys, min_size=1, max_size=3),
    st.integers() | st.booleans() | st.text("abc", min_size=1).filter(lambda s: s not in ("null",)),
)
def test_override_sets_exactly_that_key(path: list[str], value: object) -> None:
    cfg = OmegaConf.create({"zz": {"kept": 1}})
    key = ".".join(path)
    LazyConfig.apply_overrides(cfg, [f"{key}={str(value).lower() if isinstance(value, bool) else value}"])
    assert OmegaConf.select(cfg, key) == value
    assert cfg.zz.kept == 1
