"""From images to pixel values, as the preprocessor_config.json beside the weights says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union

import torch
from torch import Tensor

from minitransformer.errors import ConfigError, DependencyError, InputError, MiniTransformerError
from minitransformer.storage.files import open_regular, quote
from minitransformer.text import Batch

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

# A file or its bytes, a Pillow image, or an array or tensor of uint8 [H W 3].
Image: TypeAlias = Union[str, PathLike[str], bytes, "PIL.Image.Image", "np.ndarray[Any, Any]", Tensor]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some others run programs to be read
LARGEST_EDGE = 4096  # that a config may ask for
MOST_PIXELS = LARGEST_EDGE**2  # that resizing may give

# What a config leaves out, for each kind of image processor.
_VIT = {"size": 224, "resample": 2, "do_center_crop": False, "rescale_factor": 1 / 255}
_VIT |= {"image_mean": 0.5, "image_std": 0.5}
_DEIT = {**_VIT, "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224}
USUAL: dict[str, dict[str, Any]] = {"ViTImageProcessor": _VIT, "DeiTImageProcessor": _DEIT}

FIELDS = {
    "do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_rescale",
    "rescale_factor", "do_normalize", "image_mean", "image_std",
}  # fmt: skip
NO_MATTER = {"image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "device"}
NO_MATTER |= {"_valid_processor_keys", "return_tensors", "disable_grouping", "input_data_format"}


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """Images of any size to the pixel values that a model was trained on. A step that is None is left out.

    As transformers does it: colours become RGB, transparency is dropped, of an animation the first picture is taken.
    A *file* is turned upright if it says how the camera was held (EXIF); a Pillow image is taken as it stands.
    """

    resize: tuple[int, int] | int | None  # to (height, width), or the shorter edge to so many pixels
    resample: int  # Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming
    crop: tuple[int, int] | None  # (height, width) of what is kept around the middle; black where there is nothing
    scale: float | None  # 0 to 255, times this
    mean: tuple[float, ...] | None  # of red, green and blue, to subtract after that
    std: tuple[float, ...] | None  # to divide by at last

    def __call__(self, images: Image | Sequence[Image], *, names: Sequence[str] | None = None) -> Batch:
        """The images as {"pixel_values": float32 [B 3 height width]}; one image is a batch of one.

        `names`: what to call each image in an error.
        """
        given: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        if not given:
            raise InputError("images: got an empty list, expected at least one image")
        named = zip(given, names or names_of(given), strict=True)
        pixels = [self._pixels(_rgb(image, name), name) for image, name in named]
        sizes = sorted({tuple(x.shape[1:]) for x in pixels})
        if len(sizes) > 1:
            raise InputError(
                f"images: got sizes {sizes[0]} and {sizes[-1]} in one batch, and preprocessor_config.json brings them "
                f"to no common size; give one image at a time"
            )
        return Batch({"pixel_values": torch.stack(pixels)})  # [B 3 height width]

    def _pixels(self, image: PIL.Image.Image, name: str) -> Tensor:
        """The pixel values of one image in RGB: float32 [3 height width]."""
        import numpy as np

        if self.resize is not None:
            height, width = _target(image.height, image.width, self.resize, name)
            image = image.resize((width, height), self.resample)
        if self.crop is not None:
            height, width = self.crop
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # uint8 [3 height width]
        x = x.float() if self.scale is None else (x.double() * self.scale).float()
        if self.mean is None or self.std is None:
            return x
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def names_of(images: Sequence[Image]) -> list[str]:
    """What to call each image: its path, or its place in the list."""
    return [str(x) if isinstance(x, str | PathLike) else f"image {place}" for place, x in enumerate(images)]


def image_processor(raw: Mapping[str, Any], kind: str = "ViTImageProcessor") -> ImageProcessor:
    """The processor that a preprocessor_config.json describes; `kind`: of which sort it is, where it does not say.

    A ConfigError for what would change the numbers and is not implemented.
    """
    kind = str(raw.get("image_processor_type") or raw.get("feature_extractor_type") or kind)
    kind = kind.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if kind not in USUAL:
        raise _wrong("image_processor_type", kind, f"one of {', '.join(USUAL)}")
    for field in raw.keys() - FIELDS - NO_MATTER:
        if raw[field] not in (None, False) and (field, raw[field]) != ("data_format", "channels_first"):
            raise ConfigError(f"preprocessor_config.json: {quote(field)}: {quote(raw[field])} is not supported")
    read = {**USUAL[kind], **{field: value for field, value in raw.items() if value is not None}}
    step = {name: _flag(read, name) for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")}
    resample = read["resample"]
    if type(resample) is not int or not 0 <= resample <= 5:
        raise _wrong("resample", resample, "the number of one of Pillow's filters, 0 to 5")
    square = _flag(read, "default_to_square")
    crop = _size("crop_size", read.get("crop_size"), square=True) if step["do_center_crop"] else None
    if isinstance(crop, int):
        raise _wrong("crop_size", read["crop_size"], "a height and a width")
    return ImageProcessor(
        resize=_size("size", read["size"], square=square) if step["do_resize"] else None,
        resample=resample,
        crop=crop,
        scale=_numbers(read, "rescale_factor", 1)[0] if step["do_rescale"] else None,
        mean=_numbers(read, "image_mean", 3) if step["do_normalize"] else None,
        std=_numbers(read, "image_std", 3) if step["do_normalize"] else None,
    )


def _flag(read: Mapping[str, Any], field: str) -> bool:
    value = read.get(field, True)
    if not isinstance(value, bool):
        raise _wrong(field, value, "true or false")
    return value


def _numbers(read: Mapping[str, Any], field: str, count: int) -> tuple[float, ...]:
    """So many numbers that float32 can hold, of which one may stand for all. Only a mean may be 0."""
    value = read[field]
    numbers = value if isinstance(value, list) else [value] * count
    least = 0 if field == "image_mean" else 1e-30
    if len(numbers) != count or not all(type(x) in (int, float) and least <= abs(x) <= 1e30 for x in numbers):
        raise _wrong(field, value, "a number other than 0" if count == 1 else f"{count} numbers, of image_std none 0")
    return tuple(float(x) for x in numbers)


def _size(field: str, value: Any, *, square: bool) -> tuple[int, int] | int:
    """(height, width), or the length of the shorter edge."""
    edges = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    if edges and all(type(edge) is int and 1 <= edge <= LARGEST_EDGE for edge in edges):
        if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
            return value["height"], value["width"]
        if isinstance(value, Mapping) and value.keys() == {"shortest_edge"}:
            return int(value["shortest_edge"])
        if isinstance(value, list) and len(value) == 2:
            return value[0], value[1]
        if isinstance(value, int):
            return (value, value) if square else value
    raise _wrong(field, value, f"{{height, width}} or {{shortest_edge}}, each from 1 to {LARGEST_EDGE}")


def _wrong(field: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"preprocessor_config.json: {field}: got {quote(value)}, expected {expected}")


def _target(height: int, width: int, resize: tuple[int, int] | int, name: str) -> tuple[int, int]:
    """The height and width that an image is resized to."""
    if not isinstance(resize, int):
        return resize
    longer = int(resize * max(height, width) / min(height, width))
    if longer * resize > MOST_PIXELS:
        raise InputError(f"{name}: {width}x{height} pixels would become {resize}x{longer}; crop the image first")
    return (resize, longer) if height < width else (longer, resize)


def _rgb(image: Image, name: str) -> PIL.Image.Image:
    """An image, from wherever, in RGB."""
    pillow = _pillow()
    with _readable(name, pillow):
        if isinstance(image, str | PathLike | bytes):
            with _file(image) as file, pillow.Image.open(file, formats=FORMATS) as opened:
                return _to_rgb(pillow.ImageOps.exif_transpose(opened), name)
        if isinstance(image, pillow.Image.Image):
            return _to_rgb(image, name)
        return pillow.Image.fromarray(_array(image, name))


def check_image(image: str | PathLike[str] | bytes, name: str) -> None:
    """Read a file to its end, a JPEG as small as can be, which is fast; an InputError where that cannot be done."""
    pillow = _pillow()
    with _readable(name, pillow), _file(image) as file, pillow.Image.open(file, formats=FORMATS) as opened:
        opened.draft(None, (1, 1))
        _to_rgb(opened, name)


def _file(image: str | PathLike[str] | bytes) -> BinaryIO:
    return BytesIO(image) if isinstance(image, bytes) else open_regular(Path(image))


def _to_rgb(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would cut every value off at 255
        raise InputError(f"{name}: got more than 8 bits a colour (mode {image.mode}); scale the image to 0-255 first")
    if 0 in image.size:
        raise InputError(f"{name}: got an image of {image.width}x{image.height} pixels, expected at least one")
    return image.convert("RGB")


def _array(image: Any, name: str) -> np.ndarray[Any, Any]:
    """An array or a tensor, checked."""
    import numpy as np

    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"{name}: got a {type(image).__name__}, expected a path, bytes, a Pillow image, an array or a tensor"
        )
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(f"{name}: got {array.dtype} {list(array.shape)}, expected uint8 [height, width, 3]")
    return np.ascontiguousarray(array)


def _pillow() -> ModuleType:
    """The package Pillow, which only images need."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise DependencyError("reading images needs Pillow; pip install 'minitransformer[image]'") from None
    return PIL


@contextmanager
def _readable(name: str, pillow: ModuleType) -> Iterator[None]:
    """Make an InputError of whatever Pillow throws at a file that is no image, or a damaged one, or a trap."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, which is not used
            warnings.simplefilter("error", pillow.Image.DecompressionBombWarning)
            yield
    except MiniTransformerError:
        raise
    except (pillow.Image.DecompressionBombWarning, pillow.Image.DecompressionBombError) as error:
        raise InputError(f"{name}: too many pixels to be read safely ({error}); make the image smaller first") from None
    except pillow.UnidentifiedImageError:
        raise InputError(f"{name}: no image in one of the formats {', '.join(FORMATS)}; convert it") from None
    except Exception as error:  # each format has its own: OSError, SyntaxError, ValueError, struct.error, …
        raise InputError(f"{name}: the image is damaged or cut off ({error}); get the file again") from error
