"""Which `detectron2` an import gives, under every mode and kind of install, each in a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import detectron2_embedded

PROJECTS = Path(detectron2_embedded.__file__).parents[1]
EMBEDDED = PROJECTS / "detectron2_embedded" / "detectron2"
WHERE = "import detectron2; print(detectron2.__file__)"

SETUPTOOLS_FINDER = """
import sys
from importlib.machinery import PathFinder

class EditableFinder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "detectron2":
            return PathFinder.find_spec(name, [{folder!r}])

def install():
    sys.meta_path.{place}
"""


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder that holds something importable as an installed Detectron2."""
    package = tmp_path / "elsewhere" / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.6'\n")
    (package / "config.py").write_text("KIND = 'installed'\n")
    return package.parent


def python(
    *arguments: str,
    mode: str | None = None,
    path: tuple[Path, ...] = (),
    cwd: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "LORADET_DETECTRON2"}
    if mode is not None:
        environment["LORADET_DETECTRON2"] = mode
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*path, PROJECTS)))
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def location(code: str, **kwargs) -> Path:
    return Path(python("-c", code, **kwargs).stdout.splitlines()[-1]).parent


NO_DETECTRON2_HERE = pytest.mark.skipif(
    not detectron2_embedded.is_embedded(), reason="a real Detectron2 is installed in this environment"
)


@NO_DETECTRON2_HERE
@pytest.mark.parametrize("package", ["loradet", "detectron2_embedded"])
@pytest.mark.parametrize("mode", [None, "", "auto", "embedded"])
def test_the_embedded_one_is_used_where_none_is_installed(package, mode):
    assert location(f"import {package}; {WHERE}", mode=mode) == EMBEDDED


@pytest.mark.parametrize("mode", [None, "auto", "installed"])
def test_an_installed_one_wins(installed, mode):
    assert location(f"import loradet; {WHERE}", mode=mode, path=(installed,)) == installed / "detectron2"


def test_embedded_is_used_before_an_installed_one(installed):
    assert location(f"import loradet; {WHERE}", mode="embedded", path=(installed,)) == EMBEDDED


@pytest.mark.parametrize(("mode", "expected"), [("auto", "installed"), ("installed", "installed"), ("embedded", None)])
@pytest.mark.parametrize("kind", ["pth", "finder"])
def test_editable_installs_count(installed, tmp_path, kind, mode, expected):
    site = tmp_path / "site"
    site.mkdir()
    if kind == "pth":
        (site / "__editable__.detectron2.pth").write_text(f"{installed}\n")
    else:
        finder = SETUPTOOLS_FINDER.format(folder=str(installed), place="append(EditableFinder)")
        (site / "__editable___detectron2_finder.py").write_text(finder)
        (site / "__editable__.detectron2.pth").write_text(
            "import __editable___detectron2_finder; __editable___detectron2_finder.install()\n"
        )
    code = f"import site; site.addsitedir({str(site)!r}); import loradet; {WHERE}"
    assert location(code, mode=mode) == (installed / "detectron2" if expected else EMBEDDED)


def test_embedded_says_so_where_a_finder_comes_first(installed, tmp_path):
    finder = SETUPTOOLS_FINDER.format(folder=str(installed), place="insert(0, EditableFinder)")
    (tmp_path / "early_finder.py").write_text(finder)
    code = "import early_finder; early_finder.install(); import loradet"
    done = python("-c", code, mode="embedded", path=(tmp_path,), check=False)
    assert done.returncode == 1
    assert "ImportError: LORADET_DETECTRON2=embedded" in done.stderr
    assert str(installed) in done.stderr


@NO_DETECTRON2_HERE
@pytest.mark.parametrize("mode", [None, "embedded"])
def test_a_bare_folder_of_that_name_is_no_install(tmp_path, mode):
    (tmp_path / "detectron2" / "detectron2").mkdir(parents=True)
    assert location(f"import loradet; {WHERE}", mode=mode, cwd=tmp_path) == EMBEDDED


@NO_DETECTRON2_HERE
def test_installed_without_one_is_an_error():
    done = python("-c", "import loradet", mode="installed", check=False)
    assert done.returncode == 1
    assert "ImportError: LORADET_DETECTRON2=installed, but no Detectron2 is installed" in done.stderr
    assert "docs/install.md" in done.stderr


def test_an_unknown_mode_is_an_error():
    done = python("-c", "import loradet", mode="embeded", check=False)
    assert done.returncode == 1
    assert "ValueError: LORADET_DETECTRON2='embeded'" in done.stderr
    assert "auto, embedded, installed" in done.stderr


def test_another_one_imported_before_is_an_error_under_embedded(installed):
    code = "import detectron2, loradet"
    done = python("-c", code, mode="embedded", path=(installed,), check=False)
    assert done.returncode == 1
    assert "another detectron2 was imported before" in done.stderr
    assert str(installed / "detectron2") in done.stderr
    done = python("-c", code + f"; {WHERE}", path=(installed,))
    assert Path(done.stdout.strip()).parent == installed / "detectron2"


def test_activating_twice_changes_nothing():
    code = (
        "import sys, detectron2_embedded as d; before = list(sys.path); d.activate(); d.activate(); "
        "assert sys.path == before; assert sys.path.count(str(d.ROOT)) == 1"
    )
    python("-c", code, mode="embedded")


def test_a_script_elsewhere(tmp_path, installed):
    script = tmp_path / "script.py"
    script.write_text(f"import loradet\n{WHERE}\n")
    done = python(str(script), mode="embedded", path=(installed,), cwd=tmp_path)
    assert Path(done.stdout.strip()).parent == EMBEDDED


WORKER = """
import loradet
import multiprocessing
import sys

def where(queue):
    import detectron2
    queue.put(detectron2.__file__)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=where, args=(queue,))
    process.start()
    print(queue.get(timeout=50))
    process.join()
"""

# The child finds `detectron2` by the path that it inherits, before its own `import loradet`.
PICKLED_WORKER = """
import multiprocessing
from importlib.util import find_spec

if __name__ == "__main__":
    import loradet
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(find_spec, ("detectron2",)).origin)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("mode", ["embedded", "installed"])
def test_a_worker_uses_the_same_as_its_parent(tmp_path, installed, method, mode):
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("no forkserver")
    script = tmp_path / "workers.py"
    script.write_text(WORKER)
    done = python(str(script), method, mode=mode, path=(installed,))
    assert Path(done.stdout.strip()).parent == (EMBEDDED if mode == "embedded" else installed / "detectron2")


@NO_DETECTRON2_HERE
def test_a_spawned_worker_that_does_not_import_loradet(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(PICKLED_WORKER)
    assert Path(python(str(script)).stdout.strip()).parent == EMBEDDED


def test_a_tool_sees_the_one_that_the_environment_asks_for(installed):
    rows = {}
    for mode in ("embedded", "installed"):
        output = python("-m", "loradet.env", mode=mode, path=(installed,)).stdout
        rows[mode] = next(line for line in output.splitlines() if line.startswith("detectron2"))
    assert f"embedded ({EMBEDDED})" in rows["embedded"]
    assert "installed" in rows["installed"]
    assert str(installed / "detectron2") in rows["installed"]


def test_nothing_is_imported_by_activation():
    code = "import sys, detectron2_embedded; assert not {'detectron2', 'torch'} & set(sys.modules)"
    python("-c", code)


def test_the_embedded_one_does_not_know_loradet():
    sources = list((PROJECTS / "detectron2_embedded").rglob("*.py"))
    assert len(sources) > 1
    for source in sources:
        for line in source.read_text(encoding="utf-8").splitlines():
            assert not line.strip().startswith(("import loradet", "from loradet")), source
