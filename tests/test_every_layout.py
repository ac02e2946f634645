"""Every stage runs on every layout that is found, with `data=` alone (slow): the table of docs/data.md."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.overrides import with_data_set
from tests.conftest import ROOT, TINY

STAGES = ("baseline", "wsss", "moco", "finetune", "fdg", "adapt")


def by_context(data: Path, root: Path) -> str:
    shutil.copytree(data / "data/public_dg_0416/train", root)
    return str(root)


def by_class(data: Path, root: Path) -> str:
    shutil.copytree(data / "data/public_ood_0412_nodomainlabel/train", root)
    return str(root)


def in_parts(data: Path, root: Path) -> str:
    """train/<context>/<class>/, val/ of every third image and test/ of one context."""
    by_context(data, root / "train")
    for i, path in enumerate(sorted((root / "train").rglob("*.jpg"))):
        if i % 3 == 0:
            other = root / "val" / path.relative_to(root / "train")
            other.parent.mkdir(parents=True, exist_ok=True)
            path.rename(other)
    (root / "test").mkdir()
    shutil.move(str(root / "train/rock"), str(root / "test/rock"))
    return str(root)


def classes_in_parts(data: Path, root: Path) -> str:
    by_class(data, root / "train")
    shutil.copytree(data / "data/public_ood_0412_nodomainlabel/public_test_flat", root / "test")
    return str(root)


def by_class_and_context(data: Path, root: Path) -> str:
    for path in sorted((data / "data/public_dg_0416/train").rglob("*.jpg")):
        context, name = path.parts[-3:-1]
        (root / name / context).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / name / context / path.name)
    return str(root)


def table(data: Path, root: Path) -> str:
    lines = ["path,label,context,split"]
    root.mkdir()
    for i, path in enumerate(sorted((data / "data/public_dg_0416/train").rglob("*.jpg"))):
        shutil.copy(path, root / f"{i}.jpg")
        lines.append(f"{i}.jpg,{path.parts[-2]},{path.parts[-3]},{'val' if i % 4 == 0 else 'train'}")
    (root / "images.csv").write_text("\n".join(lines))
    return str(root / "images.csv")


LAYOUTS: dict[str, tuple[Callable[[Path, Path], str], list[str]]] = {
    "`<class>/`": (by_class, []),
    "`train/<class>/`, `test/`": (classes_in_parts, []),
    "`<context>/<class>/`": (by_context, []),
    "`train\\|val\\|test/<context>/<class>/`": (in_parts, []),
    "`<class>/<context>/`": (by_class_and_context, ["track.layout=<class>/<context>"]),
    "a CSV": (table, []),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stage_runs_on_every_layout(
    layout: str, data: Path, tmp_path: Path, configure: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    import train

    make, words = LAYOUTS[layout]
    place = make(data, tmp_path / "my photos")
    for stage in STAGES:
        small = ["trainer.max_epochs=1", f"logs_dir={tmp_path / 'logs'}", f"manifest_dir={tmp_path / 'manifests'}"]
        more = {"moco": ["module.queue_size=32"], "wsss": ["callbacks.masks.processes=1"]}.get(stage, [])
        given = with_data_set([f"data={place}", f"stage={stage}", *TINY, *small, *more, *words])
        train.train(configure("train", *given))  # type: ignore[arg-type]
    finished = {path.parent.parent.name for path in tmp_path.glob("logs/*/*/*/finished.json")}
    assert finished == set(STAGES)
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"images" if make is table else "my_photos"}


def test_the_table_of_the_documents_is_what_is_tested() -> None:
    text = (ROOT / "docs/data.md").read_text()
    rows = re.findall(r"^\| (`.+?`|`.+?`, `test/`|a CSV) \| (.*) \|$", text, re.M)
    assert {row[0].strip() for row in rows} >= set(LAYOUTS)
    for name, cells in rows:
        if name.strip() in LAYOUTS:
            assert cells.count("yes") == len(STAGES), name
