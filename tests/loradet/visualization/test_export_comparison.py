"""Several exports side by side."""

import numpy as np
import pytest
from PIL import Image

from loradet.visualization.comparison import compare_exports
from loradet.visualization.export.split import export_split
from loradet.visualization.grid import Cell, grid, wrap
from loradet.visualization.painting import class_colors

CAR = class_colors(2)[1]


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def columns_of(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.flatnonzero((image == np.array(color)).all(axis=2).any(axis=0))


@pytest.fixture
def exports(cfg, checkpoint_of, tmp_path):
    folders = {}
    for name, corners in (("left", (5, 40, 30, 60)), ("right", (90, 40, 120, 60))):
        export_split(cfg, checkpoint_of(*corners, name=f"{name}.pth"), tmp_path / f"e_{name}")
        folders[name] = tmp_path / f"e_{name}"
    return folders


def test_a_picture_for_each_image(exports, tmp_path, texts):
    written = compare_exports(exports, tmp_path / "out")
    assert [path.name for path in written] == [f"{10 + i}_im{i}.png" for i in range(6)]
    assert texts[:4] == ["val, detections with score >= 0.3", "im0.png: ground truth", "left", "right"]
    image = read(written[1])[:-30]  # without the legend
    third = image.shape[1] / 3
    ship, car = (columns_of(image, color) for color in class_colors(2))
    assert ship.max() < third  # the ground truth
    assert car.min() > third
    # One experiment's box lies at the left of its picture, the other's at the right of its own.
    second, last = car[car < 2 * third] - third, car[car > 2 * third] - 2 * third
    assert second.max() < third / 2 < last.min()


@pytest.mark.parametrize("name", ["sheet.png", "folder"])
def test_a_sheet(exports, tmp_path, texts, name):
    written = compare_exports(exports, tmp_path / name, sheet=True, num_images=2, score_threshold=0.95)
    assert written == [tmp_path / name / "comparison.png" if name == "folder" else tmp_path / name]
    assert texts[0] == "val, detections with score >= 0.95, 2 of 6 images"
    assert [text for text in texts if "im" in text][1:] == ["im0.png: ground truth", "im5.png: ground truth"]
    image = read(written[0])
    assert len(columns_of(image, class_colors(2)[0]))
    assert not len(columns_of(image, CAR))  # under the threshold


def test_images_that_moved(exports, tmp_path):
    (tmp_path / "data" / "images").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"im0\.png.*--image-root"):
        compare_exports(exports, tmp_path / "out")
    assert len(compare_exports(exports, tmp_path / "out", image_root=tmp_path / "moved")) == 6


def test_exports_that_differ_are_told_apart(exports, config_of, checkpoint_of, tmp_path):
    checkpoint = checkpoint_of(1, 1, 9, 9)
    cfg = config_of("more", images=7)
    export_split(cfg, checkpoint, tmp_path / "e_more")
    with pytest.raises(ValueError, match=r"more \(.*lacks 0 images and has 1 images \(such as id 16\) besides"):
        compare_exports({**exports, "more": tmp_path / "e_more"}, tmp_path / "out")
    export_split(cfg, checkpoint, tmp_path / "e_few", subset=2)
    with pytest.raises(ValueError, match="it lacks 5 images"):
        compare_exports({"more": tmp_path / "e_more", "few": tmp_path / "e_few"}, tmp_path / "out")
    cfg.dataloader.test = cfg.dataloader.val
    export_split(cfg, checkpoint, tmp_path / "e_test", split="test")
    with pytest.raises(ValueError, match="split test instead of val"):
        compare_exports({"more": tmp_path / "e_more", "test": tmp_path / "e_test"}, tmp_path / "out")
    export_split(config_of("toy", synthetic=True), checkpoint, tmp_path / "e_toy")
    with pytest.raises(ValueError, match="synthetic images instead of real ones"):
        compare_exports({**exports, "toy": tmp_path / "e_toy"}, tmp_path / "out")
    moved = config_of("moved")
    path = tmp_path / "moved" / "val.json"
    path.write_text(path.read_text().replace("[30, 30, 40, 40]", "[30, 30, 40, 41]"))
    export_split(moved, checkpoint, tmp_path / "e_moved")
    with pytest.raises(ValueError, match="images or annotations behind it are others"):
        compare_exports({**exports, "moved": tmp_path / "e_moved"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_synthetic_images_are_called_so(config_of, checkpoint_of, tmp_path, texts):
    cfg = config_of("toy", synthetic=True)
    for name in "ab":
        export_split(cfg, checkpoint_of(1, 1, 9, 9), tmp_path / name)
    compare_exports({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "out.png", sheet=True)
    assert "synthetic images" in texts[0]


def test_wrong_uses(exports, tmp_path):
    with pytest.raises(ValueError, match="two exports or more, got 1"):
        compare_exports({"left": exports["left"]}, tmp_path / "out")
    with pytest.raises(ValueError, match="--contact-sheet"):
        compare_exports(exports, tmp_path / "out.png")
    with pytest.raises(ValueError, match="nothing to paint"):
        compare_exports(exports, tmp_path / "out", num_images=0)
    with pytest.raises(ValueError, match="another one"):
        compare_exports({**exports, "ground truth": exports["left"]}, tmp_path / "out")


def test_a_grid_holds_every_cell():
    cells = [Cell(str(shade), np.full((20, 30, 3), shade, np.uint8)) for shade in range(50, 101, 10)]
    image = grid(wrap(cells, 4), heading="x")
    for cell in cells:
        assert (image == cell.image[0, 0]).all(axis=2).sum() >= 600
    assert image.shape[1] == 6 + 4 * 36
    with pytest.raises(ValueError, match="one size"):
        grid([[cells[0], Cell("", np.zeros((5, 5, 3), np.uint8))]])
    with pytest.raises(ValueError, match="none"):
        grid([])
