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

    `columns` maps a column's name to True where it holds text, and False where it holds doubles. The inputs are
    `numeric`, double [n, number of numeric columns], and `text`, string [n, number of text columns], each with its
    columns in the order of `columns`; one without columns is left out.
    """

    def __init__(self, columns: dict[str, bool]) -> None:
        """Start with the inputs for `columns`."""
        self.columns = columns
        self._numeric = [name for name, text in columns.items() if not text]
        self._text = [name for name, text in columns.items() if text]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def _name(self) -> str:
        return f"/{len(self._nodes) + len(self._constants)}"

    def numbers(self, columns: Sequence[str]) -> str:
        """The named numeric columns side by side, [n, len(columns)]."""
        return self._gathered("numeric", self._numeric, columns)

    def text(self, column: str) -> str:
        """One text column, [n, 1]."""
        return self._gathered("text", self._text, [column])

    def rows(self) -> str:
        """[n], the number of rows."""
        return self.add("Shape", "numeric" if self._numeric else "text", start=0, end=1)

    def _gathered(self, tensor: str, names: list[str], columns: Sequence[str]) -> str:
        if names == list(columns):
            return tensor
        places = self.constant([names.index(column) for column in columns], np.int64)
        return self.add("Gather", tensor, places, axis=1)

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
        precision = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._nodes.append(helper.make_node("Identity", [scores], ["scores"]))
        inputs = [
            helper.make_tensor_value_info(name, kind, ["n", len(columns)])
            for name, kind, columns in (
                ("numeric", TensorProto.DOUBLE, self._numeric),
                ("text", TensorProto.STRING, self._text),
            )
            if columns
        ]
        output = helper.make_tensor_value_info("scores", precision, ["n", width])
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
