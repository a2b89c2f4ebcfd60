"""Who may import whom: a module knows only the floors below its own."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keras_lc

HOUSE = Path(keras_lc.__file__).parent
STDLIB = set(sys.stdlib_module_names)
FRAMEWORKS = {"keras", "tensorflow", "torch", "jax"}
CORE = {"keras_lc.core", "keras_lc.workers", "keras_lc.dtypes", "keras_lc.errors"}
STORE = {"keras_lc.store", "keras_lc.workers", "keras_lc.dtypes", "keras_lc.errors"}
FORBIDDEN = {
    "capture": {"store", "checkpointer", "listing", "loader", "callback", "background"},
    "saver": {"callback", "schedule", "preempt", "cli"},
    "checkpointer": {"callback", "saver", "resume", "restoring", "cli"},
    "torch": {"callback", "saver", "resume", "report", "exports", "cli"},
    "resume": {"callback", "saver", "checkpointer", "background", "cli"},
    "listing": {"callback", "saver", "checkpointer", "loader", "core", "capture", "report"},
    "references": {"callback", "saver", "checkpointer", "loader", "core", "capture", "report"},
    "loader": {"callback", "saver", "checkpointer", "background", "report", "exports", "capture"},
    "restoring": {"callback", "saver", "checkpointer", "background", "report", "exports", "cli"},
    "exports": {"callback", "saver", "checkpointer", "background", "report", "cli"},
    "report": {"callback", "saver", "checkpointer", "background", "capture", "cli"},
    "walk": {"callback", "saver", "checkpointer", "capture", "report", "cli"},
    "series": {"callback", "saver", "report", "cli"},
    "rewrite": {"callback", "saver", "checkpointer", "capture", "report", "cli"},
    "estimate": {"callback", "saver", "checkpointer", "capture", "report", "cli"},
    "prune": {"callback", "saver", "checkpointer", "capture", "core", "loader", "cli"},
    "figures": {"callback", "checkpointer", "loader", "listing", "store", "core", "report", "cli"},
    "cli": {"callback", "saver", "checkpointer", "capture", "core", "loader", "store"},
    "background": {"callback", "checkpointer", "loader", "capture", "core", "store"},
}


def module_of(path):
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files_of(part):
    single = HOUSE / f"{part}.py"
    found = [single] if single.exists() else sorted((HOUSE / part).rglob("*.py"))
    assert found, part
    return found


def imports_of(path):
    """Full names of all that a file imports, wherever it does so."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            if called in ("import_module", "__import__") and node.args:
                first = node.args[0]
                assert isinstance(first, ast.Constant), f"{path}: a name made at run time"
                yield first.value


def within(name, allowed):
    return any(name == part or name.startswith(f"{part}.") for part in allowed)


@pytest.mark.parametrize(
    ("part", "outside", "inside"),
    [
        ("core", {"numpy", "pcodec"}, CORE),
        ("store", {"numpy", "h5py", "ml_dtypes", "fsspec"}, STORE),
        ("errors", set(), set()),
        ("background", set(), {"keras_lc.errors", "keras_lc.workers"}),
        ("preempt", set(), {"keras_lc.errors"}),
        ("schedule", set(), {"keras_lc.errors"}),
        ("skip", set(), {"keras_lc.errors"}),
        ("figures", {"rich"}, {"keras_lc.figures", "keras_lc.errors"}),
        ("monitors", set(), {"keras_lc.errors", "keras_lc.store"}),
    ],
)
def test_the_lower_floors_stand_on_little(part, outside, inside):
    for path in files_of(part):
        for name in imports_of(path):
            top = name.split(".")[0]
            fine = within(name, inside) if top == "keras_lc" else top in STDLIB | outside
            assert fine, f"{module_of(path)} imports {name}"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_no_module_imports_from_a_floor_above(part):
    above = {f"keras_lc.{name}" for name in FORBIDDEN[part]}
    for path in files_of(part):
        for name in imports_of(path):
            assert not within(name, above), f"{module_of(path)} imports {name}"


def test_only_faces_and_captures_know_a_framework():
    for path in sorted(HOUSE.rglob("*.py")):
        part = path.relative_to(HOUSE).parts[0].removesuffix(".py")
        if part in ("__init__", "capture", "callback", "stages", "torch"):
            continue
        for name in imports_of(path):
            assert name.split(".")[0] not in FRAMEWORKS, f"{module_of(path)} imports {name}"


def run_fresh(code, directory):
    """Run code in an interpreter of its own; it must succeed."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={"PYTHONPATH": str(HOUSE.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import keras_lc",
        "import keras_lc, keras_lc.core; keras_lc.core.DeltaEncoder",
        "import keras_lc; keras_lc.core.DeltaDecoder; keras_lc.CheckpointError; dir(keras_lc)",
        "import keras_lc; keras_lc.list_checkpoints('.'); keras_lc.latest_checkpoint('.')",
        "import keras_lc; keras_lc.restore_latest('.'); keras_lc.verify('.')",
        "import keras_lc.store.index, keras_lc.checkpointer, keras_lc.restoring",
        "import keras_lc.rewrite, keras_lc.estimate, keras_lc.prune, keras_lc.exports",
        "import keras_lc.report.page, keras_lc.report.difference, keras_lc.cli",
    ],
)
def test_no_framework_is_imported(code, tmp_path):
    check = f"import sys; found = {FRAMEWORKS!r} & set(sys.modules); assert not found, found"
    run_fresh(f"{code}\n{check}", tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "import keras_lc",
        "import keras_lc; assert keras_lc.list_checkpoints('chain')",
        "import keras_lc.cli; keras_lc.cli.app(['ls', 'chain'])",
        "import keras_lc.cli; keras_lc.cli.app(['info', 'chain/cp-0007'])",
        "import keras_lc.cli; keras_lc.cli.app(['verify', '.'])",
    ],
)
def test_what_reads_no_more_than_headers_is_cheap(code, tmp_path):
    shutil.copytree(Path(__file__).parent / "store/golden/chain", tmp_path / "chain")
    (tmp_path / "chain/checkpoint.json").unlink()  # so that every header is read
    check = "assert not {'numpy', 'h5py', 'pcodec', 'asyncio'} & set(sys.modules)"
    run_fresh(f"import sys\ntry: {code}\nexcept SystemExit: pass\n{check}", tmp_path)
