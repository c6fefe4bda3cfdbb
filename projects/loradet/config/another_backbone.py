"""What else to change where a config is given another backbone; said in errors."""

from omegaconf import DictConfig, OmegaConf

from loradet.adapters.matching import UnmatchedNameError
from loradet.backbones.weights import ForeignWeightsError
from loradet.config.calls import calls_of


def another_backbone(model_cfg: DictConfig, error: ForeignWeightsError) -> str:
    """The keys to change where a model's `weights` are of another network than its `model_name`.

    Args:
        model_cfg: `cfg.model`, with or without the config around it.
        error: of building it.
    """
    calls = dict(calls_of(model_cfg, "model"))
    key = next((path for path, node in calls.items() if node.get("weights") == error.weights), None)
    if key is None:
        return ""
    also = [f"{path}.targets (layers of the new one)" for path, node in calls.items() if "targets" in node]
    if OmegaConf.select(model_cfg._get_root(), "train.init_checkpoint"):
        also.append("train.init_checkpoint= (left empty: it is of the detector on the former one)")
    more = f" With another backbone change {' and '.join(also)} too." if also else ""
    return f"Set {key}.weights=FILE of {error.model_name!r}, or {key}.weights=null {key}.pretrained=true.{more}"


def key_of_name(model_cfg: DictConfig, error: UnmatchedNameError) -> str:
    """The key whose list has a name that names nothing; "" where no call has it."""
    for path, node in calls_of(model_cfg, "model"):
        for key in ("targets", "unfreeze"):
            names = node.get(key) or ()
            if error.pattern in ([names] if isinstance(names, str) else list(names)):
                return f"{path}.{key}"
    return ""


def no_model_name(cfg: DictConfig) -> str:
    """What replaces `model_name` in a config none of whose parts has one; "" where one does."""
    model = cfg.get("model")
    calls = dict(calls_of(model, "model")) if OmegaConf.is_dict(model) else {}
    if "backbone" not in (model or {}) or any("model_name" in node for node in calls.values()):
        return ""
    depths = [f"{path}.depth" for path, node in calls.items() if isinstance(node.get("depth"), int)]
    own = f" The size of its own is {' or '.join(depths)}." if depths else ""
    place = "model.backbone.bottom_up" if "bottom_up" in model.backbone else "model.backbone"
    return (
        f"Its backbone is no network of timm.{own} One of timm is a line of a config: "
        f'{place} = L(TimmBackbone)(model_name="…"), see "Another backbone" in docs/configs.md.'
    )
