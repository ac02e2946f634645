"""The settings of a prediction, as conf/predict.yaml has them: read once at the entry point, and checked."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from src.digests import Digests
from src.numbers import is_number
from src.precision import check_precision
from src.prediction.selection import Wanted
from src.prediction.voting import RULES, SELECTIONS

SELECT = ("all", *SELECTIONS, "soup")


class PredictionSettings(NamedTuple):
    """One prediction.

    Attributes:
        data_name: the name of the data set whose runs vote.
        logs_dir: where the runs lie.
        folder: where results go, <results_dir>/<track.name>; it holds the latest vote.
        vote_name: of the folder in its votes/ that keeps this vote.
        wanted: which runs vote.
        select: one of SELECT.
        rounds: choices of select=greedy and select=diverse.
        vote: one of voting.RULES.
        seed: of the bootstrap.
        images: predict the images of this folder instead of the test images.
        truth: labels of the test images.
        output: of `images`, .csv or .json.
        top: classes per image there.
        export: format to write the members' networks in, one of export.NEEDS, instead of predicting.
        license: of the networks, in the model card of export=hf.
        report: whether report.html is wanted.
        compare: globs of stages whose finished runs the report compares with the members.
        object_masks: folder of masks that mirrors the data root, for the report.
        logged: whether a logger gets the report.
        members_at_once: networks that share a pass over the images.
        verify: read every file again, whatever is remembered of it.
        max_pixels: of an image; 0: any number.
        on_bad_image: "skip": a test image that cannot be read gets a guess; "stop": nothing is written.
        max_bad_share: share of such images above which skip stops too.
        precision: the trainer's.
        tta: settings of the test-time augmentation.
        composed: all of them, for a reader of the report.
    """

    data_name: str
    logs_dir: Path
    folder: Path
    vote_name: str
    wanted: Wanted
    select: str
    rounds: int
    vote: str
    seed: int
    images: Path | None
    truth: Path | None
    output: Path
    top: int
    export: str | None
    license: str
    report: bool
    compare: list[str]
    object_masks: Path | None
    logged: bool
    members_at_once: int
    verify: bool
    max_pixels: int
    on_bad_image: str
    max_bad_share: float
    precision: str
    tta: dict[str, Any]
    composed: dict[str, Any]

    @property
    def chooses(self) -> bool:
        """Whether members are chosen on held-out images."""
        return self.select in SELECTIONS

    @property
    def vote_folder(self) -> Path:
        """The folder that keeps this vote."""
        return self.folder / "votes" / self.vote_name

    def digests(self) -> Digests:
        """The digests that earlier predictions remember, of runs and images."""
        return Digests(self.folder / "members" / "digests.json", self.verify)


def read_settings(composed: Mapping[str, Any]) -> PredictionSettings:
    """The settings of a call, from the composed conf/predict.yaml.

    Raises:
        ValueError: they cannot be fulfilled.
    """
    ensemble = composed["ensemble"]
    check_types(composed)
    settings = PredictionSettings(
        data_name=composed["track"]["name"],
        logs_dir=Path(composed["logs_dir"]),
        folder=Path(composed["run_dir"]),
        vote_name=composed["vote_name"],
        wanted=Wanted(
            stages=words(ensemble["stages"]),
            runs=words(ensemble["runs"]),
            tags=[None if tag in (None, "null") else str(tag) for tag in listed(ensemble["tags"])],
            split=ensemble["split"],
        ),
        select=ensemble["select"],
        rounds=ensemble.get("rounds", 0),
        vote=composed["vote"],
        seed=composed["seed"],
        images=Path(composed["images"]) if composed["images"] else None,
        truth=Path(composed["truth"]) if composed["truth"] else None,
        output=Path(composed["output"]),
        top=composed["top"],
        export=composed["export"],
        license=str(composed["license"]),
        report=composed["report"],
        compare=words(composed["compare"]),
        object_masks=Path(composed["object_masks"]) if composed["object_masks"] else None,
        logged=bool(composed["logger"]),
        members_at_once=composed["members_at_once"],
        verify=composed["verify"],
        max_pixels=composed["datamodule"]["max_pixels"],
        on_bad_image=composed["datamodule"]["on_bad_image"],
        max_bad_share=composed["datamodule"]["max_bad_share"],
        precision=composed["trainer"]["precision"],
        tta=composed["tta"],
        composed=dict(composed),
    )
    check(settings)
    return settings


def listed(value: Any) -> list[Any]:
    """A setting that is a list; a single value need not be in one, and null is an empty one."""
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def words(value: Any) -> list[str]:
    """`listed`, as texts: a name may look like a number."""
    return [str(one) for one in listed(value)]


def check_types(composed: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that are not of their kind: text for a number, or a number below the least."""
    ensemble = composed["ensemble"]
    rounds = {"ensemble.rounds": ensemble["rounds"]} if "rounds" in ensemble else {}
    for name, value, least in (
        ("top", composed["top"], 1),
        ("members_at_once", composed["members_at_once"], 1),
        ("seed", composed["seed"], 0),
        *((name, value, 1) for name, value in rounds.items()),
    ):
        if not is_number(value, least, whole=True):
            raise ValueError(f"{name} is {value}: expected a whole number of at least {least}")
    if composed["seed"] >= 2**32:
        raise ValueError(f"seed is {composed['seed']}: expected a number from 0 to 2^32 - 1")
    check_precision(composed["trainer"]["precision"])
    for name in ("report", "verify"):
        if type(composed[name]) is not bool:
            raise ValueError(f"{name} is {composed[name]}: expected true or false")
    split, text = ensemble["split"], "expected a glob for the name of a split in quotes, or null"
    if split is not None and not (isinstance(split, str) and split):
        raise ValueError(f"ensemble.split is {split}: {text}")
    for name in ("truth", "images", "object_masks", "export"):
        if composed[name] is not None and not isinstance(composed[name], str):
            raise ValueError(f"{name} is {composed[name]}: expected a text, or null to leave it out")
    share = composed["datamodule"]["max_bad_share"]
    if not is_number(share, 0, 1):
        raise ValueError(f"datamodule.max_bad_share is {share}: expected a share from 0 to 1")


def check(settings: PredictionSettings) -> None:
    """Raise ValueError for settings that cannot be fulfilled, before anything is computed."""
    for name, value, choices in (
        ("vote", settings.vote, tuple(RULES)),
        ("ensemble.select", settings.select, SELECT),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value} is not a rule: choose one of {', '.join(choices)}")
    if not settings.vote_name.strip(".") or Path(settings.vote_name).name != settings.vote_name:
        raise ValueError(f"vote_name={settings.vote_name}: expected a folder's name, without a path")
    if settings.output.suffix not in (".csv", ".json"):
        raise ValueError(f"output={settings.output}: expected a name that ends in .csv or .json")
    if settings.export and settings.tta["_target_"] != "src.prediction.tta.Plain":
        raise ValueError("export= writes networks, which see an image once: leave tta= out")
    if settings.images and (settings.report or settings.truth):
        raise ValueError("images= only predicts: report= and truth= are about the test images, leave them out")
    needed = {"jinja2": "jinja2", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if (settings.report or settings.logged) and missing:
        raise ValueError(f"report=true and logger= need {' and '.join(missing)}: pip install {' '.join(missing)}")
