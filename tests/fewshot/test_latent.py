"""The latent space: shapes, the KL against torch's, modes, and what each adds to the loss."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pauca.errors import ConfigError
from pauca.fewshot.backbones import ResNet12, multiply_adds, parameter_count
from pauca.fewshot.latent import LatentConfig, LatentStem, Posterior, draws_at_test


def stem(**config) -> LatentStem:
    torch.manual_seed(0)
    return LatentStem(3, LatentConfig(**config))


def test_mcrnet_has_the_size_of_the_spec():
    # 12.87 M parameters, 896 M multiply-adds at 32 pixels and 6080 M at 84: the stem counts both heads
    released, decoder = stem(mode="released"), ResNet12(64, 32)
    assert round((parameter_count(released) + parameter_count(decoder)) / 1e6, 2) == 12.87

    class Whole(torch.nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.stem, self.decoder = stem(mode="released"), ResNet12(64, size)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.decoder(self.stem.posterior(images).sample())

    assert round(multiply_adds(Whole(32), (3, 32, 32)) / 1e6) == 896
    assert round(multiply_adds(Whole(84), (3, 84, 84)) / 1e6) == 6080


def test_deterministic_control_costs_the_same_but_for_the_log_sigma_head():
    kept = parameter_count(stem(mode="deterministic"))
    assert parameter_count(stem(mode="released")) - kept == 32 * 64 * 9 + 64


def test_one_convolution_gives_both_heads():
    latent = stem(mode="released")
    images = torch.randn(2, 3, 8, 8)
    posterior = latent.posterior(images)
    hidden = torch.relu(latent.encoder(images))
    torch.testing.assert_close(posterior.mu, latent.mu(hidden))
    torch.testing.assert_close(posterior.log_sigma, latent.log_sigma(hidden))
    torch.testing.assert_close(latent.mean(images), posterior.mu)


def test_kl_is_that_of_torch_distributions():
    posterior = Posterior(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3))
    expected = kl_divergence(Normal(posterior.mu, posterior.log_sigma.exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(posterior.kl_to_standard_normal(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_the_kl_is_that_of_autograd_in_the_layout_of_the_values(dtype):
    heads = torch.randn(2, 8, 6, 5).to(dtype, memory_format=torch.channels_last)
    ours, theirs = (heads.clone().requires_grad_() for _ in range(2))
    mu, log_sigma = theirs.float().chunk(2, dim=1)
    ((0.5 * (mu.square() + (2 * log_sigma).exp() - 2 * log_sigma - 1).mean()) * 0.3).backward()
    halves = ours.chunk(2, dim=1)
    kl = Posterior(*halves).kl_to_standard_normal()
    (kl * 0.3).backward(retain_graph=True)
    assert ours.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    # Of contiguous gradients a convolution that is channels last would make a copy first.
    for gradient in torch.autograd.grad(kl, halves):
        assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_the_kl_can_be_differentiated_twice():
    mu, log_sigma = (torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    kl = Posterior(mu, log_sigma).kl_to_standard_normal()
    gradients = torch.autograd.grad(kl, (mu, log_sigma), create_graph=True)
    curvature = torch.autograd.grad(sum(gradient.sum() for gradient in gradients), (mu, log_sigma))
    torch.testing.assert_close(curvature[0], torch.full_like(mu, 1 / 18))
    torch.testing.assert_close(curvature[1], 2 * (2 * log_sigma).exp() / 18)


def test_draws_at_test_have_the_mean_and_deviation_of_the_posterior():
    posterior = Posterior(torch.full((1, 1, 200, 200), 2.0), torch.full((1, 1, 200, 200), -1.0))
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert sample.mean() == pytest.approx(2.0, abs=0.01)
    assert sample.std() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)


def test_draws_at_test_repeat_with_their_generator_and_are_differentiable():
    mu = torch.zeros(1, 2, 4, 4, requires_grad=True)
    log_sigma = torch.zeros(1, 2, 4, 4, requires_grad=True)
    first = Posterior(mu, log_sigma).sample(torch.Generator().manual_seed(3))
    second = Posterior(mu, log_sigma).sample(torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    first.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones_like(mu))
    torch.testing.assert_close(log_sigma.grad, first.detach())  # d(sigma eps) / d log sigma = sigma eps


def test_variational_mode_starts_narrow_and_stays_in_bounds():
    latent = stem(mode="variational", log_sigma_start=-3.0, log_sigma_range=(-6.0, 1.0))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(latent.posterior(images).log_sigma, torch.full((2, 64, 8, 8), -3.0))
    torch.nn.init.constant_(latent.log_sigma.bias, 50.0)
    assert latent.posterior(images).log_sigma.max() == 1.0


def test_deterministic_code_is_mu_and_has_no_divergence():
    posterior = stem(mode="deterministic").posterior(torch.randn(1, 3, 8, 8))
    assert posterior.sample() is posterior.mu
    with pytest.raises(ConfigError, match="no Kullback-Leibler"):
        posterior.kl_to_standard_normal()


def test_decoder_exists_only_where_reconstruction_counts():
    with_decoder = stem(mode="variational", reconstruction_weight=0.1)
    assert with_decoder.reconstruct(torch.randn(2, 64, 8, 8)).shape == (2, 3, 8, 8)
    with pytest.raises(ConfigError, match="no image decoder"):
        stem(mode="variational").reconstruct(torch.randn(2, 64, 8, 8))


def test_warm_up_is_linear_then_full():
    latent, at_once = stem(mode="variational", warm_up_steps=100), stem(mode="variational", warm_up_steps=0)
    at_once.set_step(0)
    assert at_once.loss_share == 1
    for step, share in ((0, 0.0), (50, 0.5), (100, 1.0), (500, 1.0)):
        latent.set_step(step)
        assert latent.loss_share == share


@pytest.mark.parametrize(("setting", "samples"), [("mean", 0), ("sample", 1), ("mc:8", 8)])
def test_test_time_settings(setting, samples):
    assert draws_at_test(setting) == samples


@pytest.mark.parametrize("setting", ["", "mc", "mc:0", "mc:x", "median"])
def test_unknown_test_time_setting_is_answered_with_the_known_ones(setting):
    with pytest.raises(ConfigError, match="use mean, sample or mc:N"):
        LatentConfig(test_code=setting)


def test_contradicting_settings_are_refused():
    with pytest.raises(ConfigError, match="lies outside log_sigma_range"):
        LatentConfig(log_sigma_start=2.0)
    with pytest.raises(ConfigError, match="cannot be negative"):
        LatentConfig(kl_weight=-1.0)


def test_the_warm_up_is_a_sixtieth_of_the_training_if_not_given():
    latent = stem(mode="variational")
    for step, steps, share in ((500, 60_000, 0.5), (1000, 60_000, 1.0), (5, 600, 0.5), (10, 600, 1.0), (0, 20, 1.0)):
        latent.set_step(step, steps)
        assert float(latent.loss_share) == pytest.approx(share)
