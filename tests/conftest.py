"""Fixtures: a tiny data set, the real configuration shrunk, and the two entry points in and out of process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from src import cli, stopping
from src.datamodules.synthetic.dataset import generate
from src.files import digest_of

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("WANDB_MODE", "offline")
torch.set_num_threads(1)  # networks this small only lose time in a second thread
cli.register_resolvers()

TRAINING = {"train_run", "trained", "predict"}
"""Fixtures whose tests train a network: `make test-fast` leaves them out."""


def pytest_configure(config: pytest.Config) -> None:
    # The same numbers on every machine: a GPU is for the tests that ask for one (pytest -m gpu).
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU, or not asked for: pytest -m gpu"))
        if TRAINING & set(getattr(item, "fixturenames", ())):
            item.add_marker("training")


TINY = [
    "scale=demo",
    "datamodule.size=32",
    "datamodule.batch_size=16",
    "datamodule.num_workers=0",
    "trainer.max_epochs=2",
    "changes=null",
]
"""Settings that make a run of seconds, with the name of the recipe's."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and truth/ of both tracks, about a hundred images each; do not write into it."""
    folder = tmp_path_factory.mktemp("synthetic")
    generate(folder, seed=0, scale=0.1, progress=False)
    return folder


@pytest.fixture(scope="session")
def masks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words that have the true masks of track 1 used, from a manifest of their own."""
    rows = json.loads((data / "truth/track1_train_truth.json").read_text())
    contexts = sorted({row["domain"] for row in rows})
    path = tmp_path_factory.mktemp("masks") / "with_masks.json"
    keys = ("image_path", "label", "label_name")
    path.write_text(json.dumps([
        {key: row[key] for key in keys}
        | {"domain": contexts.index(row["domain"]), "image_seg_path": row["image_path"].replace(".jpg", ".png")}
        for row in rows
    ]))  # fmt: skip
    return [f"masks={path}", f"mask_root={data / 'truth/masks'}"]


@pytest.fixture
def places(data: Path, tmp_path: Path) -> list[str]:
    """Overrides that read `data` and write below the test's own folder."""
    return [
        f"data_root={data / 'data'}",
        f"manifest_dir={tmp_path / 'dataset_json'}",
        f"logs_dir={tmp_path / 'logs'}",
    ]


@pytest.fixture(scope="session")
def configure() -> Callable[..., DictConfig]:
    """Compose the real configuration: configure("train", "track=1", ...)."""
    return cli.composed


@pytest.fixture
def train_run(configure: Callable[..., DictConfig], places: list[str]) -> Callable[..., Path]:
    """Train in this process with the TINY settings and return the run directory."""
    import train

    def trained(*overrides: str) -> Path:
        cfg = configure("train", *TINY, *places, *overrides)
        train.train(cfg)
        return Path(cfg.run_dir)

    return trained


@pytest.fixture(scope="session")
def trained(configure: Callable[..., DictConfig], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A logs_dir with two finished baselines of track 1, one epoch each; do not write into it."""
    import train

    folder = tmp_path_factory.mktemp("trained")
    places = [f"data_root={data / 'data'}", f"manifest_dir={folder / 'dataset_json'}", f"logs_dir={folder / 'logs'}"]
    for seed in (0, 1):
        words = [*TINY, *places, "track=1", "stage=baseline", f"seed={seed}", "trainer.max_epochs=1"]
        train.train(configure("train", *words))
    return folder / "logs"


@pytest.fixture
def two_members(trained: Path, tmp_path: Path) -> list[Path]:
    """The runs of `trained` in the test's own logs_dir."""
    shutil.copytree(trained, tmp_path / "logs")
    return sorted((tmp_path / "logs/track1/baseline").iterdir())


@pytest.fixture
def predict(configure: Callable[..., DictConfig], places: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Run predict.py in this process on the test's own logs_dir and return the folder of the results."""
    import predict as script

    def predicted(*overrides: str) -> Path:
        words = ["track=1", "ensemble=baselines", "scale=demo", *places, f"results_dir={tmp_path / 'results'}"]
        cfg = configure("predict", *words, "datamodule.num_workers=0", *overrides)
        with cli.clear_errors():
            script.predict(cfg)
        return tmp_path / "results/track1"

    return predicted


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process answers SIGTERM and SIGINT as an entry point does, and no request is left behind."""
    monkeypatch.setattr(stopping, "EXIT_WITHIN", 10**6)
    monkeypatch.setattr(stopping, "started_by", None)
    before = {signum: signal.getsignal(signum) for signum in stopping.NAMES}
    stopping.request.__init__()  # type: ignore[misc] # the one request of this process, as new
    stopping.install()
    yield
    os.environ.pop(stopping.PARENT)
    for signum, handler in before.items():
        signal.signal(signum, handler)
    stopping.request.__init__()  # type: ignore[misc]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a finished run hands on."""
    return load_file(run / "weights.safetensors")


def sign(run: Path, **changes: Any) -> None:
    """Give finished.json the digests of the run's files as they are now, as a run that ended with them would have."""
    path = run / "finished.json"
    done = json.loads(path.read_text())
    files = {name: digest_of(run / name) for name in done["files"] if (run / name).exists()}
    path.write_text(
        json.dumps({**done, "weights_sha256": digest_of(run / "weights.safetensors"), "files": files, **changes})
    )


def command(script: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run an entry point as a user would, and return what it printed."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *words],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def masks_by_two_processes(run: Path, *words: str) -> str:
    """Take a finished run's masks away, have two processes make them again, and return what was printed."""
    shutil.rmtree(run / "masks")
    (run / "finished.json").unlink()
    done = command("train.py", *TINY, *words, "trainer=ddp_cpu", "resume=true")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
