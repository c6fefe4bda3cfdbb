from PIL import Image

from loradet.datasets import summarize


def _row(text: str, label: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if label in line.split())


def test_table_counts_boxes_by_class_and_coco_size(coco_folder):
    coco_folder.content["images"].append({"id": 50, "file_name": "x.png", "width": 500, "height": 500})
    coco_folder.content["annotations"] += [
        coco_folder.box(5, 50, 5, [0, 0, 200, 200]),
        coco_folder.box(6, 50, 5, [0, 0, 50, 50]),
        coco_folder.box(7, 50, 5, [0, 0, 0, 50]),
    ]
    text = summarize(coco_folder.write())
    assert "4 images (1 without boxes), 5 boxes, 1 crowd boxes, 1 broken boxes" in text
    assert _row(text, "dog") == ["5", "dog", "2", "3", "1", "1", "1", "50.0"]
    assert _row(text, "cow") == ["90", "cow", "1", "1", "0", "1", "0", "40.0"]
    assert _row(text, "all")[1:6] == ["3", "5", "2", "2", "1"]


def test_picture(coco_folder):
    png = coco_folder.root / "plots" / "summary.png"
    summarize(coco_folder.json, png)
    with Image.open(png) as image:
        assert image.width > 500
        assert len(image.convert("L").getcolors()) > 10
    assert [file.name for file in png.parent.iterdir()] == ["summary.png"]


def test_a_set_without_annotations(coco_folder):
    coco_folder.content["annotations"] = []
    text = summarize(coco_folder.write(), coco_folder.root / "summary.png")
    assert "3 images (3 without boxes), 0 boxes" in text
    assert (coco_folder.root / "summary.png").is_file()
