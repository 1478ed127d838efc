"""Additive angular margin loss, with one centre for each class or several."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolbox.base import Loss
from toolbox_losses.classification import check_classes, require_class_vectors, select_labelled_rows
from toolbox_losses.pairs import check_positive, normalize_vectors


class ArcFace(Loss):
    """Cross-entropy over cosines with learned class centres, the angle to the own centre widened by a margin.

        logit_c = scale * cos(angle_c), and for the own class scale * cos(angle_c + margin)

    Where angle + margin would exceed 180 degrees the own logit is scale * (cos(angle) - margin * sin(margin)), margin
    in radians, so that the loss keeps falling with the angle. The result is the mean over embeddings. Source: Deng et
    al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019, equation 3.

    - `margin`: in degrees, 0 <= margin < 180; 28.6 degrees are the paper's 0.5 radians.
    - `scale`: multiplies the cosines.

    `connect(dim, classes)` creates `weight`, (classes, D), drawn from a normal distribution of standard deviation 0.01
    as in the authors' code; only directions count. They need a higher learning rate than a pretrained backbone:
    optim_wrapper.parts={'model.criterion': dict(lr=...)}. An embedding exactly at its centre, or opposite to it, has an
    angle without a slope: there the margin adds nothing to the gradient, and it stays finite.

    Rows of a second view are further labelled embeddings. Raises ValueError for arguments outside their range, without
    labels or classes, and on the CPU for a label that is no class.
    """

    gathers = False

    def __init__(self, margin: float = 28.6, scale: float = 64.0):
        super().__init__()
        if not 0 <= margin < 180:
            raise ValueError(f"margin is an angle in degrees, at least 0 and below 180, not {margin}: try 28.6")
        if 0 < margin < 1:
            raise ValueError(f"margin={margin} is in degrees: for {margin} radians give {math.degrees(margin):.1f}")
        self.margin, self.scale = math.radians(margin), check_positive("scale", scale, "try 64")
        self.weight: nn.Parameter | None = None

    def connect(self, dim: int, classes: int | None = None) -> None:
        self.weight = nn.Parameter(torch.randn(check_classes(type(self).__name__, classes), dim) * 0.01)

    def compute(
        self, embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        name = type(self).__name__
        weight = require_class_vectors(name, self.weight)
        rows, labels = select_labelled_rows(name, weight, embeddings, labels, ref_embeddings, ref_labels)
        cosines = self.compute_cosines(normalize_vectors(rows), weight)
        index = labels[:, None]
        label_cosines = widen_angles(cosines.gather(1, index), self.margin)
        logits = self.scale * cosines.scatter(1, index, label_cosines)
        return (logits.logsumexp(dim=1) - self.scale * label_cosines[:, 0]).mean()

    def compute_cosines(self, rows: Tensor, weight: Tensor) -> Tensor:
        """(N, D) of length 1 and the class centres -> (N, classes)."""
        return rows @ normalize_vectors(weight.to(rows.dtype)).T


class SubCenterArcFace(ArcFace):
    """ArcFace with several centres for each class, of which the nearest one counts.

    Wrongly labelled or unusual images gather at centres of their own, and pull less on the others. Source: Deng et
    al., "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces", 2020.

    - `margin`, `scale`: as in `losses.ArcFace`.
    - `sub_centers`: K, how many centres a class has.

    `connect(dim, classes)` creates `weight`, (classes, K, D). All else is as in `losses.ArcFace`.
    """

    def __init__(self, margin: float = 28.6, scale: float = 64.0, sub_centers: int = 3):
        super().__init__(margin, scale)
        if sub_centers < 1:
            raise ValueError(f"sub_centers must be 1 or more, not {sub_centers}: try 3")
        self.sub_centers = sub_centers

    def connect(self, dim: int, classes: int | None = None) -> None:
        classes = check_classes(type(self).__name__, classes)
        self.weight = nn.Parameter(torch.randn(classes, self.sub_centers, dim) * 0.01)

    def compute_cosines(self, rows: Tensor, weight: Tensor) -> Tensor:
        centers = normalize_vectors(weight.to(rows.dtype).flatten(0, 1))
        return (rows @ centers.T).unflatten(1, (-1, self.sub_centers)).max(dim=2).values


def widen_angles(cosine: Tensor, margin: float) -> Tensor:
    """The cosine of the angle plus `margin` radians; beyond 180 degrees a line that keeps falling."""
    squared = 1 - cosine.square()
    flat = squared <= 8 * torch.finfo(cosine.dtype).eps
    sine = torch.where(flat, 0, torch.where(flat, 1, squared).sqrt())
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine >= -math.cos(margin), turned, cosine - margin * math.sin(margin))
