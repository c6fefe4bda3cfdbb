"""The page of a check: whole in itself, with what was found, and pictures as they are."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from loradet.datasets.checks import Split, check_splits
from loradet.datasets.checks.anchors import AnchorLevel, AnchorRule, check_anchors
from loradet.visualization.checks.page import write_check_page

_SIZE = (80, 60)


@pytest.fixture
def splits(tmp_path):
    """Splits by name; picture 1 of "train <b>" has a box that leaves it."""
    made = []
    for name, boxes in {"train <b>": [[10, 10, 30, 20], [60, 30, 50, 20]], "val": [[5, 5, 9, 9]]}.items():
        folder = tmp_path / name.split()[0]
        folder.mkdir()
        images = []
        for number in range(1, 4):
            pixels = np.random.default_rng(len(made) * 10 + number).integers(0, 99, (*_SIZE[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": _SIZE[0], "height": _SIZE[1]})
        annotations = [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0} for k, box in enumerate(boxes, 1)
        ]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a&b"}]}
        file = folder / "boxes.json"
        file.write_text(json.dumps(content))
        made.append(Split(name, file, folder))
    return made


class _Tags(HTMLParser):
    """Start tags that are not closed in order, and addresses outside the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br", "img", "line", "rect", "polyline") or (tag == "rect"):
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href") and not value.startswith("data:"):
                self.outside.append(value)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _page(report, path, **options) -> str:
    text = write_check_page(report, path, **options).read_text()
    tags = _Tags()
    tags.feed(text)
    assert tags.open == [] and tags.outside == []
    assert list(path.parent.glob(".*.tmp")) == []
    return text


def test_a_page_says_what_was_found_and_paints_the_worst(splits, tmp_path):
    report = check_splits(splits)
    rule = AnchorRule([AnchorLevel((8.0, 8.0), np.array([[-15.0, -10.0, 15.0, 10.0]]))], 0.5, True)
    anchors = {name: check_anchors(content, rule) for name, content in report.contents.items()}
    text = _page(report, tmp_path / "new" / "check.html", anchors=anchors)
    assert "<h1>Check of the data: 1 problem</h1>" in text
    assert "box outside image" in text and "--fix clips it" in text
    assert "train &lt;b&gt;" in text and "<b>train <b>" not in text and "a&amp;b" in text
    assert "Boxes that no anchor reaches by IoU 0.5" in text
    assert text.count("<svg") == 3 and "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 2  # the one with a fault, then one whose box no anchor reaches
    image = np.array(Image.open(io.BytesIO(base64.b64decode(pictures[0]))).convert("RGB")).astype(int)
    factor = image.shape[1] / _SIZE[0]
    red, blue = image[round(40 * factor), round(60 * factor)], image[round(20 * factor), round(10 * factor)]
    assert red[0] > 180 > red[2] + 60  # the left edge of the box that leaves the picture
    assert blue[2] > 180 > blue[0] + 20  # that of the other one


def test_a_page_without_pictures_and_without_boxes(splits, tmp_path):
    for split in splits:
        content = json.loads(split.json_file.read_text())
        split.json_file.write_text(json.dumps({**content, "annotations": []}))
    unopened = [Split(split.name, split.json_file) for split in splits]
    text = _page(check_splits(unopened), tmp_path / "check.html")
    assert "no problems" in text and "<svg" not in text and "<img" not in text
    assert "Pictures were not opened" not in text or "give --images" in text


def test_at_most_twenty_pictures_the_worst_first(tmp_path):
    images, annotations = [], []
    for number in range(1, 26):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 20, "height": 20})
        for k in range(number):
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [k, 1, 9, 0]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    text = _page(check_splits([Split("train", tmp_path / "train.json", tmp_path)]), tmp_path / "check.html")
    assert re.findall(r'<img [^>]*alt="(\d+)\.png"', text) == [str(number) for number in range(25, 5, -1)]


def test_pictures_of_more_than_8_bits_are_seen(tmp_path):
    ramp = np.linspace(1000, 3000, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    content = {
        "images": [{"id": 1, "file_name": "deep.png", "width": 64, "height": 48}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    text = _page(check_splits([Split("train", tmp_path / "train.json", tmp_path)]), tmp_path / "check.html")
    (picture,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L")).astype(int)
    assert shown[:20].mean() < 60 and shown[-20:].mean() > 195
