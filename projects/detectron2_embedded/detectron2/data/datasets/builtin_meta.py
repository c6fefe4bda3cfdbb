"""The 80 classes of COCO detection and their ids in its files (1 to 90 with gaps)."""

from typing import Any

from detectron2._subset import missing_names

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, "
    "giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
    "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, "
    "knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, "
    "cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush"
)

COCO_CATEGORIES = [
    {"id": category_id, "name": name, "isthing": 1}
    for category_id, name in zip([i for i in range(1, 91) if i not in _GAPS], _NAMES.split(", "))
]


def coco_metadata() -> dict[str, Any]:
    """`thing_classes` and `thing_dataset_id_to_contiguous_id` of COCO."""
    return {
        "thing_dataset_id_to_contiguous_id": {c["id"]: index for index, c in enumerate(COCO_CATEGORIES)},
        "thing_classes": [c["name"] for c in COCO_CATEGORIES],
    }


__getattr__ = missing_names(
    __name__,
    [
        "ADE20K_SEM_SEG_CATEGORIES",
        "CITYSCAPES_CATEGORIES",
        "COCO_PERSON_KEYPOINT_FLIP_MAP",
        "COCO_PERSON_KEYPOINT_NAMES",
        "KEYPOINT_CONNECTION_RULES",
        "_get_builtin_metadata",
    ],
)
