"""Tensor files are canonical safetensors: one layout, one header, one length."""

import numpy as np
import pytest
import safetensors.numpy

from protocol.errors import Malformed
from protocol.model_config import ModelConfig
from protocol.tensors import moment_layout, pack, parameter_layout, unpack

SMALL = ModelConfig(vocab=16, width=16, layers=1, heads=2, feed_forward=16, context=8)


def vector(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


def test_any_safetensors_reader_opens_the_file() -> None:
    layout = parameter_layout(SMALL)
    values = vector(layout.size)
    opened = safetensors.numpy.load(pack(layout, values))
    assert set(opened) == {name for name, _ in layout.tensors}
    for name, shape in layout.tensors:
        assert opened[name].shape == shape
        assert np.array_equal(opened[name].ravel(), values[layout.slices[name]])


def test_a_file_gives_back_vector_and_steps() -> None:
    layout = moment_layout(SMALL)
    values = vector(layout.size)
    data = pack(layout, values, 45)
    found, steps = unpack(layout, data)
    assert np.array_equal(found, values)
    assert steps == 45
    assert len(data) == layout.file_bytes
    assert safetensors.numpy.load(data)["steps"] == [45]


@pytest.mark.parametrize("spoil", ["shorter", "longer", "header", "nan", "infinite", "steps", "empty"])
def test_a_spoilt_file_is_refused(spoil: str) -> None:
    layout = moment_layout(SMALL)
    data = bytearray(pack(layout, vector(layout.size), 1))
    match spoil:
        case "shorter":
            data = data[:-1]
        case "longer":
            data += b"\0"
        case "header":
            data[9] ^= 1
        case "nan":
            data[-12:-8] = np.float32("nan").tobytes()
        case "infinite":
            data[-12:-8] = np.float32("inf").tobytes()
        case "steps":
            data[-8:] = b"\xff" * 8
        case "empty":
            data = bytearray()
    with pytest.raises(Malformed):
        unpack(layout, bytes(data))


def test_what_is_not_of_the_layout_cannot_be_packed() -> None:
    layout = parameter_layout(SMALL)
    with pytest.raises(ValueError, match="expected"):
        pack(layout, vector(layout.size + 1))
    with pytest.raises(ValueError, match="expected"):
        pack(layout, vector(layout.size).astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step count"):
        pack(layout, vector(layout.size), 3)
