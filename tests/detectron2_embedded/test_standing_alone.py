"""The embedded Detectron2 as a package of its own: it builds, and asks for all that it imports."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "projects" / "detectron2_embedded"
MODULES = {
    "hydra-core": "hydra",
    "pyyaml": "yaml",
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
}  # where they differ from the distribution's name


def requirements(file: Path, begin: str) -> dict[str, str]:
    """Version bounds by distribution, of the list that follows `begin`."""
    text = file.read_text(encoding="utf-8").partition(begin)[2].partition("]")[0]
    return dict(re.findall(r'"([A-Za-z0-9-]+)([^"]*)"', text))


@pytest.fixture(scope="module")
def dependencies() -> dict[str, str]:
    return requirements(PACKAGE / "pyproject.toml", "dependencies = [")


def test_its_requirements_are_those_of_the_repository(dependencies):
    assert len(dependencies) > 10
    assert dependencies.items() <= requirements(ROOT / "setup.py", "install_requires=[").items()


def test_it_requires_what_it_imports(dependencies):
    known = {MODULES.get(name, name) for name in dependencies} | {"detectron2", "detectron2_embedded"}
    missing = {}
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - known - sys.stdlib_module_names:
                missing[name] = source.name
    assert not missing


def test_it_is_built_and_used_without_the_repository(tmp_path):
    pytest.importorskip("setuptools", reason="needs setuptools")
    pytest.importorskip("wheel", reason="needs wheel")
    copy = tmp_path / "somewhere" / "detectron2_embedded"
    copy.mkdir(parents=True)
    for file in PACKAGE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and "build" not in file.relative_to(PACKAGE).parts[:1]:
            (copy / file.relative_to(PACKAGE)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(PACKAGE)).write_bytes(file.read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "-w", tmp_path, copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("detectron2_embedded-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"detectron2_embedded/{file.relative_to(PACKAGE).as_posix()}" for file in PACKAGE.rglob("*.py")}
    assert expected - names == set() and "detectron2_embedded/README.md" in names
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.modules['loradet'] = None\n"
        "import detectron2_embedded\nfrom detectron2.config import LazyCall, instantiate\n"
        "print(instantiate(LazyCall(complex)(real=1, imag=2)), detectron2_embedded.describe())"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "DETECTRON2_EMBEDDED": "always", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    folder = tmp_path / "site" / "detectron2_embedded" / "detectron2"
    assert done.stdout == f"(1+2j) embedded 0.6 ({folder})\n", done.stderr


def test_its_import_warns_of_nothing():
    """fvcore compiles a loss at import by what newer torch calls deprecated."""
    program = "import detectron2_embedded as d; d.activate(); import detectron2.layers.batch_norm"
    environment = {**os.environ, "DETECTRON2_EMBEDDED": "always", "PYTHONPATH": str(ROOT / "projects")}
    environment.pop("LORADET_DETECTRON2", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
