"""`grad-cam app`: the web page."""

from __future__ import annotations

from typing import Annotated

import typer

from ...errors import MissingExtraError, install
from .console import say
from .edge import collect_again, command
from .options import FLAG, ModelOptions


@command("app")
def web_page(
    model: ModelOptions,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="Port on this machine; default: a free one.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen at; 0.0.0.0 opens the page to your network, without a password.",
        ),
    ] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in your browser.", **FLAG)] = False,
) -> None:
    """Open a web page on this machine to explore models and photos (needs the extra [cyan]app[/]).

    It is served until Ctrl-C, to this machine alone unless --host says otherwise.

    [bold]Examples[/]
      grad-cam app --open
      grad-cam app --model resnet50 --port 7870
      grad-cam app --model resnet18 --checkpoint mine.pth --classes names.txt
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise MissingExtraError("the web page needs gradio, which is not installed", remedy=install("app"))
    model.check()
    say(f"Starting the page; the model {model.model} is loaded next", err=True)
    from ..web import launch

    collect_again()
    launch(
        model.model, port, host=host, open_browser=open_browser, input_size=model.input_size, crop=model.crop,
        checkpoint=model.checkpoint, class_names=model.class_names(), pretrained=model.pretrained, device=model.device,
        dtype=model.dtype,
    ).leave()  # fmt: skip
