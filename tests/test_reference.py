"""The pages of docs/reference/ are what the code says, and the code describes all that it writes."""

import importlib.util
from pathlib import Path

import pytest

from loradet.config.settings import describe_settings
from loradet.run_folder import RunFolder

SCRIPT = Path(__file__).parents[1] / "docs" / "make_reference.py"
_spec = importlib.util.spec_from_file_location("make_reference", SCRIPT)
make_reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_reference)


@pytest.fixture(scope="module")
def pages():
    return make_reference.pages()


def test_there_are_no_other_pages(pages):
    assert {path.name for path in make_reference.FOLDER.iterdir()} == set(pages)


@pytest.mark.parametrize("name", ["commands.md", "configs.md", "files.md", "metrics.md", "settings.md"])
def test_a_page_is_current(pages, name):
    written = (make_reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == pages[name], "run: python docs/make_reference.py"


def test_every_command_is_there(pages):
    for command in make_reference.COMMANDS:
        assert f"## loradet {command}\n" in pages["commands.md"]
    assert "## loradet data coco2017\n" in pages["commands.md"] and "`--bootstrap N`" in pages["commands.md"]


def test_every_file_that_a_run_folder_names_is_described():
    names = {value for name, value in vars(RunFolder).items() if name.isupper() and isinstance(value, str)}
    # The first is two of the others together; detections lie in folders.
    assert names - {RunFolder.CHECKPOINTS, RunFolder.PREDICTIONS} <= RunFolder.CONTENTS.keys()
    assert f"predictions/*/{RunFolder.PREDICTIONS}" in RunFolder.CONTENTS


def test_every_setting_is_described():
    """A key whose name says it all may do without."""
    bare = {one.key.rpartition(".")[2] for one in describe_settings() if not one.doc}
    assert bare <= {"enabled", "project", "entity", "broadcast_buffers", "norm_type"}


def test_a_cell_is_one_line_without_a_bar():
    assert make_reference.table(["a"], [["x |\n y"]]).splitlines()[-1] == "| x \\| y |"
