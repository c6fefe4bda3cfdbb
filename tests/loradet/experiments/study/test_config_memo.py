"""What is known of configs is given back while nothing has changed, and is read anew where anything has."""

import importlib
import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from loradet.experiments.study import config_memo
from loradet.experiments.study.config_memo import FILE, ConfigMemo

LONG_AGO = 1e9


def write(path: Path, text: str, when: float = LONG_AGO) -> None:
    path.write_text(text)
    os.utime(path, (when, when))


@pytest.fixture
def config(tmp_path) -> Path:
    """A config that reads another file; written long ago."""
    write(tmp_path / "part.py", "rank = 4\n")
    write(tmp_path / "config.py", "from .part import rank\nroot = '${oc.env:SOME_ROOT,here}'\n")
    return tmp_path / "config.py"


class Reading:
    """What a command does: reads the config where its value is not known, and keeps it."""

    def __init__(self, config: Path):
        self.config, self.times = config, 0

    def make(self) -> dict:
        self.times += 1
        return {"text": self.config.read_text() + (self.config.parent / "part.py").read_text()}

    def __call__(self, *words: str) -> int:
        """How often it was read, after another command has asked."""
        memo = ConfigMemo(self.config.parent)
        assert memo.get("text", self.config, words, self.make)["text"].startswith("from .part")
        memo.save()
        return self.times


def test_it_is_read_once(config):
    reading = Reading(config)
    assert [reading(), reading(), reading("a=1"), reading("a=1")] == [1, 1, 2, 2]
    assert set(json.loads((config.parent / FILE).read_text())) == {"code", "sources", "values"}


@pytest.mark.parametrize("name", ["config.py", "part.py"])
def test_a_file_that_has_changed(config, name):
    reading = Reading(config)
    reading()
    text = (config.parent / name).read_text()
    write(config.parent / name, text + "x = 1\n", LONG_AGO + 1)
    assert [reading(), reading()] == [2, 2]
    write(config.parent / name, text + "x = 2\n", LONG_AGO + 2)  # of the same size
    assert reading() == 3
    (config.parent / "part.py").rename(config.parent / "gone.py")
    with pytest.raises(FileNotFoundError):
        reading()


def test_a_variable_that_it_names(config, monkeypatch):
    reading = Reading(config)
    reading()
    monkeypatch.setenv("ANOTHER", "there")
    assert reading() == 1
    monkeypatch.setenv("SOME_ROOT", "there")
    assert [reading(), reading()] == [2, 2]


def test_a_variable_that_a_word_names(config, monkeypatch):
    reading = Reading(config)
    reading("data.root=${oc.env:MY_DATA}")
    monkeypatch.setenv("MY_DATA", "there")
    assert reading("data.root=${oc.env:MY_DATA}") == 2


@pytest.mark.parametrize("line", ["import os; x = os.environ['A']", "x = path.exists()", "import random"])
def test_a_config_that_looks_around_is_always_read(config, line):
    write(config, config.read_text() + line)
    reading = Reading(config)
    assert [reading(), reading()] == [1, 2]


def test_a_file_that_has_just_been_written_may_be_written_again(config):
    later = config.stat().st_mtime + 1e9
    os.utime(config, (later, later))
    reading = Reading(config)
    assert [reading(), reading()] == [1, 2]


def test_a_module_of_the_users_own(config, monkeypatch):
    monkeypatch.syspath_prepend(config.parent)
    write(config.parent / "my_ranks.py", "RANK = 4\n")
    write(config, config.read_text() + "from my_ranks import RANK\n")
    importlib.import_module("my_ranks")  # by another config, earlier: nothing opens it now
    try:
        reading = Reading(config)
        reading()
        assert reading() == 1
        write(config.parent / "my_ranks.py", "RANK = 8\n", LONG_AGO + 1)
        assert reading() == 2
    finally:
        del sys.modules["my_ranks"]


def test_other_code(config, monkeypatch):
    reading = Reading(config)
    reading()
    monkeypatch.setattr(config_memo, "_code", lambda: "of another version")
    assert [reading(), reading()] == [2, 2]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"code": 1}', '{"code": "CODE", "sources": 3, "values": {}}'])
def test_a_broken_file_is_as_good_as_none(config, content):
    (config.parent / FILE).write_text(content.replace("CODE", config_memo._code()))
    reading = Reading(config)
    assert [reading(), reading()] == [1, 1]


def test_what_json_cannot_hold_is_made_each_time(config):
    memo = ConfigMemo(config.parent)
    assert memo.get("kind", config, (), lambda: {"a": (1, 2)}) == {"a": (1, 2)}
    memo.save()
    assert not (config.parent / FILE).exists()


def test_without_a_folder_nothing_is_written(config, tmp_path):
    memo = ConfigMemo(tmp_path / "work_dirs")
    assert memo.get("kind", config, (), lambda: 1) == memo.get("kind", config, (), lambda: 2) == 1
    memo.save()
    assert not (tmp_path / "work_dirs").exists()


def test_another_process_reads_for_itself(config):
    memo = ConfigMemo(config.parent)
    memo.get("kind", config, (), lambda: 1)
    assert pickle.loads(pickle.dumps(memo)).get("kind", config, (), lambda: 2) == 2


def test_a_module_that_read_a_file_when_it_was_imported(tmp_path, monkeypatch):
    """For the second config the module is there already, and nobody sees what it has read."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path / "classes.json", "[1, 2]")
    text = "import json\nfrom pathlib import Path\n"
    write(tmp_path / "memo_helper.py", text + "CLASSES = json.load((Path(__file__).parent / 'classes.json').open())\n")
    for name in ("a.py", "b.py"):
        write(tmp_path / name, "from memo_helper import CLASSES\n")
    times = []
    for _ in range(2):
        memo = ConfigMemo(tmp_path)
        for name in ("a.py", "b.py"):
            memo.get("classes", tmp_path / name, (), lambda name=name: times.append(name) or _read(tmp_path / name))
        memo.save()
    assert times == ["a.py", "b.py", "b.py"]
    sys.modules.pop("memo_helper")


def _read(config: Path) -> list[int]:
    config.read_text()
    return importlib.import_module("memo_helper").CLASSES
