"""One model for one batch of images: a fresh eval copy, and the record that is found for it or made."""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..arguments import check_model
from ..errors import SplitError
from ..inputs import Asked, key_of
from . import fingerprint, renewal
from .evalcopy import EvalCopy
from .intercept import Plain, first_not_finite
from .log import Recording
from .recorder import WritesParameters, record
from .records import KINDS, KNOWN, LOCK, RECORDS, Record, Records

_T = TypeVar("_T")


class Session:
    """One model, as it is now, for one batch of images: its eval copies, its record, and the values recorded last.

    Args:
        model: The model, unwrapped.
        images: (B, C, H, W) on the model's device, detached.
        output: Which part of what the model returns are the logits, and how it is called.
        depth: Depth of the chain in which `layer_idx` counts.
    """

    def __init__(self, model: nn.Module, images: Tensor, output: Asked = None, depth: int = 1) -> None:
        self.model = model
        self.images = images
        self.output = output
        self.depth = depth
        self.recording: Recording | None = None
        with LOCK:
            self._known = KNOWN.setdefault(model, Records())
        self._asked: Any = key_of(output)
        self._lent = False  # whether modules of the copy are in use elsewhere
        self._fresh: EvalCopy | None = self.new_copy()
        self.copy: EvalCopy = self._fresh
        self._reference: tuple[Tensor, Tensor] | None = None
        self.is_new: bool = False  # whether the record was made for this cutter
        self.record: Record = self._find()

    def _find(self) -> Record:
        key = (
            tuple(self.images.shape[1:]), self.images.dtype, self.images.device, self.images.is_contiguous(),
            torch.is_autocast_enabled(self.images.device.type), self._asked,
        )  # fmt: skip
        mark = self.copy.mark = fingerprint.of(self.copy)
        with LOCK:
            known = self._known
            if known.fingerprint != mark:
                known.fingerprint, known.records = mark, OrderedDict()
            found = known.records.get(key)
            if found is not None:
                known.records.move_to_end(key)
                return found
        made = self._record()
        self.is_new = True
        with LOCK:
            if known.fingerprint == mark:
                known.records[key] = made
                while len(known.records) > RECORDS:
                    known.records.popitem(last=False)
        return made

    def _record(self) -> Record:
        check_model(self.model)
        known = self._known
        known.quiet, self._fresh = frozenset(), None if self._fresh is None or self._fresh.quiet else self._fresh
        self.recording = self.recorded(self.images)
        known.steady = not self.recording.log.reads_values
        return Record(self.recording, self.copy, self.images)

    def renewing(self, run: Callable[[], _T]) -> _T:
        """Runs something that rests on the record, once more on a new record if it fails on an old one."""
        try:
            return run()
        except SplitError:
            if self.is_new:
                raise
            self._again()
            return run()

    def record_this_size(self) -> None:
        """Records the images at hand, where the record was made of another number of them."""
        if len(self.images) != self.record.plan.log.batch:
            self.recording = None  # its memory is free before the next one is made
            self.record = self._record()

    def _again(self) -> None:
        """Records anew: the forward went another way than the record says."""
        self.record, self.is_new, self._reference = self._record(), True, None
        with LOCK:
            self._known.records = OrderedDict()

    def new_copy(self, images: Tensor | None = None) -> EvalCopy:
        """A copy of the model as it is now, to be run on images, those at hand or others."""
        known, quiet = self._known, self._kind(self.images if images is None else images) in self._known.quiet
        with contextlib.suppress(IndexError):  # none to spare
            copy = known.spare.pop()
            if renewal.renew(copy, self.model, known.apart, quiet):
                return copy
        return EvalCopy(self.model, known.apart, quiet)

    def _kind(self, images: Tensor) -> Any:
        """What a forward that reads no value of a tensor hangs on."""
        return images.shape, self._asked

    def __del__(self) -> None:
        """Keeps the copy for a later call, unless a run leaves things behind on it or parts of it live on."""
        copy = self.__dict__.get("copy")  # None: it could not be made
        if copy is None or copy.mark is None or self._lent or sys.is_finalizing():
            return
        known = self._known
        if known.steady and not copy.quiet and copy.run_on is not None and not copy.wrote_buffers():
            known.quiet = frozenset([*known.quiet][-KINDS:] + [copy.run_on])
        if copy.pattern is not None or renewal.is_clean(copy, self.model):
            renewal.empty(copy)
            known.spare.append(copy)

    def recorded(self, images: Tensor) -> Recording:
        """Records the model on images, on a copy that has not been run."""
        try:
            return record(self._take_copy(images), images, self.output)
        except WritesParameters:
            self._known.apart, self._fresh = True, None
            return record(self._take_copy(images), images, self.output)

    def _take_copy(self, images: Tensor) -> EvalCopy:
        """A copy that has not been run yet, to be run on images."""
        fits = self._fresh is not None and images.shape == self.images.shape
        copy, self._fresh = (self._fresh if fits else None) or self.new_copy(images), None
        copy.run_on = self._kind(images)
        copy.mark = copy.mark or self.copy.mark
        self.copy = copy
        return copy

    def values(self) -> Recording:
        """The recording of the images at hand."""
        if self.recording is None:
            self.recording = self.recorded(self.images)
            if len(self.recording.log.events) != len(self.record.plan.log.events):
                self.record = Record(self.recording, self.copy, self.images)
        return self.recording

    def forget(self) -> None:
        """Drops the values of the recording."""
        self.recording = None

    def mode(self) -> Any:
        """The function mode that a run of the copy needs to go the recorded way, if any."""
        wanted = self.record.mode and not torch._C._is_torch_function_mode_enabled()
        return Plain() if wanted else contextlib.nullcontext()

    def require_finite(self, values: Tensor, what: str) -> None:
        """Raises ValueError that says where NaN or infinite values come from."""
        if bool(torch.isfinite(values.sum(dtype=torch.float32))) or bool(torch.isfinite(values).all()):
            return  # a finite sum says that all are; a sum may overflow although every value is finite
        if not bool(torch.isfinite(self.images).all()):
            raise ValueError("the images hold NaN or infinite values; check their preprocessing")
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{what} hold NaN or infinite values: the weights '{name}' already do; reload the checkpoint"
                )
        where = first_not_finite(self.new_copy(), self.images, self.record.mode, self.output)
        said = f": they appear first after {where}; try float32, or check the input's range" if where else ""
        raise ValueError(f"{what} hold NaN or infinite values{said}")
