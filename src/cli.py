"""The command line: numerals as group choices, sweep jobs in processes of their own, errors in one sentence."""

from __future__ import annotations

import difflib
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent


def prepare_arguments() -> None:
    """Rewrite sys.argv into what Hydra 1.3 understands; a second call changes nothing.

    Hydra takes `track=1` for an int and refuses it as a group's choice, and its parser wants -m before
    the overrides.
    """
    words = [quoted(word) for word in sys.argv[1:]]
    flags = [word for word in words if word in ("-m", "--multirun")]
    sys.argv[1:] = flags + [word for word in words if word not in flags]


def quoted(word: str) -> str:
    """`track=1,2` to `track='1','2'`; other words stay as they are."""
    if not re.fullmatch(r"track=\d+(,\d+)*", word):
        return word
    return "track=" + ",".join(f"'{numeral}'" for numeral in word.removeprefix("track=").split(","))


def dash(value: Any, prefix: str = "") -> str:
    """For a run's name: "-<prefix>value", the words of a list joined by +, and nothing for null."""
    if value is None or value == "" or value == []:
        return ""
    words = [str(value)] if isinstance(value, str | int | float) else [str(word) for word in value]
    return f"-{prefix}" + re.sub(r"[^\w.+-]", "_", "+".join(words))


def wandb_offline() -> bool:
    """Whether W&B has no key to log in with, here or in ~/.netrc."""
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"] != "online"
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    known = netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")
    return not (os.environ.get("WANDB_API_KEY") or known)


def wandb_run_id(run_dir: str) -> str:
    """The id of the run's W&B run: that of its earlier start, so that a resume goes on in it, or a new one."""
    earlier = sorted(Path(run_dir).glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    return earlier[-1].name.rsplit("-", 1)[-1] if earlier else secrets.token_hex(4)


def register_resolvers() -> None:
    """What the configuration computes: ${dash:...}, ${wandb_offline:}, ${wandb_run_id:...}."""
    OmegaConf.register_new_resolver("dash", dash, replace=True)
    OmegaConf.register_new_resolver("wandb_offline", wandb_offline, replace=True)
    OmegaConf.register_new_resolver("wandb_run_id", wandb_run_id, replace=True, use_cache=True)


def start(main: Any) -> None:
    """Run a Hydra entry point from the project's root."""
    register_resolvers()
    sys.path.insert(0, str(ROOT))
    prepare_arguments()
    main()
    if failed_jobs:
        sys.exit(f"error: {len(failed_jobs)} of the sweep's jobs failed: {'; '.join(failed_jobs)}")


def run_sweep_job(script: str) -> bool:
    """In a sweep, run this job as a process of its own; False outside of a sweep.

    Lightning starts the other ranks with this process's command line: under -m each of them would run
    the whole sweep. A process of its own also gives every job fresh memory. A job that fails does not stop
    the others; `start` reports it at the end, and a launcher that runs jobs elsewhere gets an exception.

    Raises:
        RuntimeError: the job failed, under another launcher than Hydra's own.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN:
        return False
    words = list(config.overrides.task)
    title = " ".join([script, *words])
    print(f"sweep job {config.job.num}: {title}", flush=True)
    os.environ.setdefault("WANDB_RUN_GROUP", f"sweep-{time.strftime('%Y%m%d-%H%M%S')}")
    code = run_process([sys.executable, str(ROOT / script), *words])
    if code == 128 + signal.SIGTERM:
        sys.exit(code)
    if code and str(config.launcher.get("_target_", "")).endswith("BasicLauncher"):
        failed_jobs.append(title)
    elif code:
        raise RuntimeError(f"the sweep's job `{title}` failed with exit code {code}")
    return True


failed_jobs: list[str] = []
"""Jobs of this process's sweep that failed."""


def run_process(words: list[str]) -> int:
    """Run a command to its end and return its exit code; a SIGTERM is passed on and waited for."""
    with subprocess.Popen(words) as process:
        if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
            return process.wait()
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


def quiet_libraries() -> None:
    """Keep what a library says to everybody out of the log; warnings about this run stay."""
    # Advertisements for other products, and lines on devices that environment.json and the run's first line hold.
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A run directory holds its config.yaml before its first checkpoint; `runs.claim` guards what is in it.
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    # The data module's sampler starts at the next batch (tests/test_training.py); Lightning looks at loaders alone.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    # The stages that learn without labels validate nothing.
    warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
    # Images batched by their size bring their positions along.
    warnings.filterwarnings("ignore", "Couldn't infer the batch indices fetched from your dataloader")
    # Lightning 2.6 on torch >= 2.11: its own use of a deprecated class.
    warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\).*")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn an error of the user's into one sentence and exit code 1; a fault of ours keeps its traceback."""
    from hydra.errors import InstantiationException
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    quiet_libraries()
    try:
        yield
    except (ValueError, OSError, RuntimeError, InstantiationException, MisconfigurationException) as error:
        # Hydra wraps what a constructor raises, and shows the cause in a text of its own.
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        text = None if os.environ.get("HYDRA_FULL_ERROR") else sentence(cause)
        if text is None and not isinstance(cause, MisconfigurationException):
            raise
        sys.exit(f"error: {text or cause}")


def sentence(error: BaseException) -> str | None:
    """What to tell the user, or None where the error is no user's: one that no `raise` of this project made."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return text  # the system's: no such file, no space left
    if "Original Traceback" in text:  # from a data-loading worker, which sends the text alone
        places = re.findall(r'File "([^"]+)", line \d+, in .*\n\s*(.*)', text)
        text = text.strip().splitlines()[-1].split(": ", 1)[-1]
    else:
        places = [(frame.filename, frame.line or "") for frame in traceback.extract_tb(error.__traceback__)]
    if places and places[-1][1].startswith("raise "):
        path = Path(places[-1][0])
        if any(path.is_relative_to(ROOT / part) for part in ("src", "train.py", "predict.py")):
            return text
    if text.startswith("Unknown model"):
        import timm

        name = text[text.find("(") + 1 : -1]
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        return (
            f"timm has no model {name}, check model.model_name{': did you mean ' + ', '.join(close) if close else ''}"
        )
    if re.search(r"[Cc]onnection (closed|reset) by peer|NCCL|process group", text):
        return "another process of this training has stopped; what it says is the reason"
    return None
