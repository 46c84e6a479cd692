import io
import json
import pickle
import struct
from dataclasses import replace

import pytest
import torch
from small_networks import small

from ganmodels.networks import FAMILIES, build_generator
from ganmodels.saving import from_bytes, load_generator, load_into, to_bytes
from ganmodels.spec import NetworkSpec

SPEC = NetworkSpec("dcgan", 16, 1, classes=2, z_dim=4, width=2)


@pytest.fixture
def tensors():
    return {
        "bf16": torch.randn(5).bfloat16(),
        "strided": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "step": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "odd": torch.tensor([float("nan"), -0.0, float("inf")]),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_tensors_come_back_bitwise(tensors):
    back = from_bytes(to_bytes(tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert bits(back[name]) == bits(tensor)


def test_the_same_tensors_give_the_same_bytes(tensors):
    turned = {name: tensors[name].clone() for name in reversed(tensors)}
    assert to_bytes(turned) == to_bytes(tensors)
    assert to_bytes(from_bytes(to_bytes(tensors))) == to_bytes(tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_is_rebuilt_from_its_spec_and_bytes(family):
    spec = small(family, classes=2)
    network = build_generator(spec)
    z, labels = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    network(z, labels)  # moves the running statistics, which are part of it
    back = load_generator(spec, to_bytes(network.state_dict()))
    assert back(z, labels).equal(network.eval()(z, labels))
    assert not back.training
    assert not any(weight.requires_grad for weight in back.parameters())


def test_a_mismatch_is_refused_by_name_and_by_shape():
    tensors = build_generator(SPEC).state_dict()
    with pytest.raises(ValueError, match=r"'input\.bias' is missing"):
        load_into(build_generator(SPEC), {name: t for name, t in tensors.items() if name != "input.bias"})
    with pytest.raises(ValueError, match="'added' is not in the network"):
        load_into(build_generator(SPEC), tensors | {"added": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'input\.weight' has shape \(128, 4\), the network \(128, 5\)"):
        load_generator(replace(SPEC, z_dim=5), to_bytes(tensors))


def test_a_refused_load_changes_nothing():
    network = build_generator(SPEC)
    before = to_bytes(network.state_dict())
    with pytest.raises(ValueError, match="shape"):
        load_into(network, network.state_dict() | {"output.bias": torch.zeros(2)})
    assert to_bytes(network.state_dict()) == before


def raw(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


WHOLE = to_bytes({"a": torch.zeros(100)})
GARBAGE = {
    "empty": b"",
    "text": b"<html>no such key</html>",
    "cut": WHOLE[:-1],
    "longer": WHOLE + b"\0",
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "list": raw([1, 2]),
    "type unknown to torch": raw({"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, b"x"),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"not a safetensors file|a tensor of type"):
        from_bytes(data)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_refused_and_never_run(tmp_path):
    mark = tmp_path / "was-run"
    zipped = io.BytesIO()
    torch.save(Trap(mark), zipped)
    trap = pickle.dumps(Trap(mark))
    for data in (trap, zipped.getvalue()):
        with pytest.raises(ValueError, match="not a safetensors file"):
            load_generator(SPEC, data)
    assert not mark.exists()
    pickle.loads(trap).close()  # the trap itself does work
    assert mark.exists()
