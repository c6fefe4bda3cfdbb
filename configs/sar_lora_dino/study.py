"""SAR-LoRA-DINO: what LoRA on a frozen DINOv3 ConvNeXt-S buys on SARDet-100K."""

import json
from pathlib import Path

from loradet.experiments.study import Entry, Reported, Scenes, Study

HERE = "configs/sar_lora_dino"
PUBLISHED = json.loads(Path(__file__).with_name("reported.json").read_text(encoding="utf-8"))
DINOV3 = "convnext_small.dinov3_lvd1689m, pretrained"
SUPERVISED = "convnext_small, ImageNet with labels"
RANDOM = "none (convnext_small at random)"
TARGETS = {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "fc1fc2": "mlp.fc1+fc2"}
# Trainable backbone parameters in millions of entries that the published table does not have.
COUNTED = dict(E0001=23.233, E0021=1.083, E0022=2.166, E0023=1.083, E0024=1.083, E0025=49.453)
COUNTED |= dict(E1007=17.636, E1014=16.012, E1015=16.553, E1016=16.553, E1017=15.741, E1018=16.012)


def trainable(id: str) -> dict[str, float]:
    """Millions of trainable parameters by part."""
    published = PUBLISHED["trainable_millions"].get(id, {"backbone": COUNTED.get(id)})
    parts = {"backbone": published["backbone"], "neck": 7.997 if id == "E0001" else 4.475, "head": 4.928}
    return {**parts, "all": round(sum(parts.values()), 3)}


def entry(id: str, config: str, title: str, objective: str, *, weights: str = DINOV3, **fields) -> Entry:
    """An entry with what is the same in all of them."""
    reported = [
        Reported(
            split=row["split"],
            seed=int(row["run"][4:]) if row["run"] else None,
            metrics={f"coco/{name}": value for name, value in row.items() if name.startswith("bbox_")},
        )
        for row in PUBLISHED["reported"].get(id, ())
    ]
    defaults = dict(model="ConvNeXt-S + FPN + RetinaNet", splits=("val", "test"), checks={"trainable": trainable(id)})
    return Entry(
        id=id,
        config=f"{HERE}/{config}.py",
        title=title,
        objective=objective,
        weights=weights,
        reported=tuple(reported),
        **{**defaults, **fields},
    )


def lora(id: str, config: str, rank: int, targets: str, objective: str, baselines: tuple[str, ...], **fields) -> Entry:
    """LoRA of a rank on fc1, fc2 or both, with alpha = 2 rank."""
    extra = fields.pop("extra", "")
    return entry(
        id,
        config,
        f"LoRA r={rank}, {TARGETS[targets].removeprefix('mlp.')}{extra}",
        objective,
        baselines=baselines,
        method=fields.pop("method", "LoRA"),
        targets=TARGETS[targets],
        rank=rank,
        alpha=2.0 * rank,
        **fields,
    )


def stage3(id: str, config: str, rank: int, targets: str, baselines: tuple[str, ...]) -> Entry:
    """Stage 3 trains besides, except the layers that LoRA wraps."""
    objective = "What an unfrozen last stage adds, its wrapped layers left out."
    fields = dict(method="LoRA + stage 3 without its wrapped layers", extra=", unfreeze stage 3")
    return lora(id, config, rank, targets, objective, baselines, **fields)


def whole_stage3(id: str, config: str, rank: int, targets: str, baselines: tuple[str, ...]) -> Entry:
    """Stage 3 trains besides, with the layers that LoRA wraps."""
    objective = "What the name promises: the whole last stage trains."
    fields = dict(method="LoRA + whole stage 3", extra=", unfreeze the whole of stage 3")
    return lora(id, config, rank, targets, objective, baselines, **fields)


study = Study(
    name="sar_lora_dino",
    title="SAR-LoRA-DINO on SARDet-100K",
    source=PUBLISHED["source"],
    stand_in=Scenes(root="datasets/synthetic_sardet100k", counts={"train": 200, "val": 50}),
    entries=(
        entry(
            "E0001",
            "e0001_r50",
            "RetinaNet R50-FPN, a smoke run",
            "Data, training and evaluation work from end to end.",
            model="ResNet-50 + FPN + RetinaNet",
            weights="resnet50.tv_in1k, torchvision's ImageNet weights",
            method="partly unfrozen",
            splits=("val",),
            smoke_only=True,
        ),
        lora(
            *("E0002", "e0002_lora_r16_fc1fc2", 16, "fc1fc2"),
            "The main method: LoRA on both MLP layers of every block of a frozen backbone.",
            ("E0003",),
            seeds=(0, 1, 2),
        ),
        entry(
            "E0003",
            "e0003_linear_probe",
            "Linear probe",
            "The control: frozen features alone.",
            baselines=("E0002",),
            method="linear probe",
            seeds=(0, 1, 2),
        ),
        lora("E0004", "e0004_lora_r16_fc2", 16, "fc2", "Which layers LoRA needs.", ("E0002",)),
        lora("E0005", "e0005_lora_r4_fc1fc2", 4, "fc1fc2", "Which rank LoRA needs.", ("E0002", "E0006")),
        lora("E0006", "e0006_lora_r8_fc1fc2", 8, "fc1fc2", "Which rank LoRA needs.", ("E0002", "E0005")),
        stage3("E0007", "e0007_lora_r16_fc1fc2_stage3", 16, "fc1fc2", ("E0002",)),
        entry(
            "E0008",
            "e0008_supervised_linear_probe",
            "Linear probe of the supervised ConvNeXt-S",
            "What DINOv3's features are worth against labelled pretraining.",
            weights=SUPERVISED,
            baselines=("E0003", "E0002"),
            method="linear probe",
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
        lora("E0012", "e0012_lora_r4_fc2", 4, "fc2", "Low rank on fc2 alone.", ("E0004", "E0005")),
        lora("E0013", "e0013_lora_r8_fc2", 8, "fc2", "Middle rank on fc2 alone.", ("E0004", "E0006")),
        stage3("E0014", "e0014_lora_r4_fc1fc2_stage3", 4, "fc1fc2", ("E0005",)),
        stage3("E0015", "e0015_lora_r8_fc1fc2_stage3", 8, "fc1fc2", ("E0006",)),
        stage3("E0016", "e0016_lora_r16_fc2_stage3", 16, "fc2", ("E0004", "E0007")),
        stage3("E0017", "e0017_lora_r4_fc2_stage3", 4, "fc2", ("E0012", "E0014")),
        stage3("E0018", "e0018_lora_r8_fc2_stage3", 8, "fc2", ("E0013", "E0015")),
        entry(
            "E0019",
            "e0019_full",
            "Full fine-tuning",
            "What training everything gives.",
            baselines=("E0003", "E0002"),
            method="full",
        ),
        entry(
            "E0020",
            "e0020_supervised_full",
            "Full fine-tuning of the supervised ConvNeXt-S",
            "What training everything gives after labelled pretraining.",
            weights=SUPERVISED,
            baselines=("E0008", "E0002"),
            method="full",
        ),
        lora("E0021", "e0021_lora_r16_fc1", 16, "fc1", "The layer that E0004 leaves out.", ("E0002", "E0004")),
        *(
            lora(*fields, "How much of it is pretraining.", baselines, weights=RANDOM, extra=", random backbone")
            for *fields, baselines in (
                ("E0022", "e0022_lora_r16_fc1fc2_random", 16, "fc1fc2", ("E0002", "E0025")),
                ("E0023", "e0023_lora_r16_fc2_random", 16, "fc2", ("E0004", "E0022")),
                ("E0024", "e0024_lora_r16_fc1_random", 16, "fc1", ("E0021", "E0022", "E0023")),
            )
        ),
        entry(
            "E0025",
            "e0025_full_random",
            "Training from random weights",
            "How much of it is pretraining.",
            weights=RANDOM,
            baselines=("E0019", "E0022"),
            method="full",
        ),
        whole_stage3("E1007", "e1007_lora_r16_fc1fc2_stage3_whole", 16, "fc1fc2", ("E0007", "E0002")),
        whole_stage3("E1014", "e1014_lora_r4_fc1fc2_stage3_whole", 4, "fc1fc2", ("E0014", "E0005")),
        whole_stage3("E1015", "e1015_lora_r8_fc1fc2_stage3_whole", 8, "fc1fc2", ("E0015", "E0006")),
        whole_stage3("E1016", "e1016_lora_r16_fc2_stage3_whole", 16, "fc2", ("E0016", "E0004")),
        whole_stage3("E1017", "e1017_lora_r4_fc2_stage3_whole", 4, "fc2", ("E0017", "E0012")),
        whole_stage3("E1018", "e1018_lora_r8_fc2_stage3_whole", 8, "fc2", ("E0018", "E0013")),
    ),
)
