"""The command line: numerals as group choices, sweep jobs in processes of their own, errors in one sentence."""

from __future__ import annotations

import logging
import os
import re
import secrets
import subprocess
import sys
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


def dash(value: Any) -> str:
    """For a run's name: "-value", the words of a list joined by +, and nothing for null."""
    if value is None or value == "":
        return ""
    words = [str(value)] if isinstance(value, str | int | float) else [str(word) for word in value]
    return "-" + re.sub(r"[^\w.+-]", "_", "+".join(words))


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


def run_sweep_job(script: str) -> bool:
    """In a sweep, run this job as a process of its own; False outside of a sweep.

    Lightning starts the other ranks with this process's command line: under -m each of them would run
    the whole sweep. A process of its own also gives every job fresh memory.

    Raises:
        RuntimeError: the job failed (Hydra goes on with the others and reports it at the end).
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    words = list(HydraConfig.get().overrides.task)
    print(f"sweep job {HydraConfig.get().job.num}: {script} {' '.join(words)}", flush=True)
    os.environ.setdefault("WANDB_RUN_GROUP", f"sweep-{time.strftime('%Y%m%d-%H%M%S')}")
    done = subprocess.run([sys.executable, str(ROOT / script), *words], check=False)
    if done.returncode:
        raise RuntimeError(f"the sweep's job `{script} {' '.join(words)}` failed with exit code {done.returncode}")
    return True


def quiet_libraries() -> None:
    """Keep what a library says to everybody out of the log; warnings about this run stay."""
    # Advertisements for other products, and lines on devices that environment.json and the run's first line hold.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    # A run directory holds its config.yaml before its first checkpoint; `runs.claim` guards what is in it.
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    # The data module's sampler starts at the next batch (tests/test_training.py); Lightning looks at loaders alone.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    # The stages that learn without labels validate nothing.
    warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
    # Lightning 2.6 on torch >= 2.11: its own use of a deprecated class.
    warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\).*")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn an error of the user's into one sentence and exit code 1; a fault of ours keeps its traceback."""
    from hydra.errors import InstantiationException

    quiet_libraries()
    try:
        yield
    except (ValueError, OSError, InstantiationException) as error:
        # Hydra wraps what a constructor raises, and shows the cause in a text of its own.
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if os.environ.get("HYDRA_FULL_ERROR") or not meant_for_user(cause):
            raise
        sys.exit(f"error: {sentence(cause)}")


def meant_for_user(error: BaseException) -> bool:
    """Whether a `raise` of this project, the system, or Lightning's check of its settings made the error."""
    if isinstance(error, OSError) and error.errno is not None:
        return True
    if type(error).__name__ == "MisconfigurationException":
        return True
    if "Original Traceback" in str(error):  # from a data-loading worker, which sends the text alone
        files = re.findall(r'File "([^"]+)"', str(error))
    else:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return bool(files) and any(
        Path(files[-1]).is_relative_to(ROOT / part) for part in ("src", "train.py", "predict.py")
    )


def sentence(error: BaseException) -> str:
    """The error's message; of a data-loading worker's error its last line."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].split(": ", 1)[-1]
    return text
