"""Commands that are printed for pasting are those of the program that was called."""

import os
import sys
from pathlib import Path

import pytest

import loradet
from loradet.training.command import resume_command
from loradet.training.folder.tool_commands import TOOLS, tool_command

PACKAGE = Path(loradet.__file__).parent


@pytest.fixture
def loradet_on_path(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "loradet"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return program


def test_who_calls_loradet_is_told_loradet(loradet_on_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(loradet_on_path), "train", "--config-file", "a b.py", "train.seed=1"])
    assert resume_command() == "loradet train --resume --config-file 'a b.py' train.seed=1"
    assert tool_command("predict.py", "--output", Path("x y")) == "loradet predict --output 'x y'"
    assert tool_command("lazyconfig_train_net.py", "--eval-only") == "loradet evaluate"
    assert tool_command("datasets.py", "check") == "loradet data check"


@pytest.mark.usefixtures("loradet_on_path")
def test_who_calls_the_module_is_told_the_module(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(PACKAGE / "cli" / "__main__.py"), "train", "--resume", "train.seed=1"])
    assert resume_command().endswith(" -m loradet.cli train --resume train.seed=1")
    assert tool_command("adapters.py", "inspect").endswith(" -m loradet.cli adapters inspect")


def test_who_calls_a_tool_is_told_tools_by_the_shorter_path(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["tools/lazyconfig_train_net.py", "train.overwrite=True", "train.seed=1"])
    monkeypatch.chdir(TOOLS.parent)
    assert resume_command().endswith(" tools/lazyconfig_train_net.py --resume train.seed=1")
    assert tool_command("predict.py").endswith(" tools/predict.py")
    deep = tmp_path / "a" / "b" / "c" / "d" / "e" / "f" / "g"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert tool_command("predict.py").endswith(f" {TOOLS / 'predict.py'}")


def test_torchrun_takes_the_place_of_the_interpreter(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("GROUP_WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", ["tools/lazyconfig_train_net.py", "train.seed=1"])
    assert resume_command() == "torchrun --nproc-per-node=2 tools/lazyconfig_train_net.py --resume train.seed=1"
    monkeypatch.setattr(sys, "argv", [str(PACKAGE / "cli" / "__main__.py"), "train", "train.seed=1"])
    assert resume_command() == "torchrun --nproc-per-node=2 -m loradet.cli train --resume train.seed=1"
    monkeypatch.setattr(sys, "argv", ["/opt/bin/loradet", "train", "train.seed=1"])
    assert resume_command() == "torchrun --nproc-per-node=2 -m loradet.cli train --resume train.seed=1"
