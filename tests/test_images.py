"""Images to pixel values: equal to transformers' image processors, and safe with files from strangers."""

import contextlib
import json
import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.errors import ConfigError, DependencyError, InputError, NotFoundError
from minitransformer.images import ImageProcessor, image_processor

PIL = pytest.importorskip("PIL")
Image = pytest.importorskip("PIL.Image")

THEIRS = {"ViT": transformers.ViTImageProcessorPil, "DeiT": transformers.DeiTImageProcessorPil}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CONFIGS = {
    "empty": {"image_processor_type": "ViTImageProcessor"},
    "deit, empty": {"image_processor_type": "DeiTImageProcessor"},
    "old": {"feature_extractor_type": "ViTFeatureExtractor", "do_normalize": True, "do_resize": True, "size": 32}
    | {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2},
    "old deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 43, "crop_size": 37, "resample": 3}
    | {"do_center_crop": True, "do_normalize": True, "do_resize": True, **IMAGENET},
    "fast": {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 31, "width": 45}, "device": None}
    | {"data_format": "channels_first", "default_to_square": True, "do_convert_rgb": None, "crop_size": None},
    "pair": {"image_processor_type": "ViTImageProcessor", "size": [20, 33], "resample": 1},
    "shortest edge": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"shortest_edge": 29},
        "do_center_crop": True,
    }
    | {"crop_size": {"height": 24, "width": 33}, "resample": 3},
    "not square": {"image_processor_type": "ViTImageProcessor", "size": 29, "default_to_square": False}
    | {"do_center_crop": True, "crop_size": 28, "resample": 0},
    "crop only": {"image_processor_type": "DeiTImageProcessor", "do_resize": False, "crop_size": 40},
    "box": {"image_processor_type": "ViTImageProcessor", "size": 17, "resample": 4, "rescale_factor": 0.01},
    "hamming": {"image_processor_type": "ViTImageProcessor", "size": 17, "resample": 5, "do_normalize": False},
    "no rescale": {"image_processor_type": "ViTImageProcessor", "size": 16, "do_rescale": False, **IMAGENET},
    "resize only": {
        "image_processor_type": "ViTImageProcessor",
        "size": 16,
        "do_rescale": False,
        "do_normalize": False,
    },
    "one number": {"image_processor_type": "ViTImageProcessor", "size": 16, "image_mean": 0.4, "image_std": 0.3},
}
# transformers leaves the file of an animation open.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SIZES = [(37, 53), (53, 37), (29, 29), (1, 1), (1, 40), (300, 2), (16, 16), (224, 224), (41, 25)]  # height, width


def noise(height, width, channels=3):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(height * 1000 + width).integers(0, 256, shape, dtype=np.uint8)


def theirs(config, images, tmp_path):
    """The pixel values of transformers, its processor read from a file."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    name = config.get("image_processor_type", config.get("feature_extractor_type"))
    processor = THEIRS["DeiT" if "DeiT" in name else "ViT"].from_pretrained(tmp_path)
    return processor(images, return_tensors="pt")["pixel_values"]


def assert_equal(ours, expected):
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape
    assert torch.equal(ours, expected.float()), (ours - expected).abs().max()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_same_pixels(config, tmp_path):
    process = image_processor(config)
    for height, width in SIZES:
        array = noise(height, width)
        expected = theirs(config, [array], tmp_path) if height > 1 else theirs(config, Image.fromarray(array), tmp_path)
        assert_equal(process(array)["pixel_values"], expected)


@given(size=st.tuples(*[st.integers(1, 90)] * 2), edge=st.integers(1, 60), crop=st.tuples(*[st.integers(1, 60)] * 2))
def test_same_pixels_at_any_size(size, edge, crop, tmp_path_factory):
    config = {"image_processor_type": "DeiTImageProcessor", "size": {"shortest_edge": edge}, **IMAGENET}
    config["crop_size"] = {"height": crop[0], "width": crop[1]}
    image = Image.fromarray(noise(*size))
    assert_equal(image_processor(config)(image)["pixel_values"], theirs(config, image, tmp_path_factory.mktemp("any")))


def test_one_image_or_many_of_every_kind(tmp_path):
    """A path, its text, a Pillow image, an array, a tensor; alone or mixed in one batch."""
    process = image_processor(CONFIGS["old"])
    array = noise(30, 40)
    Image.fromarray(array).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    kinds = [path, str(path), Image.open(path), array, torch.from_numpy(array), array[::-1][::-1]]
    batch = process(kinds)
    assert batch["pixel_values"].shape == (6, 3, 32, 32)
    for kind, row in zip(kinds, batch["pixel_values"], strict=True):
        assert torch.equal(process(kind)["pixel_values"][0], row)
        assert torch.equal(row, batch["pixel_values"][0])
    assert batch.to("cpu")["pixel_values"].equal(batch["pixel_values"])


MODES = ["RGB", "L", "1", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBA", "LA", "PA", "RGBX"]


@pytest.mark.parametrize("mode", MODES)
def test_colours_of_every_kind(mode, tmp_path):
    picture = Image.fromarray(noise(20, 30))
    image = picture.convert("L").convert(mode) if mode == "PA" else picture.convert(mode)
    if mode in ("LAB",):
        image = Image.frombytes("LAB", (30, 20), noise(20, 30).tobytes())
    if mode in ("RGBA", "LA", "PA"):
        image.putalpha(Image.fromarray(noise(20, 30, 0)))
    expected = theirs(CONFIGS["old"], image.convert("RGB"), tmp_path)
    assert_equal(image_processor(CONFIGS["old"])(image)["pixel_values"], expected)


FILES = {"png": "RGBA P L 1", "jpg": "RGB CMYK L", "gif": "P", "webp": "RGB", "bmp": "RGB", "tiff": "RGB CMYK"}


@LEFT_OPEN
@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix in FILES for mode in FILES[suffix].split()])
def test_files_of_every_kind(suffix, mode, tmp_path):
    """As transformers reads them from the same file."""
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(33, 21)).convert(mode).save(file)
    assert_equal(image_processor(CONFIGS["old"])(file)["pixel_values"], theirs(CONFIGS["old"], str(file), tmp_path))


def test_transparent_palette(tmp_path):
    Image.fromarray(noise(20, 20)).quantize(16).save(tmp_path / "a.png", transparency=bytes(range(16)))
    expected = theirs(CONFIGS["old"], Image.open(tmp_path / "a.png").convert("RGBA").convert("RGB"), tmp_path)
    assert_equal(image_processor(CONFIGS["old"])(tmp_path / "a.png")["pixel_values"], expected)


@LEFT_OPEN
@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff", "mpo"])
def test_the_first_picture_of_an_animation(suffix, tmp_path):
    pictures = [Image.fromarray(noise(20 + i, 20)).resize((20, 20)) for i in range(3)]
    pictures[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pictures[1:])
    expected = theirs(CONFIGS["old"], str(tmp_path / f"a.{suffix}"), tmp_path)
    assert_equal(image_processor(CONFIGS["old"])(tmp_path / f"a.{suffix}")["pixel_values"], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.jpg"
    Image.fromarray(noise(24, 40)).save(file, exif=exif)
    process = image_processor(CONFIGS["not square"])
    ours = process(file)["pixel_values"]
    assert_equal(ours, theirs(CONFIGS["not square"], str(file), tmp_path))
    with Image.open(file) as image:  # an image is taken as it stands, there as here
        as_it_stands = process(image)["pixel_values"]
        assert_equal(as_it_stands, theirs(CONFIGS["not square"], image, tmp_path))
    assert torch.equal(ours, as_it_stands) == (orientation == 1)


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_processor_type": "BeitImageProcessor"},
            "image_processor_type: got 'BeitImageProcessor', expected one",
        ),
        ({"do_pad": True}, "'do_pad': True is not supported"),
        ({"crop_pct": 0.9}, "'crop_pct': 0.9 is not supported"),
        ({"rescale_offset": 1}, "'rescale_offset'"),
        ({"do_flip_channel_order": True}, "'do_flip_channel_order'"),
        ({"data_format": "channels_last"}, "'data_format': 'channels_last'"),
        ({"size": {"shortest_edge": 20, "longest_edge": 30}}, "size: got"),
        ({"size": {"longest_edge": 30}}, "size: got"),
        ({"size": {"height": 20, "width": 10**9}}, "each from 1 to 4096"),
        ({"size": 0}, "size: got 0"),
        ({"size": True}, "size: got True"),
        ({"size": "224"}, "size: got '224'"),
        ({"size": []}, r"size: got \[\]"),
        ({"size": {}}, "size: got {}"),
        ({"size": [1, 2, 3]}, "size: got"),
        ({"resample": 6}, "resample: got 6, expected the number of one of Pillow's filters"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": True}, "resample"),
        ({"do_center_crop": True}, "crop_size: got None"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 5}}, "crop_size"),
        ({"do_resize": 1}, "do_resize: got 1, expected true or false"),
        ({"image_mean": [0.5, 0.5]}, "image_mean: got"),
        ({"image_mean": "half"}, "image_mean: got"),
        ({"image_mean": [0.5, None, 0.5]}, "image_mean: got"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std: got .* of image_std none 0"),
        ({"rescale_factor": 0}, "rescale_factor: got 0"),
        ({"rescale_factor": 10**400}, "rescale_factor"),
    ],
    ids=str,
)
def test_configs_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        image_processor({**CONFIGS["empty"], **changes})


def test_a_config_that_does_not_say_its_kind():
    assert image_processor({"size": 20}).resample == 2
    assert image_processor({"size": 20}, "DeiTImageProcessor").resample == 3


@given(
    st.dictionaries(
        st.sampled_from(["size", "crop_size", "do_resize", "do_center_crop", "image_mean", "image_std", "resample"])
        | st.sampled_from(["rescale_factor", "image_processor_type", "default_to_square", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["height", "width", "w"]), x),
            max_leaves=4,
        ),
    )
)
def test_any_config_is_read_or_refused(config):
    with contextlib.suppress(ConfigError):
        assert isinstance(image_processor(config), ImageProcessor)


def png_of(width, height):
    """A PNG of that size whose pixels take a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff", "bmp", "ppm"])
def test_files_cut_off(suffix, tmp_path):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64)).save(file)
    whole = file.read_bytes()
    for length in (0, 1, 10, len(whole) // 3, len(whole) * 3 // 4):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match=rf"a\.{suffix}: (no image|the image is damaged or cut off)"):
            image_processor(CONFIGS["old"])(file)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff"])
def test_files_with_wrong_bytes(suffix, tmp_path):
    """Whatever a damaged file does to the library below: an image or an InputError."""
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(32, 32)).save(file)
    whole, random = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), 400), 4):
            damaged[place] = random.integers(256)
        file.write_bytes(damaged)
        try:
            assert image_processor(CONFIGS["old"])(file)["pixel_values"].shape == (1, 3, 32, 32)
        except InputError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "no image in one of the formats BMP, GIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF", "no image"),  # a program: never run
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
        (png_of(12_000, 12_000), "too many pixels to be read safely"),
        (png_of(60_000, 60_000), "too many pixels to be read safely"),
        (png_of(1, 20_000), "would become 29x580000; crop the image first|damaged or cut off"),
    ],
    ids=["text", "eps", "svg", "large", "enormous", "thin"],
)
def test_files_refused(data, message, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=message):
        image_processor(CONFIGS["not square"])(tmp_path / "a.png")


def test_an_image_too_thin_to_be_resized():
    """224 pixels for one: a picture of a few bytes would fill the memory."""
    process = image_processor({**CONFIGS["shortest edge"], "size": {"shortest_edge": 224}})
    with pytest.raises(InputError, match="image 0: 400000x1 pixels would become 224x89600000; crop the image first"):
        process(Image.new("RGB", (400_000, 1)))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_more_than_8_bits(mode, tmp_path):
    Image.new(mode, (8, 8)).save(tmp_path / "a.tiff")
    for image in (tmp_path / "a.tiff", Image.new(mode, (8, 8))):
        with pytest.raises(InputError, match="got more than 8 bits a colour"):
            image_processor(CONFIGS["old"])(image)


def test_no_file(tmp_path):
    process = image_processor(CONFIGS["old"])
    with pytest.raises(NotFoundError, match=r"no cat\.png in .*, which holds nothing"):
        process(tmp_path / "cat.png")
    with pytest.raises(NotFoundError, match="a file is expected, and this is none"):
        process(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(NotFoundError, match="a file is expected, and this is none"):
        process(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([], "got an empty list"),
        (None, "image 0: got a NoneType, expected a path, bytes, a Pillow image, an array or a tensor"),
        (3, "image 0: got a int"),
        ([noise(4, 4), [noise(4, 4)]], "image 1: got a list"),
        (noise(4, 4).astype(np.float32), r"image 0: got float32 \[4, 4, 3\], expected uint8 \[height, width, 3\]"),
        (noise(4, 4).transpose(2, 0, 1), r"got uint8 \[3, 4, 4\]"),
        (noise(4, 4, 0), r"got uint8 \[4, 4\]"),
        (noise(4, 4)[:0], r"got uint8 \[0, 4, 3\]"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), r"got uint8 \[1, 4, 4, 3\]"),
        (Image.new("RGB", (0, 5)), "got an image of 0x5 pixels"),
    ],
    ids=range(10),
)
def test_inputs_refused(image, message):
    with pytest.raises(InputError, match=message):
        image_processor(CONFIGS["old"])(image)


def test_sizes_that_make_no_batch():
    process = image_processor({**CONFIGS["empty"], "do_resize": False})
    assert process([noise(5, 4), noise(5, 4)])["pixel_values"].shape == (2, 3, 5, 4)
    with pytest.raises(InputError, match=r"got sizes \(4, 5\) and \(5, 4\) in one batch"):
        process([noise(5, 4), noise(4, 5)])


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DependencyError, match=r"pip install 'minitransformer\[image\]'"):
        image_processor(CONFIGS["old"])("cat.png")
