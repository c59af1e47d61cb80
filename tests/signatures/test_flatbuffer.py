"""Offsets that lead outside, backwards, in circles or to the same place a million times."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from signatures import flatbuffer
from signatures.errors import InputError
from signatures.flatbuffer import MOST_VISITS, verify
from signatures.graph import Model
from signatures.tflite_io import model_bytes, parse_model
from tests.signatures.example_model import network, training_model

WORDS = (0, 1, 2, 4, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4)


@pytest.fixture(scope="module")
def good() -> bytes:
    return model_bytes(training_model())


def word(content: bytes, at: int) -> int:
    return struct.unpack_from("<I", content, at)[0]


def test_good_files_are_fine(good: bytes) -> None:
    verify(good, "the file")
    verify(model_bytes(Model((network(units=64),), ())), "the file")


def test_a_vtable_before_the_file(good: bytes) -> None:
    """Python's readers would count from the end of the file, native ones read what lies before it in memory."""
    content = bytearray(good)
    struct.pack_into("<i", content, word(good, 0), 2**31 - 1)
    with pytest.raises(InputError, match="vtable"):
        verify(bytes(content), "the file")


@pytest.mark.parametrize("value", WORDS)
def test_every_word_of_the_root(good: bytes, value: int) -> None:
    """Whatever its fields become, it is refused or well formed."""
    root = word(good, 0)
    for at in range(root - 64 - root % 4, root + 64, 4):
        content = bytearray(good)
        struct.pack_into("<I", content, at, value)
        try:
            parse_model(bytes(content), "the file")
        except InputError:
            continue


def test_a_text_without_an_end(good: bytes) -> None:
    content = bytearray(good)
    at = good.index(b"adabet\0")
    content[at + 6] = 1
    with pytest.raises(InputError, match="without an end"):
        verify(bytes(content), "the file")


def shared(subgraphs: int, tensors: int) -> bytes:
    """A model of many graphs which are all one table, of many tensors which are all one table."""
    words = bytearray(b"\0\0\0\0TFL3")

    def put(*values: int) -> int:
        at = len(words)
        for value in values:
            words.extend(struct.pack("<I", value))
        return at

    def table(fields: dict[int, int]) -> tuple[int, dict[int, int]]:
        """A table with room for an offset in each field, and where these are."""
        size = 4 + 2 * (max(fields, default=-1) + 1)
        words.extend(bytes(-(len(words) + size) % 4))
        vtable = len(words)
        places = {field: 4 + 4 * i for i, field in enumerate(fields)}
        slots = [places.get(i, 0) for i in range((size - 4) // 2)]
        words.extend(struct.pack(f"<HH{len(slots)}H", size, 4 + 4 * len(fields), *slots))
        start = len(words)
        words.extend(struct.pack("<i", start - vtable) + bytes(4 * len(fields)))
        return start, {field: start + place for field, place in places.items()}

    root, lists = table({2: 0})
    graphs = put(subgraphs, *[0] * subgraphs)
    graph, inside = table({0: 0})
    entries = put(tensors, *[0] * tensors)
    tensor, _ = table({})
    struct.pack_into("<I", words, 0, root)
    struct.pack_into("<I", words, lists[2], graphs - lists[2])
    struct.pack_into("<I", words, inside[0], entries - inside[0])
    for i in range(subgraphs):
        struct.pack_into("<I", words, graphs + 4 + 4 * i, graph - (graphs + 4 + 4 * i))
    for i in range(tensors):
        struct.pack_into("<I", words, entries + 4 + 4 * i, tensor - (entries + 4 + 4 * i))
    return bytes(words)


def test_parts_that_are_referred_to_a_million_times() -> None:
    """20 KB that stand for four million tensors. Those of graphs that are one table are counted for each."""
    few = shared(2, 3)
    verify(few, "the file")
    with pytest.raises(InputError, match="refer to each other more than"):
        verify(shared(2000, 2000), "the file")
    assert len(shared(2000, 2000)) < 20_000 < MOST_VISITS


def test_random_words_are_refused_or_well_formed(good: bytes) -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        content = bytearray(good)
        at = int(random.integers(len(good) // 4)) * 4
        struct.pack_into("<I", content, at, WORDS[random.integers(len(WORDS))])
        try:
            verify(bytes(content), "the file")
        except InputError as error:
            assert str(error).startswith("the file")  # noqa: PT017


def test_every_table_of_options_is_known() -> None:
    """The schema package tells of each field of each; none is left out but two that are obsolete."""
    unknown = {name for name in flatbuffer._OPTIONS.values() if None in flatbuffer._options_fields(name)}
    assert unknown == {"ResizeBilinearOptions"}
