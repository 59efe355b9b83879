"""The floors of the house: a package imports what stands before it, never what stands after it, and nothing in circles.

Imports inside functions and those for types alone count like all others.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Ground floor first. "" holds the modules that lie flat in rmx/; mini.build, which made the miniature, uses train.
FLOORS = (
    "", "storage", "stats", "grading", "data", "engine", "models", "explore", "compare", "trees", "runs", "train",
    "mini", "evaluate", "claims", "mini.build", "service", "ui", "bench", "library", "cli",
)  # fmt: skip
FLAT = {"__init__", "__main__", "arguments", "config", "errors", "progress", "prompt_styles", "records"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((ROOT / "rmx").rglob("*.py"))}


def imports_of(module: str) -> set[str]:
    """Modules of rmx that a module imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            found |= {
                whole if (whole := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            }
    return {name for name in found if name in MODULES} - {module}


# The face names what stands on the floors above it, for types alone: tests/unit/library holds that nothing is loaded.
FACE = "rmx"
IMPORTS = {module: imports_of(module) for module in MODULES if module != FACE}


def floor_of(module: str) -> int:
    inside = module.removeprefix("rmx").removeprefix(".")
    package = inside if MODULES[module].name == "__init__.py" else inside.rpartition(".")[0]
    return FLOORS.index("mini.build" if package == "mini.build" else package.partition(".")[0])


def test_nothing_imports_what_stands_above_it():
    upward = {
        (module, other)
        for module, others in IMPORTS.items()
        for other in others
        if floor_of(other) > floor_of(module) and module != "rmx.__main__"
    }
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_every_module_stands_on_a_floor():
    assert {path.stem for path in (ROOT / "rmx").glob("*.py")} == FLAT
    packages = {path.parent.name for path in (ROOT / "rmx").glob("*/__init__.py")}
    assert packages == {floor for floor in FLOORS if floor and "." not in floor}


def test_tests_stand_where_their_module_does():
    rooms = {path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert rooms <= set(FLOORS)
