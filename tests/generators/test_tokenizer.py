from pathlib import Path

from seggen_core.generators.tokenizer import train_clip_tokenizer


def test_tokens_don_t_depend_on_the_order_of_the_captions(tmp_path: Path) -> None:
    captions = ["a photo of a car", "two trees and a car", "a photo of two trees"]
    one = train_clip_tokenizer(captions, folder=tmp_path / "a", max_length=8)
    two = train_clip_tokenizer(captions[::-1], folder=tmp_path / "b", max_length=8)
    assert one.get_vocab() == two.get_vocab() and len(set(one.get_vocab().values())) == len(one)
    assert (
        one("a car", padding="max_length").input_ids == two("a car", padding="max_length").input_ids
    )
