import json
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.datasets import check, synthetic

_STYLES = ["sar", "optical"]
_SUFFIX = {"sar": "png", "optical": "jpg"}


def _rng(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def _many(style: str, count: int = 120) -> list:
    return [synthetic.scene(style, 256, _rng(1, index)) for index in range(count)]


def _files(root) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@settings(max_examples=40, deadline=None)
@given(
    style=st.sampled_from(_STYLES),
    height=st.integers(32, 320),
    width=st.integers(32, 320),
    seed=st.integers(0, 2**32),
)
def test_scene_is_well_formed_at_any_size(style, height, width, seed):
    image, boxes, classes = synthetic.scene(style, (height, width), _rng(seed))
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert boxes.shape == (len(classes), 4)
    assert len(classes) <= 8
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] - boxes[:, :2] > 1).all()
    assert set(classes.tolist()) <= set(range(6))
    again = synthetic.scene(style, (height, width), _rng(seed))
    assert all(np.array_equal(one, two) for one, two in zip((image, boxes, classes), again))


@pytest.mark.parametrize("style", _STYLES)
def test_classes_sizes_and_counts_are_mixed(style):
    scenes = _many(style)
    counts = np.array([len(classes) for _, _, classes in scenes])
    assert 0 < (counts == 0).mean() < 0.15
    assert counts.max() == 8
    shares = np.bincount(np.concatenate([classes for _, _, classes in scenes]), minlength=6) / counts.sum()
    assert (shares > 0.04).all()
    boxes = np.concatenate([boxes for _, boxes, _ in scenes])
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert 0.4 < (areas < 32**2).mean() < 0.9


@pytest.mark.parametrize("style", _STYLES)
def test_objects_do_not_cover_each_other(style):
    for _, boxes, _ in _many(style, 60):
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=2) * (1 - np.eye(len(boxes)))
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        assert (common <= 0.2 * np.minimum(areas[:, None], areas[None])).all()


def test_boxes_are_tight_around_what_is_drawn(monkeypatch):
    """Paint objects alone, white on black, and compare."""
    from loradet.datasets.synthetic import compose, styles

    def black(canvas, style, rng):
        scenery = original(canvas, style, rng)
        canvas.image[:] = 0
        return scenery

    original = compose.paint_scenery
    monkeypatch.setattr(compose, "paint_scenery", black)
    monkeypatch.setattr(compose, "_paint_wake", lambda *_: None)
    monkeypatch.setattr(styles.SAR, "body", lambda *_: (np.ones(1, np.float32), np.ones(1, np.float32)))
    monkeypatch.setattr(styles.SAR, "glints", lambda *_: None)
    monkeypatch.setattr(styles.SAR, "finish", lambda _self, canvas, _rng: canvas.image[..., 0] > 0.1)
    checked = 0
    for index in range(60):
        drawn, boxes, _ = synthetic.scene("sar", 256, _rng(2, index))
        if len(boxes) != 1:
            continue
        rows, cols = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        extent = [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(boxes[0], extent, atol=1.6)
        checked += 1
    assert checked >= 5


def test_objects_stand_out_and_speckle_is_multiplicative():
    scenes = _many("sar", 60)
    assert all((image[..., 0] == image[..., 1]).all() for image, _, _ in scenes)
    inside, outside, dark, bright = [], [], [], []
    for image, boxes, _ in scenes:
        mask = np.zeros(image.shape[:2], bool)
        for x0, y0, x1, y1 in boxes.astype(int):
            mask[y0:y1, x0:x1] = True
        if len(boxes):
            inside.append(image[mask].mean())
            outside.append(image[~mask].mean())
        tiles = image[..., 0].reshape(32, 8, 32, 8).swapaxes(1, 2).reshape(-1, 64).astype(float)
        means, deviations = tiles.mean(1), tiles.std(1)
        ground = means < 120
        dark.append(deviations[ground & (means < np.median(means[ground]))].mean())
        bright.append(deviations[ground & (means >= np.median(means[ground]))].mean())
    assert np.mean(inside) > 1.3 * np.mean(outside)
    assert np.mean(bright) > 1.15 * np.mean(dark)  # additive noise would be the same everywhere


def test_optical_scenes_are_coloured_and_vary():
    scenes = [image.astype(float) for image, _, _ in _many("optical", 60)]
    colourful = [np.abs(image - image.mean(2, keepdims=True)).mean() for image in scenes]
    assert np.mean(colourful) > 8
    assert np.std([image.mean() for image in scenes]) > 15


@pytest.mark.parametrize("style", _STYLES)
def test_layout_on_disk(tmp_path, style):
    counts = {"train": 5, "val": 3, "test": 2}
    root = synthetic.generate(tmp_path / "set", style=style, size=(96, 128), counts=counts, seed=4)
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    images = {f"JPEGImages/{split}/{n:06d}.{_SUFFIX[style]}" for split, count in counts.items() for n in range(count)}
    assert names == images | {f"Annotations/{split}.json" for split in counts} | {"synthetic.json"}
    for split, count in counts.items():
        json_file = root / "Annotations" / f"{split}.json"
        assert check(json_file, root / "JPEGImages" / split).ok
        content = json.loads(json_file.read_text())
        assert [category["name"] for category in content["categories"]] == list(synthetic.CLASSES)
        assert [(image["height"], image["width"]) for image in content["images"]] == [(96, 128)] * count


def test_sar_files_hold_the_scene_without_loss(tmp_path):
    root = synthetic.generate(tmp_path / "set", size=64, counts={"val": 3}, seed=9)
    content = json.loads((root / "Annotations" / "val.json").read_text())
    import zlib

    for index, entry in enumerate(content["images"]):
        image, boxes, classes = synthetic.scene("sar", 64, _rng(9, zlib.crc32(b"val"), index))
        read = cv2.imread(str(root / "JPEGImages" / "val" / entry["file_name"]), cv2.IMREAD_COLOR_RGB)
        assert np.array_equal(read, image)
        annotations = [ann for ann in content["annotations"] if ann["image_id"] == entry["id"]]
        assert [ann["category_id"] - 1 for ann in annotations] == classes.tolist()
        xywh = np.array([ann["bbox"] for ann in annotations]).reshape(-1, 4)
        np.testing.assert_allclose(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]), boxes, atol=1e-6)


def test_image_i_does_not_depend_on_counts_or_workers(tmp_path):
    short = synthetic.generate(tmp_path / "short", size=48, counts={"train": 3, "val": 2}, seed=1)
    long = synthetic.generate(tmp_path / "long", size=48, counts={"val": 2, "train": 40}, seed=1, workers=2)
    other = synthetic.generate(tmp_path / "other", size=48, counts={"train": 3, "val": 2}, seed=2)
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            name = f"JPEGImages/{split}/{index:06d}.png"
            assert (short / name).read_bytes() == (long / name).read_bytes()
            assert (short / name).read_bytes() != (other / name).read_bytes()
    boxes = [
        [
            (ann["image_id"], ann["bbox"])
            for ann in json.loads((root / "Annotations/train.json").read_text())["annotations"]
        ]
        for root in (short, long)
    ]
    assert boxes[1][: len(boxes[0])] == boxes[0]


def test_a_finished_set_is_left_alone_and_an_unfinished_one_completed(tmp_path):
    root = tmp_path / "set"
    options = {"size": 48, "counts": {"train": 4, "val": 2}}
    synthetic.generate(root, **options)
    files = _files(root)
    stamps = {name: (root / name).stat().st_mtime_ns for name in files}
    synthetic.generate(root, **options)
    assert {name: (root / name).stat().st_mtime_ns for name in files} == stamps
    (root / "JPEGImages" / "train" / "000002.png").unlink()
    synthetic.generate(root, **options)
    assert _files(root) == files
    manifest = json.loads((root / "synthetic.json").read_text())
    (root / "synthetic.json").write_text(json.dumps({**manifest, "complete": False}))
    (root / "Annotations" / "val.json").unlink()
    (root / "JPEGImages" / "val" / "000001.png").write_bytes(b"half")
    synthetic.generate(root, **options)
    assert json.loads((root / "synthetic.json").read_text())["complete"]
    assert {name: data for name, data in _files(root).items() if name != "synthetic.json"} == {
        name: data for name, data in files.items() if name != "synthetic.json"
    }


def test_a_longer_set_grows_in_place(tmp_path):
    root, fresh = tmp_path / "set", tmp_path / "fresh"
    synthetic.generate(root, size=48, counts={"train": 2})
    synthetic.generate(root, size=48, counts={"train": 4, "val": 1})
    synthetic.generate(fresh, size=48, counts={"train": 4, "val": 1})
    assert _files(root) == _files(fresh)


@pytest.mark.parametrize("change", [{"seed": 5}, {"style": "optical"}, {"size": 64}, {"counts": {"train": 1}}])
def test_a_set_of_other_parameters_is_not_overwritten(tmp_path, change):
    root = tmp_path / "set"
    options = {"style": "sar", "size": 48, "counts": {"train": 2}, "seed": 0}
    synthetic.generate(root, **options)
    files = _files(root)
    with pytest.raises(FileExistsError, match=next(iter(change))):
        synthetic.generate(root, **{**options, **change})
    assert _files(root) == files


def test_a_folder_of_someone_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        synthetic.generate(tmp_path, size=48, counts={"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    shutil.copy(tmp_path / "thesis.tex", tmp_path / "synthetic.json")
    with pytest.raises(FileExistsError, match="not a manifest"):
        synthetic.generate(tmp_path, size=48, counts={"train": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"style": "radar"},
        {"size": 16},
        {"seed": -1},
        {"counts": {"train": -1}},
        {"counts": {"../train": 1}},
        {"workers": 0},
    ],
    ids=str,
)
def test_bad_parameters_are_errors_before_anything_is_written(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        synthetic.generate(tmp_path / "set", **{"counts": {"train": 1}, **options})
    assert not (tmp_path / "set").exists()
