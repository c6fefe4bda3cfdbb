"""Frozen DINOv3 and DETR on crowds: the pilot, the full run, one without encoder, one for less memory."""

from loradet.experiments.study import Entry, Scenes, Smoke, Study

HERE = "configs/crowd_detr"
# DETR's transformer, heads and projection from ViT-L's 1024 channels, for 2 classes and 300 queries; see the test.
TRAINS, TRAINS_WITHOUT_ENCODER = 17.836039, 9.945607


def entry(id: str, title: str, objective: str, trains: float = TRAINS, **fields) -> Entry:
    """An entry whose config has the end of its name."""
    return Entry(
        id=id,
        config=f"{HERE}/{id.removeprefix('crowd_')}.py",
        title=title,
        objective=objective,
        checks={"trainable": {"all": trains, "classes": 2}},
        **fields,
    )


study = Study(
    name="crowd_detr",
    title="Frozen DINOv3 + DETR on crowds",
    labels={"linear probe": "frozen backbone"},
    smoke=Smoke(train_images=10, val_images=10, overrides=()),
    stand_in=Scenes(
        root="datasets/synthetic_crowd",
        style="shapes",
        layout="yolo",
        size=(192, 320),
        counts={"train": 10, "val": 10},
        max_objects=20,
    ),
    stand_in_overrides=(
        "model.backbone.module.model_name=vit_small_patch16_dinov3",
        "model.backbone.module.pretrained=False",
        "model.backbone.module.frozen_dtype=null",
        "train.allow_random_frozen=True",
        "train.amp.enabled=False",
        *(f"dataloader.{split}.num_workers=0" for split in ("train", "val")),
        "data.image_size=192",
        "data.max_size=320",
        "data.pad_to=[192,320]",
    ),
    entries=(
        entry("crowd_pilot", "Pilot: 10 + 10 images, one epoch", "Data, model, metrics and memory work."),
        entry("crowd_full", "Encoder and decoder", "The plan."),
        entry(
            "crowd_without_encoder",
            "Decoder only",
            "Whether DINOv3's features need DETR's encoder.",
            TRAINS_WITHOUT_ENCODER,
            baselines=("crowd_full",),
        ),
        entry("crowd_fallback", "Images of 800x1333", "Less memory.", baselines=("crowd_full",)),
    ),
)
