"""Mamba-2, attention, MLPs and hybrids of them: against transformers' own code, prefill against
steps, and the graph against the definition."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mamba_ssm_reference
import tolerances
from conftest import draw_tokens, random_checkpoint
from families import FAMILIES, HUGGING_FACE, MAMBA_SSM, attention, hybrid, model
from graph_checks import check_graph, check_ssmrun, half_pruned
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.model import Mamba
from ssmpress.blocks.ssd_scan import NO_LIMITS, ssd_scan
from ssmpress.blocks.tensors import weights_of
from ssmpress.checkpoint import dialects
from ssmpress.checkpoint.read import Checkpoint, read_checkpoint
from ssmpress.checkpoint.write import write_checkpoint
from ssmpress.errors import BadInputError
from ssmpress.formats import Values
from ssmpress.prune import dead_channels
from ssmpress.prune.mask import prunable_names
from ssmpress.prune.materials import TextMaterial
from ssmpress.prune.materials.text import window_batch
from ssmpress.prune.narrow import removed_channels
from ssmpress.prune.one_shot import grams, one_shot
from ssmpress.recipe.settings.prune import PROJECTIONS, Method, PruneSettings
from tolerances import assert_close

LAYOUTS = {name: ("huggingface", config) for name, config in HUGGING_FACE.items()} | {
    f"mamba-ssm {name}": ("mamba-ssm", config) for name, config in MAMBA_SSM.items()
}


def test_configurations_survive_their_json() -> None:
    for config in FAMILIES.values():
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    layout, config = LAYOUTS[name]
    checkpoint = random_checkpoint(config)
    write_checkpoint(config, checkpoint.tensors, tmp_path / "model", layout)
    back = read_checkpoint(tmp_path / "model")
    assert back.config == config and back.layout == layout
    for tensor_name, tensor in checkpoint.tensors.items():
        assert torch.equal(back.tensors[tensor_name], tensor), tensor_name


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """37 tokens: no multiple of a chunk, its or ours."""
    transformers = pytest.importorskip("transformers")
    config = HUGGING_FACE[name]
    checkpoint = random_checkpoint(config)
    write_checkpoint(config, checkpoint.tensors, tmp_path / "model", "huggingface")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokens = draw_tokens(config, 2, 37)
    with torch.no_grad():
        expected = other(tokens).logits
        got = Mamba.from_checkpoint(checkpoint)(tokens)[0]
    assert_close(got, expected, tolerances.REFERENCE_LOGITS, "logits")


@pytest.mark.parametrize("name", [name for name in MAMBA_SSM if "rope" not in name])
def test_logits_are_those_of_mamba_ssm(name: str, mamba_ssm: SimpleNamespace) -> None:
    """Its rope needs flash-attn, which is for GPUs."""
    config = MAMBA_SSM[name]
    checkpoint, tokens = random_checkpoint(config), draw_tokens(config, 2, 37)
    with torch.no_grad():
        expected = mamba_ssm_reference.model_of(mamba_ssm, checkpoint)(tokens).logits
        got = Mamba.from_checkpoint(checkpoint)(tokens)[0]
    assert_close(got, expected, tolerances.REFERENCE_LOGITS, "logits")


@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_equals_pieces_and_steps(name: str) -> None:
    config = FAMILIES[name]
    ours, tokens = Mamba.from_checkpoint(random_checkpoint(config)), draw_tokens(config, 2, 80)
    state, rows = None, []
    with torch.no_grad():
        whole, end = ours(tokens)
        for part in (tokens[:, :6], tokens[:, 6:71], *tokens[:, 71:].split(1, dim=1)):
            logits, state = ours(part, state)
            rows.append(logits)
        assert_close(ours.logits(tokens), whole, tolerances.REFERENCE_LOGITS, "training")
    assert state is not None
    assert_close(torch.cat(rows, 1), whole, tolerances.CARRIED_STATE, "logits")
    for part_name, tensor in end.by_name().items():
        assert_close(state.by_name()[part_name], tensor, tolerances.CARRIED_STATE, part_name)


@pytest.mark.parametrize("values", (Values.FP32, Values.INT8))
@pytest.mark.parametrize("name", FAMILIES)
def test_the_graph_is_the_definition(
    name: str, values: Values, library: Path, tmp_path: Path
) -> None:
    check_graph(half_pruned(random_checkpoint(FAMILIES[name]), values), library, tmp_path)


@pytest.mark.parametrize("name", ("granite, rope", "nemotron_h", "falcon_h1", "jamba"))
def test_ssmrun_runs_a_hybrid(name: str, library: Path, tmp_path: Path) -> None:
    config = HUGGING_FACE[name]
    source = half_pruned(random_checkpoint(config), Values.FP32)
    check_ssmrun(source, draw_tokens(config, 1, 20)[0].numpy(), tmp_path / "bundle", library)


@pytest.mark.parametrize("chunk", (1, 5, 64))
@pytest.mark.parametrize("limits", (NO_LIMITS, (0.1, 0.5)))
def test_the_scan_is_its_recurrence(chunk: int, limits: tuple[float, float]) -> None:
    """The equations of the docstring, a token at a time, in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    b, length, h, p, g, n = 2, 37, 6, 5, 3, 7
    x, delta, bias, A = draw(b, length, h, p), draw(b, length, h), draw(h), -draw(h).abs()
    B, C, D, state = draw(b, length, g, n), draw(b, length, g, n), draw(h, p), draw(b, h, n, p)
    y, after = ssd_scan(x, delta, bias, A, B, C, D, state, limits, chunk)
    for t in range(length):
        dt = torch.nn.functional.softplus(delta[:, t] + bias).clamp(*limits)[..., None, None]
        B_t, C_t = (m[:, t].repeat_interleave(h // g, 1) for m in (B, C))
        added = dt * B_t[..., :, None] * x[:, t, :, None, :]
        state = (dt * A[:, None, None]).exp() * state + added
        expected = (C_t[..., None, :] @ state)[:, :, 0] + D * x[:, t]
        torch.testing.assert_close(y[:, t], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(after, state, rtol=0, atol=1e-12)


def test_a_decay_after_one_that_forgets_all_is_exact() -> None:
    """In float32 too, within a chunk whose decays add up to -6,000 and more."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 64, 2, 3), (1, 64, 2), (2,), (2,), (1, 64, 1, 4), (1, 64, 1, 4), (2, 3))
    x, delta, bias, A, B, C, D = (torch.randn(shape, generator=generator) for shape in shapes)
    A = -A.abs()
    delta[:, 1:9] = 1000.0  # of 64 tokens, eight forget; the others remember well
    delta[:, 9:] = -8.0
    state = torch.zeros(1, 2, 4, 3)
    given = (x, delta, bias, A, B, C, D, state)
    got = ssd_scan(*given)[0]
    exact = ssd_scan(*(tensor.double() for tensor in given))[0]
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=2e-6 * float(exact.abs().max()))


def check_removed(checkpoint: Checkpoint, channels: tuple[int, ...]) -> None:
    """So many channels go from every layer, and the logits stay."""
    config = checkpoint.config
    smaller, left = dead_channels.remove(config, checkpoint.tensors)
    assert removed_channels(config, smaller) == channels
    tokens = draw_tokens(config, 2, 9)
    narrow = Mamba(smaller)
    narrow.load_state_dict(left, strict=False)
    with torch.no_grad():
        wanted = Mamba.from_checkpoint(checkpoint)(tokens)[0]
        assert_close(narrow(tokens)[0], wanted, tolerances.REFERENCE_LOGITS, "logits")


def test_dead_channels_of_an_mlp_go() -> None:
    """A channel is dead without a gate, without an input, or unread; the rest computes the same."""
    config = hybrid(attention(), GatedMlpConfig(d_intermediate=11, gate_first=True))
    checkpoint = random_checkpoint(config)
    tensors = checkpoint.tensors
    tensors["backbone.layers.0.mlp.fc1.weight"][[3, 11 + 5]] = 0
    tensors["backbone.layers.0.mlp.fc2.weight"][:, 7] = 0
    check_removed(checkpoint, (3, 0, 0))


def test_dead_channels_of_a_squared_relu_go() -> None:
    """A channel is dead without an input that opens it, or unread; a positive bias opens one."""
    config = HUGGING_FACE["nemotron_h, biases"]
    checkpoint = random_checkpoint(config)
    tensors = checkpoint.tensors
    tensors["backbone.layers.1.mixer.fc1.weight"][[3, 5]] = 0
    tensors["backbone.layers.1.mixer.fc1.bias"][[3, 5]] = torch.tensor([-0.5, 0.5])
    tensors["backbone.layers.1.mixer.fc2.weight"][:, 7] = 0
    check_removed(checkpoint, (0, 2, 0, 0, 0))


@pytest.mark.parametrize("method", Method)
def test_every_method_prunes_all_projections(method: Method) -> None:
    """Each by the statistics of its own input: of attention's and the MLP's too."""
    config = HUGGING_FACE["granite"]
    names = prunable_names(weights_of(config), PROJECTIONS)
    assert {name.split(".", 3)[3] for name in names} == {
        "mixer.in_proj.weight",
        "mixer.out_proj.weight",
        "mlp.fc1.weight",
        "mlp.fc2.weight",
    }
    settings = PruneSettings(
        method=method, calibration_batches=2, calibration_batch=2, calibration_window=16
    )
    text = draw_tokens(config, 1, 80)[0].numpy().astype(np.int32)
    trained = Mamba.from_checkpoint(random_checkpoint(config))
    keep = one_shot(trained, names, TextMaterial(text), settings, 0.6, seed=0)
    total = sum(mask.numel() for mask in keep.values())
    assert sum(int((~mask).sum()) for mask in keep.values()) == pytest.approx(0.6 * total, abs=20)


@pytest.mark.parametrize("name", ("granite", "bamba", "nemotron_h", "falcon_h1, norm", "jamba"))
def test_grams_are_of_what_transformers_multiplies(name: str, tmp_path: Path) -> None:
    """Of every projection the real input; dt_proj is no module there, and reads a norm's output."""
    transformers = pytest.importorskip("transformers")
    config = HUGGING_FACE[name]
    checkpoint, tokens = random_checkpoint(config), draw_tokens(config, 2, 17)
    write_checkpoint(config, checkpoint.tensors, tmp_path / "model", "huggingface")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    seen: dict[str, torch.Tensor] = {}
    for module_name, module in other.named_modules():
        if module_name.endswith("dt_layernorm"):
            read = module_name.replace("dt_layernorm", "dt_proj")
            module.register_forward_hook(lambda _m, _x, y, n=read: seen.update({n: y}))
        elif isinstance(module, torch.nn.Linear) and "dt_proj" not in module_name:
            module.register_forward_pre_hook(lambda _m, x, n=module_name: seen.update({n: x[0]}))
    with torch.no_grad():
        other(tokens)
    names = prunable_names(weights_of(config), PROJECTIONS)
    statistics = grams(Mamba.from_checkpoint(checkpoint), names, [window_batch(tokens)], None)
    for matrix in names:
        spelled = dialects.hugging_face.spelled({matrix: checkpoint.tensors[matrix]}, config)
        for theirs in spelled:
            module_name = theirs.removesuffix(".weight").replace("backbone.", "model.")
            x = seen[module_name].flatten(0, -2)
            assert_close(statistics[matrix], x.T @ x, 1e-4, theirs)


def test_two_mixers_side_by_side_read_the_same() -> None:
    """Each has statistics of its own, and a name of its own for `--prunable`."""
    checkpoint = random_checkpoint(HUGGING_FACE["falcon_h1"])
    names = prunable_names(weights_of(checkpoint.config), ("*in_proj",))
    layer = "backbone.layers.0"
    assert names[:2] == (f"{layer}.mixer.in_proj.weight", f"{layer}.beside.in_proj.weight")
    assert set(prunable_names(weights_of(checkpoint.config), ("beside.*",))) == {
        f"backbone.layers.{n}.beside.{p}.weight" for n in (0, 1) for p in ("in_proj", "out_proj")
    }
    batches = [window_batch(draw_tokens(checkpoint.config, 2, 17))]
    statistics = grams(Mamba.from_checkpoint(checkpoint), names, batches, None)
    for number in (0, 1):
        mixer, beside = (
            statistics[f"backbone.layers.{number}.{part}.in_proj.weight"]
            for part in ("mixer", "beside")
        )
        assert float(mixer.abs().max()) > 0 and torch.equal(mixer, beside)


def test_a_bare_state_dict_says_that_it_is_mamba_2(tmp_path: Path) -> None:
    """Groups are assumed, and that is said."""
    config = model(*[LayerConfig(mixer=Mamba2Config(heads=8, head_dim=5, d_state=7))] * 2)
    checkpoint = random_checkpoint(config)
    torch.save(checkpoint.tensors, tmp_path / "weights.pt")
    back = read_checkpoint(tmp_path / "weights.pt")
    assert back.config == config
    assert back.architecture.name == "Mamba-2" and back.architecture.assumed
    assert "1 group" in back.architecture.evidence


@pytest.mark.parametrize(
    "changes",
    (
        {"heads": 0},
        {"n_groups": 3},
        {"norm_groups": 7},
        {"dt_min": 2.0, "dt_max": 1.0},
        {"gated_norm": 1},
        {"norm_eps": 0.0},
    ),
)
def test_impossible_sizes_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(BadInputError, match=next(iter(changes))):
        Mamba2Config(**({"heads": 8, "head_dim": 5} | changes))  # type: ignore[arg-type]


def test_what_no_layout_can_say_is_refused() -> None:
    """Both families of one layer, and two sizes of attention."""
    both = (attention(), attention(kv_heads=4))
    config = model(*[LayerConfig(mixer=mixer) for mixer in both])
    assert dialects.that_can_say(config) == ()


def test_a_hybrid_is_summed_up_in_words() -> None:
    text = HUGGING_FACE["granite"].summary()
    assert text.startswith("Mamba-2 + MLP + attention: d_model 20, 3 layers (Mamba-2 heads 8, ")
    assert "; MLP d_intermediate 11; attention heads 4, kv_heads 2, head_dim 6)" in text
