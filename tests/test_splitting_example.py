"""The batch that a model is recorded on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from grad_cam.errors import InputError
from grad_cam.splitting.example import example_images


@pytest.mark.parametrize(
    ("example", "shape"),
    [(None, (2, 3, 224, 224)), (32, (2, 3, 32, 32)), (np.int64(32), (2, 3, 32, 32)), ((32, 48), (2, 3, 32, 48)),
     ((4, 32, 48), (2, 4, 32, 48))],
)  # fmt: skip
def test_sizes(example: Any, shape: tuple[int, ...]) -> None:
    """A number is a square, two are height and width, three begin with the channels; None is the model's own size."""
    model = nn.Conv2d(3, 4, 1).double()
    images = example_images(model, example)
    assert images.shape == shape and images.dtype == torch.float64
    assert torch.equal(images, example_images(model, example))


@pytest.mark.parametrize(
    ("example", "error", "says"),
    [
        ("32", TypeError, "a size"), (True, TypeError, "a size"), ((1, 2, 3, 4), TypeError, "a size"),
        (3.5, TypeError, "a size"), (0, ValueError, "not a size"), (10**6, InputError, "too large"),
        (torch.zeros(3, 8, 8), InputError, "must be a batch"), (torch.zeros(0, 3, 8, 8), InputError, "a batch"),
    ],
)  # fmt: skip
def test_what_is_no_example(example: Any, error: type[Exception], says: str) -> None:
    """What is neither a batch nor a size is refused before a model is run."""
    with pytest.raises(error, match=says):
        example_images(nn.Conv2d(3, 4, 1), example)
