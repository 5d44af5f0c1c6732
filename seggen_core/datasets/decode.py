"""From the files of one sample to arrays of one size.

Headers, limits, checksums, modes and EXIF orientation are checked on the way.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from seggen_core.datasets.files import regular_size
from seggen_core.datasets.packed import PackedFile
from seggen_core.datasets.png import check_png
from seggen_core.datasets.sample import CHECK
from seggen_core.errors import DatasetError

MAX_PIXELS = 1 << 26
"""Largest picture that is decoded (8192 x 8192).

A few bytes on disk can claim any size (decompression bomb).
"""

DRAFT_PIXELS = 1 << 25
"""JPEGs with more pixels are decoded at a half, a quarter or an eighth of their size.

That takes less memory, and less time.
"""

IMAGE_MODES = ("RGB", "L", "RGBA", "LA", "P", "CMYK", "I;16", "1")
"""What an image may be: it becomes 8-bit RGB, if its alpha channel is opaque everywhere."""

_FORMATS = ("JPEG", "PNG")
_LOSSLESS = ("PNG",)
"""What maps of ids may be: JPEG changes ids to others, which may be classes, too."""

_DARK = 1 << 12
"""Images of 16 bits whose values are all below it were recorded with 12 bits or fewer."""

EXIF_ORIENTATION = 0x0112
_HAS_16_BITS = "seggen_has_16_bits"
"""Key in Pillow's `info` of an image whose channels have 16 bits each in the file."""

# What Pillow raises on damaged files, by decoder.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
)
_MODES = {
    "RGB": "8-bit RGB",
    "L": "8-bit grey",
    "P": "a colour palette",
    "I;16": "16-bit grey",
    "I": "32-bit grey",
    "1": "1 bit",
    "RGBA": "8-bit RGB with alpha",
    "LA": "8-bit grey with alpha",
    "CMYK": "CMYK",
}
_SIGNATURES = {
    b"GIF8": "a GIF file",
    b"BM": "a BMP file",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"\x93NUMPY": "a NumPy array",
    b"MATLAB 5.0": "a MATLAB file",
    b"\xff\xd8\xff": "a JPEG file",
    b"version https://git-lfs": "a pointer of Git LFS (run: git lfs pull)",
    b"<": "a web page or XML",
    b"{": "JSON",
}
"""First bytes of what is often called .jpg or .png."""


Picture = Path | PackedFile
"""A file of one picture, or a part of a larger file."""


@dataclass(frozen=True)
class SampleFiles:
    """Where the parts of one sample are, and which of Pillow's modes they may have."""

    image: Picture
    mask: Picture
    instances: Picture | None = None
    mask_modes: Sequence[str] = ("L",)
    instances_modes: Sequence[str] = ("I;16",)


@dataclass(frozen=True)
class DecodedFiles:
    """One sample as it is in its files, all at the size of `image`.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        ids: the mask: uint8 or uint16 [H, W] of ids, or uint8 [H, W, 3] where the dataset's masks
            are RGB.
        instances: the instance map, as `ids`; None where there is no file of it.
        stored_size: (width, height) in the files, larger than the arrays where the image was too
            large to be decoded whole.
        mask_size: (width, height) of the mask's file.
        mask_palette: the colours that the mask's file gives its ids, uint8 [num_colors, 3]; None
            where it has no palette.
    """

    image: np.ndarray
    ids: np.ndarray
    instances: np.ndarray | None
    stored_size: tuple[int, int]
    mask_size: tuple[int, int]
    mask_palette: np.ndarray | None = None


@contextmanager
def open_picture(
    path: Picture, *, modes: Sequence[str], header_only: bool = False
) -> Iterator[Image.Image]:
    """Open a JPEG or PNG file whose header is sound; no pixels are decoded yet.

    Args:
        path: the file.
        modes: Pillow's modes that it may have: `IMAGE_MODES` of an image; a map of ids has others,
            and isn't read from JPEG.
        header_only: the pixels won't be decoded, so the rest of the file isn't read; otherwise
            the checksums of a PNG file are compared.

    Raises:
        DatasetError: the file is missing, empty, no such picture, damaged, too large or of another
            mode; or what is done with it inside the block fails as decoding of a damaged file does.
    """
    formats = _FORMATS if modes is IMAGE_MODES else _LOSSLESS
    expected_file = " or ".join(formats)
    try:
        if regular_size(path) == 0:
            raise DatasetError(
                f"{path} is empty (0 bytes); expected a {expected_file} file: copy it again {CHECK}"
            )
        with path.open("rb") as file:
            if not header_only:
                check_png(file)
            image = Image.open(file, formats=formats)
            _check_bits(image, path=path, modes=modes)
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(
                    f"{path} is {image.width}x{image.height}; expected at most {MAX_PIXELS} "
                    f"pixels: reduce it {CHECK}"
                )
            # Pillow 11.3 and older call 16-bit grey I;16 or I, by file.
            if image.mode not in modes and not (image.mode == "I" and "I;16" in modes):
                expected = " or ".join(f"{m} ({_MODES[m]})" for m in modes)
                raise DatasetError(
                    f"{path} has mode {image.mode}; expected {expected}: convert it {CHECK}"
                )
            yield image
            if modes is not IMAGE_MODES:
                _check_upright(image, path=path)
    except DatasetError:
        raise
    except Image.DecompressionBombError as error:
        raise DatasetError(
            f"{path}: {error}; expected at most {MAX_PIXELS} pixels: reduce it {CHECK}"
        ) from None
    except _DECODE_ERRORS as error:
        raise DatasetError(
            f"{path} can't be decoded{_why_not(path, error, formats=formats)} {CHECK}"
        ) from None


def _why_not(path: Picture, error: Exception, *, formats: Sequence[str]) -> str:
    """Say what a file is that can't be decoded, what was expected, and what to do."""
    other, expected = _other_format(path), " or ".join(formats)
    if not other or ("JPEG" in formats and "JPEG" in other):
        return f" ({error}); expected a whole {expected} file: copy it again"
    cure = "make it again, since JPEG changed its ids" if "JPEG" in other else "convert it"
    return f": it is {other}, whatever its name says; expected a {expected} file: {cure}"


def _other_format(path: Picture) -> str:
    """Say what a file is that is neither JPEG nor PNG; "" where its first bytes don't tell."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return ""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP file"
    return next((what for first, what in _SIGNATURES.items() if start.startswith(first)), "")


def _check_bits(image: Image.Image, *, path: Picture, modes: Sequence[str]) -> None:
    """Refuse maps whose ids Pillow would change, and mark images of 16 bits a channel.

    Pillow scales grey of 2 or 4 bits to 0-255, so that 1 of 3 becomes 85, and takes the high 8 bits
    of 16-bit RGB, so that ids up to 255 become 0.
    """
    tiles = getattr(image, "tile", None)  # of the file, before its pixels are decoded
    bits = str(tiles[0][3]).partition(";")[2] if tiles else ""
    has_16_bits = bits == "16B" and not image.mode.startswith("I")
    if modes is IMAGE_MODES:
        image.info[_HAS_16_BITS] = has_16_bits
        return
    if bits in ("2", "4") and image.mode == "L":
        raise DatasetError(
            f"{path} is grey with {bits} bits a pixel; expected ids in 8 or 16 bits: convert it "
            f"{CHECK}"
        )
    if has_16_bits:
        raise DatasetError(
            f"{path} has 16 bits in each of several channels, of which 8 would be lost; expected "
            f"8-bit colours, or ids in 8- or 16-bit grey: convert it {CHECK}"
        )


def _check_upright(image: Image.Image, *, path: Picture) -> None:
    """Refuse a map of ids with an EXIF orientation: no reader of masks turns them."""
    if not {"exif", "Raw profile type exif"} & image.info.keys():
        return  # asking a PNG file would decode it
    orientation = _orientation(image)
    if orientation != 1:
        raise DatasetError(
            f"{path} has EXIF orientation {orientation}; expected a map of ids without one: save "
            f"it upright without the tag {CHECK}"
        )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; what is no such number says nothing."""
    value = image.getexif().get(EXIF_ORIENTATION)
    return int(value) if value is not None and value in range(1, 9) else 1


def to_rgb(image: Image.Image, *, path: Picture) -> Image.Image:
    """Return a decoded image of `IMAGE_MODES` as 8-bit RGB.

    CMYK is converted without a colour profile. Of 16 bits the high ones are taken.

    Raises:
        DatasetError: it isn't opaque everywhere, or its 16 bits hold 12 at most, so that it would
            become nearly black.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint16)
        _check_bright(int(values.max()), path=path)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.info.get(_HAS_16_BITS):
        colors = image if image.mode == "RGB" else image.convert("RGB")
        _check_bright(int(np.asarray(colors).max()) << 8 | 255, path=path)
    if image.mode == "RGB":  # converting RGB to RGB would copy it
        return image
    if "transparency" in image.info and image.mode in ("P", "L"):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA"):
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != 255:
            raise DatasetError(
                f"{path} has transparent pixels (alpha from {lowest}); expected an opaque image: "
                f"put it on a background {CHECK}"
            )
    return image.convert("RGB")


def _check_bright(highest: int, *, path: Picture) -> None:
    """Refuse an image of 16 bits that holds 12 at most; `highest` is its largest value."""
    if 0 < highest < _DARK:
        raise DatasetError(
            f"{path} has 16 bits, and no value above {highest}: it would become nearly black; "
            f"expected values up to 65535: scale them {CHECK}"
        )


def read_files(files: SampleFiles) -> DecodedFiles:
    """Decode the files of a sample.

    The image is turned as its EXIF tag says if the mask shows that it should be. A mask carries no
    EXIF tag. It was drawn on the image either as stored or as displayed, and its size tells which,
    except where both have the same size: such a pair is refused.

    Raises:
        DatasetError: a file is missing, can't be decoded, is damaged, has the wrong mode, is too
            large, or the sizes differ.
    """
    # 1. Masks: they may be read by index alone, so they are decoded whole.
    with open_picture(files.mask, modes=files.mask_modes) as mask:
        mask.load()
    instances = None
    if files.instances is not None:
        with open_picture(files.instances, modes=files.instances_modes) as instances:
            instances.load()
        check_same_size(files.instances, instances.size, files.mask, mask.size)

    # 2. The image, at a reduced size where it is huge.
    with open_picture(files.image, modes=IMAGE_MODES) as image:
        stored_size = image.size
        turned = is_turned(image, path=files.image, drawn_on=files.mask, size=mask.size)
        factor = 1
        while stored_size[0] * stored_size[1] > DRAFT_PIXELS * factor**2 and factor < 8:
            factor *= 2
        if factor > 1:  # does nothing to a PNG
            image.draft(None, (stored_size[0] // factor, stored_size[1] // factor))
        image.load()
    upright = ImageOps.exif_transpose(image) if turned else image
    upright = to_rgb(upright, path=files.image)

    # 3. One size.
    palette, mask_size = palette_of(mask), mask.size
    if upright.size != mask.size:
        mask = mask.resize(upright.size, Image.Resampling.NEAREST)
        if instances is not None:
            instances = instances.resize(upright.size, Image.Resampling.NEAREST)
    return DecodedFiles(
        np.asarray(upright),
        np.asarray(mask),
        None if instances is None else np.asarray(instances),
        stored_size,
        mask_size,
        palette,
    )


def read_headers(files: SampleFiles) -> tuple[int, int]:
    """Check what the headers of a sample's files tell, as `read_files` does.

    Returns:
        (width, height) of the mask.
    """
    with open_picture(files.mask, modes=files.mask_modes, header_only=True) as mask:
        size = mask.size
    if files.instances is not None:
        modes = files.instances_modes
        with open_picture(files.instances, modes=modes, header_only=True) as instances:
            check_same_size(files.instances, instances.size, files.mask, size)
    with open_picture(files.image, modes=IMAGE_MODES, header_only=True) as image:
        is_turned(image, path=files.image, drawn_on=files.mask, size=size)
    return size


def palette_of(mask: Image.Image) -> np.ndarray | None:
    """Return the colours of a mask's palette, uint8 [num_colors, 3]; None where it has none."""
    colors = mask.getpalette("RGB") if mask.mode == "P" else None
    return None if colors is None else np.array(colors, np.uint8).reshape(-1, 3)


def is_turned(
    image: Image.Image, *, path: Picture, drawn_on: Picture | str, size: tuple[int, int] | None
) -> bool:
    """Return whether labels were drawn on the image as its EXIF tag displays it.

    Args:
        image: as opened.
        path: its file.
        drawn_on: the file of the labels, named in errors.
        size: (width, height) of the image that was drawn on; None if nothing says it.

    Raises:
        DatasetError: no size fits, or the sizes can't tell.
    """
    orientation = _orientation(image)
    width, height = image.size
    if size is None:
        if orientation != 1:
            raise DatasetError(
                f"{path} has EXIF orientation {orientation}, and {drawn_on} doesn't say the size "
                "of the image that was drawn on; expected no orientation tag: save the image "
                "upright without it"
            )
        return False
    if orientation != 1:
        if orientation <= 4 or width == height:  # mirrored or turned by half: the size stays
            name = drawn_on if isinstance(drawn_on, str) else drawn_on.name
            raise DatasetError(
                f"{path} has EXIF orientation {orientation}, and nothing tells whether "
                f"{name} was drawn on the image as stored or as displayed; "
                "expected no orientation tag: save the image upright without it"
            )
        if size == (height, width):
            return True
    check_same_size(path, image.size, drawn_on, size)
    return False


def check_same_size(
    path: Picture, size: tuple[int, int], other: Picture | str, other_size: tuple[int, int]
) -> None:
    """Raise DatasetError where two files of a sample differ in size (width, height)."""
    if size != other_size:
        raise DatasetError(
            f"{path} is {size[0]}x{size[1]} but {other} is {other_size[0]}x{other_size[1]}; "
            f"expected the same size {CHECK}"
        )
