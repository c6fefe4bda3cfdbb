"""Logging set-up and messages that repeat only so often."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"logger_of_{request.node.name}"
    yield name
    logging.getLogger(name).handlers.clear()


def test_file_and_console(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for _ in range(2):
        logger = setup_logger(str(tmp_path / "sub"), name=name, color=False)
    logger.info("hello %d", 3)
    logger.getChild("a.b").warning("careful")
    for text in (capsys.readouterr().out, (tmp_path / "sub" / "log.txt").read_text()):
        lines = text.splitlines()
        assert len(lines) == 2, "each message once"
        assert lines[0].endswith(": hello 3")
        assert "WARNING" in lines[1] and lines[1].endswith("careful")


@pytest.mark.subset  # how a line looks, and that a logger is set up once however its arguments are written
def test_names_are_short(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    logger = setup_logger(tmp_path / "sub", name=name, abbrev_name="short", color=False)
    assert setup_logger(tmp_path / "sub", name=name) is logger
    logger.getChild("a.b").warning("careful")
    for text in (capsys.readouterr().out, (tmp_path / "sub" / "log.txt").read_text()):
        assert text.endswith("short.a.b]: WARNING careful\n")
        assert len(text.splitlines()) == 1


def test_named_file_and_second_folder(name: str, tmp_path: Path) -> None:
    logger = setup_logger(str(tmp_path / "a.log"), name=name, configure_stdout=False)
    setup_logger(str(tmp_path / "b"), name=name, configure_stdout=False)
    logger.info("both")
    assert "both" in (tmp_path / "a.log").read_text()
    assert "both" in (tmp_path / "b" / "log.txt").read_text()


def test_other_ranks_keep_the_console_free(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    logger = setup_logger(str(tmp_path), distributed_rank=2, name=name)
    logger.info("quiet")
    assert capsys.readouterr().out == ""
    assert "quiet" in (tmp_path / "log.txt.rank2").read_text()


def test_color_is_for_the_console_only(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # termcolor leaves text plain where nothing is a terminal.
    monkeypatch.setattr("detectron2.utils.logger.colored", lambda text, *_, **__: f"\x1b[32m{text}\x1b[0m")
    setup_logger(str(tmp_path), name=name).info("text")
    assert "\x1b[" in capsys.readouterr().out
    assert "\x1b[" not in (tmp_path / "log.txt").read_text()


def test_two_loggers_share_a_file(name: str, tmp_path: Path) -> None:
    setup_logger(str(tmp_path), name=name, configure_stdout=False).info("first")
    other = setup_logger(str(tmp_path), name=name + "_other", configure_stdout=False)
    other.info("second")
    other.handlers.clear()
    assert [line.rsplit(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]


def test_propagation(name: str, caplog: pytest.LogCaptureFixture) -> None:
    setup_logger(name=name, configure_stdout=False).info("kept")
    setup_logger(name=name, configure_stdout=False, enable_propagation=True).info("handed on")
    assert [record.message for record in caplog.records] == ["handed on"]


def test_log_first_n(caplog: pytest.LogCaptureFixture) -> None:
    for i in range(5):
        log_first_n(logging.WARNING, f"line {i}", 2)
        log_first_n(logging.WARNING, f"same {i % 2}", key="message")
    messages = [record.message for record in caplog.records]
    assert messages == ["line 0", "same 0", "line 1", "same 1"]
    assert caplog.records[0].name == __name__


@pytest.mark.subset
def test_log_first_n_of_an_unknown_key() -> None:
    with pytest.raises(ValueError, match="caller"):
        log_first_n(logging.WARNING, "x", key="line")


def test_log_every_n(caplog: pytest.LogCaptureFixture) -> None:
    for i in range(7):
        log_every_n(logging.WARNING, f"third {i}", 3, name="mine")
    assert [record.message for record in caplog.records] == ["third 0", "third 3", "third 6"]
    assert {record.name for record in caplog.records} == {"mine"}


def test_log_every_n_seconds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    for clock in ("time.monotonic", "time.time"):
        monkeypatch.setattr(clock, lambda: now[0])
    for step in (0, 1, 3, 1, 5):
        now[0] += step
        log_every_n_seconds(logging.WARNING, f"at {now[0]:.0f}", 4)
    assert [record.message for record in caplog.records] == ["at 100", "at 104", "at 110"]


def test_small_table() -> None:
    head, _, row = create_small_table({"AP": 31.23456, "AP50": 60.0}).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["AP", "AP50"]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["31.235", "60.000"]
