"""Cross- and self-attention of a Stable Diffusion UNet, averaged while it generates.

SeeDiff, equations 3 to 5:

    with capture_attention(pipe.unet, class_tokens=[[(5,)], [(5, 6)]]) as recorder:
        images = pipe(prompt=["a photo of a car", "a photo of a potted plant"]).images
    recorder.cross_map(16)      # float32 [2, 1, 16, 16]
    recorder.self_map(16)       # float32 [2, 256, 256]

The layer's own processor computes the image, with the same kernel as ever; the maps are computed
beside it from the same queries and keys, so images are bit-identical to those made without capture.

Shape legend: B images; R rows of a network call (B, or 2B under classifier-free guidance,
unconditional rows first); h heads; s side of a feature map; N = s * s queries; M keys; P phrases
asked for per image; T tokens of a phrase.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from seggen_core.attention.layers import attention_modules
from seggen_core.attention.mean_attention import (
    CPU_BYTE_BUDGET,
    GPU_BYTE_BUDGET,
    fused_kernels,
    mean_attention,
)
from seggen_core.errors import AttentionError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

# These compute softmax(q k^T * scale) from the layer's own to_q and to_k, so the map can be
# computed beside them.
_SUPPORTED_PROCESSORS = ("AttnProcessor2_0", "AttnProcessor", "SlicedAttnProcessor")

PhraseTokens = Sequence[int]
"""Positions of one phrase's tokens in the prompt."""


class AttentionRecorder:
    """Running averages of equation 5.

    There is one float32 sum per resolution and image, however many layers and steps there are.

    Equation 5 divides each map by its maximum before averaging, so that no layer or step outweighs
    the others by its mere scale. The paper doesn't say what a map is; here it is the head-averaged
    map of one layer at one step
      - for cross-attention: of one image and one token, [s, s]. The maximum over all tokens would
        be that of the start token, which takes most of every softmax, and would make a class map's
        scale a matter of the prompt's length;
      - for self-attention: of one image, [N, N]. Every row of it sums to the same, so every seed
        weighs the same in equation 7.
    Tokens of a phrase are averaged after that. A "step" is a call of the network (second-order
    samplers make two a step).
    """

    def __init__(
        self,
        class_tokens: Sequence[Sequence[PhraseTokens]],
        *,
        cross_resolutions: Sequence[int] | None,
        self_resolutions: Sequence[int] | None,
        per_layer: bool,
        byte_budget: int | None,
    ) -> None:
        """Start with nothing recorded; arguments are those of `capture_attention`."""
        self.num_images = len(class_tokens)
        self._cross_resolutions, self._self_resolutions = cross_resolutions, self_resolutions
        self._per_layer, self._byte_budget = per_layer, byte_budget
        num_phrases = max(len(phrases) for phrases in class_tokens)
        longest = max(len(tokens) for phrases in class_tokens for tokens in phrases)
        # Token positions [B, P, T] and their weights: 1 / T for a phrase's tokens, 0 for padding.
        self._tokens = torch.zeros(self.num_images, num_phrases, longest, dtype=torch.long)
        self._weights = torch.zeros(self.num_images, num_phrases, longest)
        for image, phrases in enumerate(class_tokens):
            for phrase, tokens in enumerate(phrases):
                self._tokens[image, phrase, : len(tokens)] = torch.tensor(list(tokens))
                self._weights[image, phrase, : len(tokens)] = 1 / len(tokens)
        self._last_token = int(self._tokens.max())
        self._sums: dict[tuple[str, int | str], torch.Tensor] = {}
        self._counts: dict[tuple[str, int | str], int] = {}

    @property
    def cross_resolutions(self) -> list[int]:
        """Resolutions of which a cross-attention map was recorded."""
        return sorted(int(r) for kind, r in self._sums if kind == "cross")

    @property
    def self_resolutions(self) -> list[int]:
        """Resolutions of which a self-attention map was recorded."""
        return sorted(int(r) for kind, r in self._sums if kind == "self")

    @property
    def num_bytes(self) -> int:
        """Bytes of the running sums."""
        return sum(t.numel() * t.element_size() for t in self._sums.values())

    def cross_map(self, resolution: int) -> torch.Tensor:
        """Return the phrases' cross-attention maps, equation 5: float32 [B, P, s, s] in [0, 1].

        The row of a phrase that an image doesn't have (fewer than P) is zero.
        """
        return self._average("cross", resolution, self.cross_resolutions).unflatten(
            -1, (resolution, resolution)
        )

    def self_map(self, resolution: int) -> torch.Tensor:
        """Return self-attention at `resolution`, equation 5: float32 [B, N, N] in [0, 1].

        Row i * s + j is A[i, j, :, :].
        """
        return self._average("self", resolution, self.self_resolutions)

    def mean_cross_map(self, size: int) -> torch.Tensor:
        """Return the phrases' maps averaged over all resolutions: float32 [B, P, size, size].

        DiffuMask's aggregation: each layer's map at each step counts the same, enlarged bilinearly
        to one size.
        """
        total, count = torch.zeros(()), 0
        for resolution in self.cross_resolutions:
            num_maps = self._counts["cross", resolution]
            maps = F.interpolate(
                self.cross_map(resolution), size=(size, size), mode="bilinear", align_corners=False
            )
            total, count = total.to(maps.device) + num_maps * maps, count + num_maps
        if not count:
            raise AttentionError(
                "no cross-attention was recorded; run the network within the context first"
            )
        return total / count

    def layer_maps(self) -> dict[str, torch.Tensor]:
        """Return each cross-attention layer's map, averaged over steps: float32 [B, P, s, s].

        Nothing is returned unless `per_layer` was asked for.
        """
        maps = {}
        for kind, name in self._sums:
            if kind == "layer":
                flat = self._average("layer", name, [])
                maps[str(name)] = flat.unflatten(-1, (math.isqrt(flat.shape[-1]),) * 2)
        return maps

    def _average(self, kind: str, key: int | str, recorded: list[int]) -> torch.Tensor:
        if (kind, key) not in self._sums:
            raise AttentionError(
                f"no {kind}-attention was recorded at {key}x{key}; recorded: "
                f"{recorded or 'nothing'} (list_attention_layers says what the network has at "
                "this image size)"
            )
        return self._sums[kind, key] / self._counts[kind, key]

    def _add(self, kind: str, key: int | str, image: int, maps: torch.Tensor) -> None:
        """Add `maps` [b, ...] to the sums of images `image` to `image + b`."""
        if (kind, key) not in self._sums:
            self._sums[kind, key] = maps.new_zeros(self.num_images, *maps.shape[1:])
            self._counts[kind, key] = 0
        self._sums[kind, key][image : image + maps.shape[0]] += maps
        self._counts[kind, key] += image == 0

    def record(
        self, layer: str, attention: "Attention", query: torch.Tensor, key: torch.Tensor
    ) -> None:
        """Add one layer's attention at one step.

        Args:
            layer: dotted name of the layer.
            attention: the layer.
            query: [R, N, h * d], the output of its to_q.
            key: [R, M, h * d], the output of its to_k.
        """
        # 1. Keep the conditional rows.
        if query.shape[0] not in (self.num_images, 2 * self.num_images):
            raise AttentionError(
                f"{layer} was called with {query.shape[0]} rows, but class tokens were given for "
                f"{self.num_images} images: expected {self.num_images} rows, or "
                f"{2 * self.num_images} under classifier-free guidance (one entry per image)"
            )
        query, key = query[-self.num_images :], key[-self.num_images :]
        side = math.isqrt(query.shape[1])
        if side * side != query.shape[1]:
            raise AttentionError(
                f"{layer} works on {query.shape[1]} positions, which is no square; "
                "generate square images"
            )
        kind, wanted = (
            ("cross", self._cross_resolutions)
            if attention.is_cross_attention
            else ("self", self._self_resolutions)
        )
        if wanted is not None and side not in wanted:
            return

        # 2. Heads, as the processors make them.
        query, key = (x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (query, key))
        query = query if attention.norm_q is None else attention.norm_q(query)
        key = key if attention.norm_k is None else attention.norm_k(key)

        # 3. As many images at a time as the budget holds: equation 5.
        default = CPU_BYTE_BUDGET if query.device.type == "cpu" else GPU_BYTE_BUDGET
        budget = default if self._byte_budget is None else self._byte_budget
        # The fused kernels hold no head's attention, only the maps themselves.
        held = 1 if fused_kernels(query, key) else 2 * attention.heads
        step = max(1, budget // (held * 4 * query.shape[2] * key.shape[2]))
        for image in range(0, self.num_images, step):
            part = slice(image, image + step)
            maps = mean_attention(query[part], key[part], scale=attention.scale, byte_budget=budget)
            if kind == "cross":
                maps = self._phrase_maps(maps, part)
                if self._per_layer:
                    self._add("layer", layer, image, maps)
            else:
                maps /= _maximum(maps, dim=(1, 2))
            self._add(kind, side, image, maps)

    def _phrase_maps(self, maps: torch.Tensor, images: slice) -> torch.Tensor:
        """Return each phrase's map [b, P, N] from cross-attention [b, N, M].

        A phrase's map is the mean over its tokens, each divided by its maximum.
        """
        if self._last_token >= maps.shape[2]:
            raise AttentionError(
                f"token position {self._last_token} was asked for, but the prompt has "
                f"{maps.shape[2]} positions"
            )
        self._tokens, self._weights = self._tokens.to(maps.device), self._weights.to(maps.device)
        tokens, weights = self._tokens[images], self._weights[images]
        index = tokens.flatten(1)[:, None, :].expand(-1, maps.shape[1], -1)
        picked = maps.gather(2, index)
        picked = picked / _maximum(picked, dim=(1,))
        # Zero weights must also silence a NaN of padding, whose token was never asked for.
        weighted = torch.where(
            weights.flatten(1)[:, None] > 0, picked * weights.flatten(1)[:, None], 0.0
        )
        return weighted.unflatten(2, tokens.shape[1:]).sum(-1).transpose(1, 2)


def _maximum(maps: torch.Tensor, *, dim: tuple[int, ...]) -> torch.Tensor:
    """Return the maxima over `dim`, kept, never zero: a map that underflowed to zero stays zero."""
    return maps.amax(dim=dim, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


class _RecordingProcessor:
    """Runs the processor that was there, then hands that call's query and key to the recorder."""

    def __init__(self, name: str, attention: "Attention", recorder: AttentionRecorder) -> None:
        self.wrapped = attention.processor
        self._name, self._recorder = name, recorder
        self._projected: dict[str, torch.Tensor] = {}
        self._handles = [
            getattr(attention, p).register_forward_hook(
                lambda _m, _i, output, p=p: self._projected.__setitem__(p, output)
            )
            for p in ("to_q", "to_k")
        ]

    def __call__(
        self,
        attn: "Attention",
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the layer's output [R, N, C] exactly as without capture."""
        if attention_mask is not None:
            raise AttentionError(
                f"{self._name} was called with an attention mask, which captured maps don't "
                "take into account"
            )
        output = self.wrapped(attn, hidden_states, encoder_hidden_states=encoder_hidden_states)
        query, key = self._projected.pop("to_q"), self._projected.pop("to_k")
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            self._recorder.record(self._name, attn, query, key)
        return output

    def remove(self, attention: "Attention") -> None:
        """Put the original processor back."""
        for handle in self._handles:
            handle.remove()
        attention.processor = self.wrapped


@contextmanager
def capture_attention(
    unet: Any,
    *,
    class_tokens: Sequence[Sequence[PhraseTokens]],
    cross_layers: Sequence[str] | None = None,
    cross_resolutions: Sequence[int] | None = None,
    self_resolutions: Sequence[int] | None = None,
    per_layer: bool = False,
    byte_budget: int | None = None,
) -> Iterator[AttentionRecorder]:
    """Record the attention of every call of `unet` within the context.

    Afterwards the network is as it was. Under classifier-free guidance only the conditional rows
    are recorded. A capture may lie within another one: both record the same calls.

    Args:
        unet: UNet2DConditionModel of any Stable Diffusion 1.x, 2.x or XL pipeline, called directly
            or by an unmodified pipeline.
        class_tokens: for each generated image its phrases, for each phrase its token positions
            (`class_token_positions`).
        cross_layers: names of the cross-attention layers to average; None takes all.
        cross_resolutions: sides of the cross-attention maps to record; None takes all.
        self_resolutions: sides of the self-attention maps to record; None takes all. Fine maps
            take most of the time and memory.
        per_layer: keep the map of each cross-attention layer too (to measure how well each one
            localises).
        byte_budget: most bytes of per-head attention held at a time, of maps where the fused
            kernels hold no more; None is CPU_BYTE_BUDGET or GPU_BYTE_BUDGET.

    Raises:
        AttentionError: no cross-attention, an unknown layer name, a processor whose maps can't be
            computed beside it, an image without class tokens; and within the context, a call with
            another number of images or a feature map that isn't square.
    """
    modules = _check_capture(unet, class_tokens=class_tokens, cross_layers=cross_layers)
    recorder = AttentionRecorder(
        class_tokens,
        cross_resolutions=cross_resolutions,
        self_resolutions=self_resolutions,
        per_layer=per_layer,
        byte_budget=byte_budget,
    )
    installed: list[tuple[Attention, _RecordingProcessor]] = []
    try:
        for name, module in modules:
            if module.is_cross_attention and cross_layers is not None and name not in cross_layers:
                continue
            processor = _RecordingProcessor(name, module, recorder)
            module.processor = processor
            installed.append((module, processor))
        yield recorder
    finally:
        for module, processor in installed:
            processor.remove(module)


def _check_capture(
    unet: Any, *, class_tokens: Sequence[Sequence[PhraseTokens]], cross_layers: Sequence[str] | None
) -> list[tuple[str, "Attention"]]:
    """Return the attention layers; AttentionError where they can't be captured as asked for."""
    modules = attention_modules(unet)
    if not class_tokens or not all(phrases and all(phrases) for phrases in class_tokens):
        raise AttentionError(
            f"each image needs a phrase of at least one token, got class_tokens={class_tokens!r}"
        )
    names = [name for name, m in modules if m.is_cross_attention]
    unknown = sorted(set(cross_layers or ()) - set(names))
    if unknown:
        raise AttentionError(
            f"no cross-attention layer is called {', '.join(unknown)}; "
            f"this network has: {', '.join(names)}"
        )
    for name, module in modules:
        processor = module.processor
        while isinstance(processor, _RecordingProcessor):
            processor = processor.wrapped
        if type(processor).__name__ not in _SUPPORTED_PROCESSORS:
            raise AttentionError(
                f"{name} uses {type(processor).__name__}, expected one of "
                f"{', '.join(_SUPPORTED_PROCESSORS)}; undo what installed it (adapters, fused "
                "projections) or call unet.set_default_attn_processor()"
            )
    return modules
