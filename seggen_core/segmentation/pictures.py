"""What `seggen predict` is given: images, folders of images or frames, and videos."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageOps

from seggen_core.datasets.decode import IMAGE_MODES, open_picture, to_rgb
from seggen_core.errors import ConfigError, DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_OTHER_SUFFIXES = (".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".avif", ".jp2")
"""Pictures that aren't read: those of a folder are listed, so that reading them is a fault."""


@dataclass(frozen=True)
class Picture:
    """An image, or the frames of a video.

    Attributes:
        name: of the files of its prediction, without suffix; a video's is that of their folder.
        path: the file.
    """

    name: str
    path: Path

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_pictures(sources: Sequence[Path]) -> list[Picture]:
    """Return the pictures that files and folders hold, in the order of their names.

    Those of a folder are named by their place in it. Pictures of other formats are among them,
    named with their suffix, so that none is passed over in silence: `read_image` refuses them.

    Raises:
        ConfigError: a source is missing or is neither, a folder holds no picture, two pictures
            have one name, or a video is given and PyAV isn't installed.
    """
    pictures: list[Picture] = []
    for source in sources:
        if source.is_dir():
            files = sorted(p for p in source.rglob("*") if _is_picture(p))
            if not files:
                raise ConfigError(
                    f"{source} holds no picture; expected files that end in "
                    f"{', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
                )
            files += sorted(p for p in source.rglob("*") if _has_suffix(p, _OTHER_SUFFIXES))
            pictures += [Picture(_name(p.relative_to(source)), p) for p in files]
        elif _is_picture(source):
            pictures.append(Picture(source.stem, source))
        else:
            what = "is no JPEG, PNG or video" if source.exists() else "does not exist"
            raise ConfigError(f"{source} {what}; expected an image, a video or a folder of them")
    seen: dict[str, Path] = {}
    for picture in pictures:
        other = seen.setdefault(picture.name, picture.path)
        if other != picture.path:
            raise ConfigError(
                f"{other} and {picture.path} would have predictions of one name, {picture.name}; "
                "predict them into different folders (--out)"
            )
    if any(p.is_video for p in pictures) and importlib.util.find_spec("av") is None:
        raise ConfigError(
            "videos are read by PyAV, which isn't installed; run: pip install av, or give a folder "
            "of frames"
        )
    return list(dict.fromkeys(pictures))


def _is_picture(path: Path) -> bool:
    return _has_suffix(path, IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def _has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    return path.is_file() and path.suffix.lower() in suffixes


def _name(path: Path) -> str:
    is_read = path.suffix.lower() not in _OTHER_SUFFIXES
    return (path.with_suffix("") if is_read else path).as_posix()


def read_image(path: Path) -> np.ndarray:
    """Return an image as it is shown (EXIF orientation applied): uint8 [H, W, 3].

    Raises:
        DatasetError: the file can't be decoded, or isn't opaque.
    """
    with open_picture(path, modes=IMAGE_MODES) as image:
        image.load()
        return np.array(to_rgb(ImageOps.exif_transpose(image), path=path))


def count_frames(path: Path, *, every: int) -> int | None:
    """Return how many frames `read_frames` yields, as the file says; None where it doesn't say."""
    import av

    try:
        with av.open(str(path)) as container:
            return -(-container.streams.video[0].frames // every) or None
    except (av.FFmpegError, IndexError):
        return None  # `read_frames` says what is wrong


def read_frames(path: Path, *, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, frame) of a video, each `every`-th frame: uint8 [H, W, 3].

    Raises:
        DatasetError: the file can't be decoded.
    """
    import av

    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % every == 0:
                    yield index, frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:  # IndexError: it has no stream of pictures
        raise DatasetError(f"{path} can't be decoded as a video: {error}") from None
