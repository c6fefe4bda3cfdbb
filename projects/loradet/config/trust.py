"""Which calls a config from somebody else may make.

A config is a program: whatever a `_target_` names is called. A .py file is run as a whole, and whoever names one has it
run. A .yaml file comes along with an adapter or a run's folder, and looks like data; so it may call only what builds
detectors and their data, unless whoever reads it says that it is trusted.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils.registry import locate

from loradet.errors import UserError, one_line
from loradet.wording import shorten

PACKAGES = ("loradet", "detectron2", "torch", "torchvision", "timm", "fvcore")

# Where classes are defined of which none reads code, or runs what a text names.
_CLASSES = (
    *("torch.nn.", "torch.optim.", "torchvision.models.", "torchvision.ops.", "timm.models.", "timm.layers."),
    *(f"detectron2.{part}." for part in ("data", "evaluation", "layers", "modeling", "solver", "structures")),
    *("fvcore.common.param_scheduler.", "fvcore.nn.", "fvcore.transforms."),
    *(f"loradet.{part}." for part in ("adapters", "backbones", "datasets", "detectors", "evaluation")),
)
# Functions are many kinds of things, so each is named.
_FUNCTIONS = (
    "detectron2.data.build_detection_test_loader",
    "detectron2.data.build_detection_train_loader",
    "detectron2.data.get_detection_dataset_dicts",
    "detectron2.modeling.ResNet.make_default_stages",
    "detectron2.modeling.ResNet.make_stage",
    "detectron2.solver.get_default_optimizer_params",
    "loradet.adapters.adaptformer",
    "loradet.adapters.freeze",
    "loradet.adapters.load_peft",
    "loradet.adapters.lora",
    "loradet.adapters.lora_plus",
    "loradet.adapters.mona",
    "loradet.backbones.batch_norm.batch_norm_for",
    "loradet.backbones.batch_norm.gathers_statistics",
    "loradet.backbones.resnet_stages.resnet_stages",
    "loradet.backbones.resnet_weights.resnet_with_weights",
    "loradet.backbones.timm_lr_factors",
    "loradet.backbones.vision_mamba.vim_lr_factors",
    "loradet.datasets.augment.edge_lengths.short_edges",
    "loradet.datasets.classes.count_classes",
    "loradet.datasets.coco_dataset",
    "loradet.datasets.count_voc_classes",
    "loradet.datasets.count_yolo_classes",
    "loradet.datasets.loader.build_train_loader",
    "loradet.datasets.voc_dataset",
    "loradet.datasets.yolo_dataset",
    "loradet.detectors.feature_shape.feature_shape",
    "loradet.detectors.pyramid.pyramid",
    "loradet.training.schedule.warmup",
    "timm.create_model",
)
_PLAIN_TAGS = {"bool", "bytes", "complex", "dict", "float", "int", "list", "long", "none", "str", "tuple", "unicode"}
_PATHS = {f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")}
_TAG = "tag:yaml.org,2002:python/"
# `${oc.env:HOME}`, `${oc.create:…}`: a resolver, which gives more than the value of another key.
_RESOLVER = re.compile(r"\$\{[^${}]*:")
# Another key or a value without it, and places of data sets; other variables of the environment may be secrets.
_HARMLESS = re.compile(r"\$\{(oc\.select:[\w.]+|oc\.env:[A-Z0-9_]+_(ROOT|DATASETS))(,[\w./~ -]*)?\}")


def is_yaml(file: str | Path) -> bool:
    """Whether a config is of the kind that comes along with weights."""
    return Path(file).suffix in (".yaml", ".yml")


def check_trusted(file: str | Path) -> None:
    """Refuse a .yaml config that calls what only a trusted one may call. Nothing of it is called.

    Raises:
        UserError: names what it would call, and the keys.
    """
    if is_yaml(file) and (foreign := untrusted_calls_in_file(file)):
        raise UserError(
            f"{file} would call {shorten(foreign, 8)}. A config is a program, and this one asks for more than the "
            f"parts of detectors that {', '.join(PACKAGES)} have. Read it; --trust runs it."
        )


def untrusted_calls_in_file(file: str | Path) -> list[str]:
    """What a .yaml config names beyond what `is_known` knows, each with its key; [] for YAML that cannot be read."""
    scan = _scanner()
    try:
        with Path(file).open("rb") as opened:
            loader = scan(opened)
            try:
                content = loader.get_single_data()
            finally:
                loader.dispose()
    except yaml.constructor.ConstructorError as error:
        # Other loaders may make something of it.
        return [f"what cannot be judged: {one_line(error)}"]
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return []  # no loader gets through it; the one that follows says what is wrong
    return [*loader.foreign, *untrusted_calls(content)]


def untrusted_calls(content: Any) -> list[str]:
    """The same of a config's content: plain dicts and lists, in which targets are texts or what they lead to."""
    return [f"{what} ({key or 'at its top'})" for key, what in _foreign(content, "", set())]


def _foreign(node: Any, key: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        if _RESOLVER.search(_HARMLESS.sub("", node)):
            yield key, f"a resolver, {node[:60]!r}"
        return
    if not isinstance(node, Mapping | list | tuple) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, Mapping):
        if "_target_" in node and not isinstance(node["_target_"], Mapping) and not is_known(node["_target_"]):
            yield key, str(getattr(node["_target_"], "__qualname__", node["_target_"]))
        items = node.items()
    else:
        items = enumerate(node)
    for name, value in items:
        if name != "_target_" or isinstance(value, Mapping):
            yield from _foreign(value, f"{key}.{name}" if key else str(name), seen)


def is_known(target: Any) -> bool:
    """Whether anybody's config may call this: a class or function of the lists above, or its dotted path.

    What counts is where a thing is defined: `torch.serialization.os.system` is of `os`. A path is looked up only below
    the known packages, so that nothing else is imported.
    """
    if isinstance(target, str):
        if target.partition(".")[0] not in PACKAGES:
            return False
        try:
            target = locate(target)
        except Exception:  # whatever an import does
            return True  # leads to nothing: the check of calls says so
    if isinstance(target, type):
        name = f"{target.__module__}.{target.__qualname__}"
        is_public = "." not in target.__qualname__ and not target.__qualname__.startswith("_")
        return is_public and name.startswith(_CLASSES)
    return any(target is one for one in _functions())


@functools.cache
def _functions() -> tuple[Any, ...]:
    return tuple(locate(name) for name in _FUNCTIONS)


def _scanner() -> type[yaml.SafeLoader]:
    """A loader that calls nothing: of YAML's tags for Python objects it keeps what is not known, and reads on."""

    class Scanner(yaml.SafeLoader):
        def __init__(self, stream: Any):
            super().__init__(stream)
            self.foreign: list[str] = []

    def construct(loader: Scanner, suffix: str, node: yaml.Node) -> Any:
        kind, _, name = suffix.partition(":")
        if kind not in _PLAIN_TAGS and not (kind != "module" and (name in _PATHS or is_known(name))):
            loader.foreign.append(f"{name or kind} (line {node.start_mark.line + 1})")
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return tuple(loader.construct_sequence(node, deep=True))
        return loader.construct_scalar(node)

    Scanner.add_multi_constructor(_TAG, construct)
    return Scanner
