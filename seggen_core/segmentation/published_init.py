"""The first weights of Mask2Former's heads, as its authors publish them.

transformers draws what it doesn't name from a normal distribution of standard deviation 0.02. The
authors draw matrices of the pixel decoder's encoder from Xavier's uniform distribution, and the
convolutions beside it from Xavier's or Kaiming's; linear layers elsewhere keep torch's own weights,
and feed-forward layers keep torch's own biases. The backbone, queries and level embeddings,
attention and the mask head are alike in both.
"""

import math

import torch
from torch import nn
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
)


@torch.no_grad()
def initialize_as_published(network: Mask2FormerForUniversalSegmentation) -> None:
    """Give the heads of a new network their first weights, by torch's global generator."""
    for module in network.modules():
        if isinstance(module, Mask2FormerPixelDecoder):
            _initialize_convolutions(module)
        elif isinstance(module, Mask2FormerPixelDecoderEncoderLayer):
            for layer in (module.fc1, module.fc2):
                nn.init.xavier_uniform_(layer.weight)
                _default_bias(layer)
        elif isinstance(module, Mask2FormerMaskedAttentionDecoderLayer):
            for layer in (module.fc1, module.fc2):
                _default_bias(layer)
    network.class_predictor.reset_parameters()


def _initialize_convolutions(decoder: Mask2FormerPixelDecoder) -> None:
    for projection in decoder.input_projections:
        nn.init.xavier_uniform_(projection[0].weight)
        nn.init.zeros_(projection[0].bias)
    kaiming = [decoder.mask_projection]
    kaiming += [block[0] for block in decoder.lateral_convolutions]
    kaiming += [block[0] for block in decoder.output_convolutions]
    for convolution in kaiming:
        # "c2_xavier_fill" of fvcore: Kaiming's uniform distribution with a = 1.
        nn.init.kaiming_uniform_(convolution.weight, a=1)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)


def _default_bias(layer: nn.Linear) -> None:
    bound = 1 / math.sqrt(layer.in_features)
    nn.init.uniform_(layer.bias, -bound, bound)
