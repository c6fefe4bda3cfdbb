"""Files are written whole or not at all, and read with one wording for what is wrong."""

import errno
import json
import re
import resource
import stat
from contextlib import contextmanager

import pytest
import torch

from loradet.errors import UserError
from loradet.files import FileError, WriteError, atomic_open, atomic_path, read_json, remove_abandoned, write_json


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_open(path) as file:
        file.write("half")
        raise RuntimeError
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def largest_file(size):
    """No file grows beyond a number of bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("how", ["text", "bytes", "torch", "by itself"])
def test_a_full_disk_is_told_with_the_file_that_was_to_be_written(tmp_path, how):
    path = tmp_path / "file.bin"
    path.write_text("old")
    told = f"^{re.escape(str(path))} cannot be written: File too large. Make room, then try again.$"
    with largest_file(100), pytest.raises(WriteError, match=told) as caught:
        if how == "text":
            write_json(path, list(range(100_000)))
        elif how == "by itself":
            with atomic_path(path) as temporary:
                temporary.write_bytes(bytes(1000))
        else:
            with atomic_open(path, "wb") as file:
                file.write(bytes(1000)) if how == "bytes" else torch.save({"a": torch.ones(1000)}, file)
    assert isinstance(caught.value, UserError) and isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_takes_no_file_is_told_too(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WriteError, match=r"file/a\.json cannot be written: Not a directory\.$"):
        write_json(tmp_path / "file" / "a.json", {})


def test_errors_of_something_else_stay_what_they_are(tmp_path):
    for error in (
        FileNotFoundError(errno.ENOENT, "no such image", "image.png"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        OSError("of a library"),
        RuntimeError("of a library"),
    ):
        with pytest.raises(type(error)) as caught, atomic_open(tmp_path / "a.json") as file:
            file.write("half")
            raise error
        assert caught.value is error


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    with atomic_open(tmp_path / "ours", "wb") as file:
        file.write(b"\x00\xff")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").read_bytes() == b"\x00\xff"
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_what_opens_files_by_itself_writes_them_whole_or_not_at_all(tmp_path):
    path = tmp_path / "film.mp4"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".mp4" and temporary.parent == tmp_path
        temporary.write_bytes(b"whole")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    with atomic_path(path):  # nothing was written
        pass
    (tmp_path / "plain").touch()
    assert path.read_bytes() == b"whole" and sorted(tmp_path.iterdir()) == [path, tmp_path / "plain"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("name", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_every_unicode_encoding(tmp_path, name):
    file = tmp_path / "a.json"
    file.write_bytes('{"ship": "Å"}'.encode(name))
    assert read_json(file) == {"ship": "Å"}


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, dict, r"a\.json: there is no such file\. Look\."),
        (b"", dict, r"a\.json is empty; expected JSON\. Look\."),
        (b' \n{"a": [1, 2', dict, r"a\.json is cut short: its JSON ends too early \(line 2, column 12\)\. Look\."),
        (b'{"a": "no end', dict, r"a\.json is cut short"),
        (b'{"a": 1}}', dict, r"a\.json is no JSON: Extra data \(line 1, column 9\)\. Look\."),
        (b"<html>", dict, r"a\.json is no JSON: Expecting value \(line 1, column 1\)\. Look\."),
        (b'{"a": "\xff\xfe"}', dict, r"a\.json is no JSON: .*utf-8"),
        (b"[" * 100_000, list, r"a\.json is no JSON: .*recursion"),
        (b"[1]", dict, r"a\.json holds a list \(\[…\]\); expected an object \(\{…\}\)\. Look\."),
        (b"{}", list, r"a\.json holds an object \(\{…\}\); expected a list"),
        (b"3", list, r"a\.json holds a number; expected a list"),
        (b"null", dict, r"a\.json holds null; expected an object"),
        (b'"text"', dict, r"a\.json holds a text; expected an object"),
    ],
)
def test_json_that_is_not_as_expected_is_one_line(tmp_path, content, kind, message):
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(file, kind, advice="Look.")
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError) == (content is None)


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path):
    abandoned = tmp_path / ".model_7.pth.abcd_123.tmp"
    others = [tmp_path / name for name in (".notes.abcd_123.tmp", "model_7.pth.abcd_123.tmp", "model_7.pth")]
    for file in (abandoned, *others):
        file.write_text("half")
    with atomic_open(tmp_path / "model_8.pth", "wb") as file:
        file.write(b"whole")
        assert remove_abandoned(tmp_path, ("model_*.pth", "run.json")) == [abandoned.name]
    assert (tmp_path / "model_8.pth").read_bytes() == b"whole"
    assert all(other.exists() for other in others) and not abandoned.exists()
