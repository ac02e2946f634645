"""Amplitude: an image keeps its phases (its shapes) and its label, and gets a partner's amplitudes (its style).

The mix of stage fdg as an augmentation (FACT, Xu et al., CVPR 2021, section 3.1). With a small box and `weakest` = 1 it
is FDA (Yang and Soatto, CVPR 2020).
"""

from __future__ import annotations

from typing import Unpack

import torch

from src.data.batch import Batch
from src.fourier import mix_amplitude
from src.mixing import Mixed, Settings, Strategy, partner_rule
from src.numbers import check_number, is_number
from src.transfers import to_device


class Amplitude(Strategy):
    """Amplitudes inside the box are mixed with the partner's, whose weight is ~ U(weakest, strongest).

    Args:
        ratio: side of the low frequencies' box as a share of the spectrum's, in (0, 1].
        weakest, strongest: the partner's weight ~ U(weakest, strongest), in [0, 1].
        other_context: partners come from another context.
        settings: as in Strategy.

    Raises:
        ValueError: a setting outside of its range.
    """

    keeps_label = True

    def __init__(
        self, *, ratio: float, weakest: float, strongest: float, other_context: bool, **settings: Unpack[Settings]
    ) -> None:
        check_number("mixing.ratio", ratio, 0, 1, above=True)
        if not (is_number(weakest, 0, 1) and is_number(strongest, 0, 1) and weakest <= strongest):
            raise ValueError(
                f"mixing.weakest={weakest} and mixing.strongest={strongest}: expected weights from 0 to 1, the first "
                "not above the second"
            )
        super().__init__(**settings)
        self.ratio, self.weakest, self.strongest = ratio, weakest, strongest
        self.draw_partner = partner_rule(other_context)

    def mix(self, batch: Batch) -> Mixed:
        """All images mixed."""
        x, partner = batch.image, self.draw_partner(batch)
        lam = to_device(torch.empty(self.draws(batch)).uniform_(self.weakest, self.strongest), x.device).expand(len(x))
        image = mix_amplitude(x, partner, lam, self.ratio).clamp_(0, 1)  # valid pixels, as in fdg
        return Mixed(image, partner, torch.ones(len(x), device=x.device))
