"""Small random models of every family beside Mamba-1: odd sizes, every switch used somewhere."""

from __future__ import annotations

from ssmpress.blocks.attention import AttentionConfig
from ssmpress.blocks.config import LayerConfig, ModelConfig
from ssmpress.blocks.gated_mlp import GatedMlpConfig
from ssmpress.blocks.mamba1 import Mamba1Config
from ssmpress.blocks.mamba2 import Mamba2Config
from ssmpress.blocks.squared_relu_mlp import SquaredReluMlpConfig

D_MODEL, WORDS = 20, 61
_GROUPED = Mamba2Config(heads=6, head_dim=10, d_state=7, n_groups=3, norm_groups=3)
_LIMITED = Mamba2Config(
    heads=8, head_dim=5, d_state=7, proj_bias=True, conv_bias=False, dt_min=0.1, dt_max=0.5
)
_BIASED = Mamba2Config(heads=8, head_dim=5, d_state=7, proj_bias=True, conv_bias=False, dt_min=0.1)
_SCALED = Mamba2Config(
    heads=6,
    head_dim=7,
    d_state=9,
    gated_norm=False,
    gate_first=False,
    in_scales=(0.7, 0.5, 1.5, 2.0, 0.8),
)
_PLAIN = Mamba2Config(heads=8, head_dim=5, d_state=9)


def model(*layers: LayerConfig, **scales: float | bool) -> ModelConfig:
    """Of these layers, with the sizes that all models here have."""
    return ModelConfig(d_model=D_MODEL, vocab_size=WORDS, layers=layers, **scales)  # type: ignore[arg-type]


def hybrid(attention: AttentionConfig, mlp: GatedMlpConfig, **scales: float | bool) -> ModelConfig:
    """Mamba-2, attention, Mamba-2, each with the MLP."""
    residual = float(scales.pop("residual_scale", 1.0))
    layers = [
        LayerConfig(mixer=mixer, mlp=mlp, residual_scale=residual)
        for mixer in (_PLAIN, attention, _PLAIN)
    ]
    return model(*layers, **scales)


def attention(**changes: float | bool) -> AttentionConfig:
    """Four heads of six channels, of which two share keys."""
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 6, "scale": 0.3}
    return AttentionConfig(**(sizes | changes))  # type: ignore[arg-type]


def falcon_h1(mixer: Mamba2Config, mlp_bias: bool = False, **scales: float | bool) -> ModelConfig:
    """Mamba-2 beside attention, and every multiplier another one."""
    layer = LayerConfig(
        mixer=mixer,
        beside=attention(rotary_dim=6, rope_theta=1e11),
        mlp=GatedMlpConfig(d_intermediate=11, gate_first=True, proj_bias=mlp_bias, gate_scale=0.7),
        mixer_scale=0.6,
        beside_scale=1.3,
        mlp_scale=0.8,
    )
    return model(layer, layer, embedding_scale=5.5, logits_scale=0.25, **scales)


def jamba(proj_bias: bool = False, conv_bias: bool = True, **scales: float | bool) -> ModelConfig:
    """Attention in the second and fourth of five layers, with a large epsilon, so that it shows."""
    mamba = Mamba1Config(
        d_inner=40,
        d_state=5,
        dt_rank=3,
        proj_bias=proj_bias,
        conv_bias=conv_bias,
        dbc_norm_eps=0.25,
        dbc_norm_weights=True,
    )
    mixers = (mamba, attention(scale=6**-0.5), mamba, attention(scale=6**-0.5), mamba)
    layers = (LayerConfig(mixer=mixer, mlp=_MLP) for mixer in mixers)
    return model(*layers, norm_eps=0.25, **scales)


def nemotron(mixer: Mamba2Config, proj_bias: bool = False, **scales: float | bool) -> ModelConfig:
    """A block in each layer, the MLP and Mamba-2 twice."""
    mlp = SquaredReluMlpConfig(d_intermediate=11, proj_bias=proj_bias)
    blocks = (mixer, mlp, attention(scale=6**-0.5), mlp, mixer)
    return model(*[LayerConfig(mixer=block) for block in blocks], **scales)


_GRANITE_SCALES = {"residual_scale": 0.3, "embedding_scale": 12.0, "logits_scale": 1 / 3}
_MLP = GatedMlpConfig(d_intermediate=11, gate_first=True)

HUGGING_FACE = {
    "mamba2": model(*[LayerConfig(mixer=_GROUPED)] * 2),
    "mamba2, limits": model(*[LayerConfig(mixer=_LIMITED)] * 2, tie_embeddings=False),
    "granite": hybrid(attention(), _MLP, **_GRANITE_SCALES),
    "granite, rope": hybrid(
        attention(rotary_dim=6, rope_theta=500.0, qkv_bias=True, out_bias=True),
        _MLP,
        tie_embeddings=False,
        **_GRANITE_SCALES,
    ),
    "bamba": hybrid(
        attention(head_dim=8, scale=8**-0.5, rotary_dim=4),
        GatedMlpConfig(d_intermediate=11, gate_first=True, proj_bias=True),
        tie_embeddings=False,
    ),
    "falcon_h1": falcon_h1(_SCALED),
    "falcon_h1, norm": falcon_h1(
        Mamba2Config(heads=6, head_dim=7, d_state=9, n_groups=2, norm_groups=2, gate_first=False),
        mlp_bias=True,
        tie_embeddings=False,
    ),
    "jamba": jamba(),
    "jamba, biases": jamba(proj_bias=True, conv_bias=False, tie_embeddings=False),
    "nemotron_h": nemotron(_GROUPED, tie_embeddings=False),
    "nemotron_h, biases": nemotron(_BIASED, proj_bias=True),
}
"""What transformers has too."""

MAMBA_SSM = {
    "Mamba2": model(*[LayerConfig(mixer=_GROUPED)] * 2),
    "Mamba2, gate last": model(
        *[LayerConfig(mixer=Mamba2Config(heads=8, head_dim=5, d_state=7, gate_first=False))] * 2
    ),
    "Mamba2, no norm": model(
        *[
            LayerConfig(
                mixer=Mamba2Config(
                    heads=8, head_dim=5, d_state=7, gated_norm=False, d_per_channel=True
                )
            )
        ]
        * 2
    ),
    "Mamba2, limits": model(*[LayerConfig(mixer=_LIMITED)] * 2, tie_embeddings=False),
    "hybrid": hybrid(attention(qkv_bias=True), GatedMlpConfig(d_intermediate=128)),
    "hybrid, rope": hybrid(
        attention(rotary_dim=4, out_bias=True), GatedMlpConfig(d_intermediate=128)
    ),
}
"""What mamba-ssm has too."""

FAMILIES = HUGGING_FACE | {f"mamba-ssm {name}": config for name, config in MAMBA_SSM.items()}
