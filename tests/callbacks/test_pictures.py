import numpy as np
import torch

from src.callbacks.pictures import tiles_of
from src.data.batch import Batch, TwoViewBatch
from src.mixing import Mixed, unmixed

CLASSES, CONTEXTS = ["car", "dog"], ["grass", "snow"]


def batch(masks: bool) -> Batch:
    image = torch.stack([torch.full((3, 64, 64), value) for value in (0.0, 0.5, 1.0)])
    mask = torch.zeros(3, 64, 64, dtype=torch.bool)
    mask[1, :32] = True
    return Batch(image, torch.tensor([0, 1, 1]), torch.tensor([0, 1, -1]), torch.arange(3), mask if masks else None)


def test_a_mixed_tile_by_hand() -> None:
    given = batch(masks=True)
    mixed = Mixed(given.image * 0 + 0.2, torch.tensor([1, 2, 2]), torch.tensor([0.25, 0.5, 1.0]))
    first, second, third = tiles_of(given, mixed, 32, CLASSES, CONTEXTS)
    assert first.words == "0.25 car (grass) + 0.75 dog (snow)" and second.words == "0.50 dog (snow) + 0.50 dog"
    assert third.words == "dog"  # it is its own partner
    picture = first.picture
    assert picture.shape == (256, 128, 3)
    assert (picture[:128] == 51).all()  # what the network sees
    assert (picture[128:192, :64] == 0).all() and (picture[128:192, 64:] == 128).all()  # itself, its partner
    assert not picture[192:, :64].any()  # its mask, and its partner's
    assert (picture[192:224, 64:] == 255).all() and not picture[224:, 64:].any()


def test_two_versions_stand_side_by_side() -> None:
    given = batch(masks=False)
    versions = torch.stack([given.image, 1 - given.image], dim=1).flatten(0, 1)
    mixed = Mixed(versions, torch.tensor([1, 0, 2]), torch.tensor(0.3))
    made = tiles_of(given, mixed, 4, CLASSES, CONTEXTS)
    assert len(made) == 2 and made[0].words == "0.30 car (grass) + 0.70 dog (snow)"
    assert made[0].picture.shape == (192, 256, 3)
    assert not made[0].picture[:128, :128].any() and (made[0].picture[:128, 128:] == 255).all()


def test_images_that_are_not_mixed_stand_alone() -> None:
    given = batch(masks=True)
    assert [tile.picture.shape for tile in tiles_of(given, unmixed(given), 2, CLASSES, CONTEXTS)] == [(128, 128, 3)] * 2
    pair = TwoViewBatch(given.image, given.image, torch.tensor([-1, 0, 1]), given.domain, given.position)
    views = Mixed(torch.cat([given.image, given.image]), torch.arange(3), torch.ones(()))
    made = tiles_of(pair, views, 32, CLASSES, CONTEXTS)
    assert [tile.words for tile in made] == ["-1 (grass)", "car (snow)", "dog"]
    assert np.shape(made[0].picture) == (128, 256, 3)
