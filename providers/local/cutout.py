"""Finding the plain background around a product.

What is backdrop, what is product, and the pixels between.
"""

from __future__ import annotations

import re
from array import array

from PIL import Image, ImageChops, ImageMath

from providers.local.functions import Refused
from providers.local.pixels import RGB, distance

# Memory and time are bound by runs of backdrop pixels (12 bytes each). A studio photo has some dozens a row.
MAX_RUNS = 2_000_000
# The soft edge a camera or a resize leaves between product and backdrop, in pixels.
FRINGE = 2
# Pixels worked on at once where a step needs several copies (16 bytes each in all).
BAND = 4_000_000
_RUN = re.compile(rb"\xff+")


def replace_background(image: Image.Image, old: RGB, new: RGB, tolerance: int) -> None:
    """Recolour, in place, what an RGB image shows of a plain `old` backdrop, flooding from its border.

    1. Backdrop is what lies within `tolerance` of `old` and is connected to the border: it becomes `new`.
    2. In the fringe (FRINGE pixels around it) both are mixed: the backdrop's share is exchanged.
    3. Everything else keeps its pixels, also where it has the backdrop's colour.

    Raises Refused when the backdrop falls into more pieces than MAX_RUNS.
    """
    far = distance(image, old)
    near = far.point([255 if value <= tolerance else 0 for value in range(256)])
    backdrop = _without_specks(flood_from_border(near), far, tolerance)
    del near
    fringe = ImageChops.subtract(_grown(backdrop, FRINGE), backdrop)
    # The strongest difference nearby is the pure product; a pixel's difference by that one is the product's
    # share.
    product = _grown(far, FRINGE)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        piece = image.crop(box)
        share = ImageChops.darker(_backdrop_share(far.crop(box), product.crop(box)), fringe.crop(box))
        piece = _shifted(piece, share, [wanted - had for wanted, had in zip(new, old, strict=True)])
        piece.paste(new, mask=backdrop.crop(box))
        image.paste(piece, box)


def flood_from_border(near: Image.Image) -> Image.Image:
    """Keep of a mask (mode L, 0 or 255) what is connected with the image's border, over edges, not corners.

    Works on whole runs of a row, found by the regex engine: exact at full resolution, where a flood pixel
    by pixel in Python would take minutes. Raises Refused above MAX_RUNS.
    """
    width, height = near.size
    mask = near.tobytes()
    starts, ends, parents = array("q"), array("q"), array("l", [0])  # label 0 is the border
    labels = array("l")

    def root(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    above = range(0)
    for y in range(height):
        first = len(starts)
        candidate = above.start
        for run in _RUN.finditer(mask, y * width, (y + 1) * width):
            start, end = run.span()
            at_border = y in (0, height - 1) or start == y * width or end == (y + 1) * width
            label = 0 if at_border else len(parents)
            if not at_border:
                parents.append(label)
            starts.append(start)
            ends.append(end)
            labels.append(label)
            # The runs above come in the same order, so each of them is looked at about once.
            while candidate < above.stop and ends[candidate] + width <= start:
                candidate += 1
            touching = candidate
            while touching < above.stop and starts[touching] + width < end:
                one, other = root(labels[touching]), root(label)
                parents[max(one, other)] = min(one, other)
                touching += 1
        above = range(first, len(starts))
        if len(starts) > MAX_RUNS:
            raise Refused("The background is too busy to be replaced.")
    flooded = bytearray(len(mask))
    for start, end, label in zip(starts, ends, labels, strict=True):
        if root(label) == 0:
            flooded[start:end] = mask[start:end]
    return Image.frombytes("L", near.size, bytes(flooded))


def _without_specks(backdrop: Image.Image, far: Image.Image, tolerance: int) -> Image.Image:
    """Close what noise has left open: specks of two pixels at most, not further off than twice the tolerance."""
    closed = ImageChops.invert(_grown(ImageChops.invert(_grown(backdrop, 1)), 1))
    noise = far.point([255 if value <= 2 * tolerance else 0 for value in range(256)])
    return ImageChops.lighter(backdrop, ImageChops.darker(closed, noise))


def _grown(image: Image.Image, by: int) -> Image.Image:
    """Give each pixel the largest value within `by` pixels. What MaxFilter does, in a tenth of its time."""
    for _ in range(by):
        for across, down in ((1, 0), (0, 1)):
            largest = image
            for step in (-1, 1):
                neighbour = image.copy()
                neighbour.paste(image, (step * across, step * down))
                largest = ImageChops.lighter(largest, neighbour)
            image = largest
    return image


def _shifted(image: Image.Image, share: Image.Image, change: list[int]) -> Image.Image:
    """Add share x change to each channel: what a mixture with the old backdrop had been with the new one."""
    bands = []
    for band, by in zip(image.split(), change, strict=True):
        amount = share.point([round(value * abs(by) / 255) for value in range(256)])
        bands.append(ImageChops.add(band, amount) if by > 0 else ImageChops.subtract(band, amount))
    return Image.merge("RGB", bands)


def _backdrop_share(far: Image.Image, product: Image.Image) -> Image.Image:
    """255 where a pixel is all backdrop, 0 where it is as far from it as anything nearby."""
    share = ImageMath.lambda_eval(
        lambda images: images["convert"](255 - images["far"] * 255 / images["max"](images["product"], 1), "L"),
        far=far,
        product=product,
    )
    assert isinstance(share, Image.Image)  # noqa: S101 (an expression of images is one)
    return share
