import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from loradet.datasets import check, fix
from loradet.datasets.checks import TOLERANCE


def _faults(folder, json_file=None) -> list[tuple]:
    report = check(json_file or folder.write(), folder.images)
    return [(problem.kind, problem.image_id, problem.file_name) for problem in report.problems]


def _fixed(folder) -> dict:
    source = folder.write()
    before = source.read_bytes()
    output = folder.root / "repaired" / "fixed.json"
    report = fix(source, folder.images, output)
    assert report.problems == check(source, folder.images).problems
    assert source.read_bytes() == before
    assert _faults(folder, output) == []
    return json.loads(output.read_text())


def test_a_sound_set_has_no_problems_and_is_copied_as_it_is(coco_folder):
    report = check(coco_folder.json, coco_folder.images)
    assert report.ok
    assert (report.images, report.annotations) == (3, 4)
    assert "no problems" in report.text()
    assert _fixed(coco_folder) == coco_folder.content


def test_missing_image(coco_folder):
    (coco_folder.images / "a.jpg").unlink()
    assert _faults(coco_folder) == [("missing image", 10, "a.jpg")]
    fixed = _fixed(coco_folder)
    assert [image["id"] for image in fixed["images"]] == [7, 31]
    assert [ann["id"] for ann in fixed["annotations"]] == [3, 4]


@pytest.mark.parametrize("fault", ["truncated", "text", "empty"])
@pytest.mark.parametrize(("name", "image_id"), [("a.jpg", 10), ("b.png", 7)])
def test_unreadable_image(coco_folder, fault, name, image_id):
    file = coco_folder.images / name
    data = {
        "truncated": file.read_bytes()[: file.stat().st_size * 2 // 3],
        "text": b"no image",
        "empty": b"",
    }[fault]
    file.write_bytes(data)
    assert _faults(coco_folder) == [("unreadable image", image_id, name)]
    assert image_id not in [image["id"] for image in _fixed(coco_folder)["images"]]


def test_wrong_size_is_corrected_and_boxes_are_judged_by_the_file(coco_folder):
    coco_folder.content["images"][0].update(width=640, height=480)
    coco_folder.content["annotations"][0]["bbox"] = [50, 40, 100, 100]
    assert _faults(coco_folder) == [("wrong size", 10, "a.jpg"), ("box outside image", 10, "a.jpg")]
    fixed = _fixed(coco_folder)
    assert (fixed["images"][0]["width"], fixed["images"][0]["height"]) == (64, 48)
    assert fixed["annotations"][0]["bbox"] == [50, 40, 14, 8]
    assert fixed["annotations"][0]["area"] == 14 * 8


def test_a_quarter_turn_in_exif_counts_as_detectron2_reads_it(coco_folder):
    image = Image.new("RGB", (48, 64))
    exif = image.getexif()
    exif[274] = 6
    image.save(coco_folder.images / "a.jpg", exif=exif)
    assert _faults(coco_folder) == []


@pytest.mark.parametrize(
    ("bbox", "kind", "repaired"),
    [
        ([4, 4, 0, 5], "box without area", None),
        ([4, 4, 5, -5], "box without area", None),
        ([float("nan"), 4, 5, 5], "not a box", None),
        ([4, 4, float("inf"), 5], "not a box", None),
        ([4, 4, 5], "not a box", None),
        (["4", 4, 5, 5], "odd value", [4, 4, 5, 5]),
        (["4 px", 4, 5, 5], "not a box", None),
        ([10**400, 4, 5, 5], "not a box", None),
        ([1e300, 4, 5, 5], "not a box", None),
        ({"x": 4}, "not a box", None),
        ([-3, 4, 10, 5], "box outside image", [0, 4, 7, 5]),
        ([60, 40, 10, 10], "box outside image", [60, 40, 4, 8]),
        ([70, 4, 5, 5], "box outside image", None),
        ([64, 4, 0.2, 5], "box outside image", None),
    ],
    ids=str,
)
def test_boxes(coco_folder, bbox, kind, repaired):
    coco_folder.content["annotations"][0]["bbox"] = bbox
    found = _faults(coco_folder)
    if "NaN" in coco_folder.json.read_text() or "Infinity" in coco_folder.json.read_text():
        assert found.pop(0)[0] == "odd encoding"
    assert found == [(kind, 10, "a.jpg")]
    boxes = [ann["bbox"] for ann in _fixed(coco_folder)["annotations"] if ann["id"] == 1]
    assert boxes == ([] if repaired is None else [repaired])


def test_rounding_over_the_edge_is_no_fault(coco_folder):
    coco_folder.content["annotations"][0]["bbox"] = [54, 40, 10 + TOLERANCE / 2, 8]
    assert _faults(coco_folder) == []


def test_duplicate_image_id_of_another_file_is_numbered_anew(coco_folder):
    coco_folder.content["images"][2]["id"] = 10
    assert _faults(coco_folder) == [("duplicate image id", 10, "empty.png")]
    assert [image["id"] for image in _fixed(coco_folder)["images"]] == [10, 7, 11]


def test_the_same_image_listed_twice_is_kept_once(coco_folder):
    coco_folder.content["images"].append(coco_folder.content["images"][0])
    assert _faults(coco_folder) == [("duplicate image id", 10, "a.jpg")]
    assert [image["id"] for image in _fixed(coco_folder)["images"]] == [10, 7, 31]


def test_duplicate_annotation_ids(coco_folder):
    coco_folder.content["annotations"][2]["id"] = 1
    assert _faults(coco_folder) == [("duplicate annotation id", 7, "b.png")]
    assert [ann["id"] for ann in _fixed(coco_folder)["annotations"]] == [1, 2, 5, 4]


def test_duplicate_category_ids_and_names(coco_folder):
    coco_folder.content["categories"] += [{"id": 2, "name": "bird"}, {"id": 3, "name": "dog"}]
    coco_folder.content["annotations"].append(coco_folder.box(5, 7, 3, [1, 1, 5, 5]))
    assert [kind for kind, *_ in _faults(coco_folder)] == ["duplicate category id", "duplicate category name"]
    fixed = _fixed(coco_folder)
    assert {category["id"]: category["name"] for category in fixed["categories"]} == {
        5: "dog",
        2: "cat",
        90: "cow",
        91: "bird",
    }
    assert [ann["category_id"] for ann in fixed["annotations"]] == [5, 2, 90, 2, 5]


def test_unknown_categories_and_annotations_of_absent_images(coco_folder):
    coco_folder.content["annotations"] += [
        coco_folder.box(5, 10, 77, [1, 1, 5, 5]),
        coco_folder.box(6, 1000, 5, [1, 1, 5, 5]),
    ]
    assert _faults(coco_folder) == [
        ("unknown category", 10, "a.jpg"),
        ("annotation of absent image", 1000, None),
    ]
    assert [ann["id"] for ann in _fixed(coco_folder)["annotations"]] == [1, 2, 3, 4]


def test_entries_that_lack_what_they_need(coco_folder):
    coco_folder.content["images"] += [{"id": 50, "width": 3, "height": 3}, {"file_name": "a.jpg"}]
    coco_folder.content["categories"].append({"name": "nobody"})
    coco_folder.content["annotations"].append({"id": 9, "image_id": 10, "category_id": 5})
    kinds = [kind for kind, *_ in _faults(coco_folder)]
    assert kinds == ["broken category", "broken image entry", "broken image entry", "not a box"]
    _fixed(coco_folder)


def test_the_report_names_file_image_and_counts(coco_folder):
    for ann in coco_folder.content["annotations"][:2]:
        ann["bbox"] = [0, 0, 0, 0]
    report = check(coco_folder.write(), coco_folder.images)
    assert report.counts() == {"box without area": 2}
    text = report.text(limit=1)
    assert str(coco_folder.json) in text
    assert "image 10 (a.jpg): annotation 1" in text
    assert "annotation 2" not in text
    assert "1 more" in text


def test_the_input_is_never_overwritten(coco_folder):
    before = coco_folder.json.read_bytes()
    with pytest.raises(ValueError, match="input itself"):
        fix(coco_folder.json, coco_folder.images, coco_folder.root / "images" / ".." / "instances.json")
    assert coco_folder.json.read_bytes() == before


def test_missing_json_or_folder(coco_folder):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        check(coco_folder.root / "nothing.json", coco_folder.images)
    with pytest.raises(FileNotFoundError, match="no_folder"):
        check(coco_folder.json, coco_folder.root / "no_folder")


_IDS = st.sampled_from([1, 2, 5, 7, 10, 31, 90, 1000, None, "7"])
_NUMBERS = st.one_of(st.floats(-80, 80), st.sampled_from([0, 64, 48, float("nan"), float("inf"), None, "x"]))
_BOXES = st.one_of(
    st.lists(_NUMBERS, max_size=5),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),  # fractions
    st.sampled_from([[4, 4, 20, 10], [0, 0, 1, 1], [-9, 4, 33, 10], ["4", 4, 20, 10]]),  # the same again
)
_ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "id": _IDS,
        "image_id": _IDS,
        "category_id": _IDS,
        "bbox": _BOXES,
        "area": st.sampled_from([200, 200.0, "200", 0, None]),
        "iscrowd": st.sampled_from([0, 1, "0", None, 7]),
    },
)
_IMAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": _IDS,
        "file_name": st.sampled_from(["a.jpg", "b.png", "empty.png", "gone.png"]),
        "width": st.sampled_from([64, 40, 30, None]),
        "height": st.sampled_from([48, 40, 20, "x"]),
    },
)
_CATEGORIES = st.fixed_dictionaries({}, optional={"id": _IDS, "name": st.sampled_from(["dog", "cat", "cow", 3])})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=st.lists(_IMAGES, max_size=4),
    categories=st.lists(_CATEGORIES, max_size=4),
    annotations=st.lists(_ANNOTATIONS, max_size=6),
    alone=st.booleans(),
)
def test_what_fix_writes_passes_check(coco_folder, images, categories, annotations, alone):
    original = copy.deepcopy(coco_folder.content)
    try:
        if alone:
            coco_folder.content["annotations"] = []
        coco_folder.content["images"] += images
        coco_folder.content["categories"] += categories
        coco_folder.content["annotations"] += annotations
        fixed = _fixed(coco_folder)
        for key in ("images", "categories", "annotations"):
            assert len({entry["id"] for entry in fixed[key]}) == len(fixed[key])
    finally:
        coco_folder.content = original


def test_a_size_that_is_not_there_is_said_so(coco_folder):
    del coco_folder.content["images"][0]["width"], coco_folder.content["images"][0]["height"]
    (problem,) = check(coco_folder.write(), coco_folder.images).problems
    assert problem.message == "the file is 64x48, the JSON says no size"
