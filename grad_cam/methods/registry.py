"""The registry of methods: a method is a function whose parameters name what it needs.

A method's positional parameters are *ingredients* (`INGREDIENTS`), which the engine supplies by name; its keyword-only
parameters are the caller's options. Everything that follows from the signature is read off it, and written down nowhere
else.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from ..arguments import ArgumentTypeError, canonical, scope_of
from .common import MethodError

Kind = Literal["gradient", "factorization", "perturbation", "attention", "network", "other"]
_Function = TypeVar("_Function", bound=Callable[..., Any])

PER_BATCH = {
    "activations": "at the cut, (B, C, h, w)",
    "images": "model inputs, (B, C, H, W)",
    "logits": "(B, classes)",
    "grid": "height and width of the grid of positions, or None",
    "attention": "list of (B, heads, N, N), without a graph",
    "attention_reading": "weights of the tokens the head reads, (B, T)",
    "block_attention": "list of (B, heads, N, N), one for each block",
    "progress": "callback (done, total), or None",
}
PER_TARGET = {
    "gradients": "d score / d activations, (B, C, h, w)",
    "tail_gradient": "function (activations, along=None) to gradients or Hessian-vector products",
    "noisy_gradients": "function (samples, noise, seed) to an iterator of gradients",
    "cam": "Grad-CAM at the cut, (B, h, w)",
    "attention_gradients": "d score / d attention, like attention",
    "block_gradients": "d score of each block / d its attention, like block_attention",
    "whole_score": "function of images to scores (B,), with a graph",
}
ALL_TARGETS = {
    "tail": "function (activations (N, C, h, w), index (N,)) to scores (N, K), without a graph",
    "score": "function (images (N, C, H, W), index (N,)) to scores (N, K), without a graph",
}
INGREDIENTS: dict[str, str] = {**PER_BATCH, **PER_TARGET, **ALL_TARGETS}
"""The names a method's positional parameters may have, and what they are."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to make a map.

    Attributes:
        name: Its name in code and on the command line.
        title: Its name in figures and tables.
        function: A pure function of ingredients; its keyword-only parameters are options.
        kind: What the map is made from.
        source: Where it was published, in a few words.
        link: The publication's address.
        advice: When to use it, in one line.
        channelwise: Whether its map is a sum over channels, each computed alone, so that `eigen_smooth` can wrap it.
        aug_smooth: Whether `aug_smooth` can wrap it: it gives one map that follows a flip of the image.
        own_backward: Whether it changes the backward itself, so that no other rules can be given for it.
    """

    name: str
    title: str
    function: Callable[..., Any] = dataclasses.field(repr=False)
    kind: Kind = "other"
    source: str = ""
    link: str = ""
    advice: str = ""
    channelwise: bool = False
    aug_smooth: bool = True
    own_backward: bool = False

    def __post_init__(self) -> None:
        if self.channelwise and self.ingredients != ("activations", "gradients"):
            raise MethodError(
                f"{self.name} cannot be channelwise", f"it reads {', '.join(self.ingredients)}",
                "a channelwise method reads activations and gradients",
            )  # fmt: skip

    @functools.cached_property
    def _signature(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        return _read_signature(self.name, self.function)

    @property
    def ingredients(self) -> tuple[str, ...]:
        """The ingredients it reads, in the order of its parameters."""
        return self._signature[0]

    @property
    def options(self) -> dict[str, Any]:
        """The caller's own settings with their defaults; `inspect.Parameter.empty` marks one that must be given."""
        return dict(self._signature[1])

    @functools.cached_property
    def scope(self) -> Literal["layer", "input", "network"]:
        """What it reads: the activation at a cut, the whole network, or images alone; only the first has a layer."""
        return scope_of(self.ingredients)

    @property
    def one_pass(self) -> bool:
        """Whether activations and gradients of one pass are all it reads, so that many cuts cost one pass."""
        return {"activations"} <= set(self.ingredients) <= {"activations", "gradients", "progress"}

    @property
    def quick(self) -> bool:
        """Whether it takes about as long as a forward and a backward pass, as the default does."""
        return self.one_pass or self.name == "auto"

    @property
    def no_rules(self) -> str:
        """Why the rules of `grad_cam.rules` mean nothing to it, in a clause; "" if they do."""
        if self.own_backward:
            return "it changes the backward by a rule of its own"
        if any("attention" in name or "block" in name for name in self.ingredients):
            return "it differentiates attention, which the rules count as constant"
        if "tail_gradient" in self.ingredients:
            return "it differentiates at other activations than the model's, where the rules say nothing"
        if not {"gradients", "noisy_gradients", "cam", "whole_score"} & set(self.ingredients):
            return "it takes no gradient"
        return ""

    @property
    def no_volumes(self) -> str:
        """Why it makes no map of a video or volume, in a clause; "" if it does.

        A method that treats the positions of an activation one by one works for any axes; one that masks or resizes
        does not.
        """
        if self.scope != "layer" or "images" in self.ingredients:
            return "it masks, resizes or follows positions of one picture"
        if self.gives != "map":
            return "its concepts are drawn over one picture"
        return "it covers neighbouring positions of one picture" if "window" in self.options else ""

    @property
    def per_target(self) -> bool:
        """Whether it is called once for each target; else once for all."""
        return not PER_TARGET.keys().isdisjoint(self.ingredients)

    @property
    def class_specific(self) -> bool:
        """Whether the map depends on the target; what is made from activations or attention alone does not."""
        return self.per_target or not ALL_TARGETS.keys().isdisjoint(self.ingredients)

    @functools.cached_property
    def gives(self) -> Literal["map", "concepts"]:
        """What it returns: a map, or concepts where its return type is `factorization.Factorization`."""
        hint = getattr(inspect.unwrap(self.function), "__annotations__", {}).get("return")
        name = hint if isinstance(hint, str) else getattr(hint, "__name__", "")
        return "concepts" if name.rpartition(".")[2] == "Factorization" else "map"

    @property
    def eigen_smooth(self) -> bool:
        """Whether `eigen_smooth` can wrap it; the same as `channelwise`."""
        return self.channelwise


def _read_signature(name: str, function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The ingredients and the options of a function.

    Raises:
        MethodError: A parameter is neither.
    """
    example = "def my_method(activations, gradients, *, power=1.0): ..."
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise MethodError(
            f"the parameters of {name} cannot be read", type(function).__name__, f"wrap it in a function: {example}"
        ) from error
    ingredients, options = [], {}
    for key, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise MethodError(
                f"{name} takes {parameter}, which does not say what it needs", str(inspect.signature(function)),
                f"name its parameters: {example}",
            )  # fmt: skip
        if (parameter.kind is parameter.KEYWORD_ONLY) == (key in INGREDIENTS):
            raise _unknown(name, key, parameter)
        if key in INGREDIENTS:
            ingredients.append(key)
        else:
            options[key] = parameter.default
    if not ingredients:
        raise MethodError(f"{name} asks for no ingredient", str(inspect.signature(function)), f"write it as {example}")
    return tuple(ingredients), options


def _unknown(name: str, key: str, parameter: inspect.Parameter) -> MethodError:
    if key in INGREDIENTS:
        return MethodError(
            f"{name} has the ingredient '{key}' among its options", str(parameter), f"write '{key}' before the '*'"
        )
    close = difflib.get_close_matches(key, INGREDIENTS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return MethodError(
        f"{name} asks for '{key}': {hint}Ingredients: {', '.join(INGREDIENTS)}",
        remedy=f"options are keyword-only: write '*' before '{parameter}'" if not close else "options are keyword-only",
    )


# ------------------------------------------------------------------------------------------------------------ the table


METHODS: dict[str, Method] = {}
"""All methods by name, in the order in which they are shown."""


def method(
    title: str, *, kind: Kind = "other", source: str = "", link: str = "", advice: str = "",
    channelwise: bool = False, aug_smooth: bool = True, own_backward: bool = False, name: str | None = None,
    replace: bool = False,
) -> Callable[[_Function], _Function]:  # fmt: skip
    """Registers a function as a method, as a decorator.

    ::

        @grad_cam.register("Squared Grad-CAM")
        def squared_cam(activations, gradients, *, power=2.0):
            return (gradients * activations).sum(1).clamp(min=0) ** power

    Args:
        title: Its name in figures and tables.
        kind: What the map is made from.
        source: Where it was published, in a few words.
        link: The publication's address.
        advice: When to use it, in one line.
        channelwise: Whether its map is a sum over channels, each computed alone.
        aug_smooth: Whether its map follows a flip of the image.
        own_backward: Whether it changes the backward itself.
        name: Its name in code; by default the function's.
        replace: Take the place of a method of that name.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        MethodError: (by the decorator) A parameter is unknown, or the name is taken.
    """
    if not isinstance(title, str):
        raise ArgumentTypeError("a method has a title", type(title).__name__, 'write @register("My method")')

    def add(function: _Function) -> _Function:
        entry = Method(
            name or _name_of(function), title, function, kind, source, link, advice, channelwise, aug_smooth,
            own_backward,
        )  # fmt: skip
        own = {canonical(entry.name), canonical(title)}
        for taken in METHODS.values():
            if own & {canonical(taken.name), canonical(taken.title)} and not (replace and taken.name == entry.name):
                remedy = "give replace=True to take its place" if taken.name == entry.name else "choose another"
                raise MethodError(f"the name '{taken.name}' is taken", f"by {taken.title}", remedy)
        METHODS[entry.name] = entry
        return function

    return add


def find(method: str | Callable[..., Any] | Method) -> Method:
    """Finds a method by name, title or function.

    Args:
        method: A name from `METHODS` or a title (capitals, hyphens, blanks and underscores do not matter), or a
            function of ingredients.

    Raises:
        MethodError: There is no such method, or a parameter of the function is unknown.
        ArgumentTypeError: It is neither a name nor a function.
    """
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]
    if isinstance(method, Method):
        return method
    if callable(method):
        known = next((m for m in METHODS.values() if m.function is method), None)
        return known or Method(_name_of(method), _name_of(method), method)
    if not isinstance(method, str):
        raise ArgumentTypeError(
            "method= is a name or a function", type(method).__name__, "give a name from grad_cam.METHODS"
        )
    names = {canonical(text): m for m in METHODS.values() for text in (m.title, m.name)}
    key = canonical(method)
    if key in names:
        return names[key]
    close = list(dict.fromkeys(names[k].name for k in difflib.get_close_matches(key, names, n=3, cutoff=0.6)))
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(METHODS)}"
    raise MethodError(f"there is no method {method!r}", remedy=hint)


def _name_of(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)  # of a functools.partial
    return str(getattr(inner, "__name__", type(inner).__name__)).strip("<>")
