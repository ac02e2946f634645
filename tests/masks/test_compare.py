import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.data.manifest import Row, write_manifest
from src.masks.compare import agreements, main
from src.masks.judge import border_share, doubts, iou
from src.masks.pool import encode_mask

REPORT = {
    "images": 6,
    "foreground_share": 0.3,
    "border_share": 0.1,
    "empty": [],
    "full": [],
    "iou_flip": 0.9,
    "iou_crop": 0.8,
}


def squares(shift: int) -> list[np.ndarray]:
    """Six masks (20, 20): squares of 8 pixels, each of its own place, moved to the right."""
    masks = [np.zeros((20, 20), bool) for _ in range(6)]
    for i, mask in enumerate(masks):
        mask[i : i + 8, 2 + shift : 10 + shift] = True
    return masks


def run(folder: Path, masks: list[np.ndarray], **changes: Any) -> Path:
    """A run with these masks."""
    rows = [Row(f"a/{i}.jpg", 0, "car", image_seg_path=f"masks/a/{i}.png") for i in range(len(masks))]
    for row, mask in zip(rows, masks, strict=True):
        path = folder / str(row.image_seg_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_mask(mask))
    write_manifest(folder / "track1_train_with_mask_label.json", rows)
    (folder / "masks.json").write_text(json.dumps({**REPORT, **changes}))
    return folder


def test_agreement_equals_a_slow_loop_and_a_makers_seeds_count_as_one() -> None:
    masks = [squares(shift) for shift in (0, 1, 3, 6)]
    found = agreements(masks, [frozenset(kind) for kind in ("a", "a", "a", "b")])

    def pair(i: int, j: int) -> float:
        return sum(iou(masks[i][k], masks[j][k]) for k in range(6)) / 6

    assert found["seeds"][:3] == pytest.approx(
        [(pair(0, 1) + pair(0, 2)) / 2, (pair(0, 1) + pair(1, 2)) / 2, (pair(0, 2) + pair(1, 2)) / 2]
    )
    assert np.isnan(found["seeds"][3])
    assert found["others"] == pytest.approx(
        [pair(0, 3), pair(1, 3), pair(2, 3), np.mean([pair(3, i) for i in range(3)])]
    )


def test_a_mean_of_several_runs_maps_says_nothing_about_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs/track1"
    seeds = [run(logs / f"wsss/net-seed{seed}", squares(seed)) for seed in (0, 1)]
    moco = run(logs / "wsss/net-seed0-moco", squares(2))
    for name, of in (("seeds", seeds), ("all", [*seeds, moco])):
        mean = run(logs / f"average_maps/{name}-seed0", squares(1))
        (mean / "split.json").write_text(json.dumps({"maps_from": [path.name for path in of]}))
    for path in (*seeds, moco):
        (path / "finished.json").write_text(json.dumps({"weights_sha256": path.name}))
    run(logs / "grabcut/box-seed0", squares(5))
    assert main([str(logs)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    others = {words[0]: words[printed[0].index("others")] for words in printed[1:7]}
    seeds_of = {words[0]: words[printed[0].index("seeds")] for words in printed[1:7]}

    def agree(a: int, *shifts: int) -> str:
        return f"{np.mean([iou(x, y) for b in shifts for x, y in zip(squares(a), squares(b), strict=True)]):.3f}"

    assert others["average_maps/all-seed0"] == agree(1, 5)
    assert others["average_maps/seeds-seed0"] == agree(1, 2, 5)
    assert others["wsss/net-seed0"] == agree(0, 2, 5) and seeds_of["wsss/net-seed0"] == agree(0, 1, 1)
    assert others["wsss/net-seed0-moco"] == f"{(float(agree(2, 0, 1, 1)) + float(agree(2, 5))) / 2:.3f}"


def test_the_run_that_others_agree_with_is_named_or_with_true_masks_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs/track1"
    for name, shift in (("left", 0), ("middle", 2), ("right", 4)):
        run(logs / f"wsss/{name}-seed0", squares(shift))
    assert main([str(logs)]) == 0
    assert f"take wsss/middle-seed0: masks={logs}/wsss/middle-seed0/track1_train_with" in capsys.readouterr().out
    truth = run(tmp_path / "truth", squares(5)) / "masks"
    assert main([str(logs), "--truth", str(truth)]) == 0
    words = capsys.readouterr().out
    assert "take wsss/right-seed0" in words
    expected = np.mean([iou(a, b) for a, b in zip(squares(4), squares(5), strict=True)])
    assert next(line for line in words.splitlines() if line.startswith("wsss/right")).split()[-1] == f"{expected:.3f}"


def test_a_run_that_a_box_would_do_better_than_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = run(tmp_path / "wsss/full", squares(0), foreground_share=0.95, iou_flip=1.0, iou_crop=1.0)
    assert main([str(full)]) == 0
    assert "take none of them: a centred box would do better" in capsys.readouterr().out
    good = run(tmp_path / "wsss/good", squares(1))
    assert main([str(full), str(good)]) == 0
    words = capsys.readouterr().out
    assert "take wsss/good" in words and "wsss/full: the masks are 95.0 % foreground" in words


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 1
    assert "there is no run with masks in" in capsys.readouterr().err
    one = run(tmp_path / "one", squares(0))
    other = run(tmp_path / "other", squares(0))
    assert main([str(one), "--truth", str(tmp_path / "nowhere")]) == 1
    assert "true masks are missing" in capsys.readouterr().err
    write_manifest(other / "track1_train_with_mask_label.json", [Row("b/0.jpg", 0, "car")])
    assert main([str(one), str(other)]) == 1
    assert "have no image in common: compare one track" in capsys.readouterr().err
    (other / "track1_train_with_mask_label.json").unlink()
    assert main([str(other)]) == 1
    assert "has no whole set of masks: resume its run with resume=true" in capsys.readouterr().err


def test_signs_of_masks_that_are_worse_than_a_box() -> None:
    assert doubts(REPORT) == []
    assert "do not separate objects" in doubts({**REPORT, "foreground_share": 0.71, "border_share": 0.7})[0]
    assert "mark the background" in doubts({**REPORT, "border_share": 0.31})[0]
    assert "worse than such boxes" in doubts({**REPORT, "iou": 0.3, "iou_centred_box": 0.31})[0]
    assert doubts({**REPORT, "iou": 0.31, "iou_centred_box": 0.31}) == []
    mask = np.zeros((14, 21), bool)
    mask[2:12, 2:19] = True
    assert border_share(mask) == 0 and border_share(~mask) == 1
    mask[0, :7] = True
    assert border_share(mask) == 7 / (14 * 21 - 10 * 17)


def test_a_run_that_is_named_twice_is_compared_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (run(tmp_path / f"wsss/{name}-seed0", squares(shift)) for name, shift in (("a", 0), ("b", 2)))
    (tmp_path / "link").symlink_to(tmp_path / "wsss")
    assert main([str(tmp_path / "wsss"), str(one), str(tmp_path / "link"), f"{two}/../b-seed0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4  # head, two runs, what to take


@pytest.mark.parametrize(
    "changes",
    [{"foreground_share": "0.3"}, {"empty": 3}, {"full": None}, {"images": 0}, {"images": True}, {"iou_flip": 9},
     {"border_share": []}, {"iou": 0.3}],
)  # fmt: skip
def test_a_damaged_report_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]) -> None:
    folder = run(tmp_path / "wsss/a", squares(0), **changes)
    assert main([str(folder)]) == 1
    assert f"{folder}/masks.json is damaged: expected images" in capsys.readouterr().err
    (folder / "masks.json").write_text('{"images": 5}')
    assert main([str(folder)]) == 1
    run(folder, squares(0), iou_flip=None)  # which a run may lack
    assert main([str(folder)]) == 0
    (folder / "finished.json").write_text('{"weights_sha256": 3}')
    capsys.readouterr()
    assert main([str(folder)]) == 1
    assert "finished.json is damaged: its weights_sha256" in capsys.readouterr().err
