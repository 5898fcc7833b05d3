"""The controls that every method has to beat."""

from __future__ import annotations

import torch

from grad_cam.metrics.controls import centred_gaussian, random_maps


def test_random_maps_are_smooth_and_follow_the_seed() -> None:
    """The same seed gives the same maps; neighbours are alike, as in the maps of deep layers, and nothing else is."""
    maps = random_maps(400, 7, seed=1)
    assert maps.shape == (400, 7, 7) and torch.equal(maps, random_maps(400, 7, seed=1))
    assert not torch.equal(maps, random_maps(400, 7, seed=2))

    def alike(step: int) -> float:
        return float(torch.corrcoef(torch.stack([maps[:, 3, 0], maps[:, 3, step]]))[0, 1])

    assert alike(1) > 0.5 and abs(alike(5)) < 0.2
    before = torch.random.get_rng_state()
    random_maps(2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_bell_is_in_the_middle() -> None:
    """The largest value is in the middle, the four sides are alike, and a wider bell is flatter."""
    bell = centred_gaussian(2, 7)
    assert bell.shape == (2, 7, 7) and int(bell[0].argmax()) == 24
    assert all(torch.allclose(bell, other) for other in (bell.flip(1), bell.flip(2), bell.mT))
    assert float(centred_gaussian(1, 7, 0.5)[0, 0, 0]) > float(bell[0, 0, 0]) > 0
    bell[0, 0, 0] = 9.0
    assert float(bell[1, 0, 0]) < 1
