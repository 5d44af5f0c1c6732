"""What `seggen init` asks the Hub of Hugging Face for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class HubError(Exception):
    """The Hub or the network didn't answer; the text is the beginning of the reason."""


def newest_files(name: str) -> tuple[str, list[str]]:
    """Return the newest commit of a repository and the names of its files.

    Raises:
        HubError: the Hub can't be asked, or has no such repository.
    """
    with _short_reasons():
        from huggingface_hub import HfApi

        info = HfApi().model_info(name, timeout=10)
        assert info.sha is not None
        return info.sha, [file.rfilename for file in info.siblings or []]


def fetch_files(name: str, *, revision: str, files: Sequence[str]) -> Path:
    """Return a folder with files of a repository at a commit.

    Raises:
        HubError: they can't be fetched.
    """
    with _short_reasons():
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))


@contextmanager
def _short_reasons() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever a network and its libraries raise)
        raise HubError(str(error).split("\n", 1)[0][:200]) from None
