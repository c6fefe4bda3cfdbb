"""The smoke matrix: three experiments without a training step; checkpoint, metrics and report appear all the same."""

from loradet.experiments.study import Entry, Scenes, Smoke, Study

NAMES = ("fasterrcnn_r50_fpn_baseline", "detr_r50_full", "detr_r50_lora_only_r4_attn")

study = Study(
    name="coco_detr_lora/smoke",
    title="COCO-DETR-LoRA: the smoke matrix",
    labels={
        "ResNet-50 + DETR": "detr",
        "ResNet-50 + FPN + Faster R-CNN": "fasterrcnn",
        "self_attn+multihead_attn": "attn",
    },
    scenes=Scenes(root="datasets/smoke_coco", style="shapes", size=256, counts={"train": 8, "val": 4}),
    smoke=Smoke(
        train_images=8,
        val_images=4,
        epochs=0,
        overrides=("data.image_size=256", "data.max_size=256"),
    ),
    entries=tuple(
        Entry(
            id=f"smoke_{name}",
            title=name,
            objective="Data, model, checkpoint, evaluation and report work.",
            config=f"configs/coco_detr_lora/{name}.py",
            overrides=("data.name=smoke_coco", "data.root=datasets/smoke_coco"),
            smoke_only=True,
        )
        for name in NAMES
    ),
)
