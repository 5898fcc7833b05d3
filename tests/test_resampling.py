"""The interpolation that pictures and numbers share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grad_cam.metrics.maps import on_grid
from grad_cam.rendering import heatmap
from grad_cam.resampling import interpolation


@pytest.mark.parametrize(("source", "target"), [(7, 224), (1, 5), (2, 3), (14, 14), (3, 4000)])
def test_is_bilinear_as_in_torch(source: int, target: int) -> None:
    """Along one axis it is torch's bilinear interpolation with half-pixel centres; the weights sum to 1."""
    line = torch.randn(1, 1, source, dtype=torch.float64, generator=torch.Generator().manual_seed(source))
    expected = torch.nn.functional.interpolate(line, target, mode="linear", align_corners=False)[0, 0].numpy()
    matrix = interpolation(source, target)
    np.testing.assert_allclose(matrix @ line[0, 0].numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(1), 1)


def test_pictures_and_numbers_share_it() -> None:
    """What is drawn of a map and what metrics compare on a finer grid are the same values."""
    raw = np.random.default_rng(0).random((7, 5))
    drawn, compared = heatmap(raw, (40, 31)), on_grid(raw, (40, 31))
    np.testing.assert_allclose(drawn, compared / compared.max(), atol=1e-6)
