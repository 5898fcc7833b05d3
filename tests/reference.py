"""The methods once more, slowly: plain loops over float64 arrays, written from the papers' equations.

Nothing here is shared with the package. Activations `A` and gradients `g` are numpy arrays (B, C, H, W).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _positions(A: Array) -> list[tuple[int, int]]:
    return list(itertools.product(range(A.shape[2]), range(A.shape[3])))


def _sum_over_channels(A: Array, weight: Callable[[int, int], float]) -> Array:
    """sum_k w_k A_k with the weight of image b and channel k."""
    out = np.zeros((A.shape[0], *A.shape[2:]))
    for b in range(A.shape[0]):
        for k in range(A.shape[1]):
            w = weight(b, k)
            for i, j in _positions(A):
                out[b, i, j] += w * A[b, k, i, j]
    return out


def _sum_of_terms(A: Array, term: Callable[[int, int, int, int], float]) -> Array:
    """sum_k of a term of image b, channel k, position i, j."""
    out = np.zeros((A.shape[0], *A.shape[2:]))
    for b in range(A.shape[0]):
        for i, j in _positions(A):
            out[b, i, j] = sum(term(b, k, i, j) for k in range(A.shape[1]))
    return out


def grad_cam(A: Array, g: Array) -> Array:
    """Selvaraju 2017: alpha_k = 1/Z sum_ij dy/dA_ij (eq. 1), sum_k alpha_k A_k (eq. 2, before its ReLU)."""

    def weight(b: int, k: int) -> float:
        return sum(g[b, k, i, j] for i, j in _positions(A)) / len(_positions(A))

    return _sum_over_channels(A, weight)


def grad_cam_plus_plus(A: Array, g: Array) -> Array:
    """Chattopadhay 2018: alpha_ij of eq. 19, w_k = sum_ij alpha_ij ReLU(dy/dA_ij) of eq. 7."""

    def weight(b: int, k: int) -> float:
        total, w = sum(A[b, k, i, j] for i, j in _positions(A)), 0.0
        for i, j in _positions(A):
            d = g[b, k, i, j]
            if d != 0:
                alpha = d**2 / (2 * d**2 + total * d**3)
                w += alpha * max(d, 0.0)
        return w

    return _sum_over_channels(A, weight)


def smooth_grad_cam_plus_plus(A: Array, noisy: list[Array]) -> Array:
    """Omeiza 2019: Grad-CAM++ with the first, second and third powers averaged over the noisy copies."""

    def weight(b: int, k: int) -> float:
        total, w = sum(A[b, k, i, j] for i, j in _positions(A)), 0.0
        for i, j in _positions(A):
            d1, d2, d3 = (sum(g[b, k, i, j] ** p for g in noisy) / len(noisy) for p in (1, 2, 3))
            if d2 != 0:
                w += d2 / (2 * d2 + total * d3) * max(d1, 0.0)
        return w

    return _sum_over_channels(A, weight)


def xgrad_cam(A: Array, g: Array) -> Array:
    """Fu 2020: w_k = sum_ij (A_ij / sum_ij A_ij) dy/dA_ij."""

    def weight(b: int, k: int) -> float:
        total = sum(A[b, k, i, j] for i, j in _positions(A))
        return sum(A[b, k, i, j] / total * g[b, k, i, j] for i, j in _positions(A)) if total else 0.0

    return _sum_over_channels(A, weight)


def hires_cam(A: Array, g: Array) -> Array:
    """Draelos 2020: sum_k dy/dA_k * A_k, position by position."""
    return _sum_of_terms(A, lambda b, k, i, j: g[b, k, i, j] * A[b, k, i, j])


def grad_cam_element_wise(A: Array, g: Array) -> Array:
    """pytorch-grad-cam: the sum of the positive products."""
    return _sum_of_terms(A, lambda b, k, i, j: max(g[b, k, i, j] * A[b, k, i, j], 0.0))


def layer_cam(A: Array, g: Array) -> Array:
    """Jiang 2021: w_ij = ReLU(dy/dA_ij), sum_k w_ij A_ij."""
    return _sum_of_terms(A, lambda b, k, i, j: max(g[b, k, i, j], 0.0) * A[b, k, i, j])


def norm_grad(A: Array, g: Array) -> Array:
    """Rebuffi 2020: the Frobenius norm of the outer product of g and A at a position (virtual 1x1 convolution)."""
    B, _, H, W = A.shape
    out = np.zeros((B, H, W))
    for b, i, j in np.ndindex(B, H, W):
        out[b, i, j] = np.linalg.norm(np.outer(g[b, :, i, j], A[b, :, i, j]))
    return out


def integrated_grad_cam(A: Array, gradient: Callable[[Array], Array], steps: int) -> Array:
    """Sattarzadeh 2021: the Riemann sum of Grad-CAM along the path from zero to A."""
    return sum(grad_cam(A * t, gradient(A * t)) for t in (s / steps for s in range(1, steps + 1))) / steps


def shapley_cam(A: Array, gradient: Callable[[Array], Array]) -> Array:
    """Cai 2025: weights mean(g - H A / 2), with H A as a central difference of the gradient along A."""
    h = 1e-4
    curvature = (gradient(A * (1 + h)) - gradient(A * (1 - h))) / (2 * h)
    return grad_cam(A, gradient(A) - curvature / 2)


def principal_component(terms: Array) -> Array:
    """Full singular value decomposition of the centred (positions x channels) matrix; sign as sum over channels."""
    out = []
    for image in terms:
        rows = image.reshape(len(image), -1).T
        rows = rows - rows.mean(0)
        direction = np.linalg.svd(rows, full_matrices=False)[2][0]
        projection = rows @ direction
        if projection @ rows.sum(1) < 0:
            projection = -projection
        out.append(projection.reshape(image.shape[1:]))
    return np.array(out)


def fem(A: Array, sigmas: float = 2.0) -> Array:
    """Fuad 2020: binary maps by the sigma rule, each weighted by the mean of its binary map."""

    def weight(b: int, k: int) -> float:
        values = [A[b, k, i, j] for i, j in _positions(A)]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return sum(v > mean + sigmas * deviation for v in values) / len(values)

    return _sum_over_channels(A, weight)


def kpca_cam(A: Array, gamma: float | None = None) -> Array:
    """Karmani 2024: the first component of a doubly centred sigmoid kernel between all positions."""
    out = []
    for image in A:
        rows = image.reshape(len(image), -1).T
        rows = rows - rows.mean(0)
        n = len(rows)
        kernel = np.array([[math.tanh((gamma or 1 / len(image)) * (x @ y) + 1) for y in rows] for x in rows])
        centring = np.eye(n) - np.ones((n, n)) / n
        values, vectors = np.linalg.eigh(centring @ kernel @ centring)
        projection = vectors[:, -1] * math.sqrt(values[-1])
        if projection @ rows.sum(1) < 0:
            projection = -projection
        out.append(projection.reshape(image.shape[1:]))
    return np.array(out)
