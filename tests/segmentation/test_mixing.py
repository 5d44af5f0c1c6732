from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from seggen_core.config import SegmenterConfig, VariantConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import Arm, ArmSamples, open_arm
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.mixing import (
    BatchPlan,
    Slot,
    SyntheticSample,
    TrainingSeed,
    phase_lengths,
)
from seggen_core.segmentation.pairs import Pair, PairPool
from seggen_core.segmentation.sources import select_sources, shuffled_masks
from seggen_core.store.reader import SampleStore, open_partitions
from tests.segmentation.conftest import TAXONOMY

KEYS = [f"train-{i:05d}" for i in range(5)]


def make_samples(
    method: str, *, sources: Sequence[str | None], each: int = 2
) -> list[SyntheticSample]:
    return [SyntheticSample(method, f"{method}-{s}-{n}", s) for s in sources for n in range(each)]


def plan(
    synthetic: Sequence[SyntheticSample] = (),
    *,
    synthetic_only: bool = False,
    seed: int = 0,
    subset_seed: int = 0,
    **changes: object,
) -> BatchPlan:
    config = SegmenterConfig.model_validate(
        {"num_steps": 100, "batch_size": 4, "p_aug": 0.6} | changes
    )
    return BatchPlan(
        config,
        real_keys=KEYS,
        synthetic=synthetic,
        synthetic_only=synthetic_only,
        seed=TrainingSeed(seed, subset_seed),
    )


def all_slots(p: BatchPlan, steps: int = 100) -> list[Slot]:
    return [slot for step in range(steps) for slot in p.slots(step)]


def test_all_arms_see_the_same_real_samples_and_replace_the_same_slots() -> None:
    arms = [
        plan(make_samples("masksyn", sources=KEYS)),
        plan(make_samples("masksyn", sources=KEYS) + make_samples("imgsyn", sources=KEYS, each=3)),
        plan(make_samples("seediff", sources=[None])),
    ]
    order = [slot.real_key for slot in all_slots(plan())]
    for arm in arms:
        assert [slot.real_key for slot in all_slots(arm)] == order
        assert [s.synthetic is None for s in all_slots(arm)] == [
            s.synthetic is None for s in all_slots(arms[0])
        ]
    only = plan(make_samples("masksyn", sources=KEYS), synthetic_only=True)
    assert [slot.real_key for slot in all_slots(only)] == order
    for other in (plan(seed=1), plan(subset_seed=1)):
        assert [slot.real_key for slot in all_slots(other)] != order


def test_a_step_does_not_depend_on_those_before_it() -> None:
    synthetic = make_samples("masksyn", sources=KEYS)
    forward = [plan(synthetic).slots(step) for step in range(30)]
    p = plan(synthetic)
    assert [p.slots(step) for step in reversed(range(30))] == forward[::-1]


def test_each_epoch_is_a_permutation() -> None:
    order = [slot.real_key for slot in all_slots(plan())]
    epochs = [order[i : i + len(KEYS)] for i in range(0, len(order), len(KEYS))]
    assert all(sorted(epoch) == KEYS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10


@pytest.mark.parametrize("p_aug", [0.0, 0.6, 1.0])
def test_slots_are_replaced_with_probability_p_aug(p_aug: float) -> None:
    slots = all_slots(plan(make_samples("masksyn", sources=KEYS), p_aug=p_aug))
    share = np.mean([slot.synthetic is not None for slot in slots])
    assert share == p_aug if p_aug in (0, 1) else abs(share - p_aug) < 4 * np.sqrt(0.24 / 400)


def test_a_real_sample_is_replaced_by_one_made_from_it_uniformly_over_samples() -> None:
    synthetic = make_samples("masksyn", sources=KEYS, each=2) + make_samples(
        "imgsyn", sources=KEYS, each=6
    )
    chosen = [
        (slot.real_key, synthetic[slot.synthetic])
        for slot in all_slots(plan(synthetic, p_aug=1.0))
        if slot.synthetic is not None
    ]
    assert len(chosen) == 400
    assert all(sample.source_key == real_key for real_key, sample in chosen)
    methods = Counter(sample.method for _, sample in chosen)
    assert abs(methods["masksyn"] - 100) < 4 * np.sqrt(0.25 * 0.75 * 400)
    assert {sample.key for _, sample in chosen if sample.method == "masksyn"} == {
        s.key for s in synthetic if s.method == "masksyn"
    }


def test_samples_made_from_prompts_replace_any_real_one() -> None:
    synthetic = make_samples("seediff", sources=[None], each=7)
    pairs = {(s.real_key, s.synthetic) for s in all_slots(plan(synthetic, p_aug=1.0), steps=200)}
    assert len(pairs) == 5 * 7


def test_a_source_without_samples_falls_back_to_the_whole_method() -> None:
    synthetic = make_samples("masksyn", sources=KEYS[:2])
    by_key: dict[str, set[int | None]] = {key: set() for key in KEYS}
    for slot in all_slots(plan(synthetic, p_aug=1.0)):
        by_key[slot.real_key].add(slot.synthetic)
    assert by_key == {KEYS[0]: {0, 1}, KEYS[1]: {2, 3}} | {key: {0, 1, 2, 3} for key in KEYS[2:]}


def test_pretraining_sees_synthetic_samples_first_and_real_ones_after() -> None:
    p = plan(make_samples("masksyn", sources=KEYS), strategy="pretrain", pretrain_share=0.3)
    assert all(slot.synthetic is not None for step in range(30) for slot in p.slots(step))
    assert all(slot.synthetic is None for step in range(30, 100) for slot in p.slots(step))
    config = SegmenterConfig(strategy="pretrain", pretrain_share=0.3, num_steps=100)
    assert phase_lengths(config) == (30, 70)
    assert phase_lengths(config.model_copy(update={"pretrain_share": 1.0})) == (100,)
    assert phase_lengths(config.model_copy(update={"strategy": "replace"})) == (100,)


def test_synthetic_only_never_shows_a_real_sample() -> None:
    for strategy in ("replace", "pretrain"):
        slots = all_slots(
            plan(make_samples("masksyn", sources=KEYS), synthetic_only=True, strategy=strategy)
        )
        assert all(slot.synthetic is not None for slot in slots)


def test_samples_of_other_sources_are_left_out() -> None:
    samples = make_samples("masksyn", sources=KEYS) + make_samples("seediff", sources=[None])
    selected = select_sources(samples, real_keys=KEYS[:2])
    assert {s.source_key for s in selected} == {KEYS[0], KEYS[1], None}
    assert len(selected) == 2 * 2 + 2


@pytest.mark.parametrize(
    "sizes", [[1, 1], [3, 3], [5, 3, 2], [1] * 9, [4, 1, 1, 1, 1], [50, 20, 20, 10]]
)
def test_shuffling_gives_every_image_the_mask_of_another_source(sizes: list[int]) -> None:
    samples = [
        SyntheticSample("imgsyn", f"{g}-{n}", f"source-{g}")
        for g, size in enumerate(sizes)
        for n in range(size)
    ]
    pairings = [shuffled_masks(samples, seed=TrainingSeed(0, k)) for k in range(20)]
    for pairing in pairings:
        assert sorted(pairing) == list(range(len(samples)))
        assert all(samples[i].source_key != samples[j].source_key for i, j in enumerate(pairing))
    assert shuffled_masks(samples, seed=TrainingSeed(0, 3)) == pairings[3]
    assert len({tuple(p) for p in pairings}) > 1 or len(samples) == 2


def test_shuffling_samples_without_sources_moves_every_mask() -> None:
    pairing = shuffled_masks(
        make_samples("seediff", sources=[None], each=4), seed=TrainingSeed(0, 0)
    )
    assert sorted(pairing) == [0, 1, 2, 3] and all(i != j for i, j in enumerate(pairing))


@pytest.mark.parametrize(
    "samples",
    [
        [],
        make_samples("imgsyn", sources=[KEYS[0]]),
        make_samples("imgsyn", sources=[KEYS[0]], each=3)
        + make_samples("imgsyn", sources=[KEYS[1]]),
    ],
)
def test_shuffling_refuses_what_has_no_solution(samples: list[SyntheticSample]) -> None:
    with pytest.raises(ConfigError, match="can't be shuffled"):
        shuffled_masks(samples, seed=TrainingSeed(0, 0))


def arm(
    paths: ProjectPaths,
    *,
    reads: Sequence[str],
    subset: Sequence[str],
    **changes: object,
) -> Arm:
    real = "data/real/train/index.parquet"
    folders = [f"data/synthetic/{method}" for method in reads] + [real, real]
    variant = VariantConfig.model_validate(
        {"model": "hrnet", "strategy": "replace", "reads": folders[:2]} | changes
    )
    partitions = {method: open_partitions(paths.synthetic(method)) for method in variant.methods}
    return open_arm(
        variant,
        config=SegmenterConfig(batch_size=4),
        samples=ArmSamples(
            SampleStore(paths.real("train")), subset, partitions, LabelSpace.of(variant, TAXONOMY)
        ),
        seed=TrainingSeed(0, 0),
    )


def read_real(opened: Arm, key: str) -> tuple[np.ndarray, np.ndarray]:
    return opened.pool.read_real([key])[0]


def read_synthetic(opened: Arm, position: int) -> tuple[np.ndarray, np.ndarray]:
    return opened.pool.read_synthetic([position])[0]


def test_an_arm_joins_partitions_and_reads_each_sample_with_its_mask(project: ProjectPaths) -> None:
    subset = SampleStore(project.real("train")).keys()[:3]
    opened = arm(project, reads=["masksyn", "imgsyn"], subset=subset)
    assert opened.facts == {
        "num_real": 3,
        "num_synthetic": {"masksyn": 6, "imgsyn": 6},
        "unmatched_sources": {"imgsyn": 0, "masksyn": 0},
    }
    stores = [s for m in ("masksyn", "imgsyn") for s in open_partitions(project.synthetic(m))]
    expected = {key: store for store in stores for key in store.keys() if key[:11] in subset}  # noqa: SIM118
    for position, (key, store) in enumerate(expected.items()):
        image, mask = read_synthetic(opened, position)
        np.testing.assert_array_equal(image, store[key].image)
        np.testing.assert_array_equal(mask, store[key].segmentation_map)
    pairs = opened.pool.read_slots(opened.plan.slots(0))
    assert len(pairs) == 4
    for image, mask in pairs:
        assert image.shape == (16, 16, 3) and mask.shape == (16, 16)
        assert image.dtype == mask.dtype == np.uint8


def test_the_control_has_the_same_images_with_masks_of_other_sources(project: ProjectPaths) -> None:
    subset = SampleStore(project.real("train")).keys()[:3]
    plain = arm(project, reads=["masksyn"], subset=subset)
    control = arm(project, reads=["masksyn"], subset=subset, shuffle_masks=True)
    assert all_slots(plain.plan, 20) == all_slots(control.plan, 20)
    true_masks = [read_synthetic(plain, i)[1] for i in range(6)]
    for i in range(6):
        np.testing.assert_array_equal(read_synthetic(control, i)[0], read_synthetic(plain, i)[0])
        assert (read_synthetic(control, i)[1] != true_masks[i]).any()
        assert sum((read_synthetic(control, i)[1] == mask).all() for mask in true_masks) == 1
    for key in subset:
        np.testing.assert_array_equal(read_real(control, key)[1], read_real(plain, key)[1])


def test_an_arm_without_a_sample_of_its_method_is_an_error(project: ProjectPaths) -> None:
    with pytest.raises(
        ConfigError,
        match="masksyn: no sample was made from one of the 1 real ones of subset seed 0",
    ):
        arm(project, reads=["masksyn"], subset=["train-99999"])
    assert arm(project, reads=["seediff"], subset=["train-00000"]).facts["num_synthetic"] == {
        "seediff": 6
    }


def test_the_pool_keeps_what_fits_and_reads_the_rest_again(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SampleStore(project.real("train"))
    reads: list[str] = []
    read_image = SampleStore.read_image
    monkeypatch.setattr(
        SampleStore, "read_image", lambda self, key: reads.append(key) or read_image(self, key)
    )
    pairs = {key: Pair((store, key), (store, key)) for key in store.keys()[:3]}
    pool = PairPool(real=pairs, cache_bytes=2 * 16 * 16 * 4)
    first = pool.read_real(pairs)
    again = [pool.read_real([key])[0] for key in pairs]
    assert reads == [*store.keys()[:3], store.keys()[2]]
    for (image, mask), (same_image, same_mask) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(mask, same_mask)


def test_hidden_classes_are_ignored_in_real_masks_alone(project: ProjectPaths) -> None:
    subset = SampleStore(project.real("train")).keys()[:3]
    plain = arm(project, reads=["masksyn"], subset=subset)
    shown = np.unique(np.stack([read_real(plain, key)[1] for key in subset]))
    slug = TAXONOMY[int(shown[0])].slug
    hidden = arm(project, reads=["masksyn"], subset=subset, hidden_classes=[slug])
    for key in subset:
        expected = np.where(read_real(plain, key)[1] == shown[0], 255, read_real(plain, key)[1])
        np.testing.assert_array_equal(read_real(hidden, key)[1], expected)
    for position in range(6):
        np.testing.assert_array_equal(
            read_synthetic(hidden, position)[1], read_synthetic(plain, position)[1]
        )
