"""`data.num_classes`: the one place of a config for the number of classes, which every detector refers to."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf, open_dict

from loradet.config.unread import references
from loradet.datasets.classes import count_classes
from loradet.errors import UserError

KEY = "data.num_classes"


def complete_class_count(cfg: DictConfig) -> None:
    """Give a config's `data` its `num_classes`, in place, where the model refers to it and the file has none.

    That is where a file has `data` of its own. It is counted as `configs/common/data.py` does, off the training file.
    """
    data = cfg.get("data")
    if not isinstance(data, DictConfig) or "num_classes" in data or "train_json" not in data:
        return
    if KEY in references(cfg):
        with open_dict(data):
            data._set_flag("allow_objects", True)
            data.num_classes = L(count_classes)(
                json_file="${data.train_json}", classes="${oc.select:data.classes,null}"
            )


def check_class_count(cfg: DictConfig) -> None:
    """Raise where a number of classes and their names, both given, contradict each other.

    Raises:
        UserError: names both.
    """
    count, names = (OmegaConf.select(cfg, key, throw_on_missing=False) for key in (KEY, "data.classes"))
    if isinstance(count, int) and OmegaConf.is_list(names) and count != len(names):
        raise UserError(
            f"{KEY}={count}, but data.classes names {len(names)}: {', '.join(map(str, names))}. "
            f"Leave {KEY} out, or give data.classes {count} names."
        )
