"""Maps from the attention of vision transformers, whatever their attention is written in.

`Capture` makes the attention probabilities of a running model available as tensors of the autograd graph: while it is
active, fused calls are written out and unfused ones are seen at their softmax. It is a mode of the calling thread; no
module is changed and no hook is set. `gradients` and `block_gradients` differentiate scores with respect to what was
captured, and the three methods are pure functions of both.

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
from .common import MethodError, working

_MOST_PREFIX = 64  # tokens besides the grid's that are still taken for class and register tokens
_INSTEAD = "use grad_cam, hires_cam, layer_cam or eigen_cam instead"

_SOFTMAX = {torch.softmax, Tensor.softmax, functional.softmax, torch.special.softmax}
_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
_MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)


# ------------------------------------------------------------------------------------------------------- methods


def attention_rollout(attentions: Sequence[Tensor], gradients: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """How much of each patch flows into what the head reads, if attention were all that mixes tokens.

    Args:
        attentions: One for each block, in order, (B, heads, N, N).
        gradients: d score / d attention, like `attentions`; tells only which tokens the head reads.
        grid: Height and width of the picture in tokens.

    Returns:
        Product over blocks of the row-normalised (mean_h A + I), read at the head's tokens, (B, h, w). Not about a
        class.

    Source:
        Abnar and Zuidema, ACL 2020, sec. 3, https://arxiv.org/abs/2005.00928
    """
    tokens, prefix = _tokens(attentions, grid)
    flow = torch.eye(tokens, dtype=working(attentions[0]).dtype, device=attentions[0].device)  # (T,T)
    reading = _read(gradients, tokens)  # (B,T)
    for attention in attentions:
        mean = working(attention).mean(1)  # (B,Q,K)
        if _pools(mean, attentions):
            reading = mean.mean(1)  # (B,T): the pooling attention reads the tokens
            continue
        step = _among_all(mean, tokens) + torch.eye(tokens, dtype=flow.dtype, device=flow.device)
        flow = (step / step.sum(-1, keepdim=True)) @ flow  # (B,T,T)
    return _as_map(torch.einsum("bt,btk->bk", reading, flow), prefix, grid)


def gradient_rollout(attentions: Sequence[Tensor], gradients: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """How much of each patch flows into what the head reads, along attention that speaks for the target.

    Args:
        attentions: One for each block, in order, (B, heads, N, N).
        gradients: d score / d attention, like `attentions`.
        grid: Height and width of the picture in tokens.

    Returns:
        R of R <- R + mean_h ReLU(g A) R from R = I, read at the head's tokens, (B, h, w).

    Source:
        Chefer et al., ICCV 2021, eq. 5-6, https://arxiv.org/abs/2103.15679

    Note:
        The paper reads the class token's row. Where the head reads other tokens (average pooling, a distillation
        token), the mean of their rows is taken; where it pools by attention, that attention reads them.
    """
    tokens, prefix = _tokens(attentions, grid)
    identity = torch.eye(tokens, dtype=working(attentions[0]).dtype, device=attentions[0].device)  # (T,T)
    flow = identity.expand(len(attentions[0]), -1, -1)
    reading = _read(gradients, tokens)  # (B,T)
    for attention, gradient in zip(attentions, gradients, strict=True):
        relevance = (working(gradient) * working(attention)).clamp(min=0).mean(1)  # (B,Q,K)
        if _pools(relevance, attentions):
            reading = relevance.mean(1)
        else:
            flow = flow + _among_all(relevance, tokens) @ flow
    return _as_map(torch.einsum("bt,btk->bk", reading, flow - identity), prefix, grid)


def le_grad(attentions: Sequence[Tensor], gradients: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """How strongly more attention to each patch would raise the score, averaged over blocks.

    Args:
        attentions: One for each block, (B, heads, N, N); only their shapes are read.
        gradients: d score of the block / d its attention, where the score of a block comes from its own tokens
            through the model's head (see `block_gradients`).
        grid: Height and width of the picture in tokens.

    Returns:
        Mean over blocks, heads and queries of ReLU(g), (B, h, w).

    Source:
        Bousselham et al., 2024 (LeGrad), eq. 5-8, https://arxiv.org/abs/2404.03214

    Note:
        The paper scores the average of a block's tokens; here the model's own pooling (class token, average,
        attention) reads them, so that what is explained is what the model does.
    """
    tokens, prefix = _tokens(attentions, grid)
    total = torch.zeros_like(working(gradients[0])[:, 0, 0, :1]).expand(-1, tokens)  # (B,T)
    for gradient in gradients:
        raised = working(gradient).clamp(min=0).mean((1, 2))  # (B,K)
        total = total + functional.pad(raised, (tokens - raised.shape[1], 0))
    return _as_map(total / len(gradients), prefix, grid)


def _tokens(attentions: Sequence[Tensor], grid: tuple[int, int]) -> tuple[int, int]:
    """Number of tokens, and how many of them precede the grid's."""
    if not attentions:
        raise MethodError(f"there is no attention to follow; {_INSTEAD}")
    tokens, positions = max(a.shape[-1] for a in attentions), grid[0] * grid[1]
    if tokens < positions:
        raise MethodError(f"the attention is over {tokens} tokens, too few for a grid of {grid[0]}x{grid[1]}")
    return tokens, tokens - positions


def _pools(matrix: Tensor, attentions: Sequence[Tensor]) -> bool:
    """Whether an attention with few queries reads the tokens out, rather than updating class tokens among them.

    Class attention (CaiT) comes with class tokens that the blocks before did not have; otherwise it is pooling.
    """
    queries, keys = matrix.shape[-2:]
    return queries < keys and all(a.shape[-2] != a.shape[-1] or a.shape[-1] == keys for a in attentions)


def _among_all(matrix: Tensor, tokens: int) -> Tensor:
    """A matrix (B, Q, K) among all tokens (B, T, T); tokens that take no part in it keep a row of zeros."""
    queries, keys = matrix.shape[-2:]
    if queries == keys:  # blocks without the class tokens that come later
        return functional.pad(matrix, (tokens - keys, 0, tokens - keys, 0))
    return functional.pad(matrix, (tokens - keys, 0, 0, tokens - queries))  # class attention


def _read(gradients: Sequence[Tensor], tokens: int) -> Tensor:
    """The tokens the head reads, as weights (B, T) that sum to one.

    In the last block a query reaches the score through its own token only: the rows that have a gradient are read.
    """
    last = [g for g in gradients if g.shape[-2] == g.shape[-1]] or list(gradients)
    gradient = gradients[-1] if not _pools(gradients[-1][:, 0], gradients) else last[-1]
    rows = _among_all(working(gradient).abs().sum(1), tokens).sum(-1)  # (B,T)
    read = (rows > 0).to(rows)
    silent = read.sum(1, keepdim=True) == 0  # a constant score: no row is better than another
    return torch.where(silent, torch.full_like(read, 1 / tokens), read / read.sum(1, keepdim=True).clamp(min=1))


def _as_map(relevance: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    return relevance[:, prefix:].reshape(-1, *grid)  # (B,h,w)


# ------------------------------------------------------------------------------------------------------- capture


class Capture(TorchFunctionMode):
    """While active, keeps every attention over all positions of the picture as a tensor of the autograd graph.

    ::

        with torch.enable_grad(), Capture(batch, positions) as capture:
            logits = model(images)
        attentions = capture.attentions()

    It sees `scaled_dot_product_attention`, `nn.MultiheadAttention` and softmax followed by a matrix product, and
    writes the first two out: softmax(q k^T * scale + mask) v, without dropout. The first attention becomes the leaf
    of the graph if nothing before it requires grad, so that no graph is kept of what comes before. Attention over
    other things (windows, channels, pooled keys) is left as it is and only counted.

    Args:
        batch: Number of images B.
        positions: Number of tokens of the picture's grid, h * w.
    """

    def __init__(self, batch: int, positions: int) -> None:
        super().__init__()
        self.batch, self.positions = batch, positions
        self.found: list[Tensor] = []
        self.others: list[tuple[int, ...]] = []
        self._value: Tensor | None = None
        self._twins = False  # whether two attentions share their values
        self._open = 0  # attentions at the end of `found` whose matrix product is still to come

    def attentions(self) -> list[Tensor]:
        """What was captured, one (B, heads, queries, keys) for each attention, in order.

        A few blocks with attention of another kind (VOLO's outlook attention, TNT's inner one) are left out, as if they
        passed every token on.

        Raises:
            MethodError: The model has no self-attention over all positions, or most of its attention is over
                windows, channels or pooled keys.
        """
        square = [a for a in self.found if a.shape[-1] == a.shape[-2]]
        if not self.found and not self.others:
            raise MethodError(f"the model has no attention that can be seen, as a convolutional network; {_INSTEAD}")
        if not square or len(self.others) > len(self.found):
            shapes = ", ".join(f"{q}x{k}" for q, k in dict.fromkeys(shape[-2:] for shape in self.others))
            total = len(self.found) + len(self.others)
            raise MethodError(
                f"of the model's {total} attentions {len(square)} are self-attention over all {self.positions} "
                f"positions; the others ({shapes or 'single queries'}) are over windows, channels or "
                f"pooled keys, through which relevance cannot be followed; {_INSTEAD}"
            )
        if self._twins:
            raise MethodError(
                "the model subtracts one fused attention from another (differential attention), which cannot be "
                "followed in one map; build it unfused (timm.layers.set_fused_attn(False)), or use grad_cam instead"
            )
        last = max(i for i, a in enumerate(self.found) if a.shape[-1] == a.shape[-2])
        if any(_pools(a[:, 0], self.found) for a in self.found[:last]):
            raise MethodError(
                "the model mixes several sets of tokens by cross-attention, which cannot be followed in one map; "
                f"{_INSTEAD}"
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
            return func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
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
    seen.attentions()  # says what is missing
    crowded = next((i for i, square, _ in blocks if len(square) > 1), None)
    if crowded is not None:
        raise MethodError(
            f"stage {crowded} of {len(stages)} holds several blocks, and LeGrad scores each block: cut the model "
            "deeper, or use gradient_rollout"
        )
    head = stages[blocks[-1][0] + 1 :]
    attentions, found = [], [[] for _ in scores]  # type: ignore[var-annotated]
    for i, (attention,), out in blocks:
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


def _detached(value: Any) -> Any:
    """What one stage hands to the next, without its graph and safe from being changed in place."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (tuple, list)):
        return type(value)(_detached(v) for v in value)
    return value


ENTRIES: dict[str, dict[str, Any]] = {
    "attention_rollout": {
        "title": "Attention rollout",
        "function": attention_rollout,
        "kind": "attention",
        "needs": "attention",  # function(attentions, gradients, grid), see Capture and gradients
        "source": "Abnar and Zuidema, ACL 2020",
        "link": "https://arxiv.org/abs/2005.00928",
        "advice": "Where a transformer looks, whatever the class; rather diffuse.",
    },
    "gradient_rollout": {
        "title": "Gradient rollout",
        "function": gradient_rollout,
        "kind": "attention",
        "needs": "attention",  # function(attentions, gradients, grid), see Capture and gradients
        "source": "Chefer et al., ICCV 2021",
        "link": "https://arxiv.org/abs/2103.15679",
        "advice": "The usual start for a vision transformer: attention of all blocks that speaks for the class.",
    },
    "le_grad": {
        "title": "LeGrad",
        "function": le_grad,
        "kind": "attention",
        "needs": "block_attention",  # function(attentions, gradients, grid), see block_gradients
        "source": "Bousselham et al., 2024",
        "link": "https://arxiv.org/abs/2404.03214",
        "advice": "Sensitive to every block of a vision transformer; good for large and CLIP-like models.",
    },
}
"""What the registry needs to know of each method here, the keyword arguments of a `Method` besides its name."""
