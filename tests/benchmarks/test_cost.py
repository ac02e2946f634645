"""The cost of the recipe by cases with a known answer."""

import pytest

from benchmarks.cost import Job, Rates, jobs, network, scaling

ROWS = {
    "card": {"matmul TFLOP/s": 100.0},
    "resnet34 224": {"images/s": 1000.0, "of matmul %": 10.0, "ms": 30.0, "launches": 600.0, "kernel ms": 10.0},
    "resnet34 512": {"images/s": 300.0, "of matmul %": 20.0},
    "wide_resnet50_2 224": {"ms": 60.0, "launches": 800.0, "kernel ms": 56.0},
    "wsss": {"px": 448, "ms": 50.0, "launches": 800.0, "kernel ms": 30.0},
    "moco": {"px": 224, "images/s": 400.0, "ms": 80.0, "launches": 2000.0, "kernel ms": 30.0},
    "fdg": {"px": 512, "ms": 64.0, "launches": 700.0, "kernel ms": 64.0},
    "adapt": {"px": 512, "ms": 64.0, "launches": 700.0, "kernel ms": 64.0},
}


def test_what_was_measured_counts_and_the_rest_is_estimated_from_flops() -> None:
    rates = Rates(ROWS)
    assert rates.of(Job("finetune", "resnet34", 224, 128, 1, 1)) == (1000.0, True)
    assert rates.of(Job("moco", "resnet34", 224, 128, 1, 3)) == (400.0, True)
    flops, parameters = network("densenet121", 448)
    assert 6.9e6 < parameters < 8e6  # 6.95 M without a head
    rate, known = rates.of(Job("finetune", "densenet121", 448, 128, 1, 1))
    assert not known and rate == pytest.approx(0.2 * 100e12 / flops)  # 512 px is nearest


def test_a_network_twice_as_deep_in_flops_takes_twice_as_long() -> None:
    assert network("resnet34", 448)[0] == pytest.approx(4 * network("resnet34", 224)[0], rel=0.02)
    assert network("resnet34", 224)[0] == pytest.approx(3 * 2 * 3.67e9, rel=0.05)  # timm: 3.67 G multiply-adds


def test_several_gpus_are_bound_by_the_host_and_the_all_reduce() -> None:
    lines = {line.split(" | ")[0].strip("| "): line for line in scaling(ROWS).splitlines()[2:]}
    # the host: 30 ms, its kernels are less than half; the ring: 2 * 7/8 * 85.1 MB / 450 GB/s = 0.33 ms
    assert "| 30 ms (1.0 times as fast) |" in lines["finetune, resnet34, 224 px"]
    # 700 launches of 0.05 ms each, and the ring again
    assert "| 35 ms (1.8 times as fast) |" in lines["adapt, resnet34, 512 px"]
    # kernels of 64 ms in parts that are no shorter than 35 ms; 10 ms are below the host's 30 in one part
    assert "| 64 | 35 | 2 |" in lines["adapt, resnet34, 512 px"]
    assert "| 10 | 30 | 1 |" in lines["finetune, resnet34, 224 px"]


def test_the_recipe_s_epochs_and_sizes_are_conf_s() -> None:
    made = jobs(100)
    finetune = [job for job in made if job.stage == "finetune" and job.model == "resnet34"]
    assert [(job.size, job.images) for job in finetune] == [(224, 6000), (448, 6000)]
    assert [job.images for job in made if job.stage == "adapt"] == [20000] * 3  # ten members each
    assert {job.images for job in made if job.stage == "fdg"} == {16000}  # pairs
