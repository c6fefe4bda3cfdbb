"""What `loradet benchmark` does once its arguments are parsed."""

import argparse
from typing import Any

from loradet.benchmarks.feature_cache import benchmark_cache
from loradet.benchmarks.memory import compare_memory, training_memory
from loradet.benchmarks.parts import benchmark
from loradet.benchmarks.training_step import RandomImages
from loradet.config import load_config


def run_benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of the part that was asked for.

    Overrides change the keys of both configs, `against_overrides` those of the other one alone.
    """
    images = None if arguments.random_images is None else RandomImages(*arguments.random_images, arguments.objects)
    other = arguments.against and (arguments.against, [*arguments.overrides, *arguments.against_overrides])
    trusted = arguments.trust
    if arguments.part == "memory":
        options = {"steps": arguments.steps, "images": images, "trusted": trusted}
        ours = training_memory(arguments.config_file, arguments.overrides, **options)
        return compare_memory(ours, training_memory(*other, **options)) if other else ours
    if arguments.part == "cache":
        cfg = load_config(arguments.config_file, arguments.overrides, trusted=trusted)
        options = {"pairs": arguments.steps, "warmup": arguments.warmup, "cpu_time": bool(arguments.cpu_time)}
        return benchmark_cache(cfg, images=images, **options)
    return benchmark(
        load_config(arguments.config_file, arguments.overrides, trusted=trusted),
        arguments.part,
        steps=arguments.steps,
        warmup=arguments.warmup,
        bare=arguments.bare,
        against=load_config(*other, trusted=trusted) if other else None,
        images=images,
    )
