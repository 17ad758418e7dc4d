"""An ONNX graph under construction; the same calls give the same names and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stages.errors import ModelError

IR_VERSION = 10
OPSETS = {"": 21, "ai.onnx.ml": 5}  # ai.onnx.ml 5 is the first whose trees answer in double


class UnsupportedError(ModelError):
    """A part of a pipeline has no exact counterpart in ONNX; the message is one sentence."""


class Graph:
    """Collects nodes; every method that adds one returns the name of its output tensor.

    `columns` maps an input's name to True where it holds text, and False where it holds doubles.
    """

    def __init__(self, columns: dict[str, bool]) -> None:
        """Start with the inputs `columns`."""
        self.columns = columns
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._prefix = "/"
        while any(name.startswith(self._prefix) for name in columns):
            self._prefix += "/"

    def _name(self) -> str:
        return f"{self._prefix}{len(self._nodes) + len(self._constants)}"

    def constant(self, values: Any, dtype: type[np.generic] = np.float64) -> str:
        """Add `values` as a tensor of `dtype` (np.str_ for text)."""
        name = self._name()
        if dtype is np.str_:
            tensor = _text_tensor(name, values)
        else:
            tensor = numpy_helper.from_array(np.asarray(values, dtype), name)
        self._constants.append(tensor)
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add one node with one output."""
        name = self._name()
        node = helper.make_node(operator, list(inputs), [name], domain=domain, **attributes)
        self._nodes.append(node)
        return name

    def cast(self, tensor: str, dtype: type[np.generic]) -> str:
        """Convert to float32, float64 or int64."""
        return self.add("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def join(self, tensors: Sequence[str]) -> str:
        """Put [n, …] tensors side by side."""
        return tensors[0] if len(tensors) == 1 else self.add("Concat", *tensors, axis=1)

    def lookup(self, tensor: str, keys: Sequence[str], values: Any, default: Any) -> str:
        """Map each text to its value, any other to `default`; float64 or int64 as `values`."""
        array = np.asarray(values)
        return self.add(
            "LabelEncoder",
            tensor,
            domain="ai.onnx.ml",
            keys_tensor=_text_tensor("keys", keys),
            values_tensor=numpy_helper.from_array(array, "values"),
            default_tensor=numpy_helper.from_array(np.array([default], array.dtype), "default"),
        )

    def serialize(self, scores: str, width: int, dtype: type[np.generic]) -> bytes:
        """Return the model's bytes, with `scores` as its one output, [n, width] of `dtype`."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._nodes.append(helper.make_node("Identity", [scores], ["scores"]))
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.STRING if text else TensorProto.DOUBLE, ["n", 1])
            for name, text in self.columns.items()
        ]
        output = helper.make_tensor_value_info("scores", kind, ["n", width])
        graph = helper.make_graph(self._nodes, "pipeline", inputs, [output], self._constants)
        model = helper.make_model(
            graph,
            producer_name="pinwerk",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid(name, at) for name, at in OPSETS.items()],
        )
        return bytes(model.SerializeToString(deterministic=True))


def _text_tensor(name: str, texts: Sequence[str]) -> onnx.TensorProto:
    data = [text.encode() for text in texts]
    return onnx.TensorProto(name=name, data_type=TensorProto.STRING, dims=[len(data)], string_data=data)
