"""Records the public interface of an installed Detectron2: `tests/golden/detectron2/api.json`.

    python tests/record_detectron2_api.py [--revision COMMIT] [--output FILE]

All its modules are recorded, so that what the embedded subset gains later is compared too. Needs an installed
Detectron2 (DETECTRON2_EMBEDDED=never), whose git revision pip has noted or is given. Run it where the versions of
torch and Pillow are those of the tests: some defaults are values of theirs.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from helpers.detectron2_api import interface

OUTPUT = Path(__file__).parent / "golden" / "detectron2" / "api.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revision", metavar="COMMIT", help="of the installed Detectron2, where pip has not noted it")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "projects"))
    os.environ.setdefault("DETECTRON2_EMBEDDED", "never")
    import detectron2_embedded

    found = detectron2_embedded.describe()
    revision = arguments.revision or found.revision
    if found.kind != "installed" or revision is None:
        parser.error(f"expected an installed Detectron2 of a known revision, found {found}; see --revision")
    modules, failed = interface()
    write(arguments.output, {"version": found.version, "revision": revision, "not_importable": failed}, modules)
    print(f"{arguments.output}: {len(modules)} modules of Detectron2 {found.version} ({revision})")
    for name, why in failed.items():
        print(f"left out: {name}: {why}")


def write(path: Path, head: dict, modules: dict) -> None:
    """One line for each name, so that a difference between two records can be read."""
    lines = ["{", *(f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()), '"modules": {']
    for module in sorted(modules):
        lines.append(f"{json.dumps(module)}: {{")
        entries = [f"  {json.dumps(name)}: {json.dumps(modules[module][name])}" for name in sorted(modules[module])]
        lines += [entry + "," for entry in entries[:-1]] + entries[-1:]
        lines.append("},")
    lines[-1] = "}"
    path.write_text("\n".join([*lines, "}", "}"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
