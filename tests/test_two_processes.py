"""Two processes of a training: what goes wrong on one of them alone, and shares that are not equal (slow)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only

import train
from src import cli
from src.callbacks.checkpoint_io import verifies
from src.callbacks.mask_writer import MaskWriter
from src.data.mask_files import decode_mask
from src.data.sampler import KeyedSampler
from src.datamodules.nico import NicoDataModule
from src.lightning_modules.moco import MoCo
from src.metrics import ContextAccuracy
from tests.conftest import ROOT, TINY
from tests.test_attacks import nobody_is_left

pytestmark = [pytest.mark.slow, pytest.mark.training]

# Lightning starts the second process with the words of the first: both run this script, and thus its hook.
START = """
import os, sys
sys.path.insert(0, os.getcwd())
rank = int(os.environ.get("LOCAL_RANK", 0))
{hook}
__file__ = os.path.abspath("train.py")  # what a process that is spawned imports; sys.argv keeps this script
exec(compile(open(__file__).read(), __file__, "exec"))
"""
BASELINE = ["track=1", "stage=baseline"]
WSSS = ["track=1", "stage=wsss", "trainer.max_epochs=1", "callbacks.masks.processes=1"]
Train = Callable[..., Path]


def two(folder: Path, words: list[str], hook: str = "") -> tuple[int, str, str]:
    """Train with two processes, and return the exit code and what they said; nobody may be left afterwards."""
    script = folder / "start.py"
    script.write_text(START.format(hook=hook))
    with subprocess.Popen([sys.executable, str(script), *TINY, *words, "trainer=ddp_cpu"], cwd=ROOT, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        out, err = process.communicate(timeout=900)
    assert nobody_is_left(process.pid)
    return process.returncode, out, err


def reasons(err: str) -> list[str]:
    """The sentences of the processes that failed, without that of one that was left alone."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err, err[-3000:]
    return [line for line in errors if "another process of this training has stopped" not in line]


@pytest.fixture
def own(data: Path, tmp_path: Path) -> list[str]:
    """Words for a copy of the data, which may be changed."""
    shutil.copytree(data / "data", tmp_path / "data")
    return [f"{name}={tmp_path / folder}" for name, folder in
            (("data_root", "data"), ("manifest_dir", "dataset_json"), ("logs_dir", "logs"))]  # fmt: skip


def datamodule(*words: str) -> NicoDataModule:
    made: NicoDataModule = cli.instantiate(cli.composed("train", *TINY, *words).datamodule)
    made.prepare_data()
    made.setup()
    return made


def nothing_is_half_written(folder: Path) -> None:
    """What is there is whole."""
    assert all(verifies(path) for path in folder.rglob("*.ckpt"))
    assert all(decode_mask(path).size for path in folder.rglob("masks/**/*.png"))
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize(("rank", "part"), [(1, "train"), (0, "in_domain")])
def test_a_bad_image_that_one_process_reads_ends_both(own: list[str], tmp_path: Path, rank: int, part: str) -> None:
    paths = datamodule(*BASELINE, *own).split_paths[part]
    train = part == "train"
    sampler = KeyedSampler(len(paths), seed=0, batch_size=8, shuffle=train, drop_last=train, rank=rank, num_replicas=2)
    sampler.set_epoch(int(train))  # in the second epoch's second batch, or after the first epoch
    bad = tmp_path / "data" / paths[list(sampler)[9][1]]
    bad.write_bytes(bad.read_bytes()[:1000])
    code, _, err = two(tmp_path, [*BASELINE, *own, "trainer.max_epochs=3"])
    (reason,) = reasons(err)
    assert code and f"{bad} cannot be decoded" in reason
    nothing_is_half_written(tmp_path / "logs")
    assert not list(tmp_path.rglob("finished.json"))


def test_a_bad_image_among_those_that_masks_are_made_for(own: list[str], tmp_path: Path, train_run: Train) -> None:
    train_run(*BASELINE, *own, "trainer.max_epochs=1")
    held_out = set((made := datamodule(*WSSS, *own)).split_paths["in_domain"])
    shares = [(i, row.image_path) for i, row in enumerate(made.rows) if row.image_path in held_out and i % 2]
    bad = tmp_path / "data" / shares[-1][1]  # in the second process's share, and in no training batch
    bad.write_bytes(bad.read_bytes()[:1000])
    code, _, err = two(tmp_path, [*WSSS, *own])
    (reason,) = reasons(err)
    assert code and f"{bad} cannot be decoded" in reason
    nothing_is_half_written(tmp_path / "logs")
    assert not list(tmp_path.rglob("*_with_mask_label.json")) and not list(tmp_path.glob("**/wsss/*/finished.json"))
    bad.write_bytes((tmp_path / "data" / shares[0][1]).read_bytes())
    code, out, err = two(tmp_path, [*WSSS, *own, "resume=true"])
    assert code == 0 and "exist" in out, err[-3000:]
    assert not list((tmp_path / "logs").rglob(".*.tmp"))  # of a process that refined when the run ended


FULL = """
import resource
import src.{module}
owner, real = src.{module}.{owner}, src.{module}.{owner}.{name}
def limited(*words, **options):
    if rank == {rank}:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    return real(*words, **options)
owner.{name} = limited
"""
"""The disk of one process takes no larger files from some call on: a real error of the system, in the middle of one."""


def test_a_full_disk_under_a_checkpoint_leaves_the_old_one(train_run: Train, places: list[str], tmp_path: Path) -> None:
    words = [*BASELINE, "trainer.max_epochs=3"]
    with pytest.raises(SystemExit):
        train_run(*words, "trainer.max_steps=3")
    (run,) = (tmp_path / "logs/track1/baseline").iterdir()
    before = {path.name: path.read_bytes() for path in run.glob("*.ckpt*")}
    hook = FULL.format(module="callbacks.checkpoint_io", owner="AtomicCheckpointIO", name="save_checkpoint", rank=0,
                       limit=10**6)  # fmt: skip
    code, _, err = two(tmp_path, [*words, *places, "resume=true"], hook)
    (reason,) = reasons(err)
    assert code and "could not write" in reason and ".ckpt (File too large); what was there is unchanged" in reason
    assert {path.name: path.read_bytes() for path in run.glob("*.ckpt*")} == before
    nothing_is_half_written(run)


def test_a_full_disk_under_one_processs_masks(train_run: Train, places: list[str], tmp_path: Path) -> None:
    train_run(*BASELINE, "trainer.max_epochs=1")
    hook = FULL.format(module="callbacks.mask_writer", owner="MaskWriter", name="on_predict_start", rank=1, limit=100)
    code, _, err = two(tmp_path, [*WSSS, *places], hook)
    (reason,) = reasons(err)
    assert code and "could not write" in reason and ".png (File too large)" in reason
    nothing_is_half_written(tmp_path / "logs")
    assert not list(tmp_path.rglob("*_with_mask_label.json"))


CHAIN = {
    "baseline": [],
    "wsss": ["callbacks.masks.processes=1"],
    "moco": ["module.queue_size=32", "module.num_splits=2"],
    "finetune": [],
    "fdg": [],
    "adapt": [],
    "distil": [],
}
"""All stages that train, each of which starts from what those before it left, with their settings."""


def link_by_link(rank: int, words: list[str], port: int, folder: str) -> None:
    """One of two processes that train the chain; what it counted in each stage goes into a file."""
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    rank_zero_only.rank = rank  # what Lightning reads of the environment when it is imported
    torch.set_num_threads(1)
    seen: dict[str, dict[str, Any]] = {}
    compute, write = ContextAccuracy.compute, MaskWriter.write_on_batch_end

    def counted(self: Any) -> Any:
        seen[stage]["validated"].append(int(self.images.sum()))  # of both processes: torchmetrics adds them up before
        return compute(self)

    def noted(self: Any, trainer: Any, module: Any, prediction: Any, indices: Any, batch: Any, *rest: Any) -> None:
        seen[stage]["masks"] += batch.position.tolist()
        write(self, trainer, module, prediction, indices, batch, *rest)

    def kept(self: Any) -> None:
        seen[stage]["queue"] = [hashlib.sha256(self.queue.numpy().tobytes()).hexdigest(), int(self.pointer)]

    ContextAccuracy.compute, MaskWriter.write_on_batch_end, MoCo.on_train_end = counted, noted, kept
    for stage, settings in CHAIN.items():
        seen[stage] = {"validated": [], "masks": [], "queue": None}
        train.train(cli.composed("train", *TINY, "track=1", f"stage={stage}", "trainer=ddp_cpu", *words, *settings))
        torch.distributed.barrier()  # rank 0 has finished the run that the next one starts from
    (Path(folder) / f"{rank}.json").write_text(json.dumps(seen))


def test_every_stage_with_shares_that_are_not_equal(own: list[str], tmp_path: Path, free_port: int) -> None:
    """The chain from baseline to distil on an odd number of images, of which an odd number is held out."""
    words = ["trainer.max_epochs=1", "split.fraction=0.1", *own]
    paths = datamodule(*BASELINE, *words).split_paths
    for part in ("train", "in_domain"):
        if len(paths[part]) % 2 == (part == "train"):
            (tmp_path / "data" / paths[part][0]).unlink()
    shutil.rmtree(tmp_path / "dataset_json")
    made = datamodule(*BASELINE, *words)
    images, held_out = len(made.rows), len(made.parts.in_domain)
    assert images % 2 and held_out % 2 and len(made.parts.train) % 16, (images, held_out)
    torch.multiprocessing.spawn(link_by_link, (words, free_port, str(tmp_path)), 2)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for stage in CHAIN:
        assert len(list(tmp_path.glob(f"logs/track1/{stage}/*/finished.json"))) == 1
        mine, others = one[stage], other[stage]
        assert mine["validated"] == others["validated"]
        assert set(mine["validated"]) == ({held_out} if stage != "wsss" else set())
        assert mine["queue"] == others["queue"] and bool(mine["queue"]) == (stage == "moco")
        shares = sorted(mine["masks"] + others["masks"])  # positions in the rows
        assert shares == (list(range(images)) if stage == "wsss" else [])
    assert len(list(tmp_path.glob("logs/track1/wsss/*/masks/**/*.png"))) == images
