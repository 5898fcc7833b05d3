"""Maps from the attention of vision transformers: three pure functions of attention and its gradients.

Attention matrices are (B, heads, queries, keys), see `capture`. Prefix tokens come before the tokens of the picture's
grid, which lie row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .capture import pools
from .common import INSTEAD_OF_ATTENTION, MethodError, working
from .registry import method


@method(
    "Attention rollout", kind="attention", source="Abnar and Zuidema, ACL 2020",
    link="https://arxiv.org/abs/2005.00928", advice="Where a transformer looks, whatever the class; rather diffuse.",
)  # fmt: skip
def attention_rollout(attention: Sequence[Tensor], attention_reading: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much of each patch flows into what the head reads, if attention were all that mixes tokens.

    Args:
        attention: One for each block, in order, (B, heads, N, N).
        attention_reading: How much of each token the head reads, (B, T), see `tokens_read`.
        grid: Height and width of the picture in tokens.

    Returns:
        Product over blocks of the row-normalised (mean_h A + I), read at the head's tokens, (B, h, w). Not about a
        class.

    Source:
        Abnar and Zuidema, ACL 2020, sec. 3, https://arxiv.org/abs/2005.00928
    """
    tokens, prefix = _tokens(attention, grid)
    flow = torch.eye(tokens, dtype=working(attention[0]).dtype, device=attention[0].device)  # (T,T)
    reading = attention_reading  # (B,T)
    for each in attention:
        mean = working(each).mean(1)  # (B,Q,K)
        if pools(mean, attention):
            reading = mean.mean(1)  # (B,T): the pooling attention reads the tokens
            continue
        step = _among_all(mean, tokens) + torch.eye(tokens, dtype=flow.dtype, device=flow.device)
        flow = (step / step.sum(-1, keepdim=True)) @ flow  # (B,T,T)
    return _as_map(torch.einsum("bt,btk->bk", reading, flow), prefix, grid)


@method(
    "Gradient rollout", kind="attention", source="Chefer et al., ICCV 2021", link="https://arxiv.org/abs/2103.15679",
    advice="The usual start for a vision transformer: attention of all blocks that speaks for the class.",
)  # fmt: skip
def gradient_rollout(
    attention: Sequence[Tensor], attention_gradients: Sequence[Tensor], grid: tuple[int, int]
) -> Tensor:
    """How much of each patch flows into what the head reads, along attention that speaks for the target.

    Args:
        attention: One for each block, in order, (B, heads, N, N).
        attention_gradients: d score / d attention, like `attention`.
        grid: Height and width of the picture in tokens.

    Returns:
        R of R <- R + mean_h ReLU(g A) R from R = I, read at the head's tokens, (B, h, w).

    Source:
        Chefer et al., ICCV 2021, eq. 5-6, https://arxiv.org/abs/2103.15679

    Note:
        The paper reads the class token's row. Where the head reads other tokens (average pooling, a distillation
        token), the mean of their rows is taken; where it pools by attention, that attention reads them.
    """
    tokens, prefix = _tokens(attention, grid)
    identity = torch.eye(tokens, dtype=working(attention[0]).dtype, device=attention[0].device)  # (T,T)
    flow = identity.expand(len(attention[0]), -1, -1)
    reading = tokens_read(attention_gradients)  # (B,T)
    for each, gradient in zip(attention, attention_gradients, strict=True):
        relevance = (working(gradient) * working(each)).clamp(min=0).mean(1)  # (B,Q,K)
        if pools(relevance, attention):
            reading = relevance.mean(1)
        else:
            flow = flow + _among_all(relevance, tokens) @ flow
    return _as_map(torch.einsum("bt,btk->bk", reading, flow - identity), prefix, grid)


@method(
    "LeGrad", kind="attention", source="Bousselham et al., 2024", link="https://arxiv.org/abs/2404.03214",
    advice="Sensitive to every block of a vision transformer; good for large and CLIP-like models.",
)  # fmt: skip
def le_grad(block_attention: Sequence[Tensor], block_gradients: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """How strongly more attention to each patch would raise the score, averaged over blocks.

    Args:
        block_attention: One for each block, (B, heads, N, N); only their shapes are read.
        block_gradients: d score of the block / d its attention, where the score of a block comes from its own tokens
            through the model's head (see `capture.block_gradients`).
        grid: Height and width of the picture in tokens.

    Returns:
        Mean over blocks, heads and queries of ReLU(g), (B, h, w).

    Source:
        Bousselham et al., 2024 (LeGrad), eq. 5-8, https://arxiv.org/abs/2404.03214

    Note:
        The paper scores the average of a block's tokens; here the model's own pooling (class token, average,
        attention) reads them, so that what is explained is what the model does.
    """
    tokens, prefix = _tokens(block_attention, grid)
    total = torch.zeros_like(working(block_gradients[0])[:, 0, 0, :1]).expand(-1, tokens)  # (B,T)
    for gradient in block_gradients:
        raised = working(gradient).clamp(min=0).mean((1, 2))  # (B,K)
        total = total + functional.pad(raised, (tokens - raised.shape[1], 0))
    return _as_map(total / len(block_gradients), prefix, grid)


def _tokens(attentions: Sequence[Tensor], grid: tuple[int, int]) -> tuple[int, int]:
    """Number of tokens, and how many of them precede the grid's."""
    if not attentions:
        raise MethodError(f"there is no attention to follow; {INSTEAD_OF_ATTENTION}")
    tokens, positions = max(a.shape[-1] for a in attentions), grid[0] * grid[1]
    if tokens < positions:
        raise MethodError(f"the attention is over {tokens} tokens, too few for a grid of {grid[0]}x{grid[1]}")
    return tokens, tokens - positions


def _among_all(matrix: Tensor, tokens: int) -> Tensor:
    """A matrix (B, Q, K) among all tokens (B, T, T); tokens that take no part in it keep a row of zeros."""
    queries, keys = matrix.shape[-2:]
    if queries == keys:  # blocks without the class tokens that come later
        return functional.pad(matrix, (tokens - keys, 0, tokens - keys, 0))
    return functional.pad(matrix, (tokens - keys, 0, 0, tokens - queries))  # class attention


def tokens_read(attention_gradients: Sequence[Tensor]) -> Tensor:
    """The tokens the head reads, as weights (B, T) that sum to one.

    In the last block a query reaches the score through its own token only: the rows that have a gradient are read.

    Args:
        attention_gradients: The gradient of a score on each attention, (B, heads, queries, keys).
    """
    tokens = max(g.shape[-1] for g in attention_gradients)
    last = [g for g in attention_gradients if g.shape[-2] == g.shape[-1]] or list(attention_gradients)
    gradient = attention_gradients[-1]
    if pools(gradient[:, 0], attention_gradients):
        gradient = last[-1]
    rows = _among_all(working(gradient).abs().sum(1), tokens).sum(-1)  # (B,T)
    read = (rows > 0).to(rows)
    silent = read.sum(1, keepdim=True) == 0  # a constant score: no row is better than another
    return torch.where(silent, torch.full_like(read, 1 / tokens), read / read.sum(1, keepdim=True).clamp(min=1))


def _as_map(relevance: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    return relevance[:, prefix:].reshape(-1, *grid)  # (B,h,w)
