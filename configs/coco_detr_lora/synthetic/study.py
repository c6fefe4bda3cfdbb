"""The 500-step comparison on synthetic shapes: what full fine-tuning and LoRA cost, and what Faster R-CNN does."""

from loradet.experiments.study import Entry, Reported, Scenes, Smoke, Study

HERE = "configs/coco_detr_lora/synthetic"
STAND_IN = (
    "The study's 33.7 M and 247 K are those of the smaller model that it fell back on, since torchvision has no DETR. "
    "Here it is the published DETR-R50: 41.5 M for ten classes and 100 queries, of which LoRA of rank 4 trains 147,456 "
    "in 18 attentions and 161,039 in the heads."
)
# Published parameters in millions, training memory in GB, seconds of 500 steps, on a GPU that is not named.
PUBLISHED = {
    "fasterrcnn_r50_fpn_baseline": (41.4, 41.4, 12.2, 399.0),
    "detr_r50_full": (33.7, 33.7, 2.3, 50.0),
    "detr_r50_lora_only_r4_attn": (33.8, 0.247, 0.4, 33.0),
}
COSTS = ("parameters/total_millions", "parameters/trainable_millions", "cost/peak_memory_gb", "cost/train_seconds")


def entry(name: str, title: str, **fields) -> Entry:
    """One detector, from random weights."""
    return Entry(
        id=f"synthetic_{name}",
        config=f"{HERE}/{name}.py",
        title=title,
        objective="What 500 steps cost and give.",
        baselines=tuple(f"synthetic_{other}" for other in PUBLISHED if other != name),
        reported=(Reported(split="val", metrics=dict(zip(COSTS, PUBLISHED[name]))),),
        note=STAND_IN if name.startswith("detr") else "",
        **fields,
    )


study = Study(
    name="coco_detr_lora/synthetic",
    title="COCO-DETR-LoRA: 500 steps on synthetic shapes",
    source="the study's README, trained from random weights on one GPU",
    scenes=Scenes(root="datasets/synthetic_coco", style="shapes", size=512, counts={"train": 500, "val": 50}),
    smoke=Smoke(train_images=8, val_images=4, overrides=("data.image_size=256", "data.max_size=256")),
    labels={
        "ResNet-50 + DETR": "DETR-R50",
        "ResNet-50 + FPN + Faster R-CNN": "Faster R-CNN R50-FPN",
        "self_attn+multihead_attn": "attn",
    },
    entries=(
        entry("fasterrcnn_r50_fpn_baseline", "Faster R-CNN R50-FPN"),
        entry("detr_r50_full", "DETR-R50, full"),
        entry("detr_r50_lora_only_r4_attn", "DETR-R50, LoRA r=4, attention", checks={"trainable": {"all": 0.308495}}),
    ),
)
