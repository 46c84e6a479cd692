import torch
from small_networks import small
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import scaled_dot_product_attention

from ganmodels.attention import SelfAttention
from ganmodels.networks import build_discriminator, build_generator


def attention() -> SelfAttention:
    module = SelfAttention(8).double()
    module.gain.data.fill_(0.7)
    return module


def test_agrees_with_torchs_attention():
    module, x = attention(), torch.randn(2, 8, 4, 6, dtype=torch.float64)
    means = torch.nn.functional.avg_pool2d(x, 2)
    query, key, value = module.query(x), module.key(means), module.value(means)  # 1x1 and mean commute
    rows = (part.flatten(2).mT for part in (query, key, value))
    found = scaled_dot_product_attention(*rows, scale=1.0).mT.unflatten(2, (4, 6))
    torch.testing.assert_close(module(x), x + 0.7 * module.output(found), rtol=1e-12, atol=1e-12)


def test_derivatives():
    x = torch.randn(1, 8, 2, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(attention(), x)
    assert gradgradcheck(attention(), x)


def test_it_starts_as_nothing_and_both_networks_have_it_at_its_side():
    spec = small("resnet", 32, attention=16, width=8)
    pairs = [(build_generator(spec), torch.randn(2, 4)), (build_discriminator(spec), torch.randn(2, 1, 32, 32))]
    for network, given in pairs:
        sides = []
        for module in network.modules():
            if isinstance(module, SelfAttention):
                assert module.gain == 0
                module.register_forward_hook(lambda module, given, made, sides=sides: sides.append(made.shape[2]))
        network(given)
        assert sides == [16]
