"""The model card of an adapter: README.md of its repository, with the metadata that the Hub reads."""

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from loradet.adapters.files.description import recipe_rows
from loradet.adapters.recipe import lora_variants, name_of
from loradet.config.licences import OPEN, BaseLicence, hub_name
from loradet.run_folder import RunFolder
from loradet.sharing.address import HubAddress
from loradet.sharing.calibration_picture import CalibrationPicture
from loradet.sharing.facts import SHOWN, CardFacts, SplitNumbers
from loradet.wording import in_minutes, shorten

CARD, PICTURE = "README.md", "calibration.png"
_PARTS = ("backbone", "neck", "head", "all")


def model_card(
    facts: CardFacts, address: HubAddress, *, has_config: bool, picture: CalibrationPicture | None = None
) -> str:
    """The whole text; the same facts give the same text.

    Args:
        facts: what it says.
        address: where it will be.
        has_config: whether `config.yaml` is pushed beside it.
        picture: pushed beside it, too.
    """
    data = card_data(facts, address)
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_plain(_title(address))}",
        _introduction(facts),
        _use(address, has_config),
        _what_it_is(facts),
        _numbers(facts),
        _calibration(facts, picture),
        _data(facts),
        _training(facts, has_config),
        _licence(facts),
    ]
    text = "\n\n".join(filter(None, sections)) + "\n"
    ModelCard(text)  # the Hub's own reader takes it, or raises
    return text


def card_data(facts: CardFacts, address: HubAddress) -> ModelCardData:
    """The metadata at the head of a card."""
    data = facts.data_name or "own data"
    results = [
        EvalResult(
            task_type="object-detection",
            dataset_type="synthetic" if split.synthetic else "custom",
            dataset_name=f"{data}, {split.name}",
            dataset_split=split.name,
            metric_type="mean_average_precision",
            metric_name=name,
            metric_value=round(split.metrics[key], 4),
        )
        for split in facts.splits
        for name, key in SHOWN.items()
        if key in split.metrics
    ]
    bases = [name for one in facts.licences if (name := hub_name(one.base)) is not None]
    return ModelCardData(
        **_licence_data(facts.licences),
        library_name="loradet",
        pipeline_tag="object-detection",
        base_model=bases or None,
        base_model_relation="adapter" if bases else None,
        tags=["object-detection", "adapter", *dict.fromkeys(_variants(facts))],
        model_name=_title(address),
        eval_results=results or None,
    )


def _licence_data(licences: Iterable[BaseLicence]) -> dict[str, str]:
    """The adapter follows its base; where bases differ, the one that is no open licence decides."""
    known = [one for one in licences if one.licence not in (None, "unknown")]
    closed = [one for one in known if not one.is_open]
    names = list(dict.fromkeys(one.licence for one in closed or known))
    if not names:
        return {}
    if len(names) == 1 and (names[0] in OPEN or str(names[0]).startswith("cc-")):
        return {"license": str(names[0])}
    link = next((one.link for one in closed or known if one.link), "")
    return {"license": "other", "license_name": "-and-".join(map(str, names))} | (
        {"license_link": link} if link else {}
    )


def _title(address: HubAddress) -> str:
    stem = address.file.removesuffix(".safetensors")
    own = [] if address.file == RunFolder.ADAPTER else [stem]
    return "/".join([address.repo_id.partition("/")[2], *filter(None, [address.folder]), *own])


def _variants(facts: CardFacts) -> list[str]:
    return [variant for recipe in facts.info["recipes"].values() for variant in lora_variants(recipe).values()]


def _introduction(facts: CardFacts) -> str:
    classes = facts.info["classes"] or []
    model = facts.description.model if facts.description is not None else facts.info["model"]
    named = f" of {_plain(shorten(classes, 12))}" if classes else ""
    kinds = " and ".join(dict.fromkeys(map(name_of, _variants(facts))))
    parts = f"{kinds} and all else that was trained" if kinds else "all that was trained"
    smoke = " **A smoke run: it shows that the training works, not what it gives.**" if facts.smoke else ""
    return (
        f"A detector{named}: {_plain(model)}, adapted by loradet. The file ({facts.sizes.file / 1e6:.2f} MB) holds "
        f"{parts}; the frozen weights of the base are not in it.{smoke}"
    )


def _use(address: HubAddress, has_config: bool) -> str:
    folder = (address.folder or address.repo_id).rpartition("/")[2]
    adapter = f"{folder}/{address.file}"
    lines = ["## Use it", "", "```"]
    config = f"{folder}/{RunFolder.CONFIG}" if has_config else "CONFIG"
    lines += [
        f"loradet adapters pull {_folder_address(address)} --output {folder}",
        f"loradet predict --config-file {config} --checkpoint {adapter} --output found IMAGES",
        "```",
        "",
        "```python",
        "import loradet",
        "",
        f'predictor = loradet.load("{adapter}"' + ("" if has_config else ', config_file="CONFIG"') + ")",
        'found = predictor("image.jpg")  # found.pred_boxes (XYXY, pixels), found.scores, found.class_names',
        "```",
        "",
        f"To train on from it: `train.init_checkpoint={address.url()}`, with a config of the same model.",
    ]
    if not has_config:
        lines += ["", "CONFIG is the config that it was trained with, which is not here."]
    return "\n".join(lines)


def _folder_address(address: HubAddress) -> str:
    return str(address) if address.file == RunFolder.ADAPTER else address.url()


def _what_it_is(facts: CardFacts) -> str:
    info, rows = facts.info, []
    for one in facts.licences:
        rows.append(("base", f"{_page(one)}, licence: {one.name if one.licence else 'not known here'}"))
    if facts.description is not None:
        rows.append(("detector", facts.description.model))
        rows.append(("adaptation", facts.description.method))
    for path, recipe in info["recipes"].items():
        rows += [(f"`{path or 'model'}`: {name}", value) for name, value in recipe_rows(recipe)]
    rows.append(("classes", ", ".join(map(_plain, info["classes"] or [])) or "not named"))
    for key, label in (("pixel_mean", "pixel mean"), ("pixel_std", "pixel std")):
        if info.get(key):
            rows.append((label, ", ".join(f"{value:g}" for value in info[key])))
    table = _table(("", ""), [(name, value) for name, value in rows])
    counts = [
        (part, *(f"{info['parameters'][part][kind] / 1e6:.3f}" for kind in ("trainable", "total"))) for part in _PARTS
    ]
    parameters = _table(("parameters (M)", "trained", "in all"), counts)
    return f"## What it is\n\n{table}\n\n{parameters}"


def _page(licence: BaseLicence) -> str:
    page = hub_name(licence.base)
    return f"[{licence.base}](https://huggingface.co/{page})" if page else licence.base


def _numbers(facts: CardFacts) -> str:
    if not facts.splits:
        return "## How good it is\n\nNo evaluation came with it."
    splits = list(facts.splits)
    rows = [(name, *(_number(split, key) for split in splits)) for name, key in SHOWN.items()]
    for name in facts.info["classes"] or []:
        cells = [_number(split, f"mAP/{name}") for split in splits]
        if any(cell != "-" for cell in cells):
            rows.append((f"AP of {_plain(name)}", *cells))
    images = facts.record.get("data") or {}
    heads = [f"{one.name}{_count(images.get(one.name))}{', synthetic' * one.synthetic}" for one in splits]
    words = ["COCO's AP of the best weights, as fractions of 1."]
    if bootstrap := next((one for one in splits if one.intervals), None):
        words.append(
            f"In brackets: {bootstrap.level:.0%} intervals over images, by {bootstrap.resamples} resamples; what "
            "another seed of the training would give they do not tell."
        )
    if len(splits) > 1 or splits[0].name == "val":
        words.append("The weights were chosen by the first split that they were evaluated on, so its numbers flatter.")
    return f"## How good it is\n\n{_table(('', *heads), rows)}\n\n{' '.join(words)}"


def _number(split: SplitNumbers, key: str) -> str:
    if key not in split.metrics:
        return "-"
    ends = split.intervals.get(key)
    return f"{split.metrics[key]:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _count(data: Mapping[str, Any] | None) -> str:
    return f" ({data['num_images']} images)" if data and "num_images" in data else ""


def _calibration(facts: CardFacts, picture: CalibrationPicture | None) -> str:
    point = _operating_point(facts.info["metadata"].get("operating_point"))
    if picture is None:
        return f"## Scores\n\n{point}" if point else ""
    words = f"Whether scores mean what they say, on {picture.split}: bars that end on the diagonal are right."
    if picture.report is not None:
        before, after = picture.report.before.whole, picture.report.after
        words += f" The expected calibration error is {before.ece:.3f}"
        words += f", and {after.whole.ece:.3f} after a temperature" if after is not None else ""
        temperature = picture.report.temperature
        words += f" (of all images {temperature.value:.2f})." if temperature is not None else "."
    image = f"![Reliability diagram of {picture.split}: precision over score]({PICTURE})"
    return "\n\n".join(filter(None, ["## Scores", point, words, image]))


def _operating_point(point: Any) -> str:
    """The scores from which on detections are taken, as training has chosen them."""
    try:
        rule = "of the best F1" if point["wished_precision"] is None else f"of precision {point['wished_precision']:g}"
        rows = [(_plain(one["name"]), f"{one['threshold']:g}") for one in point["classes"] if one["threshold"]]
    except (TypeError, KeyError, ValueError):
        return ""
    if not rows:
        return ""
    return (
        f"Detections are taken from these scores on, {rule} on {point['split']}:\n\n{_table(('class', 'score'), rows)}"
    )


def _data(facts: CardFacts) -> str:
    found = facts.record.get("data") or {}
    if not found:
        return ""
    rows = [
        (
            name,
            one.get("num_images", "-"),
            one.get("num_annotations", "-"),
            "synthetic" if one.get("synthetic") else "not marked as synthetic",
            one.get("fingerprint", "-"),
        )
        for name, one in found.items()
    ]
    named = f"{_plain(facts.data_name)}, as its config calls it. " if facts.data_name else ""
    table = _table(("split", "images", "boxes", "kind", "fingerprint"), rows)
    return f"## Data\n\n{named}The images themselves are not here.\n\n{table}"


def _training(facts: CardFacts, has_config: bool) -> str:
    record, lines = facts.record, ["## How it was trained", ""]
    if not record:
        return ""
    if facts.command:
        lines += ["```", facts.command, "```", "", "PATH is the folder of the data."]
    else:
        lines.append("From Python, or by a study: no command line is known.")
    if has_config:
        lines.append(f"All its settings are in `{RunFolder.CONFIG}`, without the paths of the machine.")
    lines.append("")
    versions = record.get("versions") or {}
    rows = [
        ("iterations", None if record.get("iteration") is None else record["iteration"] + 1),
        ("seed", record.get("seed")),
        ("device", record.get("device")),
        ("training steps", None if record.get("train_seconds") is None else in_minutes(record["train_seconds"])),
        ("finished", str(record.get("finished_at") or "").partition("T")[0] or None),
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)),
        ("revision of loradet", record.get("git_revision")),
        ("config (sha256)", record.get("config_sha256")),
    ]
    lines.append(_table(("", ""), [(name, value) for name, value in rows if value not in (None, "")]))
    return "\n".join(lines)


def _licence(facts: CardFacts) -> str:
    if not facts.licences:
        return ""
    lines = ["## Licence", ""]
    for one in facts.licences:
        if one.licence in (None, "unknown"):
            lines.append(f"- {_page(one)}: its licence is not known here; ask whoever has made it.")
        else:
            name = f"[{one.name}]({one.link})" if one.link else one.name
            terms = f": {one.terms}" if one.terms else ""
            lines.append(f"- {_page(one)} is under {name}{terms}.")
    lines += ["", "The adapter was trained on these weights and follows their licence; loradet's code is Apache-2.0."]
    return "\n".join(lines)


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(heads)
    lines = [_row(heads), "|" + "---|" * len(heads), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _plain(text: str) -> str:
    """A name that Markdown shows as it is."""
    for sign in "\\`*_[]<>#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
