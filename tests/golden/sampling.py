"""Make the golden vectors of sampling noise: `python tests/golden/sampling.py` writes sampling.json beside itself.

Run it only when the noise is meant to change: machines that differ here sample, and judge, other tokens.
"""

import json
from pathlib import Path

import numpy as np

from protocol.canonical import digest
from protocol.rollouts import quantise
from training.sampling import choose, gumbel, noise_key, noise_words

PATH = Path(__file__).with_suffix(".json")


def vectors() -> dict[str, object]:
    """Return noise in hexadecimal floats where few values are enough, else by the digest of its bits."""
    key = noise_key("01" * 32, "23" * 32, 2**63 + 5, 3)
    words = np.stack([noise_words(key, position, 1000) for position in range(200)])
    logits = ((words >> np.uint32(8)) % np.uint32(1000)).astype(np.float32) / np.float32(256)
    tokens, scores = choose(logits[::-1], words, 0.75)
    return {
        "key": key.hex(),
        "words": [int(word) for word in words[0, :4]],
        "noise": [float(value).hex() for value in gumbel(words[0, :4])],
        "all noise": digest(gumbel(words.reshape(-1)).tobytes()),
        "tokens": tokens[:8].tolist(),
        "scores": digest(scores.tobytes()),
        "codes": quantise(-np.arange(0.0, 36.0, 0.25)).tolist(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
