"""Running a model from a cut on: the activation there as a leaf, and the logits that follow from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from ..batchnorm import correct_gradients
from ..errors import GradCamError, LayerError, SplitError, message_of
from ..inputs import at, logits_of
from ..outputs import rows
from . import intercept as intercept_
from .evalcopy import EvalCopy
from .halves import Halves
from .intercept import Moved, Point, Written, observe
from .livecopy import LiveCopy
from .log import Step
from .plan import Cut, Unrepeatable
from .randomness import kept_random_state

BLOCKS = 4
"""Depth at which the stages of the known architectures are open down to their blocks."""

NEAR = 24
"""Number of events before a cut among which all that is alive may have been kept, so that the rest is replayed."""


class Taken(NamedTuple):
    """What runs at a number of cuts gave.

    Attributes:
        activations: One leaf or inner tensor of the graph for each cut, (B, ...).
        logits: (B, classes), with the graph from the activations on.
    """

    activations: list[Tensor]
    logits: Tensor


class Reached(NamedTuple):
    """A gradient that the search for the default cut took: of the sum of the best logits.

    Attributes:
        activation: What it was taken on.
        slope: The gradient on the logits.
        gradient: The gradient on the activation, which follows from that on the logits.
    """

    activation: Tensor
    slope: Tensor
    gradient: Tensor


class Overwritten(SplitError):
    """A forward writes to what the gradient needs; saved tensors have to be cloned."""


class Recomputed(SplitError):
    """A part is computed again for the gradient, without what was put in its place; stages have to be run."""


class Cutter(Halves):
    """Cuts one model for one batch of images: see `Session` for the arguments."""

    taken: tuple[Cut, Taken] | None = None  # what the search for the default cut ended with
    reached: Reached | None = None

    def forward(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        """Logits (N, classes) of images, by the model's own forward on a copy.

        Args:
            images: (N, C, H, W).
            index: The images at hand (N,) that they are versions of; None: all in order.
        """
        asked = self.output if index is None else at(self.output, index)
        copy = self._take_copy(images)  # a fresh one: what an earlier run left on a copy is not the model's
        with kept_random_state(images.device), self.mode(), self._saving(), self._any_number(len(images)):
            logits = logits_of(copy.root, images.clone(), asked)
            if logits.requires_grad:
                correct_gradients(logits)
            return rows(logits, len(images))

    def _saving(self) -> Any:
        """What the graph saves is cloned, where the forward is known to write to it."""
        return intercept_.saved_clones() if self.record.saving else contextlib.nullcontext()

    @contextlib.contextmanager
    def _any_number(self, count: int) -> Iterator[None]:
        """Refuses the model where its own code fails for a number of images that is not the user's."""
        try:
            yield
        except (GradCamError, *_FAILS) as error:
            if isinstance(error, GradCamError) or count == len(self.images):
                raise
            text = message_of(error, 200)
            raise _coupled(f"it fails for {count} images: {type(error).__name__}: {text}") from error

    def for_images(self, images: Tensor, index: Tensor | None = None) -> Cutter:
        """A cutter of the same model and chain for other images of the same shape, versions of the images `index`."""
        return Cutter(self.model, images, self.output if index is None else at(self.output, index), self.depth)

    def gradients(
        self, total: Tensor, tensors: Sequence[Tensor], keep_graph: bool = False, differentiable: bool = False
    ) -> list[Tensor]:  # fmt: skip
        """The gradient of a sum of scores on the tensors of `take`; zeros where it does not depend on one.

        Raises:
            SplitError: Autograd refuses, or the model's forward switches gradients off.
        """
        if not total.requires_grad:
            self.require_gradients()
            return [torch.zeros_like(t) for t in tensors]
        try:
            found = torch.autograd.grad(
                total, list(tensors), retain_graph=keep_graph or differentiable, create_graph=differentiable,
                allow_unused=True,
            )  # fmt: skip
        except RuntimeError as error:
            _refuse_autograd(error)
            raise
        if all(g is None for g in found):
            self.require_gradients()
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]

    def retrying(self, run: Callable[[], Any]) -> Any:
        """Runs something that takes gradients, once more in another way if the model's forward needs that."""
        try:
            return _translating(run)
        except Overwritten:
            if self.record.saving:
                raise
            self.record.saving, self.taken = True, None
        except Recomputed:
            if self.record.staged:
                raise
            self.record.staged, self.taken = True, None
        return _translating(run)

    def require_gradients(self, position: int = 0) -> None:
        """Raises SplitError where the model itself is the reason that there is no gradient after a position."""
        plan = self.record.plan
        steps = [e for e in plan.log.events if type(e) is Step and e.depends]
        if steps and not any(e.context[0] for e in steps):
            raise SplitError(
                "its whole forward runs under torch.no_grad(), so that there is no gradient", type(self.model).__name__,
                "take no_grad off forward and use it where the model is called",
            )  # fmt: skip
        for call in plan.log.calls:
            if call.end < position:
                continue
            module = self.copy.modules[call.path]
            if call.custom:
                raise SplitError(
                    f"module '{call.path}' is run by a custom autograd.Function, as reentrant checkpointing does, and "
                    "no gradient of what it returns can be had", "",
                    "torch.utils.checkpoint.checkpoint(..., use_reentrant=False), or a layer outside it",
                )  # fmt: skip
            if ".quantized" in type(module).__module__:
                raise SplitError(
                    f"module '{call.path}' is quantised, and quantised operations have no gradient",
                    f"{type(module).__module__}.{type(module).__name__}",
                    "explain the model before quantisation, or use a method without gradients: method=\"ablation_cam\"",
                )  # fmt: skip

    def tail(self, cut: Cut, activation: Tensor, logits: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What follows a cut, as a function of activations (N, ...) and the images (N,) they belong to, to logits.

        Where the tail cannot be run alone, the whole forward is, with the activation exchanged.

        Args:
            cut: Where.
            activation: The activation of the images at hand (B, ...).
            logits: What the tail has to make of it.
        """
        try:
            run = self._tail_of_stages(cut)
            self._require_tail(run, activation, logits)
        except (SplitError, *_FAILS):
            if cut.point is None or self.record.plan.is_data_dependent():
                raise
            run = self._exchanging(cut.point)
            self._require_tail(run, activation, logits)
        return run

    def _require_tail(self, run: Callable[[Tensor, Tensor], Tensor], activation: Tensor, logits: Tensor) -> None:
        """Raises SplitError unless each image's logits are its own, whatever else is in the batch, again and again."""
        count = len(activation)
        index = torch.arange(count, device=activation.device)
        with torch.no_grad():  # attention without a gradient may use another kernel: equal but for rounding
            alone = run(activation, index)
            if not _near(alone, logits, 1e-5) or not _same(run(activation, index), alone):
                raise _coupled("what follows the cut does not give the same logits again")
            others = torch.cat([activation[:1] * 0, activation, activation.flip(0) * -2])
            beside = run(others, torch.cat([index[:1], index, index.flip(0)]))[1 : count + 1]
        if not _near(beside, alone, 1e-4):
            off = float((beside.double() - alone.double()).abs().max()) if beside.shape == alone.shape else float("inf")
            modules = self.copy.modules.items()
            quantised = next((path for path, m in modules if ".quantized" in type(m).__module__), None)
            why = f", as the quantised module '{quantised}' scales a batch as a whole" if quantised else ""
            raise _coupled(f"other images in the batch change an image's logits by {off:.2g}{why}")

    def _tail_of_stages(self, cut: Cut) -> Callable[[Tensor, Tensor], Tensor]:
        extractor, classifier = self.halves(cut)
        with torch.no_grad(), self.mode(), kept_random_state(self.images.device):
            handed = extractor(self.images.clone())
        context = handed[1:] if isinstance(handed, tuple) else ()

        def run(raw: Tensor, index: Tensor) -> Tensor:
            others = tuple(c[index] if len(c) == len(self.images) else c.clone() for c in context)
            with kept_random_state(self.images.device), self.mode():
                logits = classifier((raw.clone(), *others) if others else raw.clone())
                if logits.requires_grad:
                    correct_gradients(logits)
                return rows(logits, len(raw))

        return run

    def _exchanging(self, point: Point) -> Callable[[Tensor, Tensor], Tensor]:
        def run(raw: Tensor, index: Tensor) -> Tensor:
            def exchange(_: int, tensor: Tensor) -> Tensor:
                if tensor.shape != raw.shape:
                    raise Moved(f"a tensor of shape {tuple(tensor.shape)}, not {tuple(raw.shape)}")
                return raw.clone()

            grad, images = torch.is_grad_enabled(), self.images[index]
            with kept_random_state(self.images.device), self._any_number(len(raw)):
                logits = observe(
                    self.new_copy(images), images, [point], exchange, at(self.output, index), mode=self.record.mode
                )
                logits = rows(logits, len(raw))
            return logits if grad else logits.detach()

        return run

    def take(self, cuts: Sequence[Cut], by_image: bool = True) -> Taken:
        """The activations at some cuts as tensors to differentiate by, and the logits.

        The first time, the recorded values are the extractor's result and only what follows is run; the logits must
        equal the recorded ones bit for bit. Else the model's own forward is run.

        Args:
            cuts: Where.
            by_image: Whether an activation must have a row for every image; a layout of the user's may say otherwise.
        """
        if len(cuts) == 1 and self.taken is not None and self.taken[0] == cuts[0]:
            return self.taken[1]
        if len(cuts) == 1 and self.recording is not None:
            taken = self._from_recording(cuts[0])
            if taken is not None:
                return taken
        return self._from_forward(cuts, by_image)

    def take_live(self, cuts: Sequence[Cut]) -> Taken:
        """As `take_all`, in one graph with the images and the model's own parameters."""
        if self._known.apart:
            raise SplitError(
                "its forward writes to its parameters, so that no graph can reach them", type(self.model).__name__,
                "make the forward leave its parameters alone",
            )  # fmt: skip
        if any(c.point is None for c in cuts):
            raise SplitError(
                f"the tensor after '{cuts[0].name}' is written in place, so that the graph cannot be kept there", "",
                "choose the layer before or after it",
            )  # fmt: skip
        return self._from_forward(cuts, live=True)

    def take_all(self, cuts: Sequence[Cut]) -> Taken:
        """As `take`, by the model's own forward: any number of cuts in one run."""
        return self._from_forward(cuts)

    def recorded_at(self, cut: Cut) -> list[Tensor] | None:
        """The recorded tensors that cross a cut, or None; one that was not kept is computed again from those before."""
        recording, plan = self.recording, self.record.plan
        if recording is None:
            return None
        wanted = (cut.value, *cut.context)
        for position in range(cut.position - 1, max(0, cut.position - NEAR), -1):
            if all(recording.value(r) is not None for r in wanted):
                break
            alive = plan.alive(position) if plan.count[position] <= len(wanted) + 1 else ()
            if not alive or any(recording.value(r) is None for r in alive):
                continue
            start = Cut("", None, position, alive[0], tuple(alive[1:]), None)
            given = tuple(recording.value(r).clone() for r in alive)  # type: ignore[union-attr]
            try:
                run = self._build([position, cut.position], [start, cut], self.copy, None)[0]
                with torch.enable_grad(), kept_random_state(self.images.device), self.mode():
                    made = run(given if len(given) > 1 else given[0])
            except (Unrepeatable, RuntimeError):
                return None
            for ref, tensor in zip(wanted, made if isinstance(made, tuple) else (made,), strict=True):
                recording.values[ref] = tensor.detach(), tensor._version
        values = [recording.value(r) for r in wanted]
        usable = all(v is not None for v in values) and len(values[0]) == len(self.images)  # type: ignore[arg-type]
        return values if usable else None  # type: ignore[return-value]

    def tail_from(self, cut: Cut, values: Sequence[Tensor], copy: EvalCopy) -> tuple[Tensor, Any] | None:
        """Runs what follows a cut on recorded tensors: a leaf, and what the model makes of it; None if it cannot."""
        try:
            tail = self._build([cut.position, len(self.record.plan.log.events)], [cut], copy, None)[0]
        except Unrepeatable:
            return None
        leaf, *context = [v.detach() for v in values]
        leaf.requires_grad_()
        with torch.enable_grad(), kept_random_state(self.images.device), self.mode(), self._saving():
            try:
                return leaf, tail((leaf.clone(), *[c.clone() for c in context]) if context else leaf.clone())
            except RuntimeError:
                return None

    def _from_recording(self, cut: Cut) -> Taken | None:
        values = self.recorded_at(cut)
        run = None if values is None else self.tail_from(cut, values, self.copy)
        if run is None or self.recording is None:
            return None
        leaf, logits = run
        if not isinstance(logits, Tensor) or not _same(logits.detach(), self.recording.logits):
            return None
        with torch.enable_grad():
            correct_gradients(logits)
            return Taken([leaf], rows(logits, len(self.images)))

    def _from_forward(
        self, cuts: Sequence[Cut], by_image: bool = True, again: bool = True, live: bool = False
    ) -> Taken:  # fmt: skip
        points = [c.point for c in cuts]
        staged = self.record.staged and not live and len(cuts) == 1  # stages would cut the graph of a live run
        if staged or any(p is None for p in points):
            return self._from_stages(cuts)
        written = [c.value in self.record.plan.overwritten for c in cuts]
        try:
            found = self._intercepted(points, written, live)  # type: ignore[arg-type]
        except Written:
            found = self._intercepted(points, [True] * len(cuts), live)  # type: ignore[arg-type]
        except Moved as moved:
            if not again:
                raise SplitError(
                    "its forward takes another way every time it is run", str(moved), "make the forward deterministic"
                ) from moved
            self._again()
            return self._from_forward([self.cut(c.name) for c in cuts], by_image, again=False, live=live)
        self.copy.require_unwritten()
        for cut, tensor in zip(cuts, found.tensors, strict=True):
            if by_image and (tensor.ndim == 0 or len(tensor) != len(self.images)):
                frames = self.images.ndim == 5 and "reshape_transform=lambda a: a.unflatten(0, (-1, T)).transpose(1, 2)"
                raise LayerError(
                    f"'{cut.name}' gives no row for each image", f"{tuple(tensor.shape)} for {len(self.images)} images",
                    f"{frames or 'explain fewer images at a time'}, or choose another layer "
                    "(see print(grad_cam.chain(model)))",
                )  # fmt: skip
        with torch.enable_grad():
            correct_gradients(found.logits)
            return Taken(found.tensors, rows(found.logits, len(self.images)))

    def _intercepted(self, points: Sequence[Point], cloned: Sequence[bool], live: bool) -> intercept_.Taken:
        copy = LiveCopy(self.model) if live else self._take_copy(self.images)
        with kept_random_state(self.images.device):
            try:
                return intercept_.intercept(
                    copy, self.images, points, self.output, mode=self.record.mode, cloned=cloned,
                    saving=self.record.saving,
                )  # fmt: skip
            except RuntimeError as error:
                if "in-place" not in str(error) and "inplace" not in str(error):
                    raise
                if all(cloned):
                    raise _inplace(error) from error
                raise Written("a tensor at a cut is written to later") from error

    def _from_stages(self, cuts: Sequence[Cut]) -> Taken:
        """At a place that no operation's result stands for: extractor and classifier, the latter with a graph."""
        if len(cuts) > 1:
            name = next(c.name for c in cuts if c.point is None)
            raise SplitError(
                f"the tensor after '{name}' is written in place and cannot be met together with others", "",
                "explain that layer alone",
            )  # fmt: skip
        extractor, classifier = self.halves(cuts[0])
        handed = extractor(self.images)
        leaf, *context = handed if isinstance(handed, tuple) else (handed,)
        leaf = leaf.detach().requires_grad_()
        with torch.enable_grad():
            logits = classifier((leaf.clone(), *context) if context else leaf.clone())
            correct_gradients(logits)
            return Taken([leaf], rows(logits, len(self.images)))


_FAILS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""The errors that the code of a model raises for input that it was not written for."""


def _translating(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except RuntimeError as error:
        _refuse_autograd(error)
        raise


def _refuse_autograd(error: RuntimeError) -> None:
    """Raises SplitError where autograd's error means something that the model's forward does."""
    text = message_of(error)
    if "modified by an inplace operation" in text:
        raise _inplace(error) from error
    if "checkpoint" in text.lower() and ".grad()" in text:
        raise SplitError(
            "its forward uses reentrant checkpointing, through which autograd gives no gradient of one tensor",
            text[:120], "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
        ) from error  # fmt: skip
    if isinstance(error, CheckpointError):
        raise Recomputed(
            "a layer lies in a part that is computed again for the gradient (checkpointing)", text[:120],
            "explain that layer alone, or one outside that part, or turn checkpointing off for the explanation",
        ) from error  # fmt: skip


def _inplace(error: BaseException) -> Overwritten:
    return Overwritten(
        "its forward writes in place to a tensor that the gradient needs, as training it would show",
        message_of(error, 200), "write x = x + y instead of x += y, or choose a later layer",
    )  # fmt: skip


def _coupled(given: str) -> SplitError:
    return SplitError(
        "what a model makes of one image depends on the others in its batch or on how many there are, so that "
        "perturbed copies cannot be compared", given, 'method="grad_cam" or another gradient method',
    )  # fmt: skip


def _same(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    return bool(torch.equal(one, two)) or bool(((one == two) | (one.isnan() & two.isnan())).all())


def _near(one: Tensor, two: Tensor, tolerance: float) -> bool:
    """Whether two results are equal up to a fraction of their size (of that of rounding, in half precision)."""
    if one.shape != two.shape:
        return False
    size = max(1.0, float(two.double().abs().max()))
    return bool((one.double() - two.double()).abs().max() <= max(tolerance, 8 * torch.finfo(two.dtype).eps) * size)
