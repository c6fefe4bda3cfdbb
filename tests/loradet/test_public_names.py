"""`__all__` of every package says what is public, and importing a package imports nothing heavy for it."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import loradet
from loradet.lazy import homes, lazy_names

PACKAGES = ["loradet", *(one.name for one in pkgutil.walk_packages(loradet.__path__, "loradet.") if one.ispkg)]
# Its classes enter Detectron2's registry of backbones when it is imported.
HEAVY = "loradet.backbones"


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_there(name):
    package = importlib.import_module(name)
    modules = {one.name for one in pkgutil.iter_modules(package.__path__)}
    assert len(set(package.__all__)) == len(package.__all__) and set(package.__all__) <= set(dir(package))
    if "__getattr__" in vars(package):
        assert set(homes(name)) == {one for one in package.__all__ if not one.startswith("__")}
        # An import of the module would put it in the place of what has its name.
        assert all(homes(name)[one] == name for one in modules & set(package.__all__))
    for one in package.__all__:
        found = getattr(package, one)
        assert not isinstance(found, ModuleType) or found.__name__ == f"{name}.{one}"
        assert (one.isupper() or one == "__version__") or getattr(found, "__doc__", None), f"{name}.{one}"


def test_importing_packages_imports_no_torch():
    names = [name for name in PACKAGES if name != HEAVY]
    assert len(names) > 20
    heavy = {"torch", "detectron2", "timm", "transformers"}
    code = f"import sys, {', '.join(names)}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a lazy function, a lazy module, and a name that its module does not have."""
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    imports = "from lazy_example import part\n    from lazy_example.part import absent, double"
    head = "from typing import TYPE_CHECKING\nfrom loradet.lazy import lazy_names\n"
    body = f"if TYPE_CHECKING:\n    {imports}\nelse:\n    __getattr__, __dir__ = lazy_names(__name__)\n"
    (folder / "__init__.py").write_text(f'{head}{body}__all__ = ["absent", "double", "part"]\n')
    (folder / "part.py").write_text("def double(value):\n    return 2 * value\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("lazy_example")
    for name in ("lazy_example", "lazy_example.part"):
        sys.modules.pop(name, None)
    homes.cache_clear()


def test_a_name_is_imported_when_it_is_used(package):
    assert "lazy_example.part" not in sys.modules and {"absent", "double", "part"} <= set(dir(package))
    assert package.double(4) == 8 and "lazy_example.part" in sys.modules
    assert vars(package)["double"] is package.double is package.part.double
    with pytest.raises(AttributeError, match="module 'lazy_example' has no attribute 'dubble'"):
        package.dubble  # noqa: B018
    with pytest.raises(AttributeError, match=r"lazy_example\.part.*absent"):
        package.absent  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'dubble'"):
        exec("from lazy_example import dubble")


def test_it_is_the_same_in_a_star_import(package):
    names: dict = {}
    del package.__all__[0]  # the absent one
    exec("from lazy_example import *", names)
    assert names["double"] is package.double and names["part"] is package.part
    assert lazy_names("lazy_example")[0]("double") is package.double
