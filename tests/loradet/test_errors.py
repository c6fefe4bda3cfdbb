"""What a user sees of an error."""

import importlib
import inspect
import pkgutil

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import loradet
from loradet.errors import UserError, errors_in_one_line, is_user_error, one_line


def test_every_error_of_ours_is_for_users():
    found = {}
    for module in pkgutil.walk_packages(loradet.__path__, "loradet."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == module.name:
                found[name] = value
    # A lock that is held is no mistake, whoever meets it says what that means; RunError is for what is no mistake.
    private = {"LockedError", "RunError", *(name for name in found if name.startswith("_"))}
    assert {"SampleError", "AdapterError", "CheckpointError", "FileError", "NonFiniteLossError"} < found.keys()
    assert not {name for name, value in found.items() if not issubclass(value, UserError)} - private


def test_older_excepts_still_meet_them():
    from loradet.backbones.timm_factory import PretrainedWeightsError
    from loradet.datasets.download.http import DownloadError
    from loradet.training.trainer import NonFiniteLossError

    assert issubclass(UserError, ValueError)
    assert issubclass(PretrainedWeightsError, RuntimeError) and issubclass(NonFiniteLossError, RuntimeError)
    assert issubclass(DownloadError, OSError) and str(DownloadError("no answer")) == "no answer"


def test_lines_are_joined_and_what_libraries_add_is_left_out():
    assert one_line(UserError("two\n  lines")) == "two lines"
    assert one_line(KeyError("no dataset")) == "no dataset"
    assert one_line(UserError()) == "UserError"
    with pytest.raises(OmegaConfBaseException) as missing:
        OmegaConf.create({"data": {"root": "???"}}).data.root  # noqa: B018
    assert one_line(missing.value) == "The config has no value for data.root; give it as data.root=VALUE."
    worker = "Caught SampleError in DataLoader worker process 1.\nOriginal Traceback:\na.b.SampleError: x.png: cut"
    assert one_line(UserError(worker)) == "x.png: cut"


@pytest.mark.parametrize(
    ("error", "shown"),
    [(UserError("bad"), True), (OSError("full"), True), (ImportError("trackio"), True), (TypeError("argument"), False)],
)
def test_a_program_ends_by_a_line_or_by_its_traceback(error, shown, capsys, monkeypatch):
    monkeypatch.delenv("LORADET_TRACEBACK", raising=False)
    assert is_user_error(error) == shown
    with pytest.raises(SystemExit if shown else TypeError) as stop, errors_in_one_line():
        raise error
    assert not shown or stop.value.code == f"error: {error}"
    assert capsys.readouterr().err == ""


def test_another_status_and_the_traceback_for_who_asks(capsys, monkeypatch):
    monkeypatch.setenv("LORADET_TRACEBACK", "1")
    with pytest.raises(SystemExit) as stop, errors_in_one_line(status=2):
        raise UserError("bad")
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == "error: bad"
