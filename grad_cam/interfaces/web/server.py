"""Serving the page: the address, which requests are taken, and an end that leaves nothing behind."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from torch import nn

from ...errors import import_extra, install
from ..common import one_line
from .errors import AppError
from .models import OpenedModel, open_page_model
from .uploads import Limits, remove_uploads

if TYPE_CHECKING:
    import gradio

__all__ = ["Page", "build", "free_port", "launch"]

HOST, PORT, PORTS = "127.0.0.1", 7860, 20


class Page:
    """A page that is being served; close it, or use it in a `with` statement.

    Attributes:
        url: Where it is.
    """

    def __init__(self, blocks: Any, url: str) -> None:
        self._blocks = blocks
        self.url = url
        self._closed = threading.Event()

    def wait(self) -> None:
        """Waits until the page is closed, or Ctrl-C or the system asks this process to end."""
        self._closed.wait()

    def close(self) -> None:
        """Stops serving and computing, and removes what visitors have uploaded."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a browser still open is no error
        self._blocks.visitors.close()
        self._blocks.close(verbose=False)
        self._blocks.visitors.idle(0.3)
        self._closed.set()

    def leave(self) -> None:
        """Ends this process at once, after removing what visitors have uploaded; for the command line.

        What is still computed then, such as a model being opened, could not be stopped, and torch takes seconds to end.
        """
        remove_uploads()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(0)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _require_gradio() -> None:
    """Checks that gradio is there, and switches its telemetry off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gradio = import_extra("gradio", "the web page needs gradio", "app", AppError)
    if int(gradio.__version__.split(".")[0]) < 6:
        found = f"{gradio.__version__} is installed"
        raise AppError("the web page needs gradio 6 or newer", found, install("app"))


def build(model: str | nn.Module = "demo", *, limits: Limits | None = None, **how: Any) -> gradio.Blocks:
    """Makes the page without serving it.

    Args:
        model: Name (see `loading.load`) or model that the page opens with.
        limits: Limits of a visitor.
        **how: How the model is opened, as for `launch`.

    Raises:
        AppError: gradio is missing or too old, or the model has no layer with a map.
        ModelError: There is no such model.
    """
    _require_gradio()
    from .page import make_page

    opened = open_page_model(model, **how)
    loaded: Future[OpenedModel] = Future()
    loaded.set_result(opened)
    return make_page(opened.name, loaded, limits or Limits())


def launch(
    model: str | nn.Module = "demo", port: int | None = None, *, host: str = HOST, limits: Limits | None = None,
    block: bool = True, hosts: Sequence[str] = (), open_browser: bool = False, **how: Any,
) -> Page:  # fmt: skip
    """Serves the page, at once; what it shows first waits until the model is loaded.

    Args:
        model: Name (see `loading.load`) or model that the page opens with.
        port: Where; None takes the first free port from 7860, 0 any free one.
        host: Address to listen at. The default can only be reached from this computer, "0.0.0.0" from
            everywhere, without a password.
        limits: Limits of a visitor.
        block: Serve until Ctrl-C and print the address; otherwise return once the model is loaded; a thread serves the
            page.
        hosts: Names under which this computer is known to visitors, besides `host` and its own name. Requests to
            other names, and from other web sites, are refused.
        open_browser: Open the page in the browser of this computer.
        **how: How the model is opened: input_size, checkpoint, pretrained, class_names, device, dtype.

    Returns:
        The page, closed if `block`.

    Raises:
        AppError: The port is in use, gradio is missing, or the model has no layer with a map.
        ModelError: There is no such model.
    """
    name = model if isinstance(model, str) else type(model).__name__
    loaded: Future[OpenedModel] = Future()
    with contextlib.ExitStack() as stack:
        if block:
            stack.enter_context(_ended_by_the_system())
        page = stack.enter_context(_serve(name, loaded, port, host, limits or Limits(), hosts))
        stack.callback(loaded.cancel)  # requests that wait for it end
        if block:
            _say(f"The page is at {page.url} (Ctrl-C stops it); loading the model {name}")
        if open_browser:
            webbrowser.open(page.url)
        if not block:
            loaded.set_result(open_page_model(model, **how))
            stack.pop_all()
            return page
        with contextlib.suppress(KeyboardInterrupt):
            loaded.set_result(open_page_model(model, **how))
            _say(f"The model {name} is loaded")
            page.wait()
    return page


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _serve(
    name: str, model: Future[OpenedModel], port: int | None, host: str, limits: Limits, hosts: Sequence[str]
) -> Page:
    """Makes the page and starts to serve it."""
    _require_gradio()
    from starlette.middleware import Middleware

    from .guards import KnownHosts, NoTracebacks
    from .layout import theme
    from .page import make_page

    number = free_port(host, port)
    blocks: Any = make_page(name, model, limits)
    address = f"[{host}]" if ":" in host else host
    guards = [Middleware(KnownHosts, host, (socket.gethostname(), *hosts)), Middleware(NoTracebacks)]
    try:
        with _no_proxy_to(host):  # gradio asks the page it serves whether it is there
            blocks.launch(
                server_name=address, server_port=number, prevent_thread_lock=True, quiet=True, share=False,
                inline=False, show_error=False, footer_links=[], run_history=False, max_file_size=limits.upload,
                ssr_mode=False, state_session_capacity=limits.visitors, mcp_server=False, pwa=False,
                enable_monitoring=False, theme=theme(),
                css=files(__package__).joinpath("templates/page.css").read_text("utf-8"),
                app_kwargs={"middleware": guards, "docs_url": None, "redoc_url": None, "openapi_url": None},
            )  # fmt: skip
    except OSError as error:
        raise AppError(f"the page cannot be served at port {number} of {host}", one_line(error)) from error
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(address, address)
    blocks.server.config.timeout_graceful_shutdown = 0.5  # seconds for open connections; gradio waits for them for good
    # A thread that computes while the interpreter is taken down would end the process with an abort.
    atexit.register(blocks.visitors.idle, None)
    return Page(blocks, f"http://{shown}:{number}/")


@contextlib.contextmanager
def _ended_by_the_system() -> Iterator[None]:
    """Lets a request of the system to end (SIGTERM) work as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port(host: str = HOST, port: int | None = None) -> int:
    """Finds the port to serve at.

    Args:
        host: Address to listen at.
        port: None takes the first free one from 7860 on, 0 any free one.

    Raises:
        AppError: It is in use, or this process may not use it.
    """
    reason = ""
    for number in range(PORT, PORT + PORTS) if port is None else (port,):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, number), family=family) as found:
                return int(found.getsockname()[1])
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    ports = f"ports {PORT} to {PORT + PORTS - 1}" if port is None else f"port {port}"
    raise AppError(
        f"{ports} of {host} cannot be used",
        reason,
        "choose another --port (port=...) or --host (host=...)",
    )


@contextlib.contextmanager
def _no_proxy_to(host: str) -> Iterator[None]:
    """Keeps requests to this computer from going through a proxy that the environment names."""
    before = os.environ.get("no_proxy")
    direct = (before, os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", "::1", host)
    os.environ["no_proxy"] = ",".join(filter(None, direct))
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
