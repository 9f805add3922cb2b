"""Reading and writing pictures: whatever a shop uploads becomes upright 8-bit sRGB, with real alpha or none.

Every function of `providers.local.images` starts with `read` and ends with `write`. Nothing here touches
Pillow's global settings: the process belongs to operators' functions as well.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageCms, ImageStat, UnidentifiedImageError

from providers.base import Artifact, Media
from providers.local.functions import Refused

RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)

# 64 MP is more than any camera a shop uses, and 256 MB once decoded: one worker process holds two of them.
MAX_PIXELS = 64_000_000
# Pillow knows forty formats; among them some that start other programs (EPS) or that nobody has fuzzed.
READABLE = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
# What the encoders can hold, in pixels of the long side.
FORMATS = {"png": 2**31 - 1, "jpeg": 65_535, "webp": 16_383}
MIME_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}

ORIENTATION_TAG = 0x0112
# EXIF orientation -> what makes the picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Two colours this close (in the worst channel, of 255) are the same plain backdrop: JPEG noise and light
# fall-off.
SAME_COLOUR = 24
BORDER_SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image and the format it came in. Mode RGB, or RGBA when something shows through."""

    image: Image.Image
    format: str

    @property
    def has_alpha(self) -> bool:
        return self.image.mode == "RGBA"


def fetch_picture(fetch: Callable[[str], Media], source: object, *, wanted: int | None = None) -> Picture:
    """Fetch and decode one image; see `read`. Raises Refused, or FetchError from the fetch itself."""
    if not isinstance(source, str) or not source:
        raise Refused("No image was given.")
    return read(fetch(source).body, wanted=wanted)


def read(body: bytes, *, wanted: int | None = None) -> Picture:
    """Decode image bytes: first frame, upright, 8-bit sRGB, mode RGB or RGBA.

    `wanted`: the long side in pixels that is needed at most; a larger JPEG is then decoded at a fraction of
    its size. Raises Refused for what is no image, is broken, is truncated, or has more than MAX_PIXELS.
    """
    try:
        # What the bytes say they are decides, not the declared type: customers' servers get it wrong all
        # the time.
        with Image.open(io.BytesIO(body), formats=READABLE) as source:
            return _decode(source, wanted)
    except (Refused, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise Refused(_too_many_pixels()) from fault
    except UnidentifiedImageError as fault:
        raise Refused("The input is not an image in a format that can be read.") from fault
    except Exception as fault:
        # Decoders answer hostile bytes with OSError, SyntaxError, ValueError, struct.error, EOFError and
        # more.
        raise Refused("The image is damaged or incomplete.") from fault


def write(picture: Image.Image, output_format: str, *, source_format: str | None = None) -> Artifact:
    """Encode an image as "png", "jpeg" or "webp"; the same pixels give the same bytes, without any metadata.

    "auto" keeps the source's format where it can hold the picture, else PNG. JPEG has no alpha: it gets white
    there. Raises Refused for another format, or for a size it cannot hold.
    """
    name = output_format
    if name == "auto":
        name = (source_format or "png").lower()
        if name not in FORMATS or (name == "jpeg" and picture.mode == "RGBA"):
            name = "png"
    if name not in FORMATS:
        raise Refused('The output format must be "auto", "png", "jpeg" or "webp".')
    if max(picture.size) > FORMATS[name]:
        raise Refused(f"The result is {_size(picture)} pixels; {name} holds at most {FORMATS[name]} a side.")
    buffer = io.BytesIO()
    if name == "png":
        picture.save(buffer, "PNG", compress_level=6)
    elif name == "jpeg":
        # No chroma subsampling: red and blue products keep their edges.
        flatten(picture, WHITE).save(buffer, "JPEG", quality=92, subsampling=0, optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=92, method=4)
    return Artifact(
        body=buffer.getvalue(),
        mime_type=MIME_TYPES[name],
        type="image",
        extension=EXTENSIONS[name],
        width=picture.width,
        height=picture.height,
    )


def flatten(image: Image.Image, colour: RGB) -> Image.Image:
    """Put an image with alpha on a colour; without alpha it is returned as it is."""
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def distance(image: Image.Image, colour: RGB) -> Image.Image:
    """Measure how far each pixel of an RGB image is from a colour.

    The difference in the worst channel, mode L.
    """
    red, green, blue = (
        band.point([abs(value - wanted) for value in range(256)])
        for band, wanted in zip(image.split(), colour, strict=True)
    )
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def border_colour(image: Image.Image, sides: tuple[str, ...] = BORDER_SIDES) -> tuple[RGB, float]:
    """Find the colour that dominates the outermost pixels, and the share (0 to 1) of them close to it."""
    ring = _border(image, sides)
    # Steps of 16 gather a noisy backdrop into one bin; the mean of everything near that bin then finds its
    # middle.
    bins = ring.point([value & 0xF0 | 0x08 for value in range(256)] * 3).getcolors(ring.width * ring.height)
    assert bins is not None  # noqa: S101 (there cannot be more colours than pixels)
    _, fullest = max(bins, key=lambda entry: (entry[0], entry[1]))
    assert isinstance(fullest, tuple)  # noqa: S101 (the ring is RGB)
    near = _closer_than(ring, (fullest[0], fullest[1], fullest[2]))
    red, green, blue = (round(value) for value in ImageStat.Stat(ring, near).mean)
    close = _closer_than(ring, (red, green, blue)).histogram()[255]
    return (red, green, blue), close / (ring.width * ring.height)


def _closer_than(image: Image.Image, colour: RGB, tolerance: int = SAME_COLOUR) -> Image.Image:
    return distance(image, colour).point([255 if value <= tolerance else 0 for value in range(256)])


def _border(image: Image.Image, sides: tuple[str, ...]) -> Image.Image:
    """Copy the outermost rows and columns (two pixels deep) one after the other into a narrow strip."""
    width, height = image.size
    depth = min(2, width, height)
    boxes = {
        "left": (0, 0, depth, height),
        "top": (0, 0, width, depth),
        "right": (width - depth, 0, width, height),
        "bottom": (0, height - depth, width, height),
    }
    strips = [image.crop(boxes[side]) for side in sides]
    strips = [s.transpose(Image.Transpose.ROTATE_90) if s.height != depth else s for s in strips]
    ring = Image.new("RGB", (sum(strip.width for strip in strips), depth))
    at = 0
    for strip in strips:
        ring.paste(strip, (at, 0))
        at += strip.width
    return ring


def _decode(source: Image.Image, wanted: int | None) -> Picture:
    # The header is enough to refuse: nothing has been decoded yet.
    if source.width * source.height > MAX_PIXELS:
        raise Refused(_too_many_pixels(source))
    source_format = source.format or ""
    if wanted is not None and max(source.size) > 2 * wanted:
        # Twice the wanted size leaves LANCZOS enough to work with. Only JPEG can do it; others ignore it.
        part = 2 * wanted / max(source.size)
        source.draft(None, (max(1, int(source.width * part)), max(1, int(source.height * part))))
    source.load()
    # After loading: PNG may carry its EXIF behind the pixels, and a TIFF has been turned upright by then.
    orientation = _orientation(source)
    image = _normalised(source)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    # Left-over info (profile, transparency, comment) would be written into the results.
    image.info = {}
    return Picture(image, source_format)


def _orientation(source: Image.Image) -> int | None:
    try:
        value = source.getexif().get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001
        # A broken EXIF block says nothing about the pixels, and browsers show such an image as it lies.
        return None
    return value if isinstance(value, int) else None


def _normalised(source: Image.Image) -> Image.Image:
    """Turn any mode into RGB or RGBA with sRGB values."""
    profile = source.info.get("icc_profile")
    image = source
    if image.mode.startswith("I"):
        # Pillow's own conversion to L clips at 255 instead of scaling. TIFF's 32-bit integers hold 16-bit
        # values as a rule.
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
        image.info.pop("transparency", None)
    elif image.mode in ("F", "LAB"):
        raise Refused(f"Images with {image.mode} pixels cannot be read.")
    alpha: Image.Image | None = None
    if image.has_transparency_data:
        image = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if isinstance(profile, bytes) and profile:
        image = _to_srgb(image, profile)
    if image.mode != "RGB":
        image = image.convert("RGB")
    # A channel that lets nothing through is no alpha: screenshots have it, and they should get a colour,
    # not a hole.
    if alpha is not None and alpha.getextrema() != (255, 255):
        image.putalpha(alpha)
    # Never the file's own lazy image: it is closed when this returns.
    return image.copy() if image is source else image


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(embedded).startswith("sRGB"):
            # The identity, but for rounding: a pixel should not change because it passed by here.
            return image
        converted = ImageCms.profileToProfile(image, embedded, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        # A broken profile, or one for another mode: every viewer shows such an image as sRGB.
        return image
    return converted if converted is not None else image


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _too_many_pixels(image: Image.Image | None = None) -> str:
    size = "" if image is None else f" ({_size(image)})"
    return f"The image has too many pixels{size}; at most {MAX_PIXELS // 1_000_000} megapixels are accepted."


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
