"""Look into adapter files, cut them out of runs and checkpoints, put them back, and share them.

Examples:
    loradet adapters inspect work_dirs/quickstart/adapter.safetensors
    loradet adapters export work_dirs/quickstart
    loradet adapters export work_dirs/quickstart --peft ship_peft
    loradet adapters export --config-file configs/quickstart.py --checkpoint model_0000099.pth --output a.safetensors
    loradet adapters merge --config-file configs/quickstart.py --adapter a.safetensors --output merged.pth
    loradet adapters apply --config-file configs/quickstart.py --adapter a.safetensors --output full.pth
    loradet adapters apply --config-file configs/quickstart.py \\
        --adapter ships=a.safetensors --adapter heads=b.safetensors --output FOLDER
    loradet adapters push work_dirs/quickstart hf://USER/NAME
    loradet adapters pull hf://USER/NAME --output FOLDER
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from loradet.cli import adapters_hub
from loradet.cli.overrides import CONFIG_HELP, add_overrides, parse_mixed
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The subcommand and its options; what does not go together is refused with exit status 2."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print what an adapter file holds")
    inspect.add_argument("file", metavar="FILE", help="adapter file (.safetensors)")
    inspect.add_argument("--json", action="store_true", help="print its metadata as JSON")

    export = commands.add_parser("export", help="the adapter of a run's best weights, or of a checkpoint of training")
    export.add_argument("run", nargs="?", metavar="RUN", help="folder of a finished run; needs no config")
    _add_config(export, required=False)
    export.add_argument("--checkpoint", metavar="CKPT", help="a run's model_*.pth, for --config-file")
    export.add_argument(
        "--output", metavar="FILE", help="adapter file to write; default: RUN/export/<name>.safetensors"
    )
    export.add_argument("--peft", metavar="DIR", help="write the backbone's LoRA in PEFT's layout too")
    export.add_argument(
        "--classes", metavar="A,B,…", help="class names; default: the checkpoint's, else the data set's"
    )

    merge = commands.add_parser("merge", help="write base plus adapter as a plain checkpoint, without LoRA tensors")
    apply = commands.add_parser("apply", help="write base and adapter as a checkpoint with LoRA tensors")
    for command in (merge, apply):
        _add_config(command)
        command.add_argument(
            "--adapter",
            required=True,
            action="append",
            metavar="[NAME=]FILE",
            help="adapter file (.safetensors); may be given several times",
        )
        command.add_argument(
            "--output",
            required=True,
            metavar="CKPT_or_DIR",
            help="checkpoint to write (.pth); of several adapters a folder, for NAME.pth each",
        )
    for command in (export, merge, apply):
        add_overrides(command)
    adapters_hub.add_push(commands)
    adapters_hub.add_pull(commands)
    arguments = parse_mixed(parser, argv)
    if arguments.command in ("export", "merge", "apply"):
        check = _check_export if arguments.command == "export" else _check_adapters
        if problem := check(arguments):
            commands.choices[arguments.command].error(problem)
    return arguments


def _add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--config-file", required=required, metavar="FILE", help=CONFIG_HELP)
    add_trust(parser)


def _check_export(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments; an override in the place of RUN is put where it belongs."""
    if arguments.output and Path(arguments.output).suffix != ".safetensors":
        return f"--output {arguments.output}: expected a file name that ends in .safetensors"
    if arguments.config_file or arguments.checkpoint:
        if arguments.run and "=" not in arguments.run:
            return f"give either a run's folder ({arguments.run}), or --config-file and --checkpoint"
        arguments.overrides = [arguments.run, *arguments.overrides] if arguments.run else arguments.overrides
        missing = [name for name in ("config_file", "checkpoint", "output") if not getattr(arguments, name)]
        return f"without a run's folder, --{missing[0].replace('_', '-')} is needed too" if missing else None
    if not arguments.run:
        return "name a run's folder, or --config-file, --checkpoint and --output"
    if arguments.classes or arguments.overrides:
        return "--classes and KEY=VALUE go with --config-file; a run's adapter has its own"
    return None


def _check_adapters(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments; `adapter` becomes name → file, `output` name → checkpoint."""
    named = [_named_file(text) for text in arguments.adapter]
    names = [name for name, _ in named]
    if twice := [name for name in names if names.count(name) > 1]:
        return f"two adapters are called {twice[0]!r}; name them: --adapter NAME={named[names.index(twice[0])][1]}"
    output = Path(arguments.output)
    if output.suffix == ".pth":
        if len(named) > 1:
            return f"--output {output}: of {len(named)} adapters, expected a folder"
        arguments.output = {names[0]: output}
    elif not output.suffix or output.is_dir():
        arguments.output = {name: output / f"{name}.pth" for name in names}
    else:
        return f"--output {output}: expected a file name that ends in .pth, or a folder"
    arguments.adapter = dict(named)
    return None


def _named_file(text: str) -> tuple[str, str]:
    name, sign, file = text.partition("=")
    # A path may hold a "=" itself.
    return (name, file) if sign and name and "/" not in name else (Path(text).stem, text)


def inspect(arguments: argparse.Namespace) -> None:
    """Print what an adapter file holds."""
    import json

    from loradet.adapters import describe_adapter, read_adapter

    if arguments.json:
        print(json.dumps(read_adapter(arguments.file)[0], indent=2))
    else:
        print(describe_adapter(arguments.file))


def export(arguments: argparse.Namespace) -> None:
    """Write the adapter of a run's best weights, or of a checkpoint."""
    from loradet.adapters import adapter_sizes, export_peft, export_run, save_adapter

    if arguments.run and not arguments.config_file:
        output = export_run(arguments.run, arguments.output)
    else:
        from loradet.checkpoint import Checkpointer
        from loradet.config.intensity import trained_intensity
        from loradet.config.licences import licence_metadata
        from loradet.weight_classes import read_weight_intensity

        output = arguments.output
        cfg, model = _build(arguments)
        Checkpointer(model).load_weights(arguments.checkpoint, strict=True)
        classes, class_ids = _classes(arguments, cfg)
        rule = read_weight_intensity(arguments.checkpoint) or trained_intensity(cfg)
        intensity = None if rule is None else rule.to_value()
        metadata = licence_metadata(cfg) | _operating_point(arguments.checkpoint)
        save_adapter(model, output, classes=classes, class_ids=class_ids, intensity=intensity, metadata=metadata)
    print(f"Written: {output} ({adapter_sizes(output)})")
    if arguments.peft:
        print(f"Written: {export_peft(output, arguments.peft)}")


def merge(arguments: argparse.Namespace) -> None:
    """Write base plus adapter as plain checkpoints."""
    from loradet.adapters import merged_state_dict

    _write_each(arguments, lambda model: {"model": merged_state_dict(model)})


def apply(arguments: argparse.Namespace) -> None:
    """Write base and adapter as checkpoints with LoRA tensors."""
    from loradet.adapters import adapter_state

    _write_each(arguments, lambda model: {"model": model.state_dict(), "adapter_recipes": adapter_state(model)})


def _write_each(arguments: argparse.Namespace, content: Callable) -> None:
    """A checkpoint for each adapter, of one model that is built once; nothing is written unless all fit."""
    from loradet.adapters import AdapterBank, load_adapter
    from loradet.model import explain_missing_base

    cfg, model = _build(arguments)
    if len(arguments.adapter) == 1:
        ((name, file),) = arguments.adapter.items()
        with explain_missing_base(cfg):
            load_adapter(model, file)
        _write(arguments.output[name], content(model) | _held(file))
        return
    bank = AdapterBank(model)
    with explain_missing_base(cfg):
        for name, file in arguments.adapter.items():
            bank.add(name, file)
    for name in bank.names:
        with bank.using(name):
            _write(arguments.output[name], content(model) | _held(arguments.adapter[name]))


def _held(file: str) -> dict:
    """What a checkpoint holds beside weights, of an adapter: classes, rule of intensity, operating point."""
    from loradet.weight_classes import INTENSITY_KEY, KEY, read_weight_classes, read_weight_intensity

    classes, intensity = read_weight_classes(file), read_weight_intensity(file)
    held = {} if classes is None else {KEY: classes.to_dict()}
    held |= {} if intensity is None else {INTENSITY_KEY: intensity.to_value()}
    return held | _operating_point(file)


def _operating_point(file: str) -> dict:
    """The operating point that was found for a file, as checkpoints and the metadata of adapters hold it."""
    from loradet.evaluation.score_thresholds import KEY, find_operating_point

    point = find_operating_point(file)
    return {} if point is None else {KEY: point.to_dict()}


def _build(arguments: argparse.Namespace):
    """Config and model with its base weights, on the CPU; the files know their number of classes themselves."""
    from loradet.config import load_config
    from loradet.model import build_adapter_base

    cfg = load_config(arguments.config_file, arguments.overrides, trusted=arguments.trust)
    file = arguments.checkpoint if arguments.command == "export" else next(iter(arguments.adapter.values()))
    return cfg, build_adapter_base(cfg, file)


def _classes(arguments: argparse.Namespace, cfg) -> tuple[list[str] | None, list[int] | None]:
    """Names and ids: those of --classes, of the checkpoint, of the data."""
    from loradet.weight_classes import read_weight_classes

    if arguments.classes:
        return arguments.classes.split(","), None
    if (held := read_weight_classes(arguments.checkpoint)) is not None:
        return list(held.names), list(held.ids) or None
    return _data_classes(cfg)


def _data_classes(cfg) -> tuple[list[str] | None, list[int] | None]:
    """Class names and ids of the training set; (None, None) with a warning where it is not on this machine."""
    from loradet.evaluation.split_loop import dataset_metadata, load_dataset

    try:
        load_dataset(cfg, "train")
    except (OSError, ValueError) as error:
        print(f"warning: no class names in the file; give them by --classes ({error})", file=sys.stderr)
        return None, None
    metadata = dataset_metadata(cfg, "train")
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    return list(metadata.get("thing_classes") or []), sorted(ids, key=ids.get)


def _write(path: Path, content: dict) -> None:
    import torch

    from loradet.files import atomic_open

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path, "wb") as file:
        torch.save(content, file)
    print(f"Written: {path}")


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet adapters`."""
    arguments = parse_arguments(argv, prog)
    command = {
        "inspect": inspect,
        "export": export,
        "merge": merge,
        "apply": apply,
        "push": adapters_hub.push,
        "pull": adapters_hub.pull,
    }[arguments.command]

    with errors_in_one_line():
        command(arguments)
