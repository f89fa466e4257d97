"""Model files: they rebuild themselves, and anything else is one clear error."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.models import checkpoint

PARAMS = {"layer": {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4), "bias": jnp.ones(4)}, "head": {"w": jnp.zeros(2)}}


def test_an_exported_model_comes_back_to_half_precision(tmp_path):
    path = checkpoint.export(tmp_path / "m.npz", {"kind": "generator", "settings": {"a": 1}}, PARAMS)
    assert checkpoint.read_config(path)["settings"] == {"a": 1}
    back = checkpoint.read_params(path)
    # bfloat16 keeps 8 bits of the mantissa
    np.testing.assert_allclose(back["layer"]["kernel"], PARAMS["layer"]["kernel"], rtol=2**-8)
    assert back["head"]["w"].dtype == jnp.float32


def test_a_model_of_another_version_is_refused_by_name(tmp_path):
    path = checkpoint.export(tmp_path / "m.npz", {"kind": "generator"}, PARAMS)
    with np.load(path) as file:
        content = dict(file)
    text = json.dumps(json.loads(bytes(content["config"]).decode()) | {"format": 99})
    np.savez(path, **content | {"config": np.frombuffer(text.encode(), np.uint8)})
    with pytest.raises(ValueError, match=r"m\.npz: model format 99, this version reads format 1"):
        checkpoint.read_config(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"not a model at all"])
def test_anything_else_is_named(tmp_path, content):
    path = tmp_path / "m.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.npz: not a crysjax model"):
        checkpoint.read_config(path)
