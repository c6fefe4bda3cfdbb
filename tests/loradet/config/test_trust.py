"""Which calls a .yaml config from somebody else may make; nothing here does any harm where it is called after all."""

import sys

import pytest
import yaml
from detectron2.config import LazyConfig
from helpers.paths import TEST_CONFIGS

from loradet.config import load_config
from loradet.config.trust import is_known, untrusted_calls, untrusted_calls_in_file
from loradet.errors import UserError
from loradet.training.folder.record import read_config

CONFIG = str(TEST_CONFIGS / "tiny.py")


@pytest.fixture
def saved(tmp_path):
    """A config as a run leaves it, as plain values; `write` puts it into a file again."""
    LazyConfig.save(load_config(CONFIG, ["data.root=/data", "data.classes=[a]"]), str(tmp_path / "saved.yaml"))
    return LazyConfig.load(str(tmp_path / "saved.yaml"))


@pytest.mark.parametrize(
    "target",
    [
        *("os.getcwd", "eval", "builtins.eval", "subprocess.run", "posix.getcwd", "pathlib.Path.cwd", "numpy.load"),
        # What known packages import is not theirs.
        *("torch.serialization.os.getcwd", "loradet.files.os.getcwd", "loradet.run_folder.os.getcwd"),
        *("detectron2.config.lazy.os.getcwd", "timm.models._hub.os.getcwd", "torch.multiprocessing.spawn"),
        # What reads pickles or code, or looks names up.
        *("torch.load", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "torch.export.load"),
        *("torch.utils.cpp_extension.load_inline", "torchvision.datasets.ImageFolder", "torch.compile"),
        *("detectron2.config.instantiate", "detectron2.config.LazyCall", "detectron2.config.LazyConfig.load"),
        *("detectron2.utils.registry.locate", "detectron2.engine.launch", "timm.models.load_checkpoint"),
        *("timm.models._helpers.load_state_dict", "torch.nn.Module.apply", "torch.nn.utils.parametrize.cached"),
        # What writes files, starts processes or reaches the network.
        *("loradet.config.load_config", "loradet.config.load.load_config", "loradet.training.folder.record._git"),
        *("loradet.files.write_json", "loradet.datasets.synthetic.generate", "loradet.datasets.make_subset"),
        *("loradet.datasets.download.http.download", "loradet.training.hooks.hub.HubUpload"),
        "loradet.adapters.save_adapter",
    ],
)
def test_what_is_no_part_of_a_detector_is_not_known(target):
    assert not is_known(target)


@pytest.mark.parametrize(
    "target",
    [
        *("torch.nn.GroupNorm", "torch.optim.AdamW", "torchvision.ops.FrozenBatchNorm2d", "timm.create_model"),
        *("detectron2.modeling.RetinaNet", "detectron2.data.DatasetMapper", "detectron2.evaluation.COCOEvaluator"),
        *("detectron2.data.transforms.RandomFlip", "detectron2.modeling.ResNet.make_default_stages"),
        *("loradet.adapters.lora", "loradet.backbones.TimmViT", "loradet.evaluation.CalibrationEvaluator"),
        "fvcore.common.param_scheduler.CosineParamScheduler",
    ],
)
def test_parts_of_detectors_are_known(target):
    assert is_known(target)


@pytest.mark.usefixtures("saved")
def test_a_module_that_nobody_knows_is_not_even_imported(tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    (tmp_path / "somebodys.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        "from loradet.backbones import TimmBackbone\nclass Backbone(TimmBackbone): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = yaml.safe_load((tmp_path / "saved.yaml").read_text().replace("!!python/tuple", ""))
    text["model"]["backbone"]["bottom_up"]["module"]["module"]["_target_"] = "somebodys.Backbone"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(
        UserError, match=r"would call somebodys\.Backbone \(model\.backbone\.bottom_up\.module\.module\)"
    ):
        load_config(str(tmp_path / "config.yaml"), [])
    assert not marker.exists() and "somebodys" not in sys.modules
    cfg = load_config(str(tmp_path / "config.yaml"), [], trusted=True)
    assert marker.exists()
    assert cfg.model.backbone.bottom_up.module.module._target_ == "somebodys.Backbone"
    sys.modules.pop("somebodys")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("x: !!python/object/apply:os.getcwd []", "os.getcwd (line"),
        ("x: !!python/object/new:os.getcwd []", "os.getcwd (line"),
        ("x: !!python/name:os.getcwd ''", "os.getcwd (line"),
        ("x: !!python/module:os ''", "os (line"),
        ("x: {? !!python/object/apply:os.getcwd [] : 1}", "os.getcwd (line"),
        ("x: {? [a, {b: c}] : 1}", "what cannot be judged"),
        ("x: '${oc.select:a,{_target_:os.getcwd}}'", "a resolver, '${oc.select:a,{_target_:os.getcwd}}' (x)"),
        ("x: '${oc.env:HOME}'", "a resolver, '${oc.env:HOME}' (x)"),
        ("x: ['${oc.create:{_target_:os.getcwd}}']", "a resolver, '${oc.create:{_target_:os.getcwd}}' (x.0)"),
        ("x: {_target_: '${y}'}", "${y} (x)"),
        ("x: {_target_: {_target_: os.getcwd}}", "os.getcwd (x._target_)"),
        ("x: {_target_: [os.getcwd]}", "['os.getcwd'] (x)"),
        ("x: [{y: {_target_: os.getcwd}}]", "os.getcwd (x.0.y)"),
    ],
)
def test_other_ways_to_a_call(line, named, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text((tmp_path / "config.yaml").read_text() if file.is_file() else f"train: {{seed: 1}}\n{line}\n")
    with pytest.raises(UserError) as error:
        load_config(str(file), [])
    assert f"config.yaml would call {named}" in str(error.value)
    with pytest.raises(UserError, match="would call"):
        read_config(tmp_path)


def test_plain_values_and_references_are_let_through(saved, tmp_path):
    assert untrusted_calls_in_file(tmp_path / "saved.yaml") == []
    (tmp_path / "a.yaml").write_text(
        "a: !!python/tuple [1, 2]\nb: '${a}'\nc: !!python/name:torch.nn.GroupNorm ''\nd: 'at 12:30'\n"
        "e: !!python/object/apply:pathlib.PosixPath [x]\nf: &f {g: 1}\nh: *f\n"
        "i: '${oc.env:DETECTRON2_DATASETS,datasets}/coco'\nj: '${oc.select:data.clip,false}'\n"
    )
    assert untrusted_calls_in_file(tmp_path / "a.yaml") == []
    assert untrusted_calls({"model": {"_target_": len}}) == ["len (model)"]
    assert saved.model._target_ == "detectron2.modeling.RetinaNet"


def test_a_python_config_is_run_as_ever(tmp_path):
    (tmp_path / "mine.py").write_text("from collections import OrderedDict\nx = dict(a=dict(_target_=OrderedDict))\n")
    assert load_config(str(tmp_path / "mine.py"), []).x.a._target_.__name__ == "OrderedDict"
