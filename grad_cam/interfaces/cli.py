"""The command line: `grad-cam demo`, `layers`, `explain`, `sweep`, `methods`, `report`, `app`.

Each command imports what it needs when it runs, so that `grad-cam --help` answers at once. What was asked for goes to
stdout, everything else (progress, warnings, errors) to stderr.

Exit codes: 0 all done; 1 an error, nothing was done; 2 wrong usage; 3 some of the images failed, the others are done;
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from .. import Chain, Explanation
    from ..images import Preprocessing

__all__ = ["app", "main", "methods_table"]

DEMO, OUTPUT = Path("demo-output"), Path("grad-cam-output")
SOME_FAILED, STOPPED = 3, 130
SHOWN = 3  # predictions listed for each image

app = typer.Typer(
    name="grad-cam",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""See what a vision model saw, layer by layer.

    [bold]grad-cam demo[/] explains two photos and needs nothing else. For a model of your own, look at its layers \
first, then choose one:

    [cyan]grad-cam layers torchvision/resnet50[/]
    [cyan]grad-cam explain dog.jpg --model torchvision/resnet50 --layer 2[/]

    [bold]MODEL[/] is a timm name ([cyan]resnet50[/], [cyan]vit_base_patch16_224[/]), [cyan]torchvision/NAME[/], \
[cyan]hf:ID[/] from the Hugging Face hub, [cyan]demo[/] (a small EfficientNet), or [cyan]package.module:function[/] \
for a function of yours that returns the model.

    [bold]LAYER[/] is a number counted from the output (2 leaves two stages after it) or a module path such as \
[cyan]layer3.1[/]; [cyan]grad-cam layers[/] lists both.""",
    epilog="Exit codes: 0 all done, 1 error, 2 wrong usage, 3 some images failed and the others are done, 130 stopped. "
    "GRAD_CAM_DEBUG=1 shows the traceback of an error.",
)


def main() -> None:
    """Runs the command line."""
    app(prog_name="grad-cam")


# ------------------------------------------------------------------------------------------------------------- the edge

_P, _R = ParamSpec("_P"), TypeVar("_R")


def _console(err: bool = False) -> Console:
    """A console that never breaks lines when it writes into a file or a pipe."""
    console = Console(stderr=err, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(stderr=err, highlight=False, markup=False, emoji=False, width=400)
    return console


def _say(*parts: str | tuple[str, str], err: bool = False) -> None:
    """Prints one line, never wrapped; a part may carry a style."""
    _console(err).print(Text.assemble(*parts), soft_wrap=True)


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    ours = isinstance(error, (ValueError, TypeError, OSError, ImportError)) and not isinstance(error, UnicodeError)
    return message if ours else f"{type(error).__name__}: {message}"


def _complain(error: BaseException, about: str = "") -> None:
    _say((f"Error: {about + ': ' if about else ''}{_one_line(error)}", "bold red"), err=True)


def _debugging() -> bool:
    return os.environ.get("GRAD_CAM_DEBUG", "") not in ("", "0")


def _command(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turns what a command raises into one red line and an exit code."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            with warnings.catch_warnings():
                if not _debugging():
                    warnings.simplefilter("ignore")
                return function(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            _say(("Stopped.", "bold red"), err=True)
            raise typer.Exit(STOPPED) from None
        except Exception as error:
            if _debugging():
                raise
            _complain(error)
            raise typer.Exit(1) from None

    return run


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


@contextlib.contextmanager
def _busy(text: str) -> Iterator[None]:
    """Says what takes a while, on a terminal only."""
    console = _console(err=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(text, "dim")):
        yield


@contextlib.contextmanager
def _progress(count: int) -> Iterator[Progress | None]:
    """A bar from two images on."""
    if count < 2:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=_console(err=True), transient=_console(err=True).is_terminal) as bar:
        yield bar


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Collects what the package warns of; each once."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"grad_cam")
        yield said
    said += dict.fromkeys(" ".join(str(each.message).split()) for each in caught)


# -------------------------------------------------------------------------------------------------------------- options


def _layer(text: str) -> Any:
    """A layer_idx or a module path."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else text.strip()


def _size(text: str) -> Any:
    """224 or 224x320 (height x width)."""
    found = re.fullmatch(r"(\d+)(?:\s*[x×,]\s*(\d+))?", text.strip())
    if not found or "0" in (found[1], found[2]):
        raise typer.BadParameter(f"{text!r} is not a size: give one number, 224, or height and width, 224x320")
    height, width = int(found[1]), int(found[2] or found[1])
    return height if height == width else (height, width)


def _number(low: float, high: float | None = None) -> Callable[[str], float]:
    """Reads a number of a range, so that the help can say it in few words."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value and (high is None or value <= high)) or math.isinf(value):
            least = f"{low:g} or more" if high is None else f"from {low:g} to {high:g}"
            raise typer.BadParameter(f"{str(text)!r} will not do: give a number {least}")
        return value

    return read


_WHAT, _LOOK, _MODEL, _OUT = "What to explain", "How it looks", "The model", "Output"
_FLAG: dict[str, Any] = {"metavar": " "}  # nothing, where some versions would say <bool>

Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Pictures: PNG, JPEG, WebP, TIFF, ...")]
OneImage = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture: PNG, JPEG, WebP, TIFF, ...")]
_NAMES = "timm name, torchvision/NAME, hf:ID, demo or module:function."
ModelName = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help=_NAMES, rich_help_panel=_MODEL)]
InputSize = Annotated[
    Any,
    typer.Option(
        "--input-size", parser=_size, metavar="N|HxW", help="Size of its input; default: the model's own.",
        rich_help_panel=_MODEL,
    ),
]  # fmt: skip
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", metavar="FILE", help="Your weights, .pth or .safetensors; nothing in them is run.",
        rich_help_panel=_MODEL,
    ),
]  # fmt: skip
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained/--no-pretrained", help="The published weights, or random ones.", show_default=False,
        rich_help_panel=_MODEL, **_FLAG,
    ),
]  # fmt: skip
LayerName = Annotated[
    Any,
    typer.Option(
        "--layer", "-l", parser=_layer, metavar="LAYER", help="layer_idx or module path; default: the last map.",
        rich_help_panel=_WHAT,
    ),
]  # fmt: skip
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class", "-c", metavar="CLASS", help="Name or index, repeat for several; default: the predicted.",
        rich_help_panel=_WHAT,
    ),
]  # fmt: skip
Top = Annotated[
    int | None,
    typer.Option("--top", "-k", metavar="K", help="The K likeliest classes.", rich_help_panel=_WHAT),
]
Methods = Annotated[
    str,
    typer.Option(
        "--method", "-x", metavar="X[,Y...]", help="Several are compared; see [cyan]grad-cam methods[/].",
        rich_help_panel=_WHAT,
    ),
]  # fmt: skip
OneMethod = Annotated[
    str, typer.Option("--method", "-x", metavar="X", help="See [cyan]grad-cam methods[/].", rich_help_panel=_WHAT)
]
Why = Annotated[
    str | None,
    typer.Option(metavar="A", help="With --rather-than B: what speaks for A and not for B.", rich_help_panel=_WHAT),
]
RatherThan = Annotated[
    str | None,
    typer.Option(metavar="B", help="The class to compare A, or the predicted one, with.", rich_help_panel=_WHAT),
]
Counterfactual = Annotated[
    bool,
    typer.Option("--counterfactual", help="What speaks against the class.", rich_help_panel=_WHAT, **_FLAG),
]
Depth = Annotated[
    str,
    typer.Option(
        "--depth", "-d", metavar="auto|stages|blocks",
        help="Top-level stages, the blocks inside them, or (auto) blocks where there are any.",
        rich_help_panel=_WHAT,
    ),
]  # fmt: skip
Threshold = Annotated[
    float,
    typer.Option(
        metavar="0..1", parser=_number(0, 0.99), help="Share of the maximum under which nothing is shown.",
        rich_help_panel=_LOOK,
    ),
]  # fmt: skip
Smoothing = Annotated[
    float | None,
    typer.Option(
        metavar="PIXELS", parser=_number(0), help="Gaussian sigma; default: 5 at 224.", rich_help_panel=_LOOK
    ),
]  # fmt: skip
Colormap = Annotated[str, typer.Option(metavar="NAME", help="bgr, or any matplotlib colormap.", rich_help_panel=_LOOK)]
Alpha = Annotated[
    float,
    typer.Option(metavar="0..1", parser=_number(0, 1), help="Opacity of the hottest spot.", rich_help_panel=_LOOK),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pictures.", rich_help_panel=_OUT)
]
OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.", rich_help_panel=_OUT)
]
Force = Annotated[
    bool, typer.Option("--force", "-f", help="Overwrite files that exist.", rich_help_panel=_OUT, **_FLAG)
]
Show = Annotated[bool, typer.Option("--show", help="Open what was made.", rich_help_panel=_OUT, **_FLAG)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print results for programs, and only them.", rich_help_panel=_OUT, **_FLAG),
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"grad-cam {version('gradcam-layers')}")
        except PackageNotFoundError:
            print("grad-cam, not installed")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.", **_FLAG)
    ] = False,
) -> None:
    pass


# -------------------------------------------------------------------------------------------------- what commands share


@dataclass(frozen=True)
class _Opened:
    """A model ready to explain pictures."""

    name: str
    chain: Chain
    labels: list[str] | None
    prepare: Preprocessing

    def label(self, index: int) -> str:
        return self.labels[index] if self.labels and index < len(self.labels) else f"class {index}"


def _open(name: str, input_size: Any, checkpoint: Path | None, pretrained: bool, depth: int = 1) -> _Opened:
    """Loads a model and cuts it into stages."""
    with _busy(f"loading {name}"):
        from .. import chain, zoo
        from ..images import preprocessing

        model = zoo.load(name, pretrained=pretrained and checkpoint is None, checkpoint=checkpoint)
        prepare = preprocessing(model, input_size)
        return _Opened(name, chain(model, prepare.size, depth=depth), zoo.labels(model), prepare)


def _folder(path: Path) -> Path:
    """Makes the output folder and makes sure it can be written to, before anything is computed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the folder {str(path)!r} ({error.strerror or error}): choose another with -o"
        ) from None
    return path


def _slug(text: str) -> str:
    """A name as part of a file name: letters of any script and digits, hyphens for the rest."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:80].rstrip("-.") or "image"


def _stems(images: Sequence[str]) -> list[str]:
    """A file stem for each image; pictures of the same name are numbered."""
    seen: dict[str, int] = {}
    stems = []
    for image in images:
        stem = _slug(Path(image).stem)
        seen[stem.casefold()] = count = seen.get(stem.casefold(), 0) + 1
        stems.append(stem if count == 1 else f"{stem}-{count}")
    return stems


def _free(paths: Sequence[Path], force: bool) -> None:
    from ..errors import refuse_existing

    try:
        refuse_existing(paths, force)
    except FileExistsError:
        there = ", ".join(str(path) for path in paths if path.exists())
        raise FileExistsError(f"{there} exists already: give --force to overwrite, or another folder with -o") from None


def _probabilities(logits: torch.Tensor) -> list[float]:
    """Probability of every class of one image; empty for an output that is no classification."""
    if logits.ndim != 1:
        return []
    return (logits.float().sigmoid() if len(logits) == 1 else logits.float().softmax(0)).tolist()


def _predictions(opened: _Opened, logits: torch.Tensor, count: int) -> list[dict[str, Any]]:
    chances = _probabilities(logits)
    best = sorted(range(len(chances)), key=chances.__getitem__, reverse=True)[:count]
    return [{"class": opened.label(k), "index": k, "probability": round(chances[k], 6)} for k in best]


def _guesses(predictions: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{p['class']} {_percent(p['probability'])}" for p in predictions)


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability >= 0.01 else "<1 %"


def _open_viewer(paths: Sequence[Path]) -> None:
    for path in paths:
        typer.launch(str(path))


_Result = dict[str, Any]


def _for_each(
    images: Sequence[str], work: Callable[[str, str], _Result], told: Callable[[_Result], None]
) -> tuple[list[_Result], list[dict[str, str]]]:
    """Does the work on every image; one that fails is kept for the end and does not stop the others."""
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with _progress(len(images)) as bar:
        task = bar.add_task("", total=len(images)) if bar else None
        for image, stem in zip(images, _stems(images), strict=True):
            if bar and task is not None:
                bar.update(task, description=Path(image).name)
            try:
                done.append(work(image, stem))
                told(done[-1])
            except Exception as error:
                if _debugging():
                    raise
                message = _one_line(error)
                failed.append({"image": image, "error": message})
            if bar and task is not None:
                bar.advance(task)
    return done, failed


def _finish(done: Sequence[Any], failed: Sequence[dict[str, str]]) -> None:
    """Reports the images that failed and ends with the code that says so."""
    for each in failed:
        about = "" if each["image"] in each["error"] else f"{each['image']}: "
        _say((f"Error: {about}{each['error']}", "bold red"), err=True)
    if failed and done:
        total = len(done) + len(failed)
        _say((f"{len(failed)} of {total} images failed; the others are done.", "red"), err=True)
        raise typer.Exit(SOME_FAILED)
    if failed:
        raise typer.Exit(1)


def _silent(method: str) -> dict[str, Any]:
    """The option that keeps a method from drawing a bar of its own inside another."""
    import inspect

    from ..methods import find

    reports = "progress" in inspect.signature(find(method).function).parameters
    return {"progress": lambda done, total: None} if reports else {}


def _rounded(values: Any) -> Any:
    """Nested lists of numbers with six digits; None for what is no number, which JSON does not know."""
    if isinstance(values, list):
        return [_rounded(v) for v in values]
    return float(f"{values:.6g}") if math.isfinite(values) else None


# ----------------------------------------------------------------------------------------------------------------- demo


@app.command()
@_command
def demo(
    output: Output = DEMO,
    force: Force = False,
    show: Show = False,
) -> None:
    """Explain two sample photos with a small EfficientNet; needs no settings and no network.

    Writes the four panels for both, three classes of the cat side by side, and the espresso layer by layer.

    [bold]Example[/]
      grad-cam demo
    """
    told = {
        "espresso.png": "what the model saw in the espresso",
        "cat.png": "and in the cat",
        "cat-classes.png": "the cat's three likeliest classes side by side",
        "espresso-layers.png": "the espresso layer by layer",
        "espresso-layers.gif": "the same, moving",
    }
    paths = {name: _folder(output) / name for name in told}
    _free(list(paths.values()), force)
    opened = _open("demo", None, None, True)
    with _busy("explaining two photos"):
        from .. import explain, rendering, sweep, targets, zoo
        from ..images import load_image

        inputs = {name: opened.prepare(load_image(path))[0] for name, path in zoo.samples().items()}
        for name in ("espresso", "cat"):
            result = explain(opened.chain, inputs[name])
            rendering.save(result.figure(threshold=1 / 8), paths[f"{name}.png"])
            _say((name, "bold"), f"  {_guesses(_predictions(opened, result.logits[0], SHOWN))}")
        three = explain(opened.chain, inputs["cat"], target=targets.top(3))
        rendering.save(_side_by_side([three], opened, threshold=1 / 8), paths["cat-classes.png"])
        layers = sweep(opened.chain, inputs["espresso"], layers="blocks", method="hires_cam")
        rendering.save(layers.figure(threshold=1 / 8), paths["espresso-layers.png"])
        layers.animate(paths["espresso-layers.gif"], threshold=1 / 8, force=True)
    _say()
    for name, text in told.items():
        _say("  ", (str(paths[name]), "green"), f"  {text}")
    _say("\nNext: ", ("grad-cam layers demo", "cyan"), ", then ", ("grad-cam explain PHOTO --model demo", "cyan"))
    if show:
        _open_viewer([path for path in paths.values() if path.suffix == ".png"])


# --------------------------------------------------------------------------------------------------------------- layers


@app.command()
@_command
def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_NAMES)],
    depth: Annotated[
        int, typer.Option("--depth", "-d", metavar="N", min=1, help="1: top-level stages; more opens them into blocks.")
    ] = 1,
    input_size: InputSize = None,
    checkpoint: Checkpoint = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained", help="Layers do not depend on it; random ones need no download.", **_FLAG
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check every cut on this model: halves, gradient, positions. Exit code 1 if not.", **_FLAG
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the layers of a model, to choose one from.

    Every line is a place where the model can be cut exactly. \
The first number is its layer_idx: how many stages are left after it.

    [bold]Examples[/]
      grad-cam layers resnet34
      grad-cam layers vit_small_patch16_224 --depth 2
      grad-cam layers torchvision/swin_t --input-size 256x320 --json
      grad-cam layers demo --verify
    """
    opened = _open(model, input_size, checkpoint, pretrained or model == "demo", depth)
    links = opened.chain
    if verify:
        _print_verification(opened, as_json)
        return
    try:
        default = links.default_split()
    except ValueError:
        default = None  # no cut carries a map
    chosen = default.name if default else None
    if as_json:
        _print_json(
            [
                {
                    "layer_idx": s.layer_idx, "name": s.name, "type": s.type, "shape": list(s.shape),
                    "layout": str(s.layout) if s.layout else None, "grid": list(s.layout.grid) if s.layout else None,
                    "note": s.note, "default": s.name == chosen,
                }
                for s in links.stages
            ]
        )  # fmt: skip
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("layer_idx", "name", "type", "output", "layout", "map", "note"):
        table.add_column(title, justify="right" if title == "layer_idx" else "left", overflow="fold")
    for s in links.stages:
        shape = " × ".join(map(str, s.shape)) or "scalar"
        grid = " × ".join(map(str, s.layout.grid)) if s.layout else "–"
        usable = s.layout is not None and not s.note
        note = "default" if s.name == chosen else s.note
        style = "bold green" if s.name == chosen else "" if usable else "dim"
        cells = (str(s.layer_idx), s.name, s.type, shape, str(s.layout or "–"), grid, note)
        table.add_row(*(Text(cell) for cell in cells), style=style)
    size = " × ".join(map(str, links.size))
    _say((f"{opened.name}", "bold"), f" ({type(links.model).__name__}), {len(links)} stages, input {size}")
    _console().print(table)
    if chosen is None:
        _say(("No layer of this model carries a map.", "yellow"))
    elif chosen not in links.names:
        _say(("default", "bold green"), f": {chosen}, inside a stage (--depth {depth + 1} opens them)")


def _print_verification(opened: _Opened, as_json: bool) -> None:
    """Prints the table of `verify`; the exit code is 1 where something does not hold."""
    from .. import verify

    with _busy(f"checking {len(opened.chain) - 1} cuts"):
        found = verify(opened.chain, opened.chain.size)
    if as_json:
        rows = [dataclasses.asdict(row) for row in found.rows]
        _print_json({"model": opened.name, "holds": bool(found), "cuts": rows, "problems": list(found.problems)})
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("layer_idx", "name", "output", "layout", "halves", "gradient", "positions", "note"):
            table.add_column(title, justify="right" if title == "layer_idx" else "left", overflow="fold")
        for row in found.rows:
            shape = " × ".join(map(str, row.shape)) or "scalar"
            index = "–" if row.layer_idx is None else str(row.layer_idx)
            cells = (index, row.name, shape, row.layout or "–", row.halves, row.gradient, row.positions, row.note)
            table.add_row(*(Text(cell) for cell in cells), style="bold red" if row.wrong else "")
        verdict = ("everything holds", "bold green") if found else ("NOT everything holds", "bold red")
        _say((opened.name, "bold"), ": ", verdict, f" at {len(found.rows)} cuts")
        _console().print(table)
        for problem in found.problems:
            _say((problem, "red"))
    if not found:
        raise typer.Exit(1)


# -------------------------------------------------------------------------------------------------------------- explain


@dataclass(frozen=True)
class _Display:
    """How a map is shown."""

    threshold: float
    smoothing: float | None
    colormap: str
    alpha: float

    @property
    def heat(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "smoothing": self.smoothing}

    @property
    def paint(self) -> dict[str, Any]:
        return {"colormap": self.colormap, "alpha": self.alpha}

    @property
    def all(self) -> dict[str, Any]:
        return {**self.heat, **self.paint}


@dataclass(frozen=True)
class _Question:
    """What is to be explained, checked against the model."""

    classes: tuple[int, ...]
    top: int | None
    why: int | None
    rather_than: int | None
    counterfactual: bool

    @classmethod
    def of(
        cls, opened: _Opened, classes: Sequence[str] | None, top: int | None, why: str | None = None,
        rather_than: str | None = None, counterfactual: bool = False,
    ) -> _Question:  # fmt: skip
        ways = [
            name
            for name, given in (("--class", classes), ("--top", top), ("--rather-than", rather_than))
            if given is not None and given != []
        ]
        if len(ways) > 1:
            raise typer.BadParameter(f"{' and '.join(ways)} ask for different things: give one of them")
        if why is not None and rather_than is None:
            raise typer.BadParameter("--why A needs --rather-than B")
        if counterfactual and rather_than is not None:
            raise typer.BadParameter("--counterfactual and --rather-than ask for different things: give one of them")
        from .. import zoo

        count = zoo.class_count(opened.chain.model)
        if top is not None and not 1 <= top <= (count or top):
            raise typer.BadParameter(
                f"--top {top}: give 1 to {count}, the number of classes" if count else f"--top {top}: give 1 or more"
            )

        def index(name: str | None) -> int | None:
            return None if name is None else zoo.class_index(opened.chain.model, name)

        chosen = tuple(dict.fromkeys(k for k in map(index, classes or ()) if k is not None))
        return cls(chosen, top, index(why), index(rather_than), counterfactual)

    def target(self, logits: torch.Tensor) -> Any:
        """The target for one image, from its logits (1, classes)."""
        from .. import targets

        if self.rather_than is not None:
            return targets.difference(self.why, self.rather_than)
        if self.top is None and not self.classes:
            return targets.negative() if self.counterfactual else None
        chosen = self.classes
        if self.top is not None:
            chosen = tuple(targets.resolve(targets.top(self.top), logits).classes[0].tolist())  # type: ignore[index]
        return [[targets.negative(k) if self.counterfactual else k for k in chosen]]


@app.command()
@_command
def explain(
    images: Images,
    model: ModelName,
    layer: LayerName = None,
    classes: Classes = None,
    method: Methods = "grad_cam",
    top: Top = None,
    why: Why = None,
    rather_than: RatherThan = None,
    counterfactual: Counterfactual = False,
    threshold: Threshold = 0.125,
    smoothing: Smoothing = None,
    colormap: Colormap = "bgr",
    alpha: Alpha = 0.6,
    input_size: InputSize = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = True,
    output: Output = OUTPUT,
    force: Force = False,
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Explain pictures: which parts speak for a class, at a layer of your choice.

    Writes one figure for every image and class (image, overlay, heatmap, colormap), named after both. \
Several methods are compared in one figure, and several classes in a further one. \
An image that fails does not stop the others.

    [bold]Examples[/]
      grad-cam explain cat.jpg --model demo
      grad-cam explain cat.jpg -m demo --class tabby --class "tiger cat"
      grad-cam explain *.jpg -m resnet50 --layer layer3 --top 3 -o pictures
      grad-cam explain cat.jpg -m demo --method grad_cam,hires_cam,eigen_cam
      grad-cam explain cat.jpg -m demo --why tabby --rather-than "tiger cat"
      grad-cam explain x.png -m my.models:build --checkpoint best.pth --json
    """
    folder = _folder(output)
    opened = _open(model, input_size, checkpoint, pretrained)
    from .. import rendering
    from ..methods import find

    chosen = list(dict.fromkeys(find(name).name for name in method.split(",") if name.strip()))
    if not chosen:
        raise typer.BadParameter("--method names no method: see grad-cam methods")
    several = [name for name in chosen if find(name).gives != "map"]
    if several and len(chosen) > 1:
        raise typer.BadParameter(f"{several[0]} makes several maps of its own and cannot be compared: give it alone")
    rendering.palette(colormap)
    if layer is not None:
        opened.chain.split(layer)
    question = _Question.of(opened, classes, top, why, rather_than, counterfactual)
    display = _Display(threshold, smoothing, colormap, alpha)
    tags = ([_slug(str(layer))] if layer is not None else []) + (
        ["methods"] if len(chosen) > 1 else chosen if chosen != ["grad_cam"] else []
    )

    quiet = len(images) > 1  # there is a bar for the images then
    job = _Job(opened, folder, layer, tuple(chosen), question, display, tuple(tags), force, quiet)

    def told(result: dict[str, Any]) -> None:
        if not as_json:
            _tell(result)

    done, failed = _for_each(images, job.explain, told)
    if as_json:
        _print_json({"model": model, "images": done, "failed": failed})
    if show:
        _open_viewer([Path(path) for result in done for path in result["files"]])
    _finish(done, failed)


@dataclass(frozen=True)
class _Job:
    """What `explain` does with every image."""

    opened: _Opened
    folder: Path
    layer: Any
    methods: tuple[str, ...]
    question: _Question
    display: _Display
    tags: tuple[str, ...]
    force: bool
    quiet: bool

    def explain(self, image: str, stem: str) -> _Result:
        """Explains one image, writes its figures, and says in plain values what came out."""
        import torch

        from .. import explain as run
        from .. import rendering, targets
        from ..images import load_image
        from ..methods import find
        from ..outputs import find_logits as logits_of

        tensor, _ = self.opened.prepare(load_image(image))
        with torch.inference_mode():
            reference = next(self.opened.chain.model.parameters(), tensor)
            logits = logits_of(self.opened.chain.model(tensor.to(reference)))
        target = self.question.target(logits)
        concepts = find(self.methods[0]).gives != "map"
        # The names are known before the maps, so that a file in the way is found before the long computation.
        words = ["concepts"] if concepts else targets.resolve(target, logits, self.opened.labels).names[0]
        names = ["-".join((stem, _slug(word), *self.tags)) for word in words]
        names = [name if names.index(name) == i else f"{name}-{i}" for i, name in enumerate(names)]
        paths = [self.folder / f"{name}.png" for name in names]
        if len(paths) > 1:
            paths.append(self.folder / f"{'-'.join((stem, 'classes', *self.tags))}.png")
        _free(paths, self.force)
        with _heard() as said:
            results = [
                run(
                    self.opened.chain,
                    tensor,
                    layer=self.layer,
                    target=target,
                    method=name,
                    **(_silent(name) if self.quiet else {}),
                )
                for name in self.methods
            ]
            figures: list[Any]
            if concepts:
                figures = [_side_by_side(results, self.opened, **self.display.all)]
            elif len(self.methods) == 1:
                figures = [results[0].figure(0, k, **self.display.all) for k in range(len(words))]
            else:
                figures = [_side_by_side(results, self.opened, [k], **self.display.all) for k in range(len(words))]
            if len(words) > 1:
                figures.append(_side_by_side(results, self.opened, **self.display.all))
            for figure, path in zip(figures, paths, strict=True):
                rendering.save(figure, path)
        explanations = [_as_json(self.opened, e, k) for e in results for k in range(len(e.target[0]))]
        return {
            "image": image,
            "predictions": _predictions(self.opened, logits[0], 5),
            "explanations": explanations,
            "warnings": said,
            "files": [str(path) for path in paths],
        }


def _side_by_side(
    results: Sequence[Explanation], opened: _Opened, which: Sequence[int] | None = None, *, threshold: float,
    smoothing: float | None = None, colormap: str = "bgr", alpha: float = 0.6,
) -> Any:  # fmt: skip
    """One figure with all maps of one picture: a row for every class if there are several methods."""
    from .. import rendering
    from ..methods import METHODS

    first = results[0]
    chosen = range(len(first.target[0])) if which is None else which
    pairs = [(e, k) for k in chosen for e in results]
    size = (int(first.images.shape[-2]), int(first.images.shape[-1]))
    sigma = rendering.default_smoothing(size) if smoothing is None else smoothing
    heats = [rendering.heatmap(_map(e, k), size, threshold, sigma) for e, k in pairs]
    ways = [METHODS[e.method].title if e.method in METHODS else e.method for e, _ in pairs]
    words = [f"{e.target[0][k]}{_chance(e, k)}" for e, k in pairs]
    if len(results) == 1:
        title, captions = ways[0], words
    elif len(chosen) == 1:
        title, captions = words[0], ways
    else:
        title, captions = f"{len(results)} methods", [f"{way}\n{word}" for way, word in zip(ways, words, strict=True)]
    return rendering.comparison(
        first.pictures[0], heats, captions, title=f"{title}\n{opened.name} at {first.layer}",
        notes=[e.note(0, k) for e, k in pairs],
        colormap=colormap, alpha=alpha,
    )  # fmt: skip


def _map(e: Explanation, k: int) -> torch.Tensor:
    """The raw map (h, w) of target k of the only image."""
    return (e.map[0, k] if e.map.ndim == 4 else e.map[0]).float().cpu()


def _chance(e: Explanation, k: int) -> str:
    if e.classes is None:
        return ""
    chances = _probabilities(e.logits[0])
    return f", {_percent(chances[int(e.classes[0, k])])}" if len(chances) > 1 else ""


def _as_json(opened: _Opened, e: Explanation, k: int) -> dict[str, Any]:
    index = None if e.classes is None else int(e.classes[0, k])
    return {
        "target": e.target[0][k],
        "class": None if index is None else opened.label(index),
        "index": index,
        "method": e.method,
        "layer": e.layer.name,
        "layer_idx": e.layer.layer_idx,
        "note": e.note(0, k),
        "map": _rounded(_map(e, k).tolist()),
    }


def _tell(result: dict[str, Any]) -> None:
    """Prints what came out for one image."""
    _say((Path(result["image"]).name, "bold"), f"  {_guesses(result['predictions'][:SHOWN])}")
    first = result["explanations"][0]
    where = first["layer"] if first["layer_idx"] is None else f"{first['layer']} (layer_idx {first['layer_idx']})"
    grid = f"{len(first['map'])} × {len(first['map'][0])}"
    methods = ", ".join(dict.fromkeys(e["method"] for e in result["explanations"]))
    _say((f"  {methods} at {where}, map {grid}", "dim"))
    for path in result["files"]:
        _say("  ", (path, "green"))
    for warning in result["warnings"]:
        _say((f"  Note: {warning}", "yellow"), err=True)


# -------------------------------------------------------------------------------------------------------------- methods


@app.command()
@_command
def methods(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of the README.", **_FLAG)] = False,
) -> None:
    """List the methods, with what each is good for.

    [bold]Example[/]
      grad-cam methods
    """
    with _busy("loading"):
        from .. import METHODS
    if as_json:
        _print_json(
            [
                {
                    "name": m.name, "title": m.title, "kind": m.kind, "class_specific": m.class_specific,
                    "advice": m.advice, "source": m.source, "link": m.link,
                }
                for m in METHODS.values()
            ]
        )  # fmt: skip
        return
    if markdown:
        sys.stdout.write(methods_table())
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("name", no_wrap=True)
    for title in ("kind", "advice", "source"):
        table.add_column(title)
    kind = ""
    for m in METHODS.values():
        if kind and m.kind != kind:
            table.add_row()
        table.add_row(Text(m.name, "cyan"), "" if m.kind == kind else m.kind, Text(m.advice), Text(m.source, "dim"))
        kind = m.kind
    _console().print(table)


def methods_table() -> str:
    """The table of methods in Markdown, as the README shows it."""
    from .. import METHODS

    rows = ["| `method=` | | kind | when |", "|---|---|---|---|"]
    for m in METHODS.values():
        source = f"[{m.source}]({m.link})" if m.link else m.source
        rows.append(f"| `{m.name}` | {m.title}, {source} | {m.kind} | {m.advice} |")
    return "\n".join(rows) + "\n"


# ---------------------------------------------------------------------------------------------------------------- sweep


def _depth(depth: str) -> str:
    if depth not in ("auto", "stages", "blocks"):
        raise typer.BadParameter(f"--depth {depth}: give auto, stages or blocks")
    return depth


@app.command()
@_command
def sweep(
    image: OneImage,
    model: ModelName,
    depth: Depth = "auto",
    classes: Classes = None,
    top: Top = None,
    method: OneMethod = "grad_cam",
    threshold: Threshold = 0.125,
    smoothing: Smoothing = None,
    colormap: Colormap = "bgr",
    alpha: Alpha = 0.6,
    input_size: InputSize = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = True,
    output: Output = OUTPUT,
    force: Force = False,
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Go through a model layer by layer: one figure, an animation, and an overlay for every layer.

    The pictures are put into a folder named after the image. \
Curves under the figure say how focused each map is and how far it agrees with the last one.

    [bold]Examples[/]
      grad-cam sweep cat.jpg --model demo
      grad-cam sweep cat.jpg --model vit_small_patch16_224 --depth blocks --top 3
    """
    _depth(depth)
    folder = _folder(output) / f"{_stems([image])[0]}-sweep"
    opened = _open(model, input_size, checkpoint, pretrained)
    from .. import rendering, targets
    from .. import sweep as run
    from ..images import load_image
    from ..methods import find

    name = find(method).name
    rendering.palette(colormap)
    question = _Question.of(opened, classes, top)
    target = targets.top(question.top) if question.top else [list(question.classes)] if question.classes else None
    tensor, _ = opened.prepare(load_image(image))
    with _busy(f"going through {len(opened.chain)} stages"):
        found = run(opened.chain, tensor, layers=depth, target=target, method=name, **_silent(name))
    words = found[0].target[0]
    movies = [folder / (f"sweep-{k}.gif" if len(words) > 1 else "sweep.gif") for k in range(len(words))]
    _free(movies, force)
    display = _Display(threshold, smoothing, colormap, alpha).all
    with _busy("drawing"):
        files = found.save(folder, force=force, **display)
        for k, path in enumerate(movies):
            found.animate(path, 0, k, force=True, **display)
    if as_json:
        _print_json(
            {
                "model": model,
                "image": image,
                "predictions": _predictions(opened, found[0].logits[0], 5),
                "sweeps": [{"target": word, **_curves(found, k)} for k, word in enumerate(words)],
                "skipped": [{"layer": at.name, "layer_idx": at.layer_idx, "why": why} for at, why in found.skipped],
                "files": [str(path) for path in (*files, *movies)],
            }
        )
    else:
        _say((Path(image).name, "bold"), f"  {_guesses(_predictions(opened, found[0].logits[0], SHOWN))}")
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="bold")
        for title in ("layer_idx", "name", "map", "focus", "agreement"):
            table.add_column(title, justify="left" if title == "name" else "right")
        curves = list(found.curves().values())
        for i, e in enumerate(found):
            idx = "–" if e.layer.layer_idx is None else str(e.layer.layer_idx)
            values = (f"{curve[i]:.2f}" for curve in curves)
            table.add_row(idx, Text(e.layer.name), f"{e.map.shape[-2]} × {e.map.shape[-1]}", *values)
        _console().print(table)
        for at, why in found.skipped:
            _say((f"  no map at {at.name}: {why}", "dim"))
        for path in (*(f for f in files if f.stem.startswith("sweep")), *movies):
            _say("  ", (str(path), "green"))
        _say("  ", (f"{folder}{os.sep}00-…", "green"), f"  {len(files) - len(words)} overlays")
    if show:
        _open_viewer([*(f for f in files if f.stem.startswith("sweep")), *movies])


def _curves(found: Any, k: int) -> dict[str, Any]:
    """What a sweep says of one target, layer by layer."""
    focus, agreement = found.curves(0, k).values()
    return {
        "layers": [
            {
                "layer": e.layer.name, "layer_idx": e.layer.layer_idx, "grid": list(e.map.shape[-2:]),
                "focus": _rounded(float(focus[i])), "agreement": _rounded(float(agreement[i])), "note": e.note(0, k),
            }
            for i, e in enumerate(found)
        ]
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------- report and web page


@app.command()
@_command
def report(
    images: Images,
    model: ModelName,
    depth: Depth = "auto",
    classes: Classes = None,
    top: Top = None,
    method: OneMethod = "grad_cam",
    threshold: Threshold = 0.125,
    smoothing: Smoothing = None,
    colormap: Colormap = "bgr",
    alpha: Alpha = 0.6,
    input_size: InputSize = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = True,
    output: OutputFile = Path("report.html"),
    force: Force = False,
    show: Show = False,
) -> None:
    """Write one HTML page with every layer, class and image, to look through in a browser.

    The page holds everything it shows and needs no network. \
It explains the three likeliest classes of every image unless --class or --top says otherwise.

    [bold]Example[/]
      grad-cam report cat.jpg dog.jpg --model demo -o report.html
    """
    _depth(depth)
    if output.is_dir():
        raise IsADirectoryError(f"{str(output)!r} is a folder: give the name of a file, such as report.html")
    _folder(output.parent)
    _free([output], force)
    opened = _open(model, input_size, checkpoint, pretrained)
    from .. import rendering, targets, zoo
    from .. import sweep as run
    from ..images import load_image
    from ..methods import find
    from .report import report_of, write_report

    name = find(method).name
    rendering.palette(colormap)
    question = _Question.of(opened, classes, top)
    count = question.top or min(SHOWN, zoo.class_count(opened.chain.model) or SHOWN)
    target = [list(question.classes)] if question.classes else targets.top(count)

    def work(image: str, stem: str) -> _Result:
        tensor, _ = opened.prepare(load_image(image))
        found = run(opened.chain, tensor, layers=depth, target=target, method=name, **_silent(name))
        return {"image": image, "sweep": found}

    done, failed = _for_each(images, work, lambda _: None)
    if done:
        page = report_of(
            *(each["sweep"] for each in done), names=[Path(each["image"]).name for each in done], model=model,
            call=_own_call(), threshold=threshold, smoothing=smoothing, alpha=alpha, colormap=colormap,
        )  # fmt: skip
        write_report(page, output, force)
        _say((str(output), "green"), f"  {len(done)} image{'s' * (len(done) > 1)}, {len(page.layers)} layers")
        if show:
            _open_viewer([output])
    _finish(done, failed)


def _own_call() -> str:
    """The command that was typed, as the shell would take it again."""
    import shlex

    return shlex.join(["grad-cam", *sys.argv[1:]])


@app.command("app")
@_command
def web_page(
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="The model the page opens with.")
    ] = "demo",
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="Port on this machine; default: a free one.")
    ] = None,
) -> None:
    """Open a web page on this machine to explore models and pictures (needs the extra [cyan]app[/]).

    [bold]Example[/]
      grad-cam app --model resnet50 --port 7870
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ImportError("the web page needs gradio: pip install 'gradcam-layers[app]'")
    from .app import launch

    launch(model=model, port=port).leave()
