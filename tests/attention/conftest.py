import pytest

from tests.attention.tiny_pipeline import build_pipeline, build_tokenizer


@pytest.fixture(scope="session")
def pipeline():
    return build_pipeline()


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()
