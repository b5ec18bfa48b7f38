"""Imports go one way: app -> ui -> {train, gpt}, train -> gpt. Read from the source, so that late imports count, too."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gpt  # noqa: F401 (registers the families)
from gpt.models.registry import MODEL_REGISTRY

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "gpt": {"train", "ui", "app", "gradio", "transformers", "tests", "benchmarks"},
    "train": {"ui", "app", "gradio", "transformers", "tests", "benchmarks"},
    "ui": {"app", "transformers", "tests", "benchmarks"},
    "app.py": {"transformers", "tests", "benchmarks"},
    "docs": {"gradio", "transformers", "tests", "benchmarks"},
}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_modules(path: Path) -> set[str]:
    """The modules that a file imports anywhere, except for type checkers: "a.b" for `import a.b` and `from a import b`."""
    modules, nodes = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        nodes += [child for child in ast.iter_child_nodes(node) if not is_type_checking(child)]
    return modules


def source_files(place: str) -> list[Path]:
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("place", FORBIDDEN)
def test_imports_go_one_way(place):
    for path in source_files(place):
        assert not {name.split(".")[0] for name in imported_modules(path)} & FORBIDDEN[place], path


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", ["gpt", "train", "ui"])
def test_package_has_no_import_cycle(package):
    """Late imports count. `from gpt import X` imports the package's __init__, unless X is a module."""
    modules = {module_of(path): imported_modules(path) for path in source_files(package)}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in names} & modules.keys()
        for module, names in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_imports_are_found_wherever_they_are(tmp_path):
    path = tmp_path / "file.py"
    late = "def f():\n    from d.e import f\n    if f:\n        import g as h\n"
    path.write_text(f"import a.b, c\n{late}if TYPE_CHECKING:\n    import i\n")
    assert imported_modules(path) == {"a.b", "c", "d.e.f", "g"}
    assert any(name.startswith("gradio") for path in source_files("ui") for name in imported_modules(path))


def test_only_the_registry_depends_on_the_model_family():
    """Outside `gpt/models/`, no comparison with the name of a family and no isinstance of its model or config."""
    families = MODEL_REGISTRY.values()
    names = {family.name for family in families} | {family.model_type for family in families}
    classes = {cls.__name__ for family in families for cls in (family.model_class, family.config_class)}
    files = [path for package in ("gpt", "train", "ui") for path in source_files(package)]
    for path in (path for path in files if path.parent != ROOT / "gpt" / "models"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                constants = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                assert not constants & names, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                assert not {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} & classes, f"{path}:{node.lineno}"
