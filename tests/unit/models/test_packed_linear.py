"""Guards packing: whatever form a weight takes, the product is that of the plain layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models import packed_linear
from pipeline.models.packed_linear import fuse, pack

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def layers(sizes, num_inputs, bias, dtype):
    torch.manual_seed(0)
    return [nn.Linear(num_inputs, size, bias=bias, dtype=dtype) for size in sizes]


def assert_same(fused, linears, num_inputs, dtype, num_outputs=None, rows=(1, 2, 4, 11, 44)):
    for num_rows in rows:
        x = torch.randn(num_rows, num_inputs, dtype=dtype)
        with torch.inference_mode():
            expected = torch.cat([F.linear(x, m.weight, m.bias) for m in linears], -1)
            actual = fused(x)
        assert actual.dtype is dtype
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(
            actual, expected[:, :num_outputs], atol=tolerance, rtol=tolerance
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_inputs", [64, 520], ids=["small", "packed"])
def test_fused_layers_give_what_the_layers_give(dtype, bias, num_inputs):
    linears = layers([384, 96, 96], num_inputs, bias, dtype)
    assert_same(fuse(linears), linears, num_inputs, dtype)


def test_a_layer_without_a_bias_beside_one_with():
    linears = layers([8, 8], 16, True, torch.float32)
    linears[1].bias = None
    assert_same(fuse(linears), linears, 16, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_outputs_alone(dtype):
    linears = layers([1000], 160, True, dtype)
    assert_same(fuse(linears, 991), linears, 160, dtype, num_outputs=991)


def test_without_the_packed_layout_the_product_is_plain(monkeypatch):
    monkeypatch.setattr(packed_linear, "_can_pack", lambda dtype: False)
    linears = layers([600], 512, True, torch.float32)
    assert_same(fuse(linears), linears, 512, torch.float32)


def test_a_dtype_that_can_not_be_packed():
    weight = torch.randn(600, 512, dtype=torch.float64)
    x = torch.randn(3, 512, dtype=torch.float64)
    assert torch.allclose(pack(weight, None)(x), x @ weight.T)


class Doubling(nn.Linear):
    """A layer that is more than its weight, as tensor-parallel ones are."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_modules_that_are_more_than_their_weight_are_called():
    linears = layers([8, 4], 16, True, torch.float32)
    linears[1] = Doubling(16, 4)
    x = torch.randn(3, 16)
    expected = torch.cat([linears[0](x), linears[1](x)], -1)
    assert torch.equal(fuse(linears)(x), expected)
    assert torch.equal(fuse(linears, 9)(x), expected[:, :9])


def test_modules_with_hooks_are_called():
    (linear,) = layers([8], 16, True, torch.float32)
    fused_before = fuse([linear])
    linear.register_forward_hook(lambda _m, _i, output: output + 1)
    x = torch.randn(3, 16)
    assert torch.equal(fuse([linear])(x), linear(x))
    torch.testing.assert_close(fused_before(x) + 1, linear(x))


def test_packing_leaves_the_layers_as_they_are():
    linears = layers([8, 4], 16, True, torch.float32)
    before = [(m.weight.data_ptr(), m.weight.clone(), set(m.__dict__)) for m in linears]
    fuse(linears)
    for linear, (address, weight, attributes) in zip(linears, before):
        assert linear.weight.data_ptr() == address
        assert torch.equal(linear.weight, weight)
        assert set(linear.__dict__) == attributes


def test_off_the_cpu_fusing_holds_no_weight_twice():
    """The function that does it, on CPU tensors: weights become views, and keep their values."""
    linears = layers([8, 4], 16, True, torch.float32)
    before = [linear.weight.clone() for linear in linears]
    fused = packed_linear._share(linears)
    assert torch.equal(fused, torch.cat(before))
    for linear, weight in zip(linears, before):
        assert torch.equal(linear.weight, weight)
        assert linear.weight.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()
