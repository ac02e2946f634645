"""The soak's rule by cases with a known answer, and one stage through all of it."""

from pathlib import Path

import pytest

from benchmarks import soak


def test_growth_is_counted_from_where_memory_has_settled() -> None:
    assert soak.growth([100, 200, 300, 400, 500] + [500] * 15) == 0  # the first quarter fills caches
    assert soak.growth([500.0] * 17 + [550] * 3) == pytest.approx(0.1)
    assert soak.growth([500.0] * 19 + [5000]) == 0  # one line alone is no trend
    leak = [500 * 1.002**i for i in range(20)]
    assert soak.growth(leak) > soak.GROWTH  # a MiB an epoch
    assert soak.growth([100, 100, 101]) == 0


def test_what_a_worker_holds_is_found_below_its_process() -> None:
    import os
    import subprocess
    import sys

    assert soak.resident(os.getpid()) > 50 and soak.resident(2**22 + 1) == 0
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        assert len(soak.children(process.pid)) == 1 and process.pid in soak.children(os.getpid())
        process.stdin.write(b"\n")
        process.stdin.close()


@pytest.mark.slow
def test_three_epochs_of_a_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["soak", "--epochs", "3", "--images", "0", "--stages", "baseline", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    code = soak.main()
    said = capsys.readouterr().out
    assert "baseline    3 lines" in said and ("1 of 1 flat" in said) == (code == 0)
    assert not list(tmp_path.iterdir())
