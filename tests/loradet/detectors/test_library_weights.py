"""Published weights of detectors of transformers: from folders and from the hub's cache, whole or not at all."""

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyCall as L
from helpers.library_detectors import CLASSES, PIXELS, build, convnext, items, library_model, needs_transformers
from omegaconf import OmegaConf

from loradet.adapters import lora, parameter_table, save_adapter
from loradet.config.edits import without_weights
from loradet.detectors import TransformersDetector
from loradet.detectors.library.published import Published
from loradet.errors import UserError
from loradet.model import build_model, initial_model, load_detector

pytestmark = needs_transformers


@pytest.fixture(scope="module")
def dfine(tmp_path_factory):
    """A detector on the library's own backbone, and a folder of its weights as the library writes it."""
    folder = tmp_path_factory.mktemp("dfine")
    model = build("d_fine", own=True)
    model.network.config.backbone_config.out_indices = [2, 3, 4]
    library_model(model).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\nA card.\n", encoding="utf-8")
    return model, folder


def load(folder, family="d_fine", *, own=True, options=None, **more):
    """As a config says it: the file says what the network is."""
    arguments = {
        "family": family,
        "num_classes": CLASSES,
        "weights": folder,
        "options": options or {},
        **PIXELS,
        **more,
    }
    return TransformersDetector(backbone=None if own else convnext(dims=(8, 12, 20, 28)), **arguments)


def detect(model, batch):
    with torch.no_grad():
        return [(o["instances"].pred_boxes.tensor, o["instances"].scores) for o in model.eval()(batch)]


def equal(ours, theirs):
    return all(torch.equal(a, b) for pair in zip(ours, theirs) for a, b in zip(*pair))


def test_weights_of_a_folder_are_loaded_whole_and_their_licence_is_logged(dfine, caplog):
    model, folder = dfine
    batch = items((64, 96))
    with caplog.at_level(logging.INFO, "loradet"):
        again = load(str(folder))
    assert equal(detect(again, batch), detect(model, batch))
    assert "Licence: apache-2.0 (as their model card says)." in caplog.text
    # Behind another backbone, all but that backbone and the layers that take its channels.
    behind = load(folder, own=False)
    state, wanted = behind.state_dict(), model.state_dict()
    shared = [name for name in state if name.startswith("network.") and "encoder_input_proj" not in name]
    assert all(torch.equal(state[name], wanted[name]) for name in shared)
    assert "encoder_input_proj.0.0.weight" in caplog.text


def test_a_class_head_of_another_number_of_classes_starts_anew(dfine, caplog):
    model, folder = dfine
    other = load(folder, num_classes=5)
    assert other.network.model.decoder.class_embed[0].out_features == 5
    assert "initialised anew" in caplog.text and "class_embed.0.weight" in caplog.text
    name = "network.model.decoder.layers.0.self_attn.q_proj.weight"
    assert torch.equal(other.state_dict()[name], model.state_dict()[name])


_OTHERS = [pytest.param(family, marks=pytest.mark.slow) for family in ("rt_detr_v2", "deformable_detr", "rf_detr")]


@pytest.mark.parametrize("family", ["deimv2", *_OTHERS])
def test_other_kinds_come_back_as_they_were(family, tmp_path):
    # A head shared by all decoder layers is fresh where the library loads it.
    model = build(family, own=True, options={"share_bbox_head": True} if family == "deimv2" else {})
    library_model(model).save_pretrained(tmp_path)
    again = load(tmp_path, family)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    batch = items((128, 128))
    assert equal(detect(again, batch), detect(model, batch))


def test_what_does_not_fit_is_refused(dfine, tmp_path):
    _, folder = dfine
    with pytest.raises(UserError, match=r"of family='d_fine', and the config says 'rt_detr_v2'"):
        load(folder, "rt_detr_v2")
    with pytest.raises(UserError, match=r"does not fit the model: .*absent or of another shape"):
        load(folder, options={"decoder_ffn_dim": 48})
    with pytest.raises(UserError, match=r"model.safetensors' is a file: give the folder"):
        load(folder / "model.safetensors")
    with pytest.raises(UserError, match="there is no such folder"):
        load("no/such/folder")
    broken = shutil.copytree(folder, tmp_path / "broken")
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is no file of weights: it is cut off"):
        load(broken)
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"has no model\.safetensors\. A pytorch_model\.bin is a pickle"):
        load(broken)


def test_a_tensor_that_the_file_lacks_is_an_error(dfine, tmp_path):
    from safetensors.torch import load_file, save_file

    _, folder = dfine
    cut = shutil.copytree(folder, tmp_path / "cut")
    tensors = load_file(cut / "model.safetensors")
    del tensors["model.decoder.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, cut / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.q_proj\.weight are absent"):
        load(cut)


def test_names_are_taken_from_the_cache_and_offline_says_how_to_place_them(dfine, tmp_path, monkeypatch):
    from huggingface_hub import constants

    model, folder = dfine
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as stopped:
        load("someone/dfine-small")
    message = str(stopped.value)
    assert "HF_HUB_OFFLINE is set (here it is set)" in message and str(tmp_path) in message
    assert "put config.json and model.safetensors of that page into a folder and give weights=FOLDER" in message
    revision = "0" * 40
    cached = tmp_path / "models--someone--dfine-small"
    shutil.copytree(folder, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision, encoding="utf-8")
    batch = items((64, 64))
    assert equal(detect(load("someone/dfine-small"), batch), detect(model, batch))


def test_a_cache_of_the_config_alone_is_not_taken_for_the_weights(dfine, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    from loradet.detectors.library import published

    model, folder = dfine
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "0" * 40
    snapshot = tmp_path / "models--someone--dfine-small" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    shutil.copy(folder / "config.json", snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(revision, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match=r"cannot be had \(.* has no model\.safetensors\).*place them by hand"):
            load("someone/dfine-small")
        # It says what the network is.
        assert load("someone/dfine-small", load_weights=False).network.config.num_queries == 20
    original, asked = huggingface_hub.snapshot_download, []

    def download(**options):
        asked.append(options.get("local_files_only", False))
        if not asked[-1]:
            shutil.copy(folder / "model.safetensors", snapshot)
        return original(**options | {"local_files_only": True})

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(published, "_check_reachable", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    batch = items((64, 64))
    assert equal(detect(load("someone/dfine-small"), batch), detect(model, batch))
    assert asked == [True, False]


def config_of(folder, options):
    """LoRA on the attention of a published detector, as a config has it."""
    detector = L(TransformersDetector)(
        family="d_fine", num_classes=CLASSES, backbone=None, options=options, weights=str(folder), **PIXELS
    )
    model = L(lora)(module=detector, targets=["self_attn.q_proj"], rank=2, alpha=2.0, dropout=0.0, freeze_base=True)
    return OmegaConf.create({"model": model, "train": {"init_checkpoint": ""}}, flags={"allow_objects": True})


@pytest.mark.parametrize("options", [{}, {"decoder_layers": 2}])
def test_merged_it_is_the_network_that_the_file_states(options, tmp_path):
    # What no shape tells, and what the library's defaults have otherwise.
    model = build("d_fine", own=True, options={"num_queries": 17, "layer_norm_eps": 1e-3})
    model.network.config.backbone_config.out_indices = [2, 3, 4]
    library_model(model).save_pretrained(tmp_path / "published")
    cfg = config_of(tmp_path / "published", options)
    trained = build_model(cfg.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    torch.save({"model": trained.state_dict()}, tmp_path / "trained.pth")
    batch = items((128, 160))
    plain, merged = (load_detector(cfg, tmp_path / "trained.pth", merge=merge) for merge in (False, True))
    assert not [name for name in merged.state_dict() if "lora" in name]
    (wanted,), (found,) = detect(plain, batch), detect(merged, batch)
    assert not torch.equal(wanted[1], detect(model, batch)[0][1])
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    # Counted as what it is, too.
    counted = parameter_table(build_model(without_weights(cfg.model)))
    assert str(counted) == str(parameter_table(trained))


def test_without_weights_the_config_alone_is_read(dfine, tmp_path):
    model, folder = dfine
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    other = load(tmp_path, load_weights=False)
    state = other.state_dict()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    assert not torch.equal(
        state["backbone.net.embedder.stem1.convolution.weight"],
        model.state_dict()["backbone.net.embedder.stem1.convolution.weight"],
    )


def test_what_is_refused_of_options_is_refused_of_a_files_config(dfine, tmp_path):
    _, folder = dfine
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8")) | {"auxiliary_loss": False}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"config\.json has auxiliary_loss=False, which of .* Say options\.auxiliary_loss"
    ):
        load(other)
    assert load(other, options={"auxiliary_loss": True}).network.config.auxiliary_loss


def test_published_class_rows_follow_the_names_of_the_data(dfine, tmp_path, caplog):
    model, folder = dfine
    named = shutil.copytree(folder, tmp_path / "named")
    config = json.loads((named / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": {"0": "car", "1": "ship", "2": "tank"}, "label2id": {"car": 0, "ship": 1, "tank": 2}}
    (named / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def start(*names):
        return initial_model(config_of(named, {}), metadata=SimpleNamespace(get={"thing_classes": list(names)}.get))

    name = "network.model.decoder.class_embed.0.weight"
    rows = model.state_dict()[name]
    with caplog.at_level(logging.INFO, "loradet"):
        assert torch.equal(start("car", "ship", "tank").state_dict()[name], rows)
        assert "by name" not in caplog.text and "by position" not in caplog.text
        moved = start("tank", "car", "ship")
        assert torch.equal(moved.state_dict()[name], rows[[2, 0, 1]])
        assert "in the order of the data's classes, by name" in caplog.text
        assert torch.equal(start("cell", "ship", "tank").state_dict()[name], rows)
    assert "the file's are car, ship, tank, the data's cell, ship, tank" in caplog.text
    # So has the base of an adapter, which knows its classes.
    save_adapter(moved, tmp_path / "adapter.safetensors", classes=["tank", "car", "ship"])
    again = load_detector(config_of(named, {}), tmp_path / "adapter.safetensors")
    assert equal(detect(again, items((64, 64))), detect(moved, items((64, 64))))


def test_sizes_of_images_that_a_file_states_are_left_open(dfine, tmp_path):
    from loradet.detectors.library.families import FAMILIES

    _, folder = dfine
    fixed = shutil.copytree(folder, tmp_path / "fixed")
    config = json.loads((fixed / "config.json").read_text(encoding="utf-8"))
    config |= {"anchor_image_size": [640, 640], "eval_size": 640}
    (fixed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    stated = Published.find(fixed, FAMILIES["d_fine"]).stated(CLASSES)
    assert not {"anchor_image_size", "eval_size"} & stated.keys()
    assert detect(load(fixed), items((64, 96)))[0][1].isfinite().all()
