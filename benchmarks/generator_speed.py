"""Measures how fast the generators train and sample at the sizes of SDXL-base and SD 2-base.

Weights are random: nothing is downloaded.

    # Text2Mask, Mask2Img and both samplers
    python benchmarks/generator_speed.py --family sdxl --image-size 768 --batch 16
    # the same, and SeeDiff's images with masks
    python benchmarks/generator_speed.py --family sd --image-size 512
    # a small one, to try the script
    python benchmarks/generator_speed.py --family sd --small --image-size 64

It calls what the stages call (`train_text2mask`, `train_mask2img`, `sample_images`,
`generate_from_attention`) on whole diffusers pipelines that were never saved. Prints seconds an
image, of all its steps where it is sampled, and the peak of the GPU's memory (the ControlNet is
there in all rows of sampling). `seggen plan --rates` takes such numbers.
"""

import argparse
import gc
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from seggen_core.config import DiffusionTrainingConfig, SamplingConfig, SeeDiffConfig
from seggen_core.generators.foundation import vae_scale_factor
from seggen_core.generators.latent_cache import LatentCache
from seggen_core.generators.mask2img import Triplets, build_controlnet, train_mask2img
from seggen_core.generators.prompt_cache import PromptCache
from seggen_core.generators.sampling import sample_images
from seggen_core.generators.text2mask import train_text2mask
from seggen_core.project.rng import torch_generator
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.synthesis.from_attention import generate_from_attention
from seggen_core.synthesis.prompts import ClassPrompt

TOKENIZER = Path(__file__).parents[1] / "profiles" / "scenes" / "foundation" / "tokenizer"
NUM_SAMPLES = 32
PROMPT = "a photo of a car"
CAR = 5
"""Position of the car's token in `PROMPT`, after the start token."""
UNETS: dict[str, dict[str, Any]] = {
    # stabilityai/stable-diffusion-xl-base-1.0 and stabilityai/stable-diffusion-2-base,
    # unet/config.json
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sd": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
}
TEXT_ENCODERS: dict[str, list[dict[str, Any]]] = {
    "sdxl": [
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        },
    ],
    "sd": [
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
        }
    ],
}


def build_networks(
    family: str, *, small: bool, device: torch.device
) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Build UNet and autoencoder with random weights; a small one has a tenth of the channels."""
    config, vae_channels = dict(UNETS[family]), (128, 256, 512, 512)
    if small:
        config["block_out_channels"] = tuple(c // 10 for c in config["block_out_channels"])
        config |= {"attention_head_dim": 4, "norm_num_groups": 8}
        vae_channels = (32, 32, 32, 32)
    with device:
        vae = AutoencoderKL(
            block_out_channels=vae_channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
            scaling_factor=0.13025 if family == "sdxl" else 0.18215,
        )
        return UNet2DConditionModel.from_config(config), vae


def build_pipeline(family: str, *, small: bool, device: torch.device) -> Any:
    """Build a pipeline of the size of a published one, in float32 on `device`."""
    torch.manual_seed(0)
    text_configs = TEXT_ENCODERS[family]
    if small:
        text_configs = [t | {"num_hidden_layers": 1} for t in text_configs]
    tokenizers = [
        CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77) for _ in text_configs
    ]
    special = {
        k: getattr(tokenizers[0], k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    unet, vae = build_networks(family, small=small, device=device)
    with device:
        text = [CLIPTextConfig(max_position_embeddings=77, **special, **t) for t in text_configs]
        first = CLIPTextModel(text[0])
        second = CLIPTextModelWithProjection(text[1]) if family == "sdxl" else None
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        timestep_spacing="leading",
    )
    parts = {
        "vae": vae,
        "text_encoder": first,
        "tokenizer": tokenizers[0],
        "unet": unet,
        "scheduler": scheduler,
    }
    pipeline: Any
    if second is not None:
        pipeline = StableDiffusionXLPipeline(
            **parts, text_encoder_2=second, tokenizer_2=tokenizers[1], add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    for part in (vae, first, second, unet):
        if part is not None:
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Clock:
    """Waits for the device, and says how long each step took."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []
        self.tick()

    def tick(self, *_: Any) -> None:
        """Note the time, once the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def median(self) -> float:
        """Return the median seconds between ticks.

        The first two intervals warm up; they are left out where there are more.
        """
        intervals = np.diff(self.times)
        return float(np.median(intervals[2:] if len(intervals) > 2 else intervals))


@contextmanager
def peak_gigabytes(device: torch.device) -> Iterator[Callable[[], float]]:
    """Free what is left over, then let the block ask for the peak of allocated memory since."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")


def measure_training(
    pipeline: Any,
    *,
    image_size: int,
    batch: int,
    steps: int,
    checkpointing: bool,
    device: torch.device,
) -> Iterator[tuple[str, float, float]]:
    """Yield (what, seconds an image, peak GB) of Mask2Img's and Text2Mask's training steps."""
    side = image_size // vae_scale_factor(pipeline)
    rng = np.random.default_rng(0)
    latents = LatentCache(
        rng.standard_normal((NUM_SAMPLES, 2, 4, side, side)).astype(np.float32), 1.0
    )
    maps = rng.integers(0, 256, (NUM_SAMPLES, image_size, image_size, 3), dtype=np.uint8)
    config = DiffusionTrainingConfig(
        num_steps=steps,
        batch_size=batch,
        gradient_checkpointing=checkpointing,
        ema_decay=0.9999,
        checkpoint_every=10**9,
    )
    prompts = PromptCache(pipeline, [PROMPT] * NUM_SAMPLES, image_size=image_size)
    for name in ("Mask2Img", "Text2Mask"):
        with peak_gigabytes(device) as peak, tempfile.TemporaryDirectory() as folder:
            clock = Clock(device)
            shared: dict[str, Any] = {
                "seed": 0,
                "state_folder": Path(folder),
                "on_step": clock.tick,
            }
            if name == "Mask2Img":
                controlnet = build_controlnet(pipeline).to(device)
                triplets = Triplets(
                    images=latents, read_color_map=maps.__getitem__, prompts=prompts
                )
                train_mask2img(pipeline, controlnet, config, triplets=triplets, **shared)
                del controlnet
            else:
                train_text2mask(pipeline, config, color_maps=latents, prompts=prompts, **shared)
            yield f"{name}, training, batch {batch}", clock.median() / batch, peak()


def measure_sampling(
    pipeline: Any, *, family: str, image_size: int, batch: int, steps: int, device: torch.device
) -> Iterator[tuple[str, float, float]]:
    """Yield (what, seconds an image, peak GB) of decoding and of each method's sampling."""
    import diffusers

    sampling = SamplingConfig(
        scheduler="EulerDiscreteScheduler",
        num_inference_steps=steps,
        guidance_scale=5.0,
        micro_batch_size=batch,
        precision="bf16",
    )
    arguments: dict[str, Any] = {
        "prompts": [PROMPT] * batch,
        "generators": lambda i: torch_generator(0, "speed", i),
        "image_size": image_size,
    }
    control = np.zeros((batch, image_size, image_size, 3), np.uint8)
    side_network = build_controlnet(pipeline).to(device)
    name = (
        "StableDiffusionXLControlNetPipeline"
        if family == "sdxl"
        else "StableDiffusionControlNetPipeline"
    )
    mask2img = getattr(diffusers, name).from_pipe(pipeline, controlnet=side_network)
    mask2img.set_progress_bar_config(disable=True)
    car = ClassPrompt(PROMPT, (SCENES_TAXONOMY[3],), ((CAR,),)) if family == "sd" else None
    runs: dict[str, Callable[[], Any]] = {
        "Text2Mask, sampling": lambda: sample_images(pipeline, config=sampling, **arguments),
        "Mask2Img, sampling": lambda: sample_images(
            mask2img, config=sampling, control_images=control, **arguments
        ),
    }
    if car is not None:
        seediff = SeeDiffConfig(
            samples_per_class=batch,
            sampling=sampling,
            reads="seggen_core/synthesis/prompt_templates.py",
        )
        runs["SeeDiff, sampling with masks"] = lambda: generate_from_attention(
            pipeline,
            config=seediff,
            **(arguments | {"prompts": [car] * batch}),
        )
    latents = torch.randn(batch, 4, *(image_size // vae_scale_factor(pipeline),) * 2, device=device)
    runs["decoding"] = torch.no_grad()(lambda: pipeline.vae.decode(latents).sample)
    for what, run in runs.items():
        with peak_gigabytes(device) as peak:
            clock = Clock(device)
            for _ in range(2):  # the first warms up
                run()
                clock.tick()
            seconds = float(np.diff(clock.times)[-1])
            num_steps = "" if what == "decoding" else f", {steps} steps"
            yield f"{what}{num_steps}, batch {batch}", seconds / batch, peak()


def main() -> None:
    """Print one row for each kind of work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=sorted(UNETS), required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8, help="images a training step")
    parser.add_argument("--sampling-batch", type=int, default=8)
    parser.add_argument("--training-steps", type=int, default=8)
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    pipeline = build_pipeline(arguments.family, small=arguments.small, device=device)
    parameters = sum(p.numel() for p in pipeline.unet.parameters())
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(
        f"UNet of {parameters / 1e6:.0f} M parameters, {arguments.image_size} px, {name}, "
        f"torch {torch.__version__}\n"
    )
    print("| work | seconds an image | peak GB |\n|---|---:|---:|")
    size, batch = arguments.image_size, arguments.sampling_batch
    sampling = measure_sampling(
        pipeline,
        family=arguments.family,
        image_size=size,
        batch=batch,
        steps=arguments.sampling_steps,
        device=device,
    )
    for what, seconds, gigabytes in sampling:
        print(f"| {what} | {seconds:.4f} | {gigabytes:.1f} |", flush=True)
    training = measure_training(
        pipeline,
        image_size=size,
        batch=arguments.batch,
        steps=arguments.training_steps,
        checkpointing=arguments.checkpointing,
        device=device,
    )
    for what, seconds, gigabytes in training:
        print(f"| {what} | {seconds:.4f} | {gigabytes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
