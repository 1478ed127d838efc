"""Mixup and CutMix."""

from __future__ import annotations

import math
import random

from torch import Tensor

from toolbox.base import Mix


class MixupCutMix(Mix):
    """Every image blended with its partner (Mixup), or a box of it replaced by the partner's (CutMix).

    Mixup: share * image + (1 - share) * partner (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018,
    arXiv:1710.09412). CutMix: a box of the area 1 - share, its centre anywhere, cut off at the image's edge; the share
    is then what is left of the image (Yun et al., "CutMix", 2019, arXiv:1905.04899). Shares are drawn from Beta(a, a).

    - `mixup`, `cutmix`: a of each, larger for shares nearer to a half; 0 switches it off.
    - `probability`: of a pair to be mixed at all.
    - `switch`: where both are on, the probability of CutMix instead of Mixup.

    Randomness is Python's `random` alone. Raises ValueError for values outside these, and where both are off.
    """

    def __init__(self, mixup: float = 0.8, cutmix: float = 1.0, probability: float = 1.0, switch: float = 0.5):
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be a number from 0 up. Try 0.8, or 0 for none.")
        for name, value in (("probability", probability), ("switch", switch)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is no probability. Try a number from 0 to 1.")
        if mixup == cutmix == 0:
            raise ValueError("mixup=0 and cutmix=0 leave nothing to mix: set train_dataloader.mix=None instead.")
        if 0 in (mixup, cutmix) and switch != 0.5:
            raise ValueError(f"switch={switch} chooses between mixup and cutmix, and one of them is off: leave it out.")
        self.mixup, self.cutmix, self.probability, self.switch = mixup, cutmix, probability, switch

    def __call__(self, image: Tensor, partner: Tensor) -> tuple[Tensor, float]:
        if random.random() >= self.probability:
            return image, 1.0
        cut = random.random() < self.switch if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cut else self.mixup
        share = random.betavariate(alpha, alpha)
        return _cut(image, partner, share) if cut else (share * image + (1 - share) * partner, share)


def _cut(image: Tensor, partner: Tensor, share: float) -> tuple[Tensor, float]:
    height, width = image.shape[-2:]
    side = math.sqrt(1 - share)
    box_height, box_width = int(height * side), int(width * side)
    y, x = random.randrange(height) - box_height // 2, random.randrange(width) - box_width // 2
    top, bottom = max(y, 0), min(y + box_height, height)
    left, right = max(x, 0), min(x + box_width, width)
    mixed = image.clone()
    mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
