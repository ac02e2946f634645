"""What the package says of itself is the same in all files, and the installed versions are the pinned ones."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED = ("dev", "export", "report", "search")
"""The extras of `make install`."""


def pins() -> dict[str, str]:
    """Versions by canonical name; every line of constraints.txt is a pin and nothing else."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)==([\w.]+)", line)
        assert match, f"{line!r} is not name==version"
        found[canonicalize_name(match[1])] = match[2]
    return found


def requirements() -> list[Requirement]:
    """All that `make install` asks for."""
    words = PROJECT["dependencies"] + [word for extra in INSTALLED for word in PROJECT["optional-dependencies"][extra]]
    return [Requirement(word) for word in words]


def test_every_dependency_has_a_pin_that_it_allows() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} and the pin {version}"


def test_the_installed_versions_are_the_pinned_ones() -> None:
    pinned = {
        name: version for name, version in pins().items() if name in {canonicalize_name(r.name) for r in requirements()}
    }
    found = {name: importlib.metadata.version(name).split("+")[0] for name in pinned}
    stamp = Path(sys.prefix, ".installed")
    if not stamp.exists() or stamp.read_text().strip() != "constraints.txt":
        pytest.skip("not an environment of `make install` with constraints.txt")
    assert {name: Version(version) for name, version in found.items()} == {
        name: Version(version) for name, version in pinned.items()
    }


def test_one_version_in_all_files() -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest and newest[1] == PROJECT["version"] == citation["version"]
    assert newest[2] == str(citation["date-released"])


def test_the_workflows_make_targets_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    lines = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = {match[1] for line in lines if (match := re.match(r"make ([a-z-]+)", line))}
    assert targets == {"check", "test", "test-fast"}
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)
