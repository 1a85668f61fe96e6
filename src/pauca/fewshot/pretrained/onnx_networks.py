"""Backbones `onnx:FILE`: a graph of one image input, run by onnxruntime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pauca.errors import InputError
from pauca.fewshot.pretrained.hf_networks import read_processor_file
from pauca.fewshot.pretrained.model import Preprocessing
from pauca.fewshot.pretrained.onnx_weights import has_weights_elsewhere
from pauca.fewshot.pretrained.packages import need

PREPROCESSING = "pauca.preprocessing"  # in the metadata of a graph that pauca wrote


_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


class OnnxNetwork(nn.Module):
    """The first output of an ONNX graph, which is a buffer, so that it is saved, copied and pickled as weights are.

    It may take [n, c, h, w] or, as graphs from TensorFlow do, [n, h, w, c]. One that takes bytes normalizes itself.
    """

    graph: Tensor

    def __init__(self, graph: bytes, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("graph", torch.from_numpy(np.frombuffer(graph, np.uint8).copy()))
        self._session: Any = None

    def session(self) -> Any:
        """The running graph; on a GPU where onnxruntime has one.

        Raises:
            InputError: the bytes are no graph, or it has several inputs.
        """
        if self._session is None:
            runtime = need("onnxruntime", "onnx", "a backbone onnx:FILE")
            options = runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            try:
                session = runtime.InferenceSession(
                    self.graph.cpu().numpy().tobytes(), options, providers=runtime.get_available_providers()
                )
            except Exception as error:  # onnxruntime's exceptions have no common base
                raise InputError(
                    f"onnx:{self.name}: is no graph that onnxruntime can run ({' '.join(str(error).split())[:200]})"
                ) from error
            taken = session.get_inputs()
            if len(taken) != 1 or len(taken[0].shape) != 4 or taken[0].type not in _TYPES:
                found = ", ".join(f"{i.name} {i.shape} of {i.type}" for i in taken)
                raise InputError(
                    f"onnx:{self.name}: takes {found}; give a graph that takes images [n, c, h, w] alone, in floating "
                    "point or bytes"
                )
            self._session = session
        return self._session

    @property
    def takes_bytes(self) -> bool:
        """Whether the graph takes bytes, which it normalizes itself."""
        return _TYPES[self.session().get_inputs()[0].type] is np.uint8

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        session = self.session()
        taken = session.get_inputs()[0]
        values = images.detach().cpu().numpy()
        if self.takes_bytes:
            values = np.rint(255 * values)
        values = values.astype(_TYPES[taken.type])
        if taken.shape[3] in (1, 3) and taken.shape[1] not in (1, 3):
            values = values.transpose(0, 2, 3, 1)
        at_once = taken.shape[0] if isinstance(taken.shape[0], int) else len(values)  # a graph may fix its batch
        parts = [values[start : start + at_once] for start in range(0, len(values), at_once)]
        outputs = []
        for part in parts:
            short = at_once - len(part)
            padded = np.concatenate([part, np.repeat(part[:1], short, 0)]) if short else part
            output = session.run([session.get_outputs()[0].name], {taken.name: padded})[0]
            outputs.append(output[: len(part)])
        return torch.from_numpy(np.concatenate(outputs)).float().to(images.device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


def open_network(name: str, pretrained: bool = True) -> tuple[nn.Module, Preprocessing | None, dict[str, Any]]:
    """The network, and what it expects of images, where the graph or a file beside it says so."""
    path = Path(name)
    network = OnnxNetwork(_read_graph(path), name)
    written = network.session().get_modelmeta().custom_metadata_map.get(PREPROCESSING)
    if written:
        values = json.loads(written)
        values = values | {"mean": tuple(values["mean"]), "deviation": tuple(values["deviation"])}
        return network, Preprocessing(**values), {}
    return network, read_processor_file(path.parent), {}


def _read_graph(path: Path) -> bytes:
    """A graph with its weights, which torch's exporter puts into a file beside it unless told otherwise."""
    try:
        graph = path.read_bytes()
    except OSError as error:
        raise InputError(f"onnx:{path}: cannot be read ({error.strerror}); give the path of an ONNX file") from error
    if not has_weights_elsewhere(graph):
        return graph
    onnx = need("onnx", "onnx", "an ONNX graph with its weights in another file")
    try:
        return onnx.load(path).SerializeToString()
    except Exception as error:  # onnx's and protobuf's exceptions have no common base
        words = " ".join(str(error).split())[:200]
        raise InputError(f"onnx:{path}: its weights cannot be read ({words}); put their file beside it") from error


def make(name: str, settings: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """The network of a model's file."""
    return OnnxNetwork(weights["network.graph"].numpy().tobytes(), name)
