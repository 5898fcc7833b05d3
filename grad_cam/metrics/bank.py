"""A bank of scores that judges every map of an image without a further forward pass."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..errors import GradCamError
from ..methods.chunks import ChunkedScores, Progress, Score
from ..methods.regions import MASKS, Fill, coalitions, filled, fit, scores_of_kept
from .faithfulness import units_of

_OWN_SEEDS = 0x9E3779B9
"""Added to the seed, so that a bank does not hold the coalitions that `region_regression` is made from by the same
seed. (Torch's generator reads the low 32 bits of a seed.)"""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Bank:
    """Random coalitions of an image's regions and their scores; made by `Bank.of`.

    A map is judged by the correlation, over the coalitions, of the map's mass that is left visible with the score,
    both corrected for the coalition's size and its square. It sees nothing smaller than a cell.

    Attributes:
        kept: Which cells are visible, bool (N, cells, cells), in antithetic pairs.
        scores: (B, N, K) for B images and K scores.
    """

    kept: Tensor
    scores: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls, images: Tensor, score: Score, *, masks: int = MASKS, cells: int = 7, fill: Fill = 0.0, seed: int = 0,
        chunk: int | None = None, progress: Progress | None = None,
    ) -> Bank:  # fmt: skip
        """Scores coalitions of the regions of images.

        Args:
            images: Model inputs, (B, C, H, W).
            score: Scores of images, best logits.
            masks: Number of coalitions, even; as many forward passes for each image.
            cells: Regions along each side.
            fill: What hidden regions show, in the model's input units; best the mean colour of the data.
            seed: Seed of the coalitions; never those of `region_regression` with the same seed.
            chunk: Number of masked images scored at once; None chooses by size and free memory.
            progress: Called after every chunk.
        """
        kept = coalitions(masks, cells, (_OWN_SEEDS + seed) % (1 << 32))
        if images.ndim != 4:
            raise GradCamError(
                "a bank is of pictures, not of videos or volumes", f"{tuple(images.shape)}", "give (B, C, H, W)"
            )
        run = ChunkedScores(score, len(images), masks, images[0], chunk, progress)
        scores = [scores_of_kept(run, b, image, filled(image, fill), kept) for b, image in enumerate(images)]
        return cls(kept, torch.stack(scores).double().cpu())

    def __repr__(self) -> str:
        cells, (images, masks, scores) = self.kept.shape[-1], self.scores.shape
        return f"Bank({masks} coalitions of {cells}x{cells} regions, {images} images, {scores} scores each)"

    def judge(self, maps: Tensor) -> Tensor:
        """Judges maps.

        Args:
            maps: Raw signed maps (B, h, w) of the bank's images, or (B, K, h, w) for K scores.

        Returns:
            Correlations from -1 to 1, (B,) or (B, K); NaN where the map or the score is constant.

        Raises:
            GradCamError: A map is the regression made from this very bank, which would judge itself.
        """
        several = units_of(maps, self.kept.shape[-1])  # (B,K,n)
        batch, _, count = self.scores.shape
        if several.shape[:2] != (batch, count):
            raise GradCamError(
                f"maps {tuple(maps.shape)} do not belong to a bank of {batch} images with {count} scores each",
                remedy="give maps (B, h, w) for one score, (B, K, h, w) for K",
            )
        own = self.regression().flatten(2)
        if bool((torch.cosine_similarity(several, own, dim=2) > 1 - 1e-9).any()):
            raise GradCamError(
                "a map is the regression made from this very bank", repr(self),
                "judge it on the other half: first, second = bank.split(); second.judge(first.regression())",
            )  # fmt: skip
        found = torch.stack([torch.stack([self._one(several[b, k, None], b, k)[0] for k in range(count)])
                             for b in range(batch)])  # fmt: skip
        return found if maps.ndim == 4 else found[:, 0]

    def judge_many(self, maps: Tensor, image: int = 0, target: int = 0) -> Tensor:
        """Judges many maps (M, h, w) of one image for one of its scores, (M,)."""
        return self._one(units_of(maps, self.kept.shape[-1])[:, 0], image, target)

    def _one(self, values: Tensor, image: int, target: int) -> Tensor:
        """Correlations (M,) of maps' values in the cells (M, n)."""
        return kept_mass_correlation(self.kept.flatten(1), values, self.scores[image, :, target])

    def regression(self) -> Tensor:
        """What each region adds to the scores, (B, K, cells, cells); see `methods.regions.region_regression`."""
        cells = self.kept.shape[-1]
        fitted: Tensor = torch.stack([fit(self.kept.flatten(1), each) for each in self.scores]).unflatten(
            2, (cells, cells)
        )
        return fitted

    def split(self) -> tuple[Bank, Bank]:
        """Returns two banks of half the coalitions each, pairs staying together: one to make a map, one to judge it."""
        pair = torch.arange(len(self.kept)) // 2
        return tuple(Bank(self.kept[pair % 2 == i], self.scores[:, pair % 2 == i]) for i in (0, 1))  # type: ignore[return-value]


def kept_mass_correlation(kept: Tensor, values: Tensor, scores: Tensor) -> Tensor:
    """Correlation of the map's mass that is left visible with the score, both corrected for size and its square.

    Args:
        kept: Which cells are visible, (N, n).
        values: Maps in the cells, (M, n).
        scores: (N,).

    Returns:
        (M,); NaN where a map or the score follows from the size alone.
    """
    kept, scores = kept.double(), scores.double()
    size = kept.mean(1)
    nuisance, _ = torch.linalg.qr(torch.stack([torch.ones_like(size), size, size**2], 1))  # (N,3)

    def cleaned(columns: Tensor) -> Tensor:
        rest: Tensor = columns - nuisance @ (nuisance.T @ columns)
        return rest

    scale = values.abs().amax(1, keepdim=True)
    mass = cleaned(kept @ (values.double() / torch.where(scale > 0, scale, 1.0)).T)  # (N,M)
    wanted = cleaned(scores[:, None])
    length = mass.norm(dim=0) * wanted.norm()
    return torch.where(length > 1e-9 * len(kept), (mass * wanted).sum(0) / length, torch.nan)
