"""Networks from elsewhere: timm, transformers, ONNX, any module, or features that are already there."""

from pauca.fewshot.pretrained.model import Features, Preprocessing, Pretrained
from pauca.fewshot.pretrained.opening import open_backbone

__all__ = ["Features", "Preprocessing", "Pretrained", "open_backbone"]
