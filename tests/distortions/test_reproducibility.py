import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .samples import DISTORTIONS, digests, digits, distorted

every_distortion = pytest.mark.parametrize("name", DISTORTIONS)


@every_distortion
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_an_image_is_distorted_bit_for_bit_alike_in_any_batch_and_order(
    name: str, batch: int
) -> None:
    distortion, pool = DISTORTIONS[name](), digits()
    whole = distorted(distortion, pool, torch.arange(len(pool)))
    index = torch.randperm(len(pool))[: 150 * batch]
    parts = torch.cat([distorted(distortion, pool, part) for part in index.split(batch)])
    assert torch.equal(parts, whole[index])


def test_another_process_with_another_number_of_threads_distorts_bit_for_bit_alike() -> None:
    code = (
        "import json, torch; torch.set_num_threads(2); "
        "from tests.distortions.samples import digests; print(json.dumps(digests(33)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    here = digests(256)
    assert json.loads(there.stdout) == here
    assert len(set(here.values())) == len(DISTORTIONS)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no GPU that PyTorch knows"
)
@every_distortion
def test_a_gpu_distorts_as_a_processor_does(name: str) -> None:
    distortion, pool = DISTORTIONS[name](), digits()
    index = torch.arange(len(pool))
    here = distorted(distortion, pool, index)
    there = distorted(distortion.cuda(), pool.cuda(), index.cuda()).cpu()
    assert (
        (there - here).abs().mean() < 1e-6
    )  # sines and logarithms differ in the last bit; next to P's horizon that shows in a few pixels


@every_distortion
def test_another_seed_stream_epoch_or_index_gives_another_image(name: str) -> None:
    distortion = DISTORTIONS[name]()
    pool = digits()[:20]
    pool[10:] = pool[:10]  # the same digits again, at other indices
    base = distorted(distortion, pool, torch.arange(10))
    others = [
        distorted(distortion, pool, torch.arange(10), seed=1),
        distorted(distortion, pool, torch.arange(10), stream=1),
        distorted(distortion, pool, torch.arange(10), epoch=1),
        distorted(distortion, pool, torch.arange(10, 20)),
    ]
    for other in others:
        assert ((other - base).abs().amax((1, 2, 3)) > 0.1).all()


@every_distortion
def test_blank_paper_stays_blank(name: str) -> None:
    distortion = DISTORTIONS[name]()
    blank = torch.zeros_like(digits())
    assert not distorted(distortion, blank, torch.arange(len(blank))).any()


@every_distortion
def test_full_ink_stays_between_0_and_1(name: str) -> None:
    distortion = DISTORTIONS[name]()
    full = torch.full_like(digits(), 255)
    image = distorted(distortion, full, torch.arange(len(full)))
    assert image.min() == 0
    assert image.max() == 1


@every_distortion
def test_images_come_out_as_float32_of_the_canvas_size_and_the_pool_is_left_alone(
    name: str,
) -> None:
    distortion, pool = DISTORTIONS[name](), digits()
    before = pool.clone()
    image = distorted(distortion, pool, torch.arange(5))
    assert image.shape == (5, 1, distortion.size, distortion.size)
    assert image.dtype == torch.float32
    assert torch.equal(pool, before)
    assert distortion.size == {"R": 28, "RTS": 42, "P": 28, "E": 28, "TC": 60}[name]


@every_distortion
def test_channels_of_an_image_are_distorted_alike(name: str) -> None:
    distortion, pool = DISTORTIONS[name](), digits()
    colour = torch.cat([pool, pool // 2, torch.zeros_like(pool)], dim=1)
    image = distorted(distortion, colour, torch.arange(9))
    grey = distorted(distortion, pool, torch.arange(9))
    torch.testing.assert_close(image[:, :1], grey, rtol=0, atol=0)
    torch.testing.assert_close(
        image[:, 1:2], distorted(distortion, pool // 2, torch.arange(9)), rtol=0, atol=0
    )
    assert not image[:, 2].any()
