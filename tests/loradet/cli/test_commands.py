"""The command `loradet`: its subcommands are the tools, by other names."""

import subprocess
import sys

import pytest
from helpers.paths import ROOT

from loradet.cli import COMMANDS, main

HEAVY = (
    "heavy = [m for m in ('torch', 'detectron2', 'timm', 'torchvision') if m in sys.modules]; assert not heavy, heavy"
)


def test_help_lists_every_command_and_loads_nothing_heavy():
    words = " ".join(COMMANDS)
    program = f"""
import sys
from loradet.cli import main
for command in {words!r}.split():
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert not stop.code, command
{HEAVY}
assert main(["--help"]) == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command, (*_, what) in COMMANDS.items():
        assert f"usage: loradet {command}" in done.stdout
        assert what in done.stdout


def test_another_word_is_refused_with_the_nearest(capsys):
    assert main(["tran"]) == 2
    assert capsys.readouterr().err.endswith("error: 'tran' is none of these commands; nearest: train\n")
    assert main([]) == 2


def test_tools_are_shims():
    for tool in (ROOT / "tools").glob("*.py"):
        assert len(tool.read_text().splitlines()) == 13, tool


def test_configs_and_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["configs", "yolo"])
    listed = capsys.readouterr().out
    assert "custom_yolo.py" in listed and "custom_coco.py" not in listed
    main(["copy", "custom_coco", "mine"])
    assert (tmp_path / "mine" / "custom_coco.py").is_file()
    written, command = capsys.readouterr().out.splitlines()
    assert written == "Written: mine/custom_coco.py"
    assert command == "Train on it: loradet train --config-file mine/custom_coco.py KEY=VALUE …"
    with pytest.raises(SystemExit, match=r"error: .*exists already"):
        main(["copy", "custom_coco", "mine"])


def test_output_is_the_folder_of_the_run():
    from loradet.cli.train import parse_arguments

    given = parse_arguments(["--config-file", "a.py", "--output", "work_dirs/mine", "train.seed=1"])
    assert given.overrides == ["train.seed=1", "train.output_dir=work_dirs/mine"]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("loradet ")
