import numpy as np
import pytest

from src.report.confidence import Confidence, confidence_table, reliability, risk_curves, temperature_words

# In-domain: four right of five, surest first; tempered: sure of all. Unseen: two right of four, the wrong one surest.
HITS = np.array([True, True, True, True, False])
IN_DOMAIN = Confidence("in-domain", HITS, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0.8] * 5), True)
UNSEEN = Confidence("unseen", np.array([False, True, True, False]), np.array([0.9, 0.7, 0.5, 0.3]),
                    np.array([0.99, 0.99, 0.99, 0.99]), False)  # fmt: skip


def test_the_table_by_hand() -> None:
    head, in_domain, unseen = confidence_table([IN_DOMAIN, UNSEEN])
    assert head[:6] == ["", "images", "accuracy", "mean confidence", "calibration error", "with the temperature"]
    # Each image is alone in its bin: |1 - .9|, |1 - .8|, |1 - .7|, |1 - .6|, |0 - .5| of five; tempered: one bin at .8.
    assert in_domain[:6] == ["in-domain", "5", "80.00", "70.00", "30.00", "0.00 (fit)"]
    # Right ones above wrong ones in every pair; risk 0 0 0 0 1/5; no wrong one among the surest half, nor 80 %.
    assert in_domain[6:] == ["100.00", "4.00", "100.00", "100.00"]
    # .9, .3, .5, .3 apart; tempered .99 against .5. Pairs: .7 and .5 are above .3 and below .9. Risk 1, 1/2, 1/3, 2/4.
    assert unseen == ["unseen", "4", "50.00", "60.00", "50.00", "49.00", "50.00", "58.33", "50.00", "66.67"]
    assert len(confidence_table([UNSEEN._replace(tempered=None)])[0]) == 9


def test_the_temperature_is_shown_as_what_it_is() -> None:
    words = temperature_words([IN_DOMAIN, UNSEEN], 0.5)
    assert "The temperature 0.50 is fitted on the 5 in-domain images." in words
    assert "calibration error of 0.00 with it (30.00 without) is in-sample" in words
    assert "On unseen it helps: 50.00 without, 49.00 with it." in words
    worse = UNSEEN._replace(tempered=np.array([1.0, 0.01, 0.01, 0.01]))
    assert "On unseen it hurts: 50.00 without, 74.25 with it." in temperature_words([IN_DOMAIN, worse], 0.5)
    assert temperature_words([UNSEEN], 0.5) == "" == temperature_words([IN_DOMAIN], None)


def test_the_figures_show_those_numbers() -> None:
    figure = reliability([IN_DOMAIN, UNSEEN])
    above, beside, below, _ = figure.axes
    assert above.get_title() == "in-domain: 5 images" and beside.get_title() == "unseen: 4 images"
    dots = above.collections[0].get_offsets()
    assert np.asarray(dots).tolist() == pytest.approx(np.array([[50, 0], [60, 100], [70, 100], [80, 100], [90, 100]]))
    assert np.asarray(above.collections[1].get_offsets()).tolist() == pytest.approx(np.array([[80, 80]]))
    counts = [text.get_text() for text in below.texts]
    assert counts.count("1") == 5 and counts.count("") == 10
    curve = risk_curves([UNSEEN]).axes[0].get_lines()[0]
    assert curve.get_xdata().tolist() == [25, 50, 75, 100]
    assert curve.get_ydata().tolist() == pytest.approx([100, 50, 100 / 3, 50])
    assert curve.get_label() == "unseen (AUROC 50.00)"
