"""What is kept of a model between calls: records of its forward, and eval copies to be used again."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from typing import Any

import torch
from torch import Tensor, nn

from ..detections import seen_size
from ..introspection import frames_first
from .evalcopy import EvalCopy
from .intercept import needs_mode
from .log import Recording, Ref
from .plan import Border, Cut, Plan
from .positions import Positions

RECORDS = 8
"""Number of records (image sizes, kinds of output) kept for each model."""

SPARE = 2
"""Number of copies kept for each model, to be renewed for later calls."""


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
        staged: Whether parts are computed again for the gradient (checkpointing), so that stages have to be run.
    """

    def __init__(self, recording: Recording, copy: EvalCopy, images: Tensor) -> None:
        self.plan: Plan = Plan(recording.log, {p for p, m in copy.modules.items() if _only_holds(m)})
        self.images: tuple[int, ...] = tuple(int(n) for n in images.shape[1:])
        self.kinds: dict[str, str] = {path: type(module).__name__ for path, module in copy.originals.items()}
        self.opened: dict[int, frozenset[str]] = {d: self.plan.opened_at(d, copy.modules) for d in (1,)}
        self.mode: bool = needs_mode(copy.root) or recording.log.wants_mode
        first = frames_first(copy.root, self.images)
        size = (self.images[0], *self.images[2:]) if first else self.images[1:]
        if len(size) == 2:
            size = seen_size(copy.root, (size[0], size[1]))[0]
        self.positions: Positions = Positions(self.plan, copy.root, size, first)
        self.default: Cut | None = None
        self.saving = False
        self.staged = False
        self.dead: dict[Ref, bool] = {}
        self.aligned: dict[int, tuple[Any, Any]] | None = None
        self.other_shapes: dict[Ref, tuple[int, ...]] = {}
        self.whole: set[int] = set()
        self.lock: threading.RLock = threading.RLock()

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


class Records:
    """The records of one model, as long as it stays what it was."""

    def __init__(self) -> None:
        self.apart = False  # whether its forward writes to its parameters
        self.steady = False  # whether its forward reads no value of a tensor
        self.quiet: frozenset[Any] = frozenset()  # the kinds of runs that are known to write to no buffer
        self.fingerprint: Any = None
        self.spare: deque[EvalCopy] = deque(maxlen=SPARE)  # copies that were run, without tensors
        self.records: OrderedDict[Any, Record] = OrderedDict()


KINDS = 64
"""Number of kinds of runs (shapes of images, further inputs) that are known to write to no buffer, for each model."""

KNOWN: weakref.WeakKeyDictionary[nn.Module, Records] = weakref.WeakKeyDictionary()

LOCK = threading.Lock()
