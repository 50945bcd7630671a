"""Imports only go down the floors; nothing is called "utils"; the light modules stay light."""

from __future__ import annotations

import ast
import inspect
import pathlib
import subprocess
import sys

from setuptools import find_packages
from tables import for_each

import simclr_tf
import simclr_tf.data

PACKAGE = pathlib.Path(__file__).parent.parent / "simclr_tf"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module imports its own area and the floors below it; on the ground floor, also its neighbours.
GROUND = {
    "atomic_write",
    "augment",
    "counting",
    "losses",
    "metrics",
    "optimizers",
    "plots",
    "schedules",
    "seeds",
    "strict_yaml",
}
FLOORS = (
    {"environment", "errors"},
    GROUND,
    {"data", "models", "runs"},  # none knows another
    {"evaluation", "interop", "report"},
    {"training"},
    {"workflow"},
    {"tasks"},
    {"cli"},
)
# The settings stand beside the floors: what they may import, and who may import them.
SETTINGS = {"config"}
SETTINGS_MAY_IMPORT = {"errors", "augment.recipe", "strict_yaml", "runs.format"}
READERS = SETTINGS | {"workflow", "tasks", "cli"}

BANNED_NAMES = {"utils", "util", "misc", "helpers", "helper", "common"}


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def area_of(module):
    """The file or folder right under the package that a dotted name without it belongs to."""
    return module.split(".")[0]


def imports_of(tree):
    """The modules of the package that a file imports, without "simclr_tf."."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: expected an absolute import"
            inner = node.module == "simclr_tf"
            found |= {f"simclr_tf.{a.name}" for a in node.names} if inner else {node.module}
    return {name.removeprefix("simclr_tf.") for name in found if name.startswith("simclr_tf.")}


def may_import(importer, imported):
    """Tells whether a module of the area `importer` may import the module `imported`."""
    target = area_of(imported)
    if importer in SETTINGS:
        return target in SETTINGS or imported in SETTINGS_MAY_IMPORT
    if target in SETTINGS:
        return importer in READERS
    floor = {area: level for level, areas in enumerate(FLOORS) for area in areas}
    if importer == target or {importer, target} <= GROUND:
        return True
    return floor[target] < floor[importer]


@for_each("path", MODULES)
def test_imports_go_down(path):
    if path == PACKAGE / "__init__.py":
        return  # the public names, all loaded on first use
    importer = area_of(module_name(path).removeprefix("simclr_tf."))
    wrong = {m for m in imports_of(ast.parse(path.read_text())) if not may_import(importer, m)}
    assert not wrong, f"{path} imports {sorted(wrong)}, which its floor may not"


def test_no_imports_go_in_circles():
    # What is loaded on first use alone (the two lists of public names) is no import of theirs.
    lazy = {PACKAGE / "__init__.py", PACKAGE / "data" / "__init__.py"}
    names = {module_name(path).removesuffix(".__init__"): path for path in MODULES}
    imports = {
        name: set() if path in lazy else modules_in(path, names) - {name}
        for name, path in names.items()
    }
    while leaves := {name for name, others in imports.items() if not others & imports.keys()}:
        imports = {name: others for name, others in imports.items() if name not in leaves}
    assert not imports, f"these import each other, or what does: {sorted(imports)}"


def modules_in(path, names):
    """The modules, of `names`, that a file imports, or imports a name from."""
    nodes = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom))
    dotted = (
        (node.module, f"{node.module}.{alias.name}") for node in nodes for alias in node.names
    )
    return {name if name in names else module for module, name in dotted} & names.keys()


@for_each(
    ("importer", "imported", "allowed"),
    [
        ("tasks", "config", True),
        ("training", "config", False),
        ("workflow", "config.settings", True),
        ("workflow", "tasks.pretrain", False),
        ("training", "evaluation.neighbours", True),
        ("evaluation", "training.fit", False),
        ("data", "models.resnet", False),
        ("models", "data.source", False),
        ("augment", "seeds", True),
        ("losses", "models.normalization", False),
        ("config", "augment.recipe", True),
        ("config", "augment.views", False),
    ],
)
def test_the_rule_tells_up_from_down(importer, imported, allowed):
    assert may_import(importer, imported) == allowed


@for_each("path", MODULES)
def test_no_name_says_nothing(path):
    definitions = (ast.FunctionDef, ast.ClassDef)
    names = [n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, definitions)]
    words = {word for name in [*names, path.stem, path.parent.name] for word in name.split("_")}
    assert not words & BANNED_NAMES


@for_each("module", ["simclr_tf", "simclr_tf.config", "simclr_tf.cli"])
def test_the_light_modules_import_no_tensorflow(module):
    script = f"import sys, {module}; print({{'tensorflow', 'keras'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr


@for_each("package", [simclr_tf, simclr_tf.data])
def test_what_is_loaded_on_first_use_is_what_type_checkers_see(package):
    (block,) = (n for n in ast.parse(inspect.getsource(package)).body if isinstance(n, ast.If))
    seen = {
        (name.asname, f"{node.module}.{name.name}") for node in block.body for name in node.names
    }
    names = [name for name in package.__all__ if name != "__version__"]
    given = [getattr(package, name) for name in names]
    homes = [value if inspect.ismodule(value) else value.__module__ for value in given]
    assert seen == {
        (name, home.__name__ if inspect.ismodule(home) else f"{home}.{name}")
        for name, home in zip(names, homes, strict=True)
    }


def test_every_folder_of_modules_goes_into_the_wheel():
    # A folder without __init__.py can be imported from a checkout, but is not packaged.
    folders = {module_name(path.parent) for path in MODULES}
    assert set(find_packages(str(PACKAGE.parent), include=["simclr_tf*"])) == folders
