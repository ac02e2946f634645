"""Background: an image keeps its object and its label, and gets its partner's background, the object removed.

Ours, not the paper's: only the background is the nuisance, so only the background is exchanged. What the paper calls
context-based mixing superimposes both objects (foreground.py). Relatives: Noise or Signal (Xiao et al., ICLR 2021,
"Mixed-Rand") and ForAug (Nauen et al., 2025).
"""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F

from src.data.batch import Batch
from src.mixing import Mixed, Settings, Strategy, partner_rule
from src.numbers import is_number
from src.precision import in_float32


def grow(mask: torch.Tensor, share: float) -> torch.Tensor:
    """Masks grown by a share of the image's longer side, in a square around each pixel: (N, H, W) bool to the same."""
    margin = round(share * max(mask.shape[1:]))
    if not margin:
        return mask
    grown = mask[:, None].float()
    for window, padding in (((2 * margin + 1, 1), (margin, 0)), ((1, 2 * margin + 1), (0, margin))):
        grown = F.max_pool2d(grown, window, 1, padding)
    return grown[:, 0] > 0


@in_float32
def fill(x: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Fill holes from their surroundings, by push-pull over a pyramid of masked means (Gortler et al., 1996).

    Down the pyramid each pixel is the mean of the known ones among its four, until nothing is unknown; up again,
    unknown pixels are interpolated from the level below. Known pixels stay exactly as they are, and a hole's own pixels
    have no influence at all.

    Args:
        x: (N, C, H, W) float.
        hole: (N, H, W) bool, True where the pixels are to be replaced. An image that is all hole becomes 0.

    Returns:
        (N, C, H, W), of x's dtype.
    """
    known = ~hole[:, None]
    levels = [(torch.where(known, x, 0), known)]
    while max(levels[-1][0].shape[2:]) > 1:
        colour, known = levels[-1]
        # Two means over the same pixels: their quotient is the mean of the known ones.
        weight = F.avg_pool2d(known.to(x.dtype), 2, ceil_mode=True)
        total = F.avg_pool2d(colour, 2, ceil_mode=True)
        levels.append((total / weight.clamp_min(torch.finfo(x.dtype).tiny), weight > 0))
    filled = levels.pop()[0]
    for colour, known in reversed(levels):
        below = F.interpolate(filled, size=colour.shape[2:], mode="bilinear", align_corners=False)
        filled = torch.where(known, colour, below)
    return filled


class Background(Strategy):
    """Own object, own label, and a partner's background. An image is left as it is if one of the two masks is unusable.

    A mask is unusable if it covers less than `smallest` of the image, so that the object would be lost, or, once grown,
    more than `largest`, so that hardly any background is known.

    Args:
        grow: margin removed around a partner's object, as a share of the image's longer side, from 0 to below 0.5.
        smallest, largest: shares of the image that a usable mask covers, in [0, 1].
        other_context: partners come from another context.
        settings: as in Strategy.

    Raises:
        ValueError: a setting outside of its range.
    """

    keeps_label = True

    def __init__(
        self, *, grow: float, smallest: float, largest: float, other_context: bool, **settings: Unpack[Settings]
    ) -> None:
        if not is_number(grow, 0, 0.5, below=True):
            raise ValueError(f"mixing.grow is {grow}: expected a share of the image's side from 0 to below 0.5")
        if not (is_number(smallest, 0, 1) and is_number(largest, 0, 1) and smallest < largest):
            raise ValueError(
                f"mixing.smallest={smallest} and mixing.largest={largest}: expected shares of the image from 0 to 1, "
                "the first below the second"
            )
        super().__init__(**settings)
        self.grow, self.smallest, self.largest = grow, smallest, largest
        self.draw_partner = partner_rule(other_context)

    def mix(self, batch: Batch) -> Mixed:
        """All images with usable masks mixed.

        Raises:
            ValueError: the batch has no masks.
        """
        if batch.mask is None:
            raise ValueError(
                "mixing=background needs masks and this run has none: make them with stage=wsss or stage=grabcut and "
                "name their manifest by masks=, or choose mixing=amplitude"
            )
        x, mask, partner = batch.image, batch.mask, self.draw_partner(batch)
        hole = grow(mask, self.grow)
        usable = (share(mask) >= self.smallest) & (share(hole) <= self.largest)
        itself = torch.arange(len(x), device=x.device)
        usable = usable & usable[partner] & (partner != itself)
        background = fill(x, hole)[partner]
        image = torch.where(mask[:, None] | ~usable.view(-1, 1, 1, 1), x, background)
        return Mixed(image, torch.where(usable, partner, itself), torch.ones(len(x), device=x.device))


def share(mask: torch.Tensor) -> torch.Tensor:
    """How much of each image a mask covers: (N, H, W) bool to (N,) float32."""
    return mask.float().mean((1, 2))
