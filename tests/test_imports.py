"""The map of src: which package (a folder, or a file) may import which, and which may import a third-party library.

`python -m tests.test_imports` redraws it in docs/architecture.md.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {"digests", "distributed", "files", "lightning_private", "locks", "numbers", "precision", "progress",
          "stopping", "text", "transfers"}  # fmt: skip
"""What every package may import."""
MAY_IMPORT = {
    "report": {"prediction", "runs", "callbacks", "data", "cli", "metrics", "overrides"},
    "prediction": {"runs", "lightning_modules", "datamodules", "data", "metrics"},
    "sweeps": {"runs", "cli", "help", "overrides"},
    "runs": {"callbacks", "lightning_modules", "data", "cli", "overrides"},
    "callbacks": {"masks", "datamodules", "data", "metrics", "averages"},
    "masks": {"data"},
    "lightning_modules": {"mixing", "data", "losses", "metrics", "fourier", "averages"},
    "datamodules": {"data", "schedules"},
    "mixing": {"data", "fourier"},
    "transforms": {"data"},
    "data": {"overrides"}, "losses": set(), "metrics": set(), "fourier": set(), "schedules": set(), "averages": set(),
    "cli": {"derived", "errors", "help", "overrides"}, "errors": set(), "kinds": {"overrides"},
    "derived": set(), "help": set(), "overrides": set(),
    "distributed": set(), "lightning_private": set(), "precision": set(), "files": set(), "locks": set(),
    "numbers": set(), "digests": set(), "progress": set(), "stopping": set(), "text": set(), "transfers": set(),
}  # fmt: skip
"""The packages of src, from the top layer down: a package imports only from packages below it, and these alone."""
MAY_USE = {
    "albumentations": {"transforms"}, "pydensecrf": {"masks"}, "matplotlib": {"report"}, "jinja2": {"report"},
    "hydra": {"cli", "help", "kinds", "overrides", "prediction", "runs", "sweeps"},
    "omegaconf": {"cli", "help", "kinds", "runs", "prediction", "sweeps"}, "optuna": {"sweeps"},
    "pytorch_lightning": {
        "datamodules", "lightning_modules", "callbacks", "runs", "prediction", "report", "distributed",
        "lightning_private",
    },
}  # fmt: skip
DOCUMENT = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- packages: made by python -m tests.test_imports -->", "<!-- packages: end -->"
COLOURS = ("#2f6f9f", "#d98032", "#5c9457", "#a4508b", "#8a6d3b", "#4b8f8c", "#b5473c", "#7a7a7a")


def diagram() -> str:
    """MAY_IMPORT as a mermaid flowchart: an arrow for each allowed import, a colour for each package it leaves."""
    arrows = [(package, other) for package, below in MAY_IMPORT.items() for other in MAY_IMPORT if other in below]
    linked = {package for arrow in arrows for package in arrow}
    lines = ["```mermaid", "flowchart TB", *(f"  {package} --> {other}" for package, other in arrows)]
    lines += [f"  {package}" for package in MAY_IMPORT if package not in linked | LEAVES]
    lines.append(f'  leaves["every package may import:<br/>{", ".join(sorted(LEAVES))}"]')
    for i, package in enumerate(dict.fromkeys(package for package, _ in arrows)):
        own = ",".join(str(index) for index, arrow in enumerate(arrows) if arrow[0] == package)
        lines.append(f"  linkStyle {own} stroke:{COLOURS[i % len(COLOURS)]}")
    return "\n".join([*lines, "```"])


def drawn(text: str) -> str:
    """The document with its diagram made again, between the two markers."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{diagram()}\n{END}{rest.split(END)[1]}"


def layers() -> list[list[str]]:
    """The packages that the docstring of src/__init__.py names, line by line."""
    docstring = ast.get_docstring(ast.parse((ROOT / "src/__init__.py").read_text())) or ""
    return [re.split(r"\s{2,}", line)[0].split() for line in docstring.splitlines() if re.search(r"\S\s{2,}\S", line)]


def packages() -> set[str]:
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
            # `from src import cli` names the package after the import.
            names |= {f"src.{alias.name}" for alias in node.names} if node.module == "src" else {node.module}
    return names


def test_the_map_has_every_package_and_layers_go_down() -> None:
    assert set(MAY_IMPORT) == packages()
    order = list(MAY_IMPORT)
    for package, below in MAY_IMPORT.items():
        for other in below:
            assert order.index(other) > order.index(package), f"{package} is below {other}"


def test_the_package_names_every_package_from_the_top_layer_down() -> None:
    layer = {package: i for i, line in enumerate(layers()) for package in line}
    assert set(layer) == set(MAY_IMPORT)
    for package, below in MAY_IMPORT.items():
        for other in below:
            assert layer[other] >= layer[package], f"src/__init__.py has {other} above {package}, which imports it"


def test_the_document_draws_this_map() -> None:
    text = DOCUMENT.read_text()
    assert drawn(text) == text, "redraw it: python -m tests.test_imports"


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_imports_what_the_map_allows(path: Path) -> None:
    package = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "src" and rest:
            assert rest[0] in MAY_IMPORT.get(package, set()) | LEAVES | {package}, f"{package} must not import {name}"
        assert package in MAY_USE.get(first, {package}), f"{name} is for {MAY_USE[first]} alone"


def test_the_map_allows_nothing_that_is_not_used() -> None:
    used: dict[str, set[str]] = {package: set() for package in MAY_IMPORT}
    for path in (ROOT / "src").rglob("*.py"):
        package = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
        if package in used:
            used[package] |= {name.split(".")[1] for name in imports(path) if name.startswith("src.")}
    for package, below in MAY_IMPORT.items():
        assert below <= used[package], f"{package} no longer imports {below - used[package]}"


def test_every_file_can_be_read_in_one_sitting() -> None:
    for path in [*(ROOT / "src").rglob("*.py"), ROOT / "train.py", ROOT / "predict.py"]:
        lines = len(path.read_text().splitlines())
        assert lines <= 330, f"{path.relative_to(ROOT)} has {lines} lines"


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text()))
