"""The contenders of a bench: a method with its rules, through all layers of a sweep or at the one it takes itself."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..engine import explain, sweep
from ..methods import METHODS, Method, MethodError, find
from ..outputs import Output
from ..requests import AnyMethod
from ..results import Explanation

RULES: dict[str, dict[str, Any]] = {
    "balanced": {"rules": "balanced"},
    "residual": {"rules": "balanced", "residual": 1.0},
}
"""The rules by what may follow the name of a method, as in "hires_cam+residual"."""

DEFAULT_CUT = "grad_cam at the default cut"
"""The row that every other one is compared with."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way to make a map.

    Attributes:
        name: Its name in the table.
        method: What makes the map.
        arguments: Of `explain`, beside the method.
        whole: Whether it chooses its layers itself.
    """

    name: str
    method: Method
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    whole: bool = False

    @property
    def is_dear(self) -> bool:
        """Whether it scores copies, or takes passes of its own at every layer; others may turn out to be dear."""
        needs_copies = not {"tail", "score"}.isdisjoint(self.method.ingredients)
        return needs_copies or (self.method.scope == "layer" and not self.method.one_pass and not self.whole)

    def maps(
        self, model: nn.Module, image: Tensor, target: int, layers: str | Sequence[str], output: Output
    ) -> list[Explanation]:
        """Its explanations of one image (1, C, H, W), at one or many layers."""
        if self.whole:
            return [explain(model, image, target=target, method=self.method, output=output, **self.arguments)]
        which = layers if isinstance(layers, str) else list(layers)
        found = sweep(
            model, image, layers=which, target=target, method=self.method, output=output, **self.arguments
        )  # fmt: skip
        return list(found)


def timed(contender: Contender, *where: Any) -> tuple[list[Explanation], float]:
    """The explanations of a contender and the seconds they took; a long first call is not counted."""
    start = time.perf_counter()
    found = contender.maps(*where)
    return found, time.perf_counter() - start


def contenders(given: Sequence[AnyMethod] | None) -> list[Contender]:
    """The contenders that names mean; without names all methods, and HiResCAM by both rules.

    Raises:
        MethodError: No such method or rules, rules that mean nothing to the method, or a method that makes concepts.
    """
    wanted: Sequence[Any] = given if given is not None else [*_all_names(), "hires_cam+balanced", "hires_cam+residual"]
    if not wanted:
        raise MethodError("methods=[] names no method", remedy="give at least one, or None for all")
    found = {each.name: each for each in map(_contender, wanted)}
    baseline = Contender(DEFAULT_CUT, METHODS["grad_cam"], whole=True)
    return [baseline, *found.values()]


def _all_names() -> list[str]:
    return [each.name for each in METHODS.values() if each.gives == "map"]


def _contender(given: Any) -> Contender:
    name, plus, rules = given.partition("+") if isinstance(given, str) and given not in METHODS else (given, "", "")
    if plus and (not rules or rules.strip() not in RULES):
        name, plus = given, ""  # titles such as Grad-CAM++ hold a plus
    method = find(name.strip() if isinstance(name, str) else name)
    if method.gives != "map":
        raise MethodError(f"{method.name} makes concepts, which explain no score", remedy="leave it out")
    if not plus:
        return Contender(method.name, method)
    if method.no_rules:
        raise MethodError(f"rules mean nothing to {method.name}: {method.no_rules}", given, "leave the rules out")
    return Contender(f"{method.name}+{rules.strip()}", method, RULES[rules.strip()])
