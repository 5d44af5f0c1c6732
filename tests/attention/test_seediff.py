import numpy as np
import pytest
import torch

from seggen_core.attention.masks import rescale, upsample
from seggen_core.attention.pamr import MaskRefiner, pamr
from seggen_core.attention.seediff import (
    SeeDiffSettings,
    expand_region,
    normalize,
    otsu_threshold,
    remove_background,
    seediff_masks,
    select_seeds,
)
from seggen_core.errors import AttentionError

ALPHA, BETA = 0.5, 0.3


def make_masks(cross_map, self_maps, *, image_size, refiner=None, **changes):
    settings = SeeDiffSettings(**({"alpha": ALPHA, "beta": BETA} | changes))
    return seediff_masks(
        cross_map, self_maps, image_size=image_size, settings=settings, refiner=refiner
    )


def random_maps(seed=0, batch=3):
    rng = np.random.default_rng(seed)
    cross = rng.random((batch, 4, 4))
    self_maps = {s: rng.random((batch, s * s, s * s)) ** 3 for s in (2, 4, 8)}
    return cross, self_maps


def as_tensors(cross, self_maps):
    return torch.tensor(cross, dtype=torch.float32), {
        s: torch.tensor(m, dtype=torch.float32) for s, m in self_maps.items()
    }


# Literal transcriptions, one image at a time, on [s, s] arrays and A[i, j, :, :].
def literal_rescale(m):
    return (m - m.min()) / (m.max() - m.min())


def literal_seeds(m, alpha):  # equations 6 and 9
    return [(i, j) for i in range(m.shape[0]) for j in range(m.shape[1]) if m[i, j] >= alpha]


def literal_expand(attention, seeds):  # equation 7
    s = int(len(attention) ** 0.5)
    attention = attention.reshape(s, s, s, s)
    return sum(attention[i, j, :, :] for i, j in seeds) / len(seeds)


def literal_columns(attention, seeds):
    s = int(len(attention) ** 0.5)
    attention = attention.reshape(s, s, s, s)
    return sum(attention[:, :, i, j] for i, j in seeds) / len(seeds)


def literal_cosine(attention, seeds):
    s = int(len(attention) ** 0.5)
    out = np.zeros((s, s))
    for y in range(s):
        for x in range(s):
            row = attention[y * s + x]
            for i, j in seeds:
                other = attention[i * s + j]
                out[y, x] += (
                    row @ other / (np.linalg.norm(row) * np.linalg.norm(other)) / len(seeds)
                )
    return out


LITERAL_AFFINITIES = {"rows": literal_expand, "columns": literal_columns, "cosine": literal_cosine}


def literal_upsample(m, size):  # equation 8: bilinear, pixel centres
    out = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            sy = min(max((y + 0.5) * m.shape[0] / size - 0.5, 0), m.shape[0] - 1)
            sx = min(max((x + 0.5) * m.shape[1] / size - 0.5, 0), m.shape[1] - 1)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, m.shape[0] - 1), min(x0 + 1, m.shape[1] - 1)
            fy, fx = sy - y0, sx - x0
            out[y, x] = (m[y0, x0] * (1 - fx) + m[y0, x1] * fx) * (1 - fy) + (
                m[y1, x0] * (1 - fx) + m[y1, x1] * fx
            ) * fy
    return out


def literal_seediff(cross, self_maps, image_size, affinity="rows"):
    expand = LITERAL_AFFINITIES[affinity]
    m = literal_rescale(cross)
    for s in sorted(s for s in self_maps if s >= len(cross)):
        m = literal_upsample(m, s)
        m = literal_rescale(expand(self_maps[s], literal_seeds(m, ALPHA)))
    inverted = 1 - m  # equation 10
    background = literal_rescale(expand(self_maps[s], literal_seeds(inverted, ALPHA)))
    final = literal_rescale((1 - background) * m)  # equation 11
    return literal_upsample(final, image_size)


def test_each_equation_matches_its_literal_transcription():
    cross, self_maps = random_maps()
    tensor, tensors = as_tensors(cross, self_maps)
    seeds = select_seeds(tensor, alpha=ALPHA)
    for b in range(3):
        assert [tuple(p) for p in seeds[b].nonzero().tolist()] == literal_seeds(cross[b], ALPHA)
        region = literal_expand(self_maps[4][b], literal_seeds(cross[b], ALPHA))
        np.testing.assert_allclose(expand_region(tensors[4], seeds)[b], region, atol=1e-6)
        np.testing.assert_allclose(
            upsample(tensor, 12)[b], literal_upsample(cross[b], 12), atol=1e-6
        )
        np.testing.assert_allclose(rescale(tensor)[b], literal_rescale(cross[b]), atol=1e-6)
        for affinity, literal in LITERAL_AFFINITIES.items():
            expected = literal(self_maps[4][b], literal_seeds(cross[b], ALPHA))
            np.testing.assert_allclose(
                expand_region(tensors[4], seeds, affinity=affinity)[b],
                expected,
                atol=1e-6,
                err_msg=affinity,
            )
    region, background = torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    np.testing.assert_allclose(
        remove_background(region, background), (1 - background.numpy()) * region.numpy()
    )


@pytest.mark.parametrize("affinity", LITERAL_AFFINITIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_method_matches_its_literal_transcription(seed, affinity):
    cross, self_maps = random_maps(seed)
    result = make_masks(*as_tensors(cross, self_maps), image_size=20, affinity=affinity)
    assert result.status == ("accepted",) * 3
    assert (
        sorted(result.expansions) == sorted(result.seeds) == [4, 8]
    )  # self-attention at 2 is coarser than the seeds
    for b in range(3):
        expected = literal_seediff(cross[b], {s: m[b] for s, m in self_maps.items()}, 20, affinity)
        np.testing.assert_allclose(result.soft[b], expected, atol=2e-5)
        clear = abs(expected - BETA) > 1e-4
        assert (result.binary[b].numpy() == (expected >= BETA))[clear].all()
        assert 0 < result.binary[b].float().mean() < 1


def test_the_modules_of_the_ablation_can_be_taken_out():
    cross, self_maps = random_maps()
    tensor, tensors = as_tensors(cross, self_maps)
    settings = {"image_size": 20}

    def grow(m, maps, scales):
        for s in scales:
            m = literal_rescale(
                literal_expand(maps[s], literal_seeds(literal_upsample(m, s), ALPHA))
            )
        return m

    def grow_each(m, maps):
        return literal_rescale((literal_upsample(grow(m, maps, [4]), 8) + grow(m, maps, [8])) / 2)

    rows = {
        "CAA": ({"expansion": "none", "background_expansion": False}, lambda m, s: m),
        "CRE": ({"expansion": "each", "background_expansion": False}, grow_each),
        "once": (
            {"expansion": "once", "background_expansion": False},
            lambda m, s: grow(m, s, [4]),
        ),
        "IRE": ({"background_expansion": False}, lambda m, s: grow(m, s, [4, 8])),
    }

    for name, (changes, literal) in rows.items():
        result = make_masks(tensor, {} if name == "CAA" else tensors, **settings, **changes)
        for b in range(3):
            expected = literal_upsample(
                literal(literal_rescale(cross[b]), {s: m[b] for s, m in self_maps.items()}), 20
            )
            np.testing.assert_allclose(result.soft[b], expected, atol=2e-5, err_msg=name)
        assert not result.background.any() and not result.uncertain.any()
    only_background = make_masks(tensor, tensors, expansion="none", **settings)
    assert only_background.background.shape == (3, 8, 8) and only_background.background.any()


def test_maps_divided_by_their_maximum_keep_their_floor():
    maps = torch.rand(2, 5, 5) + 0.5
    torch.testing.assert_close(normalize(maps, "max"), maps / maps.amax((1, 2), keepdim=True))
    assert not normalize(torch.zeros(1, 3, 3), "max").any()


def test_pamr_refines_the_soft_mask_before_it_is_binarised():
    tensor, tensors = as_tensors(*random_maps())
    images = torch.rand(3, 3, 20, 20)
    plain = make_masks(tensor, tensors, image_size=20)
    refiner = MaskRefiner(images, num_iterations=2, dilations=(1, 2))
    refined = make_masks(tensor, tensors, image_size=20, refiner=refiner)
    expected = pamr(images, plain.soft[:, None], num_iterations=2, dilations=(1, 2))[:, 0]
    assert torch.equal(refined.soft, expected) and torch.equal(refined.binary, expected >= BETA)
    assert not torch.equal(refined.binary, plain.binary)


def blob_attention(inside):
    """Self-attention of a picture of two regions, each attending to itself."""
    same = inside.flatten()[:, None] == inside.flatten()[None, :]
    return (same.float() + 0.05)[None]


def test_a_few_seeds_grow_to_the_whole_object():
    fine = torch.zeros(8, 8, dtype=torch.bool)
    fine[2:6, 2:8] = True
    coarse = fine[::2, ::2]
    cross = torch.zeros(1, 4, 4)
    cross[0, 1, 1] = 1
    self_maps = {4: blob_attention(coarse), 8: blob_attention(fine)}
    result = make_masks(cross, self_maps, image_size=8)
    assert torch.equal(result.binary[0], fine)
    assert result.seeds[4].sum() == 1


def test_permuting_the_batch_permutes_the_masks():
    tensor, tensors = as_tensors(*random_maps())
    images = torch.rand(3, 3, 16, 16)
    order = [2, 0, 1]
    straight = make_masks(tensor, tensors, image_size=16, refiner=MaskRefiner(images))
    permuted = make_masks(
        tensor[order],
        {s: m[order] for s, m in tensors.items()},
        image_size=16,
        refiner=MaskRefiner(images[order]),
    )
    torch.testing.assert_close(permuted.soft, straight.soft[order])
    assert torch.equal(permuted.binary, straight.binary[order])


@pytest.mark.parametrize("what", ["cross", "self"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_whose_attention_is_not_finite_is_rejected_alone(what, value):
    tensor, tensors = as_tensors(*random_maps())
    expected = make_masks(tensor, tensors, image_size=16)
    (tensor if what == "cross" else tensors[8])[1, 2, 3] = value
    refiner = MaskRefiner(torch.rand(3, 3, 16, 16), num_iterations=1)
    result = make_masks(tensor, tensors, image_size=16, refiner=refiner)
    assert result.status == ("accepted", "not_finite_attention", "accepted")
    assert not result.binary[1].any() and not result.soft[1].any()
    for maps in (
        result.soft,
        result.cross_attention,
        result.background,
        *result.expansions.values(),
    ):
        assert maps.isfinite().all()
    assert torch.equal(result.expansions[8][::2], expected.expansions[8][::2])


def test_a_flat_map_has_no_seeds():
    tensor, tensors = as_tensors(*random_maps())
    tensor[0] = 0.8
    flat_self = {s: m.clone() for s, m in tensors.items()}
    flat_self[4][1] = 1 / 16
    result = make_masks(tensor, flat_self, image_size=16)
    assert result.status == ("no_seeds", "no_seeds", "accepted")
    assert not result.binary[:2].any() and result.binary[2].any()
    assert result.seeds[4][1].any() and not result.seeds[8][1].any()


def test_all_pixels_as_seeds():
    tensor, tensors = as_tensors(*random_maps())
    result = make_masks(tensor, tensors, image_size=16, alpha=0.0, beta=0.0)
    assert all(s.all() for s in result.seeds.values()) and result.binary.all()
    torch.testing.assert_close(
        result.expansions[8], rescale(tensors[8].mean(1).view(3, 8, 8)), atol=1e-5, rtol=1e-4
    )


def test_no_seed_gives_no_region_and_no_division_by_zero():
    self_map = torch.rand(2, 16, 16)
    seeds = torch.zeros(2, 4, 4, dtype=torch.bool)
    seeds[1, 0, 0] = True
    region = expand_region(self_map, seeds)
    assert torch.equal(region[0], torch.zeros(4, 4)) and torch.equal(
        region[1].flatten(), self_map[1, 0]
    )


def test_rescale_spans_zero_to_one():
    maps = rescale(torch.rand(2, 5, 5) * 7 - 3)
    assert torch.equal(maps.amin((1, 2)), torch.zeros(2)) and torch.equal(
        maps.amax((1, 2)), torch.ones(2)
    )
    assert torch.equal(
        rescale(torch.full((1, 3, 3), 0.2) + 1e-8 * torch.rand(1, 3, 3)), torch.zeros(1, 3, 3)
    )


def test_otsu_minimises_the_variance_within_both_classes():
    rng = np.random.default_rng(0)
    bright, dark = rng.normal(190, 12, (16, 16)), rng.normal(60, 20, (16, 16))
    grey = (
        np.stack([np.where(rng.random((16, 16)) < 0.3, bright, dark), rng.random((16, 16)) * 255])
        .clip(0, 255)
        .astype(int)
    )
    for threshold, values in zip(otsu_threshold(torch.tensor(grey)).tolist(), grey, strict=True):
        within = {}
        for t in range(255):
            low, high = values[values <= t], values[values > t]
            if low.size and high.size:
                within[t] = low.size * low.var() + high.size * high.var()
        assert within[threshold] == pytest.approx(min(within.values()))
    assert otsu_threshold(torch.full((1, 4, 4), 9)).shape == (1,)


def test_otsu_seeds_follow_the_map_and_not_alpha():
    cross = torch.full((1, 4, 4), 0.1)
    cross[0, :2, :2] = 0.6
    cross[0, 0, 0] = 1.0
    assert select_seeds(cross, alpha=0.99).sum() == 1
    assert select_seeds(cross, alpha=0.99, seed_threshold="otsu").sum() in (1, 4)
    grey = (cross[0].square() * 255).long()
    threshold = int(otsu_threshold(grey[None])[0])
    assert torch.equal(select_seeds(cross, alpha=0.99, seed_threshold="otsu")[0], grey > threshold)


def test_self_attention_must_reach_the_resolution_of_the_seeds():
    with pytest.raises(AttentionError, match=r"4x4 or finer, but only \[2\]"):
        make_masks(torch.rand(1, 4, 4), {2: torch.rand(1, 4, 4)}, image_size=8)
