"""The command `loradet`: its subcommands are the tools, by other names."""

import os
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


def test_ctrl_c_is_a_line_and_status_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("loradet.cli.stats.main", interrupted)
    assert main(["stats", "quickstart"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


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


def test_words_are_overrides_unless_a_file_has_that_name(tmp_path, monkeypatch):
    from loradet.cli.overrides import split_overrides

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run=1").mkdir()
    (tmp_path / "run=1" / "a.jpg").touch()
    words = [
        "images",
        "data.root=x",
        "run=1",
        "run=*/*.jpg",
        "+train.new=1",
        "run=2",
        "sizes[0]=3",
        "./a=b",
        "model.pth",
    ]
    assert split_overrides(words) == (
        ["images", "run=1", "run=*/*.jpg", "./a=b", "model.pth"],
        ["data.root=x", "+train.new=1", "run=2", "sizes[0]=3"],
    )


@pytest.mark.parametrize(
    "words", [["-n", "2", "out.json"], ["out.json", "-n", "2"], ["--output", "out.json", "-n", "2"]]
)
def test_output_is_an_option_everywhere_and_the_last_word_where_it_was(words, tmp_path, monkeypatch, capsys):
    from loradet.datasets.synthetic import generate

    monkeypatch.chdir(tmp_path)
    generate(tmp_path, size=(32, 32), counts={"train": 3})
    assert main(["data", "subset", "Annotations/train.json", *words]) == 0
    assert capsys.readouterr().out.startswith("out.json: 2 images")


@pytest.mark.parametrize(
    "words, message",
    [
        (["data", "subset", "a.json", "-n", "2"], "required: --output"),
        (["data", "subset", "a.json", "b.json", "-n", "2", "--output", "c.json"], "--output, once"),
        (["data", "subset", "a.json", "b.json", "-n", "2", "c.json"], "unrecognized arguments: c.json"),
        (["data", "check", "a.json", "model.num_classes=2"], "KEY=VALUE goes with --config-file"),
        (["weights", "convert", "a.pkl"], "required: --output"),
        (["stats"], "expected one config; got none"),
        (["stats", "a.py", "--config-file", "b.py"], "expected one config; got b.py, a.py"),
        (["predict", "a=1", "--checkpoint", "a.pth", "--config-file", "a.py", "--output", "x"], "name images"),
        (["predict", "a.png", "b=1", "--exported", "a.pt2", "--output", "x"], "says everything"),
    ],
)
def test_words_that_do_not_fit_are_refused(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err


# Each command as far as a file that is not there.
BROKEN = {
    "train": "--config-file no.py",
    "evaluate": "--config-file no.py",
    "predict": "--config-file no.py --checkpoint a.pth --output out image.png",
    "data": "summary no.json",
    "study": "--study no list",
    "compare": "no",
    "adapters": "inspect no.safetensors",
    "weights": "convert no.pkl out.pth",
    "export": "--config-file no.py --checkpoint a.pth --output out.pt2",
    "visualize": "--config-file no.py --checkpoint a.pth --output out",
    "calibrate": "--predictions no.json --output out",
    "benchmark": "train --config-file no.py",
    "stats": "--config-file no.py",
    "copy": "no",
}


def test_every_command_is_tried():
    assert set(BROKEN) == set(COMMANDS) - {"configs", "env"}  # which read no file


@pytest.mark.parametrize("command", BROKEN)
@pytest.mark.parametrize("asked", [False, True])
def test_a_mistake_is_one_line_and_a_traceback_for_whoever_asks(command, asked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORADET_TRACEBACK", "1" if asked else "")
    try:
        status = main([command, *BROKEN[command].split()])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr().err + (f"{status}\n" if isinstance(status, str) else "")
    assert status not in (None, 0)
    assert ("Traceback (most recent call last)" in shown) == asked
    assert shown.splitlines()[-1].startswith("error: ")
    assert asked or shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["configs", "study --study sar_lora_dino/mini list"])
def test_a_reader_that_has_enough_is_no_error(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "loradet.cli", *words.split()],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == ""
    assert process.wait() == 141
