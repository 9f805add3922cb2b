"""Draw the pictures of the demo shop into demo/images.

Twelve products, made of shapes, gradients and soft shadows, so that the repository ships no photograph of
anybody's. Seeded and deterministic: with the same Pillow every run writes the same bytes.

    python scripts/make_demo_images.py [directory]
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

RGB = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

# Shapes are drawn this much larger and scaled down: Pillow's own drawing has no antialiasing.
SUPERSAMPLE = 3
TARGET = Path(__file__).resolve().parent.parent / "demo" / "images"
# Held by the script, so that nobody adds a megabyte to every clone by accident.
MOST_BYTES = 40_000


class Scene:
    """A picture in the making: a product layer over a shadow over a backdrop. Units are final pixels."""

    def __init__(self, width: int, height: int, backdrop: RGB | None) -> None:
        self.size = (width, height)
        self.big = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self.backdrop = backdrop
        self.product = Image.new("RGBA", self.big, (0, 0, 0, 0))
        self.shadow = Image.new("L", self.big, 0)

    def mask(self, draw: Callable[[ImageDraw.ImageDraw, Callable[[float], float]], object]) -> Image.Image:
        mask = Image.new("L", self.big, 0)
        draw(ImageDraw.Draw(mask), lambda value: value * SUPERSAMPLE)
        return mask

    def polygon(self, points: Points) -> Image.Image:
        scaled = [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in points]
        return self.mask(lambda draw, _: draw.polygon(scaled, fill=255))

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float | None = None) -> Image.Image:
        high = radius_x if radius_y is None else radius_y
        around = (x - radius_x, y - high, x + radius_x, y + high)
        return self.mask(lambda draw, u: draw.ellipse([u(edge) for edge in around], fill=255))

    def box(self, left: float, top: float, right: float, bottom: float, radius: float = 0) -> Image.Image:
        edges = (left, top, right, bottom)
        return self.mask(lambda draw, u: draw.rounded_rectangle([u(e) for e in edges], u(radius), fill=255))

    def line(self, points: Points, width: float) -> Image.Image:
        scaled = [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in points]
        half = width * SUPERSAMPLE / 2

        def draw_line(draw: ImageDraw.ImageDraw, _: Callable[[float], float]) -> None:
            draw.line(scaled, fill=255, width=round(2 * half), joint="curve")
            for x, y in (scaled[0], scaled[-1]):
                draw.ellipse((x - half, y - half, x + half, y + half), fill=255)

        return self.mask(draw_line)

    def fill(self, mask: Image.Image, *stops: RGB, across: bool = False, opacity: float = 1) -> None:
        """Paint a mask with a gradient through `stops` over its extent, downwards or across."""
        box = mask.getbbox()
        if box is None:
            return
        width, height = box[2] - box[0], box[3] - box[1]
        paint = Image.new("RGB", self.big)
        paint.paste(gradient(width, height, stops, across=across), box[:2])
        if opacity < 1:
            mask = mask.point([round(value * opacity) for value in range(256)])
        layer = paint.convert("RGBA")
        layer.putalpha(mask)
        self.product.alpha_composite(layer)

    def glow(self, mask: Image.Image, colour: RGB, inside: Image.Image, blur: float, opacity: float = 0.6) -> None:
        """Lay a blurred light or shade on the product, seen only inside another mask."""
        soft = mask.filter(ImageFilter.GaussianBlur(blur * SUPERSAMPLE))
        soft = ImageChops.multiply(soft, inside).point([round(value * opacity) for value in range(256)])
        layer = Image.new("RGBA", self.big, (*colour, 0))
        layer.putalpha(soft)
        self.product.alpha_composite(layer)

    def ground(self, x: float, y: float, radius_x: float, radius_y: float, opacity: float = 0.5) -> None:
        """Cast a contact shadow: a dark core under a wider, fainter one."""
        # A product on a backdrop stands in studio light; a cut-out one brings its own shadow along.
        faint = 1 if self.backdrop is None else 0.55
        for grow, blur, strength in ((1.15, 14, 0.45), (0.95, 5, 0.75)):
            spot = self.ellipse(x, y, radius_x * grow, radius_y * grow)
            spot = spot.filter(ImageFilter.GaussianBlur(blur * SUPERSAMPLE))
            spot = spot.point([round(value * strength * opacity * faint) for value in range(256)])
            self.shadow = ImageChops.screen(self.shadow, spot)

    def finish(self) -> Image.Image:
        """Compose and scale down: RGB on the backdrop, or RGBA where there is none."""
        if self.backdrop is None:
            canvas = Image.new("RGBA", self.big, (0, 0, 0, 0))
        else:
            canvas = Image.new("RGBA", self.big, (*self.backdrop, 255))
        shade = Image.new("RGBA", self.big, (52, 44, 40, 0))
        shade.putalpha(self.shadow)
        canvas.alpha_composite(shade)
        canvas.alpha_composite(self.product)
        small = canvas.resize(self.size, Image.Resampling.LANCZOS)
        return small if self.backdrop is None else small.convert("RGB")


def gradient(width: int, height: int, stops: Sequence[RGB], *, across: bool) -> Image.Image:
    length = width if across else height
    strip = Image.new("RGB", (length, 1))
    pixels = [mix(stops, at / max(1, length - 1)) for at in range(length)]
    strip.putdata(pixels)
    if not across:
        strip = strip.transpose(Image.Transpose.ROTATE_270)
    return strip.resize((width, height), Image.Resampling.NEAREST)


def mix(stops: Sequence[RGB], at: float) -> RGB:
    place = at * (len(stops) - 1)
    index = min(int(place), len(stops) - 2) if len(stops) > 1 else 0
    start, end = stops[index], stops[min(index + 1, len(stops) - 1)]
    part = place - index
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(start, end, strict=True))
    return red, green, blue


def curve(*points: tuple[float, float], steps: int = 24) -> list[tuple[float, float]]:
    """Run a smooth line (Catmull-Rom) through points."""
    padded = [points[0], *points, points[-1]]
    line: list[tuple[float, float]] = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for step in range(steps):
            t = step / steps
            x, y = (
                0.5
                * (
                    2 * b[i]
                    + (c[i] - a[i]) * t
                    + (2 * a[i] - 5 * b[i] + 4 * c[i] - d[i]) * t**2
                    + (3 * b[i] - a[i] - 3 * c[i] + d[i]) * t**3
                )
                for i in (0, 1)
            )
            line.append((x, y))
    return [*line, points[-1]]


def arc(
    x: float, y: float, radius_x: float, radius_y: float, start: float, end: float, steps: int = 60
) -> list[tuple[float, float]]:
    """Walk an ellipse between two angles (degrees, clockwise from three o'clock)."""
    angles = (math.radians(start + (end - start) * step / steps) for step in range(steps + 1))
    return [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]


def mug() -> Image.Image:
    scene = Scene(640, 560, (247, 246, 243))
    scene.ground(300, 470, 150, 16)
    handle = ImageChops.subtract(scene.ellipse(438, 300, 78, 88), scene.ellipse(438, 300, 48, 58))
    scene.fill(handle, (222, 106, 78), (168, 66, 46))
    body = scene.polygon([*arc(290, 150, 140, 26, 180, 360), (422, 420), *arc(290, 440, 130, 32, 0, 180), (158, 420)])
    scene.fill(body, (190, 78, 54), (238, 128, 96), (226, 104, 74), (176, 66, 46), across=True)
    scene.glow(scene.box(190, 190, 214, 420, 12), (255, 232, 220), body, 9, 0.75)
    scene.fill(scene.ellipse(290, 150, 140, 26), (246, 150, 120), (222, 108, 80))
    scene.fill(scene.ellipse(290, 152, 126, 20), (120, 44, 30), (160, 66, 46))
    scene.fill(scene.ellipse(290, 158, 117, 14), (66, 38, 26), (104, 62, 42))
    return scene.finish()


def lamp() -> Image.Image:
    scene = Scene(460, 640, (250, 249, 246))
    scene.ground(230, 592, 110, 14)
    scene.fill(scene.ellipse(230, 580, 96, 20), (84, 84, 90), (44, 44, 50))
    scene.fill(scene.ellipse(230, 574, 96, 18), (126, 126, 134), (70, 70, 78))
    stem = scene.box(222, 260, 238, 576, 6)
    scene.fill(stem, (150, 116, 62), (240, 214, 150), (140, 104, 52), across=True)
    scene.fill(scene.ellipse(230, 440, 34, 46), (168, 130, 70), (246, 220, 158), (140, 104, 52), across=True)
    scene.fill(scene.ellipse(230, 274, 62, 10), (255, 244, 206), (240, 200, 120))
    shade = scene.polygon([(150, 74), (310, 74), (386, 286), *arc(230, 286, 156, 22, 0, 180), (74, 286)])
    scene.fill(shade, (214, 178, 122), (250, 226, 180), (246, 220, 172), (206, 168, 110), across=True)
    scene.glow(scene.ellipse(230, 270, 90, 60), (255, 248, 220), shade, 26, 0.9)
    scene.fill(scene.ellipse(230, 74, 80, 11), (236, 208, 158), (206, 172, 118))
    return scene.finish()


def shoe() -> Image.Image:
    scene = Scene(800, 500, (210, 219, 230))
    scene.ground(405, 414, 300, 15)
    sole = scene.polygon(
        [
            *curve((96, 356), (250, 372), (420, 364), (560, 372), (706, 352)),
            *curve((726, 380), (700, 410), (520, 414), (250, 414), (112, 410), (90, 384)),
        ]
    )
    upper = scene.polygon(
        curve(
            (104, 362),
            (96, 290),
            (118, 196),
            (160, 176),
            (220, 200),
            (282, 178),
            (330, 166),
            (372, 214),
            (452, 262),
            (560, 290),
            (664, 312),
            (712, 352),
            (690, 372),
            (420, 378),
            (104, 366),
        )
    )
    scene.fill(upper, (66, 132, 170), (40, 96, 134), (26, 66, 98))
    scene.glow(scene.ellipse(300, 250, 120, 40), (150, 206, 232), upper, 28, 0.55)
    heel = ImageChops.multiply(upper, scene.ellipse(96, 300, 86, 130))
    scene.fill(heel, (28, 62, 92), (18, 44, 68))
    toe = ImageChops.multiply(upper, scene.ellipse(704, 374, 120, 88))
    scene.fill(toe, (248, 246, 240), (234, 230, 222))
    stripe = scene.polygon([(246, 372), (330, 250), (372, 252), (300, 374)])
    scene.fill(ImageChops.multiply(stripe, upper), (250, 190, 84), (236, 158, 46))
    opening = scene.polygon(
        curve((132, 190), (170, 178), (226, 202), (284, 182), (318, 172), (230, 226), (150, 214), (132, 190))
    )
    scene.fill(ImageChops.multiply(opening, upper), (18, 34, 48), (34, 60, 82))
    for step in range(5):
        x, y = 338 + step * 34, 190 + step * 24
        scene.fill(scene.line([(x - 10, y + 26), (x + 30, y - 2)], 8), (255, 255, 252), (240, 240, 236))
    scene.fill(sole, (255, 255, 254), (240, 240, 238))
    scene.fill(scene.line(curve((104, 400), (300, 404), (520, 404), (704, 394)), 4), (188, 192, 194))
    return scene.finish()


def bottle() -> Image.Image:
    scene = Scene(360, 640, None)
    scene.ground(180, 594, 84, 10, 0.6)
    body = scene.polygon(
        [
            (150, 120),
            (210, 120),
            *curve((210, 170), (216, 200), (262, 246), (272, 290)),
            (272, 560),
            *arc(180, 560, 92, 32, 0, 180),
            (88, 290),
            *curve((88, 290), (98, 246), (144, 200), (150, 170)),
        ]
    )
    scene.fill(body, (18, 84, 66), (52, 150, 118), (36, 124, 96), (12, 66, 52), across=True, opacity=0.96)
    scene.glow(scene.box(108, 280, 122, 560, 7), (214, 250, 234), body, 6, 0.8)
    label = scene.box(88, 350, 272, 500)
    scene.fill(label, (222, 214, 196), (250, 246, 234), (246, 240, 226), (206, 196, 176), across=True)
    scene.fill(scene.ellipse(180, 408, 30), (206, 92, 60), (180, 70, 44))
    scene.fill(scene.box(128, 452, 232, 460, 4), (96, 88, 76))
    scene.fill(scene.box(146, 470, 214, 476, 3), (150, 142, 128))
    scene.fill(scene.box(142, 66, 218, 128, 8), (120, 84, 46), (206, 160, 104), (112, 76, 40), across=True)
    return scene.finish()


def chair() -> Image.Image:
    scene = Scene(520, 640, (248, 247, 245))
    scene.ground(262, 590, 170, 12, 0.4)
    wood = ((120, 74, 40), (196, 136, 84), (130, 82, 46))
    for top, bottom in (((196, 400), (172, 590)), ((338, 400), (362, 590))):
        scene.fill(scene.line([top, bottom], 16), (112, 70, 40), (82, 50, 28))
    for top, bottom in (((150, 410), (112, 590)), ((384, 410), (420, 590))):
        scene.fill(scene.line([top, bottom], 20), *wood, across=True)
    back = scene.polygon(
        curve(
            (128, 330),
            (118, 200),
            (150, 96),
            (262, 66),
            (374, 96),
            (406, 200),
            (396, 330),
            (262, 352),
            (128, 330),
        )
    )
    scene.fill(back, (86, 150, 132), (50, 112, 98))
    scene.glow(scene.ellipse(236, 170, 70, 90), (178, 222, 206), back, 34, 0.6)
    for x, y in ((210, 160), (314, 160), (262, 226), (210, 288), (314, 288)):
        scene.glow(scene.ellipse(x, y, 9), (16, 62, 54), back, 5, 0.9)
        scene.fill(scene.ellipse(x, y, 5), (120, 176, 160), (46, 100, 88))
    seat = scene.box(92, 340, 432, 424, 40)
    scene.fill(seat, (108, 172, 152), (70, 134, 116), (36, 88, 76))
    scene.glow(scene.ellipse(240, 362, 120, 10), (204, 236, 224), seat, 10, 0.7)
    return scene.finish()


def plant() -> Image.Image:
    scene = Scene(520, 620, (253, 237, 212))
    scene.ground(260, 566, 112, 13)
    chance = random.Random(7)
    leaves = [(-64, 196), (64, 190), (-34, 236), (36, 240), (0, 262), (-86, 130), (88, 126)]
    for lean, length in leaves:
        root = (260 + lean * 0.25, 384)
        tip = (260 + lean * 2.1, 384 - length * 1.12)
        middle = ((root[0] + tip[0]) / 2 - lean * 0.25, (root[1] + tip[1]) / 2 - 30)
        across = (tip[1] - root[1], root[0] - tip[0])
        norm = math.hypot(*across) / (30 + chance.random() * 6)
        offset = (across[0] / norm, across[1] / norm)
        left = (middle[0] + offset[0], middle[1] + offset[1])
        right = (middle[0] - offset[0], middle[1] - offset[1])
        leaf = scene.polygon([*curve(root, left, tip), *curve(tip, right, root)])
        light = chance.randint(-12, 14)
        scene.fill(leaf, (96 + light, 172 + light, 92), (38, 104 + light, 60))
        scene.fill(scene.line(curve(root, middle, tip), 3), (176, 214, 148), opacity=0.7)
    pot = scene.polygon([(154, 388), (366, 388), (338, 540), *arc(260, 540, 78, 22, 0, 180), (182, 540)])
    scene.fill(pot, (150, 158, 168), (236, 238, 242), (222, 226, 230), (134, 142, 152), across=True)
    rim = scene.box(142, 366, 378, 412, 12)
    scene.fill(rim, (164, 172, 182), (250, 250, 252), (236, 240, 244), (148, 156, 166), across=True)
    scene.glow(scene.box(150, 412, 370, 420), (70, 76, 86), pot, 6, 0.55)
    return scene.finish()


def bag() -> Image.Image:
    scene = Scene(600, 600, None)
    scene.ground(300, 540, 196, 13, 0.6)
    for shift, light in ((0, 0), (12, 26)):
        strap = scene.line(arc(300, 250 + shift, 112, 168, 190, 350), 18)
        scene.fill(strap, (126 + light, 78 + light, 48), (92 + light, 52 + light, 30))
    body = scene.polygon(
        curve(
            (120, 236),
            (110, 400),
            (96, 500),
            (130, 538),
            (300, 546),
            (470, 538),
            (504, 500),
            (490, 400),
            (480, 236),
            (300, 226),
            (120, 236),
        )
    )
    scene.fill(body, (196, 134, 88), (166, 106, 66), (122, 72, 42))
    scene.glow(scene.ellipse(230, 330, 90, 60), (242, 200, 160), body, 36, 0.6)
    pocket = scene.box(176, 356, 424, 500, 22)
    scene.fill(pocket, (180, 118, 74), (142, 88, 54))
    scene.fill(
        ImageChops.subtract(scene.box(184, 364, 416, 492, 18), scene.box(186, 366, 414, 490, 17)),
        (236, 204, 168),
    )
    flap = scene.polygon(
        curve(
            (112, 240),
            (116, 300),
            (200, 348),
            (300, 356),
            (400, 348),
            (484, 300),
            (488, 240),
            (300, 226),
            (112, 240),
        )
    )
    scene.glow(ImageChops.offset(flap, 0, 6 * SUPERSAMPLE), (60, 32, 16), body, 7, 0.6)
    scene.fill(flap, (212, 150, 102), (170, 108, 66))
    scene.fill(scene.box(278, 330, 322, 384, 8), (250, 226, 160), (190, 148, 74))
    scene.fill(scene.box(290, 344, 310, 370, 5), (150, 112, 54))
    return scene.finish()


def watch() -> Image.Image:
    scene = Scene(480, 640, (233, 226, 217))
    scene.ground(246, 586, 84, 14, 0.35)
    for top, bottom, narrow in ((46, 230, 0), (410, 590, 0)):
        del narrow
        strap = scene.box(178, top, 302, bottom, 26)
        scene.fill(strap, (34, 38, 48), (72, 78, 92), (64, 70, 84), (26, 30, 38), across=True)
    for hole in range(4):
        scene.fill(scene.ellipse(240, 486 + hole * 24, 5), (14, 16, 20))
    scene.fill(scene.box(362, 304, 388, 336, 6), (206, 210, 216), (120, 126, 134))
    scene.fill(scene.ellipse(240, 320, 134), (206, 210, 216), (150, 156, 164), (96, 102, 110))
    scene.fill(scene.ellipse(240, 320, 120), (120, 126, 134), (226, 230, 234))
    face = scene.ellipse(240, 320, 112)
    scene.fill(face, (24, 44, 78), (40, 72, 118))
    scene.glow(scene.ellipse(200, 262, 70, 44), (140, 180, 230), face, 28, 0.45)
    for hour in range(12):
        angle = math.radians(hour * 30)
        inner = 86 if hour % 3 else 78
        ends = [(240 + r * math.sin(angle), 320 - r * math.cos(angle)) for r in (inner, 100)]
        scene.fill(scene.line(ends, 4 if hour % 3 else 7), (240, 240, 236))
    for degrees, length, width in ((305, 56, 8), (60, 82, 6)):
        angle = math.radians(degrees)
        tip = (240 + length * math.sin(angle), 320 - length * math.cos(angle))
        scene.fill(scene.line([(240, 320), tip], width), (252, 252, 250), (220, 222, 224))
    scene.fill(scene.line([(240, 336), (240, 232)], 2.5), (240, 120, 70))
    scene.fill(scene.ellipse(240, 320, 8), (250, 160, 110), (214, 92, 48))
    return scene.finish()


def headphones() -> Image.Image:
    scene = Scene(600, 560, (247, 247, 245))
    scene.ground(300, 500, 200, 12, 0.4)
    band = scene.line(arc(300, 310, 186, 220, 186, 354), 30)
    scene.fill(band, (90, 92, 100), (44, 46, 52))
    scene.glow(scene.line(arc(296, 304, 186, 220, 215, 300), 6), (206, 210, 220), band, 4, 0.8)
    scene.fill(scene.line(arc(300, 316, 170, 208, 225, 315), 14), (172, 108, 84), (136, 78, 58))
    for side in (-1, 1):
        x = 300 + side * 172
        cushion = scene.box(x - side * 46 - 34, 300, x - side * 46 + 34, 470, 34)
        scene.fill(cushion, (176, 112, 88), (120, 66, 48))
        cup = scene.ellipse(x + side * 6, 386, 56, 98)
        scene.fill(cup, (96, 150, 158), (52, 104, 116), (28, 66, 78))
        scene.glow(scene.ellipse(x + side * 2 - 14, 336, 18, 40), (255, 255, 255), cup, 12, 0.35)
        scene.fill(scene.ellipse(x + side * 10, 386, 34, 66), (40, 84, 96), (74, 126, 136))
        scene.fill(scene.ellipse(x + side * 10, 386, 7), (236, 150, 96), (206, 104, 54))
    return scene.finish()


def book() -> Image.Image:
    scene = Scene(500, 640, (245, 244, 240))
    scene.ground(256, 584, 180, 14, 0.55)
    pages = scene.polygon([(96, 92), (404, 80), (420, 560), (112, 580)])
    scene.fill(pages, (250, 246, 234), (214, 206, 188))
    for line in range(6):
        x = 406 + line * 2.4
        scene.fill(scene.line([(x, 84), (x + 12, 562)], 0.8), (196, 188, 170))
    cover = scene.polygon([(84, 84), (396, 72), (404, 568), (92, 586)])
    scene.fill(cover, (86, 62, 128), (54, 36, 92))
    spine = scene.polygon([(84, 84), (118, 83), (126, 584), (92, 586)])
    scene.fill(spine, (40, 26, 72), (92, 70, 136), (60, 42, 98), across=True)
    sun = scene.ellipse(262, 262, 74)
    scene.fill(sun, (252, 214, 130), (240, 140, 90))
    for row, colour in enumerate(((140, 104, 176), (112, 80, 152), (88, 60, 128))):
        y = 300 + row * 34
        hill = scene.polygon(
            [
                *curve((124, y + 20), (190, y - 14), (262, y + 16), (330, y - 22), (401, y + 8)),
                (402, 430),
                (126, 436),
            ]
        )
        scene.fill(ImageChops.multiply(hill, cover), colour)
    scene.fill(scene.polygon([(176, 480), (350, 474), (350, 490), (176, 496)]), (250, 236, 206))
    scene.fill(scene.polygon([(204, 514), (324, 510), (324, 520), (204, 524)]), (206, 184, 214))
    return scene.finish()


def ball() -> Image.Image:
    scene = Scene(420, 420, None)
    scene.ground(214, 372, 112, 11, 0.6)
    sphere = scene.ellipse(210, 218, 152)
    colours = (
        (236, 92, 84),
        (250, 246, 238),
        (70, 132, 196),
        (250, 246, 238),
        (246, 196, 78),
        (250, 246, 238),
    )
    for number, colour in enumerate(colours):
        wedge = scene.polygon([(186, 136), *arc(186, 136, 320, 320, number * 60 - 8, number * 60 + 52)])
        scene.fill(ImageChops.multiply(wedge, sphere), colour)
    scene.fill(scene.ellipse(186, 136, 20, 14), (246, 242, 232))
    dark = ImageChops.subtract(sphere, scene.ellipse(180, 176, 150))
    scene.glow(dark, (50, 30, 60), sphere, 22, 0.6)
    scene.glow(scene.ellipse(146, 130, 40, 26), (255, 255, 255), sphere, 14, 0.9)
    return scene.finish()


def cushion() -> Image.Image:
    scene = Scene(560, 480, (242, 240, 236))
    scene.ground(282, 418, 196, 13)
    shape = scene.polygon(
        curve(
            (78, 66),
            (190, 92),
            (282, 88),
            (376, 92),
            (484, 66),
            (462, 160),
            (464, 240),
            (462, 320),
            (486, 412),
            (376, 396),
            (282, 404),
            (190, 396),
            (76, 412),
            (98, 320),
            (94, 240),
            (98, 160),
            (78, 66),
        )
    )
    scene.fill(shape, (238, 190, 96), (226, 160, 62), (188, 118, 38))
    chance = random.Random(11)
    for row in range(9):
        for column in range(11):
            x = 96 + column * 38 + (19 if row % 2 else 0)
            y = 92 + row * 38
            petal = scene.ellipse(x, y, 6 + chance.random() * 2, 9)
            scene.fill(ImageChops.multiply(petal, shape), (252, 228, 170), (244, 206, 130), opacity=0.75)
    scene.glow(scene.ellipse(230, 180, 110, 60), (255, 244, 214), shape, 44, 0.55)
    scene.glow(scene.ellipse(320, 400, 170, 26), (110, 60, 14), shape, 26, 0.6)
    return scene.finish()


def save_jpeg(image: Image.Image, path: Path, *, quarter_turns: int = 0) -> None:
    """Write a JPEG; with `quarter_turns`, lying on its side, and an EXIF orientation that says so."""
    exif = Image.Exif()
    if quarter_turns:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    image.save(path, "JPEG", quality=88, optimize=True, progressive=True, exif=exif)


def save_png(image: Image.Image, path: Path, longest: int) -> None:
    """Write a PNG with full alpha; colours in steps of three: no eye sees it, and it packs a fifth better.

    Not a palette: 256 colours and alphas together leave rings in the shadows.
    """
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    *colours, alpha = image.split()
    rough = [band.point([round(value / 3) * 3 for value in range(256)]) for band in colours]
    image = Image.merge("RGBA", [*rough, alpha])
    # What nobody sees costs nothing either.
    seen = alpha.point([0] + 255 * [255])
    Image.composite(image, Image.new("RGBA", image.size), seen).save(path, "PNG", optimize=True)


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for draw in (mug, lamp, shoe, chair, plant, watch, headphones, book, cushion):
        save_jpeg(draw(), target / f"{draw.__name__}.jpg", quarter_turns=1 if draw is lamp else 0)
    save_png(bottle(), target / "bottle.png", 640)
    save_png(bag(), target / "bag.png", 420)
    save_png(ball(), target / "ball.png", 330)
    for path in sorted(target.iterdir()):
        if path.stat().st_size > MOST_BYTES:
            raise SystemExit(f"{path.name} has {path.stat().st_size} bytes, more than {MOST_BYTES}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
