"""Parameters that tests train from."""

from __future__ import annotations

import numpy as np

from protocol.model_config import ModelConfig
from protocol.tensors import Floats, parameter_layout
from training.model import initial_parameters


def alive(model: ModelConfig) -> Floats:
    """Return float32[P] none of which is zero, so that every gradient flows."""
    noise = np.random.default_rng(3).normal(0, 0.05, parameter_layout(model).size)
    return (initial_parameters(model, 1) + noise).astype(np.float32)
