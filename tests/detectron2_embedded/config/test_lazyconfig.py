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
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue


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


@pytest.mark.subset  # the line number: Detectron2 names the file alone
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


@pytest.mark.subset  # Detectron2 0.6 looks for ..base in the working directory, where the path has no folder
def test_relative_path_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "configs/run.py", "from ..base import train\ntrain.n += 1\n")
    write(tmp_path / "base.py", "train = dict(n=1)\n")
    monkeypatch.chdir(tmp_path)
    assert LazyConfig.load("configs/run.py").train.n == 2
    monkeypatch.chdir(tmp_path / "configs")
    assert LazyConfig.load("run.py").train.n == 2


@pytest.mark.subset  # in Detectron2 0.6 a config's relative imports end with its loading
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


@pytest.mark.subset  # Detectron2 0.6 writes a path that leads nowhere, and no pickle
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
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert not (tmp_path / "c.yaml.pkl").exists()
    again = LazyConfig.load(str(tmp_path / "c.yaml"))
    assert isinstance(instantiate(again.layer), torch.nn.Linear)
    assert again.f is torch.relu


@pytest.mark.subset  # Detectron2 runs it
def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path / "evil.yaml", f"a: !!python/object/apply:pathlib.Path.touch [{marker}]\n")
    with pytest.raises(ValueError, match=r"evil\.yaml"):
        LazyConfig.load(path)
    assert not marker.exists()


def test_save_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("old: 1\n")
    LazyConfig.save(DictConfig({"new": 2}), str(path))
    assert path.read_text() == "{new: 2}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_dataclass_target() -> None:
    cfg = LazyCall(Point)(x=1)
    assert isinstance(cfg._target_, str)
    assert instantiate(DictConfig({"_target_": cfg._target_, "x": 1})) == Point(1, 2)


def test_target_may_be_a_call_itself() -> None:
    assert instantiate(LazyCall(LazyCall(adder)(n=1))(x=2)) == 3


def test_type_error_is_logged_with_the_target(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="detectron2"), pytest.raises(TypeError):
        instantiate(LazyCall(torch.nn.Linear)(in_featurs=1))
    assert "Linear" in caplog.text


@pytest.mark.subset
def test_type_error_is_logged_with_the_arguments(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="detectron2"), pytest.raises(TypeError):
        instantiate(LazyCall(torch.nn.Linear)(in_featurs=1))
    assert "in_featurs" in caplog.text


@pytest.mark.subset
def test_names_of_the_yacs_system_say_where_they_are() -> None:
    with pytest.raises(ImportError, match=r"get_cfg .*installed Detectron2"):
        from detectron2.config import get_cfg  # noqa: F401
    with pytest.raises(ImportError, match="configurable"):
        from detectron2.config import configurable  # noqa: F401


def test_a_file_is_run_once_for_each_import_statement(tmp_path: Path) -> None:
    # Detectron2 0.6, main of 2026-06-06: nothing is kept between import statements or loads.
    log = tmp_path / "runs"
    write(tmp_path / "base.py", f"open({str(log)!r}, 'a').write('x')\na = dict(n=1)\nb = dict(n=2)\n")
    path = write(tmp_path / "run.py", "from .base import a, b\nfrom .base import a as c\nc.n = 3\n")
    cfg = LazyConfig.load(path)
    assert (cfg.a.n, cfg.b.n, cfg.c.n) == (1, 2, 3)
    assert log.read_text() == "xx"
    LazyConfig.load(path)
    assert log.read_text() == "xxxx"


def test_a_registration_in_a_config_happens_at_every_run(tmp_path: Path) -> None:
    from fvcore.common.registry import Registry

    Registry.of_this_test = registry = Registry("OF_THIS_TEST")
    try:
        write(
            tmp_path / "parts.py",
            """
            from fvcore.common.registry import Registry
            @Registry.of_this_test.register()
            class Part: ...
            node = dict(n=1)
            """,
        )
        path = write(tmp_path / "run.py", "from .parts import node\n")
        assert LazyConfig.load(path).node.n == 1
        assert "Part" in registry
        # As in Detectron2 0.6, main of 2026-06-06: the second run registers again, which fvcore refuses.
        with pytest.raises(AssertionError, match="already registered"):
            LazyConfig.load(path)
    finally:
        del Registry.of_this_test


def test_configs_where_only_the_path_manager_reads(tmp_path: Path) -> None:
    from detectron2.utils.file_io import PathManager
    from iopath.common.file_io import PathHandler

    class Handler(PathHandler):
        def _get_supported_prefixes(self) -> list[str]:
            return ["configs-of-this-test://"]

        def _local(self, path: str) -> Path:
            return tmp_path / path.removeprefix("configs-of-this-test://")

        def _isfile(self, path: str, **_: object) -> bool:
            return self._local(path).is_file()

        def _isdir(self, path: str, **_: object) -> bool:
            return self._local(path).is_dir()

        def _open(self, path: str, mode: str = "r", **_: object):
            return self._local(path).open(mode)

    PathManager.register_handler(Handler(), allow_override=True)
    write(tmp_path / "a/base.py", "train = dict(n=1)\n")
    write(tmp_path / "a/b/run.py", "from ..base import train\ntrain.n += 1\n")
    write(
        tmp_path / "a/b/rel.py",
        "from detectron2.config import LazyConfig\ntrain = LazyConfig.load_rel('run.py', 'train')\n",
    )
    assert LazyConfig.load("configs-of-this-test://a/b/run.py").train.n == 2
    assert LazyConfig.load("configs-of-this-test://a/b/rel.py").train.n == 2


def test_yaml_may_hold_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "- 1\n- b: 2\n")
    found = LazyConfig.load(path)
    assert isinstance(found, ListConfig)
    assert found[1].b == 2


def test_a_key_of_yaml_is_as_in_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "missing: ???\nn: 3\nlist: [1, 2]\nlinked: ${n}\n")
    assert LazyConfig.load(path, ("n", "linked")) == (3, 3)
    assert isinstance(LazyConfig.load(path, "list"), ListConfig)
    with pytest.raises(MissingMandatoryValue):
        LazyConfig.load(path, "missing")
    with pytest.raises(KeyError):
        LazyConfig.load(path, "nothing")


@pytest.mark.subset  # Detectron2 0.6 makes a config of nothing, and says no key's name
@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [("", None, "nothing"), ("3", None, "int"), ("a: 1", "b", "no 'b'; it has: a"), ("- 1", "b", "is a list")],
)
def test_yaml_without_what_is_asked_for(tmp_path: Path, text: str, keys: str | None, says: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises((ValueError, KeyError), match=says):
        LazyConfig.load(path, keys)


@pytest.mark.subset  # Detectron2 0.6 cannot save a config with a value that is still missing, or linked to nothing
def test_save_needs_no_value_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    LazyConfig.save(OmegaConf.create({"a": "???", "b": "${nothing.there}"}), path)
    assert path.read_text() == "{a: '???', b: '${nothing.there}'}\n"
    assert OmegaConf.is_missing(LazyConfig.load(path), "a")


@pytest.mark.subset  # Detectron2 0.6 logs an error and goes on without the file
def test_save_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LazyConfig.save(OmegaConf.create({"a": 1}), tmp_path / "nothing" / "a.yaml")


def test_load_rel_needs_a_file() -> None:
    with pytest.raises(AssertionError):
        exec("from detectron2.config import LazyConfig\nLazyConfig.load_rel('x.py')", {})


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
    path = str(tmp_path_factory.getbasetemp() / "values.yaml")
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


def test_overrides_that_reach_into_lists_and_links() -> None:
    cfg = OmegaConf.create({"a": {"b": 1, "items": [1, {"x": 1}], "none": None, "missing": "???", "link": "${a.b}"}})
    overrides = ["a.items.0=5", "a.items.1.x=6", "a.none.q=4", "a.missing=7", "a.link=8", "+a.new.deep=9", "++a.b=2"]
    assert LazyConfig.apply_overrides(cfg, overrides) is cfg
    assert cfg.a == {
        "b": 2,
        "items": [5, {"x": 6}],
        "none": {"q": 4},
        "missing": 7,
        "link": 8,
        "new": {"deep": 9},
    }
    LazyConfig.apply_overrides(cfg, ["a.items=[]", "a.new={deeper:1}", "a.none=null"])
    assert (cfg.a["items"], cfg.a.new, cfg.a.none) == ([], {"deep": 9, "deeper": 1}, None)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("a.b.c=1", KeyError),
        ("a.link.c=1", KeyError),
        ("~a", NotImplementedError),
        ("a.b=1,2", ValueError),
        ("a.b=choice(1,2)", ValueError),
        ("a.items.7=1", Exception),  # omegaconf's own
    ],
)
def test_overrides_that_mean_nothing(override: str, error: type[Exception]) -> None:
    cfg = OmegaConf.create({"a": {"b": 1, "items": [1], "link": "${a.b}"}})
    with pytest.raises(error):
        LazyConfig.apply_overrides(cfg, [override])
    assert cfg == {"a": {"b": 1, "items": [1], "link": "${a.b}"}}
