"""Which runs of a track vote: those that ensemble= asks for, of one split and one label map, each network once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import NamedTuple

from src.digests import Digests
from src.prediction.members import LeftOut, Member, held_out, held_out_by, read_member
from src.progress import progress
from src.runs.lineage import fits
from src.runs.records import description_of

DEFAULT_SPLIT = "holdout"
"""train.py's default split: the members' if there are runs of several splits and ensemble.split names none."""


class Wanted(NamedTuple):
    """What ensemble= asks of a run.

    Attributes:
        stages: globs, of which one fits the name of its stage.
        runs: globs, of which one fits its folder's name or its path below <logs_dir>/<track.name>; none: any run.
        tags: its tag is one of these, None for a run without a tag; none: any run.
        split: a glob that fits the name of its split; None: DEFAULT_SPLIT where a run has it, else the only one.
    """

    stages: Sequence[str]
    runs: Sequence[str] = ()
    tags: Sequence[str | None] = ()
    split: str | None = None

    def words(self, joint: str) -> str:
        """What follows "run of": its stages joined by `joint`, then what else is asked for, except the split."""
        words = f" {joint} ".join("any stage" if stage == "*" else stage for stage in self.stages)
        if self.runs:
            words += f" whose name fits {' or '.join(self.runs)}"
        if self.tags:
            words += f" with the tag {' or '.join(map(str, self.tags))}"
        return words


def find_members(
    logs_dir: Path, data_name: str, wanted: Wanted, digests: Digests | None = None
) -> tuple[list[Member], LeftOut]:
    """The finished runs that fit, and the runs left out with the reason for each.

    Members must agree on the classes: runs whose classes are not those of most runs are left out. `digests` may know
    the runs' files.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: no stage is given; a glob, tag or split fits no run; several splits are there and none is chosen; or
            as many runs have one list of classes as another.
    """
    if not wanted.stages:
        raise ValueError("ensemble.stages is empty: name the stages whose runs vote, such as [fdg,adapt]")
    runs = logs_dir / data_name
    folders = find_runs(runs, wanted)
    digests = digests or Digests()
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter's lock
        read = pool.map(lambda folder: read_member(folder, digests.of), folders)
        found = list(progress(read, "reading finished runs", len(folders)))
    digests.save()
    members = [member for member in found if isinstance(member, Member)]
    left_out = [(folder, why) for folder, why in zip(folders, found, strict=True) if isinstance(why, str)]
    if not members:
        unfinished = f" ({len(left_out)} left out: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        stage = next((stage for stage in wanted.stages if re.fullmatch(r"\w+", stage)), "baseline")
        raise FileNotFoundError(
            f"no finished run of {wanted.words('or')} in {runs}{unfinished}: "
            f"train one (python train.py {words_for(data_name)} stage={stage}), or choose another ensemble="
        )
    for rule in (partial(of_one_split, glob=wanted.split), each_once, of_one_label_map):
        members, others = rule(members)
        left_out += others
    return members, left_out


def words_for(data_name: str) -> str:
    """What chooses a data set on the command line."""
    track = re.fullmatch(r"track(\d)", data_name)
    return f"track={track[1]}" if track else f"data=<the folder {data_name}>"


def find_runs(runs: Path, wanted: Wanted) -> list[Path]:
    """The folders of the runs that fit, finished or not, by stage and name.

    Raises:
        FileNotFoundError: there are runs, but a glob or tag fits none of them, or no run fits all of them.
    """
    stages = [path for glob in wanted.stages for path in sorted(runs.glob(glob)) if path.is_dir()]
    folders = [path for stage in dict.fromkeys(stages) for path in sorted(stage.glob("*")) if is_run(path)]
    # A glob such as * means the stages that train a classifier; one that was named is left out with a reason.
    folders = [path for path in folders if path.parent.name in wanted.stages or may_predict(path)]
    tags = {path: tag_of(path) for path in folders} if wanted.tags else {}
    by_glob = {glob: {path for path in folders if fits(path, glob)} for glob in wanted.runs}
    by_tag = {tag: {path for path in folders if tags[path] == tag} for tag in wanted.tags}
    asked = [set().union(*by.values()) for by in (by_glob, by_tag) if by]
    fitting = [path for path in folders if all(path in one for one in asked)]
    if folders:
        useless = [f"ensemble.runs={glob}" for glob, some in by_glob.items() if not some]
        useless += [f"ensemble.tags={tag}" for tag, some in by_tag.items() if not some]
        if useless or not fitting:
            names = [f"{path.parent.name}/{path.name}" for path in folders]
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            raise FileNotFoundError(
                f"no run of {wanted._replace(runs=(), tags=()).words('or')} in {runs} fits "
                f"{useless[0] if useless else 'ensemble.runs and ensemble.tags together'}: there are "
                f"{', '.join(names[:20])}{more}"
            )
    return fitting


def is_run(folder: Path) -> bool:
    """Whether a folder below a stage's is meant to be a run, whatever its state."""
    return any((folder / name).exists() for name in ("config.yaml", "finished.json", "weights.safetensors"))


def may_predict(folder: Path) -> bool:
    """Whether a run is of a stage that trains a classifier, or its settings cannot be read and nobody knows."""
    return bool(description_of(folder).get("kind", "classifier") == "classifier")


def tag_of(folder: Path) -> str | None:
    """A run's tag, None where it has none or cannot be read."""
    tag = description_of(folder).get("tag")
    return None if tag is None else str(tag)


def of_one_split(members: Sequence[Member], glob: str | None) -> tuple[list[Member], LeftOut]:
    """The members of the split that `glob` names, or of DEFAULT_SPLIT, or of the only one; and the others.

    What one split holds out another may train on: figures on held-out images would be too good.

    Raises:
        ValueError: it fits none, or it is None and there are several.
    """
    counts = Counter(member.split for member in members)
    there = ", ".join(f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in sorted(counts.items()))
    if glob is None:
        glob = DEFAULT_SPLIT if DEFAULT_SPLIT in counts else next(iter(counts))
        if len(counts) > 1 and glob != DEFAULT_SPLIT:
            raise ValueError(f"the runs have several splits, {there}: choose one with ensemble.split=, or '*' for all")
    if not any(fnmatchcase(name, glob) for name in counts):
        raise ValueError(f"no finished run has a split that fits ensemble.split={glob}: there are {there}")
    others = [member for member in members if not fnmatchcase(member.split, glob)]
    left_out = [(other.folder, f"its split is {other.split}, not {glob} (ensemble.split)") for other in others]
    return [member for member in members if member not in others], left_out


def each_once(members: Sequence[Member]) -> tuple[list[Member], LeftOut]:
    """The first member with each set of weights, and the others: a copied run gets no second vote."""
    first: dict[str, Member] = {}
    left_out = []
    for member in members:
        if first.setdefault(member.digest, member) is not member:
            left_out.append((member.folder, f"its weights are those of {first[member.digest].folder} and count once"))
    return list(first.values()), left_out


def of_one_label_map(members: Sequence[Member]) -> tuple[list[Member], LeftOut]:
    """The members whose classes are those of most of them, and the others.

    Raises:
        ValueError: two lists of classes are equally common.
    """
    maps = Counter(tuple(member.classes) for member in members).most_common(2)
    if len(maps) > 1 and maps[0][1] == maps[1][1]:
        first, second = (next(m for m in members if tuple(m.classes) == classes) for classes, _ in maps)
        raise ValueError(
            f"the members {first.folder} and {second.folder} were trained with different label maps: "
            "remove or retrain one of them"
        )
    strangers = [member for member in members if tuple(member.classes) != maps[0][0]]
    left_out = [(member.folder, f"its classes are not those of the {maps[0][1]} other runs") for member in strangers]
    return [member for member in members if member not in strangers], left_out


def find_beside(
    logs_dir: Path, data_name: str, stages: Sequence[str], members: Sequence[Member], digests: Digests | None = None
) -> list[Member]:
    """The other finished runs of some stages that can be compared with the members image by image.

    Those have the members' classes, split and held-out images, and weights of their own; none where the members
    differ in what they hold out.

    Args:
        logs_dir, data_name: where the runs lie.
        stages: names or globs.
        members: who votes.
        digests: may know the runs' files.
    """
    digests = digests or Digests()
    try:
        parts = held_out(members)
    except (OSError, ValueError):
        parts = {}
    found, seen = [], {member.digest for member in members}
    for folder in find_runs(logs_dir / data_name, Wanted(stages)):
        other = read_member(folder, digests.of) if may_predict(folder) else ""
        if isinstance(other, str) or other.digest in seen or other.classes != members[0].classes:
            continue
        if other.split not in {member.split for member in members} or (parts and held_out_by(other) != parts):
            continue
        seen.add(other.digest)
        found.append(other)
    digests.save()
    return found
