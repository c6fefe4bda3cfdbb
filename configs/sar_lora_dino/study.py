"""SAR-LoRA-DINO: what LoRA on a frozen DINOv3 ConvNeXt-S buys on SARDet-100K."""

import json
from pathlib import Path

from loradet.experiments.study import Entry, Reported, Scenes, Study

HERE = "configs/sar_lora_dino"
PUBLISHED = json.loads(Path(__file__).with_name("reported.json").read_text(encoding="utf-8"))
WORKS = "Data, training and evaluation work from end to end."
MAIN = "The main method: LoRA on both MLP layers of every block of a frozen backbone."
CONTROL = "The control: frozen features alone."
WITHOUT = "What an unfrozen last stage adds, its wrapped layers left out."
WHOLE = "What the name promises: the whole last stage trains."
PRETRAINING = "How much of it is pretraining."
# Trainable backbone parameters in millions of entries that the published table does not have.
COUNTED = dict(E0001=23.233, E0021=1.083, E0022=2.166, E0023=1.083, E0024=1.083, E0025=49.453)
COUNTED |= dict(E1007=17.636, E1014=16.012, E1015=16.553, E1016=16.553, E1017=15.741, E1018=16.012)


def trainable(id: str) -> dict[str, float]:
    """Millions of trainable parameters by part."""
    published = PUBLISHED["trainable_millions"].get(id, {"backbone": COUNTED.get(id)})
    parts = {"backbone": published["backbone"], "neck": 7.997 if id == "E0001" else 4.475, "head": 4.928}
    return {**parts, "all": round(sum(parts.values()), 3)}


def entry(id: str, config: str, title: str, objective: str, *baselines: str, **fields) -> Entry:
    """An entry with what is the same in all of them."""
    reported = [
        Reported(
            split=row["split"],
            seed=int(row["run"][4:]) if row["run"] else None,
            metrics={f"coco/{name}": value for name, value in row.items() if name.startswith("bbox_")},
        )
        for row in PUBLISHED["reported"].get(id, ())
    ]
    return Entry(
        id=id,
        config=f"{HERE}/{config}.py",
        title=title,
        objective=objective,
        baselines=baselines,
        checks={"trainable": trainable(id)},
        reported=tuple(reported),
        **{"splits": ("val", "test"), **fields},
    )


def stage3(id: str, name: str, title: str, *baselines: str) -> Entry:
    """LoRA; stage 3 trains besides, except the layers that LoRA wraps."""
    config = f"{id.lower()}_lora_{name}_stage3"
    return entry(id, config, f"LoRA {title}, unfreeze stage 3", WITHOUT, *baselines)


def whole_stage3(id: str, name: str, title: str, *baselines: str) -> Entry:
    """LoRA; stage 3 trains besides, with the layers that LoRA wraps."""
    config = f"{id.lower()}_lora_{name}_stage3_whole"
    return entry(id, config, f"LoRA {title}, unfreeze the whole of stage 3", WHOLE, *baselines)


study = Study(
    name="sar_lora_dino",
    title="SAR-LoRA-DINO on SARDet-100K",
    source=PUBLISHED["source"],
    labels={
        "resnet50.tv_in1k, pretrained": "resnet50.tv_in1k, torchvision's ImageNet weights",
        "convnext_small, pretrained": "convnext_small, ImageNet with labels",
        "random": "none (convnext_small at random)",
    },
    stand_in=Scenes(root="datasets/synthetic_sardet100k", counts={"train": 200, "val": 50}),
    entries=(
        entry("E0001", "e0001_r50", "RetinaNet R50-FPN, a smoke run", WORKS, splits=("val",), smoke_only=True),
        entry("E0002", "e0002_lora_r16_fc1fc2", "LoRA r=16, fc1+fc2", MAIN, "E0003", seeds=(0, 1, 2)),
        entry("E0003", "e0003_linear_probe", "Linear probe", CONTROL, "E0002", seeds=(0, 1, 2)),
        entry("E0004", "e0004_lora_r16_fc2", "LoRA r=16, fc2", "Which layers LoRA needs.", "E0002"),
        entry("E0005", "e0005_lora_r4_fc1fc2", "LoRA r=4, fc1+fc2", "Which rank LoRA needs.", "E0002", "E0006"),
        entry("E0006", "e0006_lora_r8_fc1fc2", "LoRA r=8, fc1+fc2", "Which rank LoRA needs.", "E0002", "E0005"),
        stage3("E0007", "r16_fc1fc2", "r=16, fc1+fc2", "E0002"),
        entry(
            *("E0008", "e0008_supervised_linear_probe", "Linear probe of the supervised ConvNeXt-S"),
            *("What DINOv3's features are worth against labelled pretraining.", "E0003", "E0002"),
        ),
        Entry(
            id="E0010",
            kind="pictures",
            title="Detections without LoRA",
            objective="See what the linear probes find and miss.",
            baselines=("E0011",),
            sources=("E0003", "E0008"),
        ),
        Entry(
            id="E0011",
            kind="pictures",
            title="Detections with LoRA",
            objective="See what LoRA finds on the same images.",
            baselines=("E0010",),
            sources=("E0002", "E0004", "E0005", "E0006", "E0007"),
        ),
        entry("E0012", "e0012_lora_r4_fc2", "LoRA r=4, fc2", "Low rank on fc2 alone.", "E0004", "E0005"),
        entry("E0013", "e0013_lora_r8_fc2", "LoRA r=8, fc2", "Middle rank on fc2 alone.", "E0004", "E0006"),
        stage3("E0014", "r4_fc1fc2", "r=4, fc1+fc2", "E0005"),
        stage3("E0015", "r8_fc1fc2", "r=8, fc1+fc2", "E0006"),
        stage3("E0016", "r16_fc2", "r=16, fc2", "E0004", "E0007"),
        stage3("E0017", "r4_fc2", "r=4, fc2", "E0012", "E0014"),
        stage3("E0018", "r8_fc2", "r=8, fc2", "E0013", "E0015"),
        entry("E0019", "e0019_full", "Full fine-tuning", "What training everything gives.", "E0003", "E0002"),
        entry(
            *("E0020", "e0020_supervised_full", "Full fine-tuning of the supervised ConvNeXt-S"),
            *("What training everything gives after labelled pretraining.", "E0008", "E0002"),
        ),
        entry("E0021", "e0021_lora_r16_fc1", "LoRA r=16, fc1", "The layer that E0004 leaves out.", "E0002", "E0004"),
        entry(
            *("E0022", "e0022_lora_r16_fc1fc2_random", "LoRA r=16, fc1+fc2, random backbone"),
            *(PRETRAINING, "E0002", "E0025"),
        ),
        entry(
            *("E0023", "e0023_lora_r16_fc2_random", "LoRA r=16, fc2, random backbone"),
            *(PRETRAINING, "E0004", "E0022"),
        ),
        entry(
            *("E0024", "e0024_lora_r16_fc1_random", "LoRA r=16, fc1, random backbone"),
            *(PRETRAINING, "E0021", "E0022", "E0023"),
        ),
        entry("E0025", "e0025_full_random", "Training from random weights", PRETRAINING, "E0019", "E0022"),
        whole_stage3("E1007", "r16_fc1fc2", "r=16, fc1+fc2", "E0007", "E0002"),
        whole_stage3("E1014", "r4_fc1fc2", "r=4, fc1+fc2", "E0014", "E0005"),
        whole_stage3("E1015", "r8_fc1fc2", "r=8, fc1+fc2", "E0015", "E0006"),
        whole_stage3("E1016", "r16_fc2", "r=16, fc2", "E0016", "E0004"),
        whole_stage3("E1017", "r4_fc2", "r=4, fc2", "E0017", "E0012"),
        whole_stage3("E1018", "r8_fc2", "r=8, fc2", "E0018", "E0013"),
    ),
)
