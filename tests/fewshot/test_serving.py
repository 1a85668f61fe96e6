"""The example that serves a classifier, asked by FastAPI's own client."""

import runpy
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pauca.fewshot import FewShotClassifier, MCRNet, ModelConfig

EXAMPLE = Path(__file__).parents[2] / "examples" / "fewshot_serve.py"


def png(image) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_an_image_is_answered_and_a_class_is_added(toy_images, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    images = toy_images.images.unflatten(0, (8, 12)).permute(0, 1, 3, 4, 2).numpy()
    torch.manual_seed(0)
    classifier = FewShotClassifier(MCRNet(ModelConfig(backbone="conv4-32", image_size=16)), device="cpu")
    classifier.fit(images[:2, :5].reshape(-1, 16, 16, 3), np.repeat(["ant", "bee"], 5)).save(tmp_path / "c.safetensors")
    with TestClient(runpy.run_path(str(EXAMPLE))["make_app"](tmp_path / "c.safetensors")) as client:
        answer = client.post("/predict", content=png(images[0, 6])).json()
        expected = classifier.answer(images[:1, 6])
        assert answer["label"] == expected.labels[0]
        assert list(answer["probabilities"].values()) == pytest.approx(expected.probabilities[0].tolist())
        assert answer["distance"] == pytest.approx(expected.distances[0])
        learned = client.post("/classes/cow", content=png(images[2, 0])).json()
        assert learned["classes"] == ["ant", "bee", "cow"]
        assert "% of further images right" in learned["expect"]
        assert "cow" in client.post("/predict", content=png(images[2, 1])).json()["probabilities"]
        refused = client.post("/predict", content=b"no image")
        assert refused.status_code == 422
        assert "not readable as an image" in refused.json()["detail"]
