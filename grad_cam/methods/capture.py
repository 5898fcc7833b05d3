"""The attention of a running vision transformer, however it is written, as tensors of the autograd graph.

While `Capture` is active, fused calls are written out and unfused ones are seen at their softmax. It is a mode of the
calling thread; no module is changed and no hook is set. `gradients` and `block_gradients` differentiate scores with
respect to what was captured.

Attention matrices are (B, heads, queries, keys). Prefix tokens (class, distillation, register tokens) come before the
tokens of the picture's grid, which lie row by row.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..batchnorm import correct_gradients
from .common import INSTEAD_OF_ATTENTION, MethodError, working

_MOST_PREFIX = 64  # tokens besides the grid's that are still taken for class and register tokens

_SOFTMAX = {torch.softmax, Tensor.softmax, functional.softmax, torch.special.softmax}
_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
_MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)


class Capture(TorchFunctionMode):
    """While active, keeps every attention over all positions of the picture as a tensor of the autograd graph.

    ::

        with torch.enable_grad(), Capture(batch, positions) as capture:
            logits = model(images)
        attentions = capture.attentions()

    It sees `scaled_dot_product_attention`, `nn.MultiheadAttention` and softmax followed by a matrix product, and
    writes the first two out: softmax(q k^T * scale + mask) v, without dropout. The first attention becomes the leaf
    of the graph if nothing before it requires grad, so that no graph is kept of what comes before. Attention over
    anything else (windows, channels, pooled keys) is left as it is and only counted.

    Args:
        batch: Number of images B.
        positions: Number of tokens of the picture's grid, h * w.
    """

    def __init__(self, batch: int, positions: int) -> None:
        super().__init__()
        self.batch = batch
        self.positions = positions
        self.found: list[Tensor] = []
        self.others: list[tuple[int, ...]] = []
        self._value: Tensor | None = None
        self._twins = False  # whether two attentions share their values
        self._open = 0  # attentions at the end of `found` whose matrix product is still to come

    def attentions(self) -> list[Tensor]:
        """What was captured, one (B, heads, queries, keys) for each attention, in order.

        A few blocks with attention of another kind (VOLO's outlook attention, TNT's inner one) are left out, as if they
        passed every token on unchanged.

        Raises:
            MethodError: The model has no self-attention over all positions, or most of its attention is over
                windows, channels or pooled keys.
        """
        square = [a for a in self.found if a.shape[-1] == a.shape[-2]]
        if not self.found and not self.others:
            raise MethodError(
                f"the model has no attention that can be seen, as a convolutional network; {INSTEAD_OF_ATTENTION}"
            )
        if not square or len(self.others) > len(self.found):
            shapes = ", ".join(f"{q}x{k}" for q, k in dict.fromkeys(shape[-2:] for shape in self.others))
            total = len(self.found) + len(self.others)
            raise MethodError(
                f"of the model's {total} attentions {len(square)} are self-attention over all {self.positions} "
                f"positions; the others ({shapes or 'single queries'}) are over windows, channels or "
                f"pooled keys, through which relevance cannot be followed; {INSTEAD_OF_ATTENTION}"
            )
        if self._twins:
            raise MethodError(
                "the model subtracts one fused attention from another (differential attention), which cannot be "
                "followed in one map; build it unfused (timm.layers.set_fused_attn(False)), or use grad_cam instead"
            )
        last = max(i for i, a in enumerate(self.found) if a.shape[-1] == a.shape[-2])
        if any(pools(a[:, 0], self.found) for a in self.found[:last]):
            raise MethodError(
                "the model mixes several sets of tokens by cross-attention, which cannot be followed in one map; "
                f"{INSTEAD_OF_ATTENTION}"
            )
        return self.found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._fused(func, *args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._multi_head(func, args, kwargs)
        if func in _SOFTMAX:
            return self._softmax(func(*args, **kwargs), args, kwargs)
        if self._open and (func in _MATMUL or func is torch.einsum):
            for factor in [a for a in args if isinstance(a, Tensor)][:1]:
                self._multiplied(factor)
        return func(*args, **kwargs)

    # -- the three ways attention is written

    def _fused(
        self, func: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if not self._fits((*query.shape[:-1], key.shape[-2])):
            plain: Tensor = func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
            return plain
        self._twins, self._value = self._twins or value is self._value, value
        if enable_gqa:  # fewer heads of keys and values, shared by groups of queries
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        probabilities = self._keep(_probabilities(query, key, attn_mask, is_causal, scale))
        return probabilities.to(value.dtype) @ value

    def _multi_head(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _MULTI_HEAD.bind(*args, **kwargs)
        call.apply_defaults()
        a = call.arguments
        query, key, value = a["query"], a["key"], a["value"]
        extended = a["bias_k"] is not None or a["add_zero_attn"] or a["static_k"] is not None
        if query.ndim != 3 or extended:
            return func(*args, **kwargs)
        heads, (length, batch, width), bias = a["num_heads"], query.shape, a["in_proj_bias"]
        if not self._fits((batch, heads, length, len(key))):
            return func(*args, **kwargs)
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        weights = [a[n] for n in names] if a["use_separate_proj_weight"] else a["in_proj_weight"].chunk(3)
        biases = [None] * 3 if bias is None else bias.chunk(3)
        q, k, v = (
            functional.linear(x, w, b).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)  # (B,heads,N,d)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = _additive(a["attn_mask"], q)
        if mask is not None and mask.ndim == 3:
            mask = mask.reshape(batch, heads, *mask.shape[1:])
        padding = _additive(a["key_padding_mask"], q)
        if padding is not None:
            mask = padding[:, None, None] if mask is None else mask + padding[:, None, None]
        probabilities = self._keep(_probabilities(q, k, mask, a["is_causal"] and mask is None, None))
        mixed = (probabilities.to(v.dtype) @ v).permute(2, 0, 1, 3).reshape(length, batch, width)  # (N,B,C)
        out = functional.linear(mixed, a["out_proj_weight"], a["out_proj_bias"])
        if not a["need_weights"]:
            return out, None
        return out, probabilities.mean(1) if a["average_attn_weights"] else probabilities

    def _softmax(self, out: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        last = isinstance(dim, int) and dim in (-1, out.ndim - 1)
        if not last or out.ndim < 3 or out.shape[-1] < 2 or not self._fits(tuple(out.shape), strict=True):
            return out
        out = self._keep(out)
        self._open += 1
        return out

    def _multiplied(self, left: Tensor) -> None:
        """Closes an attention at its product; a mixture of several softmaxes (ConViT) takes their place."""
        if left.shape[-2:] != self.found[-1].shape[-2:] or left.ndim < 3:
            return
        if self._open > 1 and left.ndim == 4 and _is_stochastic(left):
            self.found[-self._open :] = [left]
        self._open = 0

    # -- what is kept

    def _fits(self, shape: tuple[int, ...], strict: bool = False) -> bool:
        """Whether an attention of a shape is over all positions; if not, it is counted."""
        queries, keys = shape[-2:]
        over_all = 0 <= keys - self.positions <= _MOST_PREFIX and queries in (keys, *range(1, min(keys, 9)))
        if len(shape) == 4 and over_all and shape[0] == self.batch:
            return True
        if len(shape) == 3 and over_all and shape[0] % self.batch == 0:
            return True
        if queries > 1 and (not strict or len(shape) > 3 or queries == keys):
            self.others.append(shape)
        return False

    def _keep(self, probabilities: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not probabilities.requires_grad:
            probabilities = probabilities.detach().requires_grad_()
        if probabilities.ndim == 3:  # what multiplies and what is differentiated must be one tensor's descendants
            whole = probabilities.reshape(self.batch, -1, *probabilities.shape[1:])
            self.found.append(whole)
            return whole.reshape(probabilities.shape)
        self.found.append(probabilities)
        return probabilities


def pools(matrix: Tensor, attentions: Sequence[Tensor]) -> bool:
    """Whether an attention with few queries reads the tokens out, rather than updating class tokens among them.

    Class attention (CaiT) comes with class tokens that the blocks before did not have; otherwise it is pooling.
    """
    queries, keys = matrix.shape[-2:]
    return queries < keys and all(a.shape[-2] != a.shape[-1] or a.shape[-1] == keys for a in attentions)


def _is_stochastic(matrix: Tensor) -> bool:
    """Whether the rows are shares that sum to one."""
    plain = working(matrix.detach())
    return bool((plain >= 0).all()) and bool(((plain.sum(-1) - 1).abs() < 1e-2).all())


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """softmax(q k^T * scale + mask), in float32 for half precisions; rows without any key are zero."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = working(query) * scale @ working(key).transpose(-2, -1)  # (...,Q,K)
    if causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if mask is not None and mask.dtype == torch.bool:  # True takes part
        logits = logits.masked_fill(~mask, -math.inf)
    elif mask is not None:
        logits = logits + mask
    out = logits.softmax(-1)
    return out if mask is None else out.masked_fill((logits == -math.inf).all(-1, keepdim=True), 0.0)


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """The masks of `nn.MultiheadAttention`, whose True means left out, as numbers to add."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)


# ------------------------------------------------------------------------------------------------------- gradients


def gradients(score: Tensor, attentions: Sequence[Tensor], *, keep_graph: bool = False) -> list[Tensor]:
    """The gradient of a score with respect to every attention, in one backward pass.

    Args:
        score: Scores (B,) of a run under `Capture`.
        attentions: What was captured.
        keep_graph: Whether the graph is used again, for another score.

    Returns:
        d score / d attention, like `attentions`; zeros where the score does not depend on one.
    """
    if not score.requires_grad:
        raise MethodError("the score does not depend on the model's attention, so it has no gradient there")
    ones = torch.ones_like(score)
    return list(torch.autograd.grad(score, attentions, ones, retain_graph=keep_graph, materialize_grads=True))


@torch.enable_grad()
def block_gradients(
    stages: Sequence[Callable[[Any], Any]],
    images: Tensor,
    scores: Sequence[Callable[[Tensor], Tensor]],
    positions: int,
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """For `le_grad`: every block scored through the model's own head, differentiated by its own attention.

    Args:
        stages: The model as functions applied one after another, each holding one block at most; the last returns
            logits.
        images: Model inputs, (B, C, H, W).
        scores: K functions from logits to scores (B,).
        positions: Number of tokens of the picture's grid, h * w.

    Returns:
        The attentions of all blocks, each (B, heads, N, N), and for each of the K scores their gradients, without a
        graph.

    Raises:
        MethodError: There is no self-attention over all positions, a stage holds several blocks, or the head cannot
            read an earlier block's tokens.
    """
    blocks = _blocks(stages, images, positions)
    head = stages[blocks[-1][0] + 1 :]
    attentions, found = [], [[] for _ in scores]  # type: ignore[var-annotated]
    for i, attention, out in blocks:
        try:
            logits = out
            for stage in head:
                logits = stage(logits)
        except (RuntimeError, IndexError, ValueError) as error:
            raise MethodError(
                f"the head cannot read the tokens of the block in stage {i} ({error}): its blocks differ in shape; use "
                "gradient_rollout, grad_cam or layer_cam instead"
            ) from error
        correct_gradients(logits)
        for k, score in enumerate(scores):
            found[k].append(gradients(score(logits), [attention], keep_graph=k + 1 < len(scores))[0])
        attentions.append(attention.detach())
    return attentions, found


def _blocks(stages: Sequence[Callable[[Any], Any]], images: Tensor, positions: int) -> list[tuple[int, Tensor, Any]]:
    """Runs the stages one by one: stage, self-attention and output of every block, each with a graph of its own."""
    blocks: list[tuple[int, list[Tensor], Any]] = []
    seen = Capture(len(images), positions)
    x: Any = images.detach()
    for i, stage in enumerate(stages):
        capture = Capture(len(images), positions)
        with capture:
            out = stage(x)
        square = [a for a in capture.found if a.shape[-1] == a.shape[-2]]
        seen.found += [a.detach() for a in capture.found]
        seen.others += capture.others
        if square:
            blocks.append((i, square, out))
        x = _detached(out)
    seen.attentions()  # raises where there is none
    crowded = next((i for i, square, _ in blocks if len(square) > 1), None)
    if crowded is not None:
        raise MethodError(
            f"stage {crowded} of {len(stages)} holds several blocks, and LeGrad scores each block: cut the model "
            "deeper, or use gradient_rollout"
        )
    return [(i, attention, out) for i, (attention,), out in blocks]


def _detached(value: Any) -> Any:
    """The output of a stage without its graph, cloned so that in-place operations cannot change it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (tuple, list)):
        return type(value)(_detached(v) for v in value)
    return value
