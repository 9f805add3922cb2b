"""The image functions, on real pixels: what is where, what stays as it was, and what is refused."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms, ImageDraw

from providers.base import FetchError, Finished, Job, Media, Outcome, ProviderConfig, Rejected, Unavailable
from providers.local import Refused
from providers.local.adapter import LocalAdapter
from providers.local.cutout import flood_from_border
from providers.local.pixels import border_colour, read

RED, GREEN, BLUE = (200, 30, 40), (20, 160, 60), (30, 60, 200)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
DEMO = Path(__file__).resolve().parent.parent.parent / "demo" / "images"


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def make_product(size: tuple[int, int] = (120, 80), backdrop: tuple[int, ...] = WHITE) -> Image.Image:
    """A red box with a hole of backdrop colour, on a plain backdrop."""
    mode = "RGB" if len(backdrop) == 3 else "RGBA"
    image = Image.new(mode, size, backdrop)
    draw = ImageDraw.Draw(image)
    draw.rectangle((30, 20, 89, 59), fill=RED)
    draw.rectangle((50, 30, 69, 49), fill=backdrop)
    return image


def halves(left: tuple[int, ...], right: tuple[int, ...], size: tuple[int, int] = (100, 50)) -> Image.Image:
    image = Image.new("RGB" if len(left) == 3 else "RGBA", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def perform(function: str, bodies: dict[str, bytes], **arguments: Any) -> Outcome:
    def fetch(url: str) -> Media:
        return Media(bodies[url], "application/octet-stream")

    adapter = LocalAdapter(ProviderConfig("local", 120))
    (outcome,) = adapter.perform([Job("run", 1, {"function": function, "arguments": arguments}, fetch)])
    return outcome


def make(function: str, source: Image.Image | bytes, **arguments: Any) -> Image.Image:
    body = source if isinstance(source, bytes) else encoded(source)
    return opened(perform(function, {"it": body}, image="it", **arguments))


def opened(outcome: Outcome) -> Image.Image:
    assert isinstance(outcome, Finished), outcome
    (artifact,) = outcome.artifacts
    image = Image.open(io.BytesIO(artifact.body))
    image.load()
    assert (artifact.type, artifact.mime_type) == ("image", image.get_format_mimetype())
    assert (artifact.width, artifact.height) == image.size
    assert artifact.extension == {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[image.format or ""]
    return image


def refusal(function: str, source: Image.Image | bytes = b"", **arguments: Any) -> str:
    body = source if isinstance(source, bytes) else encoded(source)
    outcome = perform(function, {"it": body}, **{"image": "it", **arguments})
    assert isinstance(outcome, Rejected), outcome
    assert (outcome.code, outcome.stage_code) == ("EXECUTION_FAILED", "execute")
    assert "The function failed" not in outcome.message
    return outcome.message


def close(pixel: Any, colour: tuple[int, ...], by: int = 4) -> bool:
    return len(pixel) == len(colour) and all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


def resize(source: Image.Image | bytes, **arguments: Any) -> Image.Image:
    return make("smart_resize", source, **arguments)


def recolour(source: Image.Image | bytes, colour: tuple[int, int, int], **arguments: Any) -> Image.Image:
    red, green, blue = colour
    return make("background_color", source, color_red=red, color_green=green, color_blue=blue, **arguments)


class TestSmartResize:
    @pytest.mark.parametrize(
        ("ratio", "resolution", "size"),
        [
            ("1:1", "1K", (1024, 1024)),
            ("4:5", "1K", (819, 1024)),
            ("16:9", "2K", (2048, 1152)),
            ("1:20", "1K", (51, 1024)),
            ("auto", "1K", (1024, 683)),
            ("3:2", "4K", (4096, 2731)),
        ],
    )
    def test_the_long_side_is_the_resolution_and_the_ratio_is_kept(
        self, ratio: str, resolution: str, size: tuple[int, int]
    ) -> None:
        assert resize(make_product(), aspect_ratio=ratio, resolution=resolution).size == size

    def test_padding_has_the_colour_of_the_border_and_nothing_is_cropped(self) -> None:
        image = Image.new("RGB", (100, 50), (240, 238, 230))
        ImageDraw.Draw(image).rectangle((20, 0, 79, 49), fill=BLUE)
        result = resize(image, aspect_ratio="1:2")
        assert result.size == (512, 1024)
        # The content is 512 x 256, in the middle; above and below it touches blue, which dominates there.
        assert result.getpixel((5, 0)) == result.getpixel((256, 1023)) == BLUE
        result = resize(image, aspect_ratio="4:1")
        assert result.getpixel((0, 0)) == result.getpixel((1023, 255)) == (240, 238, 230)
        # 20 % of backdrop left and right of the product, at 512 pixels of content: all of it is there.
        assert [result.getpixel((x, 0)) for x in (256 + 80, 256 + 130, 256 + 380, 256 + 430)] == [
            (240, 238, 230),
            BLUE,
            BLUE,
            (240, 238, 230),
        ]

    def test_all_four_corners_of_the_content_survive(self) -> None:
        image = Image.new("RGB", (40, 20), WHITE)
        for x, y, colour in ((0, 0, RED), (30, 0, GREEN), (0, 10, BLUE), (30, 10, BLACK)):
            image.paste(colour, (x, y, x + 10, y + 10))
        result = resize(image, background="#808080")
        corners = [(4, 260), (1019, 260), (4, 763), (1019, 763)]
        assert [result.getpixel(corner) for corner in corners] == [RED, GREEN, BLUE, BLACK]
        assert result.getpixel((4, 250)) == result.getpixel((1019, 773)) == (128, 128, 128)

    def test_an_image_with_alpha_is_padded_with_nothing(self) -> None:
        result = resize(halves((*RED, 255), (*RED, 128)))
        assert result.mode == "RGBA"
        assert result.getpixel((512, 10)) == (0, 0, 0, 0)
        assert result.getpixel((200, 512)) == (*RED, 255)
        assert close(result.getpixel((900, 512)), (*RED, 128), 1)

    def test_a_colour_lies_under_an_image_with_alpha_too(self) -> None:
        result = resize(halves((*RED, 255), (*RED, 0)), background="#0a141e")
        assert result.mode == "RGB"
        assert {result.getpixel(at) for at in ((512, 10), (900, 512))} == {(10, 20, 30)}
        assert result.getpixel((200, 512)) == RED

    def test_transparent_pixels_do_not_bleed_into_the_edges(self) -> None:
        result = resize(halves((*WHITE, 255), (0, 0, 0, 0), (10, 10)))
        seen = [result.getpixel((x, 512)) for x in range(1024)]
        assert all(isinstance(p, tuple) and (p[3] < 8 or close(p[:3], WHITE)) for p in seen)

    def test_exif_orientation_is_honoured_and_not_passed_on(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its left side: the stored left edge is the top
        body = encoded(halves(RED, BLUE), "JPEG", exif=exif, quality=95)
        result = resize(body, aspect_ratio="auto")
        assert result.size == (512, 1024)
        assert close(result.getpixel((256, 100)), RED)
        assert close(result.getpixel((256, 900)), BLUE)
        assert not result.getexif()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation_ends_upright(self, orientation: int) -> None:
        upright = Image.new("RGB", (32, 16), WHITE)
        upright.paste(RED, (0, 0, 16, 8))
        lying = {
            1: None,
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright if lying is None else upright.transpose(lying)
        for format in ("PNG", "WEBP", "TIFF"):
            options = {"lossless": True} if format == "WEBP" else {}
            image = read(encoded(stored, format, exif=exif, **options)).image
            assert (format, image.tobytes()) == (format, upright.tobytes())

    def test_the_format_of_the_source_is_kept_where_it_can_be(self) -> None:
        opaque, clear = halves(RED, BLUE), halves((*RED, 255), (*BLUE, 0))
        sources = [
            encoded(opaque, "JPEG"),
            encoded(opaque),
            encoded(clear, "WEBP"),
            encoded(opaque, "GIF"),
            encoded(opaque, "BMP"),
        ]
        assert [resize(body).format for body in sources] == ["JPEG", "PNG", "WEBP", "PNG", "PNG"]

    def test_a_jpeg_of_an_image_with_alpha_is_white_where_it_was_clear(self) -> None:
        result = resize(halves((*RED, 255), (*RED, 0)), output_format="jpeg")
        assert (result.format, result.mode) == ("JPEG", "RGB")
        assert close(result.getpixel((900, 512)), WHITE)

    def test_a_large_jpeg_is_decoded_small_and_looks_the_same(self) -> None:
        image = halves(RED, BLUE, (6000, 3000))
        body = encoded(image, "JPEG", quality=95)
        assert read(body, wanted=1024).image.size == (3000, 1500)
        assert read(body).image.size == (6000, 3000)
        result = resize(body)
        assert close(result.getpixel((100, 512)), RED)
        assert close(result.getpixel((900, 512)), BLUE)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"resolution": "8K"}, "The resolution must be one of 1K, 2K, 4K."),
            ({"aspect_ratio": "4x5"}, 'The aspect ratio must look like "4:5", or be "auto".'),
            ({"aspect_ratio": "0:5"}, 'The aspect ratio must look like "4:5", or be "auto".'),
            ({"aspect_ratio": 1}, 'The aspect ratio must look like "4:5", or be "auto".'),
            ({"aspect_ratio": "4:5\n"}, 'The aspect ratio must look like "4:5", or be "auto".'),
            ({"aspect_ratio": "21:1"}, "The aspect ratio must be between 20:1 and 1:20."),
            ({"background": "red"}, 'The background must be a color like "#f5f5f0".'),
            ({"output_format": "gif"}, 'The output format must be "auto", "png", "jpeg" or "webp".'),
            ({"image": None}, "No image was given."),
        ],
    )
    def test_an_argument_that_cannot_be_is_refused(self, arguments: dict[str, Any], message: str) -> None:
        assert refusal("smart_resize", make_product(), **arguments) == message


class TestBackgroundColor:
    def test_alpha_is_flattened_onto_the_colour(self) -> None:
        result = recolour(halves((*RED, 255), (*RED, 0)), GREEN)
        assert (result.mode, result.getpixel((10, 10)), result.getpixel((90, 10))) == ("RGB", RED, GREEN)

    def test_a_plain_backdrop_is_replaced_and_the_product_is_not_touched(self) -> None:
        result = recolour(make_product(), GREEN)
        expected = make_product(backdrop=GREEN)
        # What the product encloses is the product's own: only what the border reaches is backdrop.
        expected.paste(WHITE, (50, 30, 70, 50))
        assert result.size == expected.size
        assert result.tobytes() == expected.tobytes()

    def test_a_soft_edge_keeps_its_share_of_the_product_only(self) -> None:
        size = (120, 80)
        image = Image.new("RGB", size, WHITE)
        mask = Image.new("L", (480, 320), 0)
        ImageDraw.Draw(mask).ellipse((121, 81, 357, 237), fill=255)
        mask = mask.resize(size, Image.Resampling.BOX)
        image.paste(RED, mask=mask)
        expected = Image.new("RGB", size, BLUE)
        expected.paste(RED, mask=mask)
        result = recolour(image, BLUE)
        worst = max(abs(a - b) for a, b in zip(result.tobytes(), expected.tobytes(), strict=True))
        assert worst <= 12

    def test_noise_and_fall_off_within_the_tolerance_are_backdrop(self) -> None:
        chance = random.Random(5)
        image = make_product(backdrop=(238, 236, 232))
        pixels = image.load()
        assert pixels is not None
        for x in range(120):
            for y in range(80):
                if pixels[x, y] != RED:
                    pixels[x, y] = tuple(v + chance.randint(-5, 5) for v in (238, 236, 232))
        result = recolour(image, BLACK)
        assert {result.getpixel((x, y)) for x in range(26) for y in range(80)} == {BLACK}
        assert result.getpixel((35, 25)) == RED

    def test_another_tolerance_takes_more_or_less(self) -> None:
        image = make_product()
        image.paste((235, 235, 235), (0, 0, 20, 20))
        assert recolour(image, BLUE).getpixel((5, 5)) == (235, 235, 235)
        assert recolour(image, BLUE, tolerance=30).getpixel((5, 5)) == BLUE

    def test_a_jpeg_stays_a_jpeg_with_a_clean_background(self) -> None:
        body = (DEMO / "mug.jpg").read_bytes()
        result = recolour(body, BLUE)
        assert (result.format, result.size) == ("JPEG", (640, 560))
        assert close(result.getpixel((10, 10)), BLUE, 3)

    def test_a_picture_without_a_plain_border_is_refused(self) -> None:
        chance = random.Random(1)
        noise = Image.frombytes("RGB", (64, 64), chance.randbytes(64 * 64 * 3))
        message = refusal("background_color", noise, color_red=0, color_green=0, color_blue=0)
        assert message.startswith("The image has no plain background to replace")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (256, "The color_green must be between 0 and 255."),
            (-1, "The color_green must be between 0 and 255."),
            ("7", "The color_green must be an integer."),
            (True, "The color_green must be an integer."),
            (1.5, "The color_green must be an integer."),
            (None, "The color_green must be an integer."),
        ],
    )
    def test_a_channel_that_is_none_is_refused(self, value: Any, message: str) -> None:
        arguments = {"color_red": 0, "color_green": value, "color_blue": 0}
        assert refusal("background_color", make_product(), **arguments) == message


class TestSpecks:
    def test_noise_beyond_the_tolerance_leaves_no_specks_behind(self) -> None:
        image = make_product(backdrop=(240, 240, 240))
        for at in ((5, 5), (10, 40), (100, 70)):
            image.putpixel(at, (220, 220, 220))
        result = recolour(image, BLUE)
        assert [result.getpixel(at) for at in ((5, 5), (10, 40), (100, 70))] == [BLUE] * 3

    def test_a_thin_line_of_the_product_is_no_speck(self) -> None:
        image = make_product()
        ImageDraw.Draw(image).line((90, 40, 110, 40), fill=RED)
        assert {recolour(image, BLUE).getpixel((x, 40)) for x in range(90, 111)} == {RED}


class TestFlood:
    def naive(self, mask: Image.Image) -> bytes:
        width, height = mask.size
        near, seen = mask.tobytes(), bytearray(width * height)
        todo = [
            y * width + x for y in range(height) for x in range(width) if x in (0, width - 1) or y in (0, height - 1)
        ]
        while todo:
            at = todo.pop()
            if not near[at] or seen[at]:
                continue
            seen[at] = 255
            x, y = at % width, at // width
            todo += [
                ny * width + nx
                for nx, ny in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1))
                if 0 <= nx < width and 0 <= ny < height
            ]
        return bytes(seen)

    @pytest.mark.parametrize("density", [0.3, 0.55, 0.62, 0.7, 0.9, 1.0])
    def test_it_finds_what_a_flood_pixel_by_pixel_finds(self, density: float) -> None:
        chance = random.Random(density)
        for width, height in ((40, 30), (1, 1), (1, 9), (9, 1), (2, 7), (31, 31)):
            body = bytes(255 if chance.random() < density else 0 for _ in range(width * height))
            mask = Image.frombytes("L", (width, height), body)
            assert flood_from_border(mask).tobytes() == self.naive(mask)

    def test_a_spiral_is_followed_to_its_end(self) -> None:
        mask = Image.new("L", (41, 41), 0)
        draw = ImageDraw.Draw(mask)
        points = [(0, 1)]
        for turn in range(9):
            low, high = 1 + 2 * turn, 39 - 2 * turn
            points += [(high, low), (high, high), (low, high), (low, low + 2)]
        draw.line(points, fill=255)
        assert flood_from_border(mask).tobytes() == self.naive(mask)

    def test_a_mask_in_too_many_pieces_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("providers.local.cutout.MAX_RUNS", 10)
        mask = Image.frombytes("L", (40, 2), b"\xff\x00" * 40)
        with pytest.raises(Refused, match="too busy"):
            flood_from_border(mask)


class TestWatermark:
    @pytest.mark.parametrize("colour", [BLACK, WHITE, (128, 128, 128)])
    def test_the_text_shows_on_any_ground(self, colour: tuple[int, int, int]) -> None:
        result = make("watermark", Image.new("RGB", (400, 300), colour), text="Runflow", opacity=1)
        histogram = result.convert("L").histogram()
        shades = [shade for shade, count in enumerate(histogram) if count]
        assert shades[-1] - shades[0] > 100

    @pytest.mark.parametrize(
        ("position", "inside"),
        [
            ("top-left", (0, 0, 200, 150)),
            ("top", (100, 0, 300, 150)),
            ("center", (100, 75, 300, 225)),
            ("right", (200, 75, 400, 225)),
            ("bottom-right", (200, 150, 400, 300)),
            ("bottom-left", (0, 150, 200, 300)),
        ],
    )
    def test_it_stands_where_it_should_and_nothing_else_changes(
        self, position: str, inside: tuple[int, int, int, int]
    ) -> None:
        result = make("watermark", Image.new("RGB", (400, 300), BLUE), text="Runflow", position=position)
        changed = Image.eval(result.getchannel("R"), lambda value: 0 if value == BLUE[0] else 255)
        assert changed.crop(inside).getbbox() is not None
        changed.paste(0, inside)
        assert changed.getbbox() is None

    def test_tiles_reach_every_quarter(self) -> None:
        result = make("watermark", Image.new("RGB", (400, 300), BLUE), text="SAMPLE", position="tile")
        for x in (0, 200):
            for y in (0, 150):
                assert result.crop((x, y, x + 200, y + 150)).getextrema() != tuple((v, v) for v in BLUE)

    def test_a_lower_opacity_changes_less(self) -> None:
        image = Image.new("RGB", (400, 300), BLACK)
        bright = [
            make("watermark", image, text="Runflow", opacity=opacity).convert("L").getextrema()[1]
            for opacity in (0.1, 0.5, 1)
        ]
        assert bright == [26, 128, 255]

    def test_it_grows_with_the_image(self) -> None:
        boxes = []
        for factor in (1, 4):
            result = make("watermark", Image.new("RGB", (400 * factor, 300 * factor)), text="Runflow", opacity=1)
            letters = result.convert("L").point([0] * 128 + [255] * 128)
            boxes.append(letters.getbbox())
        small, large = boxes
        assert small is not None
        assert large is not None
        assert (large[2] - large[0]) / (small[2] - small[0]) == pytest.approx(4, rel=0.1)
        assert (small[2] - small[0]) / 400 == pytest.approx(0.4, abs=0.05)

    def test_alpha_stays_and_the_text_covers_clear_parts_too(self) -> None:
        result = make("watermark", Image.new("RGBA", (400, 300), (0, 0, 0, 0)), text="Runflow", opacity=1)
        assert result.mode == "RGBA"
        assert result.getchannel("A").getextrema() == (0, 255)
        assert result.getpixel((10, 10)) == (0, 0, 0, 0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"text": ""}, "The text must have 1 to 100 characters."),
            ({"text": " \n "}, "The text must have 1 to 100 characters."),
            ({"text": "x" * 101}, "The text must have 1 to 100 characters."),
            ({"text": 5}, "The text must have 1 to 100 characters."),
            ({"text": "价格 A"}, "The font has no letters for: 价 格"),
            ({"text": "a\x07"}, "The text contains characters that cannot be drawn."),
            ({"opacity": 0}, "The opacity must be a number between 0.05 and 1."),
            ({"opacity": True}, "The opacity must be a number between 0.05 and 1."),
            ({"scale": "1"}, "The scale must be a number between 0.05 and 1."),
        ],
    )
    def test_an_argument_that_cannot_be_is_refused(self, arguments: dict[str, Any], message: str) -> None:
        image = Image.new("RGB", (400, 300))
        assert refusal("watermark", image, **{"text": "Runflow", **arguments}) == message

    def test_an_unknown_position_is_refused_with_the_known_ones(self) -> None:
        message = refusal("watermark", Image.new("RGB", (400, 300)), text="x", position="middle")
        assert message.startswith('The position must be "tile" or one of top-left, top,')

    def test_a_text_that_nobody_could_read_is_refused(self) -> None:
        message = refusal("watermark", Image.new("RGB", (16, 16)), text="Runflow")
        assert message.startswith("The text cannot be made readable")


class TestContactSheet:
    def sheet(self, images: dict[str, Image.Image], **arguments: Any) -> Outcome:
        bodies = {name: encoded(image) for name, image in images.items()}
        return perform("contact_sheet", bodies, images=list(bodies), **arguments)

    def test_images_stand_in_their_cells_row_by_row(self) -> None:
        images = {
            "red": Image.new("RGB", (100, 50), RED),
            "green": Image.new("RGB", (50, 100), GREEN),
            "blue": Image.new("RGB", (10, 10), BLUE),
        }
        result = opened(self.sheet(images, columns=2, cell_size=64, output_format="png"))
        # Two cells of 64 and three gaps of 4 each way.
        assert result.size == (140, 140)
        assert [result.getpixel(at) for at in ((36, 36), (104, 36), (36, 104), (104, 104))] == [
            RED,
            GREEN,
            BLUE,
            WHITE,
        ]
        # Whole and centred: the wide one is 64 x 32, the tall one 32 x 64.
        assert [result.getpixel(at) for at in ((4, 20), (67, 51), (36, 18), (36, 53))] == [RED, RED, WHITE, WHITE]
        assert [result.getpixel(at) for at in ((88, 4), (119, 67), (86, 36), (121, 36))] == [
            GREEN,
            GREEN,
            WHITE,
            WHITE,
        ]

    @pytest.mark.parametrize(
        ("number", "columns", "size"),
        [(1, None, (40, 40)), (5, None, (112, 76)), (9, None, (112, 112)), (3, 20, (112, 40)), (100, 10, (364, 364))],
    )
    def test_the_sheet_is_as_large_as_its_cells(self, number: int, columns: int | None, size: tuple[int, int]) -> None:
        bodies = {"it": encoded(make_product())}
        outcome = perform("contact_sheet", bodies, images=["it"] * number, columns=columns, cell_size=32)
        assert opened(outcome).size == size

    def test_captions_stand_below_their_images_and_are_cut_to_fit(self) -> None:
        images = {"a": Image.new("RGB", (10, 10), WHITE), "b": Image.new("RGB", (10, 10), WHITE)}
        captions = ["Mug", "A very long name of a product that nobody can read at this size"]
        plain = opened(self.sheet(images, cell_size=140, output_format="png"))
        result = opened(self.sheet(images, cell_size=140, captions=captions, output_format="png"))
        assert (plain.height, result.height) == (156, 176)
        ink = Image.eval(result.convert("L"), lambda value: 255 - value)
        left, right = ink.crop((0, 0, 152, 176)).getbbox(), ink.crop((152, 0, 304, 176)).getbbox()
        assert left is not None
        assert right is not None
        assert min(left[1], right[1]) >= 148
        assert right[2] - right[0] <= 140
        assert right[2] - right[0] > left[2] - left[0]

    def test_alpha_shows_the_sheet(self) -> None:
        images = {"clear": Image.new("RGBA", (10, 10), (0, 0, 0, 0))}
        result = opened(self.sheet(images, cell_size=32, background="#102030", output_format="png"))
        assert result.getextrema() == ((16, 16), (32, 32), (48, 48))

    def test_a_broken_image_is_named(self) -> None:
        bodies = {"good": encoded(make_product()), "bad": b"no image"}
        outcome = perform("contact_sheet", bodies, images=["good", "bad"])
        message = "Image 2: The input is not an image in a format that can be read."
        assert outcome == Rejected("EXECUTION_FAILED", message)

    def test_an_image_that_cannot_be_fetched_is_named(self) -> None:
        def fetch(url: str) -> Media:
            if url == "slow":
                raise FetchError("It did not answer.", is_retryable=True)
            return Media(encoded(make_product()), "image/png")

        body = {"function": "contact_sheet", "arguments": {"images": ["good", "slow"]}}
        (outcome,) = LocalAdapter(ProviderConfig("local", 1)).perform([Job("run", 1, body, fetch)])
        assert outcome == Unavailable("INPUT_FETCH_FAILED", "Image 2: It did not answer.", "preprocess")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"images": []}, "A contact sheet takes a list of 1 to 100 images."),
            ({"images": "it"}, "A contact sheet takes a list of 1 to 100 images."),
            ({"images": ["it"] * 101}, "A contact sheet takes a list of 1 to 100 images."),
            ({"images": ["it", 7]}, "Image 2: No image was given."),
            ({"images": ["it"], "columns": 0}, "The columns must be between 1 and 20."),
            ({"images": ["it"], "cell_size": 4000}, "The cell_size must be between 32 and 2048."),
            ({"images": ["it"], "captions": ["a", "b"]}, "There must be one caption for each of the 1 images."),
            (
                {"images": ["it"] * 100, "cell_size": 2048},
                "The sheet would be 21888 x 21888 pixels; at most 64 megapixels are made. Use a smaller cell_size.",
            ),
        ],
    )
    def test_an_argument_that_cannot_be_is_refused(self, arguments: dict[str, Any], message: str) -> None:
        outcome = perform("contact_sheet", {"it": encoded(make_product())}, **arguments)
        assert outcome == Rejected("EXECUTION_FAILED", message)


class TestReading:
    def test_sixteen_bits_are_scaled_not_clipped(self) -> None:
        image = Image.new("I;16", (3, 1))
        for x, value in enumerate((0, 32768, 65535)):
            image.putpixel((x, 0), value)
        for format in ("PNG", "TIFF"):
            result = read(encoded(image, format)).image
            assert [result.getpixel((x, 0)) for x in range(3)] == [BLACK, (128, 128, 128), WHITE]

    def test_a_palette_keeps_its_colours_and_its_transparency(self) -> None:
        image = halves(RED, BLUE).quantize(2)
        opaque = read(encoded(image)).image
        assert (opaque.mode, opaque.getpixel((0, 0)), opaque.getpixel((99, 0))) == ("RGB", RED, BLUE)
        clear = image.getpixel((0, 0))
        result = read(encoded(image, transparency=clear)).image
        assert (result.mode, result.getpixel((0, 0)), result.getpixel((99, 0))) == (
            "RGBA",
            (*RED, 0),
            (*BLUE, 255),
        )

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
    def test_every_common_mode_becomes_white_where_it_was_white(self, mode: str) -> None:
        format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
        image = Image.new("RGB", (8, 8), WHITE).convert(mode)
        result = read(encoded(image, format)).image
        assert (result.mode, result.getpixel((4, 4))) == ("RGB", WHITE)

    def test_a_cmyk_jpeg_has_its_own_colours_not_their_negative(self) -> None:
        image = Image.new("RGB", (16, 16), (220, 40, 40)).convert("CMYK")
        assert close(read(encoded(image, "JPEG", quality=95)).image.getpixel((8, 8)), (220, 40, 40), 6)

    def test_grey_with_alpha_keeps_its_alpha(self) -> None:
        image = Image.new("LA", (4, 4), (100, 50))
        result = read(encoded(image)).image
        assert (result.mode, result.getpixel((0, 0))) == ("RGBA", (100, 100, 100, 50))

    def test_an_alpha_that_hides_nothing_is_no_alpha(self) -> None:
        assert read(encoded(Image.new("RGBA", (4, 4), (*RED, 255)))).image.mode == "RGB"

    def test_a_profile_is_converted_to_srgb_and_dropped(self) -> None:
        picture = read(encoded(Image.new("RGB", (4, 4), (128, 128, 128)), icc_profile=linear_profile()))
        # Linear light of 128 is a bright 188 in sRGB.
        assert close(picture.image.getpixel((0, 0)), (188, 188, 188), 2)
        assert picture.image.info == {}

    def test_a_profile_leaves_the_alpha_alone(self) -> None:
        image = Image.new("RGBA", (4, 4), (128, 128, 128, 77))
        assert close(read(encoded(image, icc_profile=linear_profile())).image.getpixel((0, 0)), (188, 188, 188, 77), 2)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_a_broken_or_foreign_profile_is_ignored(self, mode: str) -> None:
        image = Image.new(mode, (4, 4), 100 if mode == "L" else (100, 100, 100))
        for profile in (b"nonsense", linear_profile()[:200]):
            assert read(encoded(image, icc_profile=profile)).image.getpixel((0, 0)) == (100, 100, 100)

    def test_an_srgb_profile_changes_no_pixel(self) -> None:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        image = Image.frombytes("RGB", (64, 64), random.Random(3).randbytes(64 * 64 * 3))
        assert read(encoded(image, icc_profile=srgb)).image.tobytes() == image.tobytes()

    def test_of_an_animation_the_first_frame_counts(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
        for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
            body = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
            assert close(read(body).image.getpixel((4, 4)), RED, 1)

    @pytest.mark.parametrize("body", [b"", b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe"])
    def test_what_is_no_image_is_refused(self, body: bytes) -> None:
        with pytest.raises(Refused, match="not an image in a format that can be read"):
            read(body)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
    def test_a_truncated_image_is_refused(self, format: str) -> None:
        image = Image.frombytes("RGB", (64, 64), random.Random(3).randbytes(64 * 64 * 3))
        body = encoded(image, format)
        with pytest.raises(Refused, match="damaged or incomplete|not an image"):
            read(body[: len(body) * 2 // 3])

    def test_hostile_bytes_are_refused_or_read_but_never_anything_else(self) -> None:
        chance = random.Random(17)
        image = halves(RED, BLUE, (24, 16))
        seeds = [encoded(image, format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")]
        for round_ in range(600):
            body = bytearray(seeds[round_ % len(seeds)])
            for _ in range(chance.randint(1, 6)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            try:
                assert read(bytes(body)).image.mode in ("RGB", "RGBA")
            except Refused:
                continue

    @pytest.mark.parametrize("size", [(8001, 8000), (10_000, 9_000), (60_000, 60_000)])
    def test_a_bomb_is_refused_by_its_header(self, size: tuple[int, int]) -> None:
        with pytest.raises(Refused, match=r"too many pixels.*; at most 64 megapixels are accepted"):
            read(png_header(*size))

    def test_the_largest_size_is_not_refused_for_its_pixels(self) -> None:
        with pytest.raises(Refused, match="damaged or incomplete"):
            read(png_header(8000, 8000))


class TestBorderColour:
    def test_the_colour_that_dominates_wins_over_the_mean(self) -> None:
        image = Image.new("RGB", (100, 100), (240, 240, 236))
        image.paste(RED, (40, 90, 60, 100))
        colour, share = border_colour(image)
        assert colour == (240, 240, 236)
        assert share == pytest.approx(0.95, abs=0.02)

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 2)])
    def test_tiny_images_have_a_border_too(self, size: tuple[int, int]) -> None:
        assert border_colour(Image.new("RGB", size, BLUE)) == (BLUE, 1.0)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("smart_resize", {"aspect_ratio": "4:5"}),
        ("background_color", {"color_red": 10, "color_green": 20, "color_blue": 30}),
        ("watermark", {"text": "Runflow"}),
    ],
)
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_the_same_input_gives_the_same_bytes_without_metadata(
    function: str, arguments: dict[str, Any], output_format: str
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Secret camera"
    body = encoded(make_product(), "JPEG", exif=exif, comment=b"secret", dpi=(300, 300))
    outcomes = [perform(function, {"it": body}, image="it", output_format=output_format, **arguments) for _ in range(2)]
    first, second = (opened(outcome) for outcome in outcomes)
    assert isinstance(outcomes[0], Finished)
    assert isinstance(outcomes[1], Finished)
    assert outcomes[0].artifacts == outcomes[1].artifacts
    assert b"ecret" not in outcomes[0].artifacts[0].body
    assert first.size == second.size
    assert not first.getexif()


def test_every_demo_picture_is_small_and_passes_through_every_function() -> None:
    bodies = {path.name: path.read_bytes() for path in sorted(DEMO.iterdir())}
    assert len(bodies) == 12
    assert max(len(body) for body in bodies.values()) < 40_000
    assert sum(len(body) for body in bodies.values()) < 350_000
    for name in bodies:
        for function, arguments in (
            ("smart_resize", {"aspect_ratio": "4:5"}),
            ("background_color", {"color_red": 10, "color_green": 20, "color_blue": 30}),
            ("watermark", {"text": "Runflow"}),
        ):
            opened(perform(function, bodies, image=name, **arguments))
    assert opened(perform("contact_sheet", bodies, images=list(bodies), cell_size=64)).format == "JPEG"


def linear_profile() -> bytes:
    """An ICC profile with sRGB's primaries and a gamma of 1: made from Pillow's sRGB by new curves."""
    body = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (number,) = struct.unpack_from(">I", body, 128)
    for index in range(number):
        name, offset, _size = struct.unpack_from(">4sII", body, 132 + 12 * index)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            # A curve without entries is the identity.
            body[offset : offset + 12] = b"curv" + bytes(8)
            struct.pack_into(">I", body, 132 + 12 * index + 8, 12)
        if name == b"desc":
            at = body.find("sRGB".encode("utf-16-be"), offset)
            body[at : at + 8] = "Line".encode("utf-16-be")
    return bytes(body)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises this size and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
