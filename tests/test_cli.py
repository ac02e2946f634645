import math
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from src import cli, derived, errors
from src.runs.directory import check_settings
from tests.conftest import ROOT, command

STAGES = sorted(path.stem for path in (ROOT / "conf/stage").glob("*.yaml"))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["track=1", "stage=moco"], ["track='1'", "stage=moco"]),
        (["track=1,2", "seed=0,1", "-m"], ["-m", "track='1','2'", "seed=0,1"]),
        (["track='1'", "track_x=1", "tag=track=1"], ["track='1'", "track_x=1", "tag='track=1'"]),
    ],
)
def test_arguments(monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    cli.prepare_arguments()
    assert sys.argv[1:] == expected
    cli.prepare_arguments()
    assert sys.argv[1:] == expected


def test_dash() -> None:
    assert [cli.dash(v) for v in (None, "", "word", 3, ["a", "b c"], "x/y")] == [
        "",
        "",
        "-word",
        "-3",
        "-a+b_c",
        "-x_y",
    ]
    assert cli.dash(0.3, "r") == "-r0.3" and cli.dash(None, "r") == ""


def test_wandb_is_offline_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert cli.wandb_offline()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert not cli.wandb_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert cli.wandb_offline()


def test_wandb_id_is_that_of_the_earlier_start(tmp_path: Path) -> None:
    assert cli.wandb_run_id(str(tmp_path)) != cli.wandb_run_id(str(tmp_path))
    (tmp_path / "wandb/offline-run-20260101_120000-ab12cd34").mkdir(parents=True)
    assert cli.wandb_run_id(str(tmp_path)) == "ab12cd34"


@pytest.mark.parametrize("script", ["train.py", "predict.py"])
def test_help_names_groups(script: str) -> None:
    done = command(script, "--help")
    assert done.returncode == 0 and f"python {script} track=" in done.stdout
    for group in ("trainer", "track", "logger"):
        assert re.search(rf"^{group}\n" + "".join(rf"  [ *] {name}\b.*\n(?:  {{20}}.*\n)*" for name in options(group)),
                         done.stdout, re.MULTILINE)  # fmt: skip


def test_help_does_not_import_torch() -> None:
    import subprocess

    code = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\ntry: runpy.run_path('train.py', run_name='__main__')\n"
    )
    code += "except SystemExit: pass\nfinally: sys.exit(9 if 'torch' in sys.modules else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=nonsense"], "error: stage=nonsense is none of adapt, average_maps, baseline"),
        (["trainer.max_epoch=3"], "error: there is no setting trainer.max_epoch: did you mean trainer.max_epochs\\?"),
        pytest.param(
            ["+trainer.max_epoch=3", "scale=demo", "{data}"],
            "error: Trainer takes no max_epoch: correct the setting",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["split=leave_context_out", "scale=demo", "{data}"],
            "error: split.contexts is \\[\\]: name one or more",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["model.model_name=resnet3", "scale=demo", "{data}"],
            "error: timm has no model resnet3.*did you mean resnet",
            marks=pytest.mark.slow,
        ),
        pytest.param(["seed=-1"], "error: seed is -1: expected", marks=pytest.mark.slow),
        (["trainer.precision=bf16-true"], "error: trainer.precision is bf16-true: expected one of 32-true, 16-mixed"),
        (["track=1", "data_root=/nowhere"], "error: the data root /nowhere does not exist: put the data set there"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], message: str, tmp_path: Path, data: Path) -> None:
    words = [word.format(data=f"data_root={data / 'data'}") for word in words]
    done = command("train.py", *words, f"manifest_dir={tmp_path}", f"logs_dir={tmp_path}")
    assert done.returncode == 1
    assert re.search(message, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "lack of memory: lower datamodule.num_workers"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "lack of memory: lower datamodule.num_workers"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", "shared memory (/dev/shm)"),
        ("unable to write to file </torch_7_1_0>: No space left on device (28)", "shared memory (/dev/shm)"),
        ("DataLoader timed out after 60 seconds", "datamodule.timeout"),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", "out of memory: lower datamodule.batch_size"),
        ("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", "out of memory"),
        ("Connection closed by peer [127.0.0.1]:12345", "another process of this training has stopped"),
    ],
)
def test_what_libraries_say_becomes_advice(text: str, advice: str) -> None:
    said = errors.sentence(RuntimeError(text))
    assert said is not None and advice in said


@pytest.mark.parametrize(("value", "traceback"), [("0", False), ("", False), ("1", True)])
def test_full_errors_are_on_only_when_they_are_switched_on(
    value: str, traceback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", value)
    with pytest.raises(ValueError if traceback else SystemExit), cli.clear_errors():
        raise_ours()


def raise_ours() -> None:
    from src.runs.directory import check_settings

    check_settings(OmegaConf.create({"seed": -1}))


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    from src.fourier import reach

    with pytest.raises(ValueError, match="cannot convert float NaN"), cli.clear_errors():
        reach(math.nan, 8)  # raised below src/, but by no `raise` of ours


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("scale", ["full", "demo"])
@pytest.mark.parametrize("track", ["1", "2"])
def test_every_stage_composes(configure: Callable[..., DictConfig], stage: str, scale: str, track: str) -> None:
    cfg = configure(
        "train",
        f"track={track}",
        f"stage={stage}",
        f"scale={scale}",
        "dataset.num_classes=3",
        "dataset.contexts=[a]",
        "dataset.images=9",
        "dataset.images=9",
    )
    settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert settings["run_dir"].startswith(f"{'demo/' if scale == 'demo' else ''}logs/track{track}/{stage}/")  # type: ignore[index, call-overload, union-attr]
    assert (cfg.model.model_name == "resnet10t") == (scale == "demo")


@pytest.mark.parametrize(
    "word",
    [f"{group}={name}" for group in ("model", "mixing", "trainer", "logger") for name in options(group)]
    + ["split=holdout", "split=none", "split.contexts=[water]"],
)
def test_every_option_composes(configure: Callable[..., DictConfig], word: str) -> None:
    words = ["split=leave_context_out", word] if word.startswith("split.") else [word]
    cfg = configure("train", *words, "dataset.num_classes=3", "dataset.contexts=[a]", "dataset.images=9")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(
    "word",
    [f"{group}={name}" for group in ("ensemble", "tta", "trainer", "logger", "scale") for name in options(group)],
)
def test_every_option_of_predict_composes(configure: Callable[..., DictConfig], word: str) -> None:
    settings = OmegaConf.to_container(configure("predict", "track=2", word), resolve=True)
    assert settings["vote"] == settings["ensemble"]["vote"] in ("majority", "adaptive", "soft")  # type: ignore[index, call-overload, union-attr]
    folder = "demo/results" if word == "scale=demo" else "results"  # the demo leaves those of real work alone
    assert settings["run_dir"] == f"{folder}/track2"  # type: ignore[index, call-overload, union-attr]


def test_the_recipes_numbers(configure: Callable[..., DictConfig]) -> None:
    cfg = configure("train", "track=1", "stage=baseline")
    assert (cfg.datamodule.size, cfg.datamodule.batch_size, cfg.trainer.max_epochs) == (224, 512, 90)
    assert (cfg.module.optimizer.lr, cfg.module.optimizer.momentum, cfg.module.optimizer.weight_decay) == (
        0.1,
        0.9,
        5e-4,
    )
    assert cfg.model.model_name == "resnet50" and cfg.mixing.alpha == 2.0
    tta = configure("predict", "tta=mixing").tta
    assert (tta.runs, tta.lam) == (5, 0.01)


def test_the_readmes_commands_compose(configure: Callable[..., DictConfig]) -> None:
    """Every train.py and predict.py line of README is one that the configuration takes."""
    found = 0
    for line in re.findall(r"^ *python ((?:train|predict)\.py .*)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        script, *words = shlex.split(line.split(" #")[0].split("  ")[0])
        overrides = [word.split(",")[0] if "=" in word and "[" not in word else word for word in words if word != "-m"]
        configure(script.removesuffix(".py"), *overrides)
        found += 1
    assert found >= 6


@pytest.mark.parametrize(
    ("cuda", "bf16", "mps", "chosen"),
    [
        (False, False, False, ("cpu", "32-true", False)),
        (False, False, True, ("mps", "32-true", False)),
        (True, True, False, ("cuda", "bf16-mixed", True)),
        (True, False, True, ("cuda", "16-mixed", True)),
    ],
)
def test_the_trainer_takes_the_device_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, mps: bool, chosen: tuple[str, str, bool]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    for entry in ("train", "predict"):
        trainer = cli.composed(entry, "track=1").trainer
        assert (trainer.accelerator, trainer.precision, trainer.benchmark) == chosen
    assert cli.composed("train", "track=1", "trainer=gpu").trainer.precision == chosen[1]
    assert cli.composed("train", "track=1", "trainer=cpu").trainer.accelerator == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(places: list[str]) -> None:
    done = command("train.py", "track=1", "stage=baseline", "scale=demo", "trainer=gpu", *places)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: PyTorch finds no such device on this machine: leave trainer= out" in done.stderr


def test_epochs_follow_from_steps_and_parts_never_exceed_the_whole() -> None:
    assert derived.epochs_for(3000, 64, 8000) == 24 and derived.epochs_for(3000, 64, 10**6) == 1
    for images in (50, 999, 8000, 123_456):
        parts, whole = (
            derived.epochs_for(3000, 64, images) + derived.epochs_for(2000, 64, images),
            derived.epochs_for(5000, 64, images),
        )
        assert parts <= max(whole, 2)
    assert derived.rate_for(0.1, 256) == 0.1 and derived.rate_for(0.1, 64) == 0.025
    assert derived.share_of(0.05, 24) == 1 and derived.share_of(0.05, 2) == 0


def test_the_small_scale_knows_its_end_once_the_data_are_known(configure: Callable[..., DictConfig]) -> None:
    cfg = configure("train", "track=1", "stage=finetune", "scale=small")
    check_settings(cfg)  # the images are not counted yet
    cfg.dataset = {"num_classes": 7, "contexts": [], "images": 8000}
    check_settings(cfg)
    assert cfg.trainer.max_epochs == 24 and cfg.module.scheduler.total == 40
    cfg = configure(
        "train", "track=1", "stage=baseline", "scale=small", "datamodule.batch_size=32", "dataset.images=8000"
    )
    assert cfg.module.optimizer.lr == pytest.approx(0.0125) and cfg.trainer.max_epochs == 12
    with pytest.raises(ValueError, match="trainer.max_epochs is 0"):
        check_settings(configure("train", "track=1", "scale=small", "trainer.max_epochs=0"))


def test_a_warning_of_ours_is_one_line() -> None:
    text = "the masks are 99 % foreground"
    assert cli.one_line(text, UserWarning, str(ROOT / "src/masks/judge.py"), 3, "warn(x)") == f"warning: {text}\n"
    assert cli.one_line(text, UserWarning, str(ROOT / "train.py"), 3) == f"warning: {text}\n"
    assert cli.one_line("old", DeprecationWarning, "/x/torch/nn.py", 3) == "nn.py:3: DeprecationWarning: old\n"
