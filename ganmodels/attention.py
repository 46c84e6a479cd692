"""Self-attention over the pixels of a feature map (Zhang et al. 2019), with BigGAN's narrow keys and values.

One departure: keys and values are means of 2x2 pixels, not maxima, whose kinks a gradient penalty by finite
differences would count.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ganmodels.convolution import Conv2d
from ganmodels.spec import NetworkSpec, pyramid


class SelfAttention(nn.Module):
    """`(n, width, r, r)` to the same: what each pixel finds among 2x2 blocks of them, added to the map.

    The addition's gain starts at zero. Written out, because fused attention cannot be differentiated twice.
    """

    def __init__(self, width: int):
        super().__init__()
        narrow, values = max(width // 8, 1), max(width // 2, 1)
        self.query, self.key = Conv2d(width, narrow, 1, bias=False), Conv2d(width, narrow, 1, bias=False)
        self.value, self.output = Conv2d(width, values, 1, bias=False), Conv2d(values, width, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.query(x).flatten(2)
        key = F.avg_pool2d(self.key(x), 2).flatten(2)
        value = F.avg_pool2d(self.value(x), 2).flatten(2)
        weights = (query.mT @ key).softmax(2)  # (n, pixels, blocks)
        found = (value @ weights.mT).unflatten(2, x.shape[2:])
        return x + (self.gain * self.output(found)).to(x.dtype)


def attention_at(spec: NetworkSpec, side: int, width: int) -> nn.Module:
    """What follows the block that makes a map of this side: attention, or nothing.

    Raises ValueError where `spec.attention` is the side of no map that both networks have.
    """
    sides = [each for each, _ in pyramid(spec)[1:-1]]
    if spec.attention and spec.attention not in sides:
        raise ValueError(f"attention {spec.attention} is not the side of an inner feature map, one of {sides}")
    return SelfAttention(width) if side == spec.attention else nn.Identity()
