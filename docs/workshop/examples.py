"""The code of the pages: found, run as a reader would type it, and kept until code or package change.

The blocks of a page share one namespace and run from top to bottom in a folder that holds the two packaged photos.
``{example}`` blocks are run by the build, which shows what they print and draw; ``python`` blocks only by the tests.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORE = ROOT / ".site-cache"
WIDTH = 1400  # pixels of a picture at most
USED: set[str] = set()  # what was asked of the store in this process

_FENCE = re.compile(r"^(`{3,})(\{example\}|python|console)[^\n]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"^:[\w-]+:.*$")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code of a page: `kind` is "example", "python" or "console"."""

    kind: str
    code: str
    line: int


@dataclasses.dataclass(frozen=True)
class Output:
    """What a block printed and drew: text, and pictures as (suffix, bytes)."""

    text: str = ""
    pictures: tuple[tuple[str, bytes], ...] = ()


def blocks(page: str) -> list[Block]:
    """Finds the blocks of a page's text, from top to bottom."""
    found = []
    for match in _FENCE.finditer(page):
        lines = match[3].splitlines()
        while lines and _OPTION.match(lines[0]):
            lines.pop(0)
        kind = match[2].strip("{}")
        found.append(Block(kind, "\n".join(lines).strip("\n"), page.count("\n", 0, match.start()) + 1))
    return found


@contextlib.contextmanager
def folder(path: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """A folder with the packaged photos as the working directory: this one, or a new one that is removed afterwards."""
    from grad_cam import loading

    before = pathlib.Path.cwd()
    with contextlib.ExitStack() as stack:
        here = path or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for photo in loading.samples().values():
            (here / photo.name).write_bytes(photo.read_bytes())
        os.chdir(here)
        try:
            yield here
        finally:
            os.chdir(before)


class Room:
    """The namespace of one page, with its seed."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(0)
        self.names: dict[str, Any] = {"__name__": "page"}
        _only_own_methods()

    def run(self, code: str, where: str) -> Output:
        """Runs a block and takes what it prints, and the value of its last expression."""
        tree = ast.parse(code, where)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            exec(compile(tree, where, "exec"), self.names)
            value = None
            if last is not None:
                value = eval(compile(ast.Expression(last.value), where, "eval"), self.names)
            shown = _shown(value)
        said = [f"{w.category.__name__}: {w.message}" for w in caught if "grad_cam" in w.category.__module__]
        parts = [printed.getvalue().rstrip(), *said, shown.text]
        return Output("\n".join(part for part in parts if part), shown.pictures)


def _only_own_methods() -> None:
    """Takes out of the registry what an earlier page put there."""
    from grad_cam import METHODS

    for name, method in list(METHODS.items()):
        if not method.function.__module__.startswith("grad_cam."):
            del METHODS[name]


def _shown(value: Any) -> Output:
    """A value as a notebook would show it."""
    from matplotlib.figure import Figure
    from PIL import Image

    if value is None:
        return Output()
    if isinstance(value, Figure):
        buffer = io.BytesIO()
        value.savefig(buffer, format="png", dpi=110)
        return Output(pictures=(_smaller(Image.open(buffer)),))
    if isinstance(value, Image.Image):
        return Output(pictures=(_smaller(value),))
    if isinstance(value, pathlib.Path) and value.suffix == ".gif":
        return Output(pictures=((".gif", value.read_bytes()),))
    if hasattr(value, "_repr_png_"):
        return Output(pictures=(_smaller(Image.open(io.BytesIO(value._repr_png_()))),))
    return Output(value if isinstance(value, str) and "\n" in value else repr(value))


def _smaller(picture: Any) -> tuple[str, bytes]:
    from PIL import Image

    picture = picture.convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=84, method=4)
    return ".webp", buffer.getvalue()


# --------------------------------------------------------------------------------------------------------------- store


@functools.cache
def fingerprint() -> str:
    """Of everything besides its own code that an output depends on: the package, the workshop, PyTorch."""
    import torch

    found = hashlib.sha256(torch.__version__.encode())
    for path in sorted([*(ROOT / "grad_cam").rglob("*.py"), *pathlib.Path(__file__).parent.glob("*.py")]):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


class Page:
    """The examples of one page in order; code runs when an output is asked for that is not stored.

    Args:
        name: The page, for error messages.
        mode: "run": what is stored counts for the same code of the package only; "missing": of whatever code;
            "stored": nothing is run at all, and what is missing stays empty.
    """

    def __init__(self, name: str, mode: str = "run") -> None:
        self.name, self.mode = name, mode
        self._codes: list[str] = []
        self._room: Room | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # what one example writes, the next may read
        self._done = 0

    def output(self, code: str) -> Output:
        """The output of the page's next example."""
        self._codes.append(code)
        chain = hashlib.sha256("\0".join([self.name, *self._codes]).encode()).hexdigest()[:24]
        USED.add(chain)
        known = _read(chain, fingerprint() if self.mode == "run" else None)
        if known is not None:
            return known
        if self.mode == "stored":
            return Output()
        result = Output()
        self._folder = self._folder or tempfile.TemporaryDirectory()
        with folder(pathlib.Path(self._folder.name)):
            self._room = self._room or Room()
            for number in range(self._done, len(self._codes)):
                result = self._room.run(self._codes[number], f"{self.name}, example {number + 1}")
            self._done = len(self._codes)
        _write(chain, fingerprint(), result)
        return result

    def remembered(self, what: str, make: Callable[[], str]) -> str:
        """A text that is worked out once for each version of the package."""
        key = hashlib.sha256(f"{self.name}\0{what}".encode()).hexdigest()[:24]
        USED.add(key)
        known = _read(key, fingerprint() if self.mode == "run" else None)
        if known is None and self.mode != "stored":
            known = Output(make())
            _write(key, fingerprint(), known)
        return known.text if known else ""


def _read(key: str, version: str | None) -> Output | None:
    path = STORE / f"{key}.json"
    if not path.exists():
        return None
    entry = json.loads(path.read_text(encoding="utf-8"))
    if version not in (None, entry["version"]):
        return None
    pictures = tuple((pathlib.Path(name).suffix, (STORE / name).read_bytes()) for name in entry["pictures"])
    return Output(entry["text"], pictures)


def _write(key: str, version: str, output: Output) -> None:
    STORE.mkdir(exist_ok=True)
    names = []
    for number, (suffix, data) in enumerate(output.pictures):
        names.append(f"{key}-{number}{suffix}")
        (STORE / names[-1]).write_bytes(data)
    entry = {"version": version, "text": output.text, "pictures": names}
    (STORE / f"{key}.json").write_text(json.dumps(entry), encoding="utf-8")


def forget_others(used: set[str]) -> None:
    """Removes from the store what no page uses any more."""
    for path in STORE.glob("*"):
        if re.fullmatch(r"[0-9a-f]{24}.*", path.name) and path.name[:24] not in used:
            path.unlink()
