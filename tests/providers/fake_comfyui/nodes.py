"""The nodes that the fake knows: what they take, and what they make of it. A picture is a size and one colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from PIL import Image, UnidentifiedImageError

# What a server's own words look like: they carry its paths.
HOME = "/srv/comfyui"


class NodeError(Exception):
    """A node fails while it runs."""

    def __init__(self, exception_type: str, message: str) -> None:
        super().__init__(message)
        self.exception_type = exception_type


class Picture(NamedTuple):
    width: int
    height: int
    colour: int  # 0xRRGGBB
    frames: int = 1


class Disk(Protocol):
    """What nodes see of the server."""

    def read_input(self, path: str) -> bytes: ...

    def write(self, where: str, prefix: str, extension: str, body: bytes) -> dict[str, str]: ...


Ui = dict[str, list[Any]]
Run = Callable[[Disk, dict[str, Any]], tuple[tuple[Any, ...], Ui | None]]


@dataclass(frozen=True, slots=True)
class NodeType:
    """`inputs` as in `/object_info`: name to [type or choices, options]. `returns`: the types of its slots."""

    run: Run
    inputs: Mapping[str, list[Any]]
    returns: tuple[str, ...] = ()
    is_output: bool = False
    category: str = "image"


def _int(default: int, low: int, high: int, **more: Any) -> list[Any]:
    return ["INT", {"default": default, "min": low, "max": high, "step": 1, **more}]


def _float(default: float, low: float, high: float) -> list[Any]:
    return ["FLOAT", {"default": default, "min": low, "max": high, "step": 0.1}]


def _text(default: str = "") -> list[Any]:
    return ["STRING", {"default": default, "multiline": False}]


def _choice(*choices: str) -> list[Any]:
    return [list(choices), {}]


def _combo(*choices: str) -> list[Any]:
    """The newer way to declare choices, which generation A does not check."""
    return ["COMBO", {"multiselect": False, "options": list(choices)}]


_IMAGE: list[Any] = ["IMAGE", {}]
_IMAGES_TO_SAVE: list[Any] = ["IMAGE", {"tooltip": "The images to save."}]
_SCALE_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
_BLEND_MODES = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")
_SEED = _int(0, 0, 0xFFFF_FFFF_FFFF_FFFF, control_after_generate=True)


@lru_cache(maxsize=64)
def png(width: int, height: int, colour: int) -> bytes:
    """The same bytes object for the same picture: ten thousand outputs cost little."""
    buffer = io.BytesIO()
    rgb = (colour >> 16 & 255, colour >> 8 & 255, colour & 255)
    Image.new("RGB", (width, height), rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _gif(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (picture.width, picture.height)).save(buffer, "GIF")
    return buffer.getvalue()


def _empty_image(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (Picture(values["width"], values["height"], values["color"], values["batch_size"]),), None


def _load_image(disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    body = disk.read_input(values["image"])
    try:
        with Image.open(io.BytesIO(body)) as image:
            size = image.size
            red, green, blue = image.convert("RGB").resize((1, 1), Image.Resampling.BOX).tobytes()
    except UnidentifiedImageError as error:
        message = f"cannot identify image file '{HOME}/input/{values['image']}'\n"
        raise NodeError("PIL.UnidentifiedImageError", message) from error
    return (Picture(size[0], size[1], red << 16 | green << 8 | blue), None), None


def _scale(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["image"]._replace(width=values["width"], height=values["height"]),), None


def _invert(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["image"]._replace(colour=0xFFFFFF ^ values["image"].colour),), None


def _blur(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    radius, picture = values["blur_radius"], values["image"]
    if radius >= min(picture.width, picture.height):
        raise NodeError(
            "RuntimeError",
            "Argument #4: Padding size should be less than the corresponding input dimension, but got: padding "
            f"({radius}, {radius}) at dimension 3 of input [1, 3, {picture.height}, {picture.width}]\n",
        )
    return (picture,), None


def _same(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["image"],), None


def _add_noise(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["image"]._replace(colour=(values["image"].colour + values["seed"]) & 0xFFFFFF),), None


def _blend(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    if values["blend_mode"] not in _BLEND_MODES:
        raise NodeError("ValueError", f"Unsupported blend mode: {values['blend_mode']}\n")
    return (values["image1"],), None


def _save_image(disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (), {"images": _write_pictures(disk, "output", values["filename_prefix"], values["images"])}


def _preview_image(disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (), {"images": _write_pictures(disk, "temp", "ComfyUI_temp_abcde", values["images"])}


def _write_pictures(disk: Disk, where: str, prefix: str, picture: Picture) -> list[dict[str, str]]:
    body = png(picture.width, picture.height, picture.colour)
    return [disk.write(where, prefix, "png", body) for _ in range(picture.frames)]


def _create_video(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(64),), None


def _save_video(disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (), {
        "images": [disk.write("output", values["filename_prefix"], "mp4", values["video"])],
        "animated": [True],
    }


def _empty_audio(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (b"fLaC" + bytes(64),), None


def _save_audio(disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (), {"audio": [disk.write("output", values["filename_prefix"], "flac", values["audio"])]}


def _combine_video(disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    item = disk.write("output", values["filename_prefix"], "gif", _gif(values["images"]))
    return (), {"gifs": [{**item, "format": "image/gif", "frame_rate": values["frame_rate"]}]}


def _string(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["value"],), None


def _concatenate(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["delimiter"].join([values["string_a"], values["string_b"]]),), None


def _preview_any(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (), {"text": [str(values["source"])]}


def _checkpoint(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return ("model", "clip", "vae"), None


def _encode_text(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["text"],), None


def _empty_latent(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (Picture(values["width"], values["height"], 0, values["batch_size"]),), None


def _sample(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    colour = sum(values["positive"].encode()) * 7919 + values["seed"]
    return (values["latent_image"]._replace(colour=colour & 0xFFFFFF),), None


def _decode(_disk: Disk, values: dict[str, Any]) -> tuple[tuple[Any, ...], Ui | None]:
    return (values["samples"],), None


NODE_TYPES: dict[str, NodeType] = {
    "EmptyImage": NodeType(
        _empty_image,
        {
            "width": _int(512, 1, 16384),
            "height": _int(512, 1, 16384),
            "batch_size": _int(1, 1, 4096),
            "color": _int(0, 0, 0xFFFFFF, display="color"),
        },
        ("IMAGE",),
    ),
    "LoadImage": NodeType(_load_image, {"image": [["example.png"], {"image_upload": True}]}, ("IMAGE", "MASK")),
    "ImageScale": NodeType(
        _scale,
        {
            "image": _IMAGE,
            "upscale_method": _choice(*_SCALE_METHODS),
            "width": _int(512, 0, 16384),
            "height": _int(512, 0, 16384),
            "crop": _choice("disabled", "center"),
        },
        ("IMAGE",),
    ),
    "ImageInvert": NodeType(_invert, {"image": _IMAGE}, ("IMAGE",)),
    "ImageBlur": NodeType(
        _blur, {"image": _IMAGE, "blur_radius": _int(1, 1, 31), "sigma": _float(1.0, 0.1, 10.0)}, ("IMAGE",)
    ),
    "ImageSharpen": NodeType(
        _same,
        {
            "image": _IMAGE,
            "sharpen_radius": _int(1, 1, 31),
            "sigma": _float(1.0, 0.1, 10.0),
            "alpha": _float(1.0, 0.0, 5.0),
        },
        ("IMAGE",),
    ),
    "ImageAddNoise": NodeType(
        _add_noise, {"image": _IMAGE, "seed": _SEED, "strength": _float(0.5, 0.0, 1.0)}, ("IMAGE",)
    ),
    "ImageBlend": NodeType(
        _blend,
        {
            "image1": _IMAGE,
            "image2": _IMAGE,
            "blend_factor": _float(0.5, 0.0, 1.0),
            "blend_mode": _combo(*_BLEND_MODES),
        },
        ("IMAGE",),
    ),
    "SaveImage": NodeType(
        _save_image, {"images": _IMAGES_TO_SAVE, "filename_prefix": _text("ComfyUI")}, is_output=True
    ),
    "PreviewImage": NodeType(_preview_image, {"images": _IMAGE}, is_output=True),
    "CreateVideo": NodeType(_create_video, {"images": _IMAGE, "fps": _float(24.0, 1.0, 120.0)}, ("VIDEO",)),
    "SaveVideo": NodeType(
        _save_video, {"video": ["VIDEO", {}], "filename_prefix": _text("video/ComfyUI")}, is_output=True
    ),
    "EmptyAudio": NodeType(_empty_audio, {"duration": _float(60.0, 0.0, 3600.0)}, ("AUDIO",)),
    "SaveAudio": NodeType(
        _save_audio, {"audio": ["AUDIO", {}], "filename_prefix": _text("audio/ComfyUI")}, is_output=True
    ),
    "VHS_VideoCombine": NodeType(
        _combine_video,
        {"images": _IMAGE, "frame_rate": _float(8.0, 1.0, 120.0), "filename_prefix": _text("AnimateDiff")},
        is_output=True,
    ),
    "PrimitiveString": NodeType(_string, {"value": _text()}, ("STRING",), category="utils/primitive"),
    "StringConcatenate": NodeType(
        _concatenate,
        {"string_a": _text(), "string_b": _text(), "delimiter": _text()},
        ("STRING",),
        category="utils/string",
    ),
    "PreviewAny": NodeType(_preview_any, {"source": ["*", {}]}, is_output=True, category="utils"),
    "CheckpointLoaderSimple": NodeType(
        _checkpoint,
        {"ckpt_name": _choice("sd_xl_base_1.0.safetensors", "v1-5-pruned-emaonly.safetensors")},
        ("MODEL", "CLIP", "VAE"),
        category="loaders",
    ),
    "CLIPTextEncode": NodeType(
        _encode_text, {"text": _text(), "clip": ["CLIP", {}]}, ("CONDITIONING",), category="conditioning"
    ),
    "EmptyLatentImage": NodeType(
        _empty_latent,
        {"width": _int(512, 16, 16384), "height": _int(512, 16, 16384), "batch_size": _int(1, 1, 4096)},
        ("LATENT",),
        category="latent",
    ),
    "KSampler": NodeType(
        _sample,
        {
            "model": ["MODEL", {}],
            "seed": _SEED,
            "steps": _int(20, 1, 10000),
            "cfg": _float(8.0, 0.0, 100.0),
            "sampler_name": _choice("euler", "euler_ancestral", "dpmpp_2m"),
            "scheduler": _choice("normal", "karras", "simple"),
            "positive": ["CONDITIONING", {}],
            "negative": ["CONDITIONING", {}],
            "latent_image": ["LATENT", {}],
            "denoise": _float(1.0, 0.0, 1.0),
        },
        ("LATENT",),
        category="sampling",
    ),
    "VAEDecode": NodeType(_decode, {"samples": ["LATENT", {}], "vae": ["VAE", {}]}, ("IMAGE",), category="latent"),
}


def object_info(name: str) -> dict[str, Any]:
    """One entry of `/object_info`."""
    node_type = NODE_TYPES[name]
    return {
        "input": {"required": dict(node_type.inputs)},
        "input_order": {"required": list(node_type.inputs)},
        "output": list(node_type.returns),
        "output_is_list": [False] * len(node_type.returns),
        "output_name": list(node_type.returns),
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": node_type.category,
        "output_node": node_type.is_output,
    }
