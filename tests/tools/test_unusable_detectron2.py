"""A Detectron2 that cannot be used is one line of every tool, not a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

import detectron2_embedded

CONFIG = ("--config-file", "configs/quickstart.py")
TOOLS = {
    "adapters": ("inspect", "a.safetensors"),
    "benchmark": ("train", *CONFIG),
    "benchmark_scan": (),
    "calibrate": ("--predictions", "a.json", "--output", "b"),
    "compare_runs": ("a",),
    "convert_weights": ("a.pkl", "a.pth"),
    "datasets": ("check", "a.json", "--images", "a"),
    "experiments": ("list",),
    "export": (*CONFIG, "--checkpoint", "a.pth", "--output", "a.pt2"),
    "export_weights": ("a.pth", "a.safetensors"),
    "lazyconfig_train_net": CONFIG,
    "model_stats": ("configs/quickstart.py",),
    "predict": (*CONFIG, "--checkpoint", "a.pth", "--output", "a", "images"),
    "visualize": (*CONFIG, "--checkpoint", "a.pth", "--output", "a"),
}
CONFIG_PACKAGE = {
    "old": "CfgNode = dict\n",
    "broken": "LazyCall = 1\ntry:\n    from detectron2 import _C\nexcept ImportError:\n    pass\n",
}
SYMBOL = "libtorch.so: undefined symbol: _ZN3c105ErrorC2E"


def run(tool: str, *words: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in ("DETECTRON2_EMBEDDED", "LORADET_DETECTRON2")}
    projects = str(Path(detectron2_embedded.__file__).parents[1])
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, (path and str(path), projects))), **variables}
    command = [sys.executable, f"tools/{tool}.py", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_every_tool_is_here():
    assert TOOLS.keys() == {path.stem for path in (ROOT / "tools").glob("*.py")}


@pytest.mark.parametrize("tool", TOOLS)
def test_variables_that_disagree(tool):
    done = run(tool, *TOOLS[tool], DETECTRON2_EMBEDDED="always", LORADET_DETECTRON2="installed")
    assert done.returncode in (1, 2) and done.stdout == ""
    assert done.stderr == (
        "error: DETECTRON2_EMBEDDED=always and LORADET_DETECTRON2=installed contradict each other. Unset one of them.\n"
    )


@pytest.mark.parametrize(
    ("tool", "state"),
    [
        ("lazyconfig_train_net", "old"),
        ("lazyconfig_train_net", "broken"),
        pytest.param("predict", "old", marks=pytest.mark.slow),
        ("adapters", "broken"),
        pytest.param("experiments", "broken", marks=pytest.mark.slow),
    ],
)
def test_an_installed_one(tmp_path, tool, state):
    message = {"old": "is too old: it has no detectron2.config.LazyCall", "broken": f"cannot be imported: {SYMBOL}"}
    package = tmp_path / "detectron2"
    for name, text in {
        "__init__.py": "__version__ = '0.1'\n",
        "config/__init__.py": CONFIG_PACKAGE[state],
        "checkpoint.py": "import detectron2.config\n",
        "utils/__init__.py": "import detectron2.config\n",
        "_C.py": f"raise ImportError({SYMBOL!r})\n",
    }.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    words = ("export", *CONFIG, "--checkpoint", "a", "--output", "b.safetensors") if tool == "adapters" else TOOLS[tool]
    done = run(tool, *words, path=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: The installed Detectron2 0.1 ({package}) {message[state]}")
    assert done.stderr.endswith("or set DETECTRON2_EMBEDDED=always to use the subset in detectron2_embedded.\n")


def test_what_needs_no_detectron2_goes_on(tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_module\n")
    done = run("adapters", "inspect", str(tmp_path / "none.safetensors"), path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "none.safetensors" in done.stderr and done.stderr.count("\n") == 1
