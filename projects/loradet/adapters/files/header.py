"""Schema of an adapter file's metadata."""

import json
from typing import Any

from loradet.json_kinds import NUMBER, TEXT, TRUTH, WHOLE, entries, list_of, mapping_to, optional

_FREEZE = entries(
    {
        "unfreeze": list_of(TEXT),
        "modules": list_of(TEXT),
        "parameters": list_of(TEXT),
        "statistics": list_of(TEXT),
    },
    required=("unfreeze", "modules", "parameters"),
)
_LORA = entries(
    {
        "targets": list_of(TEXT),
        "matched": list_of(TEXT),
        "rank": WHOLE,
        "alpha": NUMBER,
        "dropout": NUMBER,
        "freeze_base": TRUTH,
        "variant": TEXT,
    },
    required=("targets", "matched", "rank", "alpha", "dropout", "freeze_base"),
)
_RECIPE = entries(
    {
        "class": TEXT,
        "model_name": optional(TEXT),
        "fingerprint": optional(TEXT),
        "freeze": optional(_FREEZE),
        "lora": list_of(_LORA),
    },
    required=("class", "model_name", "fingerprint", "freeze", "lora"),
)
_PARTS = ("backbone", "neck", "head", "all")
_COUNTS = entries({"trainable": WHOLE, "total": WHOLE}, required=("trainable", "total"))


def _intensity(value: Any, where: str) -> str | None:
    return (list_of(NUMBER) if isinstance(value, list) else TEXT)(value, where)


_HEADER = entries(
    {
        "model": TEXT,
        "recipes": mapping_to(_RECIPE),
        "frozen": mapping_to(optional(TEXT)),
        "classes": optional(list_of(TEXT)),
        "class_ids": optional(list_of(WHOLE)),
        "pixel_mean": optional(list_of(NUMBER)),
        "pixel_std": optional(list_of(NUMBER)),
        "intensity": _intensity,
        "geometry": mapping_to(entries({"groups": WHOLE})),
        "parameters": entries(dict.fromkeys(_PARTS, _COUNTS), required=_PARTS),
        "versions": mapping_to(TEXT),
        "metadata": entries({}),
    },
    required=("model", "recipes", "frozen", "classes", "class_ids", "parameters", "versions", "metadata"),
)


def header_problem(info: dict[str, Any]) -> str | None:
    """What is wrong with a header's content, by key; None where nothing is."""
    if (problem := _HEADER(info, "")) is not None:
        return problem
    try:
        json.dumps(info, allow_nan=False)
    except ValueError:
        return "it holds a number that is not finite, which JSON does not have"
    classes, ids = info["classes"], info["class_ids"]
    if classes is not None and ids is not None and len(classes) != len(ids):
        return f"classes has {len(classes)} names, class_ids {len(ids)}; expected one id a class"
    return None
