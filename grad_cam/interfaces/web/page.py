"""The page with its events: the function that answers each control, and its queue."""

from __future__ import annotations

import contextlib
import itertools
import logging
import pathlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import gradio as gr

from ... import METHODS
from ...loading import samples
from . import layout
from .drawing import SETTINGS
from .errors import AppError, Superseded
from .models import Models, OpenedModel
from .requests import QUEUES, Visitors, queue_for
from .updates import CHANGED, evidence_update, page_update, redrawn
from .uploads import Limits, upload_folder, uploaded
from .views import OPTIONS, TABS, Controls, option_defaults

__all__ = ["Blocks", "make_page"]

_log = logging.getLogger(__name__)
_CONTROLS = (*Controls._fields[:-1], *(f"option {number}" for number in range(OPTIONS)))


class Blocks(gr.Blocks):
    """A page of gradio with a log instead of the tracebacks that it prints for every request it cannot take.

    Attributes:
        visitors: The latest request of every visitor.
    """

    visitors: Visitors

    async def process_api(self, *values: Any, **rest: Any) -> Any:
        try:
            return await super().process_api(*values, **rest)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            _log.info("a request was not answered", exc_info=True)
            raise gr.Error("the page cannot answer this request", print_exception=False) from error

    def has_left(self, visitor: str) -> bool:
        """Whether the connection over which a visitor waits for an answer has ended."""
        events = [event for job in self._queue.active_jobs if job for event in job]
        return any(event.session_hash == visitor and not event.alive for event in events)


def make_page(name: str, model: Future[OpenedModel], limits: Limits) -> Blocks:
    """Makes the page; requests wait until the model is loaded.

    Args:
        name: Name of the model that the page opens with.
        model: The model, which may still be loading.
        limits: Limits of a visitor.
    """
    page = Blocks(
        title="Grad-CAM, layer by layer", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    )
    with page:
        uploads = upload_folder()  # before the parts, which keep where it is
        _Events(page, layout.parts(name), Models(name, model, limits.models), limits, uploads).connect()
    # gradio checks the paths that a visitor sends only where this is set, and `mount_gradio_app` does not set it.
    page.has_launched = True
    return page


def _controls(values: tuple[Any, ...]) -> Controls:
    """Reads the controls; the option fields that the method does not use are left out."""
    photo, model, position, target, method, chosen, tab, *options = values
    used = len(option_defaults(method)) if method in METHODS else 0
    name = str(model or "").strip()
    return Controls(photo, name, int(position), target, method, tuple(chosen or ()), tab, tuple(options[:used]))


class _Events:
    """Connects the parts of a page: functions called by gradio, with the values of the controls."""

    def __init__(
        self, page: Blocks, part: dict[str, Any], models: Models, limits: Limits, uploads: pathlib.Path
    ) -> None:
        self.page, self.part, self.models, self.limits, self.uploads = page, part, models, limits, uploads
        self.tickets = itertools.count(1)
        self.turns = {queue: gr.State(0) for queue in QUEUES if queue != "maps"}
        page.visitors = self.visitors = Visitors()

    def connect(self) -> None:
        """Connects everything."""
        part, page = self.part, self.page
        controls, drawing = ([part[name] for name in names] for names in (_CONTROLS, SETTINGS))
        pictures = [part[name] for name in TABS]
        options = [part[f"option {number}"] for number in range(OPTIONS)]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        changes = [page.load, *(part[name].change for name in Controls._fields[:-1])]
        changes += [event for field in options for event in (field.submit, field.blur)]
        gr.on(changes, self.note, controls, None, trigger_mode="multiple", concurrency_limit=None, **quiet)
        # One listener for all that may need a map: while it works, only the last request of a visitor waits. What it
        # leaves to another queue is answered by the listener there, called by a change of its turn.
        for queue, running in QUEUES.items():
            gr.on(
                [self.turns[queue].change] if queue in self.turns else changes, self.answering(queue),
                [part["view"], *controls, *drawing],
                [*(part[name] for name in CHANGED), *options, *self.turns.values()],
                trigger_mode="always_last", concurrency_id=queue, concurrency_limit=running, show_progress="full",
                show_progress_on=pictures, api_visibility="private",
            )  # fmt: skip
        gr.on(
            [control.change for control in drawing], self.redraw, [part["view"], *drawing], [part["notice"], *pictures],
            trigger_mode="always_last", queue=False, **quiet,  # gradio looks for answers of queues 20 times a second
        )  # fmt: skip
        gr.on(
            [part["evidence"].click], self.ask, [part["view"], *controls, *drawing],
            [part["view"], part["notice"], *pictures], concurrency_id="slow", concurrency_limit=QUEUES["slow"],
            show_progress="full", show_progress_on=pictures, api_visibility="private",
        )  # fmt: skip
        part["upload"].upload(self.upload, part["upload"], [part["photo"], part["upload"]], **quiet)
        part["samples"].click(self.sample, None, part["photo"], **quiet)
        for cards, control, read in (
            ("predictions", "target", "Number"), ("layers", "position", "Number"), ("methods", "method", "String"),
        ):  # fmt: skip
            part[cards].click(None, None, part[control], js=f"() => {read}(window.gradCamPicked)", **quiet)
        for name in TABS:
            part[f"tab {name}"].select(lambda name=name: name, None, part["tab"], **quiet)
        page.unload(self.leave)

    def answering(self, queue: str) -> Callable[..., Any]:
        """The function that answers the controls in one queue."""

        def answer(request: gr.Request, progress: Any = gr.Progress(), *values: Any) -> Any:  # noqa: B008
            before, controls = values[0], _controls(values[1 : 1 + len(_CONTROLS)])
            visitor = str(request.session_hash)

            def step(done: int, total: int) -> None:
                self.visitors.check(visitor, controls)
                if self.page.has_left(visitor):
                    raise Superseded
                if total > 1:
                    progress((done, total), desc=METHODS[controls.method].title)

            with self.visitors.computing():
                if queue == "models":
                    with contextlib.suppress(Exception):  # `page_update` says what is wrong
                        self.models(controls.model)
                due = queue_for(before, controls, self.models)
                if due != queue and due in self.turns:
                    return {self.turns[due]: next(self.tickets)}
                settings = dict(zip(SETTINGS, values[1 + len(_CONTROLS) :], strict=True))
                found = page_update(before, controls, settings, self.models, limits=self.limits, progress=step)
                if queue != "maps":
                    try:
                        self.visitors.check(visitor, controls)
                    except Superseded:  # the page may show the answer to the newer request already
                        return gr.skip()
                return self.as_updates(found)

        return answer

    def as_updates(self, parts: dict[str, Any]) -> Any:
        """The changes as gradio takes them."""
        changes = {self.part[k]: gr.update(**v) if isinstance(v, dict) else v for k, v in parts.items()}
        return changes or gr.skip()

    def note(self, request: gr.Request, *values: Any) -> None:
        self.visitors.note(str(request.session_hash), _controls(values))

    def leave(self, request: gr.Request) -> None:
        self.visitors.note(str(request.session_hash), None)

    def redraw(self, view: Any, *values: Any) -> Any:
        settings = dict(zip(SETTINGS, values, strict=True))
        return gr.skip() if view is None else self.as_updates(redrawn(view, settings))

    def ask(self, request: gr.Request, view: Any, *values: Any) -> Any:
        """Asks the model about the map that the page shows, unless the page is about to show another one."""
        controls, visitor = _controls(values[: len(_CONTROLS)]), str(request.session_hash)
        if view is None or view.controls != controls:
            return gr.skip()
        with self.visitors.computing():
            found = evidence_update(view, dict(zip(SETTINGS, values[len(_CONTROLS) :], strict=True)))
            try:
                self.visitors.check(visitor, controls)
            except Superseded:
                return gr.skip()
            return self.as_updates(found)

    def upload(self, path: Any) -> tuple[Any, None]:
        try:
            return uploaded(path, self.uploads), None  # the field is empty again, for the next photo
        except AppError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def sample(self, event: gr.EventData) -> Any:
        return samples().get(event.pick, gr.skip())
