"""The layers of the package, held by its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import crewai_prod

ROOT = Path(crewai_prod.__file__).parent

LAYERS = [
    {"errors", "records", "_faults"},
    {
        "codec",
        "steps",
        "replay",
        "walk",
        "tooling",
        "fields",
        "redact",
        "failures",
        "stored",
        "waiting",
        "provider_errors",
        "retry",
        "required",
        "concealing",
        "deadlines",
        "docstrings",
        "schemas",
        "misfits",
        "arguments",
        "results",
        "corrections",
        "truth",
        "complaints",
        "prices",
        "alerts",
        "budget",
        "route",
        "guards",
        "approval",
        "escalation",
        "loops",
        "paging",
        "paid",
    },
    {"journal", "logfile"},
    {"logs", "logcore", "logfields", "journals"},
    {
        "alerting",
        "bill",
        "heart",
        "outcomes",
        "bodies",
        "model_steps",
        "run",
        "run_core",
        "task_records",
        "tool_steps",
        "session",
        "settings",
        "options",
        "kickoff",
        "stepping",
        "batches",
        "progress",
        "threads",
        "breakers",
        "guarding",
        "admission",
        "brakes",
        "braking",
        "setbacks",
        "escalating",
        "routing",
        "cancelling",
        "looping",
        "owing",
        "terminating",
        "trying",
        "approving",
        "answering",
        "notices",
        "signing",
    },
    {"_crewai"},
    {"cli", "testing", "demo", "doctor", "crashtest", "__main__"},
]
ONLY = {
    "sqlite3": {"journal"},
    "sqlite_utils": {"journal"},
    "structlog": {"logs", "logcore"},
    "docstring_parser": {"docstrings"},
    "crewai": {"_crewai", "demo"},  # the demonstration holds a crew as a user would write it
    "click": {"cli", "__main__"},
}


def _module(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names]
            found += [(node.lineno, name) for name in names]
    return found


def _files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def test_imports_go_upwards_only() -> None:
    """A module imports only from its own layer or one above it in DESIGN's list."""
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    wrong, checked = [], 0
    for path in _files():
        for line, name in _imports(path):
            parts = name.split(".")
            if parts[0] != "crewai_prod" or len(parts) < 2 or parts[1] not in level:
                continue
            checked += 1
            if level[parts[1]] > level[_module(path)]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert checked > 30
    assert wrong == []


def test_every_module_has_a_layer() -> None:
    """A new module must be given its place."""
    known = set().union(*LAYERS)
    assert {_module(path) for path in _files()} <= known


def test_frameworks_stay_in_their_place() -> None:
    """crewai, SQL, structlog and click are each known to one place."""
    wrong, checked = [], 0
    for path in _files():
        for line, name in _imports(path):
            places = ONLY.get(name.split(".")[0])
            checked += places is not None
            if places is not None and _module(path) not in places:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert checked > 10
    assert wrong == []


def test_importing_the_package_is_inert() -> None:
    """`import crewai_prod` loads neither crewai nor pydantic, structlog or sqlite."""
    code = (
        "import sys, crewai_prod; heavy = {'crewai', 'pydantic', 'structlog', 'sqlite3', 'click'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_is_sorted_and_resolves() -> None:
    """Every public name exists, and no other is promised."""
    assert sorted(crewai_prod.__all__) == crewai_prod.__all__
    for name in crewai_prod.__all__:
        assert getattr(crewai_prod, name) is not None
