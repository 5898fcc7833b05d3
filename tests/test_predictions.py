"""Probabilities, percentages and the likeliest classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grad_cam import predictions


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0, "0 %"), (0.0049, "< 1 %"), (0.005, "< 1 %"), (0.006, "1 %"), (0.5, "50 %"), (0.9949, "99 %"),
     (0.9951, "> 99 %"), (1, "100 %")],
)  # fmt: skip
def test_percentage(probability: float, text: str) -> None:
    """Only what is 0 or 1 reads as 0 % or 100 %."""
    assert predictions.percentage(probability) == text


def test_probabilities() -> None:
    """Softmax, a sigmoid for one output, nothing for what is no list of classes; large logits do not overflow."""
    logits = torch.randn(7) * 300
    np.testing.assert_allclose(predictions.probabilities(logits), logits.double().softmax(0), rtol=1e-6, atol=1e-12)
    assert predictions.probabilities(torch.tensor([1.5]))[0] == pytest.approx(float(torch.tensor(1.5).sigmoid()))
    assert predictions.probabilities(np.array([-2000.0])).tolist() == [0]
    assert len(predictions.probabilities(torch.zeros(3, 4))) == len(predictions.probabilities(torch.zeros(0))) == 0
    assert predictions.probabilities(torch.zeros(4, dtype=torch.bfloat16)).tolist() == [0.25] * 4


def test_predictions() -> None:
    """The likeliest first, ties by index, with names as far as they are known."""
    rows = predictions.predictions(torch.tensor([1.0, 3.0, 1.0]), ["ant", "bee"], count=5)
    assert [(row.index, row.label) for row in rows] == [(1, "bee"), (0, "ant"), (2, "class 2")]
    assert str(rows[0]) == "bee 79 %"
    assert len(predictions.predictions(torch.zeros(9), count=2)) == 2


def test_labels() -> None:
    """A class without a known name is called by its index."""
    assert predictions.class_label(["ant"], 0) == "ant"
    assert predictions.class_label(["ant"], 1) == predictions.class_label(None, 1) == "class 1"
    assert predictions.class_label(["ant"], -1) == "class -1"
