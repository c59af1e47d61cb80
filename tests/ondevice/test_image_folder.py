"""Image folders and the decoding of single pictures, on real files."""

from __future__ import annotations

import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ondevice.dataset import Dataset, open_dataset
from ondevice.pictures import decode_picture, resize_pixels
from signatures.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PETS = ROOT.parent / "shared" / "data" / "pets7"
ORIENTATION = 0x0112


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth random picture: noise enlarged, so that JPEG and resampling keep it."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int32) - b).mean())


def by_the_book(path: Path, image: int) -> np.ndarray:
    """Upright, shorter side to `image`, centre crop: each step on its own; exact where no step has to round."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = image / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - image) // 2, (size[1] - image) // 2
    return np.asarray(resized.crop((left, top, left + image, top + image)))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (1500, 1000), (40, 1000), (20, 20), (66, 64)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_shorter_side_resized_and_centre_cropped(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    photo(*size).save(path, quality=95)
    decoded = decode_picture(path, 64)
    assert decoded.shape == (64, 64, 3)
    assert decoded.dtype == np.uint8
    assert difference(decoded, by_the_book(path, 64)) < 3


@pytest.mark.parametrize("size", [(64, 64), (101, 64), (64, 101)])
def test_pixels_are_left_alone_where_the_shorter_side_fits(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "photo.jpg"
    photo(*size).save(path)
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    expected = np.asarray(Image.open(path))[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(decode_picture(path, 64), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    photo(288, 192).save(path, exif=exif, quality=95)
    assert difference(decode_picture(path, 64), by_the_book(path, 64)) < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb_without_a_warning(tmp_path: Path, mode: str) -> None:
    picture = photo(90, 80)
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    if mode == "I;16":
        picture = picture.convert("L")
        Image.fromarray(np.asarray(picture).astype(np.uint16) * 257).save(path)
    else:
        picture = picture.convert(mode)
        picture.save(path, **({"transparency": b"\x80" * 256} if mode == "P" else {"quality": 95}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_picture(path, 80)
    expected = np.asarray(picture.convert("RGB"))[:, 5:85]
    assert difference(decoded, expected) < 2


def test_a_large_jpeg_is_decoded_small(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo(4000, 3000).save(path, quality=80)
    script = (
        "import sys\nfrom pathlib import Path\nfrom ondevice.pictures import decode_picture\n"
        "from ondevice.meter import Meter\nimport PIL.JpegImagePlugin\nmeter = Meter()\n"
        "with meter.phase('before'): pass\n"
        "with meter.phase('decode'): decode_picture(Path(sys.argv[1]), 224)\n"
        "print(meter.phases[1].peak_bytes - meter.phases[0].peak_bytes, meter.phases[1].reset)"
    )
    command = [sys.executable, "-c", script, str(path)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    if output[1] != "True":
        pytest.skip("the peak cannot be reset here")
    assert int(output[0]) < 16e6  # whole, it has 48 MB


def jpeg(width: int = 90, height: int = 80, seed: int = 0) -> bytes:
    stream = BytesIO()
    photo(width, height, seed).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xd8", jpeg()[: len(jpeg()) // 2], jpeg()[:-30], b"GIF89a", b"<html>404</html>", b"\x89PNG\r\n\x1a\n"],
    ids=["empty", "start", "half", "tail lost", "gif", "html", "png"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"photo\.jpg: cannot be decoded"):
        decode_picture(path, 64)


def test_damaged_metadata_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo(90, 80).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert decode_picture(path, 64).shape == (64, 64, 3)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)  # 12 KB, 300 MB as RGB
    with pytest.raises(InputError, match=r"bomb\.png: too many pixels"):
        decode_picture(path, 64)
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(InputError, match=r"bomb\.png: too many pixels"):
        decode_picture(path, 64)


def test_resizing_pixels_is_the_same_code(tmp_path: Path) -> None:
    photo(90, 80).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(
        decode_picture(tmp_path / "photo.png", 64), resize_pixels(np.asarray(photo(90, 80)), 64)
    )


def make_folder(root: Path, layout: dict[str, int]) -> Path:
    """Folders with that many different JPEGs each, named 0.jpg and on."""
    for number, (folder, count) in enumerate(layout.items()):
        (root / folder).mkdir(parents=True)
        for row in range(count):
            (root / folder / f"{row}.jpg").write_bytes(jpeg(seed=1000 * number + row))
    return root


SPLIT = {"train/cat": 4, "train/dog": 3, "test/cat": 2, "test/dog": 1}


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", SPLIT)
    (path / ".thumbnails").mkdir()
    (path / "train" / ".DS_Store").write_bytes(b"")
    (path / "train" / "cat" / "._0.jpg").write_bytes(b"no image")
    (path / "train" / "cat" / "notes.txt").write_text("no image")
    (path / "train" / "dog" / "0.jpg").rename(path / "train" / "dog" / "0.JPEG")
    calls: list[tuple[int, int]] = []
    dataset = open_dataset(path, 32, tmp_path / "w", 0, lambda done, total: calls.append((done, total)))
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1]
    assert calls == [(done, 10) for done in range(1, 11)]
    np.testing.assert_array_equal(dataset.train.images[1], decode_picture(path / "train" / "cat" / "1.jpg", 32))
    np.testing.assert_array_equal(dataset.test.images[2], decode_picture(path / "test" / "dog" / "0.jpg", 32))


def test_a_folder_is_decoded_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", SPLIT)
    calls: list[int] = []

    def opened(seed: int = 0) -> Dataset:
        return open_dataset(path, 32, tmp_path / "w", seed, lambda done, total: calls.append(done))

    first = opened()
    assert opened(seed=1).fingerprint == first.fingerprint
    assert len(calls) == 10
    (path / "train" / "cat" / "2.jpg").write_bytes(jpeg(seed=77))
    assert opened().fingerprint != first.fingerprint
    assert len(calls) == 20


def membership(dataset: Dataset) -> set[bytes]:
    return {image.tobytes() for image in dataset.test.images}


def test_a_plain_folder_has_a_fifth_of_each_class_held_out(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", {"cat": 10, "dog": 2, "eel": 14})
    dataset = open_dataset(path, 16, tmp_path / "w", 3)
    assert np.bincount(dataset.test.labels).tolist() == [2, 1, 3]
    assert np.bincount(dataset.train.labels).tolist() == [8, 1, 11]
    everything = membership(dataset) | {image.tobytes() for image in dataset.train.images}
    assert len(everything) == 26
    assert membership(open_dataset(path, 16, tmp_path / "elsewhere", 3)) == membership(dataset)
    assert membership(open_dataset(path, 16, tmp_path / "w", 4)) != membership(dataset)


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "vehicles", {"train": 2, "test": 2, "bus": 2})
    assert open_dataset(path, 16, tmp_path / "w", 0).classes == ("bus", "test", "train")


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ({}, "no class folders"),
        ({"cat": 3}, "only one class folder, cat"),
        ({"cat": 3, "dog": 0}, "dog: an empty class"),
        ({"cat": 3, "dog": 1}, "dog: 1 image"),
        ({"train/cat": 2, "train/dog": 2}, "no test/"),
        ({"train/cat": 2, "test/cat": 2}, "only one class folder, cat"),
        ({"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/emu": 2}, r"\['dog', 'emu'\]"),
        ({"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/dog": 0}, "test/dog: an empty class"),
    ],
)
def test_folders_that_are_no_dataset(tmp_path: Path, layout: dict[str, int], says: str) -> None:
    (tmp_path / "pets").mkdir()
    path = make_folder(tmp_path / "pets", layout)
    with pytest.raises(InputError, match=says):
        open_dataset(path, 16, tmp_path / "w", 0)


def test_photos_that_are_not_read_are_not_skipped_silently(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", SPLIT)
    (path / "train" / "cat" / "IMG_1.HEIC").write_bytes(b"")
    with pytest.raises(InputError, match=r"IMG_1\.HEIC: this format is not read. Convert it to JPEG"):
        open_dataset(path, 16, tmp_path / "w", 0)


def test_a_truncated_image_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", SPLIT)
    (path / "test" / "dog" / "0.jpg").write_bytes(jpeg()[:-200])
    with pytest.raises(InputError, match=r"test/dog/0\.jpg: cannot be decoded"):
        open_dataset(path, 16, tmp_path / "w", 0)
    assert list((tmp_path / "w").iterdir()) == []


def test_without_pillow_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "pets", SPLIT)
    script = (
        "import sys\nfrom pathlib import Path\nsys.modules['PIL'] = None\n"
        "from ondevice.dataset import open_dataset\nfrom signatures.errors import CapabilityError\n"
        "try: open_dataset(Path(sys.argv[1]), 16, Path(sys.argv[2]), 0)\n"
        "except CapabilityError as error: print(error.exit_code, error)"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "w")]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert output.startswith("7 ")
    for way in ("pip install pillow", "pkg install python-pillow", "apt install python3-pil"):
        assert way in output


@pytest.mark.skipif(not PETS.is_dir(), reason="the pets of FACTS.md §7 are not here")
def test_real_pets(tmp_path: Path) -> None:
    dataset = open_dataset(PETS, 224, tmp_path / "w", 0)
    assert (len(dataset.train), len(dataset.test), len(dataset.classes)) == (980, 350, 7)
    row = int(np.flatnonzero(dataset.train.labels == 3)[0])
    first = sorted((PETS / "train" / dataset.classes[3]).iterdir())[0]
    np.testing.assert_array_equal(dataset.train.images[row], np.asarray(Image.open(first).convert("RGB")))
