#!/usr/bin/env python
"""Look into adapter files, cut them out of checkpoints, and put them back.

Examples:
    tools/adapters.py inspect work_dirs/quickstart/adapter.safetensors
    tools/adapters.py export --config-file configs/quickstart.py --checkpoint model_0000099.pth --output a.safetensors
    tools/adapters.py merge --config-file configs/quickstart.py --adapter a.safetensors --output merged.pth
    tools/adapters.py apply --config-file configs/quickstart.py --adapter a.safetensors --output full.pth
"""

import argparse
import sys
from pathlib import Path


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print what an adapter file holds")
    inspect.add_argument("file", help="adapter file (.safetensors)")
    inspect.add_argument("--json", action="store_true", help="print its metadata as JSON")

    export = commands.add_parser("export", help="cut the adapter out of a checkpoint of training")
    _add_config(export)
    export.add_argument("--checkpoint", required=True, metavar="CKPT", help="a run's model_*.pth")
    export.add_argument("--output", required=True, metavar="FILE", help="adapter file to write (.safetensors)")
    export.add_argument("--classes", metavar="A,B,…", help="class names; default: those of the config's data set")

    merge = commands.add_parser("merge", help="write base plus adapter as a plain checkpoint, without LoRA tensors")
    apply = commands.add_parser("apply", help="write base and adapter as a checkpoint with LoRA tensors")
    for command in (merge, apply):
        _add_config(command)
        command.add_argument("--adapter", required=True, metavar="FILE", help="adapter file (.safetensors)")
        command.add_argument("--output", required=True, metavar="CKPT", help="checkpoint to write (.pth)")
    for command in (export, merge, apply):
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config keys to change")
    arguments = parser.parse_args(argv)
    if arguments.command != "inspect":
        suffix = ".safetensors" if arguments.command == "export" else ".pth"
        if Path(arguments.output).suffix != suffix:
            parser.error(f"--output {arguments.output}: expected a file name that ends in {suffix}")
    return arguments


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, metavar="FILE", help="LazyConfig file (.py, or a saved .yaml)")


def inspect(arguments: argparse.Namespace) -> None:
    import json

    from loradet.adapters import describe_adapter, read_adapter

    if arguments.json:
        print(json.dumps(read_adapter(arguments.file)[0], indent=2))
    else:
        print(describe_adapter(arguments.file))


def export(arguments: argparse.Namespace) -> None:
    from loradet.adapters import save_adapter
    from loradet.training.checkpoint import Checkpointer

    cfg, model = _build(arguments)
    Checkpointer(model).load_weights(arguments.checkpoint, strict=True)
    classes, class_ids = (arguments.classes.split(","), None) if arguments.classes else _data_classes(cfg)
    save_adapter(model, arguments.output, classes=classes, class_ids=class_ids)
    print(f"Written: {arguments.output}")


def merge(arguments: argparse.Namespace) -> None:
    from loradet.adapters import load_adapter, merged_state_dict

    _, model = _build(arguments)
    load_adapter(model, arguments.adapter)
    _write(arguments.output, {"model": merged_state_dict(model)})


def apply(arguments: argparse.Namespace) -> None:
    from loradet.adapters import adapter_state, load_adapter

    _, model = _build(arguments)
    load_adapter(model, arguments.adapter)
    _write(arguments.output, {"model": model.state_dict(), "adapter_recipes": adapter_state(model)})


def _build(arguments: argparse.Namespace):
    """Config and model with its base weights, on the CPU."""
    from detectron2.config import instantiate

    from loradet.training.checkpoint import Checkpointer
    from loradet.training.command import load_config

    cfg = load_config(arguments.config_file, arguments.overrides)
    model = instantiate(cfg.model)
    if cfg.train.init_checkpoint:
        Checkpointer(model).load_weights(cfg.train.init_checkpoint, strict=False)
    return cfg, model


def _data_classes(cfg) -> tuple[list[str] | None, list[int] | None]:
    """Class names and ids of the training set; (None, None) with a warning where it is not on this machine."""
    from detectron2.config import instantiate

    from loradet.evaluation.splits import dataset_metadata, split_config

    try:
        instantiate(split_config(cfg, "train").dataset)
    except (OSError, ValueError) as error:
        print(f"warning: no class names in the file; give them by --classes ({error})", file=sys.stderr)
        return None, None
    metadata = dataset_metadata(cfg, "train")
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    return list(metadata.get("thing_classes") or []), sorted(ids, key=ids.get)


def _write(path: str, content: dict) -> None:
    import torch

    from loradet.files import atomic_open

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path, "wb") as file:
        torch.save(content, file)
    print(f"Written: {path}")


def main() -> None:
    arguments = parse_arguments()
    command = {"inspect": inspect, "export": export, "merge": merge, "apply": apply}[arguments.command]
    from omegaconf.errors import OmegaConfBaseException

    import loradet  # noqa: F401  (before anything of detectron2)

    try:
        command(arguments)
    except (ValueError, OSError, ImportError, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
