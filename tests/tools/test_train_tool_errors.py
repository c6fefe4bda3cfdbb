"""Every mistake ends in one clear line that names the file or key; nothing that was on disk is lost."""

import json
import re
import resource
import shutil

import pytest
import torch
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import CONFIG, ROOT, arguments, call, lines, snapshot, succeed

SETTINGS = ["train.max_iter=4", "train.eval_period=2", "train.checkpointer.period=2"]


@pytest.fixture(scope="module")
def finished(train_data, tmp_path_factory):
    """A finished run; each test that gets a folder works on a copy."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    succeed(*arguments(train_data, folder, *SETTINGS))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def own_data(train_data, tmp_path):
    """A copy of the data set, free to break; the files have no entry in the cache of images."""
    return shutil.copytree(train_data, tmp_path / "data")


def error_line(*args):
    """The one line on standard error of a tool that fails by a user's mistake."""
    status, stderr = call(*args)
    assert status == 1, stderr
    written = [line for line in stderr.splitlines() if line.strip()]
    assert len(written) == 1, stderr
    assert written[0].startswith("error: ")
    return written[0]


def config(tmp_path, *more):
    """A config file of one's own beside a copy of those it imports."""
    (tmp_path / "own" / "tests" / "configs").mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "configs", tmp_path / "own" / "configs", dirs_exist_ok=True)
    file = tmp_path / "own" / "tests" / "configs" / "config.py"
    file.write_text((TEST_CONFIGS / "tiny.py").read_text() + "\n" + "\n".join(more) + "\n")
    return file


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.max_itre=3", r"'train\.max_itre'.*train\.max_iter\b"),
        ("optimizer.learning_rate=3", r"'optimizer\.learning_rate'"),
        ("dataloader.train.batch_size=3", r"dataloader\.train\.total_batch_size"),
        ("+train.warmup=3", r"train\.warmup is not a setting"),
        ("+model.numclasses=6", r"unexpected keyword argument 'numclasses'"),
        ("~train.max_iter", "cannot be deleted"),
        ("optimizer.lr=[1,", r"optimizer\.lr=\[1,"),
        ("optimizer.lr", "key=value"),
        ("optimizer.lr=0.1,0.2", r"optimizer\.lr=0\.1,0\.2"),
        ("train.max_iter=soon", r"train\.max_iter='soon'.*epochs"),
        ("train.eval_splits=val", r"train\.eval_splits='val'.*\[val,test\]"),
        ("train.eval_splits=[vall]", r"'vall' is not an evaluation split.*val, test"),
        ("train.log_period=often", r"train\.log_period='often'.*whole number"),
        ("train.amp=true", r"train\.amp=True.*enabled"),
        ("train.ema.enabled=1", r"train\.ema\.enabled=1.*true or false"),
        ("train.accumulate=3", r"train\.accumulate=3"),
        ("train.device=cuda:9", r"train\.device=cuda:9|CUDA"),
        ("train.device=abacus", r"train\.device=abacus"),
        ("train.best.metric=bbox/mAP", r"train\.best\.metric='bbox/mAP'.*bbox/AP"),
        ("data.classes=[ship,car]", r"num_classes|categor|class"),
        ("model.num_classes=4", r"model\.num_classes=4.*6 categories.*ship.*model\.num_classes=6"),
        # A head of this many classes would take 80 GB: classes are compared before it is made.
        ("model.num_classes=1000000", r"model\.num_classes=1000000.*6 categories.*model\.num_classes=6"),
        ("model.backbone.bottom_up.targets=[mlp.fc3]", r"mlp\.fc3"),
        ("model.backbone.bottom_up.module.module.model_name=convnext_atom", "convnext_atom"),
    ],
)
def test_a_wrong_override(train_data, tmp_path, override, expected):
    words = [*SETTINGS[1:], override] if "max_iter" in override else [*SETTINGS, override]
    if "data.classes" in override:
        words.append("model.num_classes=6")
    folder = tmp_path / "out"
    assert re.search(expected, error_line(*arguments(train_data, folder, *words)))
    # The folder is not taken: the corrected command runs.
    if "metric" not in override:
        assert not (folder / "run.json").exists()


def test_a_required_value_is_asked_for(tmp_path):
    assert "data.root=VALUE" in error_line(*arguments(None, tmp_path / "out"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.max_iter = = 3", r"config\.py, line 43.*syntax"),
        ("from .absent import model", r"absent"),
        ("train.max_iter = undefined_name", r"config\.py, line 43: NameError.*undefined_name"),
        ("model.backbone.no.such = 3", r"config\.py, line 43"),
        ("import no_such_package", r"config\.py, line 43.*no_such_package"),
        ("train.unknown = 1", r"train\.unknown is not a setting"),
    ],
)
def test_a_broken_config_file(train_data, tmp_path, text, expected):
    number = len((TEST_CONFIGS / "tiny.py").read_text().splitlines()) + 2
    line = error_line(*arguments(train_data, tmp_path / "out", config=config(tmp_path, text)))
    assert re.search(expected.replace("43", str(number)), line)


def test_a_broken_saved_config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("train: {max_iter: 3\nmodel: [")
    assert str(file) in error_line(*arguments(None, tmp_path / "out", config=file))
    file.unlink()
    assert f"{file} does not exist" in error_line(*arguments(None, tmp_path / "out", config=file))


@pytest.mark.parametrize("absent", [".", "Annotations/train.json", "Annotations/val.json", "JPEGImages/train"])
def test_missing_data_is_found_before_training(own_data, tmp_path, absent):
    path = own_data / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder = tmp_path / "out"
    name = f"data.name=without_{path.stem}"
    assert str(path) in error_line(*arguments(own_data, folder, *SETTINGS, name))
    assert not (folder / "model_final.pth").exists()
    assert not (folder / "run.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_unreadable_image(own_data, tmp_path, split, workers):
    file = sorted((own_data / "JPEGImages" / split).iterdir())[2]
    file.write_bytes(file.read_bytes()[:100])
    content = json.loads((own_data / "Annotations" / f"{split}.json").read_text())
    number = next(image["id"] for image in content["images"] if image["file_name"] == file.name)
    folder = tmp_path / "out"
    words = [f"dataloader.{split}.num_workers={workers}", "train.max_iter=6", "train.checkpointer.period=1"]
    words += ["+dataloader.train.aspect_ratio_grouping=false", f"data.name=unreadable_{split}_{workers}"]
    line = error_line(*arguments(own_data, folder, *words))
    assert str(file) in line
    assert f"image id {number}" in line
    assert "loradet data check" in line
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    # What was saved before is whole, and training goes on from it once the image is mended.
    saved = sorted(folder.glob("model_0*.pth"))
    assert saved
    assert all("optimizer" in torch.load(path, weights_only=True)["trainer"] for path in saved)


def test_an_unreadable_image_in_an_evaluation_alone(run, own_data):
    file = sorted((own_data / "JPEGImages" / "val").iterdir())[0]
    file.write_bytes(b"no image")
    before = snapshot(run)
    words = ["data.name=unreadable_again", "dataloader.val.num_workers=1"]
    assert str(file) in error_line(*arguments(own_data, run, "--eval-only", *words))
    assert {k: v for k, v in snapshot(run).items() if not k.startswith("eval_")} == before


ANNOTATIONS = {
    "a flag of no meaning": (lambda boxes: boxes[1].update(iscrowd="maybe"), "entry 1 of annotations"),
    "nothing to find": (lambda boxes: [box.update(iscrowd="1") for box in boxes], "is a box to find"),
    "other categories": (
        lambda boxes: [box.update(category_id=99) for box in boxes],
        "of categories that the file lacks",
    ),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_annotations_that_cannot_be_evaluated_are_found_before_training(finished, own_data, tmp_path, case):
    change, expected = ANNOTATIONS[case]
    path = own_data / "Annotations/val.json"
    content = json.loads(path.read_text())
    change(content["annotations"])
    path.write_text(json.dumps(content))
    folder = tmp_path / "out"
    name = f"data.name={case.replace(' ', '_')}"
    line = error_line(*arguments(own_data, folder, name))
    assert str(path) in line and expected in line
    assert not (folder / "metrics.json").exists()
    words = ["--eval-only", "--checkpoint", finished / "model_best.pth", "--split", "val"]
    line = error_line(*arguments(own_data, folder, *words, f"{name}_2"))
    assert str(path) in line and expected in line


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("This is not a checkpoint.")
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:40] + bytes(64) + content[104:middle] + bytes(64) + content[middle + 64 :])
    elif how == "pickle":
        torch.save({"model": {"a": torch.zeros(1)}, "object": torch.nn.Linear(1, 1)}, path)
    elif how == "bare":
        torch.save(torch.load(path, weights_only=True)["model"], path)
    elif how == "list":
        torch.save([1, 2, 3], path)
    elif how == "absent":
        path.unlink()


DAMAGES = ["cut", "empty", "text", "flipped", "pickle", "list", "absent"]


_ALSO_SLOW = {"empty", "text", "pickle", "list"}


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) if how in _ALSO_SLOW else how for how in [*DAMAGES, "bare"]]
)
def test_resuming_from_a_broken_checkpoint(run, train_data, how):
    damage(run / "model_final.pth", how)
    before = snapshot(run)
    line = error_line(*arguments(train_data, run, "--resume", "train.max_iter=6"))
    assert str(run / "model_final.pth") in line
    assert "model_0000001.pth" in line
    assert "last_checkpoint" in line
    assert {**snapshot(run), "log.txt": ""} == {**before, "log.txt": ""}
    if how == "cut":
        # What the message says to do helps.
        (run / "last_checkpoint").write_text("model_0000001.pth")
        succeed(*arguments(train_data, run, "--resume", *SETTINGS[1:], "train.max_iter=5"))
        assert [line["iteration"] for line in lines(run)] == list(range(5))


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "use", ["init", pytest.param("eval", marks=pytest.mark.slow), pytest.param("adapter", marks=pytest.mark.slow)]
)
def test_a_broken_file_of_weights(run, train_data, tmp_path, how, use):
    file = tmp_path / ("weights.safetensors" if use == "adapter" else "weights.pth")
    shutil.copy(run / ("adapter.safetensors" if use == "adapter" else "model_best.pth"), file)
    if how == "flipped" and use == "adapter":
        pytest.skip("a changed value is a value; the header is guarded by its length")
    if how == "pickle":
        torch.save({"model": {"head.cls_score.bias": torch.zeros(1)}, "object": torch.nn.Linear(1, 1)}, file)
    else:
        damage(file, how)
    words = [f"train.init_checkpoint={file}", *SETTINGS]
    if use != "init":
        words = ["--eval-only", "--checkpoint", str(file)]
    before = snapshot(run)
    folder = tmp_path / "out" if use == "init" else run
    assert str(file) in error_line(*arguments(train_data, folder, *words))
    assert {k: v for k, v in snapshot(run).items() if not k.startswith("eval_")} == before


OTHER_MODELS = {
    "another width": ["model.backbone.out_channels=24", "model.head.conv_dims=[24]"],
    "another rank": ["model.backbone.bottom_up.rank=3"],
    "another alpha": ["model.backbone.bottom_up.alpha=3.0"],
    "no LoRA": ["model.backbone.bottom_up.targets=[stages_3.blocks.0.mlp.fc1]"],
}


@pytest.mark.parametrize("name", OTHER_MODELS)
@pytest.mark.parametrize("use", ["resume", "eval"])
def test_a_checkpoint_of_another_model(run, train_data, name, use):
    words = {"resume": ["--resume", "train.max_iter=6"], "eval": ["--eval-only"]}[use]
    before = snapshot(run)
    line = error_line(*arguments(train_data, run, *words, *OTHER_MODELS[name]))
    assert str(run / ("model_final.pth" if use == "resume" else "model_best.pth")) in line
    assert "config" in line
    after = {k: v for k, v in snapshot(run).items() if not k.startswith("eval_")}
    assert {**after, "log.txt": ""} == {**before, "log.txt": ""}


def test_initial_weights_of_another_model(train_data, tmp_path):
    file = tmp_path / "other.pth"
    torch.save({"model": torch.nn.Linear(2, 3).state_dict()}, file)
    line = error_line(*arguments(train_data, tmp_path / "out", f"train.init_checkpoint={file}"))
    assert str(file) in line
    assert "another model" in line


def test_resuming_with_other_parameters_to_train(run, train_data):
    words = ["--resume", "train.max_iter=6", "model.backbone.bottom_up.freeze_base=false"]
    line = error_line(*arguments(train_data, run, *words, "model.backbone.bottom_up.module.unfreeze=[stages_3]"))
    assert "model_final.pth" in line
    assert "train.init_checkpoint" in line


def test_a_folder_that_cannot_be_written(train_data, tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "out"
    assert f"train.output_dir={folder}" in error_line(*arguments(train_data, folder))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_record_that_is_no_json(run, train_data):
    (run / "run.json").write_text("{broken")
    assert str(run / "run.json") in error_line(*arguments(train_data, run, "--resume"))


def test_a_full_disk_leaves_the_last_checkpoint_whole(finished, run, train_data):
    largest = max(path.stat().st_size for path in finished.iterdir())
    last = torch.load(run / "model_final.pth", weights_only=True)["iteration"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond half of a checkpoint, as on a disk that is nearly full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, limits[1]))
    try:
        line = error_line(*arguments(train_data, run, "--resume", *SETTINGS[1:], "train.max_iter=8"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"error: {run / 'model_'}" in line
    assert "cannot be written: File too large. Make room, then try again." in line
    assert f"{run / 'model_final.pth'} is whole: --resume goes on from it." in line
    assert torch.load(run / (run / "last_checkpoint").read_text(), weights_only=True)["iteration"] == last
    assert not [path.name for path in run.iterdir() if path.name.endswith(".tmp")]
    succeed(*arguments(train_data, run, "--resume", *SETTINGS[1:], "train.max_iter=8"))
    assert [line["iteration"] for line in lines(run)] == list(range(8))


def test_an_unknown_split(run, train_data):
    line = error_line(*arguments(train_data, run, "--eval-only", "--split", "valid"))
    assert "'valid'" in line
    assert "val, test" in line
    assert "'train'" in error_line(*arguments(train_data, run, "--eval-only", "--split", "train"))


def test_nothing_to_evaluate_yet(train_data, tmp_path):
    line = error_line(*arguments(train_data, tmp_path, "--eval-only"))
    assert str(tmp_path / "model_best.pth") in line


def test_nothing_trains(train_data, tmp_path):
    frozen = [
        "model.backbone.bottom_up = model.backbone.bottom_up.module",
        "model = L(freeze)(module=model, unfreeze=[])",
        'for split in ("train", "val", "test"):',
        '    dataloader[split].mapper.image_format = "RGB"',
    ]
    line = error_line(*arguments(train_data, tmp_path / "out", config=config(tmp_path, *frozen)))
    assert "every parameter of the model is frozen" in line


def test_a_misspelled_class_says_what_was_meant(train_data, tmp_path):
    content = json.loads((train_data / "Annotations/train.json").read_text())
    names = [category["name"] for category in content["categories"]]
    words = [f"data.classes=[{names[0]},{names[1].upper()}]", "model.num_classes=2", "data.name=misspelled"]
    line = error_line(*arguments(train_data, tmp_path / "out", *words))
    assert f"no category ['{names[1].upper()}'] ('{names[1].upper()}': meant '{names[1]}'?)" in line


def test_a_neck_that_takes_other_maps_than_the_backbone_gives(train_data, tmp_path):
    line = error_line(*arguments(train_data, tmp_path / "out", "model.backbone.in_features=[res2,res3]"))
    assert "'res2'" in line and "the backbone gives stage1 (stride 8), stage2" in line


def test_an_indivisible_batch(train_data, tmp_path):
    words = ["train.accumulate=3", "dataloader.train.total_batch_size=5"]
    line = error_line(*arguments(train_data, tmp_path / "out", *words))
    assert "train.accumulate=3" in line and "total_batch_size=5" in line


def test_the_traceback_is_there_for_who_asks(train_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LORADET_TRACEBACK", "1")
    status, stderr = call(*arguments(train_data, tmp_path, "train.max_iter=soon"))
    assert status == 1
    assert "Traceback" in stderr
    assert stderr.splitlines()[-1].startswith("error: train.max_iter='soon'")


def test_several_machines_need_a_common_address(train_data, tmp_path):
    line = error_line(*arguments(train_data, tmp_path, "--num-machines", "2"))
    assert "--dist-url" in line


def test_a_config_of_detectron2s_kind_is_named(tmp_path):
    file = tmp_path / "config.txt"
    file.write_text("")
    assert str(file) in error_line(*arguments(None, tmp_path, config=file))
    assert CONFIG.endswith(".py")
