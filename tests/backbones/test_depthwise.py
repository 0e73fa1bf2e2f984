import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from stn_lightning.backbones.depthwise import DepthwiseConv2d, speed_up_depthwise


def pair(same: bool, stride: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    """A depthwise convolution as it was, and the same one sped up."""
    torch.manual_seed(0)
    plain = (
        Conv2dSame(6, 6, kernel, stride, groups=6)
        if same
        else nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6)
    )
    fast = nn.Sequential(type(plain)(6, 6, kernel, stride, kernel // 2 * (not same), groups=6))
    fast[0].load_state_dict(plain.state_dict())
    speed_up_depthwise(fast)
    assert isinstance(fast[0], DepthwiseConv2d)
    return plain, fast


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("same", "stride", "kernel"), [(False, 1, 3), (False, 2, 5), (True, 2, 5)])
@pytest.mark.parametrize("size", [8, 9])
def test_a_depthwise_convolution_and_its_gradients_stay_as_they_are(
    mixed: bool, same: bool, stride: int, kernel: int, size: int
) -> None:
    results = []
    image = torch.rand(2, 6, size, size)
    for network in pair(same, stride, kernel):
        given = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = network(given)
        assert output.dtype == (torch.bfloat16 if mixed else torch.float32)
        output.float().square().sum().backward()
        results.append([output.float(), given.grad, *(p.grad for p in network.parameters())])
    rtol, atol = (0.03, 0.1) if mixed else (0.0, 0.0)
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=rtol, atol=atol)


def test_under_autocast_the_gradient_is_computed_in_float32() -> None:
    network, exact = pair(False, 1, 3)[::-1]
    image = torch.rand(4, 6, 32, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        network(image).sum().backward()
    exact(image.float()).sum().backward()
    gradients = [next(each.parameters()).grad for each in (network, exact)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-3)


def test_other_convolutions_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=4))
    speed_up_depthwise(network)
    assert [type(module) for module in network] == [nn.Conv2d, nn.Conv2d]


def test_each_example_has_a_gradient_of_its_own_under_autocast() -> None:
    layer = nn.Conv2d(4, 4, 3, groups=4, bias=False)
    speed_up_depthwise(layer)
    images = torch.rand(3, 4, 6, 6)

    def loss(weight: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            output = torch.func.functional_call(layer, {"weight": weight}, (image[None],))
        return output.float().square().sum()

    weight = layer.weight.detach()
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, images)
    for image, gradient in zip(images, each, strict=True):
        torch.testing.assert_close(gradient, torch.func.grad(loss)(weight, image))
