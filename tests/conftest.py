"""Shared by the tests: small random checkpoints, the op library, and the paths to ../shared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

import thoroughness
from paths import find_shared
from small_demo import write_small_demo
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.tensors import tensor_shapes
from ssmpress.checkpoint.read import Checkpoint
from ssmpress.errors import DeviceError
from ssmpress.machine import get_library_path

torch.set_num_threads(1)  # the models are small, the cores are shared


def pytest_configure(config: pytest.Config) -> None:
    thoroughness.LONG = "not slow" not in config.option.markexpr
    settings.register_profile("ssmpress", deadline=None, max_examples=thoroughness.examples(100))
    settings.load_profile("ssmpress")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs whole commands comes first: it takes longest, and no process waits for it at the
    end."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unfinished runs of the tests are not the user's, nor those of tests that run beside them."""
    before = {name: os.environ.get(name) for name in ("XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR")}
    home = Path(before["XDG_CACHE_HOME"] or Path.home() / ".cache")
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(home / "zig"))  # a compiler's cache is shared
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A function from a path inside ../shared to its full path; skips where it is absent."""
    return find_shared


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the demo's first two layers; not to be written to."""
    return write_small_demo(tmp_path_factory.mktemp("small") / "demo")


@pytest.fixture(scope="session")
def library() -> Path:
    """The op library; skips in a source tree that was not built."""
    try:
        return get_library_path()
    except DeviceError as error:
        pytest.skip(str(error))


def mamba1_config(n_layer: int, **sizes: Any) -> ModelConfig:
    """Equal layers of Mamba-1. sizes: fields of the model and of its mixers."""
    own = {item.name for item in fields(Mamba1Config)} & sizes.keys()
    layer = LayerConfig(mixer=Mamba1Config(**{name: sizes.pop(name) for name in own}))
    return ModelConfig(layers=(layer,) * n_layer, **sizes)


def small_config(**changes: Any) -> ModelConfig:
    """Odd sizes on purpose: nothing is a multiple of a vector's width."""
    sizes = {
        "d_model": 20,
        "n_layer": 2,
        "vocab_size": 61,
        "d_state": 5,
        "d_conv": 4,
        "d_inner": 40,
        "dt_rank": 3,
    }
    return mamba1_config(**{**sizes, **changes})


def mixer_of(config: ModelConfig, layer: int = 0) -> Mamba1Config:
    """The mixer of a layer that has Mamba-1's."""
    mixer = config.layers[layer].mixer
    assert isinstance(mixer, Mamba1Config)
    return mixer


def random_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    """Random weights of the sizes of trained ones: every tensor matters to the logits."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        if name.endswith("A_log"):
            return values.abs() + torch.arange(1.0, shape[-1] + 1).log()
        if "norm" in name or name.endswith(".D"):
            return 1 + values / 4
        if name.endswith("bias"):
            return values / 4
        fan_in = shape[-1]
        return values / fan_in**0.5

    tensors = {name: draw(name, shape) for name, shape in tensor_shapes(config).items()}
    return Checkpoint(
        config=config,
        tensors=tensors,
        layout="state-dict",
        files=(),
        input_bytes=sum(4 * t.numel() for t in tensors.values()),
        sha256={},
        tokenizer=None,
        notes=(),
    )


def draw_tokens(config: ModelConfig, batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """int64 (batch, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, length), generator=generator)
