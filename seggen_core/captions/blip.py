"""Captions by BLIP (Li et al. 2022): a twentieth of BLIP-2's size, it continues the prompt."""

from seggen_core.captions.model_captioner import ModelCaptioner


class BlipCaptioner(ModelCaptioner):
    """BLIP through transformers; a caption begins with the prompt."""

    name = "blip"
    title = "BLIP"
    default_model = "Salesforce/blip-image-captioning-large"
    default_prompt = "a photo of"
    processor_class = "BlipProcessor"
    network_class = "BlipForConditionalGeneration"
