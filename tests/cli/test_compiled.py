"""The cache of compiled programs: hit by the second process, harmless when damaged, absent without a home."""

import os
import subprocess
import sys

import pytest

from crysjax.cli.compiled import keep_compiled

CODE = """
import logging
from crysjax.cli.compiled import keep_compiled
keep_compiled()
import jax, jax.numpy as jnp
logging.getLogger("jax._src.compiler").setLevel(logging.DEBUG)
logging.getLogger("jax._src.compiler").addHandler(logging.StreamHandler())
print(float(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((3, 3)))))
"""


def run(home) -> tuple[str, str]:
    """What a process with this cache prints, and what JAX logs."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environ = inherited | {"XDG_CACHE_HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_second_process_compiles_nothing_and_says_the_same(tmp_path):
    hit = "Persistent compilation cache hit for 'jit__lambda"
    (first, missed), (second, found) = run(tmp_path), run(tmp_path)
    assert first == second and hit in found and hit not in missed


def test_a_damaged_entry_is_compiled_anew(tmp_path):
    first, _ = run(tmp_path)
    entries = [path for path in (tmp_path / "crysjax" / "compiled").iterdir() if path.name.endswith("-cache")]
    assert entries
    for path in entries:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert run(tmp_path)[0] == first


FLIPS = """
import pathlib, random, sys
from crysjax.cli.compiled import keep_compiled
keep_compiled()
import jax, jax.numpy as jnp
from jax._src import compilation_cache
assert compilation_cache.zstandard is None
jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((3, 3)))
drawn, noticed = random.Random(0), 0
files = [p for p in pathlib.Path(sys.argv[1], "crysjax", "compiled").iterdir() if p.name.endswith("-cache")]
for data in (max(files, key=lambda p: p.stat().st_size).read_bytes(),) * 30:
    flipped = bytearray(data)
    flipped[drawn.randrange(len(data))] ^= drawn.randrange(1, 256)
    try:
        compilation_cache.decompress_executable(bytes(flipped))
    except Exception:
        noticed += 1
print(noticed)
"""


def test_every_flipped_byte_of_an_entry_is_noticed_where_zstandard_is_installed_too(tmp_path):
    """zstd, which JAX prefers, writes no checksum: the stand-in is found by JAX unless it is kept from looking."""
    (tmp_path / "zstandard.py").write_text("class ZstdCompressor:\n    compress = lambda self, data: data\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environ = inherited | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-c", FLIPS, str(tmp_path)]
    done = subprocess.run(command, env=environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "30\n"), done.stderr


def test_what_the_user_set_stands(tmp_path):
    environ = {"JAX_COMPILATION_CACHE_DIR": "/elsewhere", "XDG_CACHE_HOME": str(tmp_path)}
    keep_compiled(environ)
    assert environ == {"JAX_COMPILATION_CACHE_DIR": "/elsewhere", "XDG_CACHE_HOME": str(tmp_path)}


@pytest.mark.parametrize("file", [True, False], ids=["a file in the way", "no such home"])
def test_without_a_folder_nothing_is_set(tmp_path, file):
    place = tmp_path / "home"
    if file:
        place.write_text("")
    environ = {"XDG_CACHE_HOME": str(place) if file else "/proc/nowhere"}
    keep_compiled(environ)
    assert set(environ) == {"XDG_CACHE_HOME"}
