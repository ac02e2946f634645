import math
import random
from functools import partial
from typing import Any

import pytest

from src.data.manifest import NO_DOMAIN, Row
from src.data.splits import context_information, holdout, leave_context_out, no_split


def rows_of(classes: int, contexts: int, images: int) -> list[Row]:
    return [
        Row(f"train/{d}/{k}/{i}.jpg", k, str(k), d)
        for d in range(contexts)
        for k in range(classes)
        for i in range(images)
    ]


def test_holdout_is_stratified_exact_and_independent_of_order() -> None:
    rows = rows_of(classes=5, contexts=4, images=7)
    split = holdout(rows, [], fraction=0.2, seed=0)
    assert len(split.in_domain) == round(0.2 * len(rows)) and not split.out_of_domain
    assert sorted(split.train + split.in_domain) == list(range(len(rows)))
    counts = [0] * 20
    for i in split.in_domain:
        counts[rows[i].label * 4 + rows[i].domain] += 1
    assert set(counts) <= {1, 2}
    shuffled = random.Random(1).sample(rows, len(rows))
    again = holdout(shuffled, [], fraction=0.2, seed=0)
    assert {shuffled[i].image_path for i in again.in_domain} == {rows[i].image_path for i in split.in_domain}
    assert holdout(rows, [], fraction=0.2, seed=1) != split


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_what_rounding_takes_from_a_group_the_next_one_gets(fraction: float) -> None:
    rows = rows_of(classes=5, contexts=4, images=3)
    held, seen = set(holdout(rows, [], fraction=fraction, seed=0).in_domain), 0
    for label in range(5):
        for domain in range(4):
            seen += 3
            so_far = sum((rows[i].label, rows[i].domain) <= (label, domain) for i in held)
            assert abs(so_far - fraction * seen) <= 0.5
    assert len(held) == round(fraction * len(rows))


def test_every_group_keeps_an_image_to_train_on() -> None:
    assert not holdout(rows_of(4, 2, 1), [], fraction=0.5, seed=0).in_domain
    rows = rows_of(3, 2, 4)
    left = holdout(rows, [], fraction=0.99, seed=0).train
    assert sorted((rows[i].label, rows[i].domain) for i in left) == [(k, d) for k in range(3) for d in range(2)]


def test_images_without_class_or_context_are_a_group_like_any_other() -> None:
    rows = [Row(f"{label}/{i}.jpg", label) for label in (None, 0, 1) for i in range(10)]
    held = holdout(rows, [], fraction=0.3, seed=0).in_domain
    assert [sum(rows[i].label == label for i in held) for label in (None, 0, 1)] == [3, 3, 3]


def test_leave_context_out() -> None:
    rows = rows_of(3, 3, 10)
    split = leave_context_out(rows, ["dim", "grass", "water"], contexts=["water"], fraction=0.1, seed=0)
    assert split.out_of_domain == [i for i, row in enumerate(rows) if row.domain == 2]
    assert len(split.in_domain) == 6 and all(rows[i].domain != 2 for i in split.train + split.in_domain)
    assert sorted(i for part in split for i in part) == list(range(len(rows)))


NAMES = ["2016", "1e3", "1.2.3", "true", "café", "dim"]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("dim", ["dim"]),
        (["dim", "2016"], ["2016", "dim"]),
        (2016, ["2016"]),
        ([2016.0, 1000], ["2016", "1e3"]),
        (True, ["true"]),
        ([True, "cafe\u0301"], ["true", "café"]),  # e and its accent apart
        ("1.2.3", ["1.2.3"]),
    ],
)
def test_a_context_is_known_by_its_name_however_yaml_reads_that(typed: object, names: list[str]) -> None:
    rows = rows_of(2, len(NAMES), 5)
    split = leave_context_out(rows, NAMES, contexts=typed, fraction=0.2, seed=0)  # type: ignore[arg-type]
    assert [NAMES[d] for d in sorted({rows[i].domain for i in split.out_of_domain})] == names
    assert sorted(i for part in split for i in part) == list(range(len(rows)))


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        (None, ["dim", "water"]),
        ([], ["dim", "grass", "water"]),
        (["sea"], ["dim", "grass", "water"]),
        (["dim", "sea"], ["dim", "grass", "water"]),
        (["dim", "grass", "water"], ["dim", "grass", "water"]),  # nothing would be left
        (1000.0, ["1e3", "1000", "dim"]),  # of two names one must be typed as it stands
        (True, ["TRUE", "true", "dim"]),
        ("A\u030a", ["\u00c5", "\u212b", "dim"]),  # Å, and the ångström's sign
        ("2016.0", ["2016", "dim"]),  # a text is no number
        (1, ["true", "dim"]),
        (True, ["1", "dim"]),
        (False, ["true", "dim"]),
        (12.3, ["1.2.3", "dim"]),
    ],
)
def test_what_names_no_context_or_every_one_or_two_at_once(typed: object, names: list[str]) -> None:
    with pytest.raises(ValueError, match=f"name one or more, not all, of the contexts {', '.join(names)}"):
        leave_context_out(rows_of(2, 3, 2), names, contexts=typed, fraction=0.1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use split=holdout"):
        leave_context_out(rows_of(2, 3, 2), [], contexts=typed, fraction=0.1, seed=0)  # type: ignore[arg-type]


def test_nothing_is_held_out_of_a_final_run() -> None:
    assert no_split(rows_of(2, 1, 2), []) == ([0, 1, 2, 3], [], [])


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_a_share_that_is_none(fraction: float) -> None:
    for split in (holdout, partial(leave_context_out, contexts=["a"])):
        with pytest.raises(ValueError, match=f"split.fraction is {fraction}: expected a share in"):
            split(rows_of(2, 2, 2), ["a", "b"], fraction=fraction, seed=0)


def test_settings_are_given_by_their_names() -> None:
    with pytest.raises(TypeError):
        holdout(rows_of(2, 2, 2), [], 0.1, 0)  # type: ignore[misc]
    with pytest.raises(TypeError):
        leave_context_out(rows_of(2, 2, 2), ["a", "b"], ["a"], 0.1, 0)  # type: ignore[misc]


def test_how_much_of_the_class_the_context_tells() -> None:
    def rows(counts: list[list[int]]) -> list[Row]:
        """`counts` of images: a line for each class, a column for each context."""
        cells = [(y, d, n) for y, line in enumerate(counts) for d, n in enumerate(line)]
        return [Row(f"{y}-{d}-{i}.jpg", y, f"class {y}", d) for y, d, n in cells for i in range(n)]

    assert context_information(rows([[4, 6], [2, 3], [20, 30]])) == pytest.approx(0)  # the same shares everywhere
    assert context_information(rows([[5, 0], [0, 9]])) == pytest.approx(1)
    assert context_information(rows([[7, 0, 0, 0], [0, 2, 1, 5]])) == pytest.approx(1)  # the context gives it away
    # By hand, of 9 and 1 against 1 and 9: 1 - H(.1) in bits, over 1 bit.
    binary = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    assert context_information(rows([[9, 1], [1, 9]])) == pytest.approx(1 - binary)
    unknown = rows([[1, 1], [1, 1]])
    assert context_information([*unknown, Row("x.jpg", 0, "class 0", NO_DOMAIN)]) is None
    assert context_information([*unknown, Row("x.jpg", 0, "class 0")]) is None
    assert context_information(rows([[3, 4]])) is None and context_information([]) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": None}, "split.seed is None: expected a whole number"), ({"seed": "x"}, "split.seed is x"),
        ({"seed": -1}, "split.seed is -1"), ({"seed": 1.5}, "split.seed is 1.5"), ({"seed": True}, "seed is True"),
        ({"fraction": "x"}, "split.fraction is x: expected a share"), ({"fraction": None}, "split.fraction is None"),
        ({"fraction": float("nan")}, "split.fraction is nan"), ({"fraction": True}, "split.fraction is True"),
        ({"fraction": 1e-9}, "split.fraction is 1e-09, which holds out none of 12 images"),
    ],
)  # fmt: skip
def test_settings_that_draw_no_split_are_refused(settings: dict[str, Any], said: str) -> None:
    rows, draw = rows_of(2, 3, 2), {"fraction": 0.2, "seed": 0} | settings
    with pytest.raises(ValueError, match=said):
        holdout(rows, [], **draw)
    with pytest.raises(ValueError, match=said.partition(", which")[0]):
        leave_context_out(rows, ["a", "b", "c"], contexts=["a"], **draw)


def test_a_context_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split.contexts is \['a', 'a'\], which names a twice: name it once"):
        leave_context_out(rows_of(2, 3, 2), ["a", "b", "c"], contexts=["a", "a"], fraction=0.2, seed=0)
