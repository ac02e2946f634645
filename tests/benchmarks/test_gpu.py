"""The GPU table, at tiny size on a CPU: clocks and counters by cases with a known answer, rows, and going on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_bench import Bench
from benchmarks.gpu_meter import HostReads, kernels, timed
from benchmarks.gpu_rows import ROWS, flops_of
from tests.mixing.test_contract import strategy_of
from tests.mixing.test_mixing import batch_of

CPU = torch.device("cpu")


def test_a_call_takes_as_long_as_it_sleeps() -> None:
    assert 0.01 <= timed(lambda: time.sleep(0.01), CPU, seconds=0, window=3, warm=0) < 0.1


def test_each_read_of_a_tensor_counts_once_where_it_is_asked_for() -> None:
    strategy, batch = strategy_of("decoupled")(), batch_of(4)
    with HostReads(CPU) as reads:
        strategy(batch)  # reads once which branch it takes
        _ = batch.image * 2  # no read
    places = {name.rpartition(":")[0]: count for name, count in reads.places.items()}
    assert places["src/mixing/decoupled.py"] == 1
    assert reads.operations >= 2


def test_kernels_are_summed_by_name_and_the_hosts_ranges_left_out() -> None:
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    events = [
        ("cudaLaunchKernel", cpu, 9), ("cuLaunchKernelEx", cpu, 9), ("cudaMemcpyAsync", cpu, 9), ("aten::add", cpu, 9),
        ("gemm", cuda, 3000), ("gemm", cuda, 1000), ("Memcpy HtoD", cuda, 500), ("Optimizer.step#SGD.step", cuda, 9000),
    ]  # fmt: skip
    made = [
        SimpleNamespace(name=name, device_type=kind, time_range=SimpleNamespace(elapsed_us=lambda us=us: us))
        for name, kind, us in events
    ]
    figures = kernels(SimpleNamespace(events=lambda: made), steps=2)
    assert figures == {"launches": 1, "kernel ms": 2.25, "top kernels": {"gemm": 2.0, "Memcpy HtoD": 0.25}}


def test_flops_of_a_convolution_are_those_of_its_three_products() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    bench = Bench.__new__(Bench)
    bench.device = CPU
    side = 8
    first, second = 2 * side**2 * 3 * 4 * 9, 2 * side**2 * 4 * 5
    # Forward and the gradient of the weights for both; that of the input for the second alone.
    assert flops_of(bench, Net(), side) == 2 * first + 3 * second


def test_what_takes_too_long_and_what_fails_become_rows(tmp_path: Path) -> None:
    bench = Bench.__new__(Bench)
    bench.device = CPU

    def fails(bench: Bench) -> dict[str, float]:
        raise KeyError("width")

    def out_of_memory(bench: Bench) -> dict[str, float]:
        raise torch.OutOfMemoryError

    def swallows(bench: Bench) -> dict[str, float]:
        try:
            time.sleep(60)
        except Exception as error:
            raise RuntimeError("compiler") from error
        return {}

    assert gpu.measure(fails, bench, 5) == {gpu.MISSING: "KeyError: 'width'"}
    assert gpu.measure(out_of_memory, bench, 5) == {gpu.MISSING: "out of memory"}
    begin = time.monotonic()
    assert gpu.measure(swallows, bench, 0.2) == {gpu.MISSING: "time: more than 0 s"}
    assert time.monotonic() - begin < 20  # of the minute


def test_the_tables_join_rows_of_the_same_figures() -> None:
    rows = {"a": {"ms": 1.234, "read at": {"x.py:1": 2.0}}, "b": {"ms": 1234.5}, "c": {"images/s": 7}}
    lines = gpu.tables(rows).split("\n")
    assert lines[:4] == ["| | ms |", "|---|---|", "| a | 1.23 |", "| b | 1234 |"]
    assert lines[5:8] == ["| | images/s |", "|---|---|", "| c | 7 |"]
    assert lines[9:] == ["a, read at, a step:", "         2  x.py:1"]


def test_the_order_begins_with_the_card_and_compiles_last() -> None:
    names = list(ROWS)
    compiled = [name for name in names if name.endswith("compiled")]
    assert names[0] == "card" and names[-len(compiled) :] == compiled
    assert {f"resnet34 {side}, compiled" for side in (224, 448)} <= set(compiled)


def test_rows_are_measured_once_and_missing_ones_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    words = ["--tiny", "--out", str(out), "--rows", "card", "resnet34 224", "mixing foreground", "loading, mask"]
    gpu.main(words)
    rows = json.loads(out.read_text())["rows"]
    assert not [name for name, figures in rows.items() if gpu.MISSING in figures], rows
    step = rows["resnet34 224"]
    assert step["px"] == 32 and step["batch"] == 16
    assert step["images/s"] == pytest.approx(1000 * step["batch"] / step["ms"])
    assert step["reads"] == pytest.approx(sum(step["read at"].values())) and step["operations"] > 100
    assert any(name.startswith("src/") for name in step["read at"])
    mixing = rows["mixing foreground"]
    assert mixing["of resnet34's step %"] == pytest.approx(100 * mixing["ms a batch"] / step["ms"])
    assert "| resnet34 224 | 32 | 16 |" in capsys.readouterr().out

    known = json.loads(out.read_text())
    known["rows"]["card"]["copy GB/s"] = -1.0  # kept
    known["rows"]["loading, mask"] = {gpu.MISSING: "time"}  # measured
    out.write_text(json.dumps(known))
    gpu.main(words)
    again = json.loads(out.read_text())["rows"]
    assert again["card"]["copy GB/s"] == -1 and again["resnet34 224"] == step
    assert again["loading, mask"]["images/s"] > 0

    known["machine"]["card"] = "another"
    out.write_text(json.dumps(known))
    with pytest.raises(SystemExit):
        gpu.main(words)
    assert "name another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_every_row_is_measured_at_tiny_size(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--out", str(out), "--rows", *(name for name in ROWS if not name.endswith("compiled"))])
    rows = json.loads(out.read_text())["rows"]
    assert not [(name, figures) for name, figures in rows.items() if gpu.MISSING in figures]
    assert 0 <= rows["training from disk"]["wait %"] <= 100
    assert rows["moco"]["operations"] > rows["moco, one group"]["operations"]
