"""What a shop's catalogue team does with pictures all day, as local functions.

Arguments come from templates and customers, so each function checks its own: a wrong one is Refused, in
words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from providers.base import Artifact, FetchError
from providers.local.cutout import replace_background
from providers.local.functions import Context, Refused, local_function
from providers.local.pixels import (
    MAX_PIXELS,
    RGB,
    WHITE,
    border_colour,
    fetch_picture,
    flatten,
    write,
)

RESOLUTIONS = {"1K": 1024, "2K": 2048, "4K": 4096}
# A banner is 10:1; beyond 20:1 it is a typing mistake, and the short side would vanish.
MOST_OBLONG = 20
# More than JPEG noise; less than the step from a white product to an off-white backdrop, so far as possible.
TOLERANCE = 14
# Below this share of border pixels in one colour there is no plain backdrop to replace.
PLAIN_BORDER = 0.5

# Left, middle or right, and top, middle or bottom, as shares of the free space.
POSITIONS = {
    "top-left": (0.0, 0.0),
    "top": (0.5, 0.0),
    "top-right": (1.0, 0.0),
    "left": (0.0, 0.5),
    "center": (0.5, 0.5),
    "right": (1.0, 0.5),
    "bottom-left": (0.0, 1.0),
    "bottom": (0.5, 1.0),
    "bottom-right": (1.0, 1.0),
}
# Smaller letters cannot be read, and a watermark that cannot be read was not worth its price.
SMALLEST_FONT = 9
LONGEST_TEXT = 100
TILE_ANGLE = 30
HALO: RGB = (16, 16, 16)

MOST_IMAGES = 100
MOST_COLUMNS = 20
CELL_SIZES = (32, 2048)
INK: RGB = (51, 51, 51)

_RATIO = re.compile(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", re.ASCII)
_HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", re.ASCII)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@local_function("smart_resize")
def smart_resize(
    context: Context,
    *,
    image: str,
    aspect_ratio: str = "1:1",
    resolution: str = "1K",
    background: str = "auto",
    output_format: str = "auto",
) -> Artifact:
    """Fit an image into an aspect ratio by padding, and scale it; nothing of it is ever cropped.

    aspect_ratio  "4:5" (width to height), or "auto" to keep the image's own
    resolution    "1K", "2K" or "4K": a long side of 1024, 2048 or 4096 pixels
    background    "#rrggbb" under and around the image; "auto" is transparent around an image with alpha,
    else the colour
                  that dominates the edges where padding begins
    """
    if resolution not in RESOLUTIONS:
        raise Refused(f"The resolution must be one of {', '.join(RESOLUTIONS)}.")
    long_side = RESOLUTIONS[resolution]
    ratio = _aspect_ratio(aspect_ratio)
    colour = None if background == "auto" else _hex_colour(background, "background")

    picture = fetch_picture(context.fetch, image, wanted=long_side)
    content = picture.image
    width, height = ratio or content.size
    if width >= height:
        canvas_size = (long_side, max(1, round(long_side * height / width)))
    else:
        canvas_size = (max(1, round(long_side * width / height)), long_side)
    content = _fitted(content, canvas_size)

    if colour is not None:
        content = flatten(content, colour)
    if content.size == canvas_size:
        canvas = content
    elif content.mode == "RGBA":
        canvas = Image.new("RGBA", canvas_size, (0, 0, 0, 0))
        canvas.paste(content, _centred(content.size, canvas_size))
    else:
        if colour is None:
            padded_sides = content.width < canvas_size[0]
            colour, _ = border_colour(content, ("left", "right") if padded_sides else ("top", "bottom"))
        canvas = Image.new("RGB", canvas_size, colour)
        canvas.paste(content, _centred(content.size, canvas_size))
    return write(canvas, output_format, source_format=picture.format)


@local_function("background_color")
def background_color(
    context: Context,
    *,
    image: str,
    color_red: int,
    color_green: int,
    color_blue: int,
    tolerance: int = TOLERANCE,
    output_format: str = "auto",
) -> Artifact:
    """Put a product on a background colour (each channel 0 to 255).

    An image with alpha is flattened onto the colour. One without must show its product on a plain backdrop:
    what is within `tolerance` (0 to 128, of 255) of the backdrop and connected with the border is replaced,
    the product is not touched. Refused when the border is not plain.
    """
    colour = (
        _integer(color_red, "color_red", 0, 255),
        _integer(color_green, "color_green", 0, 255),
        _integer(color_blue, "color_blue", 0, 255),
    )
    _integer(tolerance, "tolerance", 0, 128)
    picture = fetch_picture(context.fetch, image)
    result = picture.image
    if picture.has_alpha:
        result = flatten(result, colour)
    else:
        backdrop, share = border_colour(result)
        if share < PLAIN_BORDER:
            raise Refused(
                "The image has no plain background to replace: its border has many colours. "
                "Use a picture on a plain background, or one with transparency."
            )
        replace_background(result, backdrop, colour, tolerance)
    return write(result, output_format, source_format=picture.format)


@local_function("watermark")
def watermark(
    context: Context,
    *,
    image: str,
    text: str,
    position: str = "bottom-right",
    opacity: float = 0.6,
    scale: float = 0.4,
    output_format: str = "auto",
) -> Artifact:
    """Write a text over an image: white letters in a soft dark halo, so that they show on any picture.

    position  a corner, an edge, "center" (POSITIONS), or "tile" for slanted rows over the whole image
    opacity   0.05 to 1
    scale     0.05 to 1: the text's width as a share of the image's; short texts are held back by their height
    """
    words = _text(text)
    if position != "tile" and position not in POSITIONS:
        raise Refused(f'The position must be "tile" or one of {", ".join(POSITIONS)}.')
    _number(opacity, "opacity", 0.05, 1)
    _number(scale, "scale", 0.05, 1)
    picture = fetch_picture(context.fetch, image)
    result = picture.image
    stamp = _stamp(words, result.size, opacity, scale)
    if position == "tile":
        _tile(result, stamp)
    else:
        margin = round(0.03 * min(result.size))
        across, down = POSITIONS[position]
        free = (result.width - stamp.width - 2 * margin, result.height - stamp.height - 2 * margin)
        _put(result, stamp, (margin + round(across * free[0]), margin + round(down * free[1])))
    return write(result, output_format, source_format=picture.format)


@local_function("contact_sheet")
def contact_sheet(
    context: Context,
    *,
    images: Sequence[str],
    columns: int | None = None,
    cell_size: int = 320,
    captions: Sequence[str] | None = None,
    background: str = "#ffffff",
    output_format: str = "jpeg",
) -> Artifact:
    """Lay images out on one sheet, row by row, each whole and centred in its cell.

    columns    1 to 20; None makes the sheet about square
    cell_size  the side of a cell in pixels, 32 to 2048
    captions   one line under each image, cut short where it does not fit
    One image is decoded at a time. Refused when any of them is, naming which, or when the sheet gets too
    large.
    """
    if not isinstance(images, (list, tuple)) or not 1 <= len(images) <= MOST_IMAGES:
        raise Refused(f"A contact sheet takes a list of 1 to {MOST_IMAGES} images.")
    cell = _integer(cell_size, "cell_size", *CELL_SIZES)
    wanted = math.ceil(math.sqrt(len(images))) if columns is None else columns
    across = min(_integer(wanted, "columns", 1, MOST_COLUMNS), len(images))
    colour = _hex_colour(background, "background")
    lines = _captions(captions, len(images))

    down = math.ceil(len(images) / across)
    gap = max(4, cell // 16)
    font = ImageFont.load_default(max(SMALLEST_FONT, round(cell / 14)))
    below = round(2 * cell / 14) if lines else 0
    size = (across * (cell + gap) + gap, down * (cell + below + gap) + gap)
    if size[0] * size[1] > MAX_PIXELS:
        raise Refused(
            f"The sheet would be {size[0]} x {size[1]} pixels; "
            f"at most {MAX_PIXELS // 1_000_000} megapixels are made. Use a smaller cell_size."
        )
    sheet = Image.new("RGB", size, colour)
    draw = ImageDraw.Draw(sheet)
    for number, source in enumerate(images):
        row, column = divmod(number, across)
        left, top = gap + column * (cell + gap), gap + row * (cell + below + gap)
        thumbnail = _thumbnail(context, source, cell, number + 1)
        x, y = _centred(thumbnail.size, (cell, cell))
        _put(sheet, thumbnail, (left + x, top + y))
        if lines and lines[number]:
            ink = INK if _is_light(colour) else WHITE
            line = _shortened(lines[number], font, cell)
            draw.text((left + cell / 2, top + cell + below / 2), line, fill=ink, font=font, anchor="mm")
    return write(sheet, output_format)


def _thumbnail(context: Context, source: object, cell: int, number: int) -> Image.Image:
    try:
        image = fetch_picture(context.fetch, source, wanted=cell).image
    except Refused as fault:
        raise Refused(f"Image {number}: {fault}") from fault
    except FetchError as fault:
        raise FetchError(f"Image {number}: {fault}", is_retryable=fault.is_retryable) from fault
    return _fitted(image, (cell, cell))


def _fitted(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    """Scale an image, up or down, to the largest size of its own ratio inside a box."""
    factor = min(box[0] / image.width, box[1] / image.height)
    size = (
        min(box[0], max(1, round(image.width * factor))),
        min(box[1], max(1, round(image.height * factor))),
    )
    if size == image.size:
        return image
    # The gap averages very large images down before LANCZOS: no visible difference, a fraction of the time.
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _centred(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    return (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2


def _put(target: Image.Image, image: Image.Image, at: tuple[int, int]) -> None:
    """Lay an image over another one, in place, with respect to the alpha of both.

    Parts outside are cut off.
    """
    if image.mode != "RGBA":
        target.paste(image, at)
        return
    if target.mode != "RGBA":
        target.paste(image, at, mask=image.getchannel("A"))
        return
    # Cut by hand: alpha_composite takes no negative places.
    left, top = max(0, at[0]), max(0, at[1])
    right, bottom = min(target.width, at[0] + image.width), min(target.height, at[1] + image.height)
    if left < right and top < bottom:
        seen = image.crop((left - at[0], top - at[1], right - at[0], bottom - at[1]))
        target.alpha_composite(seen, (left, top))


def _stamp(text: str, size: tuple[int, int], opacity: float, scale: float) -> Image.Image:
    """Render the words of a watermark as an RGBA image of just their extent.

    Refused when they would be unreadable.
    """
    # Measured at a large size: a font's widths are proportional but for hinting.
    per_point = ImageFont.load_default(200).getlength(text) / 200
    points = int(min(scale * size[0] / per_point, scale * size[0] / 4, size[1] / 5))
    if points < SMALLEST_FONT:
        raise Refused("The text cannot be made readable on this image: use a shorter text or a larger image or scale.")
    font = ImageFont.load_default(points)
    rim = max(1, round(points / 20))
    # Room for the rim and for its blur, which fades out within three deviations.
    room = rim + 3 * rim
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    extent = (right - left + 2 * room, bottom - top + 2 * room)
    halo, letters = Image.new("L", extent), Image.new("L", extent)
    at = (room - left, room - top)
    ImageDraw.Draw(halo).text(at, text, fill=255, font=font, stroke_width=rim)
    ImageDraw.Draw(letters).text(at, text, fill=255, font=font)
    halo = halo.filter(ImageFilter.GaussianBlur(rim))
    stamp = Image.composite(Image.new("RGB", extent, WHITE), Image.new("RGB", extent, HALO), letters)
    seen = ImageChops.lighter(letters, halo.point([round(value * 0.75) for value in range(256)]))
    stamp.putalpha(seen.point([round(value * opacity) for value in range(256)]))
    return stamp


def _tile(target: Image.Image, stamp: Image.Image) -> None:
    """Cover an image with slanted stamps, every other row shifted by half a step."""
    slanted = stamp.rotate(TILE_ANGLE, Image.Resampling.BICUBIC, expand=True)
    across, down = round(slanted.width * 1.15), round(slanted.height * 1.1)
    for row in range(-1, target.height // down + 2):
        shift = across // 2 if row % 2 else 0
        for column in range(-1, target.width // across + 2):
            _put(target, slanted, (column * across + shift, row * down))


def _text(value: Any) -> str:
    """Check a text that is to be drawn.

    One line, not empty, in letters the built-in font has. Raises Refused.
    """
    words = " ".join(value.split()) if isinstance(value, str) else ""
    if not 1 <= len(words) <= LONGEST_TEXT:
        raise Refused(f"The text must have 1 to {LONGEST_TEXT} characters.")
    if not words.isprintable():
        raise Refused("The text contains characters that cannot be drawn.")
    strangers = _not_in_font(words)
    if strangers:
        raise Refused(f"The font has no letters for: {' '.join(strangers)}")
    return words


def _not_in_font(text: str) -> list[str]:
    """Name the characters the built-in font would draw as empty boxes, which nobody wants to pay for."""
    font = ImageFont.load_default(24)
    box = _glyph(font, "\uffff")
    return [char for char in sorted(set(text)) if not char.isascii() and _glyph(font, char) == box]


def _glyph(font: Font, char: str) -> tuple[tuple[int, int], bytes]:
    canvas = Image.new("L", (48, 48))
    ImageDraw.Draw(canvas).text((8, 8), char, fill=255, font=font)
    return canvas.size, canvas.tobytes()


def _captions(value: Any, images: int) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or len(value) != images:
        raise Refused(f"There must be one caption for each of the {images} images.")
    return [_text(line) if line else "" for line in value]


def _shortened(text: str, font: Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _aspect_ratio(value: Any) -> tuple[int, int] | None:
    """Parse "W:H"; None for "auto". Raises Refused."""
    if value == "auto":
        return None
    match = _RATIO.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Refused('The aspect ratio must look like "4:5", or be "auto".')
    width, height = int(match[1]), int(match[2])
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise Refused(f"The aspect ratio must be between {MOST_OBLONG}:1 and 1:{MOST_OBLONG}.")
    return width, height


def _hex_colour(value: Any, name: str) -> RGB:
    match = _HEX.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Refused(f'The {name} must be a color like "#f5f5f0".')
    return int(match[1], 16), int(match[2], 16), int(match[3], 16)


def _integer(value: Any, name: str, least: int, most: int) -> int:
    # True is an int to Python, but no colour to anybody.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise Refused(f"The {name} must be an integer.")
    if not least <= value <= most:
        raise Refused(f"The {name} must be between {least} and {most}.")
    return int(value)


def _number(value: Any, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise Refused(f"The {name} must be a number between {least} and {most}.")
    return value


def _is_light(colour: RGB) -> bool:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
