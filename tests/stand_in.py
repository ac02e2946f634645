"""The meta device in the place of a GPU: it computes nothing, and what a host would wait for can be counted."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
aten = torch.ops.aten


class Accelerator(CPUAccelerator):
    """Lightning's for the CPU, which leaves the device alone."""

    def setup_device(self, device: torch.device) -> None:
        """Accept the device."""


def strategy() -> SingleDeviceStrategy:
    """Lightning's for one process, whose module and batches are on the meta device."""
    return SingleDeviceStrategy(META, accelerator=Accelerator())


class Made(TorchFunctionMode):
    """Notes tensors that are made on the device of the host's numbers, which no dispatch shows."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == META:
            self.note("sent")
        return func(*args, **kwargs)


class Watch(TorchDispatchMode):
    """Notes what the host does with the device while this is entered.

    A read gives zeros, as the meta device has no numbers.

    Attributes:
        step: what the caller counts, such as steps.
        noted: (step, what, where) of each "read" (the host waits), "sent" (a copy to the device for which the host
            waits) and "late" (a copy to the host for which it does not).
        launches: for each step the operations that are no views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.noted: list[tuple[int, str, str]] = []
        self.launches: dict[int, int] = {}
        self.made = Made(self.note)

    def __enter__(self) -> Watch:
        self.made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.made.__exit__(*error)

    def note(self, what: str) -> None:
        """Note something, and the line that did it: its own, not that of a library or of src/transfers.py."""
        ours = ("/torch/", "/src/transfers.py", __file__)
        frames = [f for f in traceback.extract_stack() if not any(part in f.filename for part in ours)]
        self.noted.append((self.step, what, f"{'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno}"))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first, packet = (args[0] if args else None), func.overloadpacket
        if packet is aten._local_scalar_dense and first.is_meta:
            self.note("read")
            return torch.zeros((), dtype=first.dtype).item()
        if packet is aten._to_copy:
            goal = torch.device(kwargs.get("device") or first.device)
            if first.is_meta and goal != META:
                self.note("late" if kwargs.get("non_blocking") else "read")
                return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
            if not first.is_meta and goal == META and not kwargs.get("non_blocking"):
                self.note("sent")
        if packet is aten.copy_ and first.device != args[1].device:
            self.note("sent" if first.is_meta else "read")
            return first
        indices = args[1] if packet is aten.index else ()
        if packet is aten.nonzero or any(index is not None and index.dtype is torch.bool for index in indices):
            self.note("read")  # how many there are
        made = func(*args, **kwargs)
        is_view = any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns)
        self.launches[self.step] = self.launches.get(self.step, 0) + (not is_view)
        return made
