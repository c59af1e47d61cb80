"""Optimizers as graph ops: SGD with momentum, and Adam, both with decoupled weight decay and a clipped gradient.

Weight decay is decoupled (Loshchilov and Hutter, arXiv 1711.05101) and applies to weights, not to biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from signatures.builder import GraphBuilder
from signatures.errors import UsageError
from signatures.graph import Tensor


@dataclass(frozen=True)
class Optimizer:
    """What is compiled into `train`; the learning rate is an input of the signature."""

    kind: str = "sgd"
    """sgd or adam."""
    momentum: float = 0.9
    """Momentum of SGD, β1 of Adam."""
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Largest norm of all gradients of a step together; longer ones are scaled down (arXiv 1211.5063)."""
    beta2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        if self.kind not in ("sgd", "adam"):
            raise UsageError(f"optimizer {self.kind!r} is not known (sgd, adam)")

    @property
    def id(self) -> str:
        """Distinguishes compiled graphs."""
        numbers = (
            self.momentum,
            self.weight_decay,
            self.clip_norm,
            *((self.beta2, self.epsilon) if self.kind == "adam" else ()),
        )
        return "-".join([self.kind, *(f"{number:g}" for number in numbers)])

    @property
    def slots(self) -> tuple[str, ...]:
        """State tensors of a parameter's shape, which start at zero."""
        if self.kind == "adam":
            return ("mean", "variance")
        return ("momentum",) if self.momentum else ()

    @property
    def counters(self) -> tuple[str, ...]:
        """Scalar state of the whole run, which starts at one: β1ᵗ and β2ᵗ before step t + 1."""
        return ("beta1_power", "beta2_power") if self.kind == "adam" else ()


@dataclass(frozen=True)
class Trained:
    """One parameter in a train graph: its value, its gradient, and its optimizer state."""

    value: Tensor
    gradient: Tensor
    state: tuple[Tensor, ...]
    decays: bool


@dataclass(frozen=True)
class Update:
    """New values, in the order of the parameters; states in the order of `Optimizer.slots`."""

    value: Tensor
    state: tuple[Tensor, ...]


def step(
    b: GraphBuilder, optimizer: Optimizer, trained: Sequence[Trained], counters: Sequence[Tensor], rate: Tensor
) -> tuple[list[Update], list[Tensor]]:
    """Emit one step with learning rate `rate` (scalar); returns updates and the new counters."""
    trained = _clipped(b, trained, optimizer.clip_norm)
    if optimizer.kind == "sgd":
        return [_sgd(b, optimizer, one, rate) for one in trained], []
    powers = [b.mul(c, b.scalar(beta)) for c, beta in zip(counters, (optimizer.momentum, optimizer.beta2), strict=True)]
    # lr·√(1 − β2ᵗ)/(1 − β1ᵗ): the bias correction of Adam (arXiv 1412.6980, end of section 2).
    shrink, grow = (b.sub(b.scalar(1.0), power) for power in powers)
    corrected = b.mul(rate, b.div(b.unary("SQRT", grow), shrink))
    return [_adam(b, optimizer, one, corrected, rate) for one in trained], powers


def _clipped(b: GraphBuilder, trained: Sequence[Trained], clip_norm: float) -> list[Trained]:
    """Gradients scaled by min(1, clip_norm / √Σ|g|²)."""
    squares = [b.sum(b.mul(one.gradient, one.gradient), range(len(one.gradient.shape))) for one in trained]
    total = squares[0]
    for square in squares[1:]:
        total = b.add(total, square)
    norm = b.unary("SQRT", b.add(total, b.scalar(1e-12)), "gradient_norm")
    scale = b.minimum(b.scalar(1.0), b.div(b.scalar(clip_norm), norm))
    return [replace(one, gradient=b.mul(one.gradient, scale)) for one in trained]


def _sgd(b: GraphBuilder, optimizer: Optimizer, one: Trained, rate: Tensor) -> Update:
    direction = one.gradient
    state: tuple[Tensor, ...] = ()
    if one.state:
        direction = b.add(b.mul(one.state[0], b.scalar(optimizer.momentum)), one.gradient)
        state = (direction,)
    return Update(b.sub(_decayed(b, optimizer, one, rate), b.mul(direction, rate)), state)


def _adam(b: GraphBuilder, optimizer: Optimizer, one: Trained, corrected: Tensor, rate: Tensor) -> Update:
    mean = _moving(b, one.state[0], one.gradient, optimizer.momentum)
    variance = _moving(b, one.state[1], b.mul(one.gradient, one.gradient), optimizer.beta2)
    direction = b.div(mean, b.add(b.unary("SQRT", variance), b.scalar(optimizer.epsilon)))
    return Update(b.sub(_decayed(b, optimizer, one, rate), b.mul(direction, corrected)), (mean, variance))


def _moving(b: GraphBuilder, old: Tensor, new: Tensor, beta: float) -> Tensor:
    return b.add(b.mul(old, b.scalar(beta)), b.mul(new, b.scalar(1.0 - beta)))


def _decayed(b: GraphBuilder, optimizer: Optimizer, one: Trained, rate: Tensor) -> Tensor:
    """w · (1 − rate · weight_decay)."""
    if not (one.decays and optimizer.weight_decay):
        return one.value
    return b.mul(one.value, b.sub(b.scalar(1.0), b.mul(rate, b.scalar(optimizer.weight_decay))))
