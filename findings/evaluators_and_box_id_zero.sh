#!/usr/bin/env bash
# pycocotools 2.0.11, faster-coco-eval 1.8.0, hotcoco 1.3.0, ultrafast-pycocotools 0.1.14, vernier 0.5.4: COCOeval.
#
# Two boxes in two images, with the annotation ids 0 and 1, and two detections that are these boxes.
#
# One would guess an AP of 1 from all of them; and, since the last three are said to be bit for bit what pycocotools is
# (vernier in its strict mode, which its COCOeval takes), the same number from all in any case.
#
# What happens:
#   pycocotools            AP 0.252, without a message: 0 stands for "no box" in its matches, so that the box of id 0 is
#                          never found. With the ids 1 and 2 the AP is 1.
#   faster-coco-eval       0.252 too, with a warning that names the id 0.
#   hotcoco, ultrafast-pycocotools, vernier
#                          AP 1.0: right, and not pycocotools' number.
#
# Files whose annotation ids begin at 0 are common. Number annotations from 1 before an evaluation that is to be compared
# with published numbers: then all five agree.
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pycocotools==2.0.11 faster-coco-eval==1.8.0 hotcoco==1.3.0 ultrafast-pycocotools==0.1.14 \
    vernier==0.5.4

cat > try.py <<'PYTHON'
import contextlib
import importlib
import io
import json
import warnings

KINDS = {
    "pycocotools": ("pycocotools.coco.COCO", "pycocotools.cocoeval.COCOeval"),
    "faster-coco-eval": ("faster_coco_eval.COCO", "faster_coco_eval.COCOeval_faster"),
    "hotcoco": ("hotcoco.COCO", "hotcoco.COCOeval"),
    "ultrafast-pycocotools": ("ultrafast_pycocotools.COCO", "ultrafast_pycocotools.COCOeval"),
    "vernier": ("pycocotools.coco.COCO", "vernier.COCOeval"),
}
BOX = [10, 10, 40, 40]


def find(path):
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


for first in (0, 1):
    content = {
        "info": {},
        "images": [{"id": n, "width": 100, "height": 100, "file_name": f"{n}.png"} for n in (1, 2)],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [
            {"id": first + n, "image_id": 1 + n, "category_id": 1, "bbox": BOX, "area": 1600, "iscrowd": 0}
            for n in (0, 1)
        ],
    }
    with open("a.json", "w") as file:
        json.dump(content, file)
    with open("d.json", "w") as file:
        json.dump([{"image_id": n, "category_id": 1, "bbox": BOX, "score": 1 - n / 10} for n in (1, 2)], file)
    for package, (data, evaluation) in KINDS.items():
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            truth = find(data)("a.json")
            result = find(evaluation)(truth, truth.loadRes("d.json"), "bbox")
            result.evaluate()
            result.accumulate()
            result.summarize()
        warned = any("id 0" in str(one.message) for one in caught)
        print(f"ids from {first}: {package} AP {float(result.stats[0]):.3f}{' (warns)' if warned else ''}")
PYTHON
venv/bin/python try.py > seen.txt 2> log.txt || { cat log.txt; exit 1; }
cat seen.txt
diff seen.txt - <<'SEEN'
ids from 0: pycocotools AP 0.252
ids from 0: faster-coco-eval AP 0.252 (warns)
ids from 0: hotcoco AP 1.000
ids from 0: ultrafast-pycocotools AP 1.000
ids from 0: vernier AP 1.000
ids from 1: pycocotools AP 1.000
ids from 1: faster-coco-eval AP 1.000
ids from 1: hotcoco AP 1.000
ids from 1: ultrafast-pycocotools AP 1.000
ids from 1: vernier AP 1.000
SEEN
