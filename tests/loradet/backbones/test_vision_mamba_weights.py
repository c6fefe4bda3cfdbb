"""Which checkpoints VisionMamba takes, and what it says of the others."""

import argparse
import logging

import pytest
import torch
from safetensors.torch import save_file

from loradet.backbones import VisionMamba
from loradet.backbones.vision_mamba_position import resize_position_embedding

SIZES = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, d_state=4)


@pytest.fixture(scope="module")
def source() -> VisionMamba:
    torch.manual_seed(0)
    return VisionMamba(random_weights=True, **SIZES)


def published(source: VisionMamba) -> dict[str, torch.Tensor]:
    """What a classification model with a class token would save."""
    state = {name: x.clone() for name, x in source.state_dict().items()}
    state["pos_embed"] = torch.cat((torch.full((1, 1, 16), 9.0), state["pos_embed"]), 1)
    extra = {"cls_token": (1, 1, 16), "head.weight": (5, 16), "head.bias": (5,), "norm_f.weight": (16,)}
    return state | {name: torch.zeros(shape) for name, shape in extra.items()}


def same_weights(first: VisionMamba, second: VisionMamba) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in ours.items())


def test_what_detection_does_not_use_is_dropped_and_listed(source, tmp_path, caplog):
    save_file(published(source), tmp_path / "vim.safetensors")
    with caplog.at_level(logging.INFO):
        net = VisionMamba(weights=tmp_path / "vim.safetensors", **SIZES)
    assert same_weights(net, source)
    dropped = {"cls_token", "head.weight", "head.bias", "norm_f.weight", "pos_embed[:, 0]"}
    assert set(net.dropped_weights) == dropped
    listed = next(message for message in caplog.messages if "not used for detection" in message)
    assert all(name in listed for name in dropped)
    assert not any("random" in message for message in caplog.messages)


def test_a_training_script_s_arguments_do_no_harm(source, tmp_path):
    content = {"model": published(source), "args": argparse.Namespace(lr=1e-3), "epoch": 7}
    torch.save(content, tmp_path / "vim.pth")
    assert same_weights(VisionMamba(weights=tmp_path / "vim.pth", **SIZES), source)


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="trap"):
        VisionMamba(weights=tmp_path / "trap.pth", **SIZES)
    assert not (tmp_path / "sprung").exists()


def test_the_row_of_a_class_token_in_the_middle(source, tmp_path):
    state = published(source)
    rows = source.pos_embed.detach()
    state["pos_embed"] = torch.cat((rows[:, :8], torch.full((1, 1, 16), 9.0), rows[:, 8:]), 1)
    save_file(state, tmp_path / "middle.safetensors")
    net = VisionMamba(weights=tmp_path / "middle.safetensors", class_token_row="middle", **SIZES)
    assert same_weights(net, source)
    assert "pos_embed[:, 8]" in net.dropped_weights
    official = VisionMamba(weights=tmp_path / "middle.safetensors", **SIZES)
    assert torch.equal(official.pos_embed, state["pos_embed"][:, 1:])
    with pytest.raises(ValueError, match="class_token_row='last'"):
        VisionMamba(weights=tmp_path / "middle.safetensors", class_token_row="last", **SIZES)


def test_own_checkpoints_of_a_grid_that_is_not_square(tmp_path):
    sizes = SIZES | {"img_size": (16, 40)}
    net = VisionMamba(random_weights=True, **sizes)
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    assert same_weights(VisionMamba(weights=tmp_path / "own.safetensors", **sizes), net)
    with pytest.raises(ValueError, match=r"10 rows .*no square grid.*16 rows of the grid 4×4"):
        VisionMamba(weights=tmp_path / "own.safetensors", **SIZES)


def test_a_square_grid_is_resized_to_another_of_as_many_positions(source, tmp_path, caplog):
    save_file(published(source), tmp_path / "vim.safetensors")
    with caplog.at_level(logging.INFO):
        net = VisionMamba(weights=tmp_path / "vim.safetensors", **SIZES | {"img_size": (16, 64)})
    assert torch.equal(net.pos_embed, resize_position_embedding(source.pos_embed, (4, 4), (2, 8)))
    assert not torch.equal(net.pos_embed, source.pos_embed)
    assert any("resized from 4×4 to 2×8" in r.message and r.levelname == "WARNING" for r in caplog.records)


@pytest.mark.parametrize("rope_in_file", [False, True])
def test_rotary_tables_come_from_the_grid(source, tmp_path, rope_in_file):
    tables = {f"rope.freqs_{part}": torch.full((196, 16), 7.0) for part in ("cos", "sin")}
    save_file(source.state_dict() | (tables if rope_in_file else {}), tmp_path / "rope.safetensors")
    net = VisionMamba(weights=tmp_path / "rope.safetensors", if_rope=True, **SIZES)
    assert torch.equal(net.rope.freqs_cos, VisionMamba(random_weights=True, if_rope=True, **SIZES).rope.freqs_cos)
    assert set(net.dropped_weights) == (set(tables) if rope_in_file else set())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "depth is 2 there and 3 here"),
        ({"depth": 1}, "depth is 2 there and 1 here"),
        ({"embed_dim": 32}, "embed_dim is 16 there and 32 here"),
        ({"patch_size": 16}, "patch_size is 8 there and 16 here"),
        ({"d_state": 8}, "d_state is 4 there and 8 here"),
        ({"in_chans": 1}, "in_chans is 3 there and 1 here"),
        ({"d_conv": 3}, r"other shape: layers\.0\.mixer\.conv1d\.weight \(32, 1, 4\) instead of \(32, 1, 3\)"),
    ],
)
def test_checkpoints_of_another_network(source, tmp_path, change, message):
    save_file(published(source), tmp_path / "vim.safetensors")
    with pytest.raises(ValueError, match=rf"vim\.safetensors does not hold.*{message}"):
        VisionMamba(weights=tmp_path / "vim.safetensors", **(SIZES | change))


def test_missing_and_unexpected_tensors(source, tmp_path):
    state = published(source)
    save_file({k: v for k, v in state.items() if k != "layers.1.mixer.A_b_log"}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"missing: layers\.1\.mixer\.A_b_log"):
        VisionMamba(weights=tmp_path / "w.safetensors", **SIZES)
    save_file({k: v for k, v in state.items() if k != "pos_embed"}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="missing: pos_embed"):
        VisionMamba(weights=tmp_path / "w.safetensors", **SIZES)
    for wrong in (state["pos_embed"][..., :8], state["pos_embed"][0]):
        save_file(state | {"pos_embed": wrong.contiguous()}, tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match=r"other shape: pos_embed \(.*\) instead of \(1, 16, 16\)"):
            VisionMamba(weights=tmp_path / "w.safetensors", **SIZES)
    save_file(state | {"layers.1.mixer.extra": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"unexpected: layers\.1\.mixer\.extra"):
        VisionMamba(weights=tmp_path / "w.safetensors", **SIZES)
    save_file({"fc.weight": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors.*missing: pos_embed"):
        VisionMamba(weights=tmp_path / "w.safetensors", **SIZES)


def test_random_weights_are_said(source, tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match="no_such_file"):
        VisionMamba(weights=tmp_path / "no_such_file.pth", **SIZES)
    save_file(source.state_dict(), tmp_path / "vim.safetensors")
    with pytest.raises(ValueError, match="are both given"):
        VisionMamba(weights=tmp_path / "vim.safetensors", random_weights=True, **SIZES)
    (tmp_path / "cut.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cut"):
        VisionMamba(weights=tmp_path / "cut.pth", **SIZES)
    for words in ({}, {"random_weights": True}):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            VisionMamba(**words, **SIZES)
        assert any("random weights" in record.message and record.levelname == "WARNING" for record in caplog.records)
