"""Tensors that are written into: in-place operations, views, aliases, setitem, the input itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import before
from .registry import ALL, GRADIENTS, Net, zoo


@zoo("in_place_after_the_layer", "in place", expect=ALL)
class AfterTheCut(Net):
    """A functional ReLU overwrites what the layer returned."""

    def __init__(self) -> None:
        super().__init__()
        self.blk = self.blk[:2]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.blk(self.stem(x)))
        return self.head(self.neck(x))


@zoo("in_place_module_after_the_layer", "in place", expect=ALL)
class ModuleAfterTheCut(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blk, self.act = self.blk[:2], nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.act(self.blk(self.stem(x)))))


@zoo("overwritten_later", "in place", expect=ALL)
class OverwrittenLater(Net):
    """The layer's output is read, overwritten and read again."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        before = x.mean((2, 3))
        x.mul_(0.3).add_(0.1)
        return self.head(self.neck(x)) + self.fc(before)


@zoo("setitem", "in place", expect=ALL)
class Setitem(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        x[:, 2] = x[:, 0] + 0.5 * x[:, 1]
        x[:, :, 3:5, 2:] = 0.5
        return self.head(self.neck(x))


@zoo("setitem_into_zeros", "in place", expect=ALL)
class SetitemIntoZeros(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        out = torch.zeros(len(x), 6, 18, 18, dtype=x.dtype)
        out[:, :, 1:-1, 1:-1] = x
        return self.head(self.neck(out))


@zoo("write_through_a_view", "in place", expect=ALL)
class ThroughView(Net):
    """A view made before the write and read after it sees the write."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        rows = x.flatten(2)
        x[:, 1:4].mul_(2.0)
        rows[:, :, :20] += 0.2
        return self.head(self.neck(x)) + self.fc(rows.mean(2))


@zoo("alias_before_the_layer", "in place", expect=ALL - {"split"})
class AliasBefore(Net):
    """A view of the layer's input is written after the layer ran."""

    def __init__(self) -> None:
        super().__init__()
        self.blk = before(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left = x[:, :, :, :8]
        y = self.blk(x)
        left.mul_(0.5)
        return self.head(self.neck(y + x))


@zoo("detached_alias", "in place")
class DetachedAlias(Net):
    """A write through a detached alias changes the value and not the graph."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)) * 1.0
        x.detach().clamp_(max=0.4)
        return self.head(x)


@zoo("writes_its_input", "in place", expect=ALL)
class WritesInput(Net):
    """Normalises the images in place."""

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.3).div_(1.7)
        return super().forward(x)


@zoo("writes_a_slice_of_its_input", "in place", expect=ALL)
class WritesSlice(Net):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = x[:, 1] * 0.5
        return super().forward(x)


@zoo("first_module_in_place", "in place", expect=ALL)
class FirstInPlace(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.act(x))


@zoo("out_argument", "in place")
class OutArgument(Net):
    """Results written into a buffer that the forward made; autograd does not allow it, no_grad around it does."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        with torch.no_grad():
            gate = torch.empty_like(x)
            torch.sigmoid(x, out=gate)
        return self.head(self.neck(x * gate))


@zoo("masked_fill_and_copy", "in place", expect=ALL)
class MaskedFill(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        y = torch.empty_like(x).copy_(x)
        y.masked_fill_(y < 0, -0.1)
        return self.head(self.neck(y))


@zoo("index_put_and_boolean_mask", "in place", expect=GRADIENTS)
class BooleanMask(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        y = x.clone()
        y[y > 0.5] = 0.5
        return self.head(self.neck(y))


@zoo("identity_alias", "in place", layer="same")
class IdentityAlias(Net):
    """An identity hands on its argument, which is written into and read afterwards under both names."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        y = self.same(x)
        y *= 2.0
        return self.head(self.neck(y + x))


@zoo("unbound_rows", "in place", expect=GRADIENTS)
class Rows(Net):
    """Python goes through the batch image by image."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(torch.stack([row * (1 + 0.1 * i) for i, row in enumerate(x)])))


@zoo("rows_in_a_submodule", "in place", expect=ALL)
class RowsInside(Net):
    class Each(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([row - row.mean() for row in x])

    def __init__(self) -> None:
        super().__init__()
        self.each = self.Each()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.each(self.blk(self.stem(x)))))


@zoo("halves_of_the_batch", "in place", expect=GRADIENTS, batches=(4, 2, 6))
class Halves(Net):
    def forward(self, x: Tensor) -> Tensor:
        a, b = self.blk(self.stem(x)).chunk(2, 0)
        return self.head(self.neck(torch.cat([a * 2.0, b])))


@zoo("mirrored_copies", "in place", expect=frozenset({"default", "sweep"}))
class Mirrored(Net):
    """Runs the images and their mirror images as one batch and averages: the named layer has two rows per image."""

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = self.blk(self.stem(torch.cat([x, x.flip(3)])))
        return self.head(self.neck((x[:b] + x[b:].flip(3)) / 2))
