"""An error as one sentence for the user, if it is a user's."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def refusal(wrapped: str, cause: BaseException) -> str | None:
    """What to tell the user of an error that a constructor raised, by Hydra's text about it; None if it names none."""
    target = re.search(r"target '([\w.]+)'", wrapped)
    text = " ".join(str(cause).split())[:200]
    return target and (
        f"{target[1]} does not accept its settings ({type(cause).__name__}: {text}): correct the setting that this "
        "command changes (HYDRA_FULL_ERROR=1 shows the place)"
    )


def placed(wrapped: str, text: str) -> str:
    """A sentence with the whole names of settings, if a strategy that is part of another raised it, by Hydra's text.

    Such a strategy knows its settings as mixing.<name>; the user's are mixing.strategies.<strategy>.<name>.
    """
    part = re.search(r"full_key: (mixing\.\S+)", wrapped)
    return re.sub(r"\bmixing\.", f"{part[1]}.", text) if part else text


def sentence(error: BaseException) -> str | None:
    """What to tell the user, or None if the error is not a user's, that is, not raised by this project."""
    text = "can't allocate memory" if isinstance(error, MemoryError) else str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return text  # the system's: no such file, no space left
    if "Original Traceback" in text:  # from a data-loading worker, which sends the text alone
        places = re.findall(r'File "([^"]+)", line \d+, in .*\n\s*(.*)', text)
        text = text.strip().splitlines()[-1].split(": ", 1)[-1]
        if re.match(r"\[Errno \d+\] ", text):
            return text  # the system's here too
    else:
        places = [(frame.filename, frame.line or "") for frame in traceback.extract_tb(error.__traceback__)]
    if places and places[-1][1].startswith("raise ") and not isinstance(error, MemoryError):
        path = Path(places[-1][0])
        if any(path.is_relative_to(ROOT / part) for part in ("src", "train.py", "predict.py")):
            return text
    for pattern, advice in KNOWN:
        if re.search(pattern, text):
            return advice
    if any(path.endswith("timm/models/_factory.py") for path, _ in places):
        return (
            f"timm cannot make this network with the settings of model= ({text or 'it refuses them'}): leave out the "
            "one it does not accept; stage=wsss needs a convolutional network that accepts model.output_stride"
        )
    if added := re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", text):
        return f"{added[1]} takes no {added[2]}: correct the setting, or leave it out (--help lists the existing ones)"
    return None


FEWER = "lower datamodule.num_workers or datamodule.batch_size"
KNOWN = (
    (
        r"Bus error|torch_\d+|shared memory object",
        "the data-loading workers ran out of shared memory (/dev/shm): make it larger (docker run --shm-size=8g), or "
        + FEWER + " (datamodule.num_workers=0 needs none)",
    ),
    (
        r"DataLoader timed out after (\S+) seconds",
        "no batch came from the data-loading workers within datamodule.timeout seconds: the disk does not respond or "
        "is too slow (raise datamodule.timeout), or there is too little shared memory (/dev/shm); "
        "datamodule.num_workers=0 loads in the main process",
    ),
    (
        r"DataLoader worker .*(exited unexpectedly|killed by signal)",
        "a data-loading worker was killed, most likely for lack of memory: " + FEWER,
    ),
    (
        r"No supported (gpu|cuda|mps) backend|can not run on your system|MPSAccelerator",
        "PyTorch finds no such device on this machine: leave trainer= out (the default takes what there is), or set "
        "trainer=cpu",
    ),
    (
        r"[Cc]onnection (closed|reset|refused)|NCCL|[Pp]rocess group|[Bb]roken pipe",
        "another process of this training has stopped; its own message gives the reason",
    ),
    (
        r"out of memory|can't allocate memory|Unable to allocate|Insufficient memory",
        "out of memory: lower datamodule.batch_size or datamodule.size (in prediction members_at_once; for masks, "
        "which are made at the images' own sizes, datamodule.native_pixels, or leave out the largest images with "
        "datamodule.max_pixels and datamodule.on_bad_image=skip)",
    ),
)  # fmt: skip
"""What libraries say (a pattern), and what to tell the user."""
