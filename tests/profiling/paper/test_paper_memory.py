"""profiling.paper.formula: by hand on a few layers, and against the paper's figure on the networks of the zoo."""

from __future__ import annotations

from dataclasses import replace

import pytest

from profiling.paper.formula import PUBLISHED, CountedLayer, counted_layers, peak_bytes
from profiling.peers.command import B1_PICK
from signatures.errors import InputError

WITHIN = 0.02
HEAD = "predictions"
LAYERS = (
    CountedLayer("image", 0, 0, 0, 0),
    CountedLayer("conv", 300, 1000, 80, 0),
    CountedLayer("norm", 1000, 0, 20, 20),
    CountedLayer("depthwise", 0, 0, 90, 0),
    CountedLayer("late", 500, 900, 200, 0),
)


def test_by_hand() -> None:
    # conv reads 300 and writes 8 · 1000; all of it 8 times in float32. 80 + 20 + 20 + 90 + 200 weights of half a byte.
    assert peak_bytes(LAYERS, ()) == 32 * 8300 + 205
    # late reads 500 and writes 8 · 900, and what conv and norm read is kept until then: 300 + 1000.
    everything = [layer.name for layer in LAYERS]
    assert peak_bytes(LAYERS, everything) == 32 * (500 + 7200 + 1300) + 4 * 390 + 20 // 2
    # A layer keeps what it reads only after it has run: the peak stays that of conv. 3.5 bytes more a weight.
    assert peak_bytes(LAYERS, ["conv"]) == 32 * 8300 + 205 + 80 * 3.5
    # What the formula does not know keeps nothing, but its weights count.
    assert peak_bytes(LAYERS, ["depthwise"]) == 32 * 8300 + 205 + 90 * 3.5


def test_layers_that_are_not_there() -> None:
    with pytest.raises(InputError, match="not there: a, b"):
        peak_bytes(LAYERS, ["b", "conv", "a"])


@pytest.mark.parametrize("network", PUBLISHED)
def test_the_bars_of_the_paper(network: str) -> None:
    layers, published = counted_layers(network), PUBLISHED[network]
    everything = [layer.name for layer in layers]
    assert peak_bytes(layers, ()) == pytest.approx(published.inference * 1e6, rel=WITHIN)
    assert peak_bytes(layers, everything) == pytest.approx(published.full * 1e6, rel=WITHIN)
    by_name = {layer.name: layer for layer in layers}
    assert by_name[HEAD].weights == (by_name[HEAD].reads + 1) * 37
    if network == "resnet50":
        # Charged with what stands before it in the list: the shortcut's output. What it reads is 56² · 64.
        conv = by_name["conv2_block1_3_conv"]
        assert (conv.reads, conv.writes) == (56**2 * 256, 56**2 * 256)
        own = [replace(layer, reads=56**2 * 64) if layer is conv else layer for layer in layers]
        assert peak_bytes(own, ()) < published.inference * 1e6 * (1 - WITHIN)
    if network == "mobilenetv2":
        assert peak_bytes(layers, (*B1_PICK, HEAD)) == pytest.approx(published.adabet * 1e6, rel=WITHIN)
        assert by_name["block_1_depthwise"].reads == by_name["block_1_depthwise"].writes == 0
    if network == "vgg16":
        # The authors' program picks the head alone (docs/decisions.md, "The authors' program, reproduced").
        assert peak_bytes(layers, [HEAD]) == pytest.approx(published.adabet * 1e6, rel=WITHIN)
        assert by_name["block1_conv2"] == CountedLayer("block1_conv2", 224**2 * 64, 224**2 * 64, 9 * 64 * 64 + 64, 0)
    if network == "vit_b16":
        assert [layer.name for layer in layers if layer.reads] == ["patches", HEAD]
