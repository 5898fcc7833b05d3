"""Cutting one model for one batch of images.

A `Cutter` makes a fresh eval copy, finds the record of the model (or makes it, by running the copy once on the images
at hand), finds layers by number, name or module, and gives what an explanation needs: the activation at a cut as a
leaf, with the logits that follow from it.
"""

from __future__ import annotations

import contextlib
import difflib
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..arguments import check_model
from ..batchnorm import correct_gradients
from ..errors import GradCamError, LayerError, SplitError
from ..outputs import Output, find_logits, rows
from . import fingerprint, renewal
from . import intercept as intercept_
from .align import Unaligned, align
from .evalcopy import EvalCopy
from .intercept import Moved, Plain, Point, Written, first_not_finite, needs_mode, observe
from .log import Call, Recording, Ref, Step, WritesParameters, kept_random_state, record, refreshed
from .plan import Border, Plan, Unrepeatable
from .positions import Positions, Reading
from .stages import Cloned, StageBuilder, Stages

BLOCKS = 4
"""Depth at which the stages of the known architectures are open down to their blocks."""

RECORDS = 8
"""Number of records (image sizes, kinds of output) kept for each model."""

NEAR = 24
"""Number of events before a cut among which all that is alive may have been kept, so that the rest is replayed."""

SPARE = 2
"""Number of copies kept for each model, to be renewed for later calls."""


class Cut(NamedTuple):
    """A place where a model can be cut.

    Attributes:
        name: Module path, or the name of the stage that ends here.
        layer_idx: Number of stages of the top-level chain after it, or None if it is no border of that chain.
        position: Where in the record.
        value: The activation there.
        context: The other tensors that are alive.
        point: Where the model's own forward can be met there, if anywhere.
    """

    name: str
    layer_idx: int | None
    position: int
    value: Ref
    context: tuple[Ref, ...]
    point: Point | None


class Taken(NamedTuple):
    """What runs at a number of cuts gave.

    Attributes:
        activations: One leaf or inner tensor of the graph for each cut, (B, ...).
        logits: (B, classes), with the graph from the activations on.
    """

    activations: list[Tensor]
    logits: Tensor


class Overwritten(SplitError):
    """A forward writes to what the gradient needs; saved tensors have to be cloned."""


class Record:
    """What is known of a model for images of one shape; it holds no module and no value.

    Attributes:
        plan: The log, read.
        images: Shape of an image (C, H, W).
        positions: How activations are laid out.
        kinds: Class names of the modules, by path.
        mode: Whether runs of the model need a function mode (see `intercept.Plain`).
        default: The default cut, once it is known.
        saving: Whether the forward writes to what the graph saves, so that it has to save clones.
    """

    def __init__(self, recording: Recording, copy: EvalCopy, images: Tensor) -> None:
        self.plan = Plan(recording.log, {p for p, m in copy.modules.items() if _only_holds(m)})
        self.images = tuple(int(n) for n in images.shape[1:])
        self.kinds = {path: type(module).__name__ for path, module in copy.originals.items()}
        self.opened = {d: self.plan.opened_at(d, copy.modules) for d in (1,)}
        self.mode = needs_mode(copy.root) or recording.log.wants_mode
        self.positions = Positions(self.plan, copy.root, (self.images[-2], self.images[-1]))
        self.default: Cut | None = None
        self.saving = False
        self.dead: dict[Ref, bool] = {}
        self.aligned: dict[int, tuple[Any, Any]] | None = None
        self.other_shapes: dict[Ref, tuple[int, ...]] = {}
        self.whole: set[int] = set()
        self.lock = threading.RLock()

    def borders(self, depth: int, modules: dict[str, nn.Module]) -> tuple[Border, ...]:
        """The borders of the chain of a depth."""
        with self.lock:
            if depth not in self.opened:
                self.opened[depth] = self.plan.opened_at(depth, modules)
            return self.plan.borders(depth, self.opened[depth])


def _only_holds(module: nn.Module) -> bool:
    """Whether a module has no forward of its own."""
    return (
        not isinstance(module, torch.jit.ScriptModule) and getattr(type(module), "forward", None) is nn.Module.forward
    )


class _Records:
    """The records of one model, as long as it stays what it was."""

    def __init__(self) -> None:
        self.apart = False  # whether its forward writes to its parameters
        self.quiet = False  # whether it is known to write to no buffer
        self.fingerprint: Any = None
        self.clean = False  # whether a run was seen to leave nothing behind on the copy
        self.spare: deque[EvalCopy] = deque(maxlen=SPARE)  # copies that were run, without tensors
        self.records: OrderedDict[Any, Record] = OrderedDict()


_KNOWN: weakref.WeakKeyDictionary[nn.Module, _Records] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


class Cutter:
    """Cuts one model for one batch of images.

    Args:
        model: The model, unwrapped.
        images: (B, C, H, W) on the model's device, detached.
        output: Which part of what the model returns are the logits.
        depth: Depth of the chain in which `layer_idx` counts.
    """

    def __init__(self, model: nn.Module, images: Tensor, output: Output = None, depth: int = 1) -> None:
        self.model, self.images, self.output, self.depth = model, images, output, depth
        self.recording: Recording | None = None
        with _LOCK:
            self._known = _KNOWN.setdefault(model, _Records())
        self._lent = False  # whether modules of the copy are in use elsewhere
        self._fresh: EvalCopy | None = self.new_copy()
        self.copy = self._fresh
        self.taken: tuple[Cut, Taken] | None = None  # what the search for the default cut ended with
        self._reference: tuple[Tensor, Tensor] | None = None
        self.is_new = False  # whether the record was made for this cutter
        self.record = self._find()

    # ------------------------------------------------------------------------------------------------------ record

    def _find(self) -> Record:
        key = (
            tuple(self.images.shape[1:]), self.images.dtype, self.images.device, self.images.is_contiguous(),
            torch.is_autocast_enabled(self.images.device.type), _output_key(self.output),
        )  # fmt: skip
        mark = self.copy.mark = fingerprint.of(self.copy.originals.values(), self.copy.mark and self.copy.mark[0])
        with _LOCK:
            known = self._known
            if known.fingerprint != mark:
                known.fingerprint, known.records, known.clean = mark, OrderedDict(), False
            found = known.records.get(key)
            if found is not None:
                known.records.move_to_end(key)
                return found
        made = self._record()
        self.is_new = True
        with _LOCK:
            if known.fingerprint == mark:
                known.records[key] = made
                while len(known.records) > RECORDS:
                    known.records.popitem(last=False)
        return made

    def _record(self) -> Record:
        check_model(self.model)
        self._known.quiet, self._fresh = False, None if self._known.quiet else self._fresh
        self.recording = self.recorded(self.images)
        self._known.quiet = not self.copy.wrote_buffers()
        return Record(self.recording, self.copy, self.images)

    def renewing(self, run: Callable[[], Any]) -> Any:
        """Runs something that rests on the record, once more on a new record if it fails on an old one."""
        try:
            return run()
        except SplitError:
            if self.is_new:
                raise
            self._again()
            return run()

    def _again(self) -> None:
        """Records anew: the forward went another way than the record says."""
        self.record, self.is_new, self._reference = self._record(), True, None
        with _LOCK:
            self._known.records = OrderedDict()

    def new_copy(self) -> EvalCopy:
        """A copy of the model as it is now."""
        known = self._known
        with contextlib.suppress(IndexError):  # none to spare
            copy = known.spare.pop()
            if renewal.renew(copy, self.model, known.apart, known.quiet):
                return copy
        return EvalCopy(self.model, known.apart, known.quiet)

    def __del__(self) -> None:
        """Keeps the copy for a later call, unless a run leaves things behind on it or parts of it live on."""
        copy = self.__dict__.get("copy")  # None: it could not be made
        if copy is None or copy.mark is None or self._lent:
            return
        known = self._known
        if not known.clean:
            known.clean = renewal.unchanged(copy, self.model)
        if known.clean:
            renewal.empty(copy)
            known.spare.append(copy)

    def recorded(self, images: Tensor) -> Recording:
        """Records the model on images, on a copy that has not been run."""
        try:
            return record(self._take_copy(), images, self.output)
        except WritesParameters:
            self._known.apart, self._fresh = True, None
            return record(self._take_copy(), images, self.output)

    def _take_copy(self) -> EvalCopy:
        """A copy that has not been run yet."""
        copy, self._fresh = self._fresh or self.new_copy(), None
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

    # ------------------------------------------------------------------------------------------------------- running

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images, by the model's own forward on a copy."""
        copy = self._take_copy()  # a fresh one: what an earlier run left on a copy is not the model's
        with kept_random_state(images.device), self.mode(), self._saving(), self._any_number(len(images)):
            logits = find_logits(copy.root(images.clone()), self.output)
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
            text = " ".join(str(error).split())[:200]
            raise _coupled(f"it fails for {count} images: {type(error).__name__}: {text}") from error

    def for_images(self, images: Tensor) -> Cutter:
        """A cutter of the same model and chain for other images of the same shape."""
        return Cutter(self.model, images, self.output, self.depth)

    def gradients(self, total: Tensor, tensors: Sequence[Tensor], keep_graph: bool = False) -> list[Tensor]:
        """The gradient of a sum of scores on the tensors of `take`; zeros where it does not depend on one.

        Raises:
            SplitError: Autograd refuses, or the model's forward switches gradients off.
        """
        if not total.requires_grad:
            self.require_gradients()
            return [torch.zeros_like(t) for t in tensors]
        try:
            found = torch.autograd.grad(total, list(tensors), retain_graph=keep_graph, allow_unused=True)
        except RuntimeError as error:
            _refuse_autograd(error)
            raise
        if all(g is None for g in found):
            self.require_gradients()
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]

    def retrying(self, run: Callable[[], Any]) -> Any:
        """Runs something that takes gradients, once more with cloned saved tensors if the forward writes to them."""
        try:
            return _translating(run)
        except Overwritten:
            if self.record.saving:
                raise
            self.record.saving, self.taken = True, None
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

    def _require_tail(
        self, run: Callable[[Tensor, Tensor], Tensor], activation: Tensor, logits: Tensor
    ) -> None:  # fmt: skip
        """Raises SplitError unless each image's logits are its own, whatever else is in the batch, again and again."""
        count = len(activation)
        index = torch.arange(count, device=activation.device)
        with torch.no_grad():
            alone = run(
                activation, index
            )  # attention without a gradient may use another kernel: equal but for rounding
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

            grad = torch.is_grad_enabled()
            with kept_random_state(self.images.device), self._any_number(len(raw)):
                logits = observe(
                    self.new_copy(), self.images[index], [point], exchange, self.output, mode=self.record.mode
                )
                logits = rows(logits, len(raw))
            return logits if grad else logits.detach()

        return run

    def mode(self) -> Any:
        """The function mode that a run of the copy needs to go the recorded way, if any."""
        wanted = self.record.mode and not torch._C._is_torch_function_mode_enabled()
        return Plain() if wanted else contextlib.nullcontext()

    def first_not_finite(self) -> str:
        """The first module whose result holds NaN or infinite values, or ""."""
        return first_not_finite(self.new_copy(), self.images, self.record.mode)

    def stages(self, depth: int) -> list[nn.Module]:
        """The stages of a depth, made of the copy's modules, for the number of images at hand."""
        if len(self.images) != self.record.plan.log.batch:
            self.record = self._record()
        borders = self.borders_at(depth)
        ends = [0, *[b.position for b in borders]]
        copy, self._lent = self.copy, True
        return self._build(ends, [None, *borders], copy, None)

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

    def _from_forward(self, cuts: Sequence[Cut], by_image: bool = True, again: bool = True) -> Taken:
        points = [c.point for c in cuts]
        if any(p is None for p in points):
            return self._from_stages(cuts)
        written = [c.value in self.record.plan.overwritten for c in cuts]
        try:
            found = self._intercepted(points, written)  # type: ignore[arg-type]
        except Written:
            found = self._intercepted(points, [True] * len(cuts))  # type: ignore[arg-type]
        except Moved as moved:
            if not again:
                raise SplitError(
                    "its forward takes another way every time it is run", str(moved), "make the forward deterministic"
                ) from moved
            self._again()
            return self._from_forward([self.cut(c.name) for c in cuts], by_image, again=False)
        self.copy.require_unwritten()
        for cut, tensor in zip(cuts, found.tensors, strict=True):
            if by_image and (tensor.ndim == 0 or len(tensor) != len(self.images)):
                raise LayerError(
                    f"'{cut.name}' gives no row for each image", f"{tuple(tensor.shape)} for {len(self.images)} images",
                    "explain fewer images at a time, or choose another layer (see print(grad_cam.chain(model)))",
                )  # fmt: skip
        with torch.enable_grad():
            correct_gradients(found.logits)
            return Taken(found.tensors, rows(found.logits, len(self.images)))

    def _intercepted(self, points: Sequence[Point], cloned: Sequence[bool]) -> intercept_.Taken:
        with kept_random_state(self.images.device):
            try:
                return intercept_.intercept(
                    self._take_copy(), self.images, points, self.output, mode=self.record.mode, cloned=cloned,
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

    # -------------------------------------------------------------------------------------------------------- layers

    @property
    def borders(self) -> tuple[Border, ...]:
        """The borders of the chain in which `layer_idx` counts."""
        return self.record.borders(self.depth, self.copy.modules)

    def borders_at(self, depth: int) -> tuple[Border, ...]:
        """The borders of the chain of another depth."""
        return self.record.borders(depth, self.copy.modules)

    def layer_idx(self, value: Ref, position: int) -> int | None:
        """layer_idx of a cut where a value crosses alone, or None if that is no border of the chain."""
        found = self.borders
        same = [i for i, b in enumerate(found[:-1]) if b.value == value]  # several: modules that return what they get
        return len(found) - 1 - min(same, key=lambda i: abs(found[i].position - position)) if same else None

    def at_border(self, border: Border) -> Cut:
        """The cut at the end of a stage."""
        index = self.layer_idx(border.value, border.position)
        return Cut(border.name, index, border.position, border.value, (), self._point(border.value))

    def cut(self, layer: int | str | nn.Module) -> Cut:
        """Finds a layer.

        Args:
            layer: layer_idx, a module path (also ``path@1``), the name of a stage, or a module.

        Raises:
            LayerError: There is no such layer, or it cannot be cut after.
        """
        if isinstance(layer, nn.Module):
            layer = self._path_of(layer)
        if isinstance(layer, str):
            return self._named(layer)
        count = len(self.borders)
        if not 1 <= layer <= count - 1:
            problem = "nothing to explain" if layer < 1 else "nothing to extract from"
            remedy = f"use 1..{count - 1}" if count > 1 else f"give a module path, such as layer={self._some_path()!r}"
            raise LayerError(
                f"layer_idx={layer} leaves {problem}: {type(self.model).__name__} has {count} "
                f"stage{'s' if count > 1 else ''}",
                "", f"{remedy} (see print(grad_cam.chain(model)))",
            )  # fmt: skip
        return self.at_border(self.borders[count - 1 - layer])

    def _some_path(self) -> str:
        calls = [c.path for c in self.record.plan.log.calls if c.path and self.record.plan.carries(c)]
        return calls[len(calls) // 2] if calls else ""

    def _path_of(self, module: nn.Module) -> str:
        inner = getattr(module, "_orig_mod", module)
        path = next((p for p, m in self.copy.originals.items() if m is module or m is inner), None)
        if not path:
            raise LayerError(
                f"the {type(module).__name__} given as layer is not a module inside the model", "",
                "give one of its submodules, a path or a layer_idx",
            )  # fmt: skip
        return path

    def _named(self, name: str) -> Cut:
        plan = self.record.plan
        path, _, nth = name.partition("@")
        calls = plan.calls_of(path) if path else []
        if nth and calls:
            chosen = int(nth) - 1 if nth.isdecimal() else -1
            if not 0 <= chosen < len(calls):
                raise LayerError(
                    f"'{path}' is called {len(calls)} times",
                    name,
                    f'layer="{path}@1" is the first, layer="{path}" the last',
                )
            return self._after(calls[chosen], name)
        if calls:
            return self._after(calls[-1], path)
        for depth in dict.fromkeys((self.depth, *range(1, 7))):
            for border in self.borders_at(depth)[:-1]:
                if border.name == name:
                    return self.at_border(border)
        if path in self.copy.modules and path:
            inner = [p for p in self.copy.modules if p.startswith(path + ".") and plan.calls_of(p)]
            remedy = f'layer="{inner[-1]}"' if inner else "see print(grad_cam.chain(model, depth=2))"
            raise LayerError(
                f"module '{path}' is not called in the forward pass, so there is no activation to explain",
                "a module whose forward is called directly, without module(...), counts as not called", remedy,
            )  # fmt: skip
        try:  # a module registered under a second name
            known = self._path_of(self.model.get_submodule(path)) if path else ""
        except AttributeError:
            known = ""
        if known and known != path:
            return self._named(f"{known}@{nth}" if nth else known)._replace(name=name)
        names = dict.fromkeys([*(p for p in self.copy.modules if p), *(b.name for b in self.borders)])
        close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
        hint = f"closest: {', '.join(close)}" if close else "see print(grad_cam.chain(model))"
        raise LayerError(
            f"there is no module '{name}' in {type(self.model).__name__}", "",
            hint + (f'; layer="{close[0]}"' if close else ""),
        )  # fmt: skip

    def _after(self, call: Call, name: str) -> Cut:
        """The cut at a module's output."""
        plan = self.record.plan
        outs = [r for r in call.outs if r is not None]
        if plan.log.logits in outs:
            raise LayerError(
                f"'{name}' gives the logits: nothing is left to explain after it", "", "choose an earlier layer"
            )
        position = call.end + 1
        alive = plan.alive(position)
        usable = [r for r in outs if r in alive]
        batch = plan.log.batch
        value = next((r for r in usable if plan.log.shapes[r][:1] == (batch,)), usable[0] if usable else None)
        if value is None:
            if not any(plan.log.depends[r] for r in outs) and outs:
                raise LayerError(f"what '{name}' returns does not depend on the images", "", "choose another layer")
            parent = call.path.rpartition(".")[0]
            remedy = f'layer="{parent}"' if parent else "choose another layer (see print(grad_cam.chain(model)))"
            raise LayerError(
                f"the output of '{name}' is not used for the logits as a tensor, so there is no activation to explain",
                "", remedy,
            )  # fmt: skip
        times = len(plan.calls_of(call.path))
        point: Point | None = Point(call.path, call.times, times, 0, "", call.outs.index(value))
        if value in call.reads and value in plan.overwritten:  # it returns what it is given: met where that is made
            point = self._point(value)
        context = tuple(r for r in alive if r != value)
        index = self.layer_idx(value, position) if not context else None
        return Cut(name, index, position, value, context, point)

    def _point(self, value: Ref) -> Point | None:
        """Where the model's own forward can be met with a value in hand: at a module's end, else at an operation."""
        plan = self.record.plan
        calls = [c for c in plan.log.calls if c.path and value in c.outs]
        if calls and value in plan.overwritten:  # where it is made, before anything else holds it
            calls = [c for c in calls if value not in c.reads]
            calls = [min(calls, key=lambda c: c.end)] if calls else []
        if calls:
            call = max(calls, key=lambda c: c.end)
            return Point(call.path, call.times, len(plan.calls_of(call.path)), 0, "", call.outs.index(value))
        event = plan.log.events[plan.log.made[value]]
        if type(event) is Step and event.number >= 0 and value in event.outs:
            name = getattr(event.func, "__name__", "")
            return Point(None, 0, 0, event.number, name, event.outs.index(value))
        return None

    # -------------------------------------------------------------------------------------------------------- layout

    def reading(self, cut: Cut, careful: bool = False) -> Reading:
        """How the activation at a cut is laid out.

        Args:
            cut: Where.
            careful: Ask the model by an experiment also where what is declared leaves one reading.
        """
        return self.record.positions.of(cut.value, cut.name, self._experiment, careful)

    def _experiment(self, values: Sequence[Ref]) -> dict[Ref, Tensor]:
        """How much each of some values changes where one patch of the image is changed: see `positions`."""
        points = {r: self._point(r) for r in values}
        usable = {r: p for r, p in points.items() if p is not None}
        return self.record.positions.measure(self, usable)

    # -------------------------------------------------------------------------------------------------------- halves

    def halves(self, cut: Cut, original: bool = False) -> tuple[Stages, Stages]:
        """The extractor and the classifier at a cut, for any number of images.

        Args:
            cut: Where.
            original: Made of the user's own modules instead of the copy's.

        Raises:
            SplitError: They cannot be had, or do not reproduce the model.
        """
        copy, self._lent = self.copy, True
        self.align()
        crossing = {cut.value, *cut.context}
        for step in self.record.plan.steps(cut.position, len(self.record.plan.log.events)):
            if step.func is refreshed and len(crossing) > 1 and step.reads[0] in crossing:
                raise Unrepeatable(
                    f"tensors that cross the cut after '{cut.name}' share memory that is written to later", "",
                    "choose a layer before or after it",
                )  # fmt: skip
        borders = self.borders
        before = [b for b in borders if b.position < cut.position and b.value != cut.value]
        after = [b for b in borders if b.position > cut.position]
        after = [b for b in after if b.value != cut.value or b.position >= len(self.record.plan.log.events)]
        names = [*[b.name for b in before], cut.name if cut.name not in {b.name for b in before} else f"{cut.name}:"]
        ends = [b.position for b in before] + [cut.position] + [b.position for b in after]
        modules = self._build([0, *ends], [None, *before, cut, *after], copy, original)  # type: ignore[list-item]
        k = len(before) + 1
        first = Stages(list(zip(names, modules[:k], strict=True)))
        last = Stages(list(zip(_unlike([b.name for b in after], names), modules[k:], strict=True)))
        training = self.model.training if original else False
        first.training = last.training = training
        return first, last

    def chain(self, original: bool = True) -> list[tuple[str, nn.Module]]:
        """The named stages of the chain."""
        self.align()
        copy, self._lent = self.copy, True
        borders = self.borders
        ends = [0, *[b.position for b in borders]]
        modules = self._build(ends, [None, *borders], copy, original)  # type: ignore[list-item]
        return list(zip([b.name for b in borders], modules, strict=True))

    def _build(
        self, positions: Sequence[int], ends: Sequence[Cut | Border | None], copy: EvalCopy, original: bool | None
    ) -> list[nn.Module]:
        """The stages between positions; the last position may be the end, whose value are the logits.

        Args:
            positions: n + 1 positions.
            ends: What crosses at the first n or n + 1 of them (None: the images; missing: the logits).
            copy: Where modules and tensors come from.
            original: Whether the user's own are used; None: without numbers that follow the batch.
        """
        plan, log = self.record.plan, self.record.plan.log
        scaled = {} if original is None else self.record.aligned or {}
        builder = StageBuilder(
            copy.originals if original else copy.modules, copy.theirs if original else copy.own, scaled,
            log.ambient, log.device_type, copy.constants,
        )  # fmt: skip

        def crossing(i: int) -> list[Ref]:
            if i >= len(ends) or positions[i] >= len(log.events):
                return [log.logits]
            end = ends[i]
            if end is None:
                return [Ref(0)]
            return [end.value, *end.context] if isinstance(end, Cut) else [end.value]

        modules = []
        for i in range(len(positions) - 1):
            inputs, outputs = crossing(i), crossing(i + 1)
            whole = () if original is None else self.record.whole
            program = plan.program(positions[i], positions[i + 1], [r for r in outputs if r not in inputs], whole)
            parts = [(plan.number(part), part, plan.rebound(part) if type(part) is Call else []) for part in program]
            self._require_available(parts, inputs, ends[i].name if i and ends[i] is not None else "")  # type: ignore[union-attr]
            axis = self._batch_axis(inputs) if any(number in scaled for number, _, _ in parts) else None
            training = self.model.training if original else False
            made = builder.build(parts, inputs, outputs, axis, training)
            if i == 0 and inputs == [Ref(0)] and original is False and Ref(0) in plan.overwritten:
                made = nn.Sequential(Cloned(), made)
            modules.append(made)
        return modules

    def _require_available(self, parts: Sequence[Any], inputs: list[Ref], name: str) -> None:
        log = self.record.plan.log
        known = set(inputs)
        for _, part, rebound in parts:
            missing = [r for r in part.reads if r not in known and log.depends[r]]
            if missing:
                raise Unrepeatable(
                    f"what follows the cut after '{name}' reads a tensor that does not cross it",
                    "",
                    "choose another layer",
                )
            known.update(r for r in part.outs if r is not None)
            known.update(new for _, new in (rebound if type(part) is Call else part.changed))

    def _batch_axis(self, inputs: list[Ref]) -> tuple[int, int, int, int]:
        """Where the number of images can be read off what is handed in."""
        log, shapes = self.record.plan.log, self.record.other_shapes
        count = shapes[Ref(0)][0]
        for which, ref in enumerate(inputs):
            one, two = log.shapes[ref], shapes.get(ref, ())
            for axis, (a, b) in enumerate(zip(one, two, strict=False)):
                if len(one) == len(two) and a != b and a * count == b * log.batch:
                    return which, axis, a, log.batch
        raise Unrepeatable("the number of images cannot be read off what crosses a cut", "", "choose another layer")

    def references(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of two sizes with the logits that the model gave for them when it was recorded."""
        self.align()
        recording = self.values()
        if self._reference is None:
            images = _another_batch(self.images)
            self._reference = images, self.recorded(images).logits
        return [(self.images, recording.logits), self._reference]

    def align(self) -> None:
        """Records the model at another batch size and finds the numbers that follow the batch.

        Raises:
            Unaligned: The forward does something else for another number of images.
        """
        if self.record.aligned is not None:
            return
        if len(self.images) != self.record.plan.log.batch:  # recorded at another size: begin with the images at hand
            self.recording = None
            self.record = self._record()
        images = _another_batch(self.images)
        try:
            other = self.recorded(images)
        except SplitError:
            raise
        except Exception as error:
            raise Unaligned(
                f"its forward fails for {len(images)} instead of {len(self.images)} images",
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                "explain() with gradient methods works for these images; for split() and perturbation methods make the "
                "forward take any number of images",
            ) from error
        try:
            found = align(self.record.plan, Plan(other.log))
        except Unaligned:  # a cache that the first pass filled: what it kept is a constant for every later one
            self._again()
            found = align(self.record.plan, Plan(other.log))
        self.record.aligned, self.record.other_shapes, self.record.whole = found
        self._reference = images, other.logits


_FAILS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""What the code of a model raises when it is given something that it was not written for."""


def _translating(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except RuntimeError as error:
        _refuse_autograd(error)
        raise


def _refuse_autograd(error: RuntimeError) -> None:
    """Raises SplitError where autograd's error means something that the model's forward does."""
    text = " ".join(str(error).split())
    if "modified by an inplace operation" in text:
        raise _inplace(error) from error
    if "checkpoint" in text.lower() and ".grad()" in text:
        raise SplitError(
            "its forward uses reentrant checkpointing, through which autograd gives no gradient of one tensor",
            text[:120], "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
        ) from error  # fmt: skip


def _inplace(error: BaseException) -> Overwritten:
    return Overwritten(
        "its forward writes in place to a tensor that the gradient needs, as training it would show",
        " ".join(str(error).split())[:200], "write x = x + y instead of x += y, or choose a later layer",
    )  # fmt: skip


def _coupled(given: str) -> SplitError:
    return SplitError(
        "what a model makes of one image depends on the others in its batch or on how many there are, so that "
        "perturbed copies cannot be compared", given, 'method="grad_cam" or another gradient method',
    )  # fmt: skip


def _another_batch(images: Tensor) -> Tensor:
    """A batch of another size and other content."""
    if len(images) == 1:
        return torch.cat([images.flip(-1), images.flip(-1).roll(1, -1)])
    return images[:1].flip(-1)


def _unlike(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    seen = set(taken)
    found = []
    for name in names:
        while name in seen:
            name = f"{name}:"
        seen.add(name)
        found.append(name)
    return found


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


def _output_key(output: Output) -> Any:
    return output if isinstance(output, (str, int, type(None))) else id(output)
