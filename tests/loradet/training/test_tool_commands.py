"""Command lines that are printed to be pasted: of the program that this process was started as."""

import sys
from pathlib import Path

import pytest

import loradet
from loradet.training.command import resume_command
from loradet.training.tool_commands import python_name, tool_command

WORDS = ["--config-file", "a b.py", "--resume", "train.seed=1"]
RESUME = "--resume --config-file 'a b.py' train.seed=1"
MODULE = str(Path(loradet.__file__).parent / "cli" / "__main__.py")


@pytest.fixture(autouse=True)
def without_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


def test_a_tool(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/lazyconfig_train_net.py", *WORDS])
    assert resume_command() == f"{python_name()} tools/lazyconfig_train_net.py {RESUME}"
    assert "tools/predict.py --output found" in tool_command("predict.py", "--output", "found")


def test_the_command(monkeypatch, tmp_path):
    script = tmp_path / "loradet"
    script.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sys, "argv", [str(script), "train", *WORDS])
    assert resume_command() == f"loradet train {RESUME}"
    assert tool_command("predict.py", "--output", "found") == "loradet predict --output found"
    assert tool_command("lazyconfig_train_net.py", "--eval-only").startswith("loradet train --eval-only")


def test_the_module_and_a_script_that_is_not_on_the_path(monkeypatch, tmp_path):
    for program in (MODULE, str(tmp_path / "loradet")):
        monkeypatch.setattr(sys, "argv", [program, "train", *WORDS])
        assert resume_command() == f"{python_name()} -m loradet.cli train {RESUME}"


def test_under_torchrun(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", [MODULE, "train", *WORDS])
    assert resume_command() == f"torchrun --nproc-per-node=2 -m loradet.cli train {RESUME}"
    monkeypatch.setattr(sys, "argv", ["tools/lazyconfig_train_net.py", *WORDS])
    assert resume_command() == f"torchrun --nproc-per-node=2 tools/lazyconfig_train_net.py {RESUME}"
