"""Compiled, exported and vectorised, a warp is what it is when it is run plainly.

A grid is all that a family and a sampler have to do with each other, so every sampler meets every
padding, and every family is there twice or more. A few cases in the fast tests, all in the slow
ones.
"""

import importlib.util
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from stn_lightning.geometry import sampling
from stn_lightning.geometry.sampling import Padding
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Antialiased,
    Attention,
    Bicubic,
    Bilinear,
    BoundedFamily,
    ComposedTransformer,
    ConvolutionalLocalisation,
    Diffeomorphic,
    Family,
    LearntTargetGrid,
    Nearest,
    ParallelTransformer,
    Projective,
    Sampler,
    Similarity,
    SpatialTransformer,
    ThinPlateSpline,
    Tiling,
    Translation,
    Trilinear,
    WideGradient,
)
from tests.transformers.doubles import awaken

Case = tuple[Callable[[], Family], type[Sampler], Padding]


def bounded() -> Family:
    return BoundedFamily(Attention(), low=[0.2, -0.8, -0.8], high=[1.2, 0.8, 0.8])


PLAIN = [
    Translation,
    Attention,
    Similarity,
    Affine,
    Projective,
    ThinPlateSpline,
    Diffeomorphic,
    LearntTargetGrid,
]
FAMILIES: list[Callable[[], Family]] = [*PLAIN, bounded]
SAMPLERS: list[type[Sampler]] = [Bilinear, Nearest, Bicubic, Antialiased, WideGradient]
PADDINGS: list[Padding] = ["zeros", "border", "reflection", [0.3, 0.6, 0.9]]

PAIRS: list[Case] = [
    (FAMILIES[(4 * i + j) % len(FAMILIES)], sampler, padding)
    for (i, sampler), (j, padding) in product(enumerate(SAMPLERS), enumerate(PADDINGS))
]
PAIRS += [(ThinPlateSpline, WideGradient, "zeros")]  # did not compile once
PAIRS += [(Affine3D, Trilinear, padding) for padding in PADDINGS]
FEW: list[Case] = [
    (Affine, Bilinear, "zeros"),
    (ThinPlateSpline, Bicubic, "reflection"),
    (Projective, WideGradient, [0.3, 0.6, 0.9]),
    (Affine3D, Trilinear, "border"),
    (LearntTargetGrid, Nearest, "zeros"),
]

onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX is not installed: pip install stn-lightning[export]",
)


def cases(some: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("family", "sampler", "padding"),
        some,
        ids=lambda value: getattr(value, "__name__", str(value)),
    )


class Warp(nn.Module):
    """The two parts of a transformer that are geometry; nothing in it has ever run."""

    def __init__(
        self, family: Callable[[], Family], sampler: type[Sampler], padding: Padding
    ) -> None:
        super().__init__()
        self.family = family()
        self.sampler = (
            WideGradient(Bilinear(padding)) if sampler is WideGradient else sampler(padding)
        )
        self.out: tuple[int, ...] = (3, 8, 9) if family is Affine3D else (8, 9)

    def forward(self, image: Tensor, theta: Tensor) -> Tensor:
        read: Tensor = self.sampler(image, self.family(theta, self.out))
        return read

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(
            batch, 3, *((4, 20, 17) if len(self.out) == 3 else (20, 17)), generator=generator
        )
        identity = torch.tensor([self.family.identity] * batch)
        return image, identity + 0.1 * torch.randn(identity.shape, generator=generator)


def values_and_gradient(warp: Any, image: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    leaf = theta.clone().requires_grad_()
    read = warp(image, leaf)
    if read.requires_grad:  # not of Nearest
        read.square().sum().backward()
    return read.detach(), leaf.new_zeros(leaf.shape) if leaf.grad is None else leaf.grad


# torch.compile


@pytest.fixture
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks of shapes, which are no part of the program and cannot be compiled."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.compiler.reset()


def compiled_agrees(
    family: Callable[[], Family],
    sampler: type[Sampler],
    padding: Padding,
    backend: str,
    small: bool = False,
) -> None:
    warp = Warp(family, sampler, padding)
    image, theta = warp.inputs(3)
    if small:
        image, warp.out = image[..., :9, :7], (*warp.out[:-2], 4, 4)
    fused = torch.compile(warp, fullgraph=True, backend=backend)
    actual = values_and_gradient(fused, image, theta)
    for one, other in zip(actual, values_and_gradient(warp, image, theta), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@cases(FEW)
@pytest.mark.usefixtures("_unchecked")
def test_a_warp_that_never_ran_compiles_into_one_graph_with_the_same_gradient(
    family: Callable[[], Family], sampler: type[Sampler], padding: Padding
) -> None:
    compiled_agrees(family, sampler, padding, "aot_eager")


@pytest.mark.slow
@cases(PAIRS)
@pytest.mark.usefixtures("_unchecked")
def test_every_family_sampler_and_padding_compiles_into_one_graph(
    family: Callable[[], Family], sampler: type[Sampler], padding: Padding
) -> None:
    compiled_agrees(family, sampler, padding, "aot_eager")


@pytest.mark.slow
@cases(
    [(f, s, p) for f, s, p in FEW if s is not Nearest]
    + [(Diffeomorphic, Bilinear, "border"), (Similarity, Antialiased, "zeros")]
)
@pytest.mark.usefixtures("_unchecked")
def test_compiled_into_machine_code_it_computes_the_same(
    family: Callable[[], Family], sampler: type[Sampler], padding: Padding
) -> None:
    # where `Antialiased` has four levels, not six: each is long code to a C++ compiler
    compiled_agrees(family, sampler, padding, "inductor", small=True)


@pytest.mark.usefixtures("_unchecked")
def test_a_compiled_spline_keeps_nothing_of_what_a_graph_computed() -> None:
    """The memory of a graph's results belongs to the graph: with CUDA graphs, the next run
    overwrites it.
    """
    warp = Warp(ThinPlateSpline, Bilinear, "zeros")
    torch.compile(warp, fullgraph=True, backend="eager")(*warp.inputs(3))
    assert isinstance(warp.family, ThinPlateSpline)
    assert warp.family._cached is None


# torch.export and ONNX


def batch_free(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """A shape for each input whose first number may change."""
    free = torch.export.Dim("batch", min=1)
    return tuple({0: free} for _ in inputs)


@cases([FEW[1], (Diffeomorphic, Bilinear, "border")])
def test_an_exported_warp_takes_a_batch_of_any_size(
    family: Callable[[], Family], sampler: type[Sampler], padding: Padding
) -> None:
    warp = Warp(family, sampler, padding)
    inputs = warp.inputs(3)
    exported = torch.export.export(warp, inputs, dynamic_shapes=batch_free(warp, inputs)).module()
    for batch in (1, 5):
        other = warp.inputs(batch, seed=1)
        torch.testing.assert_close(exported(*other), warp(*other), rtol=0, atol=1e-6)


def through_onnx(
    module: nn.Module, inputs: tuple[Tensor, ...], others: tuple[Tensor, ...]
) -> Tensor:
    """What ONNX Runtime makes of `others`, of a module exported at `inputs`."""
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns of PyTorch's own ways
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            opset_version=20,
            dynamic_shapes=batch_free(module, inputs),
            verbose=False,
        )
    assert program is not None
    assert {opset.domain: opset.version for opset in program.model_proto.opset_import}[""] == 20
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return torch.from_numpy(
        session.run(None, dict(zip(names, (o.numpy() for o in others), strict=True)))[0]
    )


def onnx_agrees(family: Callable[[], Family], sampler: type[Sampler], padding: Padding) -> None:
    warp = Warp(family, sampler, padding)
    others = warp.inputs(5, seed=1)
    torch.testing.assert_close(
        through_onnx(warp, warp.inputs(3), others), warp(*others).detach(), rtol=0, atol=1e-5
    )


@onnx
@cases(FEW[1:3])
def test_onnx_computes_the_same_for_a_batch_of_another_size(
    family: Callable[[], Family], sampler: type[Sampler], padding: Padding
) -> None:
    onnx_agrees(family, sampler, padding)


@onnx
@pytest.mark.slow
@cases(PAIRS)
def test_onnx_computes_every_family_sampler_and_padding(
    family: Callable[[], Family], sampler: type[Sampler], padding: Padding
) -> None:
    onnx_agrees(family, sampler, padding)


def spatial(localisation: nn.Module) -> nn.Module:
    return SpatialTransformer(localisation, ThinPlateSpline(), (14, 14))


def parallel(localisation: nn.Module) -> nn.Module:
    return ParallelTransformer(localisation, Attention(), 2, (10, 10), Bilinear("border"), Tiling())


def composed(localisation: nn.Module) -> nn.Module:
    return ComposedTransformer(localisation, Projective(), 2)


def awake(transformer: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = transformer(ConvolutionalLocalisation(4, 3, 6))
    awaken(
        network, torch.rand(1, 1, 28, 28)
    )  # lazy layers must have seen an image before anything is exported
    return network


@onnx
@pytest.mark.parametrize(
    "transformer",
    [spatial, *(pytest.param(t, marks=pytest.mark.slow) for t in (parallel, composed))],
)
def test_onnx_computes_a_whole_transformer(transformer: Callable[[nn.Module], nn.Module]) -> None:
    network, image = awake(transformer), torch.rand(5, 1, 28, 28)
    actual = through_onnx(network, (torch.rand(3, 1, 28, 28),), (image,))
    torch.testing.assert_close(actual, network(image).detach(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("transformer", [spatial, parallel, composed])
@pytest.mark.usefixtures("_unchecked")
def test_a_whole_transformer_compiles_into_one_graph(
    transformer: Callable[[nn.Module], nn.Module],
) -> None:
    network, image = awake(transformer), torch.rand(5, 1, 28, 28)
    fused = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fused(image), network(image), rtol=0, atol=1e-5)


# torch.func


@cases(
    [
        (f, s, p)
        for f, s, p in PAIRS
        if s in (Bilinear, Antialiased, Trilinear) and p in ("zeros", "border")
    ]
)
def test_vmap_and_jacrev_see_what_a_loop_sees(
    family: Callable[[], Family], sampler: type[Sampler], padding: Padding
) -> None:
    warp = Warp(family, sampler, padding)
    image, theta = warp.inputs(3)

    def energy(theta: Tensor, image: Tensor) -> Tensor:
        return warp(image[None], theta[None]).square().sum()

    slopes: Any = torch.func.vmap(torch.func.jacrev(energy))(theta, image)
    torch.testing.assert_close(
        slopes, values_and_gradient(warp, image, theta)[1], rtol=1e-4, atol=1e-4
    )


def test_vmap_takes_images_in_channels_last() -> None:
    image, grid = torch.rand(3, 20, 17, 2).movedim(-1, 1), 2 * torch.rand(3, 8, 9, 2) - 1
    read = torch.func.vmap(lambda i, g: sampling.bilinear(i[None], g[None])[0])(image, grid)
    torch.testing.assert_close(read, sampling.bilinear(image, grid), rtol=0, atol=0)
