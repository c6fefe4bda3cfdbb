"""`data.augment`: which list of augmentations a config has then, of every detector and data layout."""

import copy
import logging

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from helpers.paths import ROOT, TEST_CONFIGS
from omegaconf import OmegaConf

from loradet import get_config
from loradet.config.anchors import anchor_rule
from loradet.config.load import complete, load_config
from loradet.datasets.augment import Mosaic, RandomColor
from loradet.errors import UserError
from loradet.training.compiling import why_sizes_vary

PRESETS = ("basic", "multi_scale", "lsj", "photometric", "mosaic")
KINDS = {
    "basic": [T.ResizeShortestEdge, T.RandomFlip],
    "multi_scale": [T.ResizeShortestEdge, T.RandomFlip],
    "lsj": [T.ResizeScale, T.FixedSizeCrop, T.RandomFlip],
    "photometric": [T.ResizeShortestEdge, RandomColor, T.RandomFlip],
    "mosaic": [Mosaic, T.ResizeShortestEdge, T.RandomFlip],
}


def built(cfg):
    return instantiate(cfg.dataloader.train.mapper.augmentations)


def kinds(cfg):
    return [type(one) for one in built(cfg)]


def refusal(*args, **options) -> str:
    with pytest.raises(UserError) as caught:
        complete(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# RetinaNet on COCO, Roboflow, YOLO and VOC, DETR on YOLO, Cascade R-CNN.
@pytest.mark.parametrize(
    "config", ["custom_coco", "custom_roboflow", "custom_yolo", "custom_voc", "custom_detr", "vim_ofat/base.py"]
)
def test_one_word_chooses_in_every_config(config):
    for name in PRESETS if config == "custom_coco" else ("lsj", "mosaic"):
        cfg = load_config(config, [f"data.augment={name}", "data.image_size=100", "data.max_size=150"])
        assert kinds(cfg) == KINDS[name]
    assert [type(one) for one in instantiate(cfg.dataloader.val.mapper.augmentations)] in (
        [T.ResizeShortestEdge],
        [T.Resize],
    )


def test_numbers_of_the_presets():
    words = ["data.image_size=800", "data.max_size=1333"]
    resize, _ = built(load_config("custom_coco", ["data.augment=multi_scale", *words]))
    assert resize.short_edge_length == list(range(640, 961, 32)) and not resize.is_range and resize.max_size == 1333
    resize, crop, _ = built(load_config("custom_coco", ["data.augment=lsj", *words]))
    assert (resize.min_scale, resize.max_scale, resize.target_height, resize.target_width) == (0.1, 2.0, 1333, 1333)
    assert tuple(crop.crop_size) == (1333, 1333) and crop.pad
    bgr = built(load_config("custom_coco", ["data.augment=photometric", "model.input_format=BGR"]))[1]
    assert bgr.image_format == "BGR"
    mosaic = built(load_config("custom_coco", ["data.augment=mosaic", *words]))[0]
    assert (mosaic.image_size, mosaic.max_size, mosaic.prob) == (800, 1333, 0.5)


def test_without_a_preset_the_list_is_what_it_was():
    plain, basic = (load_config("custom_coco", words) for words in ([], ["data.augment=basic"]))
    assert plain.data.augment is None
    assert repr(built(plain)) == repr(built(basic))
    assert plain.dataloader.train.mapper == basic.dataloader.train.mapper
    resize, flip = built(plain)
    assert (resize.short_edge_length, resize.max_size, flip.prob) == ((320, 320), 512, 0.5)


def test_a_wrong_name_lists_the_presets():
    cfg = LazyConfig.load(str(ROOT / "configs" / "custom_coco.py"))
    for word in ("lsjj", "3", "[lsj]"):
        words = refusal(copy.deepcopy(cfg), [f"data.augment={word}"])
        assert f"data.augment={word}" in words.replace("'", "") and ", ".join(PRESETS) in words


def test_numbers_of_a_preset_can_be_changed_and_are_saved(tmp_path):
    words = ["data.root=/data", "dataloader.train.mapper.augmentations.0.max_scale=1.5", "data.augment=lsj"]
    cfg = load_config("custom_coco", words)
    assert built(cfg)[0].max_scale == 1.5
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert repr(built(load_config(str(tmp_path / "config.yaml"), []))) == repr(built(cfg))


def test_a_saved_config_keeps_its_preset_and_takes_another(tmp_path):
    path = str(tmp_path / "config.yaml")
    LazyConfig.save(load_config("custom_coco", ["data.root=/data", "data.augment=lsj", "data.max_size=400"]), path)
    saved = load_config(path, [])
    assert kinds(saved) == KINDS["lsj"] and saved.data.augment == "lsj" and built(saved)[0].target_width == 400
    assert kinds(load_config(path, ["data.augment=mosaic"])) == KINDS["mosaic"]
    # An older run whose preset had other numbers goes on with those.
    saved.dataloader.train.mapper.augmentations[0].min_scale = 0.2
    LazyConfig.save(saved, path)
    assert built(load_config(path, []))[0].min_scale == 0.2


def test_a_file_chooses_by_the_name_or_by_the_list(tmp_path):
    head = 'from loradet import get_config\n\ncfg = get_config("custom_coco")\n'
    parts = "model, data, dataloader, optimizer, lr_multiplier, train = (\n    cfg[key] for key in\n    ('model', "
    parts += "'data', 'dataloader', 'optimizer', 'lr_multiplier', 'train')\n)\n"
    file = tmp_path / "mine.py"
    file.write_text(f'{head}{parts}data.augment = "mosaic"\n')
    assert kinds(load_config(str(file), [])) == KINDS["mosaic"]
    assert kinds(load_config(str(file), ["data.augment=null"])) == KINDS["basic"]
    more = 'lsj, photometric = get_config("common/augment.py", "lsj", "photometric")\n'
    more += "dataloader.train.mapper.augmentations = [*lsj, photometric[1]]\n"
    file.write_text(f"{head}{parts}{more}")
    assert kinds(load_config(str(file), [])) == [*KINDS["lsj"], RandomColor]
    file.write_text(f'{head}{parts}{more}data.augment = "basic"\n')
    with pytest.raises(UserError, match=r"a list of the config's own: one of the two has to go"):
        load_config(str(file), [])


def test_a_config_that_was_edited_in_python_is_completed():
    cfg = get_config("custom_coco")
    cfg.data.augment = "photometric"
    assert kinds(complete(cfg, [])) == KINDS["photometric"]
    assert kinds(complete(cfg, [])) == KINDS["photometric"]


def test_data_of_ones_own_take_a_preset_too():
    cfg = get_config("custom_coco")
    del cfg.data.augment
    for word in ("data.augment=lsj", "+data.augment=lsj"):
        assert kinds(complete(copy.deepcopy(cfg), [word])) == KINDS["lsj"]
    assert "augment" not in complete(copy.deepcopy(cfg), []).data


def test_what_a_preset_cannot_be_put_into():
    cfg = get_config("custom_coco")
    cfg.dataloader.train.mapper = None
    assert "no list dataloader.train.mapper.augmentations" in refusal(cfg, ["data.augment=lsj"])
    cfg = get_config("custom_coco")
    del cfg.data.max_size
    assert "pixels of data.max_size, which the config does not have" in refusal(cfg, ["data.augment=lsj"])


def test_a_list_that_is_replaced_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        load_config("crowd_detr/full.py", ["data.augment=lsj"])
    assert "own list: ResizeShortestEdge, RandomFlip, RandomAffine, RandomBrightness, RandomContrast" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_config("vim_ofat/base.py", ["data.augment=multi_scale"])
    assert "dataloader.val resizes to one shape" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_config("custom_coco", ["data.augment=lsj"])
    assert not caplog.text


def test_what_reads_the_list_knows_the_presets():
    sizes = {}
    for name in PRESETS:
        cfg = load_config(str(TEST_CONFIGS / "tiny.py"), ["data.root=/data", f"data.augment={name}"])
        assert (why_sizes_vary(cfg) is None) == (name == "lsj")
        sizes[name] = anchor_rule(cfg).resize
    assert sizes["basic"] == sizes["photometric"] == sizes["mosaic"]
    assert sizes["multi_scale"].short_edges == (51, 64, 77)
    assert (sizes["lsj"].short_edges, sizes["lsj"].max_size) == ((64,), 64)
    assert OmegaConf.is_list(cfg.dataloader.train.mapper.augmentations)
