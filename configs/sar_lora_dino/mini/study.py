"""SAR-LoRA-DINO in miniature: the same comparison where any machine can run it; its numbers speak of it alone."""

from loradet.experiments.study import Entry, Scenes, Study, expand_grid

HERE = "configs/sar_lora_dino/mini"
MODEL = "ConvNeXt-Atto + narrow FPN + RetinaNet"
WEIGHTS = "asset://convnext_atto_synthetic.safetensors"


def entry(id: str, config: str, title: str, objective: str, **fields) -> Entry:
    """An entry with what is the same in all of them."""
    same = dict(model=MODEL, weights=WEIGHTS, seeds=(0, 1, 2), splits=("val", "test"))
    return Entry(id=id, config=f"{HERE}/{config}.py", title=title, objective=objective, **same, **fields)


ranks = expand_grid(
    axes={
        "rank": {rank: {"alpha": 2.0 * rank} for rank in (4, 8, 16)},
        "layers": {
            "fc1": {"targets": "[mlp.fc1]", "shown": "mlp.fc1"},
            "fc2": {"targets": "[mlp.fc2]", "shown": "mlp.fc2"},
            "fc1fc2": {"targets": "[mlp.fc1,mlp.fc2]", "shown": "mlp.fc1+fc2"},
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
        model=MODEL,
        weights=WEIGHTS,
        method="LoRA",
        targets="{shown}",
        rank="{rank}",
        alpha="{alpha}",
        seeds=[0, 1, 2],
        splits=["val", "test"],
    ),
)

best = dict(targets="mlp.fc1+fc2", rank=16, alpha=32.0)

study = Study(
    name="sar_lora_dino/mini",
    title="SAR-LoRA-DINO in miniature, on synthetic scenes",
    scenes=Scenes(root="datasets/synthetic_mini", size=192, counts={"train": 800, "val": 100, "test": 100}),
    entries=(
        entry("mini_probe", "linear_probe", "Linear probe", "Frozen features alone.", method="linear probe"),
        *ranks,
        entry(
            "mini_r16_fc1fc2_stage3",
            "lora_stage3",
            "LoRA r=16, fc1fc2, unfreeze stage 3",
            "What an unfrozen last stage adds, its wrapped layers left out.",
            baselines=("mini_r16_fc1fc2",),
            method="LoRA + stage 3 without its wrapped layers",
            **best,
        ),
        entry(
            "mini_r16_fc1fc2_stage3_whole",
            "lora_stage3_whole",
            "LoRA r=16, fc1fc2, unfreeze the whole of stage 3",
            "What the name promises: the whole last stage trains.",
            baselines=("mini_r16_fc1fc2_stage3", "mini_r16_fc1fc2"),
            method="LoRA + whole stage 3",
            **best,
        ),
        entry(
            "mini_full_tuning",
            "full",
            "Full fine-tuning",
            "What training everything gives.",
            baselines=("mini_r16_fc1fc2", "mini_probe"),
            method="full",
        ),
    ),
)
