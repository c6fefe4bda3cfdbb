import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.broken_server import Fault, serve
from helpers.paths import ROOT

from loradet.datasets.download.archives import extract
from loradet.datasets.download.coco2017 import SIZES, ChecksumError, coco2017, default_root
from loradet.datasets.download.http import DownloadError

TOOL = ROOT / "tools" / "datasets.py"
ANNOTATIONS = "/annotations/annotations_trainval2017.zip"
TRAIN, VAL = "/zips/train2017.zip", "/zips/val2017.zip"


def packed(files: dict[str, bytes | str]) -> bytes:
    """A ZIP archive; names of folders end in a slash."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def images(split: str, count: int, size: int = 3_000) -> dict[str, bytes]:
    noise = random.Random(split)
    return {f"{split}2017/{i:012}.jpg": noise.randbytes(size) for i in range(count)}


def instances(count: int) -> str:
    entries = [{"id": i, "file_name": f"{i:012}.jpg", "height": 2, "width": 2} for i in range(count)]
    return json.dumps({"images": entries, "annotations": [], "categories": [{"id": 1, "name": "person"}]})


COUNTS = {"train": 9, "val": 4}
FILES = {f"annotations/instances_{split}2017.json": instances(count) for split, count in COUNTS.items()}
FILES["annotations/captions_val2017.json"] = "{}"
ARCHIVES = {
    ANNOTATIONS: packed(FILES),
    TRAIN: packed({"train2017/": b"", **images("train", 9)}),
    VAL: packed({"val2017/": b"", **images("val", 4)}),
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(ARCHIVES) as running:
        yield running


@pytest.fixture
def fill(server, tmp_path):
    def call(**options):
        return coco2017(tmp_path / "coco", **{"url": server.url, "retries": 1, "backoff": 0.01} | options)

    return call


def run_tool(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), "coco2017", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def unpacked(*splits: str) -> dict[str, bytes]:
    files = {name: text.encode() for name, text in FILES.items()}
    return files | {name: body for split in splits for name, body in images(split, COUNTS[split]).items()}


def sums(*paths: str) -> str:
    return "".join(f"{hashlib.sha256(ARCHIVES[p]).hexdigest()}  {p.rpartition('/')[2]}\n" for p in paths)


def test_the_tool_fills_a_folder(server, tmp_path):
    root = tmp_path / "my coco"
    result = run_tool(root, "--url", server.url)
    assert result.returncode == 0, result.stderr
    there = content(root)
    assert there.pop("checksums.sha256").decode() == sums(ANNOTATIONS, TRAIN, VAL)
    for path, body in ARCHIVES.items():
        assert there.pop(path.rpartition("/")[2]) == body
    assert there == unpacked("train", "val")
    assert f"'data.train_json={root}/annotations/instances_train2017.json'" in result.stdout
    assert f"'data.val_images={root}/val2017'" in result.stdout
    checked = subprocess.run(["sha256sum", "-c", "checksums.sha256"], cwd=root, check=False, capture_output=True)
    assert checked.returncode == 0

    asked = len(server.asked)
    result = run_tool(root, "--url", server.url, "--remove-archives")
    assert result.returncode == 0, result.stderr
    assert len(server.asked) == asked
    assert sorted(p.name for p in root.iterdir()) == ["annotations", "checksums.sha256", "train2017", "val2017"]


def test_sums_that_are_given(server, tmp_path):
    right = {path.rpartition("/")[2]: hashlib.sha256(body).hexdigest() for path, body in ARCHIVES.items()}
    words = [f"{name}={found.upper()}" for name, found in right.items()]
    result = run_tool(tmp_path / "right", "--url", server.url, "--sha256", *words[:2], "--sha256", words[2])
    assert result.returncode == 0, result.stderr
    assert content(tmp_path / "right")["checksums.sha256"].decode() == sums(ANNOTATIONS, TRAIN, VAL)

    wrong = "0" * 64
    result = run_tool(tmp_path / "wrong", "--url", server.url, "--splits", "val", "--sha256", f"val2017.zip={wrong}")
    assert result.returncode == 2
    assert f"val2017.zip: sha256 expected {wrong} (given), found {right['val2017.zip']}." in result.stderr
    there = {path.name for path in (tmp_path / "wrong").iterdir()}
    assert there == {"annotations", "annotations_trainval2017.zip", "checksums.sha256"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"val2017.zip": "12"}, "expected 64 hexadecimal digits"),
        ({"test2017.zip": "0" * 64}, "the files to download are annotations_trainval2017.zip, val2017.zip"),
        ({"annotations_trainval2017.zip": "0" * 64}, "checksums.sha256 has"),
    ],
)
def test_sums_that_cannot_be(fill, server, tmp_path, given, message):
    fill(splits=["val"])
    before, asked = content(tmp_path / "coco"), len(server.asked)
    with pytest.raises(ValueError, match=re.escape(message)):
        fill(splits=["val"], sums=given)
    assert (content(tmp_path / "coco"), len(server.asked)) == (before, asked)


def test_one_split_then_the_other(fill, server, tmp_path):
    keys = fill(splits=["val"], remove_archives=True)
    root = tmp_path / "coco"
    assert keys == {
        "data.val_json": f"{root}/annotations/instances_val2017.json",
        "data.val_images": f"{root}/val2017",
    }
    fill(remove_archives=True)
    assert content(root) == unpacked("train", "val") | {"checksums.sha256": sums(ANNOTATIONS, VAL, TRAIN).encode()}
    assert [path for path, _ in server.asked] == [ANNOTATIONS, VAL, TRAIN]


def test_no_torch(server, tmp_path):
    script = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'detectron2', 'matplotlib', 'cv2'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(TOOL), "coco2017", str(tmp_path), "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert default_root() == Path("datasets/coco")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert default_root() == tmp_path / "coco"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_tool_goes_on(server, tmp_path, number):
    root = tmp_path / "coco"
    server.files[VAL] = packed(images("val", 4, size=30_000))
    server.faults = [Fault(), Fault(drip=0.05)]
    command = [sys.executable, str(TOOL), "coco2017", str(root), "--url", server.url, "--splits", "val"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    part = root / "val2017.zip.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 10_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert errors.endswith("Interrupted. The same command goes on from here.\n")
        assert "Traceback" not in errors
    there = part.stat().st_size
    assert 10_000 < there < len(server.files[VAL])
    assert not (root / "val2017").exists()
    assert not (root / "val2017.zip").exists()

    result = run_tool(root, "--url", server.url, "--splits", "val")
    assert result.returncode == 0, result.stderr
    assert server.asked[-1] == (VAL, f"bytes={there}-")
    assert (root / "val2017.zip").read_bytes() == server.files[VAL]


def test_a_server_that_breaks_off(fill, server, tmp_path):
    server.faults = [Fault(cut=1), Fault(cut=100), Fault(), Fault(cut=20_000), Fault(status=500), Fault(cut=3)]
    fill()
    assert (tmp_path / "coco" / "train2017.zip").read_bytes() == ARCHIVES[TRAIN]


@pytest.mark.parametrize("more", [-1_000, 1_000])
def test_a_server_that_lies_about_the_length(server, tmp_path, more):
    root, size = tmp_path / "coco", len(ARCHIVES[VAL])
    server.faults = [Fault()]
    server.always = Fault(length=size + more, ignore_range=True)
    result = run_tool(root, "--url", server.url, "--splits", "val", "--retries", 0)
    assert result.returncode == 2
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert "val2017.zip" in error
    expected = (
        f"expected {size + 1000:,} bytes, found {size:,}" if more > 0 else f"({size - 1000:,} bytes) is not a whole"
    )
    assert expected in error
    assert "Traceback" not in result.stderr
    assert not (root / "val2017.zip").exists()
    assert not (root / "val2017").exists()
    assert (root / "checksums.sha256").read_text() == sums(ANNOTATIONS)


WRONG = {
    "a page": (b"<html>Please log in</html>", r"val2017\.zip.* \(26 bytes\) is not a whole ZIP archive"),
    "another archive": (ARCHIVES[TRAIN], r"train2017/.*not in the folder val2017/"),
    "nothing in it": (packed({"val2017/": b""}), "holds no files"),
    "damaged": (
        ARCHIVES[VAL].replace(images("val", 1)["val2017/000000000000.jpg"], bytes(3_000)),
        "damaged at .*Bad CRC",
    ),
    "cut": (ARCHIVES[VAL][:-100], "is not a whole ZIP archive"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_not_kept(fill, server, tmp_path, kind):
    server.files[VAL], message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        fill(splits=["val"])
    root = tmp_path / "coco"
    assert sorted(path.name for path in root.iterdir()) == [
        *["annotations", "annotations_trainval2017.zip", "checksums.sha256"]
    ]
    assert (root / "checksums.sha256").read_text() == sums(ANNOTATIONS)
    server.files[VAL] = ARCHIVES[VAL]
    fill(splits=["val"])


def test_annotations_without_the_instances(fill, server):
    server.files[ANNOTATIONS] = packed({"annotations/captions_val2017.json": "{}"})
    with pytest.raises(ValueError, match=r"has no annotations/instances_val2017\.json"):
        fill(splits=["val"])


def test_known_sizes(fill, tmp_path):
    assert set(SIZES) == {path.rpartition("/")[2] for path in ARCHIVES}
    sizes = {"val2017.zip": len(ARCHIVES[VAL]) + 1}
    with pytest.raises(DownloadError, match=rf"val2017\.zip: expected a file of {sizes['val2017.zip']:,} bytes"):
        fill(splits=["val"], sizes=sizes)
    fill(splits=["val"])
    with pytest.raises(ValueError, match=r"val2017\.zip: expected .* bytes, found .* Nothing was changed"):
        fill(splits=["val"], sizes=sizes)
    assert (tmp_path / "coco" / "val2017.zip").read_bytes() == ARCHIVES[VAL]


def test_an_archive_that_differs_is_not_replaced(fill, server, tmp_path):
    fill(splits=["val"])
    archive = tmp_path / "coco" / "val2017.zip"
    other = packed(images("val", 5))
    archive.write_bytes(other)
    before, asked = content(tmp_path), len(server.asked)
    with pytest.raises(ChecksumError) as raised:
        fill(splits=["val"])
    for body in (other, ARCHIVES[VAL]):
        assert hashlib.sha256(body).hexdigest() in str(raised.value)
    assert content(tmp_path) == before
    assert len(server.asked) == asked

    # The same where the server has another file than the one whose sum is known.
    archive.unlink()
    shutil.rmtree(tmp_path / "coco" / "val2017")
    before = content(tmp_path)
    server.files[VAL] = other
    with pytest.raises(ChecksumError, match=hashlib.sha256(other).hexdigest()):
        fill(splits=["val"])
    assert content(tmp_path) == before


def test_sums_that_are_brought_along(fill, tmp_path):
    root = tmp_path / "coco"
    root.mkdir()
    mine = f"{'A' * 64} *val2017.zip\n{'0' * 64}  mine.txt\n"
    (root / "checksums.sha256").write_text(mine)
    with pytest.raises(ChecksumError, match="expected aaaa"):
        fill(splits=["val"])
    assert (root / "checksums.sha256").read_text() == mine + sums(ANNOTATIONS)


@pytest.mark.parametrize("line", ["abc  val2017.zip", f"{'0' * 64}", f"{'0' * 64}  x\n{'1' * 64}  x"])
def test_a_broken_manifest(fill, tmp_path, line):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "checksums.sha256").write_text(line)
    with pytest.raises(ValueError, match=r"checksums\.sha256, line [12]"):
        fill()


def test_an_archive_that_was_put_there(fill, server, tmp_path):
    (tmp_path / "coco").mkdir()
    archive = tmp_path / "coco" / "val2017.zip"
    archive.write_bytes(ARCHIVES[VAL][:-100])
    with pytest.raises(ValueError, match="not a whole ZIP"):
        fill(splits=["val"])
    archive.write_bytes(ARCHIVES[VAL])
    fill(splits=["val"])
    assert [path for path, _ in server.asked] == [ANNOTATIONS]
    assert (tmp_path / "coco" / "checksums.sha256").read_text() == sums(ANNOTATIONS, VAL)


@pytest.mark.parametrize("keep_archive", [True, False])
def test_a_folder_that_lacks_images_is_left_alone(fill, tmp_path, keep_archive):
    fill(splits=["val"], remove_archives=not keep_archive)
    (tmp_path / "coco" / "val2017" / "000000000002.jpg").unlink()
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"val2017 is there, but 1 of its files .*000000000002\.jpg.*Move the folder"):
        fill(splits=["val"])
    assert content(tmp_path) == before


def test_a_second_process_is_refused(server, tmp_path):
    import fcntl

    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        result = run_tool(tmp_path, "--url", server.url)
    finally:
        os.close(handle)
    assert result.returncode == 2
    assert f"error: Another process is filling {tmp_path}" in result.stderr
    assert not server.asked


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="expected some of train, val, got test"):
        coco2017(tmp_path, splits=["test"])
    assert run_tool(tmp_path, "--splits", "test").returncode == 2
    assert run_tool(tmp_path, "--retries", "-1").returncode == 2
    result = run_tool(tmp_path, "--url", "file:///etc")
    assert result.returncode == 2
    assert "error: Expected a URL" in result.stderr


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


UNSAFE = {
    "parent": (member("val2017/../../evil.jpg"), "leads out"),
    "beside": (member("../evil.jpg"), "leads out"),
    "windows": (member("val2017/..\\evil.jpg"), "leads out"),
    "absolute": (member("/tmp/evil.jpg"), "absolute"),
    "drive": (member("C:/evil.jpg"), "absolute"),
    "link": (member("val2017/evil.jpg", stat.S_IFLNK | 0o777), "symbolic link"),
    "device": (member("val2017/evil.jpg", stat.S_IFCHR | 0o666), "no ordinary file"),
    "outside": (member("evil.jpg"), "not in the folder val2017/"),
    "the folder": (member("val2017"), "not in the folder val2017/"),
    "dot": (member("val2017/./evil.jpg"), "not plain"),
    "twice": (member("val2017/000000000001.jpg"), "twice"),
}


@pytest.mark.parametrize("kind", UNSAFE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_unsafe_member_stops_all(fill, server, tmp_path, kind):
    info, message = UNSAFE[kind]
    buffer = io.BytesIO(ARCHIVES[VAL])
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(info, b"/etc/passwd")
    server.files[VAL] = buffer.getvalue()
    with pytest.raises(ValueError, match=message) as raised:
        fill(splits=["val"])
    assert repr(info.filename) in str(raised.value)
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob("*val2017"))
    assert not Path("/tmp/evil.jpg").exists()


class TestExtract:
    @pytest.fixture
    def archive(self, tmp_path):
        (tmp_path / "val2017.zip").write_bytes(ARCHIVES[VAL])
        return tmp_path / "val2017.zip"

    def test_goes_on(self, archive, tmp_path):
        partial = tmp_path / ".val2017.partial"
        partial.mkdir()
        bodies = list(images("val", 4).values())
        (partial / "000000000000.jpg").write_bytes(bodies[0])
        (partial / "000000000001.jpg").write_bytes(bodies[1][:1_000])
        (partial / "000000000002.jpg").write_bytes(bytes(3_000))
        kept = (partial / "000000000000.jpg").stat().st_ino, (partial / "000000000000.jpg").stat().st_mtime_ns
        target = extract(archive, tmp_path, "val2017")
        assert content(target) == {Path(name).name: body for name, body in images("val", 4).items()}
        assert not partial.exists()
        now = (target / "000000000000.jpg").stat()
        assert (now.st_ino, now.st_mtime_ns) == kept

    def test_leftovers_of_another_archive_go(self, archive, tmp_path):
        (tmp_path / ".val2017.partial" / "sub").mkdir(parents=True)
        (tmp_path / ".val2017.partial" / "sub" / "x.jpg").write_bytes(b"x")
        extract(archive, tmp_path, "val2017")
        assert content(tmp_path / "val2017") == {Path(name).name: body for name, body in images("val", 4).items()}

    def test_a_folder_that_is_there_stays(self, archive, tmp_path):
        (tmp_path / "val2017").mkdir()
        with pytest.raises(FileExistsError, match="not overwritten"):
            extract(archive, tmp_path, "val2017")
        assert list((tmp_path / "val2017").iterdir()) == []

    def test_a_damaged_member_leaves_no_folder(self, archive, tmp_path):
        archive.write_bytes(WRONG["damaged"][0])
        with pytest.raises(ValueError, match=r"val2017\.zip is damaged at 'val2017/000000000000\.jpg'"):
            extract(archive, tmp_path, "val2017")
        assert not (tmp_path / "val2017").exists()

    def test_a_full_disk_is_said_before(self, archive, tmp_path, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(OSError, match=r"Unpacking .* needs 12,000 bytes"):
            extract(archive, tmp_path, "val2017")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["val2017.zip"]
