"""What a second load of a YOLO set reads."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from loradet.datasets import yolo_dataset, yolo_to_coco
from loradet.datasets.files import cache_dir
from loradet.datasets.readers import yolo

COUNT = 6


class Opened:
    """Counts the files that are opened for their sizes and their labels."""

    def __init__(self, monkeypatch) -> None:
        self.images: list[str] = []
        self.labels: list[str] = []
        image_size, read_labels = yolo.image_size, yolo.read_labels
        monkeypatch.setattr(yolo, "image_size", lambda file: [self.images.append(file.name), image_size(file)][1])
        monkeypatch.setattr(
            yolo,
            "read_labels",
            lambda file, *args, **kwargs: [self.labels.append(file.name), read_labels(file, *args, **kwargs)][1],
        )

    def take(self) -> tuple[list[str], list[str]]:
        """Names since the last call."""
        found = sorted(self.images), sorted(self.labels)
        self.images.clear()
        self.labels.clear()
        return found


@pytest.fixture
def root(tmp_path) -> Path:
    for number in range(COUNT):
        paint(tmp_path / "data", number)
        label(tmp_path / "data", number, "0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data" / "data.yaml").write_text("train: images/train\nnames: [cell, spot]\n")
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch) -> Opened:
    return Opened(monkeypatch)


def paint(root: Path, number: int, size: tuple[int, int] = (32, 16)) -> Path:
    path = root / "images" / "train" / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def label(root: Path, number: int, text: str) -> Path:
    path = root / "labels" / "train" / f"{number}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def content(root: Path, split: str = "train", **options) -> dict:
    return json.loads(yolo_to_coco(root, split, **options)[0].read_text())


def test_a_second_load_opens_no_image_and_no_label(root, opened):
    first = yolo_dataset(root, "train", name="yolo_cache_first")
    assert opened.take() == ([f"{i}.png" for i in range(COUNT)], [f"{i}.txt" for i in range(COUNT)])
    assert yolo_dataset(root, "train", name="yolo_cache_first") == first
    assert opened.take() == ([], [])


def test_a_changed_label_is_read_alone(root, opened):
    content(root)
    opened.take()
    label(root, 2, "1 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.5 0.5\n")
    boxes = [ann["bbox"] for ann in content(root)["annotations"] if ann["image_id"] == 3]
    assert boxes == [[12, 6, 8, 4], [8, 4, 16, 8]]
    assert opened.take() == ([], ["2.txt"])


def test_a_changed_image_is_read_alone(root, opened):
    content(root)
    opened.take()
    paint(root, 4, (100, 50))
    changed = content(root)
    assert [image["width"] for image in changed["images"]] == [32, 32, 32, 32, 100, 32]
    assert changed["annotations"][4]["bbox"] == [25, 12.5, 50, 25]
    assert opened.take() == (["4.png"], [])


def test_a_file_of_the_same_length_and_another_time_has_changed(root, opened):
    content(root)
    opened.take()
    path = label(root, 0, "1 0.5 0.5 0.5 0.5\n")
    os.utime(path, (1, 1))
    assert content(root)["annotations"][0]["category_id"] == 2
    assert opened.take() == ([], ["0.txt"])


def test_new_and_removed_files(root, opened):
    content(root)
    opened.take()
    paint(root, 7)
    (root / "images" / "train" / "1.png").unlink()
    (root / "labels" / "train" / "3.txt").unlink()
    changed = content(root)
    assert [image["file_name"] for image in changed["images"]] == ["0.png", "2.png", "3.png", "4.png", "5.png", "7.png"]
    assert len(changed["annotations"]) == 4
    assert opened.take() == (["7.png"], [])


def test_another_number_of_classes_checks_the_labels_anew(root, opened):
    label(root, 0, "1 0.5 0.5 0.5 0.5\n")
    content(root)
    opened.take()
    (root / "data.yaml").write_text("train: images/train\nnames: [cell]\n")
    with pytest.raises(ValueError, match=r"0\.txt, line 1: class 1"):
        content(root)
    assert opened.take() == ([], [f"{i}.txt" for i in range(COUNT)])


def test_a_polygon_that_was_taken_is_a_fault_where_none_is_wanted(root, opened):
    label(root, 0, "1 0.25 0.25 0.75 0.25 0.5 0.75\n")
    assert content(root, polygons=True)["annotations"][0]["bbox"] == [8, 4, 16, 8]
    opened.take()
    with pytest.raises(ValueError, match=r"0\.txt, line 1: 7 values"):
        content(root)
    assert opened.take()[0] == []


def test_splits_of_a_folder_with_a_dot_in_its_name_keep_their_own(root, opened):
    root = root.rename(root.with_name("cells.v1"))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cell, spot]\n")
    for kind in ("images", "labels"):
        shutil.copytree(root / kind / "train", root / kind / "val")
    content(root)
    content(root, "val")
    opened.take()
    label(root, 2, "1 0.5 0.5 0.25 0.25\n")
    content(root)
    assert opened.take() == ([], ["2.txt"])


ONE_PROCESS = """
import sys, time
from loradet.datasets.readers import yolo

def image_size(file, read=yolo.image_size):
    time.sleep(0.2)
    opened.append(file.name)
    return read(file)

def write_coco(*arguments, write=yolo.write_coco):
    opened.append("written")
    return write(*arguments)

opened, yolo.image_size, yolo.write_coco = [], image_size, write_coco
print("ready", flush=True)
sys.stdin.readline()
print(yolo.yolo_to_coco(sys.argv[1], "train")[0])
print(*opened)
"""


def test_of_two_processes_one_reads(root):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", ONE_PROCESS, str(root)], **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    paths, opened = zip(*(process.communicate(timeout=60)[0].splitlines() for process in both))
    assert [process.returncode for process in both] == [0, 0]
    assert paths[0] == paths[1] == str(yolo_to_coco(root, "train")[0])
    assert sorted(" ".join(opened).split()) == [*(f"{i}.png" for i in range(COUNT)), "written"]
    assert "" in opened  # one waited, and found it made


def test_a_fault_costs_nothing_but_the_faulty_file(root, opened):
    label(root, 0, "0 nan 0.5 0.5 0.5\n")
    with pytest.raises(ValueError, match="1 fault in"):
        content(root)
    opened.take()
    label(root, 0, "0 0.5 0.5 0.5 0.5\n")
    assert len(content(root)["annotations"]) == COUNT
    assert opened.take() == ([], ["0.txt"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "2"}', '{"version": "2", "files": 3}'])
def test_a_broken_cache_is_made_anew(root, opened, text):
    whole = content(root)
    opened.take()
    for file in cache_dir("yolo").glob("*.json"):
        if file.name.endswith(".sizes.json"):
            file.write_text(text)
        elif not file.name.endswith(".labels.json"):
            file.unlink()
    assert content(root) == whole
    assert opened.take() == ([f"{i}.png" for i in range(COUNT)], [])


def test_nothing_is_written_beside_the_data(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    yolo_dataset(root, "train", name="yolo_cache_beside")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not [path for path in cache_dir("yolo").iterdir() if path.name.endswith(".tmp")]


def test_the_same_data_elsewhere_convert_to_the_same(root, tmp_path):
    shutil.copytree(root, tmp_path / "elsewhere" / "copy")
    assert content(root) == content(tmp_path / "elsewhere" / "copy")
