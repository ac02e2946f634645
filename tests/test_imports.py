"""The map of the house: which room may import which, and where each third-party package has its home."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {"distributed", "files", "lightning_private", "locks", "precision", "progress", "stopping"}
"""What everybody may use."""
MAY_IMPORT = {
    "report": {"prediction", "runs", "callbacks", "data", "metrics"},
    "prediction": {"runs", "lightning_modules", "datamodules", "data"},
    "runs": {"callbacks", "data", "cli", "overrides"},
    "callbacks": {"masks", "datamodules", "data", "metrics"},
    "masks": {"data"},
    "lightning_modules": {"mixing", "data", "losses", "metrics", "fourier"},
    "datamodules": {"data", "schedules"},
    "mixing": {"data", "fourier"},
    "transforms": {"data"},
    "data": set(), "losses": set(), "metrics": set(), "fourier": set(), "schedules": set(),
    "cli": {"overrides"}, "overrides": set(),
    "distributed": set(), "lightning_private": set(), "precision": set(), "files": set(), "locks": set(),
    "progress": set(), "stopping": set(),
}  # fmt: skip
"""The rooms of src, from the top floor down: a room imports only from rooms below it, and these alone."""
HOMES = {
    "albumentations": {"transforms"}, "pydensecrf": {"masks"}, "matplotlib": {"report"}, "jinja2": {"report"},
    "hydra": {"cli", "overrides", "prediction"}, "omegaconf": {"cli", "runs", "prediction"},
    "pytorch_lightning": {
        "datamodules", "lightning_modules", "callbacks", "runs", "prediction", "report", "distributed",
        "lightning_private",
    },
}  # fmt: skip


def rooms() -> set[str]:
    """Folders and files directly in src."""
    found = {path.stem for path in (ROOT / "src").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    return found - {"__init__"}


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from src import cli` names the room after the import.
            names |= {f"src.{alias.name}" for alias in node.names} if node.module == "src" else {node.module}
    return names


def test_the_map_has_every_room_and_floors_go_down() -> None:
    assert set(MAY_IMPORT) == rooms()
    order = list(MAY_IMPORT)
    for room, below in MAY_IMPORT.items():
        for other in below:
            assert order.index(other) > order.index(room), f"{room} stands below {other}"


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_what_the_map_allows(path: Path) -> None:
    room = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "src" and rest:
            assert rest[0] in MAY_IMPORT.get(room, set()) | LEAVES | {room}, f"{room} must not import {name}"
        assert room in HOMES.get(first, {room}), f"{name} has its home in {HOMES[first]}"


def test_the_map_allows_nothing_that_is_not_used() -> None:
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for path in (ROOT / "src").rglob("*.py"):
        room = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
        if room in used:
            used[room] |= {name.split(".")[1] for name in imports(path) if name.startswith("src.")}
    for room, below in MAY_IMPORT.items():
        assert below <= used[room], f"{room} no longer imports {below - used[room]}"


def test_every_file_can_be_read_in_one_sitting() -> None:
    for path in [*(ROOT / "src").rglob("*.py"), ROOT / "train.py", ROOT / "predict.py"]:
        lines = len(path.read_text().splitlines())
        assert lines <= 330, f"{path.relative_to(ROOT)} has {lines} lines"
