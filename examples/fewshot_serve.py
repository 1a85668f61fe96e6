"""Serve a fitted classifier over HTTP, with FastAPI.

    pip install fastapi uvicorn
    pauca fewshot fit photos/ --backbone efficientnet-lite0 --reject 0.05
    CLASSIFIER=classifier.safetensors uvicorn --app-dir examples fewshot_serve:app
    curl --data-binary @photo.jpg http://localhost:8000/predict
    curl --data-binary @photo.jpg http://localhost:8000/classes/heron

The body of a request is one image file. `predict` answers with label, probabilities and distance; `classes/NAME` adds
the image as an example of a class, which may be new.
"""

import os
from pathlib import Path
from threading import Lock

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from pauca.errors import InputError
from pauca.fewshot import FewShotClassifier


# --8<-- [start:serve]
def make_app(path: Path) -> FastAPI:
    """The service of one classifier file. What it learns is kept in memory."""
    app = FastAPI(title="pauca few-shot classifier")
    classifier = FewShotClassifier.load(path)
    one_at_a_time = Lock()  # learning changes the classifier

    def answer(image: bytes) -> dict[str, object]:
        with one_at_a_time:
            found = classifier.answer([image])
            shares = zip(classifier.classes_.tolist(), found.probabilities[0].tolist(), strict=True)
        return {"label": found.labels.tolist()[0], "probabilities": dict(shares), "distance": float(found.distances[0])}

    def learn(image: bytes, name: str) -> dict[str, object]:
        with one_at_a_time:
            classifier.partial_fit([image], [name])
            return {"classes": classifier.classes_.tolist(), "expect": str(classifier.expected_accuracy())}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, object]:
        return await _or_422(answer, await request.body())

    @app.post("/classes/{name}")
    async def add(name: str, request: Request) -> dict[str, object]:
        return await _or_422(learn, await request.body(), name)

    return app


# --8<-- [end:serve]


async def _or_422(function, *arguments):
    """The answer from a thread, so that others are served meanwhile; what is wrong with an image as a sentence."""
    try:
        return await run_in_threadpool(function, *arguments)
    except InputError as error:
        raise HTTPException(422, str(error)) from error


if __name__ == "__main__":
    print(__doc__)
elif "CLASSIFIER" in os.environ:
    app = make_app(Path(os.environ["CLASSIFIER"]))
