"""Graphs with weights in another file are told from others that speak of such, with no look into onnx."""

import sys

import numpy as np
import pytest

from pauca.fewshot import Preprocessing, open_backbone
from pauca.fewshot.pretrained.onnx_weights import has_weights_elsewhere

onnx = pytest.importorskip("onnx")

PLAIN = np.ones((4, 3, 3, 3), np.float32)


def graph_with(tensor, nodes=()):
    """Images [n, 3, 8, 8] -> maps, by a convolution."""
    made = onnx.helper.make_node("Conv", ["images", "location"], ["external_data"], name="data_location")
    images, maps = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["n", 3, 8, 8]), ("external_data", ["n", 4, 6, 6]))
    )
    graph = onnx.helper.make_graph([made, *nodes], "location", [images], [maps], [tensor])
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8, doc_string="location external_data")


def plain():
    return onnx.numpy_helper.from_array(PLAIN, "location")


def elsewhere(array=PLAIN, name="location"):
    tensor = onnx.numpy_helper.from_array(array, name)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    return tensor


def test_a_graph_that_only_speaks_of_locations_needs_no_onnx(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "graph.onnx"
    path.write_bytes(graph_with(plain()).SerializeToString())
    monkeypatch.setitem(sys.modules, "onnx", None)
    model = open_backbone(f"onnx:{path}", preprocessing=Preprocessing(8, (0.5,) * 3, (0.5,) * 3))
    assert "graph.onnx, 8 px" in model.describe()


def test_weights_elsewhere_are_found_wherever_tensors_are():
    assert not has_weights_elsewhere(graph_with(plain()).SerializeToString())
    assert has_weights_elsewhere(graph_with(elsewhere()).SerializeToString())
    constant = onnx.helper.make_node("Constant", [], ["c"], value=elsewhere(name="c"))
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    branch = onnx.helper.make_node("If", ["condition"], ["c"], then_branch=inner, else_branch=inner)
    for node in (constant, branch):
        assert has_weights_elsewhere(graph_with(plain(), [node]).SerializeToString())
    model = graph_with(plain())
    model.functions.add(name="f", domain="d").node.append(constant)
    assert has_weights_elsewhere(model.SerializeToString())
    model = graph_with(plain())
    model.graph.sparse_initializer.add(dims=[4]).values.CopyFrom(elsewhere(np.ones(1, np.float32)))
    assert has_weights_elsewhere(model.SerializeToString())


@pytest.mark.parametrize("broken", [b"", b"not a graph", b"\x80" * 9, bytes(range(256))])
def test_what_is_no_graph_has_none(broken):
    assert not has_weights_elsewhere(broken)
    whole = graph_with(plain()).SerializeToString()
    for length in range(0, len(whole), 7):
        assert not has_weights_elsewhere(whole[:length])
