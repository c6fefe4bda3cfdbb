"""Detections and the annotation file that they are numbered as."""

import json

import pytest

from loradet.evaluation.numbering import annotations_of, check_numbering, record_numbering


def annotations(path, names=("ship", "car"), files=("a.png", "b.png"), folder=""):
    content = {
        "images": [{"id": n, "file_name": folder + file, "width": 8, "height": 8} for n, file in enumerate(files)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
        "annotations": [],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def detections(tmp_path):
    path = tmp_path / "run" / "coco_instances_results.json"
    path.parent.mkdir()
    path.write_text("[]")
    record_numbering(path, annotations(tmp_path / "own.json"))
    return path


def test_the_file_of_a_run_is_found_and_fits(detections, tmp_path):
    assert annotations_of(detections) == tmp_path / "own.json"
    check_numbering(detections, tmp_path / "own.json")
    check_numbering(detections, annotations(tmp_path / "same.json", folder="images/"))
    check_numbering(
        detections, annotations(tmp_path / "more.json", ("ship", "car", "bus"), ("a.png", "b.png", "c.png"))
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(names=("car", "ship")), "category 1 is 'ship' here and 'car' there"),
        (dict(names=("ship",)), "category 2 is 'car' here and nothing there"),
        (dict(files=("b.png", "a.png")), r"image 0 is a\.png here and b\.png there"),
        (dict(files=("a.png",)), r"image 1 is b\.png here and missing there"),
    ],
)
def test_a_file_with_other_numbers_is_refused(detections, tmp_path, other, message):
    path = annotations(tmp_path / "other.json", **other)
    with pytest.raises(ValueError, match=rf"is numbered as .*own\.json, not as .*other\.json: {message}"):
        check_numbering(detections, path)


def test_categories_are_compared_where_the_file_is_gone(detections, tmp_path):
    (tmp_path / "own.json").unlink()
    check_numbering(detections, annotations(tmp_path / "other.json", files=("b.png",)))
    with pytest.raises(ValueError, match="category 1"):
        check_numbering(detections, annotations(tmp_path / "other.json", names=("car", "ship")))
    with pytest.raises(FileNotFoundError, match=r"own\.json, which is gone"):
        annotations_of(detections)


def test_an_annotation_file_of_any_name_may_lie_beside_detections(tmp_path):
    check_numbering(tmp_path / "found.json", annotations(tmp_path / "annotations.json"))
    with pytest.raises(FileNotFoundError, match="give --annotations FILE"):
        annotations_of(tmp_path / "found.json")


def test_detections_of_other_tools_have_no_note(tmp_path):
    check_numbering(tmp_path / "found.json", tmp_path / "any.json")
    with pytest.raises(FileNotFoundError, match="give --annotations FILE"):
        annotations_of(tmp_path / "found.json")


def test_a_broken_note_is_named(detections, tmp_path):
    detections.with_name("numbering.json").write_text("{")
    with pytest.raises(ValueError, match=r"numbering\.json is cut short"):
        check_numbering(detections, tmp_path / "own.json")
