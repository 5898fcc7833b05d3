"""What models return: dicts, tuples, lists, dataclasses, single numbers, no batch axis."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .registry import ALL, GRADIENTS, Net, zoo

MUST_ASK = ALL  # which part holds the logits cannot be known


@zoo("dict_with_logits", "outputs", expect=ALL)
class DictLogits(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.neck(self.blk(self.stem(x)))
        return {"features": x, "logits": self.head(x)}


@zoo("dict_with_out", "outputs", expect=GRADIENTS)
class DictOut(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.neck(self.blk(self.stem(x)))
        return {"aux": self.head(x) * 2, "out": self.head(x)}


@zoo("dict_without_logits", "outputs", refuse=MUST_ASK, fix={"output": "pred"}, logits=lambda out: out["pred"])
class DictOther(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.neck(self.blk(self.stem(x)))
        return {"features": x, "pred": self.head(x)}


@zoo("tuple_features_first", "outputs", refuse=MUST_ASK, fix={"output": 1}, logits=lambda out: out[1])
class TupleSecond(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.neck(self.blk(self.stem(x)))
        return x, self.head(x)


@zoo("tuple_logits_first", "outputs", refuse=MUST_ASK, fix={"output": 0}, logits=lambda out: out[0])
class TupleFirst(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.neck(self.blk(self.stem(x)))
        return self.head(x), x.mean((2, 3))


@zoo("tuple_of_one", "outputs", logits=lambda out: out[0], fix={"output": 0})
class TupleOfOne(Net):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (super().forward(x),)


@zoo("list_of_scales", "outputs", refuse=MUST_ASK, fix={"output": -1}, logits=lambda out: out[-1])
class DeepSupervision(Net):
    """Logits after every stage, the last are the model's."""

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        y = self.blk(x)
        return [self.fc(x.mean((2, 3))), self.fc(y.mean((2, 3))), self.head(self.neck(y))]


@dataclasses.dataclass
class Answer:
    """What a model returns besides its scores."""

    scores: Tensor
    features: Tensor


@zoo(
    "dataclass", "outputs", refuse=MUST_ASK,
    fix={"output": lambda out: out.scores}, logits=lambda out: out.scores,
)  # fmt: skip
class Dataclass(Net):
    def forward(self, x: Tensor) -> Answer:
        x = self.neck(self.blk(self.stem(x)))
        return Answer(self.head(x), x)


class Named(NamedTuple):
    """A named tuple."""

    features: Tensor
    prediction: Tensor


@zoo("namedtuple", "outputs", refuse=MUST_ASK, fix={"output": 1}, logits=lambda out: out.prediction)
class NamedOutput(Net):
    def forward(self, x: Tensor) -> Named:
        x = self.neck(self.blk(self.stem(x)))
        return Named(x, self.head(x))


@zoo("multi_task", "outputs", refuse=MUST_ASK, fix={"output": "colour"}, logits=lambda out: out["colour"])
class MultiTask(Net):
    def __init__(self) -> None:
        super().__init__()
        self.shape, self.colour = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.neck(self.blk(self.stem(x))).mean((2, 3))
        return {"shape": self.shape(x), "colour": self.colour(x)}


@zoo(
    "nested_output", "outputs", refuse=MUST_ASK,
    fix={"output": lambda out: out["heads"][1]["y"]}, logits=lambda out: out["heads"][1]["y"],
)  # fmt: skip
class Nested(Net):
    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.neck(self.blk(self.stem(x)))
        return {"x": x, "heads": [{"y": x.mean((2, 3))}, {"y": self.head(x)}], "count": 3, "name": None}


@zoo("one_score", "outputs", target=0, expect=ALL)
def one_score() -> nn.Module:
    return Net(classes=1)


@zoo("no_class_axis", "outputs", target=0, expect=ALL)
class NoClassAxis(Net):
    def __init__(self) -> None:
        super().__init__(classes=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


@zoo("squeezed_scores", "outputs", target=0, expect=GRADIENTS)
class Squeezed(Net):
    """One image gives a number without any axis."""

    def __init__(self) -> None:
        super().__init__(classes=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


@zoo("squeezed_scores_one_image_first", "outputs", target=0, expect=GRADIENTS, batches=(1, 4))
class SqueezedOne(Squeezed):
    pass


@zoo("squeezed_pooling", "outputs")
class SqueezedPool(Net):
    """One image loses its batch axis before the head, so it returns (classes,)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.neck(self.blk(self.stem(x))), 1).squeeze())


@zoo("squeezed_pooling_one_image_first", "outputs", batches=(1, 4))
class SqueezedPoolOne(SqueezedPool):
    pass


@zoo("regression", "outputs", target=2, expect=ALL)
def regression() -> nn.Module:
    return Net(classes=4)


@zoo("probabilities", "outputs", expect=ALL)
class Probabilities(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


@zoo("log_probabilities", "outputs", expect=ALL)
class LogProbabilities(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(super().forward(x), -1)


@zoo("logits_are_a_view", "outputs", expect=ALL)
class View(Net):
    """The head computes more columns than it returns."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 1:4]
