"""Clocks and counters of `python -m benchmarks.gpu`: of calls, and of steps of a Trainer until it has been measured."""

from __future__ import annotations

import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")  # and their variants (ExC, Ex)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device, seconds: float, window: int = 5, warm: int = 3) -> float:
    """Seconds a call: the median over windows of `window` calls, of which there are at least three.

    Args:
        work: what is called.
        device: is waited for before and after each window.
        seconds: that all windows take, about; 0: one window.
        window: calls in one.
        warm: calls before the first one.
    """
    for _ in range(warm):
        work()
    windows: list[float] = []
    while not windows or (seconds and len(windows) < 3) or sum(windows) < seconds:
        synchronise(device)
        begin = time.perf_counter()
        for _ in range(window):
            work()
        synchronise(device)
        windows.append(time.perf_counter() - begin)
    return statistics.median(windows) / window


def place() -> str:
    """The innermost line of this project's code, or of Lightning's, that is being executed."""
    frames = traceback.extract_stack()[:-2]
    for part in (f"{ROOT}/src/", "/pytorch_lightning/", ""):
        for frame in reversed(frames):
            if part in frame.filename and not frame.filename.startswith(f"{ROOT}/benchmarks/"):
                return f"{frame.filename.removeprefix(f'{ROOT}/').rpartition('site-packages/')[2]}:{frame.lineno}"
    return "?"


class HostReads(TorchDispatchMode):
    """Counts, while it is entered, by the line that asks: waits for the device, and on a CPU what would be one.

    On a GPU each synchronising call counts (torch.cuda.set_sync_debug_mode), on a CPU each read of a number into
    Python. There it also counts the operations.

    Args:
        device: where the work is.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.operations = device, 0
        self.places: Counter[str] = Counter()
        self.stack = ExitStack()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if func is torch.ops.aten._local_scalar_dense.default:
            self.places[place()] += 1
        return func(*args, **(kwargs or {}))

    def show(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """As warnings.showwarning."""
        if "called a synchronizing" in str(message):
            self.places[place()] += 1

    def __enter__(self) -> HostReads:
        if self.device.type == "cpu":
            return super().__enter__()  # type: ignore[no-any-return] # torch's, untyped
        self.stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = self.show
        self.stack.callback(torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode())
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device.type == "cpu":
            super().__exit__(*error)
        else:
            self.stack.close()


def kernels(profiler: profile, steps: int) -> dict[str, Any]:
    """Launches a step, milliseconds that kernels and copies run in one, and the longest kernels in ms a step."""
    launches = sum(event.name.startswith(LAUNCHES) for event in profiler.events())
    times: Counter[str] = Counter()
    for event in profiler.events():
        marks = event.name.startswith(("Optimizer.", "ProfilerStep"))  # ranges of the host, shown for the device too
        if event.device_type == DeviceType.CUDA and not marks and not getattr(event, "is_user_annotation", False):
            times[event.name] += event.time_range.elapsed_us()
    top = {name[:80]: round(us / steps / 1000, 3) for name, us in times.most_common(8)}
    return {"launches": launches / steps, "kernel ms": sum(times.values()) / steps / 1000, "top kernels": top}


class Enough(Exception):
    """Ends a training that has been measured, without the work that ends an epoch."""


class Meter(pl.Callback):
    """Times the steps of a Trainer, from the start of one to the start of another; then counts what they do.

    Args:
        device: the trainer's.
        seconds: that timed steps take, about; 0: one window.
        warm, window: steps before the first window, and of each.
        inspected: steps whose host reads are counted, and as many whose kernels are; 0: none.

    Attributes:
        figures: what has been measured, complete when the trainer raises Enough.
    """

    def __init__(self, device: torch.device, seconds: float, warm: int, window: int, inspected: int) -> None:
        self.device, self.seconds, self.warm, self.window, self.inspected = device, seconds, warm, window, inspected
        self.figures: dict[str, Any] = {}
        self.windows: list[float] = []
        self.step, self.next, self.phase = 0, warm, self.start
        self.begin = 0.0
        self.counting = ExitStack()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.step == self.next:
            synchronise(self.device)
            self.phase()
        self.step += 1

    def start(self) -> None:
        """Begin the first window."""
        self.begin = time.perf_counter()
        self.next, self.phase = self.step + self.window, self.end_window

    def end_window(self) -> None:
        """Note a window, and begin the next one or go on."""
        now = time.perf_counter()
        self.windows.append((now - self.begin) / self.window)
        self.next, self.begin = self.step + self.window, now
        spent = sum(self.windows) * self.window
        if not self.seconds or (len(self.windows) >= 3 and spent >= self.seconds):
            self.figures["ms"] = 1000 * statistics.median(self.windows)
            if not self.inspected:
                raise Enough
            self.reads = self.counting.enter_context(HostReads(self.device))
            self.next, self.phase = self.step + self.inspected, self.end_reads

    def end_reads(self) -> None:
        """Note the host reads, and begin to profile, or on a CPU end."""
        self.counting.close()
        places = self.reads.places
        self.figures["reads"] = sum(places.values()) / self.inspected
        self.figures["read at"] = {name: count / self.inspected for name, count in places.most_common()}
        if self.device.type == "cpu":
            self.figures["operations"] = self.reads.operations / self.inspected
            raise Enough
        cuda = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        self.profiler = self.counting.enter_context(profile(activities=cuda))
        self.next, self.phase = self.step + self.inspected, self.end_profile

    def end_profile(self) -> None:
        """Note launches and kernels, and end."""
        self.counting.close()
        self.figures |= kernels(self.profiler, self.inspected)
        raise Enough

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.counting.close()  # or what comes next would be counted too
