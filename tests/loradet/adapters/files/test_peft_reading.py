"""Adapters of PEFT here, and ours there, by the real PEFT where it is installed."""

import copy
import dataclasses
import json

import pytest
import timm
import torch
from helpers.adapter_nets import seeded

from loradet.adapters import AdapterError, export_peft, freeze, load_peft, lora, save_adapter
from loradet.backbones import TimmBackbone

NETWORK = dict(model_name="convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), ls_init_value=1.0)
IMAGES = torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64)


def network(**options) -> torch.nn.Module:
    return seeded(0, timm.create_model, features_only=True, out_indices=(1, 2, 3), **NETWORK, **options).eval()


def backbone(**options) -> TimmBackbone:
    made = TimmBackbone(out_features=["stage1", "stage2", "stage3"], **NETWORK, **options)
    made.net.load_state_dict(network(**options).state_dict())
    return freeze(made).eval()


def adapted(variant: str, **options) -> TimmBackbone:
    made = lora(backbone(**options), ["mlp.fc1", "mlp.fc2"], 3, 6.0, variant=variant, ranks={"stages_3": 5})
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def exported(made, folder):
    save_adapter(made, folder / "a.safetensors")
    return export_peft(folder / "a.safetensors", folder / "peft").folder


def assert_equal(ours, theirs) -> None:
    for one, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("conv_mlp", [False, True])
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_there_and_back(variant, conv_mlp, tmp_path):
    made = adapted(variant, conv_mlp=conv_mlp)
    back = load_peft(backbone(conv_mlp=conv_mlp), exported(made, tmp_path)).eval()
    assert_equal(made(IMAGES), back(IMAGES).values())


@pytest.mark.parametrize("conv_mlp", [False, True])
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_peft_loads_ours(variant, conv_mlp, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install peft)")
    made = adapted(variant, conv_mlp=conv_mlp)
    theirs = peft.PeftModel.from_pretrained(network(conv_mlp=conv_mlp), exported(made, tmp_path)).eval()
    assert_equal(made(IMAGES), theirs(IMAGES))


@pytest.mark.parametrize("conv_mlp", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"use_dora": True, "use_rslora": True}],
    ids=["lora", "rslora", "dora", "both"],
)
def test_ours_loads_what_peft_saves(options, conv_mlp, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install peft)")
    patterns = {"rank_pattern": {"stages_3.blocks.0.mlp.fc1": 5}, "alpha_pattern": {"blocks.0.mlp.fc2": 9}}
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=["fc1", "fc2"], exclude_modules=["stages_0.blocks.0.mlp.fc1"], **patterns,
        **options,
    )  # fmt: skip
    theirs = peft.get_peft_model(network(conv_mlp=conv_mlp), config)
    generator = torch.Generator().manual_seed(1)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    theirs.eval().save_pretrained(tmp_path)
    assert_equal(load_peft(backbone(conv_mlp=conv_mlp), tmp_path).eval()(IMAGES), theirs(IMAGES))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_bias": True}, "lora_bias=True: this is not understood"),
        ({"bias": "all"}, "bias='all': this is not understood"),
        ({"modules_to_save": ["head"]}, r"modules_to_save=\['head'\]"),
        ({"later": 3}, "later=3: this is not understood"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; LORA is read"),
        ({"use_dora": True}, "lora_a, lora_b; expected lora_a, lora_b, lora_magnitude"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change, words, tmp_path):
    folder = exported(adapted("lora"), tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterError, match=words):
        load_peft(backbone(), folder)


# Values that are not the defaults. Of the first ones PEFT's outputs depend, of the second ones no LoRA's do.
_DECISIVE = {
    "lora_alpha": 5,
    "lora_dropout": 0.3,
    "use_rslora": True,
    "alpha_pattern": {"blocks.0.mlp.fc2": 11},
    "init_lora_weights": "gaussian",
}
_WITHOUT_EFFECT = {
    "task_type": "FEATURE_EXTRACTION",
    "auto_mapping": {"base_model_class": "FeatureListNet"},
    "peft_version": "0.1.0",
    "base_model_name_or_path": "somewhere",
    "revision": "main",
    "inference_mode": False,
    "exclude_modules": ["stages_9"],
    "megatron_core": "elsewhere",
    "qalora_group_size": 8,
    "eva_config": {"rho": 1.0},
    "corda_config": {"corda_method": "ipm"},
    "lora_ga_config": {"direction": "ArB2r"},
    "ensure_weight_tying": True,
}
# Which layers are wrapped and of which ranks, which the tensors say too; and what PEFT does not save.
_OF_TENSORS = ("r", "rank_pattern", "target_modules", "layers_to_transform", "layers_pattern", "runtime_config")
_REFUSED = {
    "peft_type": "IA3",
    "fan_in_fan_out": True,
    "bias": "lora_only",
    "modules_to_save": ["head"],
    "use_dora": True,  # of tensors without a magnitude
    "layer_replication": [[0, 1]],
    "target_parameters": ["weight"],
}


def test_every_field_of_pefts_config_is_understood_or_refused(tmp_path):
    """What is read gives PEFT's own outputs; what is unknown, of a later version too, is refused by its name."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install peft)")
    folder = exported(adapted("lora"), tmp_path)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    base = backbone()

    def loaded():
        return load_peft(copy.deepcopy(base), folder).eval()(IMAGES)

    plain = list(loaded().values())
    fields = [field.name for field in dataclasses.fields(peft.LoraConfig) if field.name not in _OF_TENSORS]
    assert {*_DECISIVE, *_WITHOUT_EFFECT, *_REFUSED} <= {*fields}
    for name in fields:
        known = _DECISIVE | _WITHOUT_EFFECT | _REFUSED
        file.write_text(json.dumps({**config, name: known.get(name, {"of": "another kind"})}))
        if name in _DECISIVE:
            theirs = peft.PeftModel.from_pretrained(network(), folder).eval()
            assert_equal(loaded(), theirs(IMAGES))
        elif name in _WITHOUT_EFFECT:
            assert_equal(loaded(), plain)
        else:
            with pytest.raises(AdapterError, match="lora_magnitude" if name == "use_dora" else name):
                loaded()


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "OLoRA"])
def test_starts_that_change_the_base_are_refused(start, tmp_path):
    """PEFT takes a part of the weights out of the base; on the base as it is, the same tensors are another network."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install peft)")
    config = peft.LoraConfig(r=3, target_modules=["fc1", "fc2"], init_lora_weights=start)
    theirs = peft.get_peft_model(network(conv_mlp=False), config).eval()
    layer = theirs.base_model.model.stages_1.blocks[0].mlp.fc1
    assert not torch.equal(layer.base_layer.weight, network(conv_mlp=False).stages_1.blocks[0].mlp.fc1.weight)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=f"init_lora_weights='{start}' changes the base weights"):
        load_peft(backbone(conv_mlp=False), tmp_path)


def test_an_adapter_of_another_network_is_refused(tmp_path):
    folder = exported(adapted("lora"), tmp_path)
    net = freeze(TimmBackbone("test_resnet"))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(
        AdapterError, match=r"TimmBackbone has no stages_0\.blocks\.0\.mlp\.fc1.*the adapter is of convnext_atto"
    ):
        load_peft(net, folder)
    assert net.state_dict().keys() == before.keys()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        load_peft(net, tmp_path)
