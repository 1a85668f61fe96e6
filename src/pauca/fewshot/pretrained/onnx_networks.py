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
from pauca.fewshot.pretrained.packages import need

PREPROCESSING = "pauca.preprocessing"  # in the metadata of a graph that pauca wrote


class OnnxNetwork(nn.Module):
    """The first output of an ONNX graph, which is a buffer, so that it is saved, copied and pickled as weights are."""

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
            if len(session.get_inputs()) != 1 or len(session.get_inputs()[0].shape) != 4:
                raise InputError(
                    f"onnx:{self.name}: takes {[i.name for i in session.get_inputs()]}; give a graph that takes images "
                    "[n, c, h, w] alone"
                )
            self._session = session
        return self._session

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        session = self.session()
        taken = session.get_inputs()[0]
        values = images.detach().cpu().numpy()
        values = values.astype(np.float16 if taken.type == "tensor(float16)" else np.float32)
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
    try:
        network = OnnxNetwork(path.read_bytes(), path.name)
    except OSError as error:
        raise InputError(f"onnx:{name}: cannot be read ({error.strerror}); give the path of an ONNX file") from error
    written = network.session().get_modelmeta().custom_metadata_map.get(PREPROCESSING)
    if written:
        values = json.loads(written)
        values = values | {"mean": tuple(values["mean"]), "deviation": tuple(values["deviation"])}
        return network, Preprocessing(**values), {}
    return network, read_processor_file(path.parent), {}


def make(name: str, settings: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """The network of a model's file."""
    return OnnxNetwork(weights["network.graph"].numpy().tobytes(), name)
