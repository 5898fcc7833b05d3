"""The options that several commands share: how they are written, read and checked before a model is loaded."""

from __future__ import annotations

import ast
import json
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common import Opened, open_model
from .console import busy

if TYPE_CHECKING:
    from torch import Tensor

WHAT, LOOK, MODEL, OUT = "What to explain", "How it looks", "The model", "Output"
FLAG: dict[str, Any] = {"metavar": " "}  # nothing, where some versions of typer say <bool>
NAMES = "timm name, torchvision/NAME, hf:ID, demo or module:function."
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
DRAWINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg")
DTYPES = ("float32", "float64", "float16", "bfloat16")


def size(text: str) -> Any:
    """224 or 224x320 (height x width)."""
    found = re.fullmatch(r"(\d+)(?:\s*[x×,]\s*(\d+))?", text.strip())
    if not found or "0" in (found[1], found[2]):
        raise typer.BadParameter(f"{text!r} is not a size: give one number, 224, or height and width, 224x320")
    height, width = int(found[1]), int(found[2] or found[1])
    return height if height == width else (height, width)


def number(low: float, high: float | None = None) -> Callable[[str], float]:
    """Reads a number of a range, so that the help can say it in few words."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value and (high is None or value <= high)) or math.isinf(value):
            allowed = f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
            raise typer.BadParameter(f"{str(text)!r} is not a number {allowed}")
        return value

    return read


def one_of(*values: str) -> Callable[[str], str]:
    """Reads one of a few words."""

    def read(text: str) -> str:
        if text not in values:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(values)}")
        return text

    return read


def device(text: str) -> str:
    """The name of a device; whether it is there shows when the model is moved to it."""
    if not re.fullmatch(r"[a-z]+(:\d+)?", text):
        raise typer.BadParameter(f"{text!r} is not a device: give cpu, cuda, cuda:1, mps, ...")
    return text


def named_values(texts: Sequence[str] | None) -> dict[str, Any]:
    """Options of a method, each NAME=VALUE; a value is a number, True, False, None, a tuple, or else a text."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise typer.BadParameter(f"--option {text!r}: write it as name=value, such as samples=8")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found


def option(*names: str, panel: str, help: str, **how: Any) -> Any:
    """An option of one of the panels of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **how)


Depth = Annotated[
    str,
    option("--depth", "-d", panel=WHAT, metavar="auto|stages|blocks", parser=one_of("auto", "stages", "blocks"),
           help="Which layers: top-level stages, the blocks inside them, or (auto) blocks where there are any."),
]  # fmt: skip
Settings = Annotated[
    list[str] | None,
    option("--option", panel=WHAT, metavar="NAME=VALUE", help="A setting of the method, repeat for several."),
]
OneMethod = Annotated[
    str, option("--method", "-x", panel=WHAT, metavar="METHOD", help="See [cyan]grad-cam methods[/].")
]
Force = Annotated[bool, option("--force", "-f", panel=OUT, help="Overwrite files that exist.", **FLAG)]
Show = Annotated[bool, option("--show", panel=OUT, help="Open what was made.", **FLAG)]
Json = Annotated[bool, option("--json", panel=OUT, help="Print the results as JSON, and nothing else.", **FLAG)]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is fed and computed."""

    model: Annotated[str, option("--model", "-m", panel=MODEL, metavar="MODEL", help=NAMES)] = "demo"
    input_size: Annotated[
        Any,
        option("--input-size", panel=MODEL, parser=size, metavar="N|HxW",
               help="Size of its input; default: the model's own."),
    ] = None  # fmt: skip
    checkpoint: Annotated[
        Path | None,
        option("--checkpoint", panel=MODEL, metavar="FILE",
               help="Your weights, .pth or .safetensors; no code in the file is run."),
    ] = None  # fmt: skip
    classes: Annotated[
        Path | None,
        option("--classes", panel=MODEL, metavar="FILE",
               help="Names of the classes of your model: one a line, or a JSON list."),
    ] = None  # fmt: skip
    pretrained: Annotated[
        bool,
        option("--pretrained/--no-pretrained", panel=MODEL, show_default=False,
               help="The published weights (default), or random ones.", **FLAG),
    ] = True  # fmt: skip
    device: Annotated[
        str | None,
        option("--device", panel=MODEL, metavar="DEVICE", parser=device, help="cpu, cuda, cuda:1, mps; default: cpu."),
    ] = None
    dtype: Annotated[
        str | None,
        option("--dtype", panel=MODEL, metavar="TYPE", parser=one_of(*DTYPES),
               help="float32, float16, bfloat16 or float64; default: the model's own."),
    ] = None  # fmt: skip

    def check(self) -> None:
        """Refuses files that are not there, and class names that cannot be read."""
        for name, path in (("--checkpoint", self.checkpoint), ("--classes", self.classes)):
            if path is not None and not path.is_file():
                raise FileNotFoundError(f"{name}: there is no file {str(path)!r}")
        self.class_names()

    def class_names(self) -> list[str] | None:
        """The names in the file given as --classes."""
        if self.classes is None:
            return None
        try:
            text = self.classes.read_text(encoding="utf-8-sig").strip()
            names = json.loads(text) if text[:1] in "[{" else [line.strip() for line in text.splitlines()]
            if isinstance(names, dict):  # from index to name
                names = [names[str(i)] for i in range(len(names))]
        except (ValueError, KeyError):
            names = []
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(
                f"--classes: {str(self.classes)!r} is no list of names: write one name a line, or a JSON list of texts"
            )
        return names

    def open(self) -> Opened:
        """Loads the model."""
        with busy(f"Loading {self.model}"):
            return open_model(
                self.model, input_size=self.input_size, pretrained=self.pretrained, checkpoint=self.checkpoint,
                class_names=self.class_names(), device=self.device, dtype=self.dtype,
            )  # fmt: skip


@dataclass(frozen=True)
class TargetOptions:
    """Which score is explained."""

    class_: Annotated[
        list[str] | None,
        option("--class", "-c", panel=WHAT, metavar="CLASS",
               help="Name or index, repeat for several; default: the predicted class."),
    ] = None  # fmt: skip
    top: Annotated[int | None, option("--top", "-k", panel=WHAT, metavar="K", help="The K likeliest classes.")] = None
    why: Annotated[
        str | None,
        option("--why", panel=WHAT, metavar="A", help="With --rather-than B: what speaks for A and not for B."),
    ] = None
    rather_than: Annotated[
        str | None,
        option("--rather-than", panel=WHAT, metavar="B",
               help="The class to compare with A, or with the predicted class."),
    ] = None  # fmt: skip
    counterfactual: Annotated[
        bool, option("--counterfactual", panel=WHAT, help="What speaks against the class.", **FLAG)
    ] = False

    def check(self) -> None:
        """Refuses options that contradict each other."""
        chosen = {"--class": self.class_, "--top": self.top, "--rather-than": self.rather_than}
        given = [name for name, value in chosen.items() if value not in (None, [])]
        given += ["--counterfactual"] * (self.counterfactual and self.rather_than is not None)
        if len(given) > 1:
            raise typer.BadParameter(f"{' and '.join(given)} contradict each other: give one of them")
        if self.why is not None and self.rather_than is None:
            raise typer.BadParameter("--why A needs --rather-than B")
        if self.top is not None and self.top < 1:
            raise typer.BadParameter(f"--top {self.top}: give 1 or more")

    def resolve(self, opened: Opened, top: int | None = None) -> Callable[[Tensor], Any]:
        """Looks the classes up in the model.

        Args:
            opened: The model.
            top: How many of the likeliest classes are explained if no option says what; None is the predicted one.

        Returns:
            The target (see `grad_cam.explain`) for a batch of images (B, C, H, W).
        """
        from ... import explain, targets, zoo

        count = zoo.class_count(opened.model)
        if self.top is not None and count is not None and self.top > count:
            raise typer.BadParameter(f"--top {self.top}: give 1 to {count}, the number of classes")

        def index(name: str | None) -> int | None:
            return None if name is None else zoo.class_index(opened.model, name)

        if self.rather_than is not None:
            difference = targets.difference(index(self.why), index(self.rather_than))
            return lambda images: difference
        chosen = list(dict.fromkeys(map(index, self.class_ or ())))
        if chosen:
            row = [targets.negative(k) for k in chosen] if self.counterfactual else chosen
            return lambda images: [row] * len(images)
        if self.top is None and (self.counterfactual or top is None):
            return lambda images: targets.negative() if self.counterfactual else None
        likeliest = targets.top(self.top or min(top or 1, count or 1))
        if not self.counterfactual:
            return lambda images: likeliest

        def against_the_likeliest(images: Tensor) -> Any:
            found = explain(opened.model, images, target=likeliest, method="random_cam").classes  # type: ignore
            return [[targets.negative(k) for k in row] for row in found.tolist()]

        return against_the_likeliest


@dataclass(frozen=True)
class LookOptions:
    """How a map is shown."""

    threshold: Annotated[
        float,
        option("--threshold", panel=LOOK, metavar="0..1", parser=number(0, 0.99),
               help="Fraction of the maximum below which nothing is shown."),
    ] = 0.125  # fmt: skip
    smoothing: Annotated[
        float | None,
        option(
            "--smoothing", panel=LOOK, metavar="PIXELS", parser=number(0), help="Gaussian sigma; default: 5 at 224."
        ),
    ] = None
    colormap: Annotated[
        str, option("--colormap", panel=LOOK, metavar="NAME", help="bgr, or any matplotlib colormap.")
    ] = "bgr"
    alpha: Annotated[
        float,
        option("--alpha", panel=LOOK, metavar="0..1", parser=number(0, 1), help="Opacity of the strongest evidence."),
    ] = 0.6

    def check(self) -> None:
        """Refuses a colormap that does not exist."""
        from ... import rendering

        rendering.palette(self.colormap)

    @property
    def all(self) -> dict[str, Any]:
        """As keyword arguments of the figures."""
        return {
            "threshold": self.threshold, "smoothing": self.smoothing, "colormap": self.colormap, "alpha": self.alpha,
        }  # fmt: skip


def check_folder(path: Path) -> Path:
    """Makes sure that files can be written to a folder, made when the first one is; nothing is left behind."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the folder {str(path)!r} ({error.strerror or error}): choose another with -o"
        ) from None
    return path


def find_pictures(given: Sequence[str], recursive: bool = False) -> tuple[list[str], list[str]]:
    """The pictures that are meant by names of files and folders, and the names that are not there."""
    found: list[str] = []
    missing: list[str] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.rglob("*") if recursive else path.iterdir())
            pictures = [str(p) for p in inside if p.suffix.lower() in PICTURES and p.is_file()]
            if not pictures:
                hint = "" if recursive else "; --recursive looks into the folders inside it"
                raise FileNotFoundError(f"there are no pictures in the folder {name!r}{hint}")
            found += pictures
        else:
            (found if path.exists() else missing).append(name)
    return list(dict.fromkeys(found)), missing


def open_viewer(paths: Sequence[Path]) -> None:
    """Opens files with the programs that show them."""
    for path in paths:
        typer.launch(str(path))
