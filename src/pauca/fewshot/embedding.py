"""Features of images, each computed once, however many episodes or questions need them."""

import torch
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor

from pauca.errors import InputError
from pauca.fewshot.data.decode import load_images
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.types import ImageSet
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest
from pauca.runs import Progress

# A GPU wants many images at once. On a CPU 16 to 64 of 32 pixels are as fast as one another, but glibc maps every
# tensor above 32 MiB anew and has its pages zeroed: 512 images through Conv-4 take 2.5 times as long an image.
_IMAGES_PER_PASS_ON_GPU = 512
_PIXELS_PER_PASS_ON_CPU = 32 * 32**2
_OTHER = 0.1  # of features of length one: in half precision batches of another size differ by 0.01, dropout by 0.5


@torch.no_grad()
def embed_images(
    model: FewShotModel,
    images: ImageSet,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    seed: int = 0,
    mirror: bool = False,
    quiet: bool = True,
    views: ViewsAtTest = AS_IT_IS,
) -> Float32[Tensor, "n d"]:
    """The features of every image, on `device`.

    Args:
        model: put into evaluation mode and moved to `device`.
        images: of the model's size and channels.
        device: where to compute.
        bf16: compute convolutions in bfloat16, as training does on a GPU.
        seed: of the noise of latent settings that sample at test time.
        mirror: as `views.mirror`, which took its place.
        quiet: show no progress.
        views: in which the images are seen.
    """
    if not model.refits:
        check_images(model, images)
    size, channels, fitting = model.config.image_size, model.config.channels, model.config.fitting
    model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    generator = torch.Generator(device).manual_seed(seed)
    rows = []
    at_once = images_per_pass(device, images.images.new_empty(0, channels, size, size))
    with Progress("embed", len(images), "images", quiet) as progress:
        for part in images.images.split(at_once):
            fitted = load_images(part, size, channels, fitting) if model.refits else part
            batch = fitted.to(device, non_blocking=True)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                features = model.embed(batch.contiguous(memory_format=torch.channels_last), generator, mirror, views)
            rows.append(features.float())
            progress.advance(len(part))
            if len(rows) == 1:
                check_steady(model, batch[:1], features, views.with_mirror(mirror))
    return _finite(torch.cat(rows), f"{images.name}: ")


@torch.no_grad()
def embed_rows(
    model: FewShotModel, images: Shaped[Tensor, "n *shape"], views: ViewsAtTest = AS_IT_IS, quiet: bool = True
) -> Float64[Tensor, "n d"]:
    """The features of images that are fitted to the model, or of rows of features, where the model is.

    In double precision the answer for an image does not depend on what it is asked together with.
    """
    device = model.mean.device
    generator = torch.Generator(device).manual_seed(0)
    at_once = len(images) if images.ndim == 2 else images_per_pass(device, images)
    rows = []
    with Progress("embed", len(images), "images", quiet) as progress:
        for batch in images.split(at_once):
            rows.append(model.embed(batch.to(device), generator, views=views))
            progress.advance(len(batch))
    return _finite(torch.cat(rows)).double()


@torch.no_grad()
def check_steady(
    model: FewShotModel, image: Shaped[Tensor, "1 *shape"], features: Float[Tensor, "n d"], views: ViewsAtTest
) -> None:
    """Refuse a network from elsewhere whose features of an image change with its company, or from call to call.

    Args:
        model: which network; only one that fits images itself is asked.
        image: the first image.
        features: of all that it was among.
        views: in which they were seen.

    Raises:
        InputError: alone, the image has other features.
    """
    if not model.refits:
        return
    alone = model.embed(image.to(model.mean.device), views=views)
    if (alone - features[:1].to(alone)).norm() > _OTHER:
        raise InputError(
            f"{model.config.backbone}: gives an image other features alone than among others, or each time; switch "
            "dropout, masks and statistics over the batch off, as in F.dropout(x, training=self.training)"
        )


def _finite(features: Float[Tensor, "n d"], where: str = "") -> Float[Tensor, "n d"]:
    """The features, after a check that base learners make on a CPU only."""
    broken = (~features.isfinite()).any(1).nonzero()
    if len(broken):
        raise InputError(
            f"{where}the features of image {int(broken[0])} are not finite; the model has diverged, load an earlier one"
        )
    return features


def images_per_pass(device: torch.device | str, images: Shaped[Tensor, "n c h w"]) -> int:
    """How many images of this size to send through a network at once, where no gradients are kept."""
    if torch.device(device).type != "cpu":
        return _IMAGES_PER_PASS_ON_GPU
    return max(1, _PIXELS_PER_PASS_ON_CPU // (images.shape[2] * images.shape[3]))


def check_images(model: FewShotModel, images: ImageSet) -> None:
    """Refuse images of another size or with other channels than the model was made for."""
    expected = (model.config.channels, model.config.image_size, model.config.image_size)
    found = tuple(images.images.shape[1:])
    if found != expected:
        raise InputError(
            f"{images.name}: images are {found} (channels, height, width), the model takes {expected}; "
            "prepare the data at the model's size"
        )
    if images.fitting not in (None, model.config.fitting):
        raise InputError(
            f"{images.name}: images were fitted by {images.fitting}, the model is for {model.config.fitting}; prepare "
            f"the data with --fitting {model.config.fitting} (in Python fitting={model.config.fitting!r})"
        )
