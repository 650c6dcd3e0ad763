"""Each operator against a naive one, pixel by pixel, written from its definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core.augment import (
    OPERATORS,
    Augmentation,
    apply,
    concatenate,
    draw,
    expand,
    mosaic,
    shrink,
)
from rome_core.randomness import generator
from rome_core.recipes.augmentation import STRATEGIES, parse_strategy

ALL = "color_crop_cutout_flip_scale_rotate"


def images(n: int, *, size: int = 8, channels: int = 3, dtype: torch.dtype = torch.float64):
    return torch.randn(n, channels, size, size, generator=generator(9, "images", n), dtype=dtype)


def naive(image: Tensor, name: str, row: Augmentation, align_corners: bool) -> Tensor:
    """One image (c, h, w) under one operator."""
    channels, size, _ = image.shape
    out = torch.zeros_like(image)
    places = [(i, j) for i in range(size) for j in range(size)]
    if name == "color":
        out = image + float(row.brightness)
        for i, j in places:
            grey = sum(float(v) for v in out[:, i, j]) / channels
            out[:, i, j] = (out[:, i, j] - grey) * float(row.saturation) + grey
        mean = out.sum() / out.numel()
        return (out - mean) * float(row.contrast) + mean
    if name == "flip":
        return torch.stack([image[:, :, size - 1 - j] for j in range(size)], dim=2) if row.flip \
            else image  # fmt: skip
    if name == "crop":
        down, right = row.shift[0].tolist()
        for i, j in places:
            if 0 <= i + down < size and 0 <= j + right < size:
                out[:, i, j] = image[:, i + down, j + right]
        return out
    if name == "cutout":
        out, edge = image.clone(), int(size * 0.5 + 0.5)
        first, left = row.cutout[0].tolist()
        for a in range(edge):
            for b in range(edge):
                out[:, min(max(first + a, 0), size - 1), min(max(left + b, 0), size - 1)] = 0
        return out
    (a, b), (c, d) = row.affine[0].tolist()
    for i, j in places:
        if align_corners:
            u, v = 2 * j / (size - 1) - 1, 2 * i / (size - 1) - 1
        else:
            u, v = (2 * j + 1) / size - 1, (2 * i + 1) / size - 1
        x, y = a * u + b * v, c * u + d * v
        if align_corners:
            x, y = (x + 1) / 2 * (size - 1), (y + 1) / 2 * (size - 1)
        else:
            x, y = ((x + 1) * size - 1) / 2, ((y + 1) * size - 1) / 2
        for p in (math.floor(y), math.floor(y) + 1):
            for q in (math.floor(x), math.floor(x) + 1):
                if 0 <= p < size and 0 <= q < size:
                    out[:, i, j] += image[:, p, q] * (1 - abs(y - p)) * (1 - abs(x - q))
    return out


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_its_definition(name: str, align_corners: bool):
    """Under either convention of the corners: they are the same map."""
    x = images(12)
    rows = draw(name, 12, size=8, generator=generator(1, name), siamese=False)
    fast = apply(x, rows)
    slow = torch.stack([naive(x[i], name, rows[i : i + 1], align_corners) for i in range(12)])
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    assert not torch.equal(fast, x)


@pytest.mark.parametrize(
    ("name", "field", "low", "high"),
    [
        ("color", "brightness", -0.5, 0.5),
        ("color", "saturation", 0.0, 2.0),
        ("color", "contrast", 0.5, 1.5),
        ("crop", "shift", -4, 4),
        ("cutout", "cutout", -8, 24),
        ("flip", "flip", 0, 1),
    ],
)
def test_parameters_fill_their_published_range(name: str, field: str, low: float, high: float):
    rows = draw(name, 4000, size=32, generator=generator(2), siamese=False)
    values = getattr(rows, field).double()
    spread = high - low
    assert low <= values.min() <= low + 0.01 * spread
    assert high - 0.01 * spread <= values.max() <= high
    assert abs(float(values.mean()) - (low + high) / 2) < 0.03 * spread


def test_scale_and_rotate_fill_their_published_range():
    scale = draw("scale", 4000, size=32, generator=generator(3), siamese=False).affine
    assert scale[:, 0, 1].eq(0).all()
    assert scale[:, 1, 0].eq(0).all()
    for axis in (0, 1):
        assert 1 / 1.2 <= scale[:, axis, axis].min() < 0.84
        assert 1.19 < scale[:, axis, axis].max() <= 1.2
    assert not torch.equal(scale[:, 0, 0], scale[:, 1, 1])
    turn = draw("rotate", 4000, size=32, generator=generator(3), siamese=False).affine
    angle = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert -15 <= angle.min() < -14.9
    assert 14.9 < angle.max() <= 15
    assert torch.allclose(turn @ turn.mT, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("size", "reach", "edge"), [(8, 1, 4), (28, 4, 14), (32, 4, 16), (64, 8, 32)]
)
def test_crop_and_cutout_scale_with_the_images(size: int, reach: int, edge: int):
    shift = draw("crop", 2000, size=size, generator=generator(4), siamese=False).shift
    assert (int(shift.min()), int(shift.max())) == (-reach, reach)
    rows = draw("cutout", 200, size=size, generator=generator(4), siamese=False)
    cut = apply(torch.ones(200, 1, size, size), rows).eq(0).sum(dim=(1, 2, 3))
    assert int(cut.max()) == edge**2
    assert int(cut.min()) >= (edge // 2) ** 2


def test_one_operator_a_draw_each_equally_likely():
    counts = torch.zeros(6)
    for i in range(1200):
        rows = draw(ALL, 3, size=8, generator=generator(5, i), siamese=False)
        assert len(set(rows.operator.tolist())) == 1
        counts[rows.operator[0]] += 1
    assert counts.min() > 150
    assert counts.max() < 250


def test_unselected_operators_keep_neutral_parameters():
    rows = draw("flip", 5, size=8, generator=generator(6), siamese=False)
    assert rows.brightness.eq(0).all()
    assert rows.saturation.eq(1).all()
    assert rows.contrast.eq(1).all()
    assert rows.shift.eq(0).all()
    assert rows.cutout.eq(8).all()
    assert torch.equal(rows.affine, torch.eye(2, dtype=torch.float64).expand(5, 2, 2))


def test_no_strategy_is_the_identity_bit_for_bit():
    x = images(4, dtype=torch.float32)
    rows = draw("none", 4, size=8, generator=generator(7), siamese=False)
    assert torch.equal(apply(x, rows), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_in_one_call_equal_each_alone_bit_for_bit(dtype: torch.dtype):
    draws = [
        draw(name, 5, size=32, generator=generator(8, name, i), siamese=i % 2 == 0)
        for i, name in enumerate(("color", "scale", "none", "crop", "rotate", "flip", "cutout"))
    ]
    batch = images(35, size=32, dtype=dtype)
    together = apply(batch, concatenate(draws))
    alone = [apply(part, rows) for part, rows in zip(batch.split(5), draws, strict=True)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", OPERATORS)
def test_an_image_does_not_feel_its_neighbours(name: str):
    x = images(9, size=32, dtype=torch.float32)
    rows = draw(name, 9, size=32, generator=generator(8, name), siamese=False)
    alone = [apply(x[i : i + 1], rows[i : i + 1]) for i in range(9)]
    assert torch.equal(apply(x, rows), torch.cat(alone))


@pytest.mark.parametrize("name", OPERATORS)
def test_siamese_draws_are_one_transformation_for_batches_of_any_size(name: str):
    x = images(1).expand(7, -1, -1, -1)
    few = draw(name, 3, size=8, generator=generator(10, name), siamese=True)
    many = draw(name, 7, size=8, generator=generator(10, name), siamese=True)
    one = draw(name, 1, size=8, generator=generator(10, name), siamese=True).repeat_interleave(7)
    out = apply(x, many)
    assert torch.equal(out, out[:1].expand_as(out))
    assert torch.equal(apply(x[:3], few), out[:3])
    assert torch.equal(apply(x, one), out)


def test_independent_draws_differ_between_images():
    x = images(1).expand(7, -1, -1, -1)
    rows = draw("rotate", 7, size=8, generator=generator(11), siamese=False)
    assert len(torch.unique(apply(x, rows), dim=0)) == 7


def test_rows_of_classes_spread_over_class_major_images():
    draws = [draw(ALL, 1, size=8, generator=generator(12, c), siamese=True) for c in range(4)]
    x = images(12)
    spread = apply(x, concatenate(draws).repeat_interleave(3))
    alone = [apply(p, d.repeat_interleave(3)) for p, d in zip(x.split(3), draws, strict=True)]
    assert torch.equal(spread, torch.cat(alone))


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_those_of_finite_differences(name: str):
    x = images(2, size=4).requires_grad_()
    rows = draw(name, 2, size=4, generator=generator(13, name), siamese=False)
    assert torch.autograd.gradcheck(lambda t: apply(t, rows), (x,))


def test_saturation_leaves_grey_images_alone():
    x = images(3, channels=1)
    rows = draw("color", 3, size=8, generator=generator(14), siamese=False)
    shifted = x + rows.brightness.view(-1, 1, 1, 1)
    mean = shifted.mean(dim=(1, 2, 3), keepdim=True)
    expected = (shifted - mean) * rows.contrast.view(-1, 1, 1, 1) + mean
    torch.testing.assert_close(apply(x, rows), expected)


def test_a_batch_must_match_its_rows():
    rows = draw(ALL, 3, size=8, generator=generator(15), siamese=False)
    with pytest.raises(ValueError, match="4 images but 3 rows"):
        apply(images(4), rows)


def test_no_images_stay_no_images():
    rows = draw(ALL, 0, size=8, generator=generator(15), siamese=False)
    assert apply(images(0), rows).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_parses(strategy: str):
    assert "_".join(parse_strategy(strategy)) in (strategy, "")


@pytest.mark.parametrize(
    ("strategy", "complaint"),
    [("color_blur", "unknown operator 'blur'.*cutout"), ("", "unknown operator ''"),
     ("flip_flip", "'flip' stands twice")],
)  # fmt: skip
def test_a_wrong_strategy_says_what_there_is(strategy: str, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        parse_strategy(strategy)


def test_tiles_are_decoded_column_by_column_in_blocks():
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, :2, :2], x[0, 0, 2:, :2], x[0, 0, :2, 2:], x[0, 0, 2:, 2:] = 1, 2, 3, 4
    x[1] = x[0] * 10
    whole, labels = expand(x, torch.tensor([7, 8]))
    assert whole[:, 0, 0, 0].tolist() == [1, 10, 2, 20, 3, 30, 4, 40]
    assert torch.equal(whole, whole[:, :, :1, :1].expand_as(whole))
    assert labels is not None
    assert labels.tolist() == [7, 8] * 4


def test_tiles_are_enlarged_bilinearly():
    x = images(3)
    whole, labels = expand(x)
    assert labels is None
    for block, (rows, columns) in enumerate(
        [(slice(0, 4), slice(0, 4)), (slice(4, 8), slice(0, 4)),
         (slice(0, 4), slice(4, 8)), (slice(4, 8), slice(4, 8))]
    ):  # fmt: skip
        tile = x[:, :, rows, columns]
        enlarged = F.interpolate(tile, scale_factor=2, mode="bilinear", align_corners=False)
        assert torch.equal(whole[block * 3 : block * 3 + 3], enlarged)


def test_a_mosaic_is_what_expand_cuts():
    tiles = images(12, size=4).view(3, 4, 3, 4, 4)
    whole, _ = expand(mosaic(tiles))
    enlarged = F.interpolate(tiles.transpose(0, 1).flatten(0, 1), scale_factor=2, mode="bilinear")
    assert torch.equal(whole, enlarged)


def test_constant_tiles_survive_the_round_trip():
    tiles = torch.arange(8.0).view(2, 4, 1, 1, 1).expand(2, 4, 3, 4, 4)
    whole, _ = expand(mosaic(tiles))
    back = mosaic(shrink(whole).view(4, 2, 3, 4, 4).transpose(0, 1))
    assert torch.equal(back, mosaic(tiles))


def test_shrinking_is_the_2x2_mean_and_bilinear_by_half():
    x = images(3)
    mean = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    torch.testing.assert_close(shrink(x), mean, rtol=0, atol=1e-15)
    bilinear = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(shrink(x), bilinear, rtol=0, atol=1e-15)


def test_expanding_is_differentiable():
    x = images(1, size=4, channels=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: expand(t)[0], (x,))


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="side of 7"):
        expand(images(1, size=7))
    with pytest.raises(ValueError, match="side of 7"):
        shrink(images(1, size=7))
    with pytest.raises(ValueError, match="3 tiles"):
        mosaic(torch.zeros(1, 3, 1, 2, 2))
