"""Contact sheets as PNG or HTML: samples, masks, overlays, instance outlines and a legend."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seggen_core.reports.grids import colorize, overlay
from seggen_core.taxonomy import IGNORE_INDEX

PANELS = ("image", "classes", "overlay")
_GAP = 12
_TEXT = 15
_LINE = 20
_BOX = 14
_LEGEND_WIDTH = 240
_SHEET_HEIGHT = 200
"""Pixels of a panel on a sheet."""
_PAGE_HEIGHT = 240
"""Pixels of a panel on an HTML page."""
_OUTLINE = (255, 255, 255)
_STRIPES = ((255, 255, 255), (60, 60, 60))
_STYLE = (
    "body{font:15px sans-serif;display:flex;gap:24px;margin:16px}"
    "ul{list-style:none;padding:0;position:sticky;top:16px;align-self:start;white-space:nowrap}"
    "span{display:inline-block;width:14px;height:14px;border:1px solid;margin-right:8px}"
    "img{margin:0 8px 0 0;max-width:32%}p{margin:16px 0 4px}"
)


@dataclass(frozen=True)
class SheetSample:
    """One sample on a sheet.

    Attributes:
        title: its name; a second line is its prompt or caption.
        image: uint8 [H, W, 3].
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        instance_map: uint16 [H, W] or None.
    """

    title: str
    image: np.ndarray
    segmentation_map: np.ndarray
    instance_map: np.ndarray | None


@dataclass(frozen=True)
class LegendEntry:
    """A class that occurs on a sheet.

    Attributes:
        name: the class.
        color: RGB; None for ignored pixels.
        share: percentage of all pixels shown.
    """

    name: str
    color: tuple[int, int, int] | None
    share: float


def sheet_panels(sample: SheetSample, *, palette: np.ndarray, height: int) -> list[Image.Image]:
    """Return image, class colours and overlay with instance outlines.

    All are `height` pixels high; masks stay unblurred.
    """
    width = max(1, round(sample.image.shape[1] * height / sample.image.shape[0]))
    size = (width, height)
    picture = Image.fromarray(sample.image).resize(size, Image.Resampling.LANCZOS)
    ids = np.asarray(
        Image.fromarray(sample.segmentation_map).resize(size, Image.Resampling.NEAREST)
    )
    # Stripes show ignored pixels: any single colour may be that of a class (CamVid's sky is grey).
    colors = np.where(
        (ids == IGNORE_INDEX)[..., None], _striped(height, width), colorize(ids, palette)
    )
    mixed = overlay(np.asarray(picture), colors, 0.55)
    mixed[ids == IGNORE_INDEX] = np.asarray(picture)[ids == IGNORE_INDEX]
    if sample.instance_map is not None:
        instances = Image.fromarray(sample.instance_map.astype(np.int32)).resize(
            size, Image.Resampling.NEAREST
        )
        mixed[_outlines(np.asarray(instances))] = _OUTLINE
    return [picture, Image.fromarray(colors), Image.fromarray(mixed)]


def legend(
    samples: Sequence[SheetSample], *, class_names: Sequence[str], palette: np.ndarray
) -> list[LegendEntry]:
    """Return the classes in `samples`, largest first; ignored pixels come last."""
    counts = np.sum(
        [np.bincount(s.segmentation_map.ravel(), minlength=256) for s in samples], axis=0
    )
    total = max(1, int(counts.sum()))
    shown = [
        i for i in np.argsort(-counts[: len(class_names)], kind="stable").tolist() if counts[i]
    ]
    entries = [
        LegendEntry(
            class_names[i],
            (int(palette[i][0]), int(palette[i][1]), int(palette[i][2])),
            100 * counts[i] / total,
        )
        for i in shown
    ]
    if counts[IGNORE_INDEX]:
        entries.append(LegendEntry("(ignored)", None, 100 * counts[IGNORE_INDEX] / total))
    return entries


def draw_sheet(
    samples: Sequence[SheetSample],
    *,
    class_names: Sequence[str],
    palette: np.ndarray,
    heading: str,
    height: int = _SHEET_HEIGHT,
) -> Image.Image:
    """Draw a sheet: one row for each sample, and the legend at the right.

    Args:
        samples: at least one; sizes may differ.
        class_names: by train id.
        palette: uint8 [num_classes, 3].
        heading: written on top.
        height: of the pictures, in pixels.
    """
    font = ImageFont.load_default(_TEXT)
    rows = [sheet_panels(s, palette=palette, height=height) for s in samples]
    entries = legend(samples, class_names=class_names, palette=palette)
    widths = [max(row[i].width for row in rows) for i in range(len(PANELS))]
    left = _GAP + sum(w + _GAP for w in widths)
    titles = [
        [_cut(line, width=left - 2 * _GAP, font=font) for line in s.title.splitlines()]
        for s in samples
    ]
    top = 2 * _GAP + 2 * _LINE
    total = top + sum(len(t) * _LINE + height + _GAP for t in titles)
    total = max(total, top + len(entries) * _LINE + _GAP)
    sheet = Image.new("RGB", (left + _LEGEND_WIDTH, total), "white")
    pencil = ImageDraw.Draw(sheet)

    # 1. Heading and the names of the columns.
    pencil.text((_GAP, _GAP), heading, fill="black", font=font)
    columns = np.cumsum([_GAP, *(w + _GAP for w in widths[:-1])]).tolist()
    for name, x in zip(PANELS, columns, strict=True):
        pencil.text((x, _GAP + _LINE), name, fill=(90, 90, 90), font=font)

    # 2. Samples.
    y = top
    for title, row in zip(titles, rows, strict=True):
        for line in title:
            pencil.text((_GAP, y), line, fill="black", font=font)
            y += _LINE
        for panel, x in zip(row, columns, strict=True):
            sheet.paste(panel, (x, y))
        y += height + _GAP

    # 3. Legend.
    for position, entry in enumerate(entries):
        y = top + position * _LINE
        if entry.color is None:
            sheet.paste(Image.fromarray(_striped(_BOX, _BOX)), (left, y + 2))
        box = (left, y + 2, left + _BOX, y + 2 + _BOX)
        pencil.rectangle(box, fill=entry.color, outline="black")
        text = f"{entry.name}  {entry.share:.1f}%"
        text = _cut(text, width=_LEGEND_WIDTH - _BOX - 2 * _GAP, font=font)
        pencil.text((left + _BOX + 8, y), text, fill="black", font=font)
    return sheet


def write_html(
    samples: Sequence[SheetSample],
    *,
    class_names: Sequence[str],
    palette: np.ndarray,
    heading: str,
) -> str:
    """Return the sheet as one HTML page that holds its pictures; texts stay searchable."""
    parts = []
    for sample in samples:
        cells = "".join(
            f'<img alt="" src="{_data_url(p)}">'
            for p in sheet_panels(sample, palette=palette, height=_PAGE_HEIGHT)
        )
        title = "<br>".join(html.escape(line) for line in sample.title.splitlines())
        parts.append(f"<section><p>{title}</p>{cells}</section>")
    rows = "".join(
        f'<li><span style="background:{_css(e.color)}"></span>'
        f"{html.escape(e.name)} {e.share:.1f}%</li>"
        for e in legend(samples, class_names=class_names, palette=palette)
    )
    title = html.escape(heading)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style>"
        f"<main><h1>{title}</h1>{''.join(parts)}</main><ul>{rows}</ul></html>\n"
    )


def _striped(height: int, width: int) -> np.ndarray:
    """Return diagonal stripes, uint8 [height, width, 3]."""
    dark = (np.arange(height)[:, None] + np.arange(width)) // 3 % 3 == 0
    return np.where(dark[..., None], *(np.array(c, np.uint8) for c in reversed(_STRIPES)))


def _css(color: tuple[int, int, int] | None) -> str:
    if color is not None:
        return "rgb({}, {}, {})".format(*color)
    light, dark = (_css(c) for c in _STRIPES)
    return f"repeating-linear-gradient(135deg, {dark} 0 2px, {light} 2px 6px)"


def _outlines(instances: np.ndarray) -> np.ndarray:
    """Return the pixels of instances that border on another instance or on none, bool [H, W]."""
    edge = np.zeros(instances.shape, bool)
    down, right = instances[1:] != instances[:-1], instances[:, 1:] != instances[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (instances > 0)


def _cut(text: str, *, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
