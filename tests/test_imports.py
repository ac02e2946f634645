"""The import rules: data flows one way, and each third-party package has its home."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {"files", "locks", "precision", "progress", "stopping"}  # what everybody may use
MAY_IMPORT = {
    "headers": set(), "tree": {"headers"}, "images": {"headers"}, "manifest": {"tree"},
    "sampler": set(), "transforms": set(), "losses": set(), "metrics": set(),
    "voting": set(), "schedules": set(), "weights": set(), "cli": set(), "files": set(), "progress": set(),
    "locks": set(), "precision": set(), "stopping": set(), "fourier": set(), "mixing": {"mixing", "fourier"},
    "data_sets": {"manifest"},
    "datamodules": {"manifest", "data_sets", "images", "transforms", "sampler"},
    "lightning_modules": {"lightning_modules", "mixing", "losses", "fourier", "metrics", "manifest"},
    "crf": set(),
    "masks": {"crf", "images"},
    "callbacks": {"manifest", "metrics", "weights", "sampler", "masks", "images"},
    "runs": {"cli", "manifest", "callbacks"},
    "tta": {"sampler"},
    "members": {"cli", "weights", "manifest", "runs", "lightning_modules"},
    "image_sets": {"manifest", "images", "sampler", "datamodules", "members"},
    "prediction": {"image_sets", "members", "tta", "datamodules", "manifest", "runs", "lightning_modules"},
    "export": {"members", "weights", "lightning_modules"},
    "report": {"metrics", "voting", "image_sets", "members", "runs"},
    "plots": {"metrics"},
    "pages": {
        "callbacks", "plots", "report", "metrics", "voting", "images", "datamodules", "members", "prediction", "runs"
    },
}  # fmt: skip
HOMES = {
    "albumentations": {"transforms"}, "pydensecrf": {"crf"},
    "hydra": {"members", "cli"}, "omegaconf": {"runs", "members", "cli"},
    "pytorch_lightning": {
        "datamodules", "lightning_modules", "callbacks", "members", "runs", "prediction", "export", "pages"
    },
    "matplotlib": {"plots", "pages"}, "jinja2": {"pages"},
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_rules(path: Path) -> None:
    part = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in filter(None, names):
            first, *rest = name.split(".")
            if first == "src" and rest:
                assert rest[0] in MAY_IMPORT[part] | LEAVES, f"{part} must not import {name}"
            assert part in HOMES.get(first, {part}), f"{name} has its home in {HOMES[first]}"
