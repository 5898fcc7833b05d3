"""`grad-cam explain`: figures of photos, at layers and with methods of the caller's choice."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import typer

from ..common import MethodFacts, Opened, refuse_existing, slug, unique_slugs
from .clips import ClipOptions, is_clip, require_pictures, takes_clips, write_strips
from .console import Bars, collected_warnings, print_json, print_notes, say
from .edge import command
from .options import (
    DRAWINGS,
    FLAG,
    MODEL,
    OUT,
    WHAT,
    Force,
    Images,
    Json,
    LookOptions,
    MethodOptions,
    ModelOptions,
    Recursive,
    Show,
    method_option,
    option,
)  # fmt: skip
from .parsing import check_folder, one_of, open_viewer
from .photos import Photo, Photos
from .regions import RegionOptions, box_of
from .results import described, finite, guesses, print_predictions, rounded, side_by_side

if TYPE_CHECKING:
    from ... import Explanation
    from ...evidencing import Evidence
    from ...methods import Method
    from ...rendering import Display


@dataclass(frozen=True)
class ExplainOptions(MethodOptions):
    """How the map is made, at which layers, and what it is compared with."""

    several: ClassVar[bool] = True

    method: Annotated[
        str,
        method_option(
            "METHOD[,...]",
            "See [cyan]grad-cam methods[/]; several are compared. Or module:function, a function of yours. Default: "
            "auto, what measures best; with a layer or --eigen-smooth grad_cam.",
        ),
    ] = ""
    layer: Annotated[
        list[str] | None,
        option("--layer", "-l", panel=WHAT, metavar="LAYER",
               help="Module path or layer_idx, repeat for several; default: what auto takes, or the last layer with a "
               "map."),
    ] = None  # fmt: skip
    fuse: Annotated[
        str | None,
        option("--fuse", panel=WHAT, metavar="mean|max|product", parser=one_of("mean", "max", "product"),
               help="Join the maps of several layers into one."),
    ] = None  # fmt: skip
    control: Annotated[
        bool,
        option("--control", panel=WHAT, help="Put a random map beside it: a map that looks like it explains nothing.",
               **FLAG),
    ] = False  # fmt: skip
    evidence: Annotated[
        bool,
        option("--evidence", panel=WHAT,
               help="Ask the model whether the score depends on what the map marks: one sentence, 40 forward passes.",
               **FLAG),
    ] = False  # fmt: skip

    @property
    def names(self) -> list[str]:
        """The methods named, or the one that is taken where none is."""
        return super().names if self.method else ["grad_cam" if self.layer or self.eigen_smooth else "auto"]

    def check(self) -> None:
        """Refuses what contradicts itself."""
        super().check()
        if self.fuse is not None and len(self.layers) < 2:
            raise typer.BadParameter(f"--fuse {self.fuse} joins several layers: give --layer at least twice")

    @property
    def layers(self) -> list[int | str]:
        """The layers as `grad_cam.explain` takes them."""
        texts = [text.strip() for text in self.layer or ()]
        return [int(text) if text.lstrip("+-").isdigit() else text for text in dict.fromkeys(texts)]

    def check_fit(self, methods: Sequence[MethodFacts | Method]) -> None:
        """Refuses methods that do not fit together: several give one map each, a layer is read by one at least."""
        super().check_fit(methods)
        entries = list({entry.name: entry for entry in methods}.values())
        alone = [entry.name for entry in entries if entry.gives != "map"]
        if alone and (len(entries) > 1 or self.control):
            raise typer.BadParameter(f"{alone[0]} makes several maps of its own and cannot be compared: give it alone")
        if alone and self.evidence:
            raise typer.BadParameter(f"--evidence: {alone[0]} makes concepts, which explain no score; leave it out")
        if self.layer and not any(entry.scope == "layer" for entry in entries):
            reads = "the whole network" if entries[0].scope == "network" else "the photo alone"
            raise typer.BadParameter(f"--layer: {entries[0].name} reads {reads} and has no layer; leave it out")


@command("explain")
def explain(
    images: Images,
    target: RegionOptions,
    how: ExplainOptions,
    look: LookOptions,
    model: ModelOptions,
    clips: ClipOptions,
    output: Annotated[
        Path,
        option("--output", "-o", panel=OUT, metavar="DIR|FILE",
               help="Folder for the pictures; for one photo also the file to write."),
    ] = Path("grad-cam-output"),
    recursive: Recursive = False,
    batch_size: Annotated[
        int, option("--batch-size", panel=MODEL, metavar="N", min=1, help="Photos explained at the same time.")
    ] = 1,
    save_raw: Annotated[
        bool,
        option("--save-raw", panel=OUT, help="Write every map as numbers, too: NAME.npy, described by NAME.json.",
               **FLAG),
    ] = False,
    original: Annotated[
        str | None,
        option("--original", panel=OUT, metavar="png|json|npy|nii.gz",
               parser=one_of("png", "json", "npy", "nii.gz"),
               help="Write every map back over the whole photo, too: mask, COCO JSON, numbers, or NIfTI of volumes."),
    ] = None,
    force: Force = False,
    show: Show = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Explain photos: which parts speak for a class, at a layer of your choice.

    Writes one figure for every photo and class, named after photo, class, layer and method. \
Several methods or layers are compared in one figure, several classes in a further one. \
With a model of videos or volumes, photos are videos, folders of frames, TIFF, NIfTI or DICOM, and figures are strips \
and animations. \
A photo that fails does not stop the others.

    [bold]Examples[/]
      grad-cam explain cat.jpg
      grad-cam explain cat.jpg --class tabby --class "tiger cat" -o cat.png
      grad-cam explain photos/ -m resnet50 --layer layer3 --top 3
      grad-cam explain cat.jpg --method grad_cam,hires_cam,eigen_cam
      grad-cam explain cat.jpg -x layer_cam -l blocks.1 -l blocks.6 --fuse max
      grad-cam explain a.jpg -m torchvision/fasterrcnn_resnet50_fpn --boxes top:5
      grad-cam explain a.jpg -m torchvision/fcn_resnet50 --point 420,310
      grad-cam explain clip.mp4 -m torchvision/r3d_18
      grad-cam explain cat.jpg --why tabby --rather-than "tiger cat"
      grad-cam explain x.png -m my:net --checkpoint w.pth --classes names.txt
    """
    # Longer than other functions, because its options stand in its signature, each on lines of its own.
    target.check()
    how.check()
    model.check()
    named = any(map(is_clip, images))
    photos = Photos.named(images) if named else Photos.find(images, recursive)
    single = output.suffix.lower() in DRAWINGS and not output.is_dir()
    if single:
        refuse_existing([output], force)
    if single and not any(Path(name).is_dir() for name in images):  # a folder may be one video
        _require_one(output, photos)
    folder = check_folder(output.parent if single else output)
    opened = model.open(how.found)
    methods, display = how.found(), look.display
    moving = takes_clips(opened)
    if moving and not named:
        photos = Photos.named(images)
    elif not moving:
        require_pictures(opened, images)
    if single:
        _require_one(output, photos)
    job = _Job(
        opened, methods, how, target.of_photos(opened), display, folder, output if single else None, save_raw,
        original, force, moving,
    )  # fmt: skip
    read = functools.partial(clips.read, model.input_size) if moving else None
    photos.go(opened, job.explain, None if as_json else _print_result, batch_size, read)
    if as_json:
        failed = [{"image": path, "error": message} for path, message in photos.failed.items()]
        print_json({"model": model.model, "images": photos.done, "failed": failed})
    if show:
        open_viewer([Path(path) for result in photos.done for path in result["files"] if not path.endswith(".npy")])
    photos.finish()


def _require_one(output: Path, photos: Photos) -> None:
    """Raises BadParameter where several photos are to become one file."""
    if len(photos.paths) > 1:
        raise typer.BadParameter(f"-o {output} is one file for {len(photos.paths)} photos: give a folder")


_Judged: TypeAlias = "dict[tuple[int, int, int], Evidence]"


@dataclass(frozen=True)
class _Job:
    """What `explain` does with a batch of photos."""

    opened: Opened
    methods: list[Method]
    how: ExplainOptions
    target: Callable[[Sequence[Photo]], Any]
    display: Display
    folder: Path
    file: Path | None
    save_raw: bool
    original: str | None
    force: bool
    moving: bool

    def explain(self, photos: list[Photo], bars: Bars) -> list[dict[str, Any]]:
        """Explains photos and writes their pictures; files in the way are found before maps that take long."""
        from ... import METHODS
        from ...evidencing import evidence_of_all

        target, first = self.target(photos), self.methods[0]
        control = METHODS["random_cam"]
        quick = self.moving or first.quick and self.how.arguments.get("cost") != "unlimited"
        with collected_warnings() as warnings:
            found = self._maps(first, photos, target, bars) if quick else self._maps(control, photos, target)
            self._refuse_existing(photos, found)
            results = found if quick else self._maps(first, photos, target, bars)
            for method in self.methods[1:]:
                results = results + self._maps(method, photos, target, bars)
            if self.how.control:
                results = results + self._maps(control, photos, target)
            judged = evidence_of_all(self.opened.model, results, explained=target) if self.how.evidence else {}
            files = [self._write(photo, results, b, judged) for b, photo in enumerate(photos)]
        return [self._result(photo, results, b, files[b], warnings, judged) for b, photo in enumerate(photos)]

    def _maps(
        self, method: Method, photos: Sequence[Photo], target: Any, bars: Bars | None = None
    ) -> list[Explanation]:  # fmt: skip
        """The explanations by a method: one, or one for every layer; without bars, those of the control."""
        import torch

        from ... import explain as run

        images = torch.cat([photo.tensor for photo in photos])
        where: dict[str, Any] = {"geometry": [photo.geometry for photo in photos]}
        if method.scope == "layer" and self.how.layers:
            where |= {"layer": self.how.layers, "fuse": self.how.fuse}
        if bars is None:
            found: Any = run(self.opened.model, images, target=target, method=method, **where)
        else:
            with bars.steps(method.title) as step:
                found = run(
                    self.opened.model, images, target=target, method=method, progress=step, **where,
                    **self.how.arguments,
                )  # fmt: skip
        return found if isinstance(found, list) else [found]

    # -- files

    def _names(self, stem: str, found: Sequence[Explanation], b: int) -> list[str]:
        """What the pictures of a photo are called, without suffix: one for each class, and one for all together."""
        concepts = self.methods[0].gives != "map"
        words = ["concepts"] if concepts else unique_slugs(found[0].target[b])
        words += ["classes"] * (len(words) > 1)
        what = self.methods[0].name if len(self.methods) == 1 and not self.how.control else "methods"
        return [f"{stem}-{word}-{self._where(found)}-{what}" for word in words]

    def _where(self, found: Sequence[Explanation]) -> str:
        scopes = {method.scope for method in self.methods}
        if "layer" not in scopes:
            return "whole-network" if "network" in scopes else "input"
        names = {e.layer.name for e in found}
        return slug(names.pop()) if len(names) == 1 else "layers"

    def _pictures(self, stem: str, found: Sequence[Explanation], b: int) -> list[Path]:
        if self.file is not None:
            return [self.file]
        return [self.folder / f"{name}.png" for name in self._names(stem, found, b)]

    def _refuse_existing(self, photos: Sequence[Photo], found: Sequence[Explanation]) -> None:
        if self.moving:  # their files are refused where they are written
            return
        paths = [path for b, photo in enumerate(photos) for path in self._pictures(photo.stem, found, b)]
        raw = [path.with_suffix(".npy") for path in paths] if self.save_raw else []
        whole = [
            self._beside(photo, e, word, f"-original.{self.original}")
            for b, photo in enumerate(photos) for e in found for word in unique_slugs(e.target[b]) if self.original
        ]  # fmt: skip
        refuse_existing([*paths, *raw, *whole], self.force)

    def _write(self, photo: Photo, results: Sequence[Explanation], b: int, judged: _Judged) -> list[str]:
        from ... import rendering

        if self.moving:
            strips = write_strips(photo.stem, results, self.folder, self.file, self.display, self.force)
            return strips + self._write_numbers(photo, results, b)
        paths = self._pictures(photo.stem, results, b)
        together = range(len(results[0].target[b]))
        for k, path in enumerate(paths):
            one = k < len(paths) - 1 or len(together) == 1
            if one and len(results) == 1:
                remark = str(judged.get((0, b, k), ""))
                figure = results[0].figure(b, k, remark=remark, photo=photo.whole, display=self.display)
            else:
                shown = [k] if one else together
                figure = side_by_side(results, self.opened.name, self.display, b, shown, photo.whole)
            rendering.save(figure, path, force=self.force)
        return [str(path) for path in paths] + self._write_numbers(photo, results, b)

    def _write_numbers(self, photo: Photo, results: Sequence[Explanation], b: int) -> list[str]:
        """Writes the numbers that options request besides pictures."""
        raw = self._write_raw(photo, results, b) if self.save_raw else []
        return raw + (self._write_original(photo, results, b) if self.original else [])

    def _beside(self, photo: Photo, e: Explanation, word: str, end: str) -> Path:
        """A file of one map, named after photo, class, layer and method."""
        stem = self.file.stem if self.file is not None else photo.stem
        return self.folder / f"{stem}-{word}-{slug(e.layer.name)}-{slug(e.method)}{end}"

    def _write_original(self, photo: Photo, results: Sequence[Explanation], b: int) -> list[str]:
        """Writes the maps of a photo in the coordinates of the whole photo."""
        return [
            str(e.to_original(b, k).save(self._beside(photo, e, word, f"-original.{self.original}"), force=self.force))
            for e in results for k, word in enumerate(unique_slugs(e.target[b]))
        ]  # fmt: skip

    def _write_raw(self, photo: Photo, results: Sequence[Explanation], b: int) -> list[str]:
        """Writes the maps of a photo as numbers, each with a description beside it."""
        from ...rendering import files

        written = []
        for e in results:
            for k, word in enumerate(unique_slugs(e.target[b])):
                path = self._beside(photo, e, word, ".npy")
                about = {"image": photo.path, "model": self.opened.name, **described(e, self.opened, b, k)}
                refuse_existing([path, path.with_suffix(".json")], self.force)
                files.write(path, files.npy_bytes(e.raw(b, k).numpy()), force=self.force)
                files.write(
                    path.with_suffix(".json"), json.dumps(about, ensure_ascii=False, indent=1), force=self.force
                )
                written.append(str(path))
        return written

    def _result(
        self, photo: Photo, results: Sequence[Explanation], b: int, files: list[str], warnings: list[str],
        judged: _Judged,
    ) -> dict[str, Any]:  # fmt: skip
        explanations = []
        for n, e in enumerate(results):
            for k in range(len(e.target[b])):
                found = judged.get((n, b, k))
                figures: dict[str, Any] = {} if found is None else {"evidence": finite(found.as_dict())}
                box = box_of(e.mark(b, k), photo)
                figures |= {"box": box} if box else {}
                values = rounded(e.raw(b, k).tolist())
                explanations.append({**described(e, self.opened, b, k), **figures, "map": values})
        return {
            "image": photo.path,
            "note": photo.whole.note,
            "predictions": guesses(results[0], self.opened, b),
            "explanations": explanations,
            "warnings": [*photo.notes, *warnings],
            "files": files,
        }


def _size(values: Any) -> str:
    """The size of a map as nested lists, such as 7 × 7."""
    return f"{len(values)} × {_size(values[0])}" if isinstance(values[0], list) else str(len(values))


def _print_result(result: dict[str, Any]) -> None:
    """Prints what came out for one photo."""
    print_predictions(result["image"], result["predictions"])
    if result["note"]:
        say((f"  {result['note']}", "dim"))
    for method in dict.fromkeys(e["method"] for e in result["explanations"]):
        for e in {e["layer"]: e for e in result["explanations"] if e["method"] == method}.values():
            where = e["layer"] if e["layer_idx"] is None else f"{e['layer']} (layer_idx {e['layer_idx']})"
            say((f"  {method} at {where}, map {_size(e['map'])}", "dim"))
    for e in result["explanations"]:
        if "evidence" in e:
            say(f"  {e['target']}, {e['method']} at {e['layer']}: {e['evidence']['sentence']}")
    for path in result["files"]:
        say("  ", (path, "green"))
    print_notes(result["warnings"])
