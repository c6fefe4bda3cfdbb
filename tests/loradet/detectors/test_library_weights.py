"""Published weights of detectors of transformers: from folders and from the hub's cache, whole or not at all."""

import json
import logging
import shutil

import pytest
import torch
from helpers.library_detectors import CLASSES, PIXELS, build, convnext, items, library_model, needs_transformers

from loradet.detectors.library.published import Published
from loradet.errors import UserError

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
    from loradet.detectors import TransformersDetector

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
