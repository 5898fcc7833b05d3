"""What the command line writes: lines, tables, JSON, progress."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""


def console(err: bool = False) -> Console:
    """A console that never breaks lines when it writes to a file or a pipe."""
    made = Console(stderr=err, highlight=False, markup=False, emoji=False)
    return made if made.is_terminal else Console(stderr=err, highlight=False, markup=False, emoji=False, width=400)


def say(*parts: str | tuple[str, str], err: bool = False) -> None:
    """Prints one line, never wrapped; a part may carry a style."""
    console(err).print(Text.assemble(*parts), soft_wrap=True)


def print_error(message: str) -> None:
    """Prints a red line on stderr."""
    say((f"Error: {message}", "bold red"), err=True)


def print_notes(notes: Sequence[str]) -> None:
    """Prints yellow lines on stderr."""
    for note in notes:
        say((f"  Note: {note}", "yellow"), err=True)


def print_json(value: Any) -> None:
    """Prints a value for programs."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def table(titles: Sequence[str], right: Sequence[str] = (), indent: int = 0) -> Table:
    """An empty table without lines; the columns named by `right` hold numbers."""
    made = Table(box=None, padding=(0, 2, 0, indent), header_style="bold")
    for title in titles:
        made.add_column(title, justify="right" if title in right else "left", overflow="fold")
    return made


@contextlib.contextmanager
def busy(text: str) -> Iterator[None]:
    """Shows on stderr what is being done: a spinner on a terminal, otherwise a plain line."""
    shown = console(err=True)
    if not shown.is_terminal:
        say(f"{text} ...", err=True)
        yield
        return
    with shown.status(Text(f"{text} ...", "dim")):
        yield


class Bars:
    """Two progress bars on a terminal: the photos, if there are several, and the steps of a slow method."""

    def __init__(self, bar: Any, photos: int) -> None:
        self._bar = bar
        self._photos = bar.add_task("", total=photos) if bar is not None and photos > 1 else None
        self._steps: Any = None

    def photo(self, name: str) -> None:
        """Shows the name of the current photo."""
        if self._photos is not None:
            self._bar.update(self._photos, description=name)

    def advance(self, count: int = 1) -> None:
        """Counts finished photos."""
        if self._photos is not None:
            self._bar.advance(self._photos, count)

    @contextlib.contextmanager
    def steps(self, text: str) -> Iterator[Progress]:
        """Gives a callback that draws the second bar once it is called."""
        task = None

        def step(done: int, total: int) -> None:
            nonlocal task
            if self._bar is None:
                return
            if task is None:
                task = self._bar.add_task(text, total=total)
            self._bar.update(task, completed=done, total=total)

        yield step
        if task is not None:
            self._bar.remove_task(task)


@contextlib.contextmanager
def bars(photos: int = 1) -> Iterator[Bars]:
    """Progress bars on stderr; nothing is drawn where that is not a terminal."""
    shown = console(err=True)
    if not shown.is_terminal:
        yield Bars(None, photos)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=shown, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield Bars(bar, photos)


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collects the package's warnings, each once."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"grad_cam")
        yield messages
    messages += dict.fromkeys(" ".join(str(each.message).split()) for each in caught)
