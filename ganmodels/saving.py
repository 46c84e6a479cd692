"""Networks as safetensors plus a JSON spec. Nothing is ever unpickled."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from ganmodels.networks import build_encoder, build_generator
from ganmodels.spec import NetworkSpec


def to_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    """The same tensors give the same bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def from_bytes(data: bytes) -> dict[str, torch.Tensor]:
    """Raises ValueError if the bytes are not safetensors."""
    try:
        return load(data)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    except KeyError as error:  # safetensors' own table lacks the types that torch does not have
        raise ValueError(f"a tensor of type {error}, which torch does not have") from None


def load_into(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copies tensors into a module; raises ValueError naming the first mismatch by name or shape."""
    own = module.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"tensor {name!r} is {'missing' if name in own else 'not in the network'}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"tensor {name!r} has shape {tuple(tensors[name].shape)}, the network {tuple(tensor.shape)}"
            )
    module.load_state_dict(tensors)


def load_generator(spec: NetworkSpec, data: bytes) -> nn.Module:
    """A generator in evaluation mode; raises ValueError where spec and tensors disagree."""
    return _loaded(build_generator(spec), data)


def load_encoder(spec: NetworkSpec, data: bytes) -> nn.Module:
    """The encoder of a spec with `bigan`, likewise."""
    return _loaded(build_encoder(spec), data)


def _loaded(network: nn.Module, data: bytes) -> nn.Module:
    load_into(network, from_bytes(data))
    return network.eval().requires_grad_(False)
