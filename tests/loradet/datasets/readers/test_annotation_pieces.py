"""Annotations are decoded a piece at a time: what is read, counted and said does not depend on the pieces."""

import json

import numpy as np
import pytest
from helpers.broken_annotations import Mutation

from loradet.datasets import files
from loradet.datasets.annotations import content, read_annotations, reader
from loradet.errors import UserError

BOXES = [
    {"id": n, "image_id": 10 + n % 2, "category_id": 5, "bbox": [n, 2, 3.5, 4], "area": 14.0, "iscrowd": 0}
    for n in range(1, 8)
]
CONTENT = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in (10, 11)],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": BOXES,
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a content in pieces of a size (None: all at once); a dict of what came of it, or the error."""

    def read_in(data: bytes, size: int | None):
        file = tmp_path / "instances.json"
        file.write_bytes(data)
        reader._files.clear()
        with monkeypatch.context() as patch:
            patch.setattr(content, "_PIECE", size)
            if size is None:
                patch.setattr(reader, "decode_in_pieces", lambda _: None)
            try:
                found = read_annotations(file)
            except UserError as error:
                return str(error)
        columns = {name: (column.dtype, column.tolist()) for name, column in vars(found.boxes).items()}
        images = found.images.ids, found.images.file_names, found.images.widths.tolist(), found.images.heights.tolist()
        return columns, images, found.categories, list(found.converted.items()), found.plain, found.fingerprint

    return read_in


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {3: {"bbox": ["1", 2, 3, 4]}, 6: {"image_id": "11", "iscrowd": True}},
        {1: {"id": 2.0}, 5: {"area": None}},
        {2: {"id": 7}},
        {4: {"ignore": 1}},
        {0: {"ignore": 0.0}, 6: {"area": "14"}},
        {0: {"image_id": 99}, 5: {"category_id": 99}, 6: {"bbox": []}},
        {1: {"category_id": 2**70}},
        {5: {"bbox": [1, 2]}, 1: {"category_id": "dog"}, 6: {"iscrowd": 3}, 3: {"bbox": "x"}},
        {5: {"bbox": [1, 2, 3, 10**400]}},
        {6: None},
        {6: {"note": float("nan")}},
        {6: {"note": '}, {"}'}, 3: {"attributes": [{"a": 1}, {"b": [{}, {}]}]}},
    ],
    ids=str,
)
def test_any_size_of_pieces_gives_the_same(read, changes):
    changed = [None if changes.get(n, 0) is None else {**box, **changes.get(n, {})} for n, box in enumerate(BOXES)]
    data = json.dumps({**CONTENT, "annotations": changed}, indent=1).encode()
    whole = read(data, None)
    for size in (1, 2, 3, 7, 100):
        assert read(data, size) == whole


@pytest.mark.parametrize("seed", range(40))
def test_seeded_faults_are_the_same_in_pieces(read, seed):
    data = Mutation(CONTENT, seed).data()
    whole = read(data, None)
    assert read(data, 1) == read(data, 3) == whole


def test_a_sound_file_is_not_decoded_as_a_whole(read, monkeypatch):
    monkeypatch.setattr(reader, "decode_entries", lambda *_: pytest.fail("all annotations at once"))
    columns, *_, plain, _ = read(json.dumps(CONTENT).encode(), 2)
    assert plain
    assert columns["ids"] == (np.int64, [1, 2, 3, 4, 5, 6, 7])
    assert columns["xywh"][1][2] == [3, 2, 3.5, 4]


def test_a_file_without_annotations_has_empty_columns(read):
    columns, *_ = read(json.dumps({**CONTENT, "annotations": []}).encode(), 2)
    assert {name: np.shape(values) for name, (_, values) in columns.items()} == dict.fromkeys(columns, (0,))


def test_utf8_that_ends_in_the_middle_of_a_letter_is_refused_wherever_it_is(read):
    names = "é" * (1 << 20)  # over the edge of the block that is looked at
    text = json.dumps({**CONTENT, "info": {"x": f"a{names}"}}, ensure_ascii=False).encode()
    assert read(text, 2)[-2]
    broken = text.replace(b"\xc3\xa9", b"\xc3", 1)
    assert "UTF-8" in read(broken, 2) or "utf-8" in read(broken, 2)
    assert read(broken, 2) == read(broken, None)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_an_iterator_is_written_as_the_list_of_what_it_gives(tmp_path, monkeypatch, count):
    monkeypatch.setattr(files, "_PIECE", 3)
    content = {"info": {"é": 1}, "annotations": [{"id": n, "bbox": [0.1, n]} for n in range(count)], "categories": []}
    files.write_coco(tmp_path / "list.json", content)
    files.write_coco(tmp_path / "pieces.json", {**content, "annotations": iter(content["annotations"])})
    expected = json.dumps(content, separators=(",", ":"))
    assert (tmp_path / "pieces.json").read_text() == (tmp_path / "list.json").read_text() == expected
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_coco(tmp_path / "nan.json", {"annotations": iter([float("nan")])})
    assert not (tmp_path / "nan.json").exists()
