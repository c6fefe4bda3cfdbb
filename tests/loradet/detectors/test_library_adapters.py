"""Freezing, LoRA and adapter files of whole detectors of transformers."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.library_detectors import build, items, needs_transformers

from loradet.adapters import freeze, load_adapter, lora, merge, parameter_table, read_adapter, save_adapter

pytestmark = needs_transformers
HEADS = ["class_embed", "bbox_embed", "enc_score_head", "enc_bbox_head"]


def adapted(model, memory="lean"):
    frozen = freeze(module=model, unfreeze=HEADS)
    return lora(
        module=frozen,
        targets=["self_attn.q_proj", "self_attn.v_proj", "mlp.fc1", "mlp.fc2"],
        rank=2,
        alpha=4.0,
        dropout=0.0,
        freeze_base=True,
        memory=memory,
    )


def step(model, batch):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    optimizer.step()
    return losses, without


def detect(model, batch):
    with torch.no_grad():
        return [(o["instances"].pred_boxes.tensor, o["instances"].scores) for o in model.eval()(batch)]


@pytest.mark.parametrize("family", ["d_fine", pytest.param("rt_detr_v2", marks=pytest.mark.slow)])
def test_heads_and_lora_train_and_an_adapter_holds_them(family, tmp_path):
    base, batch = build(family), items((64, 64), (64, 64))
    plain = copy.deepcopy(base)
    model = adapted(base)
    # Nothing is changed by what begins at zero.
    assert all(torch.equal(a, b) for a, b in zip(detect(model, batch)[0], detect(plain, batch)[0]))
    # Where lean memory does not know a block, it computes what PyTorch does.
    other = adapted(copy.deepcopy(plain), memory="plain")
    lean, _ = step(copy.deepcopy(model), batch)
    torch.testing.assert_close(sum(lean.values()), sum(step(other, batch)[0].values()), rtol=1e-5, atol=1e-5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, without = step(model, batch)
    assert not without
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all("lora_" in name or any(head in name for head in HEADS) for name in changed), changed
    assert any("decoder.layers.0.self_attn.q_proj.lora_b" in name for name in changed)
    save_adapter(model, tmp_path / "adapter.safetensors")
    again = adapted(copy.deepcopy(plain))
    load_adapter(again, tmp_path / "adapter.safetensors")
    wanted = detect(model, batch)
    assert all(torch.equal(a, b) for a, b in zip(detect(again, batch)[0], wanted[0]))
    # Heads have two names in the network, and are in the file once or under both, but the same.
    _, tensors = read_adapter(tmp_path / "adapter.safetensors")
    assert "network.model.decoder.class_embed.0.weight" in tensors
    merged = copy.deepcopy(model)
    merge(merged)
    for ours, theirs in zip(detect(merged, batch)[0], wanted[0]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_parts_are_counted_as_of_every_detector():
    table = parameter_table(build("d_fine", own=True))
    assert table.parts["backbone"].total > 0 and table.parts["head"].total > 0
    frozen = freeze(module=build("d_fine", own=True), unfreeze=["network"])
    counts = parameter_table(frozen).parts
    assert counts["backbone"].trainable == 0 < counts["head"].trainable
