"""What the library does in silence, mended or refused."""

import copy
import importlib.metadata
import pickle
import sys

import pytest
import torch
from detectron2.modeling import SimpleFeaturePyramid
from detectron2.utils.events import EventStorage
from helpers.library_detectors import OWN, build, convnext, items, library_model, needs_transformers, vit
from omegaconf import OmegaConf

from loradet.class_rows import keep_rows_by_name
from loradet.detectors.detr import NonFiniteCostError
from loradet.detectors.library import extra
from loradet.errors import UserError
from loradet.feature_cache.probe import fixed_padding

pytestmark = needs_transformers
_DINO_SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
DINO = {"model_type": "dinov3_vit", "patch_size": 16, "image_size": 64, "out_indices": [1, 2, 3], **_DINO_SIZES}


def detect(model, batch):
    with torch.no_grad():
        found = [output["instances"] for output in model.eval()(batch)]
    return [(f.pred_boxes.tensor, f.scores, f.pred_classes) for f in found]


def losses_of(model, batch, seed=0):
    torch.manual_seed(seed)
    with EventStorage():
        return model.train()(batch)


@pytest.mark.parametrize("family", ["d_fine", "deformable_detr"])
def test_what_is_found_in_an_image_hangs_on_no_other(family):
    model = build(family)
    batch = items((64, 96), (128, 70), (50, 90), (64, 96))
    together = detect(model, batch)
    for place, item in enumerate(batch):
        for ours, alone in zip(together[place], detect(model, [item])[0]):
            torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4)


def test_the_library_itself_gives_other_boxes_to_a_padded_image():
    # Why images are not padded to one size in inference; where this fails, the library has mended it.
    model = build("d_fine").eval()
    network = library_model(model).eval()
    image = torch.randn(1, 3, 64, 96)
    padded, mask = torch.zeros(1, 3, 128, 96), torch.zeros(1, 128, 96, dtype=torch.long)
    padded[:, :, :64], mask[:, :64] = image, 1
    with torch.no_grad():
        alone = network(pixel_values=image).logits
        masked = network(pixel_values=padded, pixel_mask=mask).logits
        unmasked = network(pixel_values=padded).logits
    assert torch.equal(masked, unmasked)  # the mask is not looked at
    assert (alone - masked).abs().max() > 1e-2


def test_pad_to_gives_every_image_one_size():
    model = build("d_fine", pad_to=(96, 128))
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    batch = items((64, 96), (96, 100))
    detect(model, batch)
    losses_of(model, batch)
    assert sizes == [(2, 3, 96, 128), (2, 3, 96, 128)]
    # The feature cache asks for it: of a square one it keeps features of all images.
    assert model.pad_to == (96, 128) and fixed_padding(model) is None
    assert fixed_padding(build("d_fine", pad_to=(128, 128))) == 128
    assert build("d_fine").pad_to is None
    with pytest.raises(UserError, match=r"64x160\.png comes as 64x160 pixels .* pad_to=\(96, 128\)"):
        detect(model, items((64, 160)))


def test_boxes_are_in_pixels_of_the_image_as_given():
    model = build("d_fine")
    (item,) = items((64, 96))
    ((boxes, scores, _),) = detect(model, [item])
    ((scaled, again, _),) = detect(model, [item | {"height": 128, "width": 288}])
    assert torch.equal(scores, again)
    torch.testing.assert_close(scaled, boxes * torch.tensor([3.0, 2.0, 3.0, 2.0]))


@pytest.mark.parametrize("family", ["rf_detr", "lw_detr"])
def test_windows_take_images_of_any_size(family):
    # Windows of 2 x 2 patches of 8 pixels: sides of 16 pixels. RF-DETR scrambles what is not square.
    model = build(family, own=True)
    assert model.canvas.divisor == 16
    batch = items((60, 90))
    images = model.preprocess_image(batch)
    assert tuple(images.tensor.shape[-2:]) == ((96, 96) if family == "rf_detr" else (64, 96))
    # The last pixel of the image is seen, so nothing at the border is dropped.
    other = copy.deepcopy(batch)
    other[0]["image"][:, -1, -1] = 255 - other[0]["image"][:, -1, -1]
    with torch.no_grad():
        maps, others = (model.eval().backbone(model.preprocess_image(one).tensor) for one in (batch, other))
    place = {name: (a - b).abs().sum(1)[0] for (name, a), b in zip(maps.items(), others.values())}
    assert all(
        difference[-1 if family == "lw_detr" else 60 // 8, 89 // 8] > 0 or difference[59 // 8, 89 // 8] > 0
        for difference in place.values()
    )


def test_the_librarys_own_vit_of_deimv2_takes_images_of_any_size():
    model = build("deimv2", own=True, options={"backbone_config": DINO})
    batch = items((64, 96), (64, 96))
    with torch.no_grad():
        pixels = model.preprocess_image(batch).tensor
        wanted = library_model(model).eval()(pixel_values=pixels).logits[0].sigmoid().flatten().topk(20).values
    torch.testing.assert_close(detect(model, batch)[0][1], wanted, rtol=0, atol=1e-5)
    # Its maps are a pyramid of strides 8, 16 and 32.
    assert model.canvas.divisor == 32
    assert detect(model, items((48, 80)))[0][1].isfinite().all()


def test_a_timm_backbone_that_would_lose_its_activations_is_refused():
    def of(name, family="rt_detr_v2"):
        backbone = {"model_type": "timm_backbone", "backbone": name, "features_only": True, "out_indices": [2, 3, 4]}
        return build(family, own=True, options={"backbone_config": backbone})

    with pytest.raises(UserError, match=r"'regnety_002' would lose its activations.*backbone=L\(TimmBackbone\)"):
        of("regnety_002")
    with pytest.raises(UserError, match="would lose its activations"):
        of("regnety_002", "deformable_detr")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"learn_initial_query": True}, "it fails in the library"),
        ({"eval_size": 640}, "leaves position embeddings out"),
        ({"anchor_image_size": [64, 64]}, "anchors follow the size of the image"),
        ({"use_focal_loss": False}, "scores are those of a sigmoid"),
        ({"auxiliary_loss": False}, "heads of the decoder layers before the last would stay untrained"),
        ({"num_labels": 5}, "num_classes of the detector says it"),
        ({"encoder_in_channels": [1, 2, 3]}, "follows from the backbone's maps"),
        ({"num_querys": 5}, "did you mean num_queries"),
        ({"num_queries": "many"}, "expected int"),
        ({"decoder_attention_heads": 3}, "must be divisible"),
    ],
)
def test_options_that_do_not_work_are_refused_in_a_line(option, reason):
    with pytest.raises(UserError, match=reason) as stopped:
        build("d_fine", options=option)
    assert "\n" not in str(stopped.value)
    assert str(stopped.value).startswith("options")


@pytest.mark.parametrize(
    ("family", "option"),
    [
        ("rt_detr_v2", {"auxiliary_loss": False}),
        ("deimv2", {"auxiliary_loss": False}),
        ("deformable_detr", {"two_stage": True}),
    ],
)
def test_options_that_leave_parts_untrained_are_refused(family, option):
    with pytest.raises(UserError, match=r"is not taken: .* would stay untrained\.$") as stopped:
        build(family, options=option)
    assert str(stopped.value).startswith("options")


def test_backbones_that_a_decoder_cannot_use_are_refused():
    with pytest.raises(UserError, match=r"'d_fine' needs maps whose strides double.*block0 \(stride 16, 16 channels\)"):
        build("d_fine", backbone=vit())
    with pytest.raises(UserError, match=r"'rf_detr' needs maps of one stride.*name one by in_features"):
        build("rf_detr", backbone=convnext())
    with pytest.raises(UserError, match=r"in_features=\['stage9'\]: the backbone gives stage1, stage2, stage3"):
        build("d_fine", in_features=["stage9"])
    with pytest.raises(UserError, match=r"num_feature_levels=2: the backbone gives 3 maps"):
        build("deformable_detr", options={"num_feature_levels": 2})
    with pytest.raises(UserError, match=r"family='yolo': expected one of d_fine"):
        _family("yolo")


def _family(name):
    from loradet.detectors.library.families import find_family

    return find_family(name)


def test_other_maps_than_three_and_a_pyramid_on_a_vit():
    two = build("d_fine", in_features=["stage1", "stage2"])
    assert sum(losses_of(two, items((64, 64)) * 2).values()).isfinite()
    assert build("rf_detr", backbone=convnext(), in_features=["stage2"]).maps.keys() == {"stage2"}
    pyramid = SimpleFeaturePyramid(
        net=vit((1,)), in_feature="block1", out_channels=16, scale_factors=(2.0, 1.0, 0.5), norm="LN", square_pad=0
    )
    model = build("d_fine", backbone=pyramid)
    assert [shape.stride for shape in model.maps.values()] == [8, 16, 32]
    assert model.canvas.divisor == 32
    assert detect(model, items((64, 90)))[0][1].isfinite().all()


def test_too_small_an_image_for_its_queries_is_named():
    model = build("d_fine", options={"num_queries": 40})
    with pytest.raises(UserError, match=r"32x32\.png comes as 32x32 pixels.*21 positions.*num_queries=40"):
        detect(model, items((32, 32)))


_FAMILIES = ["d_fine", "deimv2", "rt_detr_v2", "deformable_detr", "rf_detr"]


@pytest.mark.parametrize(
    ("family", "own"),
    [(family, None) for family in _FAMILIES]
    + [
        ("d_fine", {}),
        ("deformable_detr", {}),
        ("rf_detr", {}),
        ("lw_detr", {}),
        ("deimv2", {"backbone_config": DINO}),
    ],
)
def test_a_batch_without_objects_trains_all_the_same(family, own):
    model = build(family, own=own is not None, options=own or {})
    losses = losses_of(model, items((64, 64), (64, 64), objects=0))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    # Other processes wait for a gradient of every parameter.
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_what_the_maps_of_the_librarys_own_vit_do_not_use_is_frozen_and_nothing_else():
    model = build("rf_detr", own=True)
    frozen = [name for name, p in model.backbone.named_parameters() if not p.requires_grad]
    assert frozen == ["net.embeddings.mask_token"]
    assert all(p.requires_grad for p in build("d_fine", own=True).backbone.parameters())


@pytest.mark.parametrize("own", [False, True])
def test_the_lite_encoder_of_deimv2_makes_two_maps_of_one(own):
    lite = {"encoder_type": "lite"}
    with pytest.raises(UserError, match=r"'lite' makes two maps of one, and the backbone gives 3"):
        build("deimv2", own=own, options=lite)
    if own:
        backbone = OWN["deimv2"]["backbone_config"] | {"out_indices": [3]}
        model = build("deimv2", own=True, options=lite | {"backbone_config": backbone, "encoder_in_channels": [24]})
    else:
        model = build("deimv2", in_features=["stage2"], options=lite)
    # Maps of stride 16 are halved and doubled again.
    assert model.canvas.divisor == 32
    assert detect(model, items((50, 90)))[0][1].isfinite().all()
    sum(losses_of(model, items((64, 64), (64, 64))).values()).backward()
    assert not [
        name for name, p in (model if own else model.network).named_parameters() if p.requires_grad and p.grad is None
    ]
    with pytest.raises(UserError, match=r"32x32\.png comes as 32x32 pixels.*5 positions.*num_queries=20"):
        detect(model, items((32, 32)))


def test_nested_options_may_refer_to_other_values():
    whole = OmegaConf.create(
        {"width": 8, "backbone": OWN["d_fine"]["backbone_config"] | {"embedding_size": "${width}"}}
    )
    assert (
        build("d_fine", own=True, options={"backbone_config": whole.backbone}).backbone.net.config.embedding_size == 8
    )


@pytest.mark.parametrize("family", ["d_fine", "deimv2"])
def test_the_last_layer_has_its_localization_loss(family):
    batch = items((64, 64), (64, 64))
    plain, whole = (losses_of(build(family, last_layer_fgl=on), batch) for on in (False, True))
    assert set(whole) - set(plain) == {"loss_fgl"}
    assert all(torch.equal(plain[name], whole[name]) for name in plain)
    # A layer before the last has that of the library; with one decoder layer alone they are computed from one output.
    model = build(family, last_layer_fgl=True)
    losses = losses_of(model, batch)
    last = model.network.model.decoder.bbox_embed[-1].layers[-1]
    (gradient,) = torch.autograd.grad(losses["loss_fgl"], last.weight)
    assert 0 < losses["loss_fgl"] < 5 and gradient.abs().max() > 0
    with pytest.raises(UserError, match="last_layer_fgl=True is for detectors that refine distributions"):
        build("rt_detr_v2", last_layer_fgl=True)


def test_the_last_layers_localization_loss_is_that_of_the_other_layers():
    # Two decoder layers of the same outputs: the library's loss of the first is ours of the last.
    model = build("d_fine", last_layer_fgl=True, options={"num_denoising": 0})
    batch = items((64, 64), (64, 64))
    network, outputs = model.network, []
    original = network.model.forward

    def same_layers(*args, **kwargs):
        output = original(*args, **kwargs)
        for name in ("intermediate_logits", "intermediate_predicted_corners", "initial_reference_points"):
            value = getattr(output, name)
            setattr(output, name, value[:, -1:].expand_as(value).contiguous())
        boxes = output.intermediate_reference_points
        output.intermediate_reference_points = boxes[:, -1:].expand_as(boxes).contiguous()
        outputs.append(output)
        return output

    network.model.forward = same_layers
    losses = losses_of(model, batch)
    torch.testing.assert_close(losses["loss_fgl"], losses["loss_fgl_aux_0"], rtol=1e-5, atol=1e-6)


def test_fresh_weights_keep_the_size_of_what_passes():
    # The library's own leave features near 1e-13 and every score tied.
    import transformers

    model = build("rt_detr_v2")
    fresh = transformers.RTDetrV2ForObjectDetection(model.network.config).eval()
    image = torch.randn(1, 3, 64, 64)
    seen = {}
    for name, network in (("library", fresh), ("ours", library_model(build("rt_detr_v2")).eval())):
        network.model.encoder.register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output.last_hidden_state[0])
        )
        with torch.no_grad():
            network(pixel_values=image)
    assert seen["library"].std() < 1e-9
    assert seen["ours"].std() > 1e-3


def test_bad_ground_truth_is_named():
    model = build("d_fine")
    (item,) = items((64, 64))
    item["instances"].gt_classes = torch.tensor([0, 1, 7])
    with pytest.raises(UserError, match=r"gt_classes of 64x64\.png are in 0\.\.7, expected 0\.\.2"):
        losses_of(model, [item])
    (item,) = items((64, 64))
    item["instances"].gt_boxes.tensor[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"gt_boxes of 64x64\.png hold NaN"):
        losses_of(model, [item])
    del item["instances"]
    with pytest.raises(UserError, match="Training needs `instances`"):
        losses_of(model, [item])


def test_predictions_that_are_not_finite_are_said_in_a_line():
    model = build("d_fine")
    with torch.no_grad():
        model.network.model.decoder.layers[0].self_attn.q_proj.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteCostError, match=r"predictions of this batch hold NaN .* lower optimizer\.lr"):
        losses_of(model, items((64, 64)))


def test_a_copy_and_a_pickled_model_answer_alike():
    model = build("d_fine")
    batch = items((64, 96))
    wanted = detect(model, batch)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(detect(other, batch)[0], wanted[0]))
        assert other.network.get_submodule("model.backbone.model") is other._slot
        with torch.no_grad():
            other.backbone.net.stem_0.weight.add_(1.0)
        assert not torch.equal(detect(other, batch)[0][1], wanted[0][1])
    assert all(torch.equal(a, b) for a, b in zip(detect(model, batch)[0], wanted[0]))


def test_classes_keep_their_rows_by_name():
    names, others = ("ship", "car", "tank"), ("tank", "bus", "ship")
    there, here = build("d_fine").state_dict(), build("d_fine", seed=1)
    kept = keep_rows_by_name(here, there, names, others)
    heads = {name for name in there if "class_embed" in name or "enc_score_head" in name}
    assert kept.keys() == heads
    for name, rows in kept.items():
        own = here.state_dict()[name]
        wanted = [there[name][2], own[1], there[name][0], *([there[name][3]] if "denoising" in name else [])]
        assert torch.equal(rows, torch.stack(wanted)), name


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", absent)
        with pytest.raises(UserError, match=r"pip install 'loradet\[transformers\]'"):
            build("d_fine")
        patch.setattr(importlib.metadata, "version", lambda _: "4.57.1")
        with pytest.raises(UserError, match=r"4\.57\.1 is too old"):
            build("d_fine")
        for name in ("5.24rc1", "5.24.0.dev0", "v5.24"):
            patch.setattr(importlib.metadata, "version", lambda _, name=name: name)
            assert extra.transformers().__name__ == "transformers"
    monkeypatch.setattr(extra.sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(sys, "version", "3.10.12 (main)")
    with pytest.raises(UserError, match=r"need Python 3\.11 or later, and this is 3\.10\.12"):
        build("d_fine")
