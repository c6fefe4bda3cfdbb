"""SAR-LoRA-DINO in miniature: the same comparison where any machine can run it; its numbers speak of it alone."""

from loradet.experiments.study import Entry, Scenes, Study, expand_grid

HERE = "configs/sar_lora_dino/mini"


def entry(id: str, config: str, title: str, objective: str, *baselines: str) -> Entry:
    """An entry with what is the same in all of them."""
    same = dict(seeds=(0, 1, 2), splits=("val", "test"))
    return Entry(id=id, config=f"{HERE}/{config}.py", title=title, objective=objective, baselines=baselines, **same)


ranks = expand_grid(
    axes={
        "rank": {rank: {"alpha": 2.0 * rank} for rank in (4, 8, 16)},
        "layers": {
            "fc1": {"targets": "[mlp.fc1]"},
            "fc2": {"targets": "[mlp.fc2]"},
            "fc1fc2": {"targets": "[mlp.fc1,mlp.fc2]"},
        },
    },
    template=dict(
        id="mini_r{rank}_{layers}",
        config=f"{HERE}/lora.py",
        title="LoRA r={rank}, {layers}",
        objective="Which rank on which layers.",
        baselines=["mini_probe"],
        overrides=[
            "model.backbone.bottom_up.rank={rank}",
            "model.backbone.bottom_up.alpha={alpha}",
            "model.backbone.bottom_up.targets={targets}",
        ],
        seeds=[0, 1, 2],
        splits=["val", "test"],
    ),
)

study = Study(
    name="sar_lora_dino/mini",
    title="SAR-LoRA-DINO in miniature, on synthetic scenes",
    scenes=Scenes(root="datasets/synthetic_mini", size=192, counts={"train": 800, "val": 100, "test": 100}),
    labels={"ConvNeXt-Atto + FPN + RetinaNet": "ConvNeXt-Atto + narrow FPN + RetinaNet"},
    entries=(
        entry("mini_probe", "linear_probe", "Linear probe", "Frozen features alone."),
        *ranks,
        entry(
            *("mini_r16_fc1fc2_stage3", "lora_stage3", "LoRA r=16, fc1fc2, unfreeze stage 3"),
            *("What an unfrozen last stage adds, its wrapped layers left out.", "mini_r16_fc1fc2"),
        ),
        entry(
            *("mini_r16_fc1fc2_stage3_whole", "lora_stage3_whole", "LoRA r=16, fc1fc2, unfreeze the whole of stage 3"),
            *("What the name promises: the whole last stage trains.", "mini_r16_fc1fc2_stage3", "mini_r16_fc1fc2"),
        ),
        entry("mini_dora_r16", "dora", "DoRA r=16, fc1fc2", "Rows of a trained length.", "mini_r16_fc1fc2"),
        entry(
            *("mini_mona", "mona", "Mona, width 54"),
            *("Filters of three sizes, as many parameters as LoRA of rank 16.", "mini_r16_fc1fc2"),
        ),
        entry(
            *("mini_full_tuning", "full", "Full fine-tuning", "What training everything gives."),
            *("mini_r16_fc1fc2", "mini_probe"),
        ),
    ),
)
