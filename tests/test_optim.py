"""Muon."""

import copy

import pytest
import torch

from train.optim import Muon, orthogonalize


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 48), (3, 48, 16), (1, 1, 8), (1, 8, 1)])
def test_orthogonalize_moves_singular_values_to_one(shape):
    values = torch.linalg.svdvals(orthogonalize(random(*shape), steps=5))
    assert values.max() < 1.35
    assert values.median() > 0.6


def test_three_newton_schulz_steps_suffice():
    values = torch.linalg.svdvals(orthogonalize(random(4, 32, 96)))
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_orthogonalize_keeps_singular_vectors(shape):
    matrix = random(*shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ orthogonalize(matrix[None])[0] @ v.T
    off = rotated - rotated.diag().diag()
    assert off.abs().max() < 1e-4
    assert (rotated.diag() > 0).all()


def test_orthogonalize_ignores_scale():
    matrix = random(1, 16, 16)
    torch.testing.assert_close(orthogonalize(matrix * 1000), orthogonalize(matrix), atol=1e-3, rtol=0)


def test_zero_gradient_gives_zero():
    assert (orthogonalize(torch.zeros(2, 8, 8)) == 0).all()


def test_matrices_of_a_batch_are_independent():
    batch = random(3, 12, 20)
    apart = torch.cat([orthogonalize(matrix[None]) for matrix in batch])
    torch.testing.assert_close(orthogonalize(batch), apart)


@pytest.mark.parametrize(("shape", "scale"), [((16, 16), 1), ((16, 64), 1), ((64, 16), 2)])
def test_first_step(shape, scale):
    # The first Nesterov step has the direction of the gradient; that of a tall matrix is longer by sqrt(rows / columns).
    p = torch.nn.Parameter(random(*shape, seed=1))
    before, p.grad = p.detach().clone(), random(*shape, seed=2)
    expected = before * (1 - 0.1 * 0.5) - 0.1 * scale * orthogonalize(p.grad[None].clone())[0]
    Muon([p], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), expected, atol=1e-4, rtol=0)


def test_second_step_uses_nesterov_momentum():
    p = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([p], lr=1.0, momentum=0.9)
    first, second = random(8, 8, seed=1), random(8, 8, seed=2)
    p.grad = first.clone()
    optimizer.step()
    before, p.grad = p.detach().clone(), second.clone()
    optimizer.step()
    momentum = 0.9 * 0.1 * first + 0.1 * second
    update = 0.1 * second + 0.9 * momentum
    torch.testing.assert_close(p.detach(), before - orthogonalize(update[None])[0], atol=1e-4, rtol=0)


def test_parameter_without_gradient_is_unchanged():
    still, moved = torch.nn.Parameter(random(4, 4)), torch.nn.Parameter(random(4, 4))
    before, moved.grad = still.detach().clone(), random(4, 4, seed=1)
    Muon([still, moved], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, before)
    assert not torch.equal(moved, before)


def test_parameters_of_one_shape_are_independent():
    together = [torch.nn.Parameter(random(6, 10, seed=seed)) for seed in range(3)]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in together]
    group, single = Muon(together, lr=0.1), [Muon([p], lr=0.1) for p in alone]
    for step in range(3):
        for i, (p, q) in enumerate(zip(together, alone, strict=True)):
            p.grad, q.grad = (random(6, 10, seed=10 * step + i) for _ in range(2))
        group.step()
        for optimizer in single:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=0)


def test_minimises_a_quadratic():
    target, p = random(12, 12), torch.nn.Parameter(torch.zeros(12, 12))
    optimizer = Muon([p], lr=0.05)
    losses = []
    for _ in range(120):
        loss = (p - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 50


def test_state_dict_restores_momentum():
    def steps(optimizer, p, seeds):
        for seed in seeds:
            p.grad = random(6, 6, seed=seed)
            optimizer.step()

    p = torch.nn.Parameter(torch.zeros(6, 6))
    optimizer = Muon([p], lr=0.1)
    steps(optimizer, p, (1, 2))
    q = torch.nn.Parameter(p.detach().clone())
    resumed = Muon([q], lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, p, (3, 4))
    steps(resumed, q, (3, 4))
    assert torch.equal(p, q)
