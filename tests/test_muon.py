"""Muon: the same steps as PyTorch's, matrices that become orthogonal, and every parameter in exactly one optimiser."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from s4gen.config import DensityConfig, OptimConfig, load_preset, load_recipe
from s4gen.files.shipped import shipped_names
from s4gen.models.build import build_shapes
from s4gen.train.muon import Muon, orthogonal
from s4gen.train.optim import build_optimizers

SHAPES = [(16, 16), (8, 40), (40, 8), (8, 40), (1, 12), (64, 96)]


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.03), (torch.bfloat16, 0.06)])
def test_steps_are_those_of_pytorch(dtype: torch.dtype, share: float) -> None:
    """On matrices of several shapes, two of which are made orthogonal together, over six steps.

    PyTorch iterates in bfloat16, so an update, about 0.2 in each place at rate 1, agrees to 3 % of its size; where both
    are rounded, to twice that.
    """
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = (
        Muon(ours, lr=0.1, weight_decay=0.05, dtype=dtype),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(6):
        before = [p.detach().clone() for p in ours]
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for a, b, start in zip(ours, theirs, before, strict=True):
            assert (a - b).norm() < share * (a - start).norm()
            b.data.copy_(a.data)  # so that each step is compared by itself


def test_a_parameter_without_a_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    assert (parameter == 1).all()


@pytest.mark.parametrize("shape", [(5, 8, 8), (3, 10, 60), (3, 60, 10), (2, 128, 256), (4, 1, 7)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    """Also of matrices far too large or too small, and of those whose singular values lie far apart."""
    generator = torch.Generator().manual_seed(1)
    for size in (1e-4, 1.0, 1e4):
        found = torch.linalg.svdvals(orthogonal(size * torch.randn(shape, generator=generator)))
        assert found.min() > 0.6 and found.max() < 1.3
    steep = torch.randn(shape, generator=generator) * torch.logspace(0, -1, shape[2])
    found = torch.linalg.svdvals(orthogonal(steep))
    assert found.max() < 1.3


def test_the_vectors_of_a_matrix_stay_while_its_values_become_one() -> None:
    """orthogonal(U S V^T) is U f(S) V^T: in the basis of U and V it is diagonal."""
    matrix = torch.randn(1, 12, 20, generator=torch.Generator().manual_seed(2)).double()
    U, _, Vh = torch.linalg.svd(matrix[0], full_matrices=False)
    found = U.T @ orthogonal(matrix, torch.float64)[0] @ Vh.T
    assert (found - torch.diag(found.diag())).abs().max() < 1e-12
    assert (found.diag() > 0.6).all()


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1, weight_decay=0.0)


@pytest.mark.parametrize("name", shipped_names("models"))
def test_every_parameter_is_in_exactly_one_optimizer(name: str) -> None:
    model, ssm, layout = load_preset(name)
    assert layout is not None
    shapes = build_shapes(DensityConfig(layout, model, ssm))
    names = {id(parameter): key for key, parameter in shapes.named_parameters()}
    for muon_lr in (0.0, 0.01):
        optimizers = build_optimizers(shapes, dataclasses.replace(OptimConfig(), muon_lr=muon_lr))
        assert len(optimizers) == (2 if muon_lr else 1)
        found = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(found) == sorted(names)
        if muon_lr:
            chosen = {names[id(p)] for group in optimizers[0].param_groups for p in group["params"]}
            assert all(key.startswith("blocks.") and key.endswith(("weight", "bias")) for key in chosen)


def test_the_recipes_of_whole_pixels_use_it() -> None:
    assert load_recipe("cifar10-small").optim.muon_lr > 0
