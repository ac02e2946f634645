import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from src.prediction.members import LeftOut
from src.prediction.selection import Wanted, find_members
from src.prediction.settings import read_settings
from src.runs.directory import resolved
from tests.conftest import sign


def copied(run: Path, name: str, nudge: float, **changes: object) -> Path:
    """A finished run beside another: with other settings, and with other weights where it is nudged."""
    made = run.with_name(name)
    shutil.copytree(run, made)
    config = yaml.safe_load((made / "config.yaml").read_text())
    (made / "config.yaml").write_text(yaml.safe_dump(config | changes))
    state = load_file(made / "weights.safetensors")
    state["head.bias"] += nudge
    save_file(state, made / "weights.safetensors")
    sign(made)
    return made


def found(logs: Path, **wanted: object) -> tuple[set[str], LeftOut]:
    members, left_out = find_members(logs, "track1", Wanted(["baseline"], **wanted))  # type: ignore[arg-type]
    return {member.name for member in members}, left_out


@pytest.fixture
def logs(two_members: list[Path]) -> Path:
    """seed0 and seed1 without a tag, hot with a tag, cold with another and not finished."""
    copied(two_members[0], "r-seed0-hot", 0.1, tag="hot")
    (copied(two_members[0], "r-seed1-7", 0.2, tag=7) / "finished.json").unlink()
    return two_members[0].parents[2]


def test_globs_fit_a_runs_name_or_its_path_and_tags_its_tag(logs: Path, two_members: list[Path]) -> None:
    seed0, seed1 = (run.name for run in two_members)
    assert found(logs)[0] == {seed0, seed1, "r-seed0-hot"}
    for runs, names in (
        (["*seed0*"], {seed0, "r-seed0-hot"}),
        (["baseline/*seed0"], {seed0}),
        (["*-seed1", "r-*"], {seed1, "r-seed0-hot"}),
        ([seed1], {seed1}),
        (["*seed[1-9]"], {seed1}),
    ):
        assert found(logs, runs=runs)[0] == names
    for tags, names in ((["hot"], {"r-seed0-hot"}), ([None], {seed0, seed1}), ([None, "hot"], found(logs)[0])):
        assert found(logs, tags=tags)[0] == names
    # A run that was not asked for is not left out, it is none of the call's.
    assert [folder.name for folder, _ in found(logs)[1]] == ["r-seed1-7"]
    assert found(logs, runs=["*-seed1"])[1] == found(logs, tags=["hot"])[1] == []
    with pytest.raises(FileNotFoundError, match=r"no finished run of baseline with the tag 7 in .* left out"):
        found(logs, tags=["7"])


def test_a_glob_of_stages_means_those_that_train_a_classifier(logs: Path, two_members: list[Path]) -> None:
    track = two_members[0].parents[1]
    (track / "moco").mkdir()
    config = yaml.safe_load((copied(two_members[0], "r", 0.1) / "config.yaml").read_text())
    shutil.move(two_members[0].with_name("r"), track / "moco/r")
    (track / "moco/r/config.yaml").write_text(yaml.safe_dump(config | {"module": {"dim": 128}}))
    sign(track / "moco/r")
    shutil.copytree(two_members[1], track / "fdg/damaged")
    (track / "fdg/damaged/config.yaml").write_text("]")
    (track / "notes.txt").write_text("no stage")

    def stages(*globs: str) -> tuple[list[str], set[str]]:
        members, left_out = find_members(logs, "track1", Wanted(globs))
        return sorted(member.title for member in members), {f"{run.parent.name}/{run.name}" for run, _ in left_out}

    classifiers = sorted(f"baseline/{name}" for name in found(logs)[0])
    assert stages("*") == stages("base*", "*") == (classifiers, {"baseline/r-seed1-7", "fdg/damaged"})
    assert stages("baseline", "moco") == (classifiers, {"baseline/r-seed1-7", "moco/r"})


def test_what_fits_no_run_lists_the_runs_there_are(logs: Path, two_members: list[Path]) -> None:
    there = rf"there are baseline/r-seed0-hot, baseline/r-seed1-7, .*, baseline/{two_members[1].name}$"
    with pytest.raises(FileNotFoundError, match=rf"track1 fits ensemble.runs=\*seed5\*: {there}"):
        found(logs, runs=["*seed0*", "*seed5*"])
    with pytest.raises(FileNotFoundError, match=rf"track1 fits ensemble.tags=warm: {there}"):
        found(logs, tags=["hot", "warm"])
    with pytest.raises(FileNotFoundError, match=rf"fits ensemble.runs and ensemble.tags together: {there}"):
        found(logs, runs=["*-seed1"], tags=["hot"])


def test_equal_weights_count_once(two_members: list[Path], predict: Callable[..., Path],
                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    copy = copied(two_members[0], "copy", 0.0, seed=5)
    results = predict()
    printed = capsys.readouterr().out
    assert f"left out {two_members[0]}: its weights are those of {copy} and count once" in printed
    voted = [member["run"] for member in json.loads((results / "ensemble.json").read_text())["members"]]
    assert voted == [str(copy), str(two_members[1])]  # the first by name


def test_members_share_a_split(two_members: list[Path]) -> None:
    logs, holdout = two_members[0].parents[2], {run.name for run in two_members}
    rock, water = (copied(two_members[0], name, nudge, split_name=f"leave_context_out-{name}")
                   for name, nudge in (("rock", 0.1), ("water", 0.2)))  # fmt: skip
    names, left_out = found(logs)  # holdout, be it the rarer one or not
    assert names == holdout
    assert left_out == [
        (run, f"its split is leave_context_out-{run.name}, not holdout (ensemble.split)") for run in (rock, water)
    ]
    assert found(logs, split="leave_context_out-rock")[0] == {"rock"}
    assert found(logs, split="leave_context_out*")[0] == {"rock", "water"}
    assert found(logs, split="*") == (holdout | {"rock", "water"}, [])
    there = r"holdout \(2 runs\), leave_context_out-rock \(1 run\), leave_context_out-water \(1 run\)"
    with pytest.raises(ValueError, match=rf"has a split that fits ensemble.split=none: there are {there}"):
        found(logs, split="none")
    for run in two_members:
        shutil.rmtree(run)
    with pytest.raises(ValueError, match="several splits, leave_context_out-rock .*: choose one with ensemble.split="):
        found(logs)
    shutil.rmtree(rock)
    assert found(logs)[0] == {"water"}


def test_the_command_lines_words(configure: Callable[..., object], places: list[str]) -> None:
    def wanted(*words: str) -> Wanted:
        cfg = configure("predict", "track=1", "ensemble=baselines", *places, *words)
        return read_settings(resolved(cfg)).wanted  # type: ignore[arg-type]

    assert wanted() == Wanted(["baseline"], [], [], None)
    made = wanted("ensemble.runs=[*seed0*,adapt/*-r0.[2-5]-*]", "ensemble.tags=[7,null,été]", "ensemble.split=none")
    assert made == Wanted(["baseline"], ["*seed0*", "adapt/*-r0.[2-5]-*"], ["7", None, "été"], "none")
    assert wanted("ensemble.runs=*seed[01]*", "ensemble.stages=fdg", "ensemble.tags=hot") == Wanted(
        ["fdg"], ["*seed[01]*"], ["hot"], None
    )


def test_a_votes_name_tells_what_was_set(configure: Callable[..., object], places: list[str]) -> None:
    def name(*words: str) -> str:
        return configure("predict", "track=1", *places, *words).vote_name  # type: ignore[attr-defined, no-any-return]

    assert name() == name("seed=3", "truth=labels.json", "report=true") == "all"
    assert name("ensemble=greedy", "tta=flip", "vote=soft") == "greedy-vote-soft-tta-flip"
    assert name("ensemble.runs=[*seed0*,b]", "ensemble.stages=[fdg]") == "all-runs-_seed0_+b-stages-fdg"
    long = [name(f"ensemble.runs=[{'x' * 300}{end}]") for end in "ab"]
    assert max(map(len, long)) < 70 and long[0] != long[1]
    with pytest.raises(ValueError, match="vote_name=a/b: expected a folder's name, without a path"):
        read_settings(resolved(configure("predict", "track=1", *places, "vote_name=a/b")))  # type: ignore[arg-type]
