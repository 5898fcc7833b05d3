"""Architectures: chains, residuals, tokens, heads, experts, precisions and inputs of several kinds."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from .registry import ALL, GRADIENTS, Net, block, zoo

HALF = 0.05  # what half precision leaves of a map


@zoo("sequential", "plain", layer="1", expect=ALL)
def sequential() -> nn.Module:
    return nn.Sequential(
        block(3, 6, 2), block(6, 6), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )


zoo("net", "plain", expect=ALL)(Net)
zoo("net_in_eval_mode", "plain", expect=ALL, train=False)(Net)
zoo("wide_images", "plain", expect=ALL, size=(32, 48))(Net)
zoo("odd_images", "plain", expect=ALL, size=(33, 45))(Net)
for count in (1, 4, 12):
    zoo(f"channels_{count}", "plain", expect=ALL, channels=count)(functools.partial(Net, channels=count))


def before(width: int) -> nn.Sequential:
    """An activation, a convolution and a batch norm."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width))


@zoo("residual", "residual", expect=ALL)
class Residual(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.blk(x)
        return self.head(self.neck(x))


@zoo("residual_in_place", "residual", expect=ALL)
class ResidualInPlace(Net):
    """The branch begins with an activation, so that the tensor that is written is not needed for its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.blk = before(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.blk(x)
        return self.head(self.neck(x))


@zoo("residual_in_place_that_cannot_be_trained", "residual", expect=frozenset({"named"}), reference=Residual)
class Untrainable(Net):
    """The branch begins with a convolution, whose input is written: no gradient goes further back."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.blk(x)
        return self.head(self.neck(x))


@zoo("residual_in_place_on_the_branch", "residual", expect=ALL)
class BranchInPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.blk(x)
        out += x
        return self.head(self.neck(F.relu(out, inplace=True)))


@zoo("gate", "residual", layer="att", expect=ALL)
class Gate(Net):
    def __init__(self) -> None:
        super().__init__()
        self.att = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x * self.att(x)))


@zoo("gate_in_place", "residual", layer="att", expect=ALL)
class GateInPlace(Gate):
    def __init__(self) -> None:
        super().__init__()
        self.att = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        x *= self.att(x)
        return self.head(self.neck(x))


@zoo("residual_one_level_deeper", "residual", layer="body.blk", expect=ALL)
class Deeper(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body = Residual()
        self.body.neck, self.body.stem, self.body.fc = nn.Identity(), nn.Identity(), nn.Identity()
        del self.blk

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.body.blk(x) * 2
        return self.head(self.neck(x))


@zoo("dense_connections", "residual", layer="b", expect=ALL)
class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 4, 2), block(4, 4), block(8, 4)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.cat([x, self.b(x)], 1)
        x = torch.cat([x, self.c(x)], 1)
        return self.fc(x.mean((2, 3)))


@zoo("two_streams", "residual", layer="c", expect=ALL)
class TwoStreams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 6, 2), block(3, 6, 2), block(6, 6, 2)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x), self.b(-x)
        return self.fc(self.c(left * right).mean((2, 3)))


@zoo("stream_of_two", "residual", layer="a", expect=ALL)
class StreamOfTwo(TwoStreams):
    pass


# -------------------------------------------------------------------------------------------------------------- tokens


class Tokens(nn.Module):
    """A small transformer: patches, a class token, blocks with residuals, a norm and a head."""

    def __init__(self, prefix: int = 1, pool: bool = False) -> None:
        super().__init__()
        self.prefix, self.pool = prefix, pool
        self.patch = nn.Conv2d(3, 12, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, prefix, 12)) if prefix else None
        self.pos = nn.Parameter(torch.randn(1, 16 + prefix, 12) * 0.2)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.attn = nn.MultiheadAttention(12, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Dropout(0.3), nn.Linear(20, 12))
        self.mix = nn.Linear(12, 12)
        self.fc = nn.Linear(12, 5)

    def tokens(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)  # (B,N,C)
        x = x if self.cls is None else torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        return x + self.pos

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        x = x + self.mlp(self.norm1(x))
        y = self.norm2(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        x = self.norm3(x)
        return self.fc(x.mean(1) if self.pool else x[:, 0])


TOKENS = {"*": "tokens", "patch": "NCHW"}
zoo("class_token", "tokens", layer="mlp", read=TOKENS, expect=ALL)(Tokens)
zoo("class_token_norm", "tokens", layer="norm2", read=TOKENS, expect=ALL)(Tokens)
zoo("pooled_tokens", "tokens", layer="norm3", read=TOKENS, expect=ALL)(functools.partial(Tokens, 0, True))
zoo("registers", "tokens", layer="mlp", read=TOKENS, expect=ALL)(functools.partial(Tokens, 3))


@zoo("torch_encoder", "tokens", layer="encoder.layers.0", read=TOKENS, expect=GRADIENTS, tolerance=1e-3, fused=True)
class Encoder(Tokens):
    def __init__(self) -> None:
        super().__init__(0, True)
        layer = nn.TransformerEncoderLayer(12, 2, 20, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.tokens(x)).mean(1))


@zoo("top_k_tokens", "tokens", layer="norm1", read=TOKENS, expect=GRADIENTS)
class Pruning(Tokens):
    """Keeps the eight tokens that the class token likes most."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.tokens(x))
        score = (x[:, 1:] * x[:, :1]).sum(-1)
        keep = score.topk(8, 1).indices[..., None].expand(-1, -1, 12)
        x = torch.cat([x[:, :1], x[:, 1:].gather(1, keep)], 1)
        y = self.norm2(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return self.fc(self.norm3(x)[:, 0])


@zoo("channels_last_axes", "tokens", layer="norm", read={"norm": "NHWC", "mlp": "NHWC"}, expect=ALL)
class Nhwc(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)).permute(0, 2, 3, 1)
        x = x + self.mlp(self.norm(x))
        return self.head(self.neck(x.permute(0, 3, 1, 2)))


# --------------------------------------------------------------------------------------------------------------- heads


@zoo("lstm_head", "heads", expect=ALL, tolerance=1e-3)
class Lstm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)).mean(2).transpose(1, 2)  # (B,W,C)
        out, (hidden, _) = self.lstm(x)
        return self.fc(out[:, -1] + hidden.transpose(0, 1).flatten(1))


@zoo("roi_align", "heads", expect=GRADIENTS)
class Roi(Net):
    """Pools a fixed box of every image."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        rows = torch.arange(len(x), dtype=x.dtype, device=x.device)[:, None]
        boxes = torch.cat([rows, x.new_tensor([[4.0, 4.0, 24.0, 28.0]]).expand(len(x), 4)], 1)
        return self.head(self.neck(roi_align(x, boxes, (8, 8), 0.5, 2)))


@zoo("roi_align_of_a_list", "heads", expect=GRADIENTS)
class RoiList(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        boxes = [x.new_tensor([[2.0, 2.0, 20.0, 28.0]]) for _ in range(x.shape[0])]
        return self.head(roi_align(x, boxes, 6, 0.5, 2))


@zoo("experts_by_index", "heads", layer="stem", expect=GRADIENTS, batches=(4, 1, 6))
class Experts(Net):
    """Sends every image to the expert its features choose, image by image."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList([block(6, 6) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        chosen = self.gate(x.mean((2, 3)) * 5).argmax(1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = torch.where(chosen == i)[0]
            if len(rows):
                out[rows] = expert(x[rows])
        return self.head(self.neck(out))


@zoo("experts_in_a_submodule", "heads", layer="stem", expect=ALL, batches=(4, 1, 6))
class ExpertsInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.moe = block(3, 6, 2), Experts()
        self.moe.stem = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.moe(self.stem(x))


@zoo("siamese", "heads", layer="body.1@1", expect=ALL)
class Siamese(Net):
    """The same body sees the image and its negative: the layer's last call is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 6, 2), block(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.body(x) - 0.5 * self.body(1 - x)))


@zoo("siamese_with_a_mirror", "heads", layer="body.1")
class SiameseMirror(Siamese):
    """The last call sees the mirror image, so that its positions are not the picture's."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.body(x) - 0.5 * self.body(x.flip(3)).flip(3)))


@zoo("called_three_times", "heads", expect=ALL)
class Thrice(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.blk(x)
        return self.head(self.neck(x))


zoo("first_of_three_calls", "heads", layer="blk@1", expect=ALL)(Thrice)
zoo("second_of_three_calls", "heads", layer="blk@2", expect=ALL)(Thrice)


@zoo("tied_weights", "heads", layer="twin", expect=ALL)
class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.twin = block(6, 6)
        self.twin[0].weight = self.blk[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.twin(self.blk(self.stem(x)))))


# -------------------------------------------------------------------------------------------------------------- inputs


@zoo("several_inputs_with_defaults", "inputs", expect=ALL)
class Inputs(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0, *, flip: bool = False) -> Tensor:
        x = self.blk(self.stem(x)) * scale
        x = x if mask is None else x * mask
        return self.head(self.neck(x.flip(3) if flip else x))


@zoo("any_arguments", "inputs", expect=ALL)
class Anything(Net):
    def forward(self, *args: Tensor, **kwargs: float) -> Tensor:
        return super().forward(*args) * kwargs.get("scale", 1.0)


@zoo("keyword_calls", "inputs", layer="mid", expect=ALL)
class Keywords(Net):
    class Mid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, *, features: Tensor, shortcut: Tensor | None = None) -> Tensor:
            out = self.conv(features)
            return out if shortcut is None else out + shortcut

    def __init__(self) -> None:
        super().__init__()
        self.mid = self.Mid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.neck(self.mid(features=self.blk(x), shortcut=x)))


@zoo("dict_between_modules", "inputs", layer="body.high", expect=ALL)
class Pyramid(Net):
    """A backbone that returns a dict of feature maps, as detection and segmentation code has it."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = block(3, 6, 2), block(6, 6, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            low = self.low(x)
            return {"low": low, "high": self.high(low)}

    def __init__(self) -> None:
        super().__init__()
        self.body = self.Body()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        return self.head(self.neck(maps["low"] + F.interpolate(maps["high"], scale_factor=2)))


# ---------------------------------------------------------------------------------------------------------- precisions


@zoo("half", "precision", dtype=torch.float16, tolerance=HALF, expect=ALL)
def half() -> nn.Module:
    return Net().half()


@zoo("bfloat16", "precision", dtype=torch.bfloat16, tolerance=HALF, expect=ALL)
def bfloat16() -> nn.Module:
    return Net().bfloat16()


@zoo("double", "precision", dtype=torch.float64, tolerance=1e-9, expect=ALL)
def double() -> nn.Module:
    return Net().double()


@zoo("channels_last_memory", "precision", expect=ALL)
def channels_last() -> nn.Module:
    return Net().to(memory_format=torch.channels_last)


@zoo("frozen", "flags", expect=ALL)
def frozen() -> nn.Module:
    return Net().requires_grad_(False)


@zoo("frozen_parts", "flags", expect=ALL)
def frozen_parts() -> nn.Module:
    model = Net()
    model.stem.requires_grad_(False)
    model.blk[1].bias.requires_grad_(False)
    return model


@zoo("mixed_flags", "flags", expect=ALL)
def mixed_flags() -> nn.Module:
    model = Net()
    model.keeps_its_mode = True
    model.train()
    model.neck.eval()
    model.stem[1].eval()
    return model


@zoo("gradients_already_there", "flags", expect=ALL)
def with_gradients() -> nn.Module:
    model = Net()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return model
