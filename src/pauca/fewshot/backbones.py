"""Feature networks: images or latent codes in, one flat feature vector per image out.

`ResNet12` serves two ways. In MCRNet it decodes the 64-channel latent code (widths 128, 160, 320, 640); as MetaOptNet's
plain network it reads the image (widths 64, 160, 320, 640). Any other `nn.Module` that maps `[b, c, h, w]` to `[b, d]`
can take its place.
"""

import math
from collections.abc import Callable
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pauca.errors import ConfigError
from pauca.fewshot.descriptors import BlurredPixels, EdgeDirections

DROP_RATE = 0.1
# keep = max(1 - 0.1 n / 40000, 0.9) in the authors' code, of 60,000 steps; shorter trainings need it sooner.
DROP_BLOCK_RAMP = 2 / 3
PAPER_STEPS = 60_000


class DropBlock(nn.Module):
    """Zero whole squares of a feature map while training (Ghiasi et al., NeurIPS 2018).

    The rate grows linearly over the first two thirds of a training, of which `set_step` tells; it lives in a buffer, so
    that a compiled or captured graph reads the new value without a new compilation and without waiting for the host.

    Args:
        size: side of the squares.
        final_rate: share of the values that is zeroed in the end.
        ramp_steps: steps over which the rate grows; None takes two thirds of the training.
    """

    rate: Tensor

    def __init__(self, size: int, final_rate: float = DROP_RATE, ramp_steps: int | None = None) -> None:
        super().__init__()
        self.size = size
        self.final_rate = final_rate
        self.ramp_steps = ramp_steps
        self.register_buffer("rate", torch.zeros(()))

    def set_step(self, step: int, steps: int = PAPER_STEPS) -> None:
        """Set the rate that is in force after `step` of `steps` training steps."""
        ramp = round(DROP_BLOCK_RAMP * steps) if self.ramp_steps is None else self.ramp_steps
        self.rate.fill_(self.final_rate * min(1.0, step / max(ramp, 1)))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not self.training:
            return maps
        height, width = maps.shape[2:]
        size = min(self.size, height, width)
        rows, columns = height - size + 1, width - size + 1
        # So many block corners that the expected share of dropped values is the rate (overlaps neglected).
        seed_rate = self.rate * (height * width) / (size**2 * rows * columns)
        seeds = torch.rand(*maps.shape[:2], rows, columns, device=maps.device) < seed_rate
        edge = size - 1
        dropped = F.max_pool2d(F.pad(seeds.to(maps.dtype), (edge, edge, edge, edge)), size, stride=1)
        keep = 1 - dropped
        share_kept = keep.mean(dtype=torch.float32).clamp_min(1 / keep.numel())
        return maps * (keep / share_kept.to(maps.dtype))


class _ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside a 1x1 shortcut, then 2x2 max pooling and the block's regularizer."""

    def __init__(self, channels_in: int, channels_out: int, regularizer: nn.Module) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels_in if i == 0 else channels_out, channels_out, 3, padding=1, bias=False) for i in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels_out) for _ in range(3))
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out))
        self.regularizer = regularizer

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        residual = self.shortcut(maps)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            maps = norm(convolution(maps))
            if i == 2:
                maps = maps + residual
            maps = F.leaky_relu(maps, 0.1)
        return self.regularizer(F.max_pool2d(maps, 2))


class ResNet12(nn.Module):
    """Four residual blocks; flattened output without average pooling (Lee et al., MetaOptNet, CVPR 2019).

    Dropout follows the first two blocks, DropBlock the last two: squares of 5 at 84 pixels and of 2 at 32. With
    `pooled`, the features are the mean over the image of each channel, as where all base classes are told apart at once
    (Tian et al., ECCV 2020). With `enlarge`, the image is enlarged so many times first: of 32 pixels, four blocks that
    halve leave 2 x 2 places, of 64 they leave 4 x 4, at four times the operations.
    """

    def __init__(
        self,
        channels_in: int,
        image_size: int,
        widths: tuple[int, ...] = (128, 160, 320, 640),
        pooled: bool = False,
        enlarge: int = 1,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.enlarge = enlarge
        if len(widths) != 4:
            raise ConfigError(f"widths {widths}: ResNet-12 has four blocks; give four numbers")
        block_size = max(1, round(5 * enlarge * image_size / 84))
        regularizers = (
            nn.Dropout(DROP_RATE), nn.Dropout(DROP_RATE), DropBlock(block_size), DropBlock(block_size)
        )  # fmt: skip
        self.blocks = nn.Sequential(
            *(
                _ResidualBlock(before, after, regularizer)
                for before, after, regularizer in zip((channels_in, *widths[:-1]), widths, regularizers, strict=True)
            )
        )
        _initialize_convolutions(self)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        if self.enlarge > 1:
            maps = F.interpolate(maps, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
        maps = self.blocks(maps)
        return maps.mean((2, 3)) if self.pooled else maps.flatten(1)


class Conv4(nn.Module):
    """Four times convolution, batch norm, ReLU, pooling: the small network of the few-shot literature."""

    def __init__(self, channels_in: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (channels_in, width, width, width):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.layers(maps).flatten(1)


class R2D2Net(nn.Module):
    """The network of R2-D2 (Bertinetto et al., ICLR 2019): the features are its last two blocks side by side.

    As in MetaOptNet's code: pooling before the activation, dropout of 0.1 in the third block and of 0.3 in the last,
    which has no activation (with one, its authors say, R2-D2's published accuracy was out of reach).
    """

    def __init__(self, channels_in: int, widths: tuple[int, int, int, int] = (96, 192, 384, 512)) -> None:
        super().__init__()
        first, second, third, last = widths
        self.blocks = nn.ModuleList(
            (
                nn.Sequential(*_convolve_and_pool(channels_in, first), nn.LeakyReLU(0.1)),
                nn.Sequential(*_convolve_and_pool(first, second), nn.LeakyReLU(0.1)),
                nn.Sequential(*_convolve_and_pool(second, third), nn.LeakyReLU(0.1), nn.Dropout(0.1)),
                nn.Sequential(*_convolve_and_pool(third, last), nn.Dropout(0.3)),
            )
        )

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        outputs = []
        for block in self.blocks:
            maps = block(maps)
            outputs.append(maps.flatten(1))
        return torch.cat(outputs[-2:], dim=1)


def _convolve_and_pool(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.MaxPool2d(2)


def _initialize_convolutions(module: nn.Module) -> None:
    """Gaussian weights that keep the variance of gradients through leaky ReLUs (He et al., 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")


BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet12": lambda channels_in, image_size: ResNet12(channels_in, image_size),
    "resnet12-plain": lambda channels_in, image_size: ResNet12(channels_in, image_size, (64, 160, 320, 640)),
    "resnet12-pooled": lambda channels_in, image_size: ResNet12(channels_in, image_size, (64, 160, 320, 640), True),
    "resnet12-enlarged": lambda channels_in, image_size: ResNet12(
        channels_in, image_size, (64, 160, 320, 640), True, enlarge=2
    ),
    "conv4": lambda channels_in, image_size: Conv4(channels_in),
    "conv4-32": lambda channels_in, image_size: Conv4(channels_in, width=32),
    "r2d2": lambda channels_in, image_size: R2D2Net(channels_in),
    "edges": EdgeDirections,  # these two have nothing to train
    "pixels": BlurredPixels,
}


def make_backbone(name: str, channels_in: int, image_size: int) -> nn.Module:
    """Build the feature network that `BACKBONES` lists under `name`.

    Args:
        name: a key of `BACKBONES`.
        channels_in: channels of the images, or of the latent code that takes their place.
        image_size: side of the square images, in pixels; at least 16, because every network here halves it four times.
    """
    if name not in BACKBONES:
        raise ConfigError(
            f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}; networks that others have trained "
            "are not trained further: give them to `fit`, `predict`, `eval` or `compare`"
        )
    if image_size < 16:
        raise ConfigError(
            f"image size {image_size} px is too small for {name}, which halves it four times; use 16 or more"
        )
    return BACKBONES[name](channels_in, image_size)


def set_training_step(module: nn.Module, step: int, steps: int = PAPER_STEPS) -> None:
    """Tell every part whose strength grows with training how far it is: those with a method `set_step(step, steps)`.

    Args:
        module: the model, or a part of it.
        step: steps that have been taken.
        steps: steps of the whole training; the paper's if not given.
    """
    for part in module.modules():
        if callable(set_step := getattr(part, "set_step", None)):
            set_step(step, steps)


def parameter_count(module: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward pass over one input, counted on shapes alone (nothing is computed).

    A module that cannot run on shapes alone counts its own, by a method `count_multiply_adds(input_shape)`.
    """
    if callable(count := getattr(module, "count_multiply_adds", None)):
        return int(count(input_shape))  # type: ignore[arg-type]
    twin = deepcopy(module).to("meta").eval()
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton along, 50 MB

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.empty(1, *input_shape, device="meta"))
    return counter.get_total_flops() // 2


def feature_count(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Length of the feature vector that `module` gives for one input of this shape."""
    twin = deepcopy(module).to("meta").eval()
    with torch.no_grad():
        features = twin(torch.empty(1, *input_shape, device="meta"))
    return math.prod(features.shape[1:])
