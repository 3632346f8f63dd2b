"""checkpoint.py: every layout reads to the same model, and what is written reads back bitwise."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from conftest import mamba1_config
from paths import find_shared
from ssmpress.blocks.config import ModelConfig
from ssmpress.blocks.tensors import tensor_shapes
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError, UsageError
from thoroughness import examples

SIZES = {"d_model": 8, "n_layer": 2, "vocab_size": 16, "d_state": 4, "d_inner": 16, "dt_rank": 3}
SMALL = mamba1_config(**SIZES)


def small(**changes: Any) -> ModelConfig:
    """SMALL with other sizes."""
    return mamba1_config(**{**SIZES, **changes})


LAYOUTS = ("mamba-ssm", "huggingface")
Tensors = dict[str, torch.Tensor]


def random_tensors(config: ModelConfig, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = tensor_shapes(config)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def assert_same(checkpoint: Checkpoint, config: ModelConfig, tensors: Tensors) -> None:
    assert checkpoint.config == config
    assert list(checkpoint.tensors) == list(tensor_shapes(config))
    for name, tensor in checkpoint.tensors.items():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous(), name
        assert torch.equal(tensor, tensors[name].float()), name


CONFIGS = {
    "default": SMALL,
    "untied": small(tie_embeddings=False),
    "biases": small(proj_bias=True, conv_bias=False),
    "odd": small(d_conv=3, vocab_size=13, d_inner=24, n_layer=12),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_written_checkpoint_reads_back_bitwise(tmp_path: Path, name: str, layout: str) -> None:
    config, tensors = CONFIGS[name], random_tensors(CONFIGS[name])
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    folder = tmp_path / "new" / "model"
    for _ in range(2):  # the second time replaces the first
        write_checkpoint(config, tensors, folder, layout, tokenizer)
    checkpoint = read_checkpoint(folder)
    assert_same(checkpoint, config, tensors)
    weights = folder / ("pytorch_model.bin" if layout == "mamba-ssm" else "model.safetensors")
    assert checkpoint.layout == layout
    assert checkpoint.files == (weights, folder / "config.json")
    assert checkpoint.input_bytes == weights.stat().st_size
    assert checkpoint.sha256 == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert checkpoint.tokenizer == folder / "tokenizer.json"
    assert checkpoint.notes == ()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_width_no_multiple_of_d_model_survives_mamba_ssm(tmp_path: Path) -> None:
    for d_inner in range(1, 60):
        config = small(d_model=7, d_inner=d_inner, n_layer=1)
        write_checkpoint(config, random_tensors(config), tmp_path / "model")
        assert read_checkpoint(tmp_path / "model").config == config


def test_norm_eps_survives_huggingface(tmp_path: Path) -> None:
    config = small(norm_eps=3e-6)
    write_checkpoint(config, random_tensors(config), tmp_path / "model", "huggingface")
    assert read_checkpoint(tmp_path / "model").config.norm_eps == 3e-6


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        (small(norm_eps=1e-6), "mamba-ssm", "Write the Hugging Face layout instead."),
        (small(d_inner=12), "huggingface", "Write the mamba-ssm layout instead."),
    ],
)
def test_what_a_layout_cannot_say_is_refused(
    tmp_path: Path, config: ModelConfig, layout: str, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        write_checkpoint(config, random_tensors(config), tmp_path / "model", layout)
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_wrong_tensors_layouts_and_folders(tmp_path: Path) -> None:
    tensors = random_tensors(SMALL)
    with pytest.raises(UsageError, match="expected mamba-ssm or huggingface; got 'gguf'"):
        write_checkpoint(SMALL, tensors, tmp_path / "model", "gguf")
    name = "backbone.layers.1.mixer.D"
    without = {key: tensor for key, tensor in tensors.items() if key != name}
    with pytest.raises(BadInputError, match=rf"{name}: expected \(16,\) for d_inner 16; got no"):
        write_checkpoint(SMALL, without, tmp_path / "model")
    untied = {**tensors, "lm_head.weight": torch.zeros(16, 8)}
    with pytest.raises(BadInputError, match=r"lm_head\.weight: expected the values of"):
        write_checkpoint(SMALL, untied, tmp_path / "model")
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInputError, match=r"got thesis.tex there. Give another folder."):
        write_checkpoint(SMALL, tensors, tmp_path)
    with pytest.raises(BadInputError, match=r"cannot be written: .*thesis\.tex is a file"):
        write_checkpoint(SMALL, tensors, tmp_path / "thesis.tex" / "model")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(SMALL, random_tensors(SMALL), tmp_path / "model")

    def fail(*_: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr(torch, "save", fail)
    message = r"model/pytorch_model\.bin: cannot be written: PytorchStreamWriter"
    with pytest.raises(BadInputError, match=message):
        write_checkpoint(SMALL, random_tensors(SMALL, seed=1), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert_same(read_checkpoint(tmp_path / "model"), SMALL, random_tensors(SMALL))


def test_huggingface_layout_loads_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("default", "untied", "biases"):
        config, tensors = CONFIGS[name], random_tensors(CONFIGS[name])
        write_checkpoint(config, tensors, tmp_path / name, "huggingface")
        model, info = transformers.MambaForCausalLM.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not any(info.values()), info
        loaded = model.state_dict()
        for key, tensor in tensors.items():
            assert torch.equal(loaded[key.replace("embedding.", "embeddings.")], tensor), key
        model.save_pretrained(tmp_path / f"{name}-again")
        assert_same(read_checkpoint(tmp_path / f"{name}-again"), config, tensors)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_sharded_huggingface_layout(tmp_path: Path, suffix: str) -> None:
    tensors = random_tensors(SMALL)
    write_checkpoint(SMALL, tensors, tmp_path, "huggingface")
    (tmp_path / "model.safetensors").unlink()
    names = [name.replace("embedding.", "embeddings.") for name in tensors]
    renamed = dict(zip(names, tensors.values(), strict=True))
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    where = {}
    for part in (1, 2):
        chosen = {name: renamed[name] for name in names[part - 1 :: 2]}
        file = tmp_path / f"{stem}-0000{part}-of-00002{suffix}"
        save_file(chosen, file) if suffix == ".safetensors" else torch.save(chosen, file)
        where |= dict.fromkeys(chosen, file.name)
    (tmp_path / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": where}))
    checkpoint = read_checkpoint(tmp_path)
    assert_same(checkpoint, SMALL, tensors)
    assert len(checkpoint.sha256) == 2


WRAPPED: dict[str, tuple[Callable[[Tensors], dict[str, Any]], str]] = {
    "plain": (lambda t: t, ""),
    "model": (lambda t: {"model": t, "step": 3}, "found under 'model'; not used: step"),
    "nested": (lambda t: {"state_dict": {"model": t}}, "found under 'state_dict'"),
    "data-parallel": (
        lambda t: {"module." + name: tensor for name, tensor in t.items()},
        "prefix 'module.' removed",
    ),
    "lightning": (
        lambda t: {
            "state_dict": {"model._orig_mod." + name: tensor for name, tensor in t.items()},
            "pytorch-lightning_version": "2.4.0",
            "optimizer_states": [],
        },
        "prefix 'model.' removed",
    ),
    "compiled": (
        lambda t: {name.replace("backbone.", "backbone._orig_mod."): w for name, w in t.items()},
        "prefix '_orig_mod.' of torch.compile removed",
    ),
    "headless": (
        lambda t: {name.removeprefix("backbone."): tensor for name, tensor in t.items()},
        "prefix 'backbone.' added",
    ),
    "extras": (lambda t: {**t, "epoch": 4}, "not tensors, left out: epoch"),
    "tied": (lambda t: {**t, "lm_head.weight": t["backbone.embedding.weight"]}, "tied embedding"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_bare_state_dict(tmp_path: Path, kind: str) -> None:
    wrap, note = WRAPPED[kind]
    tensors = random_tensors(SMALL)
    torch.save(wrap(tensors), tmp_path / "weights.pt")
    (tmp_path / "tokenizer.json").write_text("{}")
    checkpoint = read_checkpoint(tmp_path / "weights.pt")
    assert_same(checkpoint, SMALL, tensors)
    assert checkpoint.layout == "state-dict"
    assert checkpoint.tokenizer == tmp_path / "tokenizer.json"
    said = "; ".join(checkpoint.notes)
    assert note in said
    assert "inferred from the shapes: d_model 8, 2 layers, vocabulary 16, d_state 4" in said
    assert "norm_eps is not in the shapes and taken as 1e-05" in said


def test_bare_state_dict_with_its_own_head_is_untied(tmp_path: Path) -> None:
    config = small(tie_embeddings=False)
    tensors = random_tensors(config)
    save_file(tensors, tmp_path / "weights.safetensors")
    assert_same(read_checkpoint(tmp_path / "weights.safetensors"), config, tensors)


def test_bare_state_dict_uses_the_config_beside_it(tmp_path: Path) -> None:
    config = small(norm_eps=1e-6)
    tensors = random_tensors(config)
    write_checkpoint(config, tensors, tmp_path, "huggingface")
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert_same(checkpoint, config, tensors)
    assert checkpoint.notes == (f"configuration read from {tmp_path / 'config.json'}",)
    torch.save(random_tensors(small(norm_eps=1e-6, d_state=5)), tmp_path / "other.pt")
    with pytest.raises(BadInputError, match=r"got \(16, 5\). Check state_size in config.json"):
        read_checkpoint(tmp_path / "other.pt")


def falcon_mamba(folder: Path) -> None:
    """A FalconMamba of Hugging Face's own code: config.json and model.safetensors."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 16, "state_size": 4}
    config = transformers.FalconMambaConfig(**sizes, time_step_rank=1, use_mambapy=False)
    transformers.FalconMambaForCausalLM(config).save_pretrained(folder)


def test_what_the_architecture_is_taken_for_is_said_with_its_evidence(tmp_path: Path) -> None:
    """FalconMamba has Mamba-1's tensors exactly, and norms that none of them shows."""
    falcon_mamba(tmp_path / "falcon")
    weights = tmp_path / "alone" / "model.safetensors"
    weights.parent.mkdir()
    shutil.copyfile(tmp_path / "falcon" / "model.safetensors", weights)
    found = read_checkpoint(weights).architecture
    assert (found.name, found.assumed) == ("Mamba-1", True)
    assert "FalconMamba has exactly the same" in str(found)
    assert "put its config.json beside the weights" in str(found)
    for layout, said in (
        ("huggingface", "config.json has model_type 'mamba'"),
        ("mamba-ssm", "config.json has ssm_cfg.layer 'Mamba1'"),
    ):
        write_checkpoint(SMALL, random_tensors(SMALL), tmp_path / layout, layout)
        found = read_checkpoint(tmp_path / layout).architecture
        assert (found.name, found.evidence, found.assumed) == ("Mamba-1", said, False)


@pytest.mark.parametrize("place", ["beside the file", "beside what the file is a link to"])
def test_config_beside_a_bare_file_is_always_read(tmp_path: Path, place: str) -> None:
    falcon_mamba(tmp_path / "falcon")
    weights = tmp_path / "falcon" / "model.safetensors"
    if place != "beside the file":
        (tmp_path / "model.safetensors").symlink_to(weights)
        weights = tmp_path / "model.safetensors"
    mixer = read_checkpoint(weights).config.layers[0].mixer
    assert mixer.dbc_norm_eps is not None, "the norms that no tensor shows"
    (tmp_path / "falcon" / "config.json").write_text("{")
    with pytest.raises(BadInputError, match=r"falcon/config\.json: "):
        read_checkpoint(weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors(SMALL).items()}
    torch.save(tensors, tmp_path / "weights.pt")
    assert_same(read_checkpoint(tmp_path / "weights.pt"), SMALL, tensors)


def test_transposed_tensor_becomes_contiguous(tmp_path: Path) -> None:
    tensors = random_tensors(SMALL)
    name = "backbone.layers.0.mixer.in_proj.weight"
    torch.save({**tensors, name: tensors[name].T.contiguous().T}, tmp_path / "weights.pt")
    assert_same(read_checkpoint(tmp_path / "weights.pt"), SMALL, tensors)


def test_published_config_of_130m(tmp_path: Path) -> None:
    """state-spaces/mamba-130m: the vocabulary is padded, everything else is a default."""
    from ssmpress.checkpoint.dialects import parse_config

    published = {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}}
    published |= {"rms_norm": True, "residual_in_fp32": True, "pad_vocab_size_multiple": 8}
    expected = mamba1_config(d_model=768, n_layer=24, vocab_size=50280, d_inner=1536, dt_rank=48)
    assert parse_config(published, tmp_path) == (expected, "mamba-ssm")
    converted = {"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "expand": 2}
    converted |= {"vocab_size": 50280, "time_step_rank": "auto", "intermediate_size": 1536}
    assert parse_config(converted, tmp_path) == (expected, "huggingface")


def test_config_dict_round_trip() -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    with pytest.raises(BadInputError, match="got 'heads'"):
        ModelConfig.from_dict({**SMALL.to_dict(), "heads": 3})
    with pytest.raises(BadInputError, match=r"layers: expected a list of layers; got 'nothing'"):
        ModelConfig.from_dict({"d_model": 8})


@pytest.mark.parametrize("name", ["mamba-31m", "mamba-5m"])
def test_trained_model_reads_and_survives_both_layouts(tmp_path: Path, name: str) -> None:
    checkpoint = read_checkpoint(find_shared(f"models/{name}"))
    width, layers = (512, 16) if name == "mamba-31m" else (256, 6)
    sizes = {"d_model": width, "n_layer": layers, "vocab_size": 8192, "dt_rank": width // 16}
    assert checkpoint.config == mamba1_config(**sizes, d_inner=2 * width)
    assert checkpoint.tokenizer is not None
    bare = read_checkpoint(find_shared(f"models/{name}") / "pytorch_model.bin")
    assert_same(bare, checkpoint.config, checkpoint.tensors)
    for layout in LAYOUTS:
        write_checkpoint(checkpoint.config, checkpoint.tensors, tmp_path / layout, layout)
        again = read_checkpoint(tmp_path / layout)
        assert_same(again, checkpoint.config, checkpoint.tensors)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_file_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    """Any bytes changed, cut or added: the same model, a model, or BadInputError, never more.

    A torch.save archive has checksums, so what still loads is the same; safetensors has none.
    """
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / f"weights{suffix}"
    tensors = random_tensors(small(n_layer=1))
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        end = data.draw(st.integers(start, min(len(content), start + 8)))
        content[start:end] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    try:
        checkpoint = read_checkpoint(path)
    except BadInputError as error:
        assert str(error).endswith(".")
    else:
        if suffix == ".pt":
            assert_same(checkpoint, small(n_layer=1), tensors)
        for name, shape in tensor_shapes(checkpoint.config).items():
            assert checkpoint.tensors[name].shape == shape
            assert bool(checkpoint.tensors[name].isfinite().all())


def test_a_model_that_no_layout_can_hold_is_said_so() -> None:
    """Before the work: `load` asks where `--save-checkpoint` is given."""
    dialects.check_writable(small(norm_eps=1e-6))
    with pytest.raises(BadInputError, match=r"can hold this model: norm_eps 1e-06.*; d_inner 12: "):
        dialects.check_writable(small(norm_eps=1e-6, d_inner=12))
