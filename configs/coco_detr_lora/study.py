"""COCO-DETR-LoRA: full fine-tuning, LoRA and a partly unfrozen DETR-R50 on COCO 2017, Faster R-CNN beside them."""

from loradet.experiments.study import Entry, Scenes, Smoke, Study

HERE = "configs/coco_detr_lora"
BASELINE = "fasterrcnn_r50_fpn_baseline"
FULL = "detr_r50_full"
# 80 classes, 100 queries, hidden width 256.
HEADS = 257 * 81 + 2 * 257 * 256 + 257 * 4 + 100 * 256
LAST_STAGE = 14_964_736
# A rank adds this much in 18 attentions of four projections, and in 12 feed-forward layers of 256 and 2048.
ATTENTION, FEED_FORWARD = 18 * 4 * 2 * 256, 12 * 2 * (256 + 2048)


def entry(id: str, title: str, method: str, *baselines: str, trains: int, objective: str, **fields) -> Entry:
    """An entry whose config has its name."""
    defaults = dict(model="DETR-R50", weights="random", checks={"trainable": {"all": trains / 1e6, "classes": 80}})
    return Entry(
        id=id,
        config=f"{HERE}/{id}.py",
        title=title,
        objective=objective,
        method=method,
        baselines=baselines,
        **{**defaults, **fields},
    )


def lora(rank: int, placement: str) -> Entry:
    """LoRA of one rank in attention alone, or in feed-forward layers too."""
    both = placement == "attn_ffn"
    return entry(
        f"detr_r50_lora_only_r{rank}_{placement}",
        f"DETR-R50, LoRA r={rank}, {'attention + feed-forward' if both else 'attention'}",
        "LoRA",
        FULL,
        *([f"detr_r50_lora_only_r{rank}_attn"] if both else []),
        trains=HEADS + rank * (ATTENTION + (FEED_FORWARD if both else 0)),
        objective="Which rank where.",
        targets=placement.replace("_", "+"),
        rank=rank,
        alpha=2.0 * rank,
    )


study = Study(
    name="coco_detr_lora",
    title="COCO-DETR-LoRA on COCO 2017",
    smoke=Smoke(train_images=16, val_images=8, overrides=("data.image_size=256", "data.max_size=256")),
    stand_in=Scenes(root="datasets/synthetic_coco", style="shapes", size=512, counts={"train": 500, "val": 50}),
    entries=(
        entry(
            BASELINE,
            "Faster R-CNN R50-FPN",
            "full",
            trains=41_753_056,
            objective="The usual detector of the same size.",
            model="Faster R-CNN R50-FPN",
        ),
        entry(
            FULL,
            "DETR-R50, full",
            "full",
            BASELINE,
            trains=41_575_061,
            objective="What training everything gives.",
        ),
        entry(
            "detr_r50_partial_unfreeze",
            "DETR-R50, last stage and heads",
            "partly unfrozen",
            FULL,
            trains=LAST_STAGE + HEADS,
            objective="What unfreezing by hand gives.",
        ),
        *(lora(rank, placement) for placement in ("attn", "attn_ffn") for rank in (4, 8, 16)),
    ),
)
