"""Training of language models: the trainer, the loop around it, checkpoints, health and diagnosis."""

from pauca.moe.training.config import TrainConfig
from pauca.moe.training.diagnosis import diagnose
from pauca.moe.training.health import FormatLosses, RouterLoad, format_losses, quantization_health, router_loads
from pauca.moe.training.loop import TrainResult, train
from pauca.moe.training.model_files import load_model, save_model
from pauca.moe.training.trainer import Trainer, TrainStep
from pauca.runs.divergence import Diverged

__all__ = [
    "Diverged",
    "FormatLosses",
    "RouterLoad",
    "TrainConfig",
    "TrainResult",
    "TrainStep",
    "Trainer",
    "diagnose",
    "format_losses",
    "load_model",
    "quantization_health",
    "router_loads",
    "save_model",
    "train",
]
