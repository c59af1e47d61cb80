"""GraphBuilder: emit ops one after another; shapes are inferred, constants are shared, names stay unique."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from signatures.graph import Array, Graph, Op, Options, Tensor, constant
from signatures.shapes import VALID, infer, infer_parts

NO_ACTIVATION, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3
"""The schema's ActivationFunctionType, as far as kernels fuse it."""

_OLDEST_VERSIONS = {"BROADCAST_TO": 2, "DEPTHWISE_CONV_2D": 2}
"""Version of an op from which both runtimes know it with the inputs and options that we emit, where that is not 1."""


class GraphBuilder:
    """Collects the ops of one graph. Every method that emits an op returns its output tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ops: list[Op] = []
        self.inputs: list[Tensor] = []
        self._names: dict[str, int] = {}
        self._small: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}

    def unique(self, name: str) -> str:
        """`name`, with a number where it is taken."""
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else f"{name}_{count}"

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
        """A graph input."""
        tensor = Tensor(self.unique(name), shape, dtype)
        self.inputs.append(tensor)
        return tensor

    def const(self, value: Array, name: str = "const") -> Tensor:
        """A constant over `value`; small equal constants become one tensor."""
        if value.nbytes > 4096:
            return constant(self.unique(name), value)
        key = (value.dtype.name, value.shape, value.tobytes())
        if key not in self._small:
            self._small[key] = constant(self.unique(name), value)
        return self._small[key]

    def ints(self, values: Sequence[int] | Sequence[tuple[int, int]], name: str = "ints") -> Tensor:
        """An int32 constant (axes, shapes, paddings)."""
        return self.const(np.asarray(values, np.int32), name)

    def scalar(self, value: float, name: str = "scalar") -> Tensor:
        """A float32 scalar constant."""
        return self.const(np.array(value, np.float32), name)

    def zeros(self, length: int) -> Tensor:
        """A float32 vector of zeros: the bias that convolution kernels insist on."""
        return self.const(np.zeros(length, np.float32), "zeros")

    def emit(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        options: Options = Options(),  # noqa: B008 (frozen)
        name: str | None = None,
    ) -> Tensor:
        """Append an op with one output, whose shape and dtype are inferred."""
        shape, dtype = infer(kind, inputs, options)
        output = Tensor(self.unique(name or kind.lower()), shape, dtype)
        self.ops.append(Op(kind, tuple(inputs), (output,), options, _OLDEST_VERSIONS.get(kind, 1)))
        return output

    def emit_many(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        options: Options = Options(),  # noqa: B008 (frozen)
    ) -> tuple[Tensor, ...]:
        """Append an op with several results, whose shapes and dtypes are inferred: SPLIT, SPLIT_V, UNPACK."""
        values = infer_parts(kind, inputs, options)
        outputs = tuple(Tensor(self.unique(kind.lower()), shape, dtype) for shape, dtype in values)
        self.ops.append(Op(kind, tuple(inputs), outputs, options))
        return outputs

    def graph(self, outputs: Sequence[Tensor]) -> Graph:
        """The finished graph."""
        return Graph(self.name, tuple(self.ops), tuple(self.inputs), tuple(outputs))

    # Elementwise ------------------------------------------------------------------------------------------------

    def add(self, x: Tensor, y: Tensor, activation: int = NO_ACTIVATION, name: str | None = None) -> Tensor:
        """x + y, then a fused activation."""
        return self.emit("ADD", (x, y), Options("AddOptions", {"FusedActivationFunction": activation}), name)

    def sub(self, x: Tensor, y: Tensor, name: str | None = None) -> Tensor:
        """x − y."""
        return self.emit("SUB", (x, y), Options("SubOptions"), name)

    def mul(self, x: Tensor, y: Tensor, activation: int = NO_ACTIVATION, name: str | None = None) -> Tensor:
        """x · y, then a fused activation."""
        return self.emit("MUL", (x, y), Options("MulOptions", {"FusedActivationFunction": activation}), name)

    def div(self, x: Tensor, y: Tensor, name: str | None = None) -> Tensor:
        """x / y."""
        return self.emit("DIV", (x, y), Options("DivOptions"), name)

    def minimum(self, x: Tensor, y: Tensor) -> Tensor:
        """Elementwise minimum."""
        return self.emit("MINIMUM", (x, y), Options("MaximumMinimumOptions"))

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        """Elementwise maximum."""
        return self.emit("MAXIMUM", (x, y), Options("MaximumMinimumOptions"))

    def scale(self, x: Tensor, factor: float, name: str | None = None) -> Tensor:
        """factor · x; no op where the factor is 1."""
        return x if factor == 1.0 else self.mul(x, self.scalar(factor), name=name)

    def shift(self, x: Tensor, term: float) -> Tensor:
        """x + term."""
        return self.add(x, self.scalar(term))

    def complement(self, x: Tensor) -> Tensor:
        """1 − x."""
        return self.sub(self.scalar(1.0), x)

    def positive(self, x: Tensor) -> Tensor:
        """1 where x > 0, else 0: SIGN and RELU stay inside XNNPACK, comparisons do not (FACTS §1)."""
        return self.unary("RELU", self.unary("SIGN", x))

    def unary(self, kind: str, x: Tensor, name: str | None = None) -> Tensor:
        """An elementwise op without options: EXP, NEG, RSQRT, SIGN, SQRT, SQUARE, RELU …"""
        return self.emit(kind, (x,), name=name)

    # Shapes -----------------------------------------------------------------------------------------------------

    def reshape(self, x: Tensor, shape: Sequence[int], name: str | None = None) -> Tensor:
        """x in another shape; no op where the shape is the same already, nor for a constant."""
        if tuple(shape) == x.shape:
            return x
        if x.data is not None:
            return self.const(x.data.reshape(shape), name or x.name)
        return self.emit("RESHAPE", (x, self.ints(shape, "shape")), Options("ReshapeOptions"), name)

    def transpose(self, x: Tensor, axes: Sequence[int], name: str | None = None) -> Tensor:
        """x with its axes permuted."""
        return self.emit("TRANSPOSE", (x, self.ints(axes, "axes")), Options("TransposeOptions"), name)

    def pad(self, x: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """x with zeros around it; no op where nothing is added."""
        if not any(a or b for a, b in pairs):
            return x
        return self.emit("PAD", (x, self.ints(pairs, "paddings")), Options("PadOptions"))

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """`parts` one behind the other along `axis`."""
        return self.emit("CONCATENATION", parts, Options("ConcatenationOptions", {"Axis": axis}))

    def strided_slice(self, x: Tensor, begins: Sequence[int], ends: Sequence[int], strides: Sequence[int]) -> Tensor:
        """x[begin:end:stride] on every axis; no op where it takes everything."""
        if tuple(begins) == (0,) * len(begins) and tuple(ends) == x.shape and set(strides) == {1}:
            return x
        bounds = [self.ints(v, "bounds") for v in (begins, ends, strides)]
        return self.emit("STRIDED_SLICE", (x, *bounds), Options("StridedSliceOptions"))

    def slice(self, x: Tensor, axis: int, begin: int, end: int) -> Tensor:
        """x[begin:end] along `axis`, as far as x reaches; no op where it takes everything."""
        end = min(end, x.shape[axis])
        begins = [begin if i == axis else 0 for i in range(len(x.shape))]
        ends = [end if i == axis else side for i, side in enumerate(x.shape)]
        return self.strided_slice(x, begins, ends, [1] * len(ends))

    def reverse(self, x: Tensor, axis: int) -> Tensor:
        """x reversed along one axis (tflite-runtime 2.14.0 is wrong on two at once)."""
        return self.emit("REVERSE_V2", (x, self.ints([axis], "axis")), Options("ReverseV2Options"))

    # Reductions -------------------------------------------------------------------------------------------------

    def sum(self, x: Tensor, axes: Sequence[int], keep: bool = False, name: str | None = None) -> Tensor:
        """Sum over `axes`."""
        return self._reduce("SUM", x, axes, keep, name)

    def mean(self, x: Tensor, axes: Sequence[int], keep: bool = False, name: str | None = None) -> Tensor:
        """Mean over `axes`."""
        return self._reduce("MEAN", x, axes, keep, name)

    def _reduce(self, kind: str, x: Tensor, axes: Sequence[int], keep: bool, name: str | None) -> Tensor:
        return self.emit(kind, (x, self.ints(axes, "axes")), Options("ReducerOptions", {"KeepDims": keep}), name)

    # Products ---------------------------------------------------------------------------------------------------

    def matmul(self, x: Tensor, y: Tensor, adj_x: bool = False, adj_y: bool = False, name: str | None = None) -> Tensor:
        """x · y over the last two axes, either one transposed first."""
        return self.emit("BATCH_MATMUL", (x, y), Options("BatchMatMulOptions", {"AdjX": adj_x, "AdjY": adj_y}), name)

    def fully_connected(
        self,
        x: Tensor,
        weights: Tensor,
        bias: Tensor | None = None,
        activation: int = NO_ACTIVATION,
        name: str | None = None,
    ) -> Tensor:
        """x[…, i] · weights[o, i]ᵀ + bias, as a matrix of two axes."""
        options = Options("FullyConnectedOptions", {"FusedActivationFunction": activation})
        return self.emit("FULLY_CONNECTED", (x, weights) if bias is None else (x, weights, bias), options, name)

    def conv_2d(self, x: Tensor, filters: Tensor, bias: Tensor | None, **fields: int) -> Tensor:
        """Convolution of NHWC `x` with OHWI `filters`; VALID and stride 1 unless `fields` say otherwise."""
        options = Options("Conv2DOptions", {"Padding": VALID, "StrideW": 1, "StrideH": 1, **fields})
        return self.emit("CONV_2D", (x, filters, bias or self.zeros(filters.shape[0])), options)

    def depthwise_conv_2d(self, x: Tensor, filters: Tensor, bias: Tensor | None, **fields: int) -> Tensor:
        """Depthwise convolution of NHWC `x` with `filters` [1, h, w, channels · multiplier]."""
        multiplier = filters.shape[3] // x.shape[3]  # the builtin kernel infers it, XNNPACK declines without it
        defaults = {"Padding": VALID, "StrideW": 1, "StrideH": 1, "DepthMultiplier": multiplier}
        options = Options("DepthwiseConv2DOptions", {**defaults, **fields})
        return self.emit("DEPTHWISE_CONV_2D", (x, filters, bias or self.zeros(filters.shape[3])), options)

    # Variables --------------------------------------------------------------------------------------------------

    def variable(self, shared_name: str) -> Tensor:
        """A handle of the variable `shared_name`, which every graph of a model can open."""
        handle = Tensor(self.unique(f"{shared_name}/handle"), (), "resource")
        options = Options("VarHandleOptions", {"Container": "", "SharedName": shared_name})
        self.ops.append(Op("VAR_HANDLE", (), (handle,), options))
        return handle

    def read(self, handle: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
        """The value of a float32 variable."""
        value = Tensor(self.unique(name), shape, "float32")
        self.ops.append(Op("READ_VARIABLE", (handle,), (value,), Options("ReadVariableOptions")))
        return value

    def assign(self, handle: Tensor, value: Tensor) -> None:
        """Set a variable. Emit every use of its old value first."""
        self.ops.append(Op("ASSIGN_VARIABLE", (handle, value), (), Options("AssignVariableOptions")))

    def call_once(self, graph_index: int) -> None:
        """Run graph `graph_index` of the model the first time that any graph gets here."""
        self.ops.append(Op("CALL_ONCE", (), (), Options("CallOnceOptions", {"InitSubgraphIndex": graph_index})))
