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


def entry(id: str, title: str, objective: str, *baselines: str, trains: int) -> Entry:
    """An entry whose config has its name."""
    return Entry(
        id=id,
        config=f"{HERE}/{id}.py",
        title=title,
        objective=objective,
        baselines=baselines,
        checks={"trainable": {"all": trains / 1e6, "classes": 80}},
    )


def lora(rank: int, placement: str) -> Entry:
    """LoRA of one rank in attention alone, or in feed-forward layers too."""
    both = placement == "attn_ffn"
    return entry(
        f"detr_r50_lora_only_r{rank}_{placement}",
        f"DETR-R50, LoRA r={rank}, {'attention + feed-forward' if both else 'attention'}",
        "Which rank where.",
        FULL,
        *([f"detr_r50_lora_only_r{rank}_attn"] if both else []),
        trains=HEADS + rank * (ATTENTION + (FEED_FORWARD if both else 0)),
    )


study = Study(
    name="coco_detr_lora",
    title="COCO-DETR-LoRA on COCO 2017",
    labels={
        "ResNet-50 + DETR": "DETR-R50",
        "ResNet-50 + FPN + Faster R-CNN": "Faster R-CNN R50-FPN",
        "self_attn+multihead_attn": "attn",
        "self_attn+multihead_attn+linear1+linear2": "attn+ffn",
    },
    smoke=Smoke(train_images=16, val_images=8, overrides=("data.image_size=256", "data.max_size=256")),
    stand_in=Scenes(root="datasets/synthetic_coco", style="shapes", size=512, counts={"train": 500, "val": 50}),
    entries=(
        entry(BASELINE, "Faster R-CNN R50-FPN", "The usual detector of the same size.", trains=41_753_056),
        entry(FULL, "DETR-R50, full", "What training everything gives.", BASELINE, trains=41_575_061),
        entry(
            *("detr_r50_partial_unfreeze", "DETR-R50, last stage and heads", "What unfreezing by hand gives.", FULL),
            trains=LAST_STAGE + HEADS,
        ),
        *(lora(rank, placement) for placement in ("attn", "attn_ffn") for rank in (4, 8, 16)),
    ),
)
