"""`grad-cam app`: the web page."""

from __future__ import annotations

from typing import Annotated

import typer

from .edge import command


@command("app")
def web_page(
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="The model the page opens with.")
    ] = "demo",
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="Port on this machine; default: a free one.")
    ] = None,
) -> None:
    """Open a web page on this machine to explore models and photos (needs the extra [cyan]app[/]).

    [bold]Example[/]
      grad-cam app --model resnet50 --port 7870
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ImportError("the web page needs gradio: pip install 'gradcam-layers[app]'")
    from ..app import launch

    launch(model=model, port=port).leave()
