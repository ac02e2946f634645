"""CONTRIBUTING.md followed to the letter: its files written into a copy of the project, its commands run there."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^#+ (.+)\n((?:(?!^## ).*\n)*)", TEXT, re.MULTILINE))
"""The text below each heading, that of the document and those of its recipes."""
TRACK = Path("demo/logs/track1")


class File(NamedTuple):
    """A block under a line that begins with a path, and what else that line says."""

    name: str
    note: str
    text: str


def files_of(section: str) -> list[File]:
    """The files that a recipe has its reader write."""
    found = re.findall(r"^`([\w./]+)`([^\n]*):\n\n```\w+\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return [File(*parts) for parts in found]


def commands_of(section: str) -> list[list[str]]:
    """The lines of the section's blocks of commands, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def run(folder: Path, words: list[str], *more: str) -> str:
    """Run a command of the document, or one of the tools beside this Python, and return what it printed."""
    assert words[0] == "python"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, *words[1:], *more], cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, with the demo's data in it."""
    folder = tmp_path_factory.mktemp("contributing") / "project"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0"):
        if (ROOT / name).is_file():  # a file that is about to be removed is listed yet
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (preparation,) = commands_of("Contributing")
    run(folder, preparation)
    return folder


@pytest.fixture
def follow(demo: Path, tmp_path: Path) -> Callable[..., tuple[Path, list[str]]]:
    """Follow a recipe in a copy of its own; return the copy, and what each command printed."""

    def followed(section: str, *more: str) -> tuple[Path, list[str]]:
        folder = tmp_path / "project"
        shutil.copytree(demo, folder)
        before = {path for path in folder.rglob("*") if path.is_file()}
        files = files_of(section)
        for name, note, text in files:
            added = note == ", at its end"
            assert added == (folder / name in before), f"{name} exists{note}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text((folder / name).read_text() + "\n\n" + text if added else text)
        said = [run(folder, words, *(more if "train.py" in words else ())) for words in commands_of(section)]
        for words in (["ruff", "check", "."], ["ruff", "format", "--check", "."]):  # as `make check`
            run(folder, ["python", "-m", *words])
        if any(file.name.startswith("src/") for file in files):
            run(folder, ["python", "-m", "mypy", "--cache-dir", str(demo.parent / "mypy")])
        run(folder, ["python", "-m", "pytest", "-q", "-x", "tests/test_imports.py", "tests/test_cli.py",
                     "tests/test_numbers.py", "-k", "not mistakes and not help"])  # fmt: skip
        return folder, said

    return followed


def members_of(folder: Path) -> list[str]:
    """The runs that voted, as their stage and name; every test image has a label, and every member is in the report."""
    results = folder / "demo/results/track1"
    runs = [Path(member["run"]) for member in json.loads((results / "ensemble.json").read_text())["members"]]
    tests = {path.name for path in (folder / "demo/data").glob("public_dg_0416/public_test_flat/*")}
    assert tests and set(json.loads((results / "prediction.json").read_text())) == tests
    titles = [f"{run.parent.name}/{run.name}" for run in runs]
    assert all(title in (results / "report.html").read_text() for title in titles)
    return titles


def test_the_contract_in_the_document_is_the_codes() -> None:
    (quoted,) = re.findall(r"^```python\n(@runtime_checkable\n.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert (ROOT / "src/lightning_modules/__init__.py").read_text().endswith(quoted)


def test_every_block_of_the_document_is_followed() -> None:
    kinds = re.findall(r"^```(\w+)$", TEXT, re.MULTILINE)
    commands = [words for section in SECTIONS for words in commands_of(section)]
    assert all(words[0] == "python" for words in commands)
    files = [file for section in SECTIONS for file in files_of(section)]
    assert len(files) == len(kinds) - kinds.count("sh") - 1 >= 8  # all but the contract


@pytest.mark.slow
def test_a_mixing_strategy(follow: Callable[..., tuple[Path, list[str]]]) -> None:
    folder, said = follow("A mixing strategy", "trainer.max_epochs=1")
    assert re.search(r"\d+ passed", said[1]) and "failed" not in said[1]
    listed = run(folder, ["python", "-m", "pytest", "-q", "tests/mixing", "--collect-only"])
    assert "test_contract_of_every_strategy[1-halves]" in listed and "test_halves_equals_a_slow_loop" in listed
    trained = folder / TRACK / "baseline/resnet10t-halves-holdout-seed0-max_epochs1"
    assert (trained / "finished.json").exists() and list((trained / "pictures").glob("*.png"))


@pytest.mark.slow
def test_a_loss(follow: Callable[..., tuple[Path, list[str]]]) -> None:
    folder, said = follow("A loss", "trainer.max_epochs=1")
    assert re.search(r"\d+ passed", said[0])
    name = "baseline/resnet10t-mixup-holdout-seed0-generalised"
    assert members_of(folder) == [name]
    (row,) = csv.DictReader(open(folder / TRACK / name / "metrics.csv"))
    assert 0 < float(row["train/loss"]) < 1 / 0.7  # the cross-entropy of eight classes begins above that, at log 8
    done = subprocess.run([sys.executable, "train.py", "track=1", "stage=finetune", "scale=demo", "module=generalised",
                           "module.q=0", "init=none", "masks=none"],
                          cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1 and "module.q is 0: expected a number above 0 and at most 1" in done.stderr


@pytest.mark.slow
def test_a_backbone(follow: Callable[..., tuple[Path, list[str]]]) -> None:
    folder, _ = follow("A backbone")
    assert members_of(folder) == [f"baseline/lcnet_0{n}-mixup-holdout-seed0-max_epochs1" for n in (35, 50)]


@pytest.mark.slow
def test_a_stage(follow: Callable[..., tuple[Path, list[str]]]) -> None:
    folder, said = follow("A stage")
    name = "smooth/resnet10t-mixup-holdout-seed0-max_epochs2"
    trained = folder / TRACK / name
    assert "stopped by trainer.max_steps in epoch 2 of 2, after step 20" in said[3]
    assert "resuming" in said[4] and "finished" in said[4] and (trained / "best.ckpt").exists()
    assert [row["epoch"] for row in csv.DictReader(open(trained / "metrics.csv"))] == ["0", "1"]
    assert members_of(folder) == [name]
    report = folder / "demo/results/track1/report.html"
    assert "stage=smooth" in report.read_text() and "| smooth |" in (report.parent / "runs.md").read_text()
    # The document's second training ends where one that was never stopped does.
    resumed = next(words for words in commands_of("A stage") if "resume=true" in words)
    run(folder, [word for word in resumed if word != "resume=true"], "tag=whole")
    whole = next(trained.parent.glob("*-whole"))  # a tag stands where the changes of a command stood
    a, b = (load_file(path / "weights.safetensors") for path in (trained, whole))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    # Without the file that says what the demo shrinks, the stage trains its own sizes on the demo's data.
    (folder / "conf/scale/stage/demo_smooth.yaml").unlink()
    shown = run(folder, ["python", "train.py", "track=1", "stage=smooth", "scale=demo", "--cfg", "job"])
    assert "size: 224" in shown and "model_name: resnet10t" in shown and "logs_dir: demo/logs" in shown
