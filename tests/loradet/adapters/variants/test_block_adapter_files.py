"""Mona and AdaptFormer with files, banks, merging, checkpoints, averages, compiling and several processes."""

import pytest
import torch
from helpers.random_detector import assert_same_detections, config, picture, randomize, tensor
from helpers.timm_nets import make_net
from helpers.timm_nets import randomize as trained
from torch import nn

from loradet.adapters import (
    AdapterBank,
    AdapterError,
    adapter_layers,
    adapter_state,
    adaptformer,
    describe_adapter,
    export_peft,
    freeze,
    load_adapter,
    load_adapter_state,
    lora,
    merge,
    merged_state_dict,
    mona,
    save_adapter,
    unmerge,
)
from loradet.config import describe
from loradet.model import build_model, load_detector
from loradet.training.checkpoints.ema import ExponentialMovingAverage

ADAPTERS = {"mona": mona, "adaptformer": adaptformer}
NAMES = {"mona": "Mona", "adaptformer": "AdaptFormer"}


def build(adapter: str, net: str = "eva", rank: int = 3, **options) -> tuple[nn.Module, torch.Tensor]:
    base, x = make_net(net)
    return ADAPTERS[adapter](freeze(base), rank=rank, **options), x


def outputs(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(net(x).values())


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("net", ["eva", "convnext", "swin"])
def test_a_file_brings_all_of_it(net, adapter, tmp_path):
    model, x = build(adapter, net)
    trained(model)
    save_adapter(model, tmp_path / "a.safetensors")
    other, _ = build(adapter, net)
    info = load_adapter(other, tmp_path / "a.safetensors")
    assert same(outputs(other, x), outputs(model, x))
    assert info["recipes"][""]["lora"][0]["variant"] == adapter
    page = describe_adapter(tmp_path / "a.safetensors")
    assert f"{NAMES[adapter]} tensors alone" in page and f"{adapter:<12} targets re:.*" in page
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{trains / 1e6:.3f} M of them {NAMES[adapter]}" in page
    with pytest.raises(AdapterError, match=rf"has {NAMES[adapter]}, for which PEFT's layout has no place"):
        export_peft(tmp_path / "a.safetensors", tmp_path / "peft")


def test_what_does_not_fit_is_named(tmp_path):
    file = tmp_path / "a.safetensors"
    save_adapter(trained(build("adaptformer")[0]), file)
    with pytest.raises(AdapterError, match=r"rank is 3 in the file, 4 in the model; build it with rank=3"):
        load_adapter(build("adaptformer", rank=4)[0], file)
    with pytest.raises(AdapterError, match=r"scale is 0.1 in the file, 0.5 in the model; build it with scale=0.1"):
        load_adapter(build("adaptformer", scale=0.5)[0], file)
    with pytest.raises(AdapterError, match=r"variant is adaptformer in the file, mona in the model; call adaptformer"):
        load_adapter(build("mona")[0], file)
    with pytest.raises(AdapterError, match=r"the file has AdaptFormer on 2 layers .*, the model LoRA on 2"):
        load_adapter(lora(freeze(make_net("eva")[0]), ["mlp.fc1"], 2, 4.0), file)
    with pytest.raises(AdapterError, match=r"adaptformer\(targets=\['re:\.\*'\], rank=3, scale=0\.1\) in the file"):
        load_adapter(make_net("eva")[0], file)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_bank_switches_ranks_and_brings_the_base_back(adapter, tmp_path):
    sizes = {"a": {"rank": 3}, "b": {"rank": 5, **({"scale": 0.7} if adapter == "adaptformer" else {})}}
    for seed, (name, options) in enumerate(sizes.items()):
        save_adapter(trained(build(adapter, **options)[0], seed), tmp_path / f"{name}.safetensors")
    model, x = build(adapter)
    base, bank = outputs(model, x), AdapterBank(model)
    for name in sizes:
        bank.add(name, tmp_path / f"{name}.safetensors")
    for seed, (name, options) in enumerate(sizes.items()):
        bank.activate(name)
        assert same(outputs(model, x), outputs(trained(build(adapter, **options)[0], seed), x))
    bank.activate(None)
    assert same(outputs(model, x), base)


def test_a_bank_refuses_another_variant(tmp_path):
    save_adapter(trained(build("mona")[0]), tmp_path / "mona.safetensors")
    with pytest.raises(AdapterError, match="variant is mona in the file, adaptformer in the model"):
        AdapterBank(build("adaptformer")[0]).add("a", tmp_path / "mona.safetensors")
    nets = [lora(freeze(make_net("eva")[0]), ["mlp.fc1"], 2, 4.0, variant=name) for name in ("rslora", "lora")]
    save_adapter(trained(nets[0]), tmp_path / "rs.safetensors")
    with pytest.raises(AdapterError, match="variant is rslora in the file, lora in the model"):
        AdapterBank(nets[1]).add("a", tmp_path / "rs.safetensors")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_they_say_that_they_cannot_be_merged(adapter):
    model, x = build(adapter)
    lora(model, ["mlp.fc1"], 2, 4.0)
    trained(model)
    before, state = outputs(model, x), {n: v.clone() for n, v in model.state_dict().items()}
    words = rf": {NAMES[adapter]} cannot be merged \(net\.blocks\.0 and 1 more blocks\)"
    for action in (merge, merged_state_dict):
        with pytest.raises(ValueError, match=action.__name__ + words):
            action(model)
    unmerge(model)  # LoRA could be
    with pytest.raises(ValueError, match="unmerge" + words):
        unmerge(build(adapter)[0])
    assert same(outputs(model, x), before)
    assert all(torch.equal(model.state_dict()[n], v) for n, v in state.items())
    rest = merged_state_dict(model, partly=True)
    assert not any("lora_" in name for name in rest) and any(adapter in name for name in rest)
    plain, _ = build(adapter)
    plain.load_state_dict(rest)
    for ours, theirs in zip(outputs(plain, x), before):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_checkpoint_tells_a_base_from_a_training(adapter):
    model, x = build(adapter)
    state, recipes = trained(model).state_dict(), adapter_state(model)
    other, _ = build(adapter)
    other.load_state_dict(state)
    load_adapter_state(other, recipes)
    assert same(outputs(other, x), outputs(model, x))
    assert other.adapter_recipe["fingerprint"] == recipes[""]["fingerprint"]
    base = make_net("eva")[0].state_dict()
    assert set(other.load_state_dict(base, strict=False).missing_keys) == set(state) - set(base)


def test_a_checkpoint_of_another_scale_is_refused():
    recipes = adapter_state(build("adaptformer")[0])
    with pytest.raises(ValueError, match=r"AdaptFormer was trained with scale=0.1, the model has scale=0.2"):
        load_adapter_state(build("adaptformer", scale=0.2)[0], recipes)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_averages_are_of_its_parameters(adapter):
    model, x = build(adapter)
    base = outputs(model, x)
    ema = ExponentialMovingAverage(model, 0.9)
    trained(model)
    ema.update()
    own = outputs(model, x)
    with ema.applied():
        assert not same(outputs(model, x), own) and not same(outputs(model, x), base)
    assert same(outputs(model, x), own)


@pytest.mark.parametrize(
    ("net", "adapter"),
    [
        ("eva", "mona"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("convnext", "mona"), ("eva", "adaptformer"))),
        pytest.param("swin", "mona", marks=pytest.mark.slow),
    ],
)
def test_a_compiler_reads_it_whole(net, adapter):
    model, x = build(adapter, net, dropout=0.0)
    trained(model)
    compiled = torch.compile(lambda images: list(model(images).values()), backend="eager", fullgraph=True)
    for images in (x,) if net == "swin" else (x, x.transpose(2, 3)):
        with torch.no_grad():
            ours = compiled(images)
        for one, expected in zip(ours, outputs(model, images)):
            torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_all_of_it_trains_in_data_parallel(adapter, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model, x = build(adapter, dropout=0.2)
        wrapped = nn.parallel.DistributedDataParallel(trained(model).train())
        for _ in range(2):  # a parameter without gradient would be named in the second step
            wrapped(x)["block1"].square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in grads.values())


def _config(adapter: str, rank: int = 3):
    """A RetinaNet whose config has the adapter around its LoRA."""
    from detectron2.config import LazyCall as L

    cfg = config()
    cfg.model.backbone.bottom_up = L(ADAPTERS[adapter])(module=cfg.model.backbone.bottom_up, rank=rank)
    return cfg


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_detector_is_loaded_with_lora_merged_and_this_not(adapter, tmp_path):
    cfg = _config(adapter)
    model = randomize(build_model(cfg.model))
    trained(model.backbone.bottom_up)
    save_adapter(model, tmp_path / "a.safetensors", classes=["ship", "car", "tank"], class_ids=[1, 2, 3])
    torch.save({"model": model.state_dict(), "adapter_recipes": adapter_state(model)}, tmp_path / "a.pth")
    (expected,) = model([{"image": tensor(192, 256)}])
    for merged in (False, True):
        found = load_detector(cfg, tmp_path / "a.pth", merge=merged)
        kinds = {layer.unmergeable for _, layer in adapter_layers(found)}
        assert kinds == ({NAMES[adapter]} if merged else {NAMES[adapter], None})
        assert_same_detections(found([{"image": tensor(192, 256)}])[0]["instances"], expected["instances"], 1e-3)


@pytest.mark.parametrize("adapter", ["mona", pytest.param("adaptformer", marks=pytest.mark.slow)])
def test_a_detector_exports_to_onnx(adapter, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'loradet[onnx]'")
    from loradet.inference.export import export_checkpoint
    from loradet.inference.onnx_detector import OnnxDetector, Sample

    cfg = _config(adapter)
    model = randomize(build_model(cfg.model))
    trained(model.backbone.bottom_up)
    torch.save({"model": model.state_dict(), "adapter_recipes": adapter_state(model)}, tmp_path / "a.pth")
    export_checkpoint(cfg, str(tmp_path / "a.pth"), str(tmp_path / "a.onnx"))
    detector = OnnxDetector(tmp_path / "a.onnx", threads=1)
    for size in ((192, 256), (224, 192)):
        (found,) = detector([Sample(picture(*size), *size)])
        (expected,) = model([{"image": tensor(*size), "height": size[0], "width": size[1]}])
        scores = expected["instances"].scores
        assert len(found.scores) == len(scores) >= 20
        torch.testing.assert_close(torch.as_tensor(found.scores), scores, atol=1e-3, rtol=0)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_config_says_it(adapter):
    found = describe(_config(adapter, 8).model)
    assert found.method == f"{NAMES[adapter]} and LoRA"
    ours = found.loras[0]
    assert (ours.variant, ours.rank, ours.freeze_base) == (adapter, 8, False)
    assert ours.alpha == (8.0 if adapter == "mona" else None)
