import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from seggen_core.errors import FoundationError
from seggen_core.generators import autoencoder, pretrain_networks
from seggen_core.generators.foundation import load_pipeline
from seggen_core.generators.pixels import to_pixels
from seggen_core.generators.pretrain import Pretraining, pretrain_foundation
from seggen_core.generators.pretrain_data import (
    CaptionedImages,
    ImageLatents,
    SceneLatentPool,
    tokenize,
)
from seggen_core.generators.pretrain_networks import MAX_PROMPT_TOKENS, build_text_encoder
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.scenes.stream import stream_scene
from tests.generators.tiny_pretraining import CONFIG, SHARES, pretrain_on_scenes, unet_run

pytestmark = pytest.mark.usefixtures("small_pretraining")


def test_every_step_of_both_parts_is_reported(work: Path) -> None:
    steps = json.loads((work / "steps.json").read_text())
    assert [(part, step) for part, step, _ in steps] == [
        *(("autoencoder", i + 1) for i in range(4)),
        *(("unet", i + 1) for i in range(7)),
    ]
    common = {"loss", "learning_rate"}
    assert steps[0][2].keys() == common | {"l1", "psnr_db", "kl"} and steps[-1][2].keys() == common
    assert all(np.isfinite(list(metrics.values())).all() for _, _, metrics in steps)


def test_the_folder_loads_with_diffusers_alone_and_holds_no_pickle(work: Path) -> None:
    folder = work / "foundation"
    weights = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix not in (".json", ".txt")
    )
    assert weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert str(work) not in "".join(
        p.read_text() for p in folder.rglob("*.json")
    )  # nor where it was made
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a photo of a car", num_inference_steps=2, height=16, width=16, output_type="np"
    ).images[0]
    assert image.shape == (16, 16, 3) and np.isfinite(image).all()
    scheduler = pipeline.scheduler.config
    assert (scheduler.prediction_type, scheduler.timestep_spacing) == ("v_prediction", "trailing")
    assert pipeline.scheduler.alphas_cumprod[-1].item() == pytest.approx(
        0, abs=1e-6
    )  # zero terminal SNR


def test_words_of_the_captions_are_single_tokens_and_other_words_are_spelled(work: Path) -> None:
    tokenizer = load_pipeline(work / "foundation").tokenizer
    for c in SCENES_TAXONOMY:
        assert len(tokenizer.tokenize(c.name)) == 1
    assert (
        "".join(tokenizer.tokenize("Zebra")) == "zebra</w>" and len(tokenizer.tokenize("zebra")) > 1
    )
    assert tokenizer.model_max_length == MAX_PROMPT_TOKENS
    ids = tokenizer("a photo of a car", padding="max_length").input_ids
    assert (
        len(ids) == MAX_PROMPT_TOKENS
        and ids[0] == tokenizer.bos_token_id
        and ids[-1] == tokenizer.pad_token_id
    )
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a photo of a car"
    longest = max((stream_scene(i, seed=0, size=8, **SHARES)[1] for i in range(300)), key=len)
    assert len(tokenizer(longest).input_ids) <= MAX_PROMPT_TOKENS


def test_the_text_encoder_embeds_each_token_alone(work: Path) -> None:
    pipeline = load_pipeline(work / "foundation")

    def embed(text: str) -> torch.Tensor:
        ids = pipeline.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            return pipeline.text_encoder(ids).last_hidden_state[0]

    assert torch.equal(
        embed("a photo of a car")[5], embed("two trees and a car on grass")[5]
    )  # the same word, elsewhere
    assert torch.equal(embed("car car")[1], embed("car car")[2])  # no positions


def test_positions_are_not_trained(work: Path) -> None:
    encoder = build_text_encoder(CONFIG, CLIPTokenizer.from_pretrained(work / "work" / "tokenizer"))
    frozen = [name for name, p in encoder.named_parameters() if not p.requires_grad]
    assert (
        len(frozen) == 1
        and "position_embedding" in frozen[0]
        and not encoder.state_dict()[frozen[0]].any()
    )


def test_scene_latents_have_unit_variance(work: Path) -> None:
    vae = AutoencoderKL.from_pretrained(work / "work" / "vae")
    images = np.stack([stream_scene(-1 - i, seed=0, size=16, **SHARES)[0] for i in range(100)])
    with torch.no_grad():
        latents = vae.encode(to_pixels(images)).latent_dist.mean * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.1) and latents.shape[1:] == (4, 8, 8)


def test_an_interrupted_run_ends_in_the_same_bytes(
    work: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    whole, losses = unet_run(work, tmp_path / "whole", accelerator)
    with pytest.raises(KeyboardInterrupt):
        unet_run(work, tmp_path / "killed", accelerator, kill_after=5)
    resumed, last = unet_run(work, tmp_path / "killed", accelerator)
    assert last == {step: loss for step, loss in losses.items() if step > 3}
    assert all(torch.equal(resumed[k], v) for k, v in whole.items())
    # It is what pretrain_foundation made of the same parts.
    pipeline = load_pipeline(work / "foundation")
    assert all(torch.equal(v, whole[f"0.{k}"]) for k, v in pipeline.unet.state_dict().items())


def test_finished_parts_are_kept_and_a_torn_one_is_made_again(
    work: Path, accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain_networks, "CHECKPOINT_EVERY", 500)  # no state of a torn part

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def begin(folder: Path, on_step: Callable[[str, int, dict[str, float]], None]) -> None:
        out = tmp_path / "out"
        pretraining = Pretraining(
            config=CONFIG, seed=0, accelerator=accelerator, work_folder=folder
        )
        pretrain_foundation(pretraining, folder=out, on_step=on_step)

    # Killed while the tokenizer, then while the autoencoder is being written: what is there must
    # not pass for the whole.
    for name in ("tokenizer", "vae"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                begin(tmp_path / "torn", lambda *_: None)
        assert (tmp_path / "torn" / f"{name}.partial").exists() and not (
            tmp_path / "torn" / name
        ).exists()
        shutil.copytree(
            work / "work" / "tokenizer", tmp_path / "torn" / "tokenizer", dirs_exist_ok=True
        )
    parts: list[str] = []

    def until_the_unet(part: str, *_: object) -> None:
        parts.append(part)
        if part == "unet":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "torn", until_the_unet)
    assert parts == ["autoencoder"] * 4 + ["unet"]
    parts.clear()
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "torn", until_the_unet)
    assert parts == ["unet"]
    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        assert (tmp_path / "torn" / "vae" / name).read_bytes() == (
            work / "work" / "vae" / name
        ).read_bytes()


def test_an_interrupted_autoencoder_ends_in_the_same_bytes(
    work: Path, accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain_networks, "CHECKPOINT_EVERY", 2)

    def run(kill_after: int | None) -> tuple[dict[str, torch.Tensor], list[int]]:
        steps: list[int] = []

        def on_step(step: int, _: dict[str, float]) -> None:
            steps.append(step)
            if step == kill_after:
                raise KeyboardInterrupt

        vae = autoencoder.train_autoencoder(
            CONFIG, seed=0, accelerator=accelerator, state_folder=tmp_path, on_step=on_step
        )
        return vae.state_dict(), steps

    with pytest.raises(KeyboardInterrupt):
        run(kill_after=3)
    weights, steps = run(kill_after=None)
    whole = AutoencoderKL.from_pretrained(work / "work" / "vae").state_dict()
    assert steps == [3, 4] and all(torch.equal(weights[k], v) for k, v in whole.items())


def test_pretraining_can_be_continued_from_a_foundation(
    work: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    earlier = work / "foundation"
    # At a learning rate of nearly nothing, what comes out is what went in.
    config = CONFIG.model_copy(
        update={"init_from": earlier, "unet_steps": 2, "unet_learning_rate": 1e-12, "pool_size": 8}
    )
    pretrain_on_scenes(config, folder=tmp_path, accelerator=accelerator)
    one, two = load_pipeline(earlier), load_pipeline(tmp_path / "out")
    assert (
        one.tokenizer.get_vocab() == two.tokenizer.get_vocab() and one.vae.config == two.vae.config
    )
    for part in ("vae", "unet", "text_encoder"):
        weights = getattr(two, part).state_dict()
        assert all(
            torch.allclose(v, weights[k], atol=1e-6)
            for k, v in getattr(one, part).state_dict().items()
        )


def test_a_new_unet_of_another_shape_keeps_tokenizer_and_autoencoder(
    work: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    earlier = work / "foundation"
    wider = {"unet_channels": (16, 48), "text_width": 48}
    config = CONFIG.model_copy(
        update={"init_from": earlier, "new_unet": True, "unet_steps": 1, "pool_size": 8, **wider}
    )
    pretrain_on_scenes(config, folder=tmp_path, accelerator=accelerator)
    one, two = load_pipeline(earlier), load_pipeline(tmp_path / "out")
    assert one.tokenizer.get_vocab() == two.tokenizer.get_vocab()
    weights = two.vae.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in one.vae.state_dict().items())
    assert (
        tuple(two.unet.config.block_out_channels) == (16, 48)
        and two.text_encoder.config.hidden_size == 48
    )


def test_a_new_unet_wants_an_autoencoder_of_the_shape_that_is_configured(
    work: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    coarser = {"autoencoder_channels": (*CONFIG.autoencoder_channels, 16)}
    config = CONFIG.model_copy(
        update={"init_from": work / "foundation", "new_unet": True, **coarser}
    )
    with pytest.raises(
        FoundationError,
        match=r"autoencoder in .*vae has 4 latent channels and 2 resolution levels, but .* 4 and 3",
    ):
        pretrain_on_scenes(config, folder=tmp_path, accelerator=accelerator)


@pytest.mark.parametrize("decay, moves", [(1.0, False), (0.0, True)])
def test_the_decay_of_the_averaged_weights(
    decay: float, moves: bool, work: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    earlier = work / "foundation"
    config = CONFIG.model_copy(
        update={"init_from": earlier, "unet_steps": 1, "pool_size": 8, "ema_decay": decay}
    )
    pretrain_on_scenes(config, folder=tmp_path, accelerator=accelerator)
    one, two = (load_pipeline(folder).unet.state_dict() for folder in (earlier, tmp_path / "out"))
    change = max((two[k] - v).abs().max().item() for k, v in one.items())
    # One step moves weights by about the learning rate of the warm-up; of it, an average at decay 1
    # takes 10 / 11.
    assert change > 0 and (change > 0.95 * config.unet_learning_rate / 200) == moves


def test_pretraining_on_training_images_shows_each_and_its_flip_with_its_caption(
    work: Path, tmp_path: Path
) -> None:
    pipeline = load_pipeline(work / "foundation")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    captions = ["a photo of a car", "a photo of a zebra", "a photo of two trees and a house"]
    drawn = ImageLatents(
        CaptionedImages(pictures.__getitem__, captions),
        vae=pipeline.vae,
        tokenizer=pipeline.tokenizer,
        file=tmp_path / "l.npy",
    )
    latents, input_ids = drawn.draw(0, np.random.default_rng(1), 40)
    assert latents.shape == (40, 4, 8, 8) and input_ids.shape == (40, MAX_PROMPT_TOKENS)
    with torch.no_grad():
        pixels = to_pixels(pictures)
        means = [
            pipeline.vae.encode(x).latent_dist.mean * pipeline.vae.config.scaling_factor
            for x in (pixels, pixels.flip(-1))
        ]
    seen = set()
    for latent, ids in zip(latents, input_ids, strict=True):
        which = captions.index(pipeline.tokenizer.decode(ids, skip_special_tokens=True))
        flip = next(f for f in (0, 1) if torch.allclose(latent, means[f][which], atol=1e-5))
        seen.add((which, flip))
    assert len(seen) == 6


def test_pretraining_on_training_images_learns_from_them(
    work: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    def trained(images: CaptionedImages | None, name: str) -> dict[str, torch.Tensor]:
        config = CONFIG.model_copy(
            update={"init_from": work / "foundation", "unet_steps": 2, "pool_size": 8}
        )
        pretraining = Pretraining(
            config=config,
            seed=1,
            accelerator=accelerator,
            work_folder=tmp_path / f"{name}-work",
            training_images=images,
        )
        pretrain_foundation(pretraining, folder=tmp_path / name, on_step=lambda *_: None)
        return load_pipeline(tmp_path / name).unet.state_dict()

    black = CaptionedImages(lambda _: np.zeros((16, 16, 3), np.uint8), ["a photo of a car"])
    white = CaptionedImages(lambda _: np.full((16, 16, 3), 255, np.uint8), ["a photo of a car"])
    weights = [
        trained(images, name)
        for name, images in (("scenes", None), ("black", black), ("white", white))
    ]
    assert all(any((a[k] != b[k]).any() for k in a) for a, b in pairwise(weights))


def test_continuing_from_what_is_no_foundation(accelerator: Accelerator, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"init_from": tmp_path / "nowhere"})
    with pytest.raises(FoundationError, match=r"init_from is .*nowhere, which holds no pipeline"):
        pretrain_on_scenes(config, folder=tmp_path, accelerator=accelerator)


def test_the_pool_is_a_sliding_window_that_follows_from_the_step_alone(work: Path) -> None:
    vae = AutoencoderKL.from_pretrained(work / "work" / "vae").requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(work / "work" / "tokenizer")
    config = CONFIG.model_copy(update={"pool_size": 7})
    pool = SceneLatentPool(config, seed=0, vae=vae, tokenizer=tokenizer)

    def latents_of(scene: int) -> torch.Tensor:
        picture, _ = stream_scene(scene, seed=0, size=16, **SHARES)
        pixels = to_pixels(np.stack([picture]))
        return vae.encode(pixels).latent_dist.mean[0] * vae.config.scaling_factor

    for step in range(4):
        drawn, input_ids = pool.draw(step, np.random.default_rng(step), 7)
        # All of the pool, each scene once: the 7 that begin with the step's own 3 new ones.
        scenes = [
            next(s for s in range(30) if torch.allclose(latents_of(s), x, atol=1e-5)) for x in drawn
        ]
        assert sorted(scenes) == list(range(3 * (step + 1), 3 * (step + 1) + 7))
        captions = [stream_scene(s, seed=0, size=16, **SHARES)[1] for s in scenes]
        assert torch.equal(input_ids, tokenize(captions, tokenizer=tokenizer))
        other = SceneLatentPool(config, seed=0, vae=vae, tokenizer=tokenizer)
        assert torch.equal(other.draw(step, np.random.default_rng(step), 7)[0], drawn)
