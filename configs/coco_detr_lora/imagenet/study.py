"""The nine experiments from ImageNet: torchvision's ResNet-50, as ckpts/resnet50.pth; its batch norm stays as it is."""

from dataclasses import replace

from loradet.experiments.study import load_study

# Two numbers a channel of batch norm that no longer train: of the whole ResNet-50, and of its last stage.
NORMS = {"fasterrcnn_r50_fpn_baseline": 53_120, "detr_r50_full": 53_120, "detr_r50_partial_unfreeze": 22_528}


def from_imagenet(entry):
    """The same experiment from other weights."""
    trains = {**entry.checks["trainable"]}
    trains["all"] = round(trains["all"] * 1e6 - NORMS.get(entry.id, 0)) / 1e6
    return replace(
        entry,
        id=f"imagenet_{entry.id}",
        overrides=("init.resnet50=ckpts/resnet50.pth",),
        baselines=tuple(f"imagenet_{name}" for name in entry.baselines),
        checks={"trainable": trains},
    )


random = load_study("coco_detr_lora")
study = replace(
    random,
    name="coco_detr_lora/imagenet",
    title=f"{random.title}, from ImageNet weights",
    labels={**random.labels, "ckpts/resnet50.pth": "torchvision's ResNet-50"},
    entries=tuple(map(from_imagenet, random.entries)),
)
