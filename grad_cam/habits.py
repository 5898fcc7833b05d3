"""Calls as people write them out of habit: names that arguments have elsewhere, answered with what to write here."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from .arguments import ArgumentTypeError

P = ParamSpec("P")
T = TypeVar("T")

_NAMES = {
    "target": ("targets", "target", "target_category", "category", "class_idx", "class_index", "label"),
    "layer": ("target_layers", "target_layer", "layers", "layer", "layer_idx", "layer_name"),
    "images": ("input_tensor", "inputs", "images", "image", "img_path", "input", "x"),
    "model": ("model", "net", "network", "module"),
}
"""Names that arguments have in other libraries, or in another function of this one."""
_DEVICE = ("use_cuda", "use_gpu", "cuda", "device")
"""Names for what the model's own device decides here."""
_WRITTEN = {"layers": "layers=[...]"}


def answered(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a call that does not fit the parameters of a function an error that says what to write."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _misfit(function.__name__, signature, len(args), kwargs, error) from None
        return function(*args, **kwargs)

    return called


def habit(
    function: str, name: str, known: Mapping[str, Any], call: tuple[str, ...] = ("model", "images")
) -> ArgumentTypeError | None:
    """The error for an argument that other libraries, or another function, know by this name; None for other names.

    Args:
        function: Name of the function that was called.
        name: The argument that it does not have.
        known: Its parameters.
        call: What stands in every call of it.
    """
    if name in _DEVICE:
        remedy = "move the model: model.cuda(); images follow it"
        return ArgumentTypeError(f"{function} has no argument {name}=", remedy=remedy)
    meant = next((names for names in _NAMES.values() if name in names), ())
    ours = next((one for one in meant if one in known), None)
    if ours is None:
        return None
    more = () if ours in call or "images" in meant else (_WRITTEN.get(ours, f"{ours}=..."),)
    return ArgumentTypeError(
        f"{function} has no argument {name}=", remedy=f"write {function}({', '.join((*call, *more))})"
    )


def _misfit(
    function: str, signature: inspect.Signature, positional: int, named: Mapping[str, Any], error: TypeError
) -> ArgumentTypeError:
    known = signature.parameters
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = [name for name, one in known.items() if one.kind not in variable]
    open_ = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    call = tuple(name for name in own if known[name].default is inspect.Parameter.empty)
    first = [name for name in own if known[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    for name in (name for name in named if name not in known):
        found = habit(function, name, known, call)
        if found is None and not open_:
            close = difflib.get_close_matches(name, own, n=1)
            remedy = f"did you mean {close[0]}=?" if close else f"it takes {', '.join(own)}"
            found = ArgumentTypeError(f"{function} has no argument {name}=", remedy=remedy)
        if found is not None:
            return found
    missing = [name for name in call if name not in named and name not in first[:positional]]
    if missing:
        return ArgumentTypeError(
            f"{function} needs {' and '.join(missing)}", remedy=f"write {function}({', '.join(call)})"
        )
    others = ", ".join(f"{name}=..." for name in own if name not in first)
    if positional > len(first) and others:
        return ArgumentTypeError(
            f"{function} takes {len(first)} arguments without a name", f"{positional} were given",
            f"name the others: {others}",
        )  # fmt: skip
    return ArgumentTypeError(f"{function}: {error}", remedy=f"write {function}({', '.join(call)})")
