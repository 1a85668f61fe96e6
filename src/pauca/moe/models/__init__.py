"""Models made of such layers, and the experts of `transformers` models."""

from pauca.moe.models.config import LayersConfig, Recomputation
from pauca.moe.models.huggingface import convert, unconvert
from pauca.moe.models.lm import LM_SIZES, LMConfig, LMLosses, MoELM
from pauca.moe.models.vit import MoEViT, ViTConfig

__all__ = [
    "LM_SIZES",
    "LMConfig",
    "LMLosses",
    "LayersConfig",
    "MoELM",
    "MoEViT",
    "Recomputation",
    "ViTConfig",
    "convert",
    "unconvert",
]
