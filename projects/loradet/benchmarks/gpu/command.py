"""What `loradet benchmark gpu` does once its arguments are parsed."""

import argparse
import dataclasses
import math
import sys

from loradet.benchmarks.gpu.report import table, write_report
from loradet.benchmarks.gpu.runner import Report, run_sections
from loradet.benchmarks.gpu.sections import SECTIONS, Bench
from loradet.benchmarks.gpu.sizes import FULL, SMALL


def run_gpu_benchmark(arguments: argparse.Namespace) -> bool:
    """Measure, write the JSON, print the table.

    Returns:
        whether no section has been measured.
    """
    chosen = [section for section in SECTIONS if section.name in arguments.sections]
    if arguments.small:  # a slow machine may take its time
        chosen = [dataclasses.replace(section, cap=math.inf) for section in chosen]
    bench = Bench(SMALL if arguments.small else FULL, arguments.device)
    options = {"small": arguments.small, "device": arguments.device, "minutes": arguments.minutes}
    options["sizes"] = dataclasses.asdict(bench.sizes)
    told: set[str] = set()

    def changed(report: Report) -> None:
        write_report(arguments.json, report, options)
        for part in report:
            if part["seconds"] and part["section"] not in told:
                told.add(part["section"])
                print(f"{part['section']}: {part['status']}, {part['seconds']:g} s", file=sys.stderr)

    write_report(arguments.json, [], options)  # a place that cannot be written is an error before any time is spent
    report = run_sections(chosen, bench, seconds=60 * arguments.minutes, changed=changed)
    print(table(report))
    print(f"\nWritten to {arguments.json}.")
    return all(part["status"] != "done" and not part["rows"] for part in report)
