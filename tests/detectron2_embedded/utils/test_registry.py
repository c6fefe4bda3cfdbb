"""Objects by dotted path, and back."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.registry import Registry, _convert_target_to_string, locate


def test_locate_finds_modules_classes_methods_and_builtins():
    assert locate("torch.optim") is torch.optim
    assert locate("torch.optim.AdamW") is torch.optim.AdamW
    assert locate("detectron2.layers.batch_norm.FrozenBatchNorm2d") is FrozenBatchNorm2d
    assert locate("torch.nn.Module.train") is torch.nn.Module.train
    assert locate("builtins.dict") is locate("dict") is dict


@pytest.mark.parametrize("name", ["no_such_package.thing", "torch.optim.NoSuchOptimizer", "torch.nn.Linear.nothing"])
def test_locate_refuses_what_is_not_there(name):
    with pytest.raises(ImportError, match=name.split(".")[-2]):
        locate(name)


@pytest.mark.subset
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.thing", "no_such_package"),
        ("torch.optim.NoSuchOptimizer", "'torch.optim' has no attribute 'NoSuchOptimizer'"),
        ("torch.nn.Linear.nothing", "'torch.nn.Linear' has no attribute 'nothing'"),
        ("torch..nn", "dotted path"),
        ("", "dotted path"),
        ("detectron2.modeling.GeneralizedRCNNWithTTA", "installed Detectron2"),
    ],
)
def test_locate_says_what_is_missing(name, message):
    with pytest.raises(ImportError, match=message):
        locate(name)


@pytest.mark.subset  # Detectron2 0.6 finds it by pydoc, which raises an error of its own
def test_an_error_inside_a_module_is_not_taken_for_a_wrong_path(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_installed\nvalue = 1\n")
    (tmp_path / "divides.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_installed"):
        locate("needs_more.value")
    with pytest.raises(ZeroDivisionError):
        locate("divides.value")


def test_target_string_is_the_shortest_public_path():
    assert _convert_target_to_string(FrozenBatchNorm2d) == "detectron2.layers.FrozenBatchNorm2d"
    for target in (torch.optim.AdamW, torch.nn.Linear, dict, torch.nn.Module.train):
        assert locate(_convert_target_to_string(target)) is target
    assert _convert_target_to_string(locate) == "detectron2.utils.registry.locate"


def test_registry_refuses_a_second_object_of_one_name():
    registry = Registry("things")
    registry.register(dict)
    assert registry.get("dict") is dict
    with pytest.raises(AssertionError):
        registry.register(dict)
    with pytest.raises(KeyError, match="things"):
        registry.get("list")
