"""Planning: what training a subset will take, before anything runs, and the micro-batch with which it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ondevice.channels import some_channels
from ondevice.checkpoint import NAMES as CHECKPOINTS
from ondevice.replay import Keeping
from signatures.build import inference_model
from signatures.channels import Channels, with_channels
from signatures.cut import Cut, cut_before
from signatures.graph import Graph, Model
from signatures.layers import find_layers, op_macs
from signatures.memory import footprint
from signatures.micro_batches import prefix_model, suffix_model
from signatures.optimizers import Optimizer
from signatures.subset import Subset, subset_of

TARGET_BYTES = 160 << 20
"""What the process stays within where it can: larger micro-batches take more and are hardly faster."""
PREFIX_BATCHES = (4, 2, 1)
"""Images that the prefix takes at once, where they fit: more are no faster."""
_COPIES = 3
"""Of what goes into a signature: as it was read, as the network wants it, and as the interpreter's binding holds it."""


@dataclass(frozen=True)
class Cost:
    """What training some layers takes, predicted. Bytes are peaks of the process, everything included."""

    layers: tuple[str, ...]
    """In model order, the head last."""
    micro_batch: int
    prefix_batch: int
    """Images that the prefix takes at once; 0 where nothing lies before the first trained layer."""
    prefix_bytes: int
    train_bytes: int
    evaluate_bytes: int
    kept_bytes: int
    """On the disk: what the prefix makes of all images; 0 where it runs again in each epoch, or there is none."""
    prefix_macs: int
    """Multiply-adds of the prefix for one image."""
    train_macs: int
    """Multiply-adds for one image in every epoch, forward and backward, without the prefix."""

    @property
    def peak_bytes(self) -> int:
        """The largest of the phases."""
        return max(self.prefix_bytes, self.train_bytes, self.evaluate_bytes)


@dataclass(frozen=True, eq=False)
class Planner:
    """Predicts what subsets of one network cost."""

    network: Graph
    batch: int
    optimizer: Optimizer
    runtime: str
    """Distribution and version of the interpreter."""
    base_bytes: int
    """What the process takes before any model is loaded."""
    keeping: Keeping
    bias_only: bool = False
    """Whether of all layers but the head only the biases train."""
    rho_channels: float | None = None
    """The fraction of their channels that train of all layers but the head; None: all of them."""

    def cost(self, names: Sequence[str], target_bytes: int = TARGET_BYTES) -> Cost:
        """The cost of training the named layers and the head: with the largest micro-batches that stay within
        `target_bytes`, and with single images where none does.
        """
        layers = [layer.name for layer in find_layers(self.network)]
        chosen = {*names, layers[-1]}
        cut = cut_before(self.trained_network(names), chosen)
        subset = subset_of(find_layers(cut.suffix), chosen, chosen - {layers[-1]} if self.bias_only else ())
        weight_bytes = 4 * subset.size
        kept_bytes = self.keeping.kept_bytes(cut, self._other_files_bytes(weight_bytes))
        prefix_batch, prefix_bytes = self._prefix(cut, target_bytes)
        # A prefix whose results cannot be kept stays loaded beside the rest.
        beside = 0 if kept_bytes or cut.at_input else prefix_bytes - self.base_bytes
        trained_bytes = sum(4 * layer.parameters for layer in find_layers(self.network) if layer.name in chosen)
        # Weights, gradients added up, those that the interpreter hands out, and what the optimizer keeps.
        beside += (3 + len(self.optimizer.slots)) * weight_bytes
        micro_batch, train_bytes, train_macs = self._train(cut, subset, beside, target_bytes)
        return Cost(
            layers=tuple(name for name in layers if name in chosen),
            micro_batch=micro_batch,
            prefix_batch=prefix_batch,
            prefix_bytes=prefix_bytes,
            train_bytes=train_bytes,
            evaluate_bytes=self._evaluate_bytes + trained_bytes,  # the layers that training made
            kept_bytes=kept_bytes,
            prefix_macs=sum(map(op_macs, cut.prefix.ops)),
            train_macs=train_macs,
        )

    def _other_files_bytes(self, weight_bytes: int) -> int:
        """Of files beside the rows: prefix and suffix, the adapted network, its trained weights, and checkpoints."""
        network_bytes = sum(4 * layer.parameters for layer in find_layers(self.network))
        checkpoint_bytes = (1 + len(self.optimizer.slots)) * weight_bytes
        return 2 * network_bytes + weight_bytes + (len(CHECKPOINTS) + 1) * checkpoint_bytes  # one is being written

    def some_channels(self, names: Sequence[str]) -> Channels:
        """As many channels of the named layers as train, whichever they are: all cost the same."""
        if self.rho_channels is None:
            return {}
        layers = [layer for layer in find_layers(self.network)[:-1] if layer.name in names]
        return some_channels(self.network, layers, self.rho_channels)

    def trained_network(self, names: Sequence[str]) -> Graph:
        """What trains where the named layers do."""
        return with_channels(self.network, self.some_channels(names))

    @cached_property
    def _evaluate_bytes(self) -> int:
        return self._peak(inference_model(self.network))

    def _prefix(self, cut: Cut, target_bytes: int) -> tuple[int, int]:
        """Batch and peak."""
        batch = peak = 0
        for batch in () if cut.at_input else self._sizes(PREFIX_BATCHES, target_bytes):
            peak = self._peak(prefix_model(cut.prefix, batch))
            if peak <= target_bytes:
                break
        return batch, peak

    def _train(self, cut: Cut, subset: Subset, beside_bytes: int, target_bytes: int) -> tuple[int, int, int]:
        """Micro-batch, peak, and multiply-adds for one image."""
        micro_batch = peak = macs = 0
        divisors = [size for size in range(self.batch, 0, -1) if self.batch % size == 0]
        for micro_batch in self._sizes(divisors, target_bytes):
            model = suffix_model(cut.suffix, subset, micro_batch, self.batch)
            peak = self._peak(model, beside_bytes)
            macs = sum(map(op_macs, model.graphs[0].ops)) // micro_batch
            if peak <= target_bytes:
                break
        return micro_batch, peak, macs

    def _sizes(self, sizes: Sequence[int], target_bytes: int) -> Sequence[int]:
        """From large to small, those worth trying."""
        return sizes if target_bytes > self.base_bytes else sizes[-1:]

    def _peak(self, model: Model, beside_bytes: int = 0) -> int:
        """Of the process with a model of one signature loaded and run; `beside_bytes`: arrays made in between."""
        (signature,) = model.signatures
        predicted = footprint(model, [signature.name], self.runtime)
        fed = sum(tensor.n_bytes for name, tensor in signature.inputs.items() if "/" not in name)  # no weights
        running = predicted.running_bytes + _COPIES * fed + beside_bytes
        return self.base_bytes + max(predicted.preparing_bytes, running)
