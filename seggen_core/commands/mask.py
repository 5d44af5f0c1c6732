"""`seggen mask`: images of prompts with the masks of their words; no dataset, no training."""

import argparse
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "make images of prompts, and masks of their words"

_METHODS = ("seediff", "dataset-diffusion", "cross-attention", "diffumask")

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what the image shows")
    parser.add_argument("--prompts", dest="file", type=Path, help="file with one prompt a line")
    parser.add_argument(
        "--word",
        action="append",
        required=True,
        dest="words",
        help='what to mask, as in the prompt; with synonyms: "person: man, woman, people". '
        "Once for each word",
    )
    parser.add_argument(
        "--model",
        help="folder of a Stable Diffusion 1.x, 2.x or XL pipeline, or a repository of the Hub "
        "(default: the small one that seggen ships, which draws scenes)",
    )
    parser.add_argument("--revision", help="commit of the repository, 40 digits")
    parser.add_argument("--method", choices=_METHODS, default="seediff", help="default: seediff")
    parser.add_argument("--out", type=Path, help="folder to write (default: masks/<words>)")
    parser.add_argument("--num", type=int, default=1, help="images of each prompt (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image (default: 0)")
    parser.add_argument("--negative", metavar="PROMPT", help="what the images should not show")
    parser.add_argument("--size", type=int, help="side of the images (default: the model's)")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance; 1 is off")
    parser.add_argument(
        "--threshold", type=float, help="lowest score of a pixel of the mask; makes no new image"
    )
    parser.add_argument("--no-pamr", action="store_true", help="masks as attention has them")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_parse_setting,
        metavar="KEY=VALUE",
        help="another key of the section seediff or diffumask of params.yaml: affinity=cosine",
    )
    parser.add_argument("--maps", action="store_true", help="show the attention maps, too")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--no-keep", action="store_true", help="keep no attention; other masks need new images"
    )


def _parse_setting(text: str) -> tuple[str, Any]:
    from seggen_core.config.params_file import parse_params
    from seggen_core.errors import ConfigError

    key, mark, value = text.partition("=")
    if not mark or not re.fullmatch(r"\w{1,40}", key, flags=re.ASCII):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not KEY=VALUE")
    try:
        return key, parse_params(value, name=key)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Make images and masks; return 1 if no image has a mask that can be used.

    Raises:
        ConfigError: an option has no value that can be used.
        PromptError: a prompt names none of the words; all such prompts are named, before the first
            image.
        FoundationError: the model can't be loaded.
        AttentionError: its attention can't be captured.
        StorageError: the disk is full or not writable.
    """
    from seggen_core.errors import ConfigError, PromptError
    from seggen_core.synthesis.mask_job import MaskJob, run_job
    from seggen_core.synthesis.mask_prompts import read_words
    from seggen_core.synthesis.prompt_file import ListedPrompt, read_prompts

    # 1. What can be refused is refused before anything is loaded.
    if arguments.num < 1 or arguments.seed < 0:
        raise ConfigError("--num has to be at least 1, and --seed at least 0")
    if arguments.revision and not arguments.model:
        raise ConfigError("--revision is the commit of a repository; name it as --model")
    words = read_words(arguments.words)
    prompts = [ListedPrompt(text, "") for text in arguments.prompts]
    if arguments.file is not None:
        prompts += read_prompts(arguments.file)
    if not prompts:
        raise PromptError("there is no prompt; give one, or a file of them as --prompts")
    default_out = Path("masks") / "_".join(words.taxonomy.slugs)[:80]

    # 2. Images and masks.
    job = MaskJob(
        words=words,
        prompts=prompts,
        model=arguments.model,
        revision=arguments.revision,
        method=arguments.method,
        changes=_changes(arguments),
        sampling={
            "negative_prompt": arguments.negative,
            "num_inference_steps": arguments.steps,
            "guidance_scale": arguments.guidance,
        },
        image_size=arguments.size,
        seeds=range(arguments.seed, arguments.seed + arguments.num),
        out=arguments.out or default_out,
        device=arguments.device,
        with_maps=arguments.maps,
        keep=not arguments.no_keep,
    )
    result = run_job(job, root=paths.root)

    # 3. What there is now.
    for place in result.places:
        print(place)
    for note in result.notes:
        logger.warning("%s", note)
    count = "1 image" if len(result.places) == 1 else f"{len(result.places)} images"
    print(f"masks of {count} in {job.out}, {result.num_made} drawn by this run")
    return 0 if result.num_usable else 1


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the method's section that the options set."""
    from seggen_core.errors import ConfigError

    changes = dict(arguments.set)
    if arguments.threshold is not None:
        if not 0 <= arguments.threshold <= 1:
            raise ConfigError(f"--threshold is {arguments.threshold:g}; expected 0 to 1")
        is_diffumask = arguments.method == "diffumask"
        changes |= (
            {"thresholds": [arguments.threshold]} if is_diffumask else {"beta": arguments.threshold}
        )
    if arguments.no_pamr:
        changes["pamr"] = False
    return changes
