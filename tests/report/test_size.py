import time
from pathlib import Path

import pytest

from src.report.page import make_page, write_page
from tests.report.made_up import made_up


@pytest.mark.slow
def test_a_full_prediction_is_a_page_of_15_mb_in_a_minute(data: Path, tmp_path: Path) -> None:
    evaluation, beside, open_images = made_up(
        tmp_path, data, classes=[f"class number {i}" for i in range(60)], members=33, images=14000, epochs=200,
        contexts=["outdoor", "water"], training_contexts=["autumn", "dim", "grass", "rock"], held_out=14000,
    )  # fmt: skip
    begin, start = time.process_time(), time.monotonic()
    write_page(make_page(evaluation, beside, open_images), tmp_path / "report.html")
    seconds, size = time.process_time() - begin, (tmp_path / "report.html").stat().st_size
    print(f"{seconds:.1f} s of one core, {time.monotonic() - start:.1f} s by the clock, {size / 1e6:.2f} MB")
    # Of this process alone, as others may share the cores.
    assert seconds < 60 and size < 15e6
