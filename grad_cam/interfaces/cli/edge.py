"""Where commands are registered: groups of options, errors as one line, exit codes."""

from __future__ import annotations

import atexit
import dataclasses
import gc
import os
import warnings
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from ..common import one_line
from .console import print_error, say

FAILED, SOME_FAILED, STOPPED = 1, 3, 130

app: typer.Typer = typer.Typer(
    name="grad-cam",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""See what a vision model saw, layer by layer.

    [bold]grad-cam demo[/] explains two photos and needs nothing else. With a photo and a model of your own, look at \
the layers first, then choose one:

    [cyan]grad-cam layers torchvision/resnet50[/]
    [cyan]grad-cam explain dog.jpg --model torchvision/resnet50 --layer layer3[/]

    [bold]MODEL[/] is a timm name ([cyan]resnet50[/], [cyan]vit_base_patch16_224[/]), [cyan]torchvision/NAME[/], \
[cyan]hf:ID[/] from the Hugging Face Hub, [cyan]demo[/] (a small EfficientNet, the default), or \
[cyan]package.module:function[/], a function of yours that returns the model.

    [bold]LAYER[/] is a module path such as [cyan]layer3.1[/], or the number of stages after it \
([cyan]2[/] is the last feature map of a ResNet). [cyan]grad-cam layers[/] lists both.""",
    epilog="Exit codes: 0 all done, 1 error, 2 wrong usage, 3 some images failed and the others are done, 130 stopped. "
    "GRAD_CAM_DEBUG=1 shows the traceback of an error.",
)


def debugging() -> bool:
    """Whether errors are shown with their traceback."""
    return os.environ.get("GRAD_CAM_DEBUG", "") not in ("", "0")


def collect_again() -> None:
    """Ends the pause of Python's cycle collection during imports; the objects they made are left out of it.

    The imports of torch and timm make millions of objects that stay: looking through them for cycles, again and again,
    takes a fifth of the time of the imports.
    """
    if not gc.isenabled():
        gc.freeze()
        atexit.register(gc.unfreeze)  # at the end of the process, extension modules miss what was never collected
        gc.enable()


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command: what it raises becomes one red line and an exit code.

    A parameter whose type is a dataclass stands for the options that are the fields of that dataclass.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        options, grouped = _options(function)

        def run(**given: Any) -> None:
            try:
                with warnings.catch_warnings():
                    if not debugging():
                        warnings.simplefilter("ignore")
                    function(**grouped(given))
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except KeyboardInterrupt:
                say(("Stopped.", "bold red"), err=True)
                raise typer.Exit(STOPPED) from None
            except Exception as error:
                if debugging():
                    raise
                print_error(one_line(error))
                raise typer.Exit(FAILED) from None

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in options}
        app.command(name)(run)
        return function

    return register


def _options(function: Callable[..., None]) -> tuple[list[Parameter], Callable[[dict[str, Any]], dict[str, Any]]]:
    """The options of a command one by one, and what puts their values into the command's own parameters."""
    types = get_type_hints(function, include_extras=True)
    options: list[Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature(function).parameters.values():
        kind = types[parameter.name]
        if not dataclasses.is_dataclass(kind):
            options.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind))
            continue
        groups[parameter.name] = kind
        inside = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            default = Parameter.empty if field.default is dataclasses.MISSING else field.default
            options.append(
                Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=inside[field.name])
            )

    def grouped(given: dict[str, Any]) -> dict[str, Any]:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        return {**given, **made}

    return options, grouped


def _version(shown: bool) -> None:
    if shown:
        from ... import __version__

        print(f"grad-cam {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, metavar=" ", help="Show the version.")
    ] = False,
) -> None:
    pass
