"""Whether memory stays flat: 20 epochs of every stage and 20,000 predicted images, tiny and on a CPU.

    python -m benchmarks.soak [--epochs 20] [--images 20000] [--stages baseline wsss ...] [--folder DIR]

The data are a tenth of the demo's, drawn into a temporary folder that is removed at the end. Each stage is a train.py
of its own, and predict.py follows. Memory is what the process holds (RSS, from /proc) when it prints the line of an
epoch or, in a prediction, a second after the line before; beside it the most that a worker held up to there.

It has settled after a quarter of the lines, the fifth of 20 epochs. It is flat where the median of the last three lines
is at most 2 % above that of the first three afterwards. Exit code 1: it is not flat somewhere, or a command failed.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    "baseline",
    "wsss",
    "moco",
    "finetune",
    "fdg",
    "adapt",
    "distil",
)  # in the order in which they need each other
MARK = re.compile(r"epoch \d+/\d+ .* s left$|predicted batch \d+")
MORE = {"moco": ["module.queue_size=64"]}
"""What a stage needs for a hundred images."""
GROWTH = 0.02
"""By which memory may grow from where it has settled to the end."""
SETTINGS = ["scale=demo", "datamodule.size=32", "datamodule.batch_size=16", "datamodule.num_workers=1", "changes=null"]


def resident(pid: int) -> float:
    """MiB that a process holds, 0 where there is none."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def children(pid: int) -> list[int]:
    """The processes that a process and those below it have started."""
    try:
        own = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    except OSError:
        return []
    return own + [below for child in own for below in children(child)]


class Watch(threading.Thread):
    """Notes the most that a process below `pid` has held, twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.over = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            self.most = max([self.most, *map(resident, children(self.pid))])

    def taken(self) -> float:
        """That, since the last call."""
        most, self.most = self.most, 0.0
        return most


def growth(marks: Sequence[float]) -> float:
    """By how much memory has grown since it settled, as a share.

    Args:
        marks: MiB in the order of time, at least three.
    """
    settled = min(len(marks) // 4, len(marks) - 3)
    first = statistics.median(marks[settled : settled + 3])
    return statistics.median(marks[-3:]) / first - 1


def soak(title: str, command: Sequence[str]) -> bool:
    """Run a command, print its line of the table, and say whether memory was flat."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch, lines = Watch(process.pid), []
    watch.start()
    own: list[float] = []
    workers: list[float] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if MARK.match(line):
            own.append(resident(process.pid))
            workers.append(watch.taken())
    watch.over.set()
    if process.wait() or len(own) < 3:
        print(f"{title:>12}  failed or too short ({len(own)} lines):\n{''.join(lines[-15:])}", flush=True)
        return False
    grown = growth(own)
    settled = min(len(own) // 4, len(own) - 3)
    most = max(workers[: settled + 1]), max(workers[settled:])
    print(
        f"{title:>12}  {len(own):3d} lines  {own[0]:5.0f} MiB at first, {own[settled]:5.0f} settled, {own[-1]:5.0f} at "
        f"the end: {100 * grown:+5.1f} %; a worker at most {most[0]:5.0f}, later {most[1]:5.0f}",
        flush=True,
    )
    return grown <= GROWTH


def many(folder: Path, count: int) -> Path:
    """A folder of `count` image files, links to those of the drawn data."""
    files = sorted(folder.glob("data/**/*.jpg"))
    made = folder / "many"
    made.mkdir()
    for i in range(count):
        os.link(files[i % len(files)], made / f"{i:06d}.jpg")
    return made


def main() -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000, help="to predict; 0: none")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        drawn = ["-m", "src.datamodules.synthetic", name, "--scale", "0.1"]
        subprocess.run([sys.executable, *drawn], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        places = [f"data_root={name}/data", f"manifest_dir={name}/dataset_json", f"logs_dir={name}/logs", "track=1"]
        places_and_epochs = [*places, f"trainer.max_epochs={options.epochs}"]
        flat = [
            soak(stage, ["train.py", f"stage={stage}", *SETTINGS, *MORE.get(stage, []), *places_and_epochs])
            for stage in options.stages
        ]
        if options.images:
            lines = "[{_target_: src.callbacks.progress_lines.progress_bar, seconds: 1}]"
            words = ["ensemble=baselines", "scale=demo", f"results_dir={name}/results", f"trainer.callbacks={lines}"]
            images = f"images={many(folder, options.images)}"
            flat.append(soak("prediction", ["predict.py", *words, *places, "datamodule.num_workers=1", images]))
    print(f"{sum(flat)} of {len(flat)} flat within {100 * GROWTH:.0f} %")
    return 0 if all(flat) else 1


if __name__ == "__main__":
    sys.exit(main())
