"""Runs a command over several photos: a photo that fails is reported at the end and does not stop the others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from ...errors import GradCamError
from ..common import Opened, one_line, unique_slugs
from .console import Bars, bars, print_error, print_notes, say
from .edge import FAILED, SOME_FAILED, debugging
from .parsing import find_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from ...loading import Geometry, WholePhoto


class Photo(NamedTuple):
    """A photo on its way into the model.

    Attributes:
        path: The name given.
        stem: What its output files begin with.
        tensor: What the model takes, (1, C, H, W).
        whole: How much of it the model sees.
        geometry: Where that part lies in the file.
        notes: What is unusual about how the file was read.
    """

    path: str
    stem: str
    tensor: Tensor
    whole: WholePhoto
    geometry: Geometry
    notes: tuple[str, ...]


@dataclass
class Photos:
    """The photos of a command.

    Attributes:
        paths: The files to explain.
        failed: Those that failed, with the reason.
        done: The results of the others.
    """

    paths: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    done: list[Any] = field(default_factory=list)

    @classmethod
    def find(cls, given: Sequence[str], recursive: bool = False) -> Photos:
        """The photos that names of files and folders mean; ends the command if there is none."""
        return cls._of(*find_pictures(given, recursive))

    @classmethod
    def named(cls, given: Sequence[str]) -> Photos:
        """Videos and volumes by name, where a folder is one of them; ends the command if there is none."""
        paths = [name for name in dict.fromkeys(given) if Path(name).exists()]
        return cls._of(paths, [name for name in given if name not in paths])

    @classmethod
    def _of(cls, paths: list[str], missing: Sequence[str]) -> Photos:
        found = cls(paths, {name: f"there is no file {name!r}" for name in missing})
        if not paths:
            found.finish()
        return found

    def go(
        self, opened: Opened, work: Callable[[list[Photo], Bars], list[Any]], show: Callable[[Any], None] | None = None,
        batch: int = 1, read: Callable[[Opened, str, str], list[Photo]] | None = None,
    ) -> None:  # fmt: skip
        """Runs the work on the photos, some at a time.

        Args:
            opened: The model they are prepared for.
            work: From photos to one result each; photos that fail together are tried one by one.
            show: Called with every result.
            batch: Number of photos at a time.
            read: From the model, a path and the stem of output files to what is explained; by default a photo.
        """
        stems = unique_slugs([Path(path).stem for path in self.paths])
        with bars(len(self.paths)) as shown:
            for start in range(0, len(self.paths), batch):
                paths = self.paths[start : start + batch]
                shown.photo(Path(paths[0]).name)
                ready = [
                    photo
                    for path, stem in zip(paths, stems[start:], strict=False)
                    for photo in self._tried(path, functools.partial(read or _read, opened, path, stem))
                ]
                results = self._together(ready, lambda some: work(some, shown))
                self.done += results
                if show is not None:
                    for result in results:
                        show(result)
                else:
                    print_notes([note for photo in ready for note in photo.notes])
                shown.advance(len(paths))

    def _together(self, photos: list[Photo], work: Callable[[list[Photo]], list[Any]]) -> list[Any]:
        if len(photos) > 1:
            try:
                return work(photos)
            except FileExistsError:  # some of their pictures would be overwritten: the others are made
                pass
            except Exception:
                if debugging():
                    raise
        return [result for photo in photos for result in self._tried(photo.path, functools.partial(work, [photo]))]

    def _tried(self, path: str, work: Callable[[], list[Any]]) -> list[Any]:
        from ...loading import ImageError

        try:
            return work()
        except Exception as error:
            about_the_options = isinstance(error, (GradCamError, TypeError)) and not isinstance(error, ImageError)
            if debugging() or (about_the_options and not self.done):
                raise  # it would be the same for every photo
            self.failed[path] = one_line(error)
            return []

    def finish(self) -> None:
        """Reports the photos that failed, and exits with the code for them if there are any."""
        for path, message in self.failed.items():
            print_error(message if path in message else f"{path}: {message}")
        if self.failed and self.done:
            total = len(self.done) + len(self.failed)
            say((f"{len(self.failed)} of {total} images failed; the others are done.", "red"), err=True)
        if self.failed:
            raise typer.Exit(SOME_FAILED if self.done else FAILED)


def _read(opened: Opened, path: str, stem: str) -> list[Photo]:
    from ...loading import read_image

    image, notes = read_image(path)
    prepare = opened.prepare
    where = prepare.geometry(image, Path(path).name)
    return [Photo(path, stem, prepare(image)[0], prepare.whole(image), where, notes)]
