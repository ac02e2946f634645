from math import nan

from src.data.manifest import Row
from src.masks.judge import Measured
from src.masks.shown import CONTEXTS, shown


def rows(count: int, contexts: int) -> list[Row]:
    return [
        Row(f"{i}.jpg", i % 2, ["car", "dog"][i % 2], domain=i % contexts if contexts else None) for i in range(count)
    ]


def test_the_best_a_median_and_the_worst_of_each_context() -> None:
    overlap = [0.1, 0.9, 0.5, 0.2, 0.8, 0.7, 0.3, 0.6]  # contexts 0 1 0 1 ...
    made = shown(rows(8, 2), [Measured(0.25, 0, one, (4, 4)) for one in overlap], ["grass", "snow"])
    assert [one.place for one in made] == [4, 2, 0, 1, 5, 3]  # 0.8 0.5 (0.3) 0.1; 0.9 0.7 (0.6) 0.2
    assert made[0].words == "car (grass): IoU 0.80 (greatest), 25 % foreground"
    assert made[1].words.endswith("IoU 0.50 (median), 25 % foreground")
    assert made[5].words == "dog (snow): IoU 0.20 (least), 25 % foreground"


def test_without_truth_and_contexts_it_goes_by_class_and_share() -> None:
    share = [0.1, 0.2, 0.5, 0.3, 0.4, 0.6]
    made = shown(rows(6, 0), [Measured(one, 0, nan, (4, 4)) for one in share], [])
    assert [(one.place, one.words) for one in made] == [
        (2, "car: 50 % foreground (greatest)"), (4, "car: 40 % foreground (median)"),
        (0, "car: 10 % foreground (least)"), (5, "dog: 60 % foreground (greatest)"),
        (3, "dog: 30 % foreground (median)"), (1, "dog: 20 % foreground (least)"),
    ]  # fmt: skip


def test_few_images_are_shown_once_and_many_contexts_are_spread() -> None:
    assert [one.place for one in shown(rows(1, 1), [Measured(0.5, 0, nan, (4, 4))], ["grass"])] == [0]
    many = rows(40, 20)
    found = shown(many, [Measured(0.5, 0, nan, (4, 4))] * 40, [f"c{i:02}" for i in range(20)])
    places = sorted({many[one.place].domain for one in found})  # type: ignore[type-var]
    assert len(places) == CONTEXTS and places[0] == 0 and places[-1] == 19
