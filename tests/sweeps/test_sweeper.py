"""What -m does, with jobs that train nothing: figures, table, mistakes, studies that go on."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from src.cli import composed
from src.files import digest_of
from src.sweeps import jobs
from tests.conftest import ROOT, command

LR = "module.optimizer.lr"
Sweep = Callable[..., str]


def finish(folder: Path, **figures: float) -> None:
    """What a run that ended leaves of its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(b"w")
    digest = digest_of(folder / "weights.safetensors")
    metrics = {name.replace("__", "/"): figure for name, figure in figures.items()}
    (folder / "finished.json").write_text(json.dumps({"weights_sha256": digest, "metrics": metrics}))


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: None, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """Run train.py -m in this process; a job does not train, but ends with twice its learning rate as accuracy.

    A rate above 1 fails. What was printed is returned.
    """

    settings: list[DictConfig] = []
    run_job = jobs.run_job

    def noted(script: str, cfg: DictConfig) -> float | None:
        settings.append(cfg)
        return run_job(script, cfg)

    def job(words: list[str]) -> int:
        cfg = settings[-1]
        assert f"{LR}={cfg.module.optimizer.lr}" in words
        if cfg.module.optimizer.lr > 1:
            return 1
        finish(Path(cfg.run_dir), val__in_domain__accuracy=2 * cfg.module.optimizer.lr, train__loss=1.0)
        return 0

    monkeypatch.setattr(jobs, "run_job", noted)
    monkeypatch.setattr(jobs, "run_process", job)

    def swept(*words: str) -> str:
        monkeypatch.setattr(
            sys, "argv", ["train.py", "-m", "track=1", "stage=baseline", f"logs_dir={tmp_path}", *words]
        )
        monkeypatch.setenv("PYTHONPATH", "")
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        return capsys.readouterr().out

    return swept


def test_a_sweep_prints_a_line_for_each_job_and_a_table(sweep: Sweep) -> None:
    text = sweep(f"{LR}=0.01,0.2")
    assert "sweep job 0: val/in_domain/accuracy 0.0200\n" in text
    assert "sweep job 1: val/in_domain/accuracy 0.4000\n" in text
    assert text.splitlines()[-3:] == [
        "job  module.optimizer.lr  val/in_domain/accuracy",
        "0    0.01                 0.0200",
        "1    0.2                  0.4000",
    ]
    assert "train/loss" in sweep(f"{LR}=0.01", "objective=train/loss", "seed=1").splitlines()[-2]


def test_a_name_that_looks_like_an_interpolation_stays_a_name_in_a_job(sweep: Sweep) -> None:
    text = sweep(f"{LR}=0.01", "split=leave_context_out", "split.contexts=['\\${x}'],['sea']")
    assert "split.contexts=['\\${x}']\n" in text and "split.contexts=['sea']\n" in text


def test_a_job_that_fails_does_not_stop_the_others(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=f"error: 1 of the sweep's jobs failed: .*{LR}=5 seed=0$"):
        sweep(f"{LR}=5,0.3", "seed=0")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["0    5                    failed with exit code 1", "1    0.3                  0.6000"]


def test_jobs_that_would_be_one_run_are_refused_before_any(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: two jobs of the sweep are one run, .*seed0-t: leave out tag="):
        sweep(f"{LR}=0.01,0.2", "tag=t")
    with pytest.raises(SystemExit, match="error: two jobs of the sweep are one run"):
        sweep("hparams=optuna", "tag=t")
    assert not (tmp_path / "track1").exists() and not (tmp_path / "studies.db").exists()


def test_a_study_ends_with_its_best_trial_and_goes_on(sweep: Sweep) -> None:
    words = ["hparams=optuna", f"{LR}=interval(0.1,0.2)"]
    first = sweep(*words, "hparams.trials=2").splitlines()
    assert first[0].startswith("study track1-baseline: 0 of 2 trials are finished")
    assert " hparams" not in first[1] and " resume=true" in first[1]
    assert first[-1].startswith("best of 2 trials, with val/in_domain/accuracy 0.")
    text = sweep(*words, "hparams.trials=3")
    assert "2 of 3 trials are finished" in text and text.count("sweep job") == 2 and "sweep job 2:" in text
    table = text.splitlines()[-4:-1]
    assert [line.split()[0] for line in table] == ["0", "1", "2"]
    for line in table:
        _, rate, figure = line.split()
        assert float(figure) == pytest.approx(2 * float(rate), abs=1e-4)
    assert text.splitlines()[-1].endswith(f"{LR}={max(line.split()[1] for line in table)}")
    assert "sweep job" not in sweep(*words, "hparams.trials=3")


def test_a_failed_trial_does_not_end_a_study(sweep: Sweep) -> None:
    text = sweep("hparams=optuna", f"{LR}=0.3,7", "hparams.trials=6")
    assert text.count(" failed\n") == text.count(" 7  ") > 0 and "best of " in text


def test_a_study_whose_trials_all_fail_says_so(sweep: Sweep) -> None:
    with pytest.raises(SystemExit, match="error: no trial of the study track1-baseline has a figure"):
        sweep("hparams=optuna", f"{LR}=7,8", "hparams.trials=2")
    with pytest.raises(SystemExit, match="error: the first 3 trials failed"):
        sweep("hparams=optuna", f"{LR}=7,8", "hparams.trials=20")


def test_an_objective_that_is_not_logged_ends_a_study_at_its_first_trial(sweep: Sweep) -> None:
    with pytest.raises(SystemExit, match="does not log objective=val/f1: name one of train/loss, val/in_domain/acc"):
        sweep("hparams=optuna", "objective=val/f1")


def test_figures(tmp_path: Path) -> None:
    words = [f"logs_dir={tmp_path}", "track=1", "stage=moco"]
    cfg = composed("train", *words)
    assert jobs.figure_of(cfg) is None  # not finished
    finish(Path(cfg.run_dir), train__loss=0.5)
    assert jobs.figure_of(cfg) is None  # nobody asked for what it does not log
    cfg = composed("train", *words, "objective=train/loss")
    assert jobs.figure_of(cfg) == 0.5
    cfg = composed("train", *words, "objective=train/los")
    with pytest.raises(jobs.NotLoggedError, match="does not log objective=train/los: name one of train/loss"):
        jobs.figure_of(cfg)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{LR}r=0.1,0.2"], f"there is no setting {LR}r: did you mean {LR}"),
        (["hparams=optuna", "module.lr=interval(0.1,1)"], f"there is no setting module.lr: did you mean {LR}"),
        ([f"{LR}=interval(0.1,1)"], "search it with hparams=optuna"),
    ],
)
def test_mistakes_in_a_search(words: list[str], message: str, tmp_path: Path) -> None:
    done = command("train.py", "-m", "track=1", "stage=baseline", f"logs_dir={tmp_path}", *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.db"))


def test_a_search_needs_m(tmp_path: Path) -> None:
    done = command("train.py", "hparams=optuna", f"logs_dir={tmp_path}")
    assert done.returncode == 1 and done.stderr.startswith("error: hparams= is a search: add -m")


def test_cfg_job_shows_every_job_of_a_sweep() -> None:
    done = command("train.py", "-m", "track=1", f"{LR}=0.01,0.2", "--cfg", "job", "--package", "module.optimizer")
    assert done.returncode == 0 and [line for line in done.stdout.splitlines() if line.startswith("lr")] == [
        "lr: 0.01", "lr: 0.2"
    ]  # fmt: skip
    done = command("train.py", "-m", "track=1", "hparams=optuna", f"{LR}=interval(0.1,1)", "--cfg", "job")
    assert done.returncode == 0 and "trials: 20" in done.stdout


@pytest.mark.parametrize(
    ("word", "package"),
    [("hparams=optuna", "optuna"), ("launcher=joblib", "hydra-joblib-launcher"),
     ("launcher=submitit", "hydra-submitit-launcher"), ("launcher=slurm", "hydra-submitit-launcher")],
)  # fmt: skip
def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, word: str, package: str) -> None:
    from src import help

    monkeypatch.setattr(sys, "argv", ["train.py", "-m", word])
    help.check_extras()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=f"error: {word} needs {package}: pip install {package}, or .*search"):
        help.check_extras()
