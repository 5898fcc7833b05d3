"""The options that several commands share, in groups that are checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from ..common import MethodFacts, Opened, check_method_name, method_facts, method_names, open_model
from .console import busy
from .early import check_device, check_function, check_model_name
from .edge import collect_again
from .parsing import colormap, device, named_values, number, one_of, size

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods import Method
    from ...rendering import Display

WHAT, LOOK, MODEL, OUT = "What to explain", "How it looks", "The model", "Output"
FLAG: dict[str, Any] = {"metavar": " "}  # nothing, where some versions of typer say <bool>
NAMES = "timm name, torchvision/NAME, open_clip/NAME, hf:ID, demo or module:function."
DRAWINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg")
"""Suffixes that make the argument of -o a file."""
DTYPES = ("float32", "float64", "float16", "bfloat16")


def option(*names: str, panel: str, help: str, **how: Any) -> Any:
    """An option of one of the panels of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **how)


def method_option(metavar: str, help: str) -> Any:
    """The option that names the method, completed by the shell."""
    names = {"autocompletion": lambda: list(method_names())}
    return option("--method", "-x", panel=WHAT, metavar=metavar, help=help, **names)


Depth = Annotated[
    str,
    option("--depth", "-d", panel=WHAT, metavar="auto|stages|blocks", parser=one_of("auto", "stages", "blocks"),
           help="Which layers: top-level stages, the blocks inside them, or (auto) blocks where there are any."),
]  # fmt: skip
Images = Annotated[
    list[str], typer.Argument(metavar="PHOTO", help="Files (PNG, JPEG, WebP, TIFF, ...) or folders of them.")
]
Recursive = Annotated[
    bool, option("--recursive", "-r", panel=WHAT, help="Look into the folders inside the folders.", **FLAG)
]
Force = Annotated[bool, option("--force", "-f", panel=OUT, help="Overwrite files that exist.", **FLAG)]
Show = Annotated[bool, option("--show", panel=OUT, help="Open what was made.", **FLAG)]
Json = Annotated[bool, option("--json", panel=OUT, help="Print the results as JSON, and nothing else.", **FLAG)]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, its input, and where it is computed."""

    model: Annotated[str, option("--model", "-m", panel=MODEL, metavar="MODEL", help=NAMES)] = "demo"
    input_size: Annotated[
        Any,
        option("--input-size", panel=MODEL, parser=size, metavar="N|HxW|DxHxW",
               help="Size of its input; default: the model's own."),
    ] = None  # fmt: skip
    crop: Annotated[
        bool,
        option("--crop/--no-crop", panel=MODEL, show_default=False,
               help="The part of a photo that the model was made for (default), or the whole of it, padded.", **FLAG),
    ] = True  # fmt: skip
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
        """Refuses a model and files that are not there, and class names that cannot be read."""
        check_model_name(self.model)
        if self.device is not None:
            check_device(self.device)
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
                f"--classes: {str(self.classes)!r} is no list of names: write one name a line, or a JSON list of names"
            )
        return names

    @property
    def _picture_size(self) -> Any:
        """Height and width; three numbers are those of a volume."""
        three = isinstance(self.input_size, tuple) and len(self.input_size) == 3
        return self.input_size[1:] if three else self.input_size

    def open(self, *checks: Callable[[], object]) -> Opened:
        """Loads the model, after checks that need torch."""
        with busy(f"Loading {self.model}"):
            for check in checks:
                check()
            opened = open_model(
                self.model, input_size=self._picture_size, crop=self.crop, pretrained=self.pretrained,
                checkpoint=self.checkpoint, class_names=self.class_names(), device=self.device, dtype=self.dtype,
            )  # fmt: skip
            collect_again()
        return opened


@dataclass(frozen=True)
class TargetOptions:
    """Which score is explained."""

    class_: Annotated[
        list[str] | None,
        option("--class", "-c", panel=WHAT, metavar="CLASS",
               help="Name or index, repeat for several; default: the predicted class."),
    ] = None  # fmt: skip
    text: Annotated[
        list[str] | None,
        option("--text", panel=WHAT, metavar="TEXT",
               help="For models of image and text: what the photo is compared with, repeat for several."),
    ] = None  # fmt: skip
    boxes: Annotated[
        list[str] | None,
        option("--boxes", panel=WHAT, metavar="top:K|N|L,T,R,B",
               help="For detectors: the K likeliest boxes, or one by number or place in pixels, repeat for several."),
    ] = None  # fmt: skip
    score: Annotated[
        str | None,
        option("--score", panel=WHAT, metavar="class|edge|...",
               parser=one_of("class", "objectness", "edge", "left", "top", "right", "bottom", "similarity"),
               help="With --boxes: what is explained of a box; default: its class."),
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
        chosen = {
            "--class": self.class_,
            "--text": self.text,
            "--boxes": self.boxes,
            "--top": self.top,
            "--rather-than": self.rather_than,
        }
        given = [name for name, value in chosen.items() if value not in (None, [])]
        given += ["--counterfactual"] * (self.counterfactual and self.rather_than is not None)
        if len(given) > 1:
            raise typer.BadParameter(f"{' and '.join(given)} contradict each other: give one of them")
        if self.score is not None and not self.boxes:
            raise typer.BadParameter("--score needs --boxes, such as --boxes top:5")
        if self.boxes:
            self._boxes  # noqa: B018 (what is not a box is refused now)
        if self.why is not None and self.rather_than is None:
            raise typer.BadParameter("--why A needs --rather-than B")
        if self.top is not None and self.top < 1:
            raise typer.BadParameter(f"--top {self.top}: give 1 or more")

    @property
    def count(self) -> int:
        """How many scores the options name."""
        if self.boxes:
            return self._boxes if isinstance(self._boxes, int) else len(self._boxes)
        return self.top or len(set(self.class_ or self.text or ())) or 1

    @property
    def _boxes(self) -> int | list[int | list[float]]:
        """The boxes that are explained: how many of the likeliest, or each by number or place."""
        asked = list(dict.fromkeys(self.boxes or ()))
        try:
            if asked[0].startswith("top:") and len(asked) == 1 and int(asked[0][4:]) > 0:
                return int(asked[0][4:])
            return [_box(one) for one in asked]
        except ValueError:
            raise typer.BadParameter(
                f"--boxes {' '.join(asked)}: give top:5 alone, or numbers, or left,top,right,bottom in pixels"
            ) from None

    def resolve(self, opened: Opened, top: int | None = None) -> Callable[[Tensor], Any]:
        """Looks the classes up in the model.

        Args:
            opened: The model.
            top: How many of the likeliest classes are explained if no option says what; None is the predicted one.

        Returns:
            The target (see `grad_cam.explain`) for a batch of images (B, C, H, W).
        """
        from ... import explain, loading, targets

        if self.text:
            compared = targets.text(list(dict.fromkeys(self.text)))
            return lambda images: compared
        if self.boxes:
            drawn = targets.boxes(self._boxes, self.score or "class")  # type: ignore[arg-type]
            return lambda images: drawn
        count = loading.class_count(opened.model)
        if self.top is not None and count is not None and self.top > count:
            raise typer.BadParameter(f"--top {self.top}: give 1 to {count}, the number of classes")

        def index(name: str | None) -> int | None:
            return None if name is None else loading.class_index(opened.model, name)

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
            found = explain(opened.model, images, target=likeliest, method="random_cam").classes
            assert found is not None  # the likeliest are classes
            return [[targets.negative(k) for k in row] for row in found.tolist()]

        return against_the_likeliest


def _box(text: str) -> int | list[float]:
    parts = text.split(",")
    if len(parts) not in (1, 4):
        raise ValueError(text)
    return int(text) if len(parts) == 1 else [float(part) for part in parts]


@dataclass(frozen=True)
class MethodOptions:
    """How the map is made; the default also suits early layers, where one weight per channel means little."""

    several: ClassVar[bool] = False

    method: Annotated[
        str,
        method_option("METHOD", "See [cyan]grad-cam methods[/]; or module:function, a function of yours."),
    ] = "layer_cam"
    settings: Annotated[
        list[str] | None,
        option("--option", panel=WHAT, metavar="NAME=VALUE", help="A setting of the method, repeat for several."),
    ] = None
    aug_smooth: Annotated[
        bool,
        option("--aug-smooth", panel=WHAT, help="Average over mirrored and brightened copies of the photo.", **FLAG),
    ] = False
    eigen_smooth: Annotated[
        bool,
        option("--eigen-smooth", panel=WHAT, help="First principal component of the map's terms, not their sum.",
               **FLAG),
    ] = False  # fmt: skip

    @property
    def names(self) -> list[str]:
        """The methods named."""
        return [name.strip() for name in self.method.split(",") if name.strip()]

    def check(self) -> None:
        """Refuses unknown names and misspelt settings, without importing the methods."""
        if not self.names:
            raise typer.BadParameter("--method names no method: see grad-cam methods")
        if len(self.names) > 1 and not self.several:
            raise typer.BadParameter(f"--method {self.method}: give one method here")
        for name in self.names:
            (check_function if ":" in name else check_method_name)(name)
        named_values(self.settings)
        facts = [method_facts(name) for name in self.names]
        if None not in facts:
            self.check_fit([entry for entry in facts if entry is not None])

    def check_fit(self, methods: Sequence[MethodFacts | Method]) -> None:
        """Refuses settings and smoothings that one of the methods does not take."""
        for entry in methods:
            for name in named_values(self.settings):
                if name not in entry.options:
                    takes = f"it takes {', '.join(entry.options)}" if entry.options else "it takes none"
                    raise typer.BadParameter(f"--option {name}: {entry.name} has no such setting; {takes}")
            for name in ("aug_smooth", "eigen_smooth"):
                if getattr(self, name) and not getattr(entry, name):
                    raise typer.BadParameter(f"--{name.replace('_', '-')} does not work with {entry.name}")

    @property
    def gives(self) -> str:
        """What the first method gives: "map" or "concepts"."""
        return (method_facts(self.names[0]) or self.found()[0]).gives

    def found(self) -> list[Method]:
        """The methods; all of them must take the settings and the smoothings.

        Raises:
            typer.BadParameter: One does not.
        """
        from ...loading import imported
        from ...methods import find

        entries = list({m.name: m for m in (find(imported(n) if ":" in n else n) for n in self.names)}.values())
        self.check_fit(entries)
        return entries

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings and smoothings, as `grad_cam.explain` takes them."""
        return {"aug_smooth": self.aug_smooth, "eigen_smooth": self.eigen_smooth, **named_values(self.settings)}


@dataclass(frozen=True)
class LookOptions:
    """How a map is shown."""

    view: Annotated[
        str,
        option("--view", panel=LOOK, metavar="positive|signed", parser=one_of("positive", "signed"),
               help="Evidence for the class, or (signed) also the evidence against it."),
    ] = "positive"  # fmt: skip
    threshold: Annotated[
        float,
        option("--threshold", panel=LOOK, metavar="0..1", parser=number(0, 0.99),
               help="Fraction of the maximum below which nothing is shown."),
    ] = 0.125  # fmt: skip
    smoothing: Annotated[
        float | None,
        option("--smoothing", panel=LOOK, metavar="PIXELS", parser=number(0),
               help="Sigma of a Gaussian; default: 5 for a picture of 224."),
    ] = None  # fmt: skip
    colormap: Annotated[
        str, option("--colormap", panel=LOOK, metavar="NAME", parser=colormap, help="bgr, or any matplotlib colormap.")
    ] = "plasma"
    alpha: Annotated[
        float,
        option("--alpha", panel=LOOK, metavar="0..1", parser=number(0, 1), help="Opacity of the strongest evidence."),
    ] = 0.6

    @property
    def display(self) -> Display:
        """The settings of all pictures; a colormap that does not exist is refused."""
        from ...rendering import Display

        return Display(self.threshold, self.smoothing, self.alpha, self.colormap, self.view)  # type: ignore[arg-type]
