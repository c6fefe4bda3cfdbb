"""Which `detectron2` an import gives, under every mode and kind of install, each in a fresh interpreter."""

import importlib.metadata
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import detectron2_embedded

PROJECTS = Path(detectron2_embedded.__file__).parents[1]
EMBEDDED = PROJECTS / "detectron2_embedded" / "detectron2"
WHERE = "import detectron2; print(detectron2.__file__)"
VARIABLES = ("DETECTRON2_EMBEDDED", "LORADET_DETECTRON2")

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
    write(package, {"__init__.py": "__version__ = '0.7'\n", "config.py": "LazyCall = 'installed'\n"})
    return package.parent


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def python(
    *arguments: str,
    mode: str | None = None,
    variables: dict[str, str] | None = None,
    path: tuple[Path, ...] = (),
    cwd: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess:
    """A fresh interpreter; `mode` is of DETECTRON2_EMBEDDED, or of LORADET_DETECTRON2 where it is a word of that."""
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    environment |= variables or {}
    if mode is not None:
        environment[VARIABLES[mode in ("embedded", "installed")]] = mode
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*path, PROJECTS)))
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def location(code: str, **kwargs) -> Path:
    return Path(python("-c", code, **kwargs).stdout.splitlines()[-1]).parent


IS_INSTALLED = python("-c", "import detectron2_embedded", mode="never", check=False).returncode == 0
NO_DETECTRON2_HERE = pytest.mark.skipif(
    IS_INSTALLED, reason="needs an environment without an installed Detectron2, and this one has one"
)


@NO_DETECTRON2_HERE
@pytest.mark.parametrize("package", ["loradet", "detectron2_embedded"])
@pytest.mark.parametrize("mode", [None, "", "auto", "embedded", "always"])
def test_the_embedded_one_is_used_where_none_is_installed(package, mode):
    assert location(f"import {package}; {WHERE}", mode=mode) == EMBEDDED


@pytest.mark.parametrize("mode", [None, "auto", "installed", "never"])
def test_an_installed_one_wins(installed, mode):
    assert location(f"import loradet; {WHERE}", mode=mode, path=(installed,)) == installed / "detectron2"


@pytest.mark.parametrize("mode", ["embedded", "always"])
def test_embedded_is_used_before_an_installed_one(installed, mode):
    assert location(f"import loradet; {WHERE}", mode=mode, path=(installed,)) == EMBEDDED


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        pytest.param("auto", "installed", marks=NO_DETECTRON2_HERE),
        pytest.param("never", "installed", marks=NO_DETECTRON2_HERE),
        ("always", None),
    ],
)
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


@pytest.mark.parametrize(
    ("mode", "found", "way_out"),
    [
        ("always", "DETECTRON2_EMBEDDED=always", "DETECTRON2_EMBEDDED=never"),
        ("embedded", "LORADET_DETECTRON2=embedded", "LORADET_DETECTRON2=installed"),
    ],
)
def test_embedded_says_so_where_a_finder_comes_first(installed, tmp_path, mode, found, way_out):
    finder = SETUPTOOLS_FINDER.format(folder=str(installed), place="insert(0, EditableFinder)")
    (tmp_path / "early_finder.py").write_text(finder)
    code = "import early_finder; early_finder.install(); import loradet"
    done = python("-c", code, mode=mode, path=(tmp_path,), check=False)
    assert done.returncode == 1
    assert f"ImportError: {found}, but" in done.stderr and f"set {way_out}" in done.stderr
    assert str(installed) in done.stderr


@NO_DETECTRON2_HERE
@pytest.mark.parametrize("mode", [None, "embedded"])
def test_a_bare_folder_of_that_name_is_no_install(tmp_path, mode):
    (tmp_path / "detectron2" / "detectron2").mkdir(parents=True)
    assert location(f"import loradet; {WHERE}", mode=mode, cwd=tmp_path) == EMBEDDED


@NO_DETECTRON2_HERE
@pytest.mark.parametrize(
    ("mode", "written"), [("installed", "LORADET_DETECTRON2=installed"), ("never", "DETECTRON2_EMBEDDED=never")]
)
def test_installed_without_one_is_an_error(mode, written):
    done = python("-c", "import detectron2_embedded", mode=mode, check=False)
    assert done.returncode == 1
    assert f"ImportError: {written}, but no Detectron2 is installed" in done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DETECTRON2_EMBEDDED": "yes"}, "DETECTRON2_EMBEDDED='yes': expected one of auto, never, always."),
        ({"DETECTRON2_EMBEDDED": "embedded"}, "DETECTRON2_EMBEDDED='embedded': expected one of auto, never, always."),
        ({"LORADET_DETECTRON2": "embeded"}, "LORADET_DETECTRON2='embeded': expected one of auto, embedded, installed."),
        (
            {"DETECTRON2_EMBEDDED": "always", "LORADET_DETECTRON2": "installed"},
            "DETECTRON2_EMBEDDED=always and LORADET_DETECTRON2=installed contradict each other.",
        ),
        (
            {"DETECTRON2_EMBEDDED": "auto", "LORADET_DETECTRON2": "embedded"},
            "DETECTRON2_EMBEDDED=auto and LORADET_DETECTRON2=embedded contradict each other.",
        ),
    ],
)
def test_unknown_words_and_two_that_disagree_are_errors(variables, message):
    done = python("-c", "import loradet", variables=variables, check=False)
    assert done.returncode == 1
    assert f"ValueError: {message}" in done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"DETECTRON2_EMBEDDED": "always", "LORADET_DETECTRON2": "embedded"},
        {"DETECTRON2_EMBEDDED": "always", "LORADET_DETECTRON2": ""},
        {"DETECTRON2_EMBEDDED": "", "LORADET_DETECTRON2": "embedded"},
    ],
)
def test_two_that_agree_are_one(installed, variables):
    assert location(f"import loradet; {WHERE}", variables=variables, path=(installed,)) == EMBEDDED


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
@pytest.mark.parametrize("mode", ["embedded", "installed", "always", "never"])
def test_a_worker_uses_the_same_as_its_parent(tmp_path, installed, method, mode):
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("no forkserver")
    script = tmp_path / "workers.py"
    script.write_text(WORKER)
    done = python(str(script), method, mode=mode, path=(installed,))
    assert Path(done.stdout.strip()).parent == (
        EMBEDDED if mode in ("embedded", "always") else installed / "detectron2"
    )


@NO_DETECTRON2_HERE
@pytest.mark.parametrize("mode", [None, "always"])
def test_a_spawned_worker_that_does_not_import_loradet(tmp_path, mode):
    script = tmp_path / "workers.py"
    script.write_text(PICKLED_WORKER)
    assert Path(python(str(script), mode=mode).stdout.strip()).parent == EMBEDDED


def test_the_environment_page_names_the_embedded_one(installed):
    rows = environment_page(mode="embedded", path=(installed,))
    assert rows["detectron2"].startswith(f"embedded 0.6 ({EMBEDDED}")
    assert rows["LORADET_DETECTRON2"] == "embedded" and not {"detectron2._C", "DETECTRON2_EMBEDDED"} & rows.keys()


def test_the_environment_page_names_the_installed_one(installed):
    rows = environment_page(path=(installed,))
    assert rows["detectron2"] == f"installed 0.7 ({installed / 'detectron2'})"
    assert rows["detectron2._C"] == "not built" and rows["DETECTRON2_EMBEDDED"] == "auto (not set)"


def environment_page(**kwargs) -> dict[str, str]:
    lines = python("-m", "loradet.env", **kwargs).stdout.splitlines()
    return {name: value.strip() for name, _, value in (line.partition("  ") for line in lines)}


def test_nothing_is_imported_by_activation(installed):
    code = "import sys, detectron2_embedded as d; d.describe(); assert not {'detectron2', 'torch'} & set(sys.modules)"
    for mode in ("never", "always"):
        python("-c", code, mode=mode, path=(installed,))


# As Detectron2 asks for its compiled part: version 0.6 needs it, later ones go on without it.
LAYERS = {
    "0.6": "from detectron2 import _C\n",
    "main": "try:\n    from detectron2 import _C\nexcept ImportError:\n    print('goes on')\n",
}
GARBAGE = f"_C{EXTENSION_SUFFIXES[0]}"
SYMBOL = "libx.so: undefined symbol: _ZN3c105ErrorC2E"
TORCH = importlib.metadata.version("torch")
USE = "import detectron2_embedded; import detectron2.layers"


def last_line(installed: Path, code: str = USE, **kwargs) -> str:
    done = python("-c", code, path=(installed,), check=False, **kwargs)
    assert done.returncode == 1, done.stdout
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        (GARBAGE, "no library", f"{GARBAGE}: "),
        ("_C.py", f"raise ImportError({SYMBOL!r})", SYMBOL),
        ("_C.py", f"raise OSError({SYMBOL!r})", SYMBOL),
        ("_C.cpython-27-any.so", "", "_C.cpython-27-any.so is for another Python"),
    ],
)
@pytest.mark.parametrize(
    ("mode", "way_out"),
    [(None, "DETECTRON2_EMBEDDED=always"), ("installed", "LORADET_DETECTRON2=embedded")],
)
def test_one_built_for_another_torch_says_so_in_a_line(installed, layers, file, text, why, mode, way_out):
    write(installed / "detectron2", {"layers/__init__.py": LAYERS[layers], file: text})
    line = last_line(installed, mode=mode)
    start, _, rest = line.partition(" cannot be imported: ")
    assert start.endswith(f"InstalledError: The installed Detectron2 0.7 ({installed / 'detectron2'})")
    assert why in rest and TORCH.partition("+")[0] in rest
    assert "Install it again" in rest and f"or set {way_out} " in rest


def test_one_without_a_compiled_part_is_left_to_detectron2(installed):
    write(installed / "detectron2", {"layers/__init__.py": LAYERS["main"]})
    assert python("-c", USE, path=(installed,)).stdout == "goes on\n"
    write(installed / "detectron2", {"layers/__init__.py": LAYERS["0.6"]})
    assert "compiled part, detectron2._C, has not been built. Install it again" in last_line(installed)


def test_one_that_fails_for_another_reason_keeps_its_own_error(installed):
    write(installed / "detectron2", {"layers/__init__.py": "import detectron2.config, PIL\nPIL.LINEAR\n"})
    line = last_line(installed)
    assert "cannot be imported: AttributeError: module 'PIL' has no attribute 'LINEAR'. Install it again" in line
    (installed / "detectron2" / "__init__.py").write_text("import no_such_module\n")
    assert "of unknown version" in last_line(installed)
    assert "cannot be imported: No module named 'no_such_module'. Install that, or set" in last_line(installed)
    code = "import detectron2_embedded\ntry: import detectron2.layers\nexcept ModuleNotFoundError as e: print(e.name)"
    assert python("-c", code, path=(installed,)).stdout == "no_such_module\n"


def test_what_detectron2_tries_to_import_may_fail(installed):
    write(
        installed / "detectron2",
        {
            "layers/__init__.py": "try:\n    import detectron2.extra\nexcept ModuleNotFoundError as e:\n    print(e)\n",
            "extra.py": "import no_such_module\n",
        },
    )
    assert python("-c", USE, path=(installed,)).stdout == "No module named 'no_such_module'\n"


def test_modules_of_an_installed_one_keep_their_loaders(installed):
    write(installed / "detectron2", {"layers/__init__.py": "", "layers/names.txt": "a", "_C.py": "KIND = 1"})
    code = (
        "import detectron2_embedded, inspect, importlib.resources, importlib.util, detectron2._C, detectron2.layers;"
        "from importlib.machinery import SourceFileLoader as S;"
        "assert type(detectron2.layers.__loader__) is S and detectron2._C.KIND == 1;"
        "assert inspect.getsource(detectron2._C).strip() == 'KIND = 1';"
        "assert importlib.resources.files('detectron2.layers').joinpath('names.txt').read_text() == 'a';"
        "assert importlib.util.find_spec('detectron2.absent') is None"
    )
    python("-c", code, path=(installed,))


def test_one_that_is_too_old_says_so_in_a_line(installed):
    (installed / "detectron2" / "config.py").unlink()
    write(
        installed / "detectron2",
        {"config/__init__.py": "CfgNode = dict\n", "layers.py": "", "__init__.py": "__version__ = '0.4'\n"},
    )
    expected = (
        f"The installed Detectron2 0.4 ({installed / 'detectron2'}) is too old: it has no detectron2.config.LazyCall"
    )
    for module in ("config", "layers"):
        line = last_line(installed, f"import loradet; from detectron2 import {module}")
        assert expected in line and "0.4.1" in line and "or set DETECTRON2_EMBEDDED=always" in line
    assert expected in environment_page(path=(installed,))["detectron2"]
    assert location(f"import loradet; {WHERE}; import detectron2.config", mode="always", path=(installed,)) == EMBEDDED


DESCRIBE = (
    "import detectron2_embedded; found = detectron2_embedded.describe();"
    "print(found.kind, found.version, found.folder, found.revision, found.label, sep='|')"
)


def described(**kwargs) -> list[str]:
    return python("-c", DESCRIBE, **kwargs).stdout.strip().split("|")


def test_the_embedded_one_describes_itself(installed):
    kind, version, folder, revision, label = described(mode="always", path=(installed,))
    assert (kind, version, folder) == ("embedded", "0.6", str(EMBEDDED))
    assert label.startswith("embedded 0.6") and (revision == "None" or revision[:12] in label)


def test_the_revision_is_of_the_repository_that_keeps_it(installed, tmp_path):
    folder = installed / "detectron2"
    assert described(path=(installed,)) == ["installed", "0.7", str(folder), "None", "installed 0.7"]
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "README").write_text("another project, in whose folder it happens to lie")
    for words in (["init", "-q"], ["add", "README"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    assert described(path=(installed,))[3] == "None"
    for words in (["add", "elsewhere"], ["commit", "-qm", "second"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert described(path=(installed,))[3:] == [head, f"installed 0.7 ({head[:12]})"]
    write(folder, {"config.py": "LazyCall = 'changed'\n"})
    assert described(path=(installed,))[3:] == [f"{head}+changes", f"installed 0.7 ({head[:12]}+changes)"]


def test_the_revision_that_pip_noted(installed):
    noted = '{"url": "https://github.com/x/detectron2", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}'
    metadata = "Metadata-Version: 2.1\nName: detectron2\nVersion: 0.7\n"
    write(installed / "detectron2-0.7.dist-info", {"METADATA": metadata, "direct_url.json": noted})
    assert described(path=(installed,))[3:] == ["0123456789abcdef", "installed 0.7 (0123456789ab)"]


# Neither the name nor the module can be reached.
WITHOUT_LORADET = """
import importlib, pkgutil, sys
sys.modules["loradet"] = None
import detectron2_embedded, detectron2
for package in (detectron2_embedded, detectron2):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=lambda name: 1 / 0):
        if not module.name.startswith("detectron2_embedded.detectron2"):
            importlib.import_module(module.name)
print(len(sys.modules))
"""


def test_it_does_without_loradet():
    python("-c", WITHOUT_LORADET, mode="always")
    sources = list((PROJECTS / "detectron2_embedded").rglob("*.py"))
    assert len(sources) > 50
    for source in sources:
        for line in source.read_text(encoding="utf-8").splitlines():
            assert not line.strip().startswith(("import loradet", "from loradet")), source
            assert "docs/install.md" not in line, source
