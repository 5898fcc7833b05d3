"""What the logits of an image predict: probabilities, the likeliest classes by name, percentages as text.

Nothing heavy is imported before it is needed, so that the command line can use the texts without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Prediction", "class_label", "percentage", "predictions", "probabilities"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class with its probability.

    Attributes:
        index: Its index.
        label: Its name.
        probability: 0..1.
    """

    index: int
    label: str
    probability: float

    def __str__(self) -> str:
        return f"{self.label} {percentage(self.probability)}"


def percentage(probability: float) -> str:
    """Formats a probability; 0 % and 100 % only where they are exact."""
    text = f"{100 * probability:.0f} %"
    if text == "0 %" and probability > 0:
        return "< 1 %"
    return "> 99 %" if text == "100 %" and probability < 1 else text


def probabilities(logits: Any, independent: bool = False) -> NDArray[np.float64]:
    """Probabilities of the classes of one image: softmax, of a single output the sigmoid; empty for anything else.

    Args:
        logits: (classes,), tensor or array.
        independent: Several classes may be true at once: a sigmoid of each.
    """
    import numpy as np

    values = logits.detach().float().cpu().numpy() if hasattr(logits, "detach") else logits
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        return np.empty(0)
    if len(values) == 1 or independent:
        sigmoid: NDArray[np.float64] = 0.5 * (1 + np.tanh(values / 2))  # without overflow
        return sigmoid
    powers = np.exp(values - values.max(initial=-np.inf))
    softmax: NDArray[np.float64] = powers / powers.sum()
    return softmax


def predictions(
    logits: Any, labels: Sequence[str] | None = None, count: int = 5, independent: bool = False
) -> list[Prediction]:  # fmt: skip
    """The likeliest classes of one image, the likeliest first.

    Args:
        logits: (classes,), tensor or array.
        labels: Names of the classes, if known.
        count: Number of classes at most.
        independent: As for `probabilities`.
    """
    chances = probabilities(logits, independent)
    best = (-chances).argsort(kind="stable")[:count].tolist()
    return [Prediction(k, class_label(labels, k), float(chances[k])) for k in best]


def class_label(labels: Sequence[str] | None, index: int) -> str:
    """Name of a class, such as "class 7" where the name is not known."""
    return labels[index] if labels and 0 <= index < len(labels) else f"class {index}"
