"""Networks of one's own: ssmpress's ONNX files against the exporter's ordinary ones.

    python runtimes/bench/networks.py docs/benchmarks/networks.json [typeseg | vision | speech ...]

The networks are docs/examples/networks; typeseg needs `pip install typeseg==0.2.7`. All files of a
network are loaded in this process and take turns, one thread, one call a turn on its example's
sizes; ratios are medians of the ratios of a turn, and beside them those of the fastest turns, for a
busy machine.

    exporter        typeseg: its own ONNX file, with a Scan; the others: torch.onnx.export of the
                    module with mamba-ssm's selective_scan_ref, a loop over the steps in PyTorch,
                    which the exporter writes out; in stock ONNX Runtime
    without_library the dense file in stock ONNX Runtime: the fallback functions, with a Scan
    dense           the same file with the op library
    dense_int8      all matrices in int8
    sparse          70 % of every matrix's weights, the smallest, are zero; the format that
                    compress chooses
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from interleaved import provenance
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmpress.graph.traced import export_network
from ssmpress.machine import get_library_path, host_machine
from ssmpress.nets import operators
from ssmpress.nets.network import Network
from ssmpress.nets.trace import trace
from ssmpress.nets.user_file import load_network
from ssmpress.pack.model import pack_tensors
from ssmpress.recipe.settings.pack import PackSettings
from ssmpress.runtime.onnx_runtime import import_onnxruntime

EXAMPLES = Path(__file__).parents[2] / "docs/examples/networks"
NETWORKS = {
    "typeseg": EXAMPLES / "typeseg_net.py",
    "vision": EXAMPLES / "vision_mamba.py",
    "speech": EXAMPLES / "speech_enhancement.py",
}
SPARSITY = 0.7
ROUNDS = 15
AGREEMENT = 1e-4
"""Of the exporter's file and ours, relative to the largest output."""
Arrays = Mapping[str, NDArray[Any]]


def plain_scan(
    u: Tensor,
    delta: Tensor,
    delta_bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """As mamba-ssm's selective_scan_ref: all decays at once, then a loop over the steps."""
    delta = delta if delta_bias is None else delta + delta_bias
    delta = F.softplus(delta) if softplus else delta
    decays = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
    added = torch.einsum("bld,bln,bld->bldn", delta, B, u)
    h = u.new_zeros(u.shape[0], *A.shape)
    steps = range(u.shape[1])
    ys = []
    for t in reversed(steps) if reverse else steps:
        h = decays[:, t] * h + added[:, t]
        ys.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
    y = torch.stack(ys[::-1] if reverse else ys, 1)
    y = y if D is None else y + u * D
    return (y if z is None else y * F.silu(z)), h


def plain_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """As the block's own slow path."""
    taps, channels = weight.shape[1], x.shape[2]
    y = F.conv1d(x.mT, weight[:, None], bias, padding=taps - 1, groups=channels)
    y = y[..., : x.shape[1]]
    return (F.silu(y) if silu else y).mT, x[:, 1 - taps :]


@contextmanager
def written_out() -> Iterator[None]:
    """The stand-ins compute in plain PyTorch, and mT is what this exporter knows."""
    with ExitStack() as stack:
        for owner, name, value in (
            (operators, "selective_scan", plain_scan),
            (operators, "causal_conv1d", plain_convolution),
            (Tensor, "mT", property(lambda t: t.transpose(-1, -2))),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def built(name: str, network: Network) -> nn.Module:
    """typeseg with its own weights, the others with random ones."""
    if name == "typeseg":
        module: nn.Module = vars(sys.modules[network.samples.__module__])["trained"]()
        return module
    torch.manual_seed(0)
    return network.build().eval()


def exporters_file(
    name: str, module: nn.Module, network: Network, folder: Path
) -> tuple[Path, float]:
    """The ordinary ONNX file, and the seconds that the export took."""
    if name == "typeseg":
        return Path(str(files("typeseg") / "data" / "mamba_al.onnx")), 0.0
    path, started = folder / "exporter.onnx", time.perf_counter()
    with written_out(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(network.inputs.values()), path, dynamo=False, opset_version=18
        )
    return path, time.perf_counter() - started


def our_files(module: nn.Module, network: Network, folder: Path) -> dict[str, Path]:
    """dense, dense_int8 and sparse."""
    graph = trace(network, module)
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    whole = {name: tensor.detach() for name, tensor in tensors.items()}
    pruned = {n: _pruned(t) if n in graph.matrices else t for n, t in whole.items()}
    variants = {
        "dense": (whole, None),
        "dense_int8": (whole, PackSettings()),
        "sparse": (pruned, PackSettings()),
    }
    paths = {}
    for variant, (values, settings) in variants.items():
        paths[variant] = folder / f"{variant}.onnx"
        packed = pack_tensors(graph.matrices, values, settings, host_machine())
        export_network(graph, packed, {}, paths[variant])
    return paths


def _pruned(weight: Tensor) -> Tensor:
    kept = weight.abs().flatten().argsort()[int(SPARSITY * weight.numel()) :]
    mask = torch.zeros(weight.numel()).index_fill(0, kept, 1.0)
    return weight * mask.reshape(weight.shape)


def session(path: Path, *, library: bool) -> tuple[Any, float]:
    """A session of one thread, and the seconds that loading took."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(str(get_library_path()))
    started = time.perf_counter()
    loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return loaded, time.perf_counter() - started


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One network: every file in turns."""
    network = load_network(NETWORKS[name], always=True)
    module = built(name, network)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        ordinary, export_s = exporters_file(name, module, network, folder)
        ours = our_files(module, network, folder)
        loaded = {
            "exporter": session(ordinary, library=False),
            "without_library": session(ours["dense"], library=False),
            **{variant: session(path, library=True) for variant, path in ours.items()},
        }
        sizes = {variant: path.stat().st_size for variant, path in ours.items()}
    feed = _random(network)
    own = loaded["exporter"][0].get_inputs()[0]
    feeds = dict.fromkeys(loaded, feed)
    first = next(iter(feed.values()))
    feeds["exporter"] = {own.name: first[0] if len(own.shape) < first.ndim else first}
    _check_agreement(loaded, feeds)
    times: dict[str, list[float]] = {variant: [] for variant in loaded}
    for _ in range(rounds + 1):
        for variant, (run, _) in loaded.items():
            started = time.perf_counter()
            run.run(None, feeds[variant])
            times[variant].append(1e3 * (time.perf_counter() - started))
    counted = {variant: column[1:] for variant, column in times.items()}
    return {
        "network": name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "weights": "trained" if name == "typeseg" else "random",
        "input": {key: list(array.shape) for key, array in feed.items()},
        "exporters_export_s": round(export_s, 1),
        "files": {
            variant: _summary(counted, variant, loaded[variant][1], sizes.get(variant))
            for variant in loaded
        },
    }


def _random(network: Network) -> dict[str, NDArray[Any]]:
    """Inputs of the example's sizes."""
    random = np.random.default_rng(0)
    return {
        name: random.normal(size=tuple(example.shape)).astype(np.float32)
        if example.is_floating_point()
        else random.integers(0, 128, size=tuple(example.shape))
        for name, example in network.inputs.items()
    }


def _check_agreement(loaded: Mapping[str, tuple[Any, float]], feeds: Mapping[str, Arrays]) -> None:
    """Whether the files that are not rounded compute the same."""
    results = {
        name: loaded[name][0].run(None, feeds[name])[0]
        for name in ("exporter", "without_library", "dense")
    }
    wanted = results["exporter"]
    for name, result in results.items():
        difference = np.abs(result.reshape(wanted.shape) - wanted).max()
        assert difference <= AGREEMENT * max(1.0, np.abs(wanted).max()), (name, difference)


def _summary(
    times: Mapping[str, list[float]], variant: str, load_s: float, size: int | None
) -> dict[str, Any]:
    own, other = times[variant], times["exporter"]
    ratios = [a / b for a, b in zip(other, own, strict=True)]
    result = {
        "load_s": round(load_s, 2),
        "ms": round(statistics.median(own), 2),
        "ms_min": round(min(own), 2),
        "times_as_fast": round(statistics.median(ratios), 2),
        "times_as_fast_of_min": round(min(other) / min(own), 2),
    }
    return result if size is None else {"bytes": size, **result}


def main() -> None:
    """Measure and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    before = provenance(args.rounds)
    rows = [measure(name, args.rounds) for name in args.networks]
    result = before | {"threads": 1, "sparsity": SPARSITY, "networks": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
