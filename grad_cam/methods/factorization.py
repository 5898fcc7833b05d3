"""Maps from the structure of the activations: principal components, kernel components, outliers, concepts.

Pure functions of the activations A (B, C, H, W), some also of the gradients g (B, C, H, W). The eigenvectors come from
a short Lanczos iteration, so neither a full decomposition nor a matrix over all pairs of positions is ever needed.
Half-precision tensors are read as float32; no random numbers are taken from the global generators.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .common import MethodError, weighted_sum, without_autocast, working
from .registry import method

_LANDMARKS = 3136  # positions a kernel matrix is built over: 56 x 56, 39 MB


@method(
    "Eigen-CAM", kind="factorization", source="Muhammad and Yeasin, IJCNN 2020",
    link="https://arxiv.org/abs/2008.00299",
    advice="What stands out to this layer, whatever the class; clean maps of the main object.",
)  # fmt: skip
def eigen_cam(activations: Tensor) -> Tensor:
    """First principal component of the activations over positions: what stands out, whatever the class.

    Args:
        activations: A at the cut, (B, C, H, W).

    Returns:
        Projection of the centred activations on the first principal direction, (B, H, W), of the sign that agrees
        with sum_k A_k.

    Source:
        Muhammad and Yeasin, IJCNN 2020, https://arxiv.org/abs/2008.00299

    Note:
        The paper does not centre the activations; as in pytorch-grad-cam every channel's mean over the positions is
        subtracted, without which the first component is little more than that mean.
    """
    return principal_component(activations)


@method(
    "Eigen-Grad-CAM", kind="factorization", source="Gildenblat et al., 2021",
    link="https://github.com/jacobgil/pytorch-grad-cam", advice="As clean as Eigen-CAM, and about one class.",
)  # fmt: skip
def eigen_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of the activations times the gradients: Eigen-CAM that knows the class.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        Projection of the centred g A on its first principal direction, (B, H, W), of the sign that agrees with
        sum_k g_k A_k.

    Source:
        Gildenblat et al., pytorch-grad-cam, 2021, https://github.com/jacobgil/pytorch-grad-cam
    """
    return principal_component(working(gradients) * working(activations))


@method(
    "Seg-Eigen-CAM", kind="factorization", source="Chung and Ying, Applied Sciences 2025",
    link="https://doi.org/10.3390/app15137562", advice="For segmentation models.",
)  # fmt: skip
def seg_eigen_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of the activations times the gradients' magnitudes; made for segmentation.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        Projection of the centred abs(g) A on its first principal direction, (B, H, W), of the sign that makes the
        largest magnitude positive.

    Source:
        Chung and Ying, Applied Sciences 15(13), 2025, eq. 10-13, https://doi.org/10.3390/app15137562
    """
    maps = principal_component(working(gradients).abs() * working(activations))
    downward = maps.amin((1, 2), keepdim=True).abs() > maps.amax((1, 2), keepdim=True).abs()
    return torch.where(downward, -maps, maps)


@without_autocast
def principal_component(terms: Tensor) -> Tensor:
    """First principal component over positions.

    Args:
        terms: (B, C, H, W); the positions are the observations, the channels the variables.

    Returns:
        Projection of the centred terms on the first principal direction, (B, H, W), of the sign that agrees with
        their sum over the channels; zeros where the terms do not vary.
    """
    terms = working(terms)
    projections = [_project(image) for image in terms.flatten(2)]  # each (H*W,)
    return torch.stack(projections).reshape(len(terms), *terms.shape[2:])


def _project(terms: Tensor) -> Tensor:
    centred = terms - terms.mean(1, keepdim=True)  # (C,P)
    direction, _ = leading_eigenpair(lambda vector: centred @ (vector @ centred), centred.new_empty(len(centred)))
    return _agreeing(direction @ centred, terms)


def _agreeing(projection: Tensor, terms: Tensor) -> Tensor:
    """Gives a projection (P,) the sign of its covariance with the sum over channels of the terms (C, P)."""
    total = terms.sum(0)
    return -projection if projection @ (total - total.mean()) < 0 else projection


@method(
    "KPCA-CAM", kind="factorization", source="Karmani et al., 2024", link="https://arxiv.org/abs/2410.00267",
    advice="Eigen-CAM with a curved component, whatever the class.",
)  # fmt: skip
@without_autocast
def kpca_cam(activations: Tensor, *, gamma: float | None = None) -> Tensor:
    """First kernel principal component of the activations, with a sigmoid kernel.

    Args:
        activations: A at the cut, (B, C, H, W).
        gamma: Slope of the kernel tanh(gamma x.y + 1) of centred positions x and y; by default 1 / C.

    Returns:
        Projection on the first kernel component, (B, H, W), of the sign that agrees with sum_k A_k.

    Source:
        Karmani et al., 2024, https://arxiv.org/abs/2410.00267

    Note:
        Maps of more than 3136 positions (56 x 56) are projected on the component found from a regular grid of at
        most that many of them: the kernel matrix of all pairs at 112 x 112 would take 630 MB.
    """
    activations = working(activations)
    slope = gamma or 1 / activations.shape[1]
    stride = math.ceil(math.sqrt(activations.shape[2] * activations.shape[3] / _LANDMARKS))
    return torch.stack([_kernel_project(image, slope, stride) for image in activations])


def _kernel_project(image: Tensor, slope: float, stride: int) -> Tensor:
    centred = image - image.mean((1, 2), keepdim=True)  # (C,H,W)
    landmarks = centred[:, ::stride, ::stride].flatten(1)  # (C,M)
    kernel = torch.tanh(landmarks.T @ landmarks * slope + 1)  # (M,M)
    column = kernel.mean(0)
    shift = column.mean()
    kernel = kernel.sub_(column).sub_((column - shift)[:, None])  # centred in feature space
    component, variance = leading_eigenpair(lambda vector: kernel @ vector, column)
    if variance <= 0:
        return torch.zeros_like(image[0])
    projections = []
    for positions in centred.flatten(1).split(2048, dim=1):  # (C,<=2048)
        rows = torch.tanh(positions.T @ landmarks * slope + 1)  # (<=2048,M)
        rows = rows - rows.mean(1, keepdim=True) - column + shift
        projections.append(rows @ component / math.sqrt(variance))
    return _agreeing(torch.cat(projections), image.flatten(1)).reshape(image.shape[1:])


@method(
    "FEM", kind="factorization", source="Fuad et al., IPTA 2020", link="https://hal.science/hal-02963298",
    advice="Channels with rare, strong responses, whatever the class; cheap.",
)  # fmt: skip
def fem(activations: Tensor, *, sigmas: float = 2.0) -> Tensor:
    """Channels weighted by how many positions stand out of them: what is unusual, whatever the class.

    Args:
        activations: A at the cut, (B, C, H, W).
        sigmas: How many standard deviations above its channel's mean a position stands out.

    Returns:
        sum_k w_k A_k with w_k = mean_p[A_k > mean_k + sigmas sd_k], (B, H, W).

    Source:
        Fuad et al., IPTA 2020, https://hal.science/hal-02963298
    """
    activations = working(activations)
    centred = activations - activations.mean((2, 3), keepdim=True)
    deviation = centred.square().mean((2, 3), keepdim=True).sqrt()  # (B,C,1,1)
    weights = (centred > sigmas * deviation).to(activations.dtype).mean((2, 3))
    return weighted_sum(weights, activations)


# ---------------------------------------------------------------------------------------------------------- concepts


@dataclasses.dataclass(frozen=True)
class Factorization:
    """Activations written as a few concepts: A ~ offset + sum_k maps_k concepts_k.

    Attributes:
        maps: How much of every concept is where, (B, k, H, W), 0..1; every concept reaches 1 somewhere in the batch.
        concepts: The activation that a full measure of each concept adds, (k, C), not negative; strongest first.
        offset: The activation where no concept is present, (C,), not positive; zeros after a ReLU.
        error: What is left over, as a fraction of the norm of A - offset, 0..1.
    """

    maps: Tensor
    concepts: Tensor
    offset: Tensor
    error: float


@method(
    "Deep Feature Factorization", kind="factorization", source="Collins et al., ECCV 2018",
    link="https://arxiv.org/abs/1806.10206",
    advice="The concepts of the picture, each with a map of its own and its own class scores.", aug_smooth=False,
)  # fmt: skip
@without_autocast
def deep_feature_factorization(activations: Tensor, *, concepts: int = 5, iterations: int = 200) -> Factorization:
    """Non-negative factorization of the activations over all positions of the batch: parts that occur again.

    The images of a batch share their concepts. The factorization starts from the most different positions (successive
    projection) and alternates exact updates of one map or concept at a time (HALS) until they settle; nothing random.

    Args:
        activations: A at the cut, (B, C, H, W).
        concepts: Number k of concepts, 1..min(C, B H W).
        iterations: Largest number of rounds of updates.

    Returns:
        Maps (B, k, H, W), concept vectors (k, C), the offset and the error.

    Raises:
        MethodError: More concepts than the activations can hold, or fewer than one.

    Source:
        Collins et al., ECCV 2018, https://arxiv.org/abs/1806.10206; Araujo et al., 2001 (the start); Cichocki and
        Phan, 2009 (the updates).

    Note:
        Negative activations, which the paper does not meet, are lifted by each channel's minimum (`offset`).
    """
    activations = working(activations)
    batch, channels, height, width = activations.shape
    positions = batch * height * width
    if not 1 <= concepts <= min(channels, positions):
        raise MethodError(
            f"concepts={concepts} cannot be found in {positions} positions of {channels} channels: "
            f"use 1..{min(channels, positions)}"
        )
    matrix = activations.permute(0, 2, 3, 1).reshape(positions, channels)
    offset = matrix.amin(0).clamp(max=0)  # (C,)
    matrix = matrix - offset  # (P,C), not negative
    amounts, vectors, error = _nonnegative_factors(matrix, concepts, iterations)

    full = amounts.amax(0)  # (k,)
    amounts, vectors = amounts / torch.where(full > 0, full, 1), vectors * full[:, None]
    order = (amounts.norm(dim=0) * vectors.norm(dim=1)).argsort(descending=True, stable=True)
    maps = amounts[:, order].reshape(batch, height, width, concepts).permute(0, 3, 1, 2)
    return Factorization(maps.contiguous(), vectors[order], offset, error)


def _nonnegative_factors(matrix: Tensor, rank: int, iterations: int) -> tuple[Tensor, Tensor, float]:
    """Factors a non-negative matrix (P, C) into (P, k) times (k, C), both non-negative; returns the relative error."""
    energy = float(matrix.square().sum())
    if energy == 0:
        return matrix.new_zeros(len(matrix), rank), matrix.new_zeros(rank, matrix.shape[1]), 0.0
    vectors = matrix[_extremes(matrix, rank)]  # (k,C)
    amounts = (matrix @ torch.linalg.pinv(vectors)).clamp(min=0)  # (P,k)
    previous = math.inf
    for _ in range(iterations):
        _update(vectors.T, amounts.T @ amounts, matrix.T @ amounts)
        products, overlaps = matrix @ vectors.T, vectors @ vectors.T  # (P,k), (k,k)
        _update(amounts, overlaps, products)
        remains = 1 + float((amounts.T @ amounts * overlaps).sum() - 2 * (amounts * products).sum()) / energy
        if previous - remains < 1e-6:
            break
        previous = remains
    return amounts, vectors, math.sqrt(max(remains, 0.0))


def amounts_of(matrix: Tensor, vectors: Tensor, iterations: int = 100) -> Tensor:
    """The amount of each given concept at every position: the non-negative amounts (P, k) nearest to a matrix (P, C).

    Args:
        matrix: Activations without their offset, (P, C).
        vectors: Concepts, (k, C).
        iterations: Rounds of least squares.
    """
    products, overlaps = matrix @ vectors.T, vectors @ vectors.T  # (P,k), (k,k)
    amounts: Tensor = (matrix @ torch.linalg.pinv(vectors)).clamp(min=0)
    for _ in range(iterations):
        _update(amounts, overlaps, products)
    return amounts


def _extremes(matrix: Tensor, count: int) -> list[int]:
    """Rows that span the others: the longest, then the longest of what is left beside those already chosen."""
    left, chosen = matrix.clone(), []
    for _ in range(count):
        chosen.append(int(left.square().sum(1).argmax()))
        row = left[chosen[-1]]
        axis = row / row.norm().clamp(min=torch.finfo(row.dtype).tiny)
        left -= torch.outer(left @ axis, axis)
    return chosen


def _update(factor: Tensor, overlaps: Tensor, products: Tensor) -> None:
    """One round of least squares, in place, column by column: factor (N, k), overlaps (k, k), products (N, k)."""
    for k in range(factor.shape[1]):
        if overlaps[k, k] > 0:
            change = (products[:, k] - factor @ overlaps[:, k]) / overlaps[k, k]
            factor[:, k] = (factor[:, k] + change).clamp(min=0)


# ------------------------------------------------------------------------------------------------------- eigenvectors


def leading_eigenpair(
    product: Callable[[Tensor], Tensor], like: Tensor, *, tolerance: float = 1e-6, steps: int = 200
) -> tuple[Tensor, float]:
    """Largest eigenvalue of a symmetric matrix and its unit eigenvector, by Lanczos iteration.

    Args:
        product: Multiplies a vector (n,) by the matrix, which is never formed.
        like: A tensor (n,) of the size, dtype and device of the vectors; its values are not read.
        tolerance: Stops at a residual of this fraction of the eigenvalue.
        steps: Largest number of products.

    Returns:
        Eigenvector (n,), of arbitrary sign, and eigenvalue; for a zero matrix any unit vector and zero.
    """
    start = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    basis = (start / start.norm())[None]  # (1,n)
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        vector = product(basis[-1])
        diagonal.append(float(basis[-1] @ vector))
        for _ in range(2):  # twice is enough for full orthogonality
            vector = vector - (basis @ vector) @ basis
        beside.append(float(vector.norm()))
        size = len(diagonal)
        done = size == min(steps, like.numel()) or beside[-1] <= 1e-7 * max(map(abs, diagonal))
        if done or size % 4 == 0:
            small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            small += sum(torch.diag(torch.tensor(beside[:-1], dtype=torch.float64), side) for side in (-1, 1))
            values, vectors = torch.linalg.eigh(small)
            if done or abs(beside[-1] * float(vectors[-1, -1])) <= tolerance * abs(float(values[-1])):
                return vectors[:, -1].to(like.dtype).to(like.device) @ basis, float(values[-1])
        basis = torch.cat([basis, (vector / beside[-1])[None]])
