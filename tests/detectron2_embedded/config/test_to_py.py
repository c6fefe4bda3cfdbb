"""`LazyConfig.to_py`: what people read of a config. Texts as Detectron2 0.6, main of 2026-06-06, gives them."""

import keyword
from itertools import count
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf


def config(**content: Any) -> DictConfig:
    return DictConfig(content, flags={"allow_objects": True})


def test_values_are_sorted_and_double_quoted() -> None:
    cfg = config(
        train={"steps": [1, "a", None], "name": "x", "none": None, "on": True, "rate": 1e-5, "far": 1e20},
        n=3,
        data={"inner": {"b": 2, "a": "it's"}},
    )
    assert LazyConfig.to_py(cfg) == (
        'cfg.data.inner.a = "it\'s"\n'
        "cfg.data.inner.b = 2\n"
        "cfg.n = 3\n"
        "cfg.train.far = 1e20\n"
        'cfg.train.name = "x"\n'
        "cfg.train.none = None\n"
        "cfg.train.on = True\n"
        "cfg.train.rate = 1e-05\n"
        'cfg.train.steps = [1, "a", None]\n'
    )


def test_prefix() -> None:
    assert LazyConfig.to_py(config(n=3, a={"b": 1}), prefix="") == "a.b = 1\nn = 3\n"


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("", '""'),
        ('say "a"', "'say \"a\"'"),
        ("it's", '"it\'s"'),
        ("'\"", '"\'\\""'),
        ('\'""', "'\\'\"\"'"),
        ("a\\b\n", '"a\\\\b\\n"'),
        ("漢", '"漢"'),
    ],
)
def test_quotes_that_take_fewer_backslashes(text: str, literal: str) -> None:
    assert LazyConfig.to_py(config(a=text)) == f"cfg.a = {literal}\n"


def test_interpolations_are_resolved() -> None:
    cfg = config(model=LazyCall(torch.nn.Linear)(out_features="${..n}", in_features=2), n=3, missing="???")
    assert LazyConfig.to_py(cfg) == (
        'cfg.missing = "???"\ncfg.model = torch.nn.Linear(in_features=2, out_features=3)\ncfg.n = 3\n'
    )
    with pytest.raises(Exception, match="nowhere"):
        LazyConfig.to_py(config(a="${nowhere}"))


def test_calls_and_containers_that_do_not_fit_a_line() -> None:
    cfg = config(
        call=LazyCall(count)(
            start={
                "b": 2.5,
                "a": "long enough for a line of its own",
                "c": LazyCall(count)(step=[1, "z", {"k": None}]),
            },
            step="some more text",
        ),
        items=[100000000 + i for i in range(9)],
        one=["a single item that is so long that it would not fit beside the name of the key, is it not"],
    )
    assert LazyConfig.to_py(cfg) == (
        "cfg.call = itertools.count(\n"
        "    start={\n"
        '        "a": "long enough for a line of its own",\n'
        '        "b": 2.5,\n'
        '        "c": itertools.count(step=[1, "z", {"k": None}]),\n'
        "    },\n"
        '    step="some more text",\n'
        ")\n"
        "cfg.items = [\n" + "".join(f"    {100000000 + i},\n" for i in range(9)) + "]\n"
        "cfg.one = [\n"
        '    "a single item that is so long that it would not fit beside the name of the key, is it not"\n'
        "]\n"
    )


def test_arguments_stay_together_where_they_fit_a_line() -> None:
    cfg = config(a=LazyCall(count)(start="s" * 36, step="t" * 30))
    assert LazyConfig.to_py(cfg, prefix="") == (f'a = itertools.count(\n    start="{"s" * 36}", step="{"t" * 30}"\n)\n')


def test_a_long_text_moves_below_its_name() -> None:
    name = "n" * 20
    text = "t" * 78
    assert LazyConfig.to_py(config(**{name: text})) == f'cfg.{name} = (\n    "{text}"\n)\n'
    too_long = "t" * 90
    assert LazyConfig.to_py(config(**{name: too_long})) == f'cfg.{name} = "{too_long}"\n'


def test_text_is_python_that_rebuilds_the_values() -> None:
    cfg = config(train={"steps": [1, 2], "name": "x", "none": None, "deep": {"rate": 1.5}})
    rebuilt = DictConfig({"train": {"deep": {}}})
    exec(LazyConfig.to_py(cfg), {"cfg": rebuilt})
    assert rebuilt.train == cfg.train


@pytest.mark.subset  # Detectron2 0.6 leaves out an empty dict, and does not lay out what holds dicts in lists
def test_nothing_is_left_out() -> None:
    assert LazyConfig.to_py(config(a={}, b=[{"k": 1}, {}])) == 'cfg.a = {}\ncfg.b = [{"k": 1}, {}]\n'


@pytest.mark.subset  # Detectron2 0.6 cannot: AttributeError
def test_targets_that_are_paths_or_calls() -> None:
    cfg = config(
        path={"_target_": "torch.nn.ReLU", "inplace": True},
        call=LazyCall(LazyCall(count)(step=2))(a=1),
        f=torch.nn.functional.softmax,
    )
    assert LazyConfig.to_py(cfg) == (
        "cfg.call = itertools.count(step=2)(a=1)\n"
        "cfg.f = torch.nn.functional.softmax\n"
        "cfg.path = torch.nn.ReLU(inplace=True)\n"
    )


_names = st.from_regex("[a-z]{1,9}|[a-z]{20,30}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text("ab c'\"\\\n/", max_size=90)
    | st.just("x" * 80)
)


def _containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    arguments = st.dictionaries(_names, inner, max_size=6)
    paths = st.lists(_names, min_size=1, max_size=4).map(".".join)
    calls = st.builds(lambda path, values: {**values, "_target_": path}, paths, arguments)
    return st.lists(inner, max_size=6) | arguments | calls


@pytest.mark.subset
@settings(deadline=None, max_examples=60)
@given(st.dictionaries(_names, st.recursive(_leaves, _containers, max_leaves=20), min_size=1, max_size=2))
def test_layout_is_that_of_black(content: dict[str, Any]) -> None:
    """What `to_py` gives does not change any more when the formatter itself is run on it."""
    black = pytest.importorskip("black", reason="the formatter black is not installed")
    text = LazyConfig.to_py(OmegaConf.create(content))
    assert black.format_str(text, mode=black.Mode()) == text
