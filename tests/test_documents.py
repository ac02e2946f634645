"""The documents: every command that they show works as typed and in the order typed, and every link leads somewhere."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.cli import composed
from src.data.batch import Batch
from src.data.words import read_data_set
from src.datamodules.synthetic.dataset import generate
from src.overrides import may_differ, quoted, with_data_set
from src.prediction.selection import DEFAULT_SPLIT
from src.prediction.settings import read_settings
from src.runs.continuation import flat
from src.runs.directory import check_settings
from src.runs.lineage import NONE, fits
from src.sweeps.sweeper import OF_THE_SWEEP
from tests.conftest import ROOT

SHOWN = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*SHOWN, "CONTRIBUTING.md"]
"""Those whose commands work on the tree as it is, and all: a recipe's need its files (tests/test_contributing.py)."""
AFTER = {"docs/prediction.md": "docs/training.md", "docs/report.md": "docs/training.md"}
"""Documents whose commands use the runs that another one makes, and say so."""
ENTRY_POINTS = ("train.py", "predict.py")
FENCE = re.compile(r"^ *(```|~~~)")
SHELL = re.compile(r"(python +(train\.py|predict\.py|-m) |make +[a-z-]+)")
FACTS = ["dataset.num_classes=3", "dataset.contexts=[autumn,rock,water]", "dataset.images=1000"]
"""What train.py reads off the data."""


class Command(NamedTuple):
    """A command that a document shows: the line where it begins, and its words without the comment."""

    line: int
    words: list[str]

    @property
    def script(self) -> str:
        return self.words[1] if self.words[0] == "python" else self.words[0]

    def __str__(self) -> str:
        return f"line {self.line}: {shlex.join(self.words)}"


def code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of fenced and of indented blocks."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield number, line.strip()


def words_of(line: str) -> list[str]:
    """A line's words, without the comment behind them."""
    return shlex.split(re.sub(r"(^|\s)#.*$", "", line))


@cache
def commands(document: str) -> list[Command]:
    """The commands of a document's blocks, in order; a backslash at the end of a line goes on in the next one."""
    found, begun = [], None
    for number, line in code_lines((ROOT / document).read_text()):
        if begun:
            begun = (begun[0], f"{begun[1]} {line}")
        elif SHELL.match(line):
            begun = (number, line)
        if begun and begun[1].endswith("\\"):
            begun = (begun[0], begun[1].removesuffix("\\"))
        elif begun:
            found.append(Command(begun[0], words_of(begun[1])))
            begun = None
    return found


def inline_commands(document: str) -> list[Command]:
    """Whole commands between backticks in the text: with no <word> in them for the reader to fill in."""
    text = (ROOT / document).read_text()
    lines = text.splitlines()
    for number, _ in code_lines(text):
        lines[number - 1] = ""
    found = re.finditer(r"`([^`]+)`", "\n".join(lines))
    shown = [(match[1].replace("\n", " "), "\n".join(lines).count("\n", 0, match.start()) + 1) for match in found]
    return [Command(number, words_of(words)) for words, number in shown if SHELL.match(words) and "<" not in words]


def overrides_of(words: list[str]) -> list[list[str]]:
    """The overrides of each run that train.py or predict.py starts: with -m every combination of the comma lists."""
    sweep = "-m" in words
    if "--cfg" in words:
        words = [word for i, word in enumerate(words) if "--cfg" not in words[max(i - 1, 0) : i + 1]]
    words = with_data_set([word for word in words if word != "-m"])
    if sweep and "split=each_context" in words:  # of two contexts here, as the data are not
        words = [word.replace("each_context", "leave_context_out") for word in words] + ["split.contexts=[rock],[sea]"]
    overrides = [quoted(word, sweep) for word in words]
    if not sweep:
        return [overrides]
    parsed = [
        one
        for one in OverridesParser.create().parse_overrides(overrides)
        if one.key_or_group.split(".")[0] not in OF_THE_SWEEP
        and (one.is_discrete_sweep() or not one.is_sweep_override())
    ]
    search = ["changes=trial"] if any(word.startswith("hparams=") for word in words) else []  # in place of its own
    return [[*job, *search] for job in BasicSweeper.split_arguments(parsed, None)[0]]


def sample(sweep: list[list[str]]) -> list[list[str]]:
    """A sweep's runs, or of a long one every seventh: each takes a fifth of a second to compose."""
    return sweep if len(sweep) < 8 else sweep[::7]


@cache
def settings_of(script: str, words: tuple[str, ...]) -> list[dict[str, Any]]:
    """The settings of the runs that an entry point's words start; they must be ones that it takes."""
    found = []
    for overrides in sample(overrides_of(list(words))):
        cfg = composed(script.removesuffix(".py"), *overrides, *(FACTS if script == "train.py" else []))
        settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        if script == "train.py":
            check_settings(cfg)
        else:
            read_settings(settings)
        found.append(settings)
    return found


class Job(NamedTuple):
    """One run of an entry point, as a command of a document starts it."""

    command: Command
    settings: dict[str, Any]


def jobs_of(document: str) -> list[Job]:
    """What the entry points' commands of a document's blocks start, in order; with `--cfg job` nothing."""
    return [
        Job(command, settings)
        for command in commands(document)
        if command.script in ENTRY_POINTS and not any(word.startswith("--") for word in command.words)
        for settings in settings_of(command.script, tuple(command.words[2:]))
    ]


def test_commands_are_found() -> None:
    assert sum(len(commands(document)) for document in DOCUMENTS) > 60
    assert len([command for command in commands("README.md") if command.script in ENTRY_POINTS]) == 10
    long = next(command for command in commands("docs/training.md") if "stage=adapt" in command.words)
    assert long.words[-2].startswith("mixing.ratio=0.1,") and long.words[-1] == "trainer=ddp"  # its second line
    assert [len(overrides_of(c.words[2:])) for c in commands("docs/training.md")][:7] == [1, 1, 3, 3, 3, 30, 1]
    assert any(command.words == ["make", "check"] for command in inline_commands("CONTRIBUTING.md"))


@pytest.mark.parametrize("document", SHOWN)
def test_every_entry_points_command_composes(document: str) -> None:
    for command in [*commands(document), *inline_commands(document)]:
        if command.script in ENTRY_POINTS and "--help" not in command.words:
            assert settings_of(command.script, tuple(command.words[2:])), command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_exists_and_its_commands_compose(document: str) -> None:
    for command in [*commands(document), *inline_commands(document)]:
        if command.script == "make":
            for script, words in recipe(tuple(command.words)):
                assert settings_of(script, words), f"{document}, {command}"


@cache
def recipe(words: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """The entry points' commands that `make` would run."""
    shown = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, f"{shlex.join(words)}: {shown.stderr}"
    found = re.findall(r"python (train\.py|predict\.py) ([^;|\n]*)", shown.stdout)
    return [(script, tuple(words_of(line))) for script, line in found]


def test_make_shows_what_it_would_run() -> None:
    scripts = [script for script, _ in recipe(("make", "demo"))]
    assert len(scripts) >= 10 and set(scripts) == set(ENTRY_POINTS)
    assert recipe(("make", "report", "OVERRIDES=ensemble=baselines")) == [
        ("predict.py", ("-m", "track=1,2", "report=true", "ensemble=baselines"))
    ]


class Parsed(Exception):
    """An argument parser has taken the command line."""


def test_every_module_takes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m x.y`: the module exists, and its argument parser takes the words; nothing runs."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse(self, *given, **named)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    modules = set()
    for document in DOCUMENTS:
        for command in [*commands(document), *inline_commands(document)]:
            if command.script != "-m":
                continue
            module, *words = command.words[2:]
            if module == "pytest":
                continue
            path = ROOT / module.replace(".", "/")
            file = next((f for f in (path.with_suffix(".py"), path / "__main__.py") if f.exists()), None)
            assert file, f"{document}, {command}: no such module"
            assert "__main__" in file.name or "__main__" in file.read_text(), f"{document}, {command}: it does nothing"
            modules.add(module)
            if "parse_args" in file.read_text():
                monkeypatch.setattr(sys, "argv", [module, *words])
                with pytest.raises(Parsed):
                    runpy.run_module(module, run_name="__main__")
            elif "read_data_set" in file.read_text():
                assert read_data_set(words).root, f"{document}, {command}"
            else:
                assert not words, f"{document}, {command}: it takes no options"
    assert {"benchmarks.ablation", "src.datamodules.synthetic"} <= modules


def claims(document: str) -> list[str]:
    """What is wrong with the order of a document's commands.

    A run's directory is claimed once. Another command may claim it with resume=true and the same settings; what a run
    starts from, its masks, and the members of a vote are made by commands before it.
    """
    wrong: list[str] = []
    runs: dict[str, Job] = {}  # by directory: the job that made it
    for job in [*(jobs_of(AFTER[document]) if document in AFTER else []), *jobs_of(document)]:
        settings, shown = job.settings, f"{document}, {job.command}"
        if job.command.script == "predict.py":
            if not members(settings, runs):
                wrong.append(f"{shown}: no command before it makes a member")
            continue
        folder = settings["run_dir"]
        earlier = runs.setdefault(folder, job)
        if earlier is not job:
            different = differences(earlier.settings, settings)
            if different or not settings["resume"]:
                wrong.append(f"{shown}: {folder} exists since {earlier.command} ({different or 'without resume=true'})")
        wrong += [f"{shown}: no command before it makes {what}" for what in lacking(settings, runs)]
    return wrong


def lacking(settings: dict[str, Any], runs: dict[str, Job]) -> list[str]:
    """What a run is made from that no run so far is."""
    found = []
    for name, before in (("init", settings["before"]), ("masks", settings["before_masks"])):
        given = settings[name]
        if given:
            run = given if name == "init" else str(Path(given).parent)
            found += [run] if given != NONE and run not in runs else []
        elif before["stage"]:
            folder = Path(settings["logs_dir"]) / settings["track"]["name"] / before["stage"]
            asked = ("split_name", "seed", "model.model_name") if name == "init" else ("split_name",)
            own = flat(settings)
            others = [flat(job.settings) for run, job in runs.items() if Path(run).parent == folder]
            fits = any(all(other[key] == own[key] for key in asked) for other in others)
            found += [] if fits else [f"a run of {before['stage']}"]
    return found


def members(settings: dict[str, Any], runs: dict[str, Job]) -> list[str]:
    """The runs, made so far, that vote in a prediction."""
    logs = Path(settings["logs_dir"]) / settings["track"]["name"]
    stages, globs, tags, split = (settings["ensemble"][key] for key in ("stages", "runs", "tags", "split"))
    return [
        run
        for run, job in runs.items()
        if Path(run).parent.parent == logs
        and any(fnmatchcase(Path(run).parent.name, stage) for stage in stages)
        and (not globs or any(fits(Path(run), glob) for glob in globs))
        and (not tags or job.settings["tag"] in tags)
        and fnmatchcase(job.settings["split_name"], split or DEFAULT_SPLIT)
    ]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the settings that keep a run from being resumed."""
    there, here = ({k: str(v) for k, v in flat(settings).items() if v is not None} for settings in (before, now))
    return [
        key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key) and not may_differ(key)
    ]


@pytest.mark.parametrize("document", SHOWN)
def test_the_commands_of_a_document_run_in_the_order_typed(document: str) -> None:
    assert not (wrong := claims(document)), "\n".join(wrong)


def test_a_wrong_order_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {
        "train.py track=1 stage=wsss": "no command before it makes a run of baseline",
        "train.py track=1 stage=baseline": None,
        "train.py track=1 stage=wsss model=resnet50": "without resume=true",
        "train.py track=1 stage=baseline trainer.max_epochs=3 changes=null": "exists since line 2",
        "train.py track=1 stage=baseline trainer.max_epochs=3": None,
        "train.py track=1 stage=baseline trainer.max_epochs=3 tag=short": None,
        "train.py track=1 stage=baseline resume=true trainer=ddp": "trainer.sync_batchnorm",
        "predict.py track=1 ensemble=all": "makes a member",
        "predict.py track=1 ensemble=baselines": None,
    }
    (tmp_path / "wrong.md").write_text("".join(f"    python {line}\n" for line in lines))
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    wrong = claims("wrong.md")
    expected = [text for text in lines.values() if text]
    assert len(wrong) == len(expected) and all(text in one for text, one in zip(expected, wrong, strict=True)), wrong


def test_the_front_page_shows_the_chain_and_the_report_first() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 170
    pictures = [re.findall(r"!\[.+\]\((.+)\)", line) for line in lines[:20]]
    assert [name for found in pictures for name in found] == ["docs/images/chain.svg", "docs/images/report.png"]
    for picture in (ROOT / "docs/images").iterdir():
        assert picture.stat().st_size < 200_000


@pytest.mark.parametrize("width", [8, 7])
def test_the_example_of_a_strategy_is_one(width: int) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"^`src/mixing/halves\.py`:\n\n```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert code
    names: dict[str, Any] = {}
    exec(compile(code[1], "halves.py", "exec"), names)
    image, facts = torch.rand(4, 3, 6, width), torch.arange(4)
    mixed = names["Halves"](probability=1.0, per_image=False, until=1.0)(Batch(image, facts, facts, facts))
    middle = width // 2
    assert torch.equal(mixed.image[..., :middle], image[..., :middle])
    assert torch.equal(mixed.image[..., middle:], image[mixed.partner][..., middle:])
    assert mixed.lam.item() == pytest.approx(middle / width)


# ------------------------------------------------------------------------------------- the README's commands, run

SMALL = ["scale=demo", "datamodule.num_workers=0"]
SMALL_TRAINING = ["datamodule.size=32", "datamodule.batch_size=8", "trainer.max_epochs=1"]
SMALL_STAGE = {"stage=moco": ["module.queue_size=32", "module.num_splits=1"]}
"""Appended to the commands of the README: the demo's scale, on a hundred images of 32 px, for an epoch."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project's files, with a tenth of the demo's data and what the README's reader brings along."""
    tree = tmp_path / "checkout"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True)
    for name in os.fsdecode(listed.stdout).split("\0"):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    generate(tree / "demo", seed=0, scale=0.1, progress=False)
    shutil.copy(tree / "demo/truth/track1_test_truth.json", tree / "labels.json")
    (tree / "photos/holiday").mkdir(parents=True)
    for picture in sorted((tree / "demo/data/public_dg_0416/public_test_flat").iterdir())[:3]:
        shutil.copy(picture, tree / "photos/holiday")
    return tree


def scaled_down(words: list[str]) -> list[str]:
    """A command's words with those appended that make it small; two processes on the CPU for all GPUs."""
    extra = [*SMALL]
    if words[0] == "train.py":
        stages = ",".join(word for word in words if word.startswith("stage="))
        extra += [*SMALL_TRAINING, *(word for stage, own in SMALL_STAGE.items() if stage in stages for word in own)]
    names = {word.split("=")[0] for word in extra}
    kept = ["trainer=ddp_cpu" if word == "trainer=ddp" else word for word in words]
    return [*(word for word in kept if word.split("=")[0] not in names), *extra]


@pytest.mark.slow
@pytest.mark.training
def test_the_readmes_commands_run_one_after_the_other(checkout: Path) -> None:
    results = checkout / "demo/results/track1"
    for command in commands("README.md"):
        for words in [scaled_down(job) for job in split_by_stage(command.words[1:]) if job[0] in ENTRY_POINTS]:
            done = subprocess.run(
                [sys.executable, *words], cwd=checkout, capture_output=True, text=True, timeout=600, check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    # A report lies with its vote: the next vote had none.
    for name in ("prediction.json", "figures.json", "ensemble.json", "votes/all/report.html", "images.csv"):
        assert (results / name).exists(), name
    assert (results / "images.csv").read_text().count("\n") == 4  # a title, and three photographs


def split_by_stage(words: list[str]) -> list[list[str]]:
    """A sweep over stages as one sweep for each, as they need different words to be small."""
    for i, word in enumerate(words):
        if word.startswith("stage=") and "," in word:
            return [[*words[:i], f"stage={stage}", *words[i + 1 :]] for stage in word.removeprefix("stage=").split(",")]
    return [words]
