from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compress.attention import prefer_products
from compress.networks import swin
from tests.compress import tiny
from tests.compress.operators import Operators


def swin_body() -> nn.Module:
    torch.manual_seed(0)
    shape = {
        "image_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 24,
        "depths": [2, 2],
        "num_heads": [2, 4],
    }
    return swin.build({**shape, "num_labels": 3}).eval()


def pixels(side_px: int) -> Tensor:
    return torch.randn(4, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))


BODIES: list[tuple[Callable[[], nn.Module], int]] = [(tiny.body, tiny.SIDE_PX), (swin_body, 32)]


def logits_of(body: nn.Module, inputs: Tensor, lower: bool) -> tuple[Tensor, list[str]]:
    with Operators() as ran, torch.autocast("cpu", torch.bfloat16, enabled=lower):
        logits = body(pixel_values=inputs).logits
    return logits, ran.names


def fused(names: list[str]) -> bool:
    return any("scaled_dot_product" in name for name in names)


# A mask that is trained, as Swin's is, keeps torch from its fused kernel.
@torch.no_grad()
@pytest.mark.parametrize(("build", "side_px"), BODIES)
def test_products_in_bfloat16_err_no_more_than_the_fused_kernel(build, side_px):
    body, inputs = build(), pixels(side_px)
    exact, _ = logits_of(body, inputs, lower=False)
    by_kernel, kernel_ran = logits_of(body, inputs, lower=True)

    prefer_products(body)
    by_products, products_ran = logits_of(body, inputs, lower=True)

    assert fused(kernel_ran)
    assert not fused(products_ran)
    error = (by_kernel - exact).norm()
    assert error > 0
    # Both round at other places; the weights of all other layers are rounded in both.
    assert (by_products - exact).norm() < 2 * error


@torch.no_grad()
@pytest.mark.parametrize(("build", "side_px"), BODIES)
def test_float32_is_computed_by_the_fused_kernel_as_before(build, side_px):
    body, inputs = build(), pixels(side_px)
    before, _ = logits_of(body, inputs, lower=False)

    prefer_products(body)
    after, ran = logits_of(body, inputs, lower=False)

    assert torch.equal(after, before)
    assert fused(ran)


@pytest.mark.parametrize(("build", "side_px"), BODIES)
def test_gradients_through_products_are_those_of_torch_s_attention(build, side_px):
    body, inputs = build(), pixels(side_px)
    gradients = []
    for _ in range(2):
        body.zero_grad()
        logits_of(body, inputs, lower=True)[0].square().sum().backward()
        gradients.append(
            torch.cat([weight.grad.flatten() for weight in body.parameters()]).double()
        )
        prefer_products(body)

    # bfloat16 has eight bits; a wrong scale or a lost mask moves gradients far more.
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_an_attention_that_was_chosen_stays():
    body = tiny.body()
    body.set_attn_implementation("eager")

    prefer_products(body)

    assert body.config._attn_implementation == "eager"
