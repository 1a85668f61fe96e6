"""A vision transformer of mixture-of-experts layers, without convolutions: the language model's layers on patches.

An image is cut into patches, each a token: one linear map embeds it. Attention sees all patches and where they are by
rotary positions in two dimensions: half of each head's channels turn with the row, half with the column. So the model
takes images of any size that patches divide. The mean over the patches is the image's feature vector.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.moe.layer.moe import auxiliary_loss
from pauca.moe.models.blocks import Linear, RMSNorm, build_block, initialize, rotary_table
from pauca.moe.models.config import LayersConfig


@dataclass(frozen=True)
class ViTConfig(LayersConfig):
    """Sizes and numerics of a `MoEViT`: those of its layers (`LayersConfig`), and these."""

    patch: int = 4
    """Side of a patch in pixels."""
    channels: int = 3
    """Channels of the images."""
    classes: int = 10
    """Classes that images are told apart as."""
    rope_base: float = 100.0
    """Wavelengths of the rotary positions, in patches, run from 2 pi to 2 pi times this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("patch", "channels", "classes")
        if self.head_dim % 4:
            raise ConfigError(f"head_dim must be a multiple of 4 for rows and columns, got {self.head_dim}")


class MoEViT(nn.Module):
    """A vision transformer of mixture-of-experts layers.

    Examples:
        >>> model = MoEViT(ViTConfig(classes=5, recipe=Recipe.fp4()))
        >>> images, labels = torch.rand(8, 3, 32, 32), torch.randint(5, (8,))
        >>> model.loss(images, labels).backward()
    """

    def __init__(self, config: ViTConfig) -> None:
        """Build with random weights; seed torch before."""
        super().__init__()
        self.config = config
        self.embedding = Linear(config.channels * config.patch**2, config.hidden)
        self.blocks = nn.ModuleList(build_block(config, layer, causal=False) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden)
        self.head = Linear(config.hidden, config.classes)
        initialize(self, config.layers)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch hidden"]:
        """One vector an image, in FP32; values around zero and one are good inputs."""
        x = self.embedding(self._patches(images.bfloat16()))
        rotation = self._rotation(images.shape[2] // self.config.patch, images.shape[3] // self.config.patch, x.device)
        for block in self.blocks:
            x = block(x, rotation)
        return self.norm(x).float().mean(1)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of the classes."""
        return self.head(self.features(images))

    def loss(
        self, images: Float[Tensor, "batch channels height width"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """Mean cross entropy in nats, plus the weighted balancing loss."""
        cross_entropy = F.cross_entropy(self(images), labels)
        layers = max(1, self.config.layers - self.config.dense_layers)
        return cross_entropy + self.config.balance_weight * auxiliary_loss(self) / layers

    def _patches(self, images: Tensor) -> Float[Tensor, "batch patches values"]:
        """Row by row, the pixels of each patch."""
        patch, (channels, height, width) = self.config.patch, images.shape[1:]
        if channels != self.config.channels or height % patch or width % patch or not height * width:
            raise InputError(
                f"images of {channels} x {height} x {width} do not fit: {self.config.channels} channels and sides that "
                f"are multiples of {patch} are needed"
            )
        grid = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # b, channel, row, y, column, x
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def _rotation(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
        place = torch.arange(rows * columns, device=device)
        half, base = self.config.head_dim // 2, self.config.rope_base
        by_row = rotary_table((place // columns).float(), half, base)
        by_column = rotary_table((place % columns).float(), half, base)
        cosine, sine = (torch.cat(pair, dim=-1) for pair in zip(by_row, by_column, strict=True))
        return cosine, sine
