import copy
import io
import multiprocessing
import pickle

import pytest
import torch
from helpers.adapter_nets import Backbone, Block, Detector, same_state, seeded, state_copy
from torch import nn

from loradet.adapters import freeze, load_adapter, lora, save_adapter


def modes(module: nn.Module) -> dict[str, bool]:
    return {path: m.training for path, m in module.named_modules()}


def trainable(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def stored(module: nn.Module) -> nn.Module:
    """Through torch.save of the whole module."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "itself": lambda m: m,
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "old pickle": lambda m: pickle.loads(pickle.dumps(m, protocol=1)),
    "torch.save": stored,
    "deepcopy of a copy": lambda m: copy.deepcopy(pickle.loads(pickle.dumps(m))),
}


def test_all_is_frozen_and_in_eval_mode_where_nothing_is_named():
    net = Backbone()
    keys = list(net.state_dict())
    frozen = freeze(net)
    assert frozen is net and isinstance(net, Backbone)
    assert list(net.state_dict()) == keys
    assert not trainable(net)
    for module in (net.train(), nn.Sequential(net).train()[0]):
        assert not any(modes(module).values())


@pytest.mark.parametrize("how", COPIES)
def test_what_is_unfrozen_follows_the_mode_and_the_rest_does_not(how):
    net = COPIES[how](freeze(Backbone(), unfreeze=["stages_1", "stages_0.1.norm"]))
    assert trainable(net) == {n for n in dict(net.named_parameters()) if n.startswith(("stages_1", "stages_0.1.norm"))}
    for _ in range(2):
        net.train()
        assert modes(net) == {p: p.startswith(("stages_1", "stages_0.1.norm")) for p in modes(net)}
        net.eval()
        assert not any(modes(net).values())


@pytest.mark.parametrize("how", COPIES)
def test_lora_dropout_follows_the_mode_inside_frozen_parts(how):
    net = COPIES[how](lora(freeze(Backbone()), ["mlp.fc1"], rank=2, alpha=4.0, dropout=0.5))
    on = {path for path in modes(net) if path.endswith(".mlp.fc1")}
    assert {path for path, mode in modes(net).items() if mode} == on  # a model starts in train mode
    net.eval()
    assert not any(modes(net).values())
    net.train()
    assert {path for path, mode in modes(net).items() if mode} == on


def test_lora_keeps_the_mode_that_was_asked_for():
    net = lora(freeze(Backbone()).eval(), ["fc1"], rank=2, alpha=4.0)
    assert not any(modes(net).values())


def test_batch_norm_statistics_and_outputs_hold_still_in_frozen_parts():
    net = freeze(Backbone(), unfreeze=["stages_1"]).train()
    before = state_copy(net)
    x = torch.randn(4, 3, 16, 16)
    net(x).sum().backward()
    changed = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert changed and all(n.startswith("stages_1.0.norm.") for n in changed)
    assert torch.equal(net.stages_0(net.stem(x)), net.stages_0(net.stem(x)))  # no dropout
    assert not torch.equal(net.stages_1(net.stem(x)), net.stages_1(net.stem(x)))


def test_loading_a_state_dict_leaves_modes_and_gradients():
    net = freeze(Backbone(), unfreeze=["stages_1"])
    before = trainable(net)
    other = Backbone()
    net.load_state_dict(other.state_dict())
    net.train()
    assert trainable(net) == before and same_state(net.state_dict(), other.state_dict())
    assert not net.stages_0.training and net.stages_1.training


def test_a_single_parameter_can_train_while_its_module_stays_in_eval_mode():
    net = freeze(Backbone(), unfreeze=["gamma", "stages_0.0.norm.weight"]).train()
    assert trainable(net) == {"stages_0.0.gamma", "stages_0.1.gamma", "stages_1.0.gamma", "stages_0.0.norm.weight"}
    assert not any(modes(net).values())


def test_regular_expressions_match_whole_paths():
    net = freeze(Backbone(), unfreeze=[r"re:stages_\d\.0\.norm"])
    assert trainable(net) == {f"stages_{i}.0.norm.{n}" for i in (0, 1) for n in ("weight", "bias")}
    with pytest.raises(ValueError, match="names nothing"):
        freeze(Backbone(), unfreeze=["re:norm"])
    with pytest.raises(ValueError, match="not a regular expression"):
        freeze(Backbone(), unfreeze=["re:("])


def test_order_of_freeze_and_lora_does_not_matter():
    both = [
        lora(freeze(seeded(0, Backbone), ["stages_1"]), ["mlp.fc1"], rank=2, alpha=4.0),
        freeze(lora(seeded(0, Backbone), ["mlp.fc1"], rank=2, alpha=4.0), ["stages_1"]),
    ]
    assert trainable(both[0]) == trainable(both[1])
    assert modes(both[0].train()) == modes(both[1].train())
    # freeze_base: the wrapped layer's own weight stays frozen even inside an unfrozen stage.
    assert "stages_1.0.mlp.fc1.weight" not in trainable(both[0])
    assert {"stages_1.0.mlp.fc1.lora_a", "stages_0.0.mlp.fc1.lora_b", "stages_1.0.norm.weight"} <= trainable(both[0])


def test_freeze_base_false_leaves_the_base_as_freeze_left_it():
    net = lora(freeze(Backbone(), ["stages_1"]), ["mlp.fc1"], rank=2, alpha=4.0, freeze_base=False)
    assert "stages_1.0.mlp.fc1.weight" in trainable(net)
    assert "stages_0.0.mlp.fc1.weight" not in trainable(net)
    net = lora(Backbone(), ["mlp.fc1"], rank=2, alpha=4.0, freeze_base=True)
    assert set(dict(net.named_parameters())) - trainable(net) == {
        f"{path}.mlp.fc1.{n}" for path in ("stages_0.0", "stages_0.1", "stages_1.0") for n in ("weight", "bias")
    }


def test_a_detector_frozen_as_a_whole_still_computes_losses():
    model = freeze(Detector(), unfreeze=["head.cls_score"])
    model.train()
    x = torch.randn(2, 3, 16, 16)
    loss = model(x)["loss"]
    loss.backward()
    assert trainable(model) == {"head.cls_score.weight", "head.cls_score.bias"}
    assert not model.head.norm.training and not model.backbone.training
    model.eval()
    assert isinstance(model(x), torch.Tensor)
    model = lora(freeze(Detector()), ["fc1"], rank=2, alpha=4.0).train()
    assert model.training and not any(m.training for n, m in model.head.named_modules())


def test_a_frozen_backbone_in_a_frozen_detector():
    backbone = lora(freeze(Backbone(), ["stages_1"]), ["fc1"], rank=2, alpha=4.0)
    model = freeze(Detector(backbone), unfreeze=["cls_score"]).train()
    assert trainable(model) == {n for n in dict(model.named_parameters()) if "lora" in n or "cls_score" in n}
    assert model.backbone.bottom_up.stages_0[0].mlp.fc1.training
    assert not model.backbone.bottom_up.stages_1[0].norm.training
    with pytest.raises(ValueError, match="frozen by a call of its own"):
        freeze(Detector(freeze(Backbone())), unfreeze=["stages_1"])


def test_shared_parameters_train_where_one_of_their_owners_does():
    net = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    net["b"].weight = net["a"].weight
    freeze(net, unfreeze=["b"])
    assert net["a"].weight.requires_grad and not net["a"].bias.requires_grad


@pytest.mark.parametrize(
    "name, nearest",
    [("stage_1", "stages_1"), ("stages_1.0.norms", "stages_1.0.norm"), ("mlp.fc", "mlp.fc1"), ("", "stem")],
)
def test_a_name_that_does_not_exist_is_an_error_with_the_nearest(name, nearest):
    net = Backbone()
    with pytest.raises(ValueError, match="names nothing") as error:
        freeze(net, unfreeze=[name])
    assert nearest in str(error.value)
    assert type(net) is Backbone and len(trainable(net)) == len(list(net.parameters()))


def test_freezing_twice_is_an_error():
    with pytest.raises(ValueError, match="frozen already"):
        freeze(freeze(Backbone()))


def test_classes_are_shared_and_named_after_the_base():
    a, b = freeze(Block(4)), freeze(Block(4))
    assert type(a) is type(b) and type(a).__name__ == "FrozenBlock" and isinstance(a, Block)


def _train_in_child(net, queue):
    net.train()
    queue.put((type(net).__name__, sorted(p for p, m in net.named_modules() if m.training)))


def test_a_spawned_process_gets_the_frozen_module():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    net = freeze(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)), unfreeze=["1"])
    process = context.Process(target=_train_in_child, args=(net, queue))
    process.start()
    assert queue.get(timeout=120) == ("FrozenSequential", ["1"])
    process.join()


@pytest.mark.parametrize("how", ["itself", "deepcopy", "pickle"])
def test_statistics_of_frozen_batch_norms_can_follow_the_mode(how, tmp_path):
    def build() -> nn.Sequential:
        net = seeded(0, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))
        return COPIES[how](freeze(net, unfreeze=["2"], statistics=True))

    net, images = build().train(), 5 + 3 * torch.randn(4, 3, 6, 6)
    assert trainable(net) == {"2.weight", "2.bias"}
    assert modes(net) == {"": False, "0": False, "1": True, "2": True}
    before, features = state_copy(net), net[1](net[0](images))
    assert features.mean().abs() < 1e-5
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items() if "running" not in n and "num" not in n)
    assert not any(modes(net.eval()).values())
    # An adapter file has them, and puts them on the base with its first statistics.
    save_adapter(net, tmp_path / "adapter.safetensors")
    other = build().eval()
    assert not torch.equal(other(images), net(images))
    load_adapter(other, tmp_path / "adapter.safetensors")
    assert torch.equal(other(images), net(images))


def test_statistics_without_a_batch_norm_are_an_error():
    with pytest.raises(ValueError, match="holds no batch norm"):
        freeze(nn.Sequential(nn.Linear(2, 2)), statistics=True)
