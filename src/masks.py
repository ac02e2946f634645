"""Masks on disk: refined by a pool of processes, written whole, judged."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from src.crf import refine
from src.files import write_whole
from src.images import decode_image

Mask = npt.NDArray[np.bool_]


class Task(NamedTuple):
    """A mask to make: where image and mask lie, the thresholded map as packed bits, and the CRF's settings.

    `crf` None writes the thresholded map as it is.
    """

    image: Path
    mask: Path
    bits: bytes
    shape: tuple[int, int]
    crf: Mapping[str, float] | None


def task_of(image: Path, mask: Path, foreground: Mask, crf: Mapping[str, float] | None) -> Task:
    """A task from a thresholded map (H, W) bool."""
    height, width = foreground.shape
    return Task(image, mask, np.packbits(foreground).tobytes(), (height, width), crf)


def make_mask(task: Task) -> None:
    """Refine a task's map and write it as an 8-bit PNG of 0 and 255, in one step."""
    count = task.shape[0] * task.shape[1]
    foreground = np.unpackbits(np.frombuffer(task.bits, np.uint8), count=count).reshape(task.shape).astype(bool)
    if task.crf is not None:
        # The worker decodes the image again: a millisecond, where the CRF takes hundreds.
        foreground = refine(decode_image(task.image), foreground, **task.crf)  # type: ignore[arg-type]
    with write_whole(task.mask) as file:
        file.write(encode_mask(foreground))


# Training decodes a mask for each image: without a filter that takes a fifth of the time that it takes with OpenCV's
# default, Sub and run lengths, and the file grows by a third (python -m benchmarks.masks).
PNG = [
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
]


def encode_mask(foreground: Mask) -> bytes:
    """An 8-bit PNG of 0 and 255 from a mask (H, W) bool."""
    return cv2.imencode(".png", foreground.astype(np.uint8) * 255, PNG)[1].tobytes()


class MaskPool:
    """Processes that make masks while the caller goes on; a process that dies costs one refinement.

    A thread for each process hands it one task after the other, so that a crash in the CRF's C code is known
    to be of that task: its thresholded map is written instead. The queue is bounded: `submit` waits.

    Args:
        processes: how many.

    Attributes:
        crashed: images whose refinement took its process down.
    """

    def __init__(self, processes: int) -> None:
        self.tasks: Queue[Task | None] = Queue(maxsize=4 * processes)
        self.crashed: list[Path] = []
        self.errors: list[Exception] = []
        self.threads = [Thread(target=self.serve, daemon=True) for _ in range(processes)]
        for thread in self.threads:
            thread.start()

    def serve(self) -> None:
        """Hand tasks to a process until there are no more."""
        # A process forked from one with threads and a GPU context can hang: start clean ones.
        clean = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(1, mp_context=clean)
        while (task := self.tasks.get()) is not None:
            try:
                executor.submit(make_mask, task).result()
            except BrokenExecutor:
                executor = ProcessPoolExecutor(1, mp_context=clean)
                self.crashed.append(task.image)
                make_mask(task._replace(crf=None))
            except (OSError, ValueError) as error:  # a full disk, an image that went away: said by the caller's thread
                self.errors.append(error)
        executor.shutdown()

    def submit(self, task: Task) -> None:
        """Queue a task; waits while the queue is full.

        Raises:
            OSError, ValueError: an earlier task could not be written or its image not be read.
        """
        if self.errors:
            raise self.errors[0]
        self.tasks.put(task)

    def close(self) -> None:
        """Wait for all tasks; raises as submit."""
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
