"""A small convolutional network that tells a dataset's classes apart."""

import torch
from torch import nn

WIDTH = 32  # feature maps at first; the last layer has four times as many, and they are the features


class Classifier(nn.Module):
    """Float32 images `(n, 3, pixels, pixels)`, -1 to 1 -> logits `(n, classes)`."""

    def __init__(self, classes: int):
        super().__init__()
        self.body = nn.Sequential(
            *_layer(3, WIDTH, stride=2, size=5),
            *_layer(WIDTH, 2 * WIDTH, stride=2),
            *_layer(2 * WIDTH, 2 * WIDTH),
            *_layer(2 * WIDTH, 4 * WIDTH),
        )
        self.head = nn.Linear(4 * WIDTH, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`(n, 4 * WIDTH)`: the last layer's maps, averaged."""
        return self.body(images).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def _layer(channels: int, out: int, stride: int = 1, size: int = 3) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, out, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()
