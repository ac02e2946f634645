import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from src.callbacks import checkpoint_io
from src.callbacks.checkpoint_io import AtomicCheckpointIO, verifies
from src.runs import continuation, directory, lineage, records

SPLIT = {"train": ["a.jpg", "b.jpg"], "in_domain": ["c.jpg"], "out_of_domain": []}


def settings(folder: Path, **more: object) -> DictConfig:
    return OmegaConf.create(
        {"run_dir": str(folder), "resume": False, "lr": 0.1, "logger": "csv", "model": {"model_name": "net"}, **more}
    )


def claim(folder: Path, split: dict[str, list[str]] = SPLIT, **more: object) -> directory.Run:
    return directory.claim(settings(folder, **more), ["car"], split, lineage.NOTHING)


def checkpoint(folder: Path, name: str = "last.ckpt", value: float = 0.0) -> Path:
    AtomicCheckpointIO().save_checkpoint({"value": torch.tensor(value)}, folder / name)
    return folder / name


def test_a_live_run_is_refused_and_a_dead_one_can_be_started_over(tmp_path: Path) -> None:
    with claim(tmp_path / "run") as run:
        assert run.checkpoint is None and not run.finished
        with pytest.raises(ValueError, match="is being trained by another process"):
            claim(tmp_path / "run")
    with claim(tmp_path / "run", lr=0.2):  # it never wrote a checkpoint: nothing to lose
        assert records.read_config(tmp_path / "run")["lr"] == 0.2


def test_resume_takes_the_newest_checkpoint_that_verifies(tmp_path: Path) -> None:
    with claim(tmp_path):
        old, new = checkpoint(tmp_path, "best.ckpt"), checkpoint(tmp_path, "last.ckpt", 1.0)
        os.utime(old, (1, 1))
    with claim(tmp_path, resume=True, logger="wandb") as run:
        assert run.checkpoint == new
    data = bytearray(new.read_bytes())
    data[len(data) // 2] ^= 1
    new.write_bytes(data)
    with claim(tmp_path, resume=True) as run:
        assert run.checkpoint == old
    old.unlink()
    with pytest.raises(ValueError, match="every checkpoint in .* is damaged"):
        claim(tmp_path, resume=True)


def test_other_settings_and_another_split_are_refused(tmp_path: Path) -> None:
    with claim(tmp_path):
        checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(lr: 0.1 there, 0.3 here; new: not set there, 1 here\)"):
        claim(tmp_path, resume=True, lr=0.3, new=1)
    with pytest.raises(ValueError, match="the data, the split, the masks, the teachers, the networks or the weights"):
        claim(tmp_path, {**SPLIT, "train": ["a.jpg"]}, resume=True)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, value=1.0)

    class Bomb:
        def __reduce__(self) -> str:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"could not write .* \(No space left on device\); what was there is unchanged"):
        AtomicCheckpointIO().save_checkpoint({"value": Bomb()}, path)
    assert verifies(path) and AtomicCheckpointIO().load_checkpoint(path)["value"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_whatever_file_a_kill_leaves_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path, value=1.0)

    def killed(*names: object) -> None:
        raise KeyboardInterrupt

    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: replace(a, b) if str(b).endswith("sha256") else killed())
    with pytest.raises(KeyboardInterrupt):  # between the digest and the checkpoint
        checkpoint(tmp_path, value=2.0)
    assert verifies(path) and AtomicCheckpointIO().load_checkpoint(path)["value"] == 1
    monkeypatch.undo()
    checkpoint(tmp_path, value=3.0)
    assert verifies(path)


def test_a_checkpoint_with_code_in_it_does_not_load(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    AtomicCheckpointIO().save_checkpoint({"value": Code()}, tmp_path / "x.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt")


def test_inheritance(tmp_path: Path) -> None:
    folder = tmp_path / "track2" / "moco" / "run"
    before = lineage.Predecessors(folder, None)
    with claim(folder) as run:
        (folder / "weights.safetensors").write_bytes(b"w")
        directory.finish(run, {"val/in_domain/accuracy": 0.5}, passes=3)
    assert lineage.inheritance(before, "net", ["car"], SPLIT).images == {"a.jpg", "b.jpg"}
    with pytest.raises(ValueError, match=r"has the backbone net, this run other: .*python train.py track=2 stage=moco"):
        lineage.inheritance(before, "other", ["car"], SPLIT)
    with pytest.raises(ValueError, match="other classes"):
        lineage.inheritance(before, "net", ["bus"], SPLIT)
    with pytest.raises(ValueError, match=r"trained on 1 images that this run holds out \(first: b.jpg\)"):
        lineage.inheritance(before, "net", ["car"], {"train": ["c.jpg"], "in_domain": ["b.jpg"]})
    assert json.loads((folder / "finished.json").read_text())["metrics"] == {"val/in_domain/accuracy": 0.5}
    (folder / "weights.safetensors").write_bytes(b"v")
    with pytest.raises(ValueError, match="is damaged"):
        lineage.inheritance(before, "net", ["car"], SPLIT)


def test_masks_are_inherited_as_weights_are(tmp_path: Path) -> None:
    folder = tmp_path / "track1" / "wsss" / "run"
    masks = lineage.Predecessors(None, folder / "masks.json")
    with claim(folder):
        (folder / "weights.safetensors").write_bytes(b"w")
        (folder / "masks.json").write_text("[]")
    made = lineage.inheritance(masks, "any backbone", ["car"], SPLIT)
    assert made.images == {"a.jpg", "b.jpg"} and made.masks_sha256 and not made.weights_sha256
    with pytest.raises(ValueError, match=r"trained on 1 images .*first: python train.py track=1 stage=wsss$"):
        lineage.inheritance(masks, "net", ["car"], {"train": ["c.jpg"], "in_domain": ["b.jpg"]})
    elsewhere = tmp_path / "masks.json"
    elsewhere.write_text("[]")
    assert lineage.inheritance(lineage.Predecessors(None, elsewhere), "net", ["bus"], SPLIT).images == set()


def test_another_start_is_another_run_and_a_moved_one_is_the_same(tmp_path: Path) -> None:
    with claim(tmp_path / "a", picture=f"{tmp_path / 'a'}/pictures"):
        checkpoint(tmp_path / "a")
    os.rename(tmp_path / "a", tmp_path / "b")
    with claim(tmp_path / "b", picture=f"{tmp_path / 'b'}/pictures", resume=True) as run:
        assert run.checkpoint == tmp_path / "b/last.ckpt"
    for more in (
        lineage.Inheritance(set(), "digest of other weights", None),
        lineage.Inheritance(set(), None, None, {"taught_by": ["digest of a teacher"]}),
    ):
        with pytest.raises(ValueError, match=r"weights to start from .init.* changed"):
            directory.claim(
                settings(tmp_path / "b", picture=f"{tmp_path / 'b'}/pictures", resume=True), ["car"], SPLIT, more
            )


def test_metrics_of_a_run_interrupted_before_its_end(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,seconds,val/in_domain/accuracy,other\n0,3,1.0,0.25,1\n1,6,1.0,0.5,\n"
    )
    assert records.last_row(tmp_path / "metrics.csv") == {"val/in_domain/accuracy": 0.5}


class Full(io.BytesIO):
    """A file on a disk that is full after a few bytes."""

    def write(self, data: object) -> int:
        if self.tell() > 200:
            raise OSError(28, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = checkpoint(tmp_path).read_bytes()

    @contextmanager
    def full(path: Path) -> Iterator[Full]:
        yield Full()

    monkeypatch.setattr(checkpoint_io, "write_whole", full)
    with pytest.raises(OSError, match="No space left on device"):  # torch makes a RuntimeError of it
        AtomicCheckpointIO().save_checkpoint({"value": torch.zeros(3000)}, tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == before and verifies(tmp_path / "last.ckpt")


def test_damaged_files_of_a_run_end_in_a_sentence(tmp_path: Path) -> None:
    for name, content, words in (
        ("config.yaml", "a: [1,\nb: }", "config.yaml is damaged"),
        ("config.yaml", "", "config.yaml is damaged: it holds no settings"),
        ("split.json", "{", "split.json is not valid JSON"),
        ("finished.json", "{}", "finished.json is damaged"),
    ):
        folder = tmp_path / f"{name}{len(content)}"
        with claim(folder):
            checkpoint(folder)
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=words):
            claim(folder, resume=True)
    with claim(folder := tmp_path / "binary"):
        checkpoint(folder)
    (folder / "last.ckpt.sha256").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="every checkpoint in .* is damaged"):
        claim(folder, resume=True)


def test_a_damaged_checkpoint_that_is_passed_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claim(tmp_path):
        AtomicCheckpointIO().save_checkpoint({"epoch": 3, "global_step": 48}, tmp_path / "best.ckpt")
        os.utime(tmp_path / "best.ckpt", (1, 1))
        (checkpoint(tmp_path)).write_bytes(b"cut")
    with claim(tmp_path, resume=True) as run:
        assert run.checkpoint == tmp_path / "best.ckpt"
    assert "last.ckpt is damaged; best.ckpt goes back to epoch 4, step 48" in capsys.readouterr().out


@pytest.mark.parametrize("end", [-1, 0, None])
def test_the_schedule_must_know_the_end(end: int | None) -> None:
    cfg = OmegaConf.create(
        {"seed": 0, "trainer": {"max_epochs": end, "precision": 32}, "dataset": {"images": 9},
         "module": {"backbone": {}}}
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"trainer.max_epochs is {end}: expected at least 1"):
        directory.check_settings(cfg)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"classes.json is not valid JSON: .* write them into it: \[\"car\"\]$"),
        ("[1]", r"classes.json is damaged: .* write them into it: \[\"car\"\]$"),
        ('["bus"]', r"has other classes than the data set \(id 0 is 'bus' there, 'car' here\)"),
        ('["car", "bus"]', r"\(id 1 is 'bus' there, nothing here\)"),
        (None, r"classes.json, which holds the run's class names by id, is missing: "),
    ],
)
def test_classes_that_nobody_knows_are_not_continued_with(tmp_path: Path, text: str | None, sentence: str) -> None:
    with claim(tmp_path):
        checkpoint(tmp_path)
    (tmp_path / "classes.json").unlink()
    if text is not None:
        (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        claim(tmp_path, resume=True)


def test_files_that_a_continued_run_lacks_are_named(tmp_path: Path) -> None:
    with claim(tmp_path):
        checkpoint(tmp_path)
    (tmp_path / "split.json").unlink()
    with pytest.raises(FileNotFoundError, match="split.json, which holds the run's images of every part, is missing"):
        claim(tmp_path, resume=True)
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    with pytest.raises(ValueError, match="config.yaml is damaged: it has no run_dir"):
        claim(tmp_path, resume=True)


def test_a_finished_run_without_its_weights_says_how_to_get_them_back(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        checkpoint(tmp_path)
        (tmp_path / "weights.safetensors").write_bytes(b"w")
        directory.finish(run, {}, passes=1)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights.safetensors is missing; .* remove .*/finished.json: .* resume=true"):
        claim(tmp_path, resume=True)


def whole() -> dict[str, Any]:
    """A checkpoint of torch.nn.Linear(2, 1)."""
    group = {"lr": 0.1, "params": [0, 1]}
    return {"state_dict": torch.nn.Linear(2, 1).state_dict(), "loops": {}, "callbacks": {}, "epoch": 1,
            "global_step": 2, "pytorch-lightning_version": "2", "lr_schedulers": [{"base_lrs": [0.1]}],
            "optimizer_states": [{"state": {}, "param_groups": [group]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "state_dict",
            torch.nn.Linear(2, 3).state_dict(),
            r"its tensor weight has the shape \[3, 2\], and the network",
        ),
        ("state_dict", {}, "it lacks the tensor weight"),
        ("optimizer_states", None, "its optimizer_states is NoneType"),
        ("optimizer_states", [{}], "its optimizer_states have no state and param_groups"),
        ("optimizer_states", [{"state": {}, "param_groups": [{"lr": "x", "params": []}]}], "the lr in .* is 'x'"),
        ("lr_schedulers", [{"base_lrs": ["x"]}], "the base_lrs in its lr_schedulers is"),
        ("NicoDataModule", {"epoch": "x"}, "where in the order of the images"),
    ],
)
def test_a_checkpoint_that_is_not_the_runs_is_refused(tmp_path: Path, key: str, value: Any, sentence: str) -> None:
    network = {"module": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}}
    with claim(tmp_path, **network):
        AtomicCheckpointIO().save_checkpoint(whole(), tmp_path / "last.ckpt")
    with claim(tmp_path, **network, resume=True) as run:
        assert run.checkpoint
    AtomicCheckpointIO().save_checkpoint({**whole(), key: value}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=rf"not this run's \(.*{sentence}.*remove it, and the run starts anew"):
        claim(tmp_path, **network, resume=True)
    loaded = whole()
    del loaded["optimizer_states"]
    assert continuation.fault_of(loaded) == "it has no optimizer_states"
