"""Writes docs/api.md: what is public, from `__all__` and docstrings. Nothing of the package is imported.

With `--typed` it prints the files that define what is public, for a type checker.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PROJECTS = DOCS.parent / "projects"
PAGE = DOCS / "api.md"
HEAD = """# What Python may rely on

The names below are public: they are in `__all__` of their package, and change with a note in the
[changelog](../CHANGELOG.md). Others may change without. `import loradet` comes before anything of `detectron2`; names
are imported when they are first used. `help(loradet.load)` says more: arguments, shapes, units, errors.
[first_hour.ipynb](first_hour.ipynb) uses them on a data set of its own. `python docs/make_api.py` makes this page.
"""

Definition = ast.FunctionDef | ast.ClassDef


# Networks are full of attributes that torch's types call Tensor | Module.
UNTYPED = ("loradet.backbones", "loradet.detectors")


def main() -> None:
    """Write the page, or print the files."""
    if sys.argv[1:] == ["--typed"]:
        print("\n".join(str(file.relative_to(DOCS.parent)) for file in typed_files()))
    else:
        PAGE.write_text(page(), encoding="utf-8")


def typed_files() -> list[Path]:
    """The modules of all packages but `UNTYPED` that define a public name, or hand one on."""
    files: set[Path] = set()
    for package in _packages():
        if not package.startswith(UNTYPED):
            files |= {_file(package), *(file for name in _public(package) for file in _way(package, name))}
    return sorted(files)


def _way(module: str, name: str) -> Iterator[Path]:
    """From a package to where a name of it is defined."""
    yield _file(module)
    home = _homes(module).get(name)
    if home == module:
        yield _file(f"{module}.{name}")
    elif home is not None:
        yield from _way(home, name)


def page() -> str:
    """The text of the page."""
    sections = [HEAD]
    for name in _packages():
        public, homes = _public(name), _homes(name)
        rows = list(_rows(name, public, homes))
        if rows:
            sections.append(_section(name, rows))
        for module in (f"{name}.{one}" for one in public if homes.get(one) == name):
            if _file(module).name != "__init__.py":  # a package has its own section
                sections.append(_section(module, [_row(node) for node in _definitions(module).values()]))
    return "\n".join(sections)


def _packages() -> list[str]:
    folders = sorted(file.parent for file in (PROJECTS / "loradet").rglob("__init__.py"))
    return [".".join(folder.relative_to(PROJECTS).parts) for folder in folders]


def _section(module: str, rows: list[tuple[str, str]]) -> str:
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    table = [f"| `{_escape(name)}` | {_escape(what)} |" for name, what in rows]
    return "\n".join([f"## {module}", "", _first_line(tree), "", "| name | what it is |", "|---|---|", *table, ""])


def _rows(package: str, public: list[str], homes: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name in public:
        if name.startswith("__"):
            continue
        if homes.get(name) == package:
            yield name, f"module: {_first_line(ast.parse(_file(f'{package}.{name}').read_text(encoding='utf-8')))}"
        else:
            yield _row_of(homes.get(name, package), name)


def _row_of(module: str, name: str) -> tuple[str, str]:
    """Of a name where it is defined; a package may itself have it from elsewhere."""
    definition = _definitions(module).get(name)
    if definition is not None:
        return _row(definition)
    home = _homes(module).get(name)
    return (name, _constant(module, name)) if home is None else _row_of(home, name)


def _constant(module: str, name: str) -> str:
    for node in ast.parse(_file(module).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            value = ast.unparse(node.value)
            return f"constant: `{value}`" if len(value) <= 80 else "constant"
    raise ValueError(f"{module} has no {name}.")


def _row(node: Definition) -> tuple[str, str]:
    methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    what = _first_line(node)
    if isinstance(node, ast.ClassDef) and methods:
        what = f"{what} Has {', '.join(f'`{name}`' for name in methods)}."
    signature = _signature(node)
    return node.name if signature is None else f"{node.name}({signature})", what


def _signature(node: Definition) -> str | None:
    """What a call takes; None of a class that does not say it itself."""
    if isinstance(node, ast.FunctionDef):
        return _arguments(node.args)
    init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if init is not None:
        init.args.args = init.args.args[1:]
        return _arguments(init.args)
    if not any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        return None
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    return ", ".join(f"{one.target.id}={_default(one.value)}" if one.value else one.target.id for one in fields)


def _default(value: ast.expr) -> str:
    """A default as it is called for; of a dataclass's `field` no more than that there is one."""
    return "…" if isinstance(value, ast.Call) else ast.unparse(value)


def _arguments(arguments: ast.arguments) -> str:
    """Without type hints, which `help` has."""
    for one in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if one is not None:
            one.annotation = None
    return ast.unparse(arguments)


def _definitions(module: str) -> dict[str, Definition]:
    """Public functions and classes of a module, in its order."""
    body = ast.parse(_file(module).read_text(encoding="utf-8")).body
    found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {node.name: node for node in found if not node.name.startswith("_")}


def _public(module: str) -> list[str]:
    for node in ast.parse(_file(module).read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{module} has no __all__.")


def _homes(module: str) -> dict[str, str]:
    """Where a package has its names from, at once or lazily."""
    found = {}
    for node in ast.walk(ast.parse(_file(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loradet"):
            found |= {alias.asname or alias.name: node.module for alias in node.names}
    return found


def _file(module: str) -> Path:
    path = PROJECTS.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _first_line(node: ast.Module | Definition) -> str:
    return (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
