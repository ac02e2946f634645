"""What this project does on a GPU: steps of every stage, its parts alone, loading, masks, prediction, memory.

    python -m benchmarks.gpu [--rows card "resnet34 224"] [--out gpu.json] [--minutes 7.5] [--seconds-per-row 40]

Each row is measured with the real configuration (bf16, channels_last, the recipe's batch) on images drawn here, and
written to --out at once: the same command again measures what is missing (--again: everything). A row that fails or
takes too long says so, and the next one goes on; the last ones compile and begin only while there is time. --tiny tries
everything with small networks on a CPU.

`ms` is a step of the real Trainer whose batch lies in pinned memory, callbacks and averages included, the median of
windows of five steps; `outside` is the share of it that is neither forward nor backward pass; `of matmul` sets the
FLOPs of both passes over that step against the rate of a large bf16 matmul (row `card`); `reads` are the times a step
waits for the device; `kernel ms` is how long kernels and copies run in a step, launched `launches` times; `wait` is the
share of a training's time that it waits for images. `GiB` is the most memory that PyTorch had allocated in the row.
"""

from __future__ import annotations

import argparse
import gc
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from src import cli
from src.files import read_json, write_json

Figures = dict[str, Any]
MISSING = "not measured"


class Expired(Exception):
    """A row has taken its time."""


@contextmanager
def at_most(seconds: float) -> Iterator[list[bool]]:
    """Raise Expired in what takes longer; what it yields is no longer empty then, whatever became of the exception."""
    expired: list[bool] = []

    def expire(*_: Any) -> None:
        expired.append(True)
        raise Expired

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # and again, where somebody swallowed it
    try:
        yield expired
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(row: Callable[[Any], Figures], bench: Any, seconds: float) -> Figures:
    """A row's figures with its peak memory, or the reason why there are none."""
    import torch

    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        with at_most(seconds) as expired:
            made = row(bench)
    except torch.OutOfMemoryError:
        made = {MISSING: "out of memory"}
    except Exception as error:  # of any kind: the next row goes on
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        made = {MISSING: f"time: more than {seconds:.0f} s" if expired else why}
    if cuda:
        made["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    gc.collect()  # a trainer and its module know each other
    if cuda:
        torch.cuda.empty_cache()
    return made


def shown(value: Any) -> str:
    """A figure with three digits or more."""
    return f"{value:.0f}" if isinstance(value, int | float) and abs(value) >= 100 else (
        f"{value:.3g}" if isinstance(value, float) else str(value)
    )  # fmt: skip


def tables(rows: Mapping[str, Figures]) -> str:
    """The rows as tables in markdown, one for each run of rows with the same figures; then where the host reads."""
    cells = {
        name: {key: shown(value) for key, value in figures.items() if not isinstance(value, Mapping)}
        for name, figures in rows.items()
    }
    lines: list[str] = []
    for columns, group in groupby(cells, key=lambda name: tuple(cells[name])):
        lines += ["", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(cells[name].values())} |" for name in group]
    for name, figures in rows.items():
        for key, value in figures.items():
            if isinstance(value, Mapping) and value:
                lines += ["", f"{name}, {key}, a step:", *(f"    {shown(v):>6}  {what}" for what, v in value.items())]
    return "\n".join(lines).strip()


def machine(tiny: bool) -> Figures:
    """Where the rows are measured."""
    import torch

    from src.data.loading import cores

    cuda = torch.cuda.is_available() and not tiny
    return {
        "card": torch.cuda.get_device_name() if cuda else "CPU",
        "cores": cores(),
        "torch": torch.__version__,
        "tiny": tiny,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing and print it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these alone, in this order")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="what has been measured")
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no row is measured")
    parser.add_argument(
        "--seconds-per-row", type=float, default=40, help="at most; 2.5 times as long for a compiled one"
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--tiny", action="store_true", help="small sizes on a CPU")
    options = parser.parse_args(words)
    end = time.monotonic() + 60 * options.minutes

    from benchmarks.gpu_bench import Bench  # here: the processes that refine masks import this file
    from benchmarks.gpu_rows import ROWS

    cli.quiet_libraries()
    rows = options.rows or list(ROWS)
    if unknown := [name for name in rows if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}: there are {', '.join(ROWS)}")
    here = machine(options.tiny)
    known = read_json(options.out) if options.out.exists() else {"machine": here, "rows": {}}
    if known["machine"] != here:
        parser.error(f"{options.out} is of {known['machine']}, and this is {here}: name another --out")
    print(", ".join(f"{key} {value}" for key, value in here.items()), flush=True)
    done: dict[str, Figures] = known["rows"]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.tiny, options.seconds_per_row / 12, done)
        for name in rows:
            if name in done and MISSING not in done[name] and not options.again:
                continue
            compiled = name.endswith("compiled")
            left, begin = end - time.monotonic(), time.monotonic()
            if left < (30 if compiled else 5):
                done[name] = {MISSING: "time"}
            else:
                seconds = min(left, options.seconds_per_row * (2.5 if compiled else 1))
                done[name] = measure(ROWS[name], bench, seconds)
            write_json(options.out, known)
            line = "  ".join(f"{key} {shown(v)}" for key, v in done[name].items() if not isinstance(v, dict))
            print(f"{name}: {line}  ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"\n{tables({name: done[name] for name in ROWS if name in done})}")


if __name__ == "__main__":
    main()
