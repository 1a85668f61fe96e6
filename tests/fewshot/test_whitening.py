"""Whitening by what varies within classes."""

import torch

from pauca.fewshot.whitening import whitening_matrix


def draw(images: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two kinds of views whose classes vary ten times as much along the first direction."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % 8
    spread = torch.tensor([10.0, 1.0, 1.0, 1.0])
    means = 50 * torch.randn(2, 8, 4, generator=generator)
    return means[:, labels] + spread * torch.randn(2, images, 4, generator=generator), labels


def test_directions_in_which_a_class_varies_count_less_and_class_means_nothing():
    features, labels = draw()
    matrix = whitening_matrix(features, labels)
    mean_variance = (100 + 3) / 4
    expected = torch.tensor([100.0, 1, 1, 1]).div(mean_variance).add(0.3).rsqrt()
    torch.testing.assert_close(matrix.diagonal(), expected, rtol=0.1, atol=0)
    assert (matrix - torch.diag(matrix.diagonal())).abs().max() < 0.1
    torch.testing.assert_close(matrix, matrix.T)


def test_labels_need_not_be_all_numbers_from_zero():
    features, labels = draw()
    torch.testing.assert_close(whitening_matrix(features, 3 * labels + 5), whitening_matrix(features, labels))


def test_one_image_of_each_class_says_nothing():
    features, labels = draw(8)
    assert torch.equal(whitening_matrix(features, labels), torch.eye(4))


def test_more_directions_than_images_are_shrunk_and_stay_finite():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(1, 6, 32, generator=generator), torch.tensor([0, 0, 1, 1, 2, 2])
    matrix = whitening_matrix(features, labels)
    assert matrix.isfinite().all()
    assert torch.linalg.eigvalsh(matrix).max() <= 0.3**-0.5 + 1e-4
