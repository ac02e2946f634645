"""Names of folders, files and tags are anybody's: whatever a file system holds works, as it stands."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from markupsafe import escape

from src.cli import instantiate
from src.overrides import literal, quoted, unquoted
from tests.conftest import TINY, command

NAMES = [
    "naïve café", "数据", "שלום", "a$b (1)", "x=y & z's", "#1, ~<b>", 'q"uote', "back\\slash", "x" * 200, "=cmd|'!A0",
    "-dash", "@at", "$x$ ^_{2}", "%d%s", "{brace}", "[list]", "${HOME}", "a${b", "x\\${y}", "null", "true", "1e3",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_typed_path_reaches_the_settings_as_it_stands(
    configure: Callable[..., object], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    cfg = configure("train", f"data_root={folder}", f"tag={name}", "track=1")
    assert cfg.data_root == str(folder)  # type: ignore[attr-defined]
    assert cfg.tag == (None if name == "null" else name)  # type: ignore[attr-defined]
    word = f"data_root={folder}"
    assert quoted(quoted(word)) == quoted(word) and (unquoted(quoted(word)) == word or "${" in name)


class Kept:
    def __init__(self, text: str, items: list[str], nested: dict[str, str]) -> None:
        self.all = (text, items, nested)


@pytest.mark.parametrize("name", NAMES)
def test_instantiate_reads_a_text_once(name: str) -> None:
    from omegaconf import OmegaConf

    settings = OmegaConf.create(
        literal({"_target_": f"{__name__}.Kept", "text": name, "items": [name], "nested": {"k": name}})
    )
    assert instantiate(settings).all == (name, [name], {"k": name})


@pytest.mark.slow
def test_every_stage_takes_every_name(tmp_path: Path) -> None:
    root, contexts = tmp_path / "da ta, (1) 数 ${HOME}" / "d", ("grass", "1,5", "tom's (2)", "${seed}", "水")
    noise = np.random.default_rng(0)

    def put(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = cv2.GaussianBlur(noise.integers(0, 255, (40, 48, 3), np.uint8), (0, 0), 3)
        path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())

    for context in contexts:
        for name in NAMES:
            for i in range(2):
                put(root / "public_dg_0416/train" / context / name / f"{i} é,=$(x)'\"#~&<>.jpg")
    tests = ["=1+1.jpg", "-x.jpg", "数 据.jpg", "a,b;c.jpg", "q\"u'o.jpg", "$(touch x).jpg", "${HOME}.jpg"]
    for name in tests:
        put(root / "public_dg_0416/public_test_flat" / name)
    places = [f"data_root={root}", f"manifest_dir={tmp_path / 'dataset_json'}", f"logs_dir={tmp_path / 'lo gs = {x}'}"]
    logs = tmp_path / "lo gs = {x}/track1"

    def run(script: str, *words: str) -> str:
        done = command(script, *places, *words)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
        return done.stdout

    def train(stage: str, *words: str) -> Path:
        made = set(logs.glob(f"{stage}/*"))
        run("train.py", *TINY, "trainer.max_epochs=1", "track=1", f"stage={stage}", "tag=my tag (1), é=$x", *words)
        (new,) = set(logs.glob(f"{stage}/*")) - made
        return new

    baseline = train("baseline", "mixing=mixup", "logger=wandb")
    settings = yaml.safe_load((baseline / "config.yaml").read_text())
    assert settings["data_root"] == str(root) and settings["tag"] == "my tag (1), é=$x"
    assert sorted(settings["dataset"]["contexts"]) == sorted(contexts)
    wsss = train("wsss", f"init={baseline}", "callbacks.masks.processes=1", "module.scales=[1.0]")
    masks = f"masks={wsss / 'track1_train_with_mask_label.json'}"
    finetune = train("finetune", "init=none", masks)
    train("fdg", f"init={finetune}", masks, "datamodule.batch_size=8")
    train("moco", "module.queue_size=16")
    left_out = train("baseline", "split=leave_context_out", "split.contexts=[tom's (2),${seed}]".replace("$", "\\$"))
    split = json.loads((left_out / "split.json").read_text())
    assert {path.split("/")[2] for path in split["out_of_domain"]} == {"tom's (2)", "${seed}"}

    results = f"results_dir={tmp_path / 're sults (2)'}"
    predict = ["track=1", "scale=demo", "datamodule.num_workers=0", "ensemble=baselines", results]
    truth = tmp_path / "tru,th (1).json"
    truth.write_text(json.dumps({name: i for i, name in enumerate(tests)}))
    run("predict.py", *predict, "report=true", f"truth={truth}")
    written = tmp_path / "re sults (2)/track1"
    assert sorted(json.loads((written / "prediction.json").read_text())) == sorted(tests)
    page = (written / "report.html").read_text()
    classes = json.loads((baseline / "classes.json").read_text())
    assert "<b>" not in page and all(str(escape(name)) in page for name in classes[: len(tests)])
    run("predict.py", *predict, f"images={root / 'public_dg_0416/public_test_flat'}")
    rows = list(csv.reader(open(written / "images.csv", newline="")))
    assert len(rows) == len(tests) + 1
    assert not any(cell.startswith(("=", "+", "@", "-")) for row in rows for cell in row)
