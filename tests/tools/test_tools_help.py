"""`--help` of every tool answers at once: parsing comes before the heavy imports."""

import subprocess
import sys

import pytest
from helpers.paths import ROOT

TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.name[0] != "_")

RUN = """
import runpy, sys
sys.argv = [{path!r}, "--help"]
try:
    runpy.run_path({path!r}, run_name="__main__")
    code = 0
except SystemExit as stop:
    code = stop.code or 0
heavy = [name for name in ("torch", "detectron2", "timm", "torchvision") if name in sys.modules]
print("\\nHEAVY", heavy, file=sys.stderr)
sys.exit(code)
"""


def test_there_are_tools():
    assert TOOLS


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_help_is_light(path):
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(path=str(path))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("HEAVY []"), done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_an_unknown_option_is_refused(path):
    done = subprocess.run(
        [sys.executable, str(path), "--no-such-option-anywhere"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "error" in done.stderr
    assert "Traceback" not in done.stderr
