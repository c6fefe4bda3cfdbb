"""Whatever makes features is in the name of the folder that they are kept in."""

import sys
import textwrap

import detectron2.data.transforms as T
import pytest
import torch
from helpers.small_models import BACKBONES, build

from loradet.datasets.mapper import DetectionMapper
from loradet.feature_cache import spec
from loradet.feature_cache.frozen_part import find_frozen_part
from loradet.feature_cache.spec import spec_name, spec_of


@pytest.fixture
def model():
    return build(BACKBONES["ConvNeXt"], "RetinaNet", "probe")


def mapper(kind=DetectionMapper, is_train=True, **options):
    return kind(is_train, augmentations=[T.Resize(64)], **{"image_format": "RGB", **options})


def name(model, one=None, **options):
    settings = {"padded": (64, 64), "autocast": None, "layout": [], **options}
    return spec_name(spec_of(model, find_frozen_part(model), one or mapper(), **settings))


def test_the_same_is_named_the_same(model):
    assert name(model) == name(build(BACKBONES["ConvNeXt"], "RetinaNet", "probe", seed=3))
    assert name(model) == name(model.eval(), mapper(is_train=False))  # an evaluation of the same images


def test_what_differs_is_named_otherwise(model, monkeypatch):
    names = [name(model), name(build(BACKBONES["ConvNeXt"], "RetinaNet", "partial"))]
    names += [name(model, padded=(64, 96)), name(model, autocast=torch.bfloat16), name(model, layout=[["a", [1]]])]
    names += [name(model, mapper(image_format="BGR")), name(model, mapper(intensity="percentile:1,99"))]
    with monkeypatch.context() as patch:
        patch.setattr(spec, "FORMAT", spec.FORMAT + 1)
        names.append(name(model))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
        names.append(name(model))
    kind = model.__class__
    model.__class__ = type("Other", (kind,), {})
    names.append(name(model))
    model.__class__ = kind
    model.pixel_mean += 1
    names.append(name(model))
    model.backbone.bottom_up.channels_last = not model.backbone.bottom_up.channels_last
    names.append(name(model))
    with torch.no_grad():
        model.backbone.bottom_up.net.stages_1.blocks[0].gamma[3] *= 1.0001
    names.append(name(model))
    assert len(set(names)) == len(names)


def test_a_mapper_that_reads_otherwise_is_told_by_its_source(model, tmp_path, monkeypatch):
    names = []
    monkeypatch.syspath_prepend(str(tmp_path))
    for factor in (1, 2):
        source = f"""
            from loradet.datasets.mapper import DetectionMapper
            class Own(DetectionMapper):
                def read_image(self, *words):
                    return super().read_image(*words) // {factor}
        """
        (tmp_path / "own_mapper.py").write_text(textwrap.dedent(source))
        sys.modules.pop("own_mapper", None)
        import own_mapper

        names.append(name(model, mapper(own_mapper.Own)))
    sys.modules.pop("own_mapper")
    assert len({name(model), *names}) == 3
