"""Masks on disk: refined by a pool of processes, written whole, judged."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Queue
from threading import Lock, Thread
from typing import NamedTuple

import cv2
import numpy as np

from src.data.images import Mask, decode_image
from src.files import write_whole
from src.masks.crf import refine
from src.masks.grabcut import cut
from src.stopping import NAMES, request


class Task(NamedTuple):
    """A mask to make: paths of image and mask, the thresholded map as packed bits, and how it is refined.

    GrabCut comes first, then the CRF, with these settings; None leaves one out.
    """

    image: Path
    mask: Path
    bits: bytes
    shape: tuple[int, int]
    grabcut: Mapping[str, float] | None
    crf: Mapping[str, float] | None


def task_of(
    image: Path,
    mask: Path,
    foreground: Mask,
    crf: Mapping[str, float] | None,
    grabcut: Mapping[str, float] | None = None,
) -> Task:
    """A task from a thresholded map (H, W) bool."""
    height, width = foreground.shape
    return Task(image, mask, np.packbits(foreground).tobytes(), (height, width), grabcut, crf)


def make_mask(task: Task) -> bool:
    """Refine a task's map and write it as an 8-bit PNG of 0 and 255, in one step.

    Returns:
        Whether GrabCut, if used, found something; if it did not, the CRF refines the map itself.
    """
    count, found = task.shape[0] * task.shape[1], True
    foreground = np.unpackbits(np.frombuffer(task.bits, np.uint8), count=count).reshape(task.shape).astype(bool)
    if task.grabcut is not None or task.crf is not None:
        # The worker decodes the image again: a millisecond, while refining takes a hundred.
        image = decode_image(task.image, max_pixels=0)
        if task.grabcut is not None:
            made = cut(image, foreground, **task.grabcut)  # type: ignore[arg-type] # those settings
            found, foreground = made is not None, foreground if made is None else made
        if task.crf is not None:
            foreground = refine(image, foreground, **task.crf)  # type: ignore[arg-type] # the settings of conf/crf
    with write_whole(task.mask) as file:
        file.write(encode_mask(foreground))
    return found


# Training decodes a mask for each image. Without a filter that takes a fifth of the time of OpenCV's default (Sub and
# run lengths), and the file grows by a third (python -m benchmarks.masks).
PNG = [
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
]


def encode_mask(foreground: Mask) -> bytes:
    """An 8-bit PNG of 0 and 255 from a mask (H, W) bool."""
    return cv2.imencode(".png", foreground.astype(np.uint8) * 255, PNG)[1].tobytes()


def block_signals() -> None:
    """Keep stop signals, which reach the whole process group, from this thread and the processes that it starts.

    The main process decides when they end; a mask that is being refined is written.
    """
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # the process unblocks them when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, list(NAMES))


def start_refining() -> None:
    """Run in a process of the pool, so that it ends with the main process."""
    Thread(target=end_with_main, daemon=True).start()


def end_with_main() -> None:
    """Wait for the main process to end, however it ends, and end this one."""
    main = multiprocessing.parent_process()
    assert main is not None
    multiprocessing.connection.wait([main.sentinel])
    os._exit(1)


# Held while a process starts. An interpreter that exited before a new process had read its instructions would leave it
# without them, with a traceback: so the last thing that the interpreter does is to take this lock and keep it.
starting = Lock()
atexit.register(starting.acquire, timeout=5)


class MaskPool:
    """Processes that make masks while the caller continues; a process that dies costs one refinement.

    A thread for each process hands it one task at a time, so that a crash in C code can be blamed on that task. For a
    task that takes two processes down, the thresholded map is written instead. The queue is bounded: `submit` waits.

    Args:
        processes: their number.
        on_crash: called with a mask's path before its unrefined map is written, from several threads.
        on_nothing: called with a mask's path after GrabCut found nothing in its image, from several threads.

    Attributes:
        errors: of tasks that could not be done at all; the first one stops everything queued.
    """

    MOST_CRASHES = 3  # in a row: then it is not the images' fault

    def __init__(
        self,
        processes: int,
        on_crash: Callable[[Path], None] = lambda mask: None,
        on_nothing: Callable[[Path], None] = lambda mask: None,
    ) -> None:
        if processes < 1:
            raise ValueError(f"callbacks.masks.processes is {processes}: expected at least 1")
        self.tasks: Queue[Task | None] = Queue(maxsize=4 * processes)
        self.on_crash, self.on_nothing, self.in_a_row = on_crash, on_nothing, 0
        self.errors: list[Exception] = []
        self.threads = [Thread(target=self.serve, daemon=True) for _ in range(processes)]
        for thread in self.threads:
            thread.start()

    def serve(self) -> None:
        """Hand tasks to a process until there are no more."""
        block_signals()
        executor = self.executor()
        while (task := self.tasks.get()) is not None:
            if self.errors or request.signum:
                continue  # the queue is emptied, so that nobody waits for space in it
            try:
                executor = self.make(task, executor)
            except Exception as error:  # of any kind: a thread that ended here would leave `submit` waiting
                self.errors.append(error)
        executor.shutdown()

    @staticmethod
    def executor() -> ProcessPoolExecutor:
        """One process. One that is forked from a process with threads and a GPU context can hang: a clean one."""
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=start_refining)

    def make(self, task: Task, executor: ProcessPoolExecutor) -> ProcessPoolExecutor:
        """Do a task, and return the executor for the next one."""
        for _ in range(2):  # a process may be killed from outside: the task is to blame only when two die
            try:
                with starting:  # submit starts the process
                    future = executor.submit(make_mask, task)
                if not future.result():
                    self.on_nothing(task.mask)
                self.in_a_row = 0
                return executor
            except BrokenExecutor:
                executor = self.executor()
                if request.signum:  # the whole group is being stopped: the mask is made when the run is resumed
                    return executor
        self.in_a_row += 1
        if self.in_a_row > self.MOST_CRASHES:
            raise MemoryError  # the usual reason why a system kills processes
        self.on_crash(task.mask)
        make_mask(task._replace(grabcut=None, crf=None))
        return executor

    def submit(self, task: Task) -> None:
        """Queue a task; waits while the queue is full.

        Raises:
            OSError, ValueError: an earlier task failed: its mask could not be written, or its image not read.
        """
        self.raise_error()
        self.tasks.put(task)

    def close(self) -> None:
        """Wait for all tasks; raises as submit."""
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the first task's error, in a sentence."""
        if not self.errors:
            return
        error = self.errors[0]
        if isinstance(error, MemoryError):
            raise ValueError(
                "the processes that refine masks were killed one after another, most likely for lack of memory: "
                "lower callbacks.masks.processes, and continue with resume=true"
            ) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise error
        if isinstance(error, ValueError | OSError):
            raise ValueError(str(error)) from error
        raise ValueError(f"a mask could not be made: {type(error).__name__}: {error}") from error
