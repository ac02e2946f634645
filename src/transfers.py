"""Tensors on their way between the host and the device, without a wait for the device's work."""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on the device, such as a draw; the host goes on at once.

    A plain `.to` waits until the device has finished what it was given before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # kept by torch until the copy is done
    return tensor.to(device, non_blocking=True)


class Late:
    """A tensor on its way to the host, in pinned memory.

    Args:
        tensor: on any device; not to be written to before it is read.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.host = tensor.detach().to("cpu", non_blocking=True)  # torch pins what comes from a GPU in this way
        self.arrived = torch.cuda.Event() if tensor.is_cuda else None  # type: ignore[no-untyped-call] # torch's
        if self.arrived:
            self.arrived.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> torch.Tensor:
        """The tensor on the CPU. What the device was given after it is not waited for."""
        if self.arrived:
            self.arrived.synchronize()
        return self.host
