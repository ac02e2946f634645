"""The command line: numerals as group choices, what the configuration computes, errors in one sentence."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src import derived, errors, help, stopping
from src.overrides import as_typed, changes_of, folder_name, literal, quoted, unquoted, with_data_set

ROOT = Path(__file__).resolve().parent.parent


def prepare_arguments() -> None:
    """Rewrite sys.argv into what Hydra 1.3 understands; a second call changes nothing.

    Hydra takes `track=1` for an int and refuses it as a group's choice, reads `(`, `=`, `,`, `~` and letters beyond
    ASCII in a path as its own grammar, and wants -m before the overrides.
    """
    flags = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]
    words = with_data_set([word for word in sys.argv[1:] if word not in flags])
    sys.argv[1:] = flags + [quoted(word, bool(flags)) for word in words]


def command_words() -> list[str]:
    """This process's command as a person would type it: the script, and its words without the quotes for Hydra."""
    return [sys.argv[0], *as_typed([unquoted(word) for word in sys.argv[1:]])]


MAX_WORD = 60  # bytes of a word in a run's name; a file's name can have 255


def dash(value: Any, prefix: str = "") -> str:
    """For a run's name: "-<prefix>value", the words of a list joined by +, and nothing for null.

    Characters that a file's name should not hold become _, and a long text is cut and followed by its digest.
    """
    if value is None or value == "" or value == []:
        return ""
    words = [str(value)] if isinstance(value, str | int | float) else [str(word) for word in value]
    text = re.sub(r"[^\w.+-]", "_", "+".join(words))
    if len(text.encode()) > MAX_WORD:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        text = text.encode()[: MAX_WORD - 9].decode(errors="ignore") + f"-{digest}"
    return f"-{prefix}{text}"


def changes(tag: Any, *, _root_: DictConfig) -> str | None:
    """For a run's name: what this command changes and the name does not show; None with a tag, which says enough."""
    from hydra.core.hydra_config import HydraConfig

    if tag is not None or not HydraConfig.initialized():
        return None
    settings, words = (OmegaConf.to_container(node) for node in (_root_, HydraConfig.get().overrides.task))  # as typed
    assert isinstance(settings, dict) and isinstance(words, list)
    return changes_of(words, settings["run_name"])


def given(*beginnings: str) -> str:
    """For a vote's name: "-<key>-<value>" of the command line's settings whose keys begin so, shortened as by `dash`.

    Only the last part of a dotted key counts.
    """
    from hydra.core.hydra_config import HydraConfig

    parts = [unquoted(word).lstrip("+").partition("=") for word in HydraConfig.get().overrides.task]
    words = []
    for beginning in beginnings:
        for key, _, value in parts:
            if key.startswith(beginning):
                values = [one.strip(" '\"") for one in value.strip("[]").split(",")]
                words += [key.rpartition(".")[2], "+".join(values)]
    return dash("-".join(words))


def around(value: float, factor: float) -> str:
    """For a search: the range from a value divided by a factor to the value times it, on a logarithmic scale."""
    return f"tag(log,interval({float(f'{value / factor:.4g}')},{float(f'{value * factor:.4g}')}))"


def wandb_offline() -> bool:
    """Whether W&B is to write to the local disk only, as there is no key to log in with, here or in ~/.netrc."""
    if os.environ.get("WANDB_MODE"):  # the user's choice, which may be that W&B is switched off
        return os.environ["WANDB_MODE"] in ("offline", "dryrun")
    netrc = Path(os.environ.get("NETRC", os.path.expanduser("~/.netrc")))  # a user may have no home
    known = os.access(netrc, os.R_OK) and "wandb" in netrc.read_text(errors="ignore")
    return not (os.environ.get("WANDB_API_KEY") or known)


def wandb_run_id(run_dir: str) -> str:
    """The id of the run's W&B run: that of its earlier start, so that a resumed run continues it, or a new one.

    For a user without a home directory (a bare uid in a container) the run's folder serves as one: W&B looks for its
    settings there.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = os.path.abspath(run_dir)
    return earlier_wandb_id(run_dir) or secrets.token_hex(4)


def earlier_wandb_id(run_dir: str) -> str | None:
    """The id of the latest W&B run of a run directory, None where it has none."""
    earlier = sorted(Path(run_dir).glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    return earlier[-1].name.rsplit("-", 1)[-1] if earlier else None


def device(setting: str) -> Any:
    """A setting of the trainer for this machine: accelerator, precision or benchmark.

    float16 has less range than bfloat16: under 16-mixed Lightning scales the loss, and skips steps that overflow.
    """
    import torch

    if torch.cuda.is_available():
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
        chosen = {"accelerator": "cuda", "precision": "bf16-mixed" if computes else "16-mixed", "benchmark": True}
    else:
        mps = torch.backends.mps.is_available()
        chosen = {"accelerator": "mps" if mps else "cpu", "precision": "32-true", "benchmark": False}
    return chosen[setting]


def only_for(name: str, value: Any, _parent_: DictConfig) -> Any:
    """A setting of conf/model that only the named network takes; null, which timm ignores, for any other."""
    return value if str(_parent_.model_name).split(".")[0] == name else None


def register_resolvers() -> None:
    """What the configuration computes: ${dash:...}, ${changes:...}, ${device:...}, ${only_for:...} and the like."""
    OmegaConf.register_new_resolver("only_for", only_for, replace=True)
    for resolver in (derived.epochs_for, derived.rate_for, derived.share_of, derived.if_contexts_tell):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("device", device, replace=True)
    OmegaConf.register_new_resolver("dash", dash, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("given", given, replace=True)
    OmegaConf.register_new_resolver("changes", changes, replace=True)
    OmegaConf.register_new_resolver("around", around, replace=True)
    OmegaConf.register_new_resolver("wandb_offline", wandb_offline, replace=True)
    OmegaConf.register_new_resolver("wandb_run_id", wandb_run_id, replace=True, use_cache=True)


def instantiate(settings: Any, **arguments: Any) -> Any:
    """Hydra's instantiate, of settings whose interpolations are resolved first; lists and mappings become plain ones.

    They are resolved once: instantiate reads every text twice, and would take `${...}` in a name for an interpolation.
    """
    from hydra.utils import instantiate as build

    if isinstance(settings, DictConfig):
        settings = OmegaConf.create(literal(literal(OmegaConf.to_container(settings, resolve=True))))
    return build(settings, _convert_="all", **arguments)


def composed(name: str, *words: str) -> DictConfig:
    """The settings that an entry point gets of these words, for tests and benchmarks: composed("train", "track=1")."""
    from hydra.core.hydra_config import HydraConfig

    register_resolvers()
    cfg = help.composed(name, [quoted(word) for word in words])
    HydraConfig.instance().set_config(cfg)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return cfg


def start(main: Any, name: str, expand: Callable[[list[str]], list[str]] | None = None) -> None:
    """Run a Hydra entry point from the project's root.

    Args:
        main: the entry point.
        name: of its configuration, in conf/.
        expand: rewrites the words of the command line, as Hydra takes them.
    """
    stopping.install()
    register_resolvers()
    sys.path.insert(0, str(ROOT))
    with clear_errors():
        prepare_arguments()
    try:
        if expand is not None:
            with clear_errors():
                sys.argv[1:] = expand(sys.argv[1:])
        help.attend(name)
        for words in help.commands_to_show() or [sys.argv[1:]]:
            sys.argv[1:] = words
            main()
    finally:
        stopping.request.left = True


def say(sentence: str) -> None:
    """Print a line in the first process only; the launcher says which that is, before PyTorch is loaded."""
    if not any(os.environ.get(name, "0") not in ("", "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        print(sentence, flush=True)


def one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line: its sentence, and whose code raised it only if that is not this project's."""
    if Path(filename).is_relative_to(ROOT / "src") or Path(filename).parent == ROOT:
        return f"warning: {message}\n"
    return f"{Path(filename).name}:{lineno}: {category.__name__}: {message}\n"


def quiet_libraries() -> None:
    """Keep the libraries' general messages out of the log; warnings about this run stay."""
    # Advertisements for other products, and lines on devices that environment.json and the run's first line hold.
    # Importing the package sets its own level again, but not that of its parts.
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # a table that was asked for
    warnings.formatwarning = one_line
    # A run directory holds its config.yaml before its first checkpoint; `runs.claim` guards what is in it.
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    # The data module's sampler starts at the next batch (tests/test_training.py); Lightning looks at loaders alone.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    # The stages that learn without labels validate nothing.
    warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
    # Images batched by their size bring their positions along.
    warnings.filterwarnings("ignore", "Couldn't infer the batch indices fetched from your dataloader")
    # What trainer.overfit_batches is for.
    warnings.filterwarnings("ignore", "You requested to overfit but enabled")
    # Heads, losses and similarities stay float32 on purpose (src/precision.py); TensorFloat32 has ten bits.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores for float32 matrix multiplication available")
    # DDP on a GPU: Lightning wraps the network on a stream of its own, which costs a wait and changes no number.
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
    # Lightning 2.6 on torch >= 2.11: its own use of a deprecated class.
    warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\).*")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn a user's error into one sentence and exit code 1; a bug of this project keeps its traceback."""
    quiet_libraries()
    try:
        yield
    except Exception as error:  # sorted below: the classes of errors would load torch before there is one
        from hydra.errors import InstantiationException
        from lightning_fabric.utilities.exceptions import MisconfigurationException  # loads torch

        users = (ValueError, OSError, RuntimeError, MemoryError, InstantiationException, MisconfigurationException)
        if not isinstance(error, users):
            raise
        # Hydra wraps what a constructor raises, and shows the cause in a text of its own.
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        in_full = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
        text = None if in_full else errors.sentence(cause)
        if cause is not error and not in_full:
            text = errors.placed(str(error), text) if text else errors.refusal(str(error), cause)
        if text is None and not isinstance(cause, MisconfigurationException):
            raise
        sys.exit(f"error: {text or cause}")
