"""The command line: help, usage errors, bad input, dry run, interruption. Real runs, no mocks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from paths import DEMO
from processes import accept_interrupts
from ssmpress.cli import compress as cli
from ssmpress.machine import host_machine
from ssmpress.recipe.named import NAMED_RECIPES, named_recipe
from ssmpress.recipe.settings.deploy import Target
from ssmpress.recipe.settings.recover import Compute, RecoverSettings

COMMAND = [sys.executable, "-c", "from ssmpress.cli.compress import main; main()"]


PLAN = ["--dry-run", "--threads", "1"]
"""Beside other tests, two threads of one plan wait for each other."""


@pytest.fixture
def compress(monkeypatch, capfd, tmp_path):
    """Run `compress ARGUMENTS` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        code = stopped.value.code
        return (0 if code is None else int(code)), out, err

    return run


def test_help_teaches_and_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['compress', '--help']\nfrom ssmpress.cli.compress import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'scipy', 'tokenizers',\n"
        "         'jinja2', 'vl_convert', 'safetensors', 'asyncio', 'ssmpress.report',\n"
        "         'ssmpress.pipeline'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("--sparsity", "--min-retention", "Exit codes", "Examples", "--dry-run"):
        assert text in done.stdout


def test_bare_command_teaches_on_one_screen(compress):
    code, out, err = compress()
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for text in ("--dry-run", "--sparsity 0.7", "--pick", "report.html", "compress --help"):
        assert text in err


def test_version(compress):
    from ssmpress import __version__

    assert compress("--version") == (0, f"ssmpress {__version__}\n", "")
    command = [sys.executable, "-m", "ssmpress", "--version"]
    assert subprocess.check_output(command, text=True) == f"ssmpress {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "1.5"], "--sparsity: expected 0 to 0.99; got 1.5."),
        (["--sparsity", "nan"], "--sparsity: expected 0 to 0.99; got nan."),
        (["--alpha", "9"], "--alpha: expected 0 to 4; got 9.0."),
        (["--prunable", "in_proj,A_log"], "--prunable: expected names from in_proj"),
        (["--prunable", ""], "--prunable: expected at least one of in_proj"),
        (["--recover", "sometimes"], "--recover: expected auto, none or a number of steps"),
        (["--recover", "9" * 5000], "--recover: expected auto, none or a number of steps; got '99"),
        (["--evaluation-tokens", "1"], "--evaluation-tokens: expected at least 2; got 1."),
        (["--threads", "5000"], "--threads: expected 1 to 1024; got 5000."),
        (["--seed", "-1"], "--seed: expected 0 to 2^63 - 1; got -1."),
        (["--min-speedup", "-2"], "--min-speedup: expected a number of at least 0; got -2.0."),
        (
            ["--recipe", "cake"],
            "--recipe: expected default, wikitext, mamba2 or hybrid; got 'cake'.",
        ),
        (["--values", "int5"], "--values: expected fp32, fp16, int8 or int4; got 'int5'. Did you"),
        (["--values", "int8,int8"], "--values: expected each value once; got int8, int8."),
        (["--sparsity", "0.5,x"], "--sparsity: expected numbers from 0 to 0.99, separated by"),
        (["--sparsity", "70%%"], "separated by commas, or such as 70%; got '70%%'."),
        (["--sparsity", "150"], "--sparsity: expected 0 to 0.99; got 1.5."),
        (["--sparsity", "0,0"], "--sparsity: expected each value once"),
        (["--method", "magnitud"], "got 'magnitud'. Did you mean magnitude?"),
        (["--scope", "layers"], "--scope: expected global, layer or owl; got 'layers'. Did you"),
        (["--target", "arm"], "got 'arm'. Did you mean arm64?"),
        (["--compute", "tpu"], "--compute: expected auto, cpu or cuda; got 'tpu'."),
        (["--recover", "atuo"], "got 'atuo'. Did you mean auto?"),
        (["--recipe", "wikitxt"], "got 'wikitxt'. Did you mean wikitext?"),
        (["--prunable", "inproj"], "got 'inproj'. Did you mean in_proj?"),
        (["--pick", "retention>=1"], "--pick: expected several --sparsity or --values"),
        (["--sparsity", "0.5,0.6", "--pick", "speed>2"], "got 'speed'. Did you mean speedup?"),
        (["--sparsty", "0.7"], "Possible options: --sparsity"),
        (["--sparsity-of", "model", "--sparsity", "0.9"], "the highest possible is 0.79"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_do(compress, arguments, message):
    code, out, err = compress(DEMO, *arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "got"), [([*PLAN], "neither"), (["m.pt", "--demo"], "m.pt and --demo")]
)
def test_the_demo_stands_in_place_of_a_model(compress, arguments, got):
    code, _, err = compress(*arguments)
    assert code == 2
    assert f"MODEL: expected a checkpoint, or --demo in its place; got {got}." in err


def test_the_demo_comes_with_the_package(compress):
    code, out, _ = compress("--demo", *PLAN, "--json")
    assert code == 0
    assert json.loads(out)["out"] == "demo-s70"
    assert 1e6 < sum(file.stat().st_size for file in cli.DEMO_MODEL.iterdir()) < 3e6
    assert cli.DEMO_MODEL.parent == Path(cli.__file__).parents[1], "inside the wheel"


def test_missing_model(compress):
    code, out, err = compress("nowhere.pt")
    assert (code, out) == (6, "")
    assert "error: nowhere.pt: expected a folder with config.json" in err
    assert not list(Path.cwd().iterdir())


def test_output_that_cannot_be_written_is_no_defect():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, str(DEMO), *PLAN, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert done.returncode == 6
    *notes, last = done.stderr.splitlines()
    assert last == "error: the output: cannot be written: No space left on device."
    assert not [note for note in notes if not note.startswith("  ")], "nothing but notes before"


@pytest.mark.parametrize("arguments", [["--recover", "2"], ["--sparsity", "0.3,0.4"]])
def test_cache_that_cannot_be_written_is_found_before_the_work(compress, monkeypatch, arguments):
    Path("file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("file").absolute()))
    code, out, err = compress(DEMO, *arguments)
    assert (code, out) == (6, "")
    assert "file/ssmpress: expected a folder for unfinished work; cannot write there" in err
    assert "XDG_CACHE_HOME" in err
    assert "..." not in err, "no work was begun"


def test_archive_that_a_folder_blocks_is_found_before_the_work(compress):
    Path("b.tar.gz").mkdir()
    code, _, err = compress(DEMO, "--out", "b", "--archive")
    assert code == 2
    assert err.endswith("--archive: expected to write the file b.tar.gz; a folder is there.\n")
    assert "..." not in err, "no work was begun"


def test_wheel_that_is_no_file_is_not_read(compress):
    code, _, err = compress(DEMO, "--onnxruntime", "/dev/zero")
    assert code == 6
    assert "/dev/zero: expected a wheel (a zip file) of ONNX Runtime" in err


@pytest.mark.parametrize("model", ["bundle", "bundle/model.onnx"])
@pytest.mark.parametrize("dry", [PLAN, []])
def test_bundle_is_no_checkpoint(compress, model, dry):
    Path("bundle").mkdir()
    Path("bundle/model.onnx").write_bytes(b"a model")
    code, _, err = compress(model, "--out", "out", *dry)
    assert code == 6
    assert f"error: {model}: expected a folder with config.json" in err
    assert "got an ONNX model or a bundle" in err
    assert "Give the checkpoint that it was made from." in err


def test_missing_tokenizer(compress):
    shutil.copy(DEMO / "pytorch_model.bin", "model.pt")
    code, _, err = compress("model.pt")
    assert code == 6
    assert "expected tokenizer.json beside the weights" in err
    assert "--tokenizer FILE" in err
    assert [p.name for p in Path.cwd().iterdir()] == ["model.pt"]


def test_folder_with_other_files_is_not_overwritten(compress):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    code, _, err = compress(DEMO, "--out", "mine")
    assert code == 2
    assert "holds other files" in err
    assert Path("mine/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("model", "sparsity", "name"),
    [
        ("link", 0.7, "link-s70"),
        ("link/", 0.705, "link-s70.5"),
        (".", 0.29, "here-s29"),
        ("link/../link", 0.07, "link-s7"),
        ("model.pt", 0.57, "model-s57"),
    ],
)
def test_default_folder_is_named_as_the_model_was(tmp_path, monkeypatch, model, sparsity, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("link").symlink_to(DEMO)
    assert cli._default_out(Path(model), (sparsity,), Target.HOST) == Path(name)


def test_dry_run_prints_the_plan_and_writes_nothing(compress, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, err = compress(DEMO, "--sparsity", "0.5", *PLAN)
    assert (code, out) == (0, "")
    assert "\x1b" not in err
    assert "d_model 192, 4 layers" in err
    assert "50.0% of" in err
    assert "bitmask-int8" in err or "dense-int8" in err
    assert not list(Path.cwd().iterdir())


def test_dry_run_names_what_the_run_will_use(compress):
    write_text_file("a.txt", 200)
    write_text_file("b.txt", 300)
    arguments = [
        "--calibration",
        "a.txt",
        "--evaluation",
        "b.txt",
        "--max-bundle-bytes",
        "5e6",
        "--out",
        "here",
        "--recover",
        "none",
    ]
    code, _, err = compress(DEMO, *arguments, *PLAN)
    assert code == 0
    for line in (
        "Target: host (",
        "runs on this machine",
        "Calibration: a.txt, ",
        " tokens",
        "Evaluation: b.txt, ",
        "Gates: min_retention 0.95, max_bundle_bytes 5000000.0",
        "Out: here",
        "Downloads: none",
    ):
        assert line in " ".join(err.split())
    code, out, _ = compress(DEMO, *arguments, *PLAN, "--json")
    plan = json.loads(out)
    assert plan["devices"] == ["this machine"] and plan["downloads"] == [] and plan["weights_read"]
    assert plan["calibration"]["files"] == ["a.txt"] and plan["out"] == "here"
    assert plan["gates"]["max_bundle_bytes"] == "5000000.0"
    assert plan["bundle_bytes"] > plan["model_bytes"] > 0 and plan["runtime_bytes"] > 1e7


def write_text_file(name: str, paragraphs: int) -> None:
    text = "".join(f"{name} is paragraph {i} of {i * 7919 % 1009}.\n" for i in range(paragraphs))
    Path(name).write_text(text * 4)


def test_dry_run_names_the_download_and_does_not_begin_it(compress, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = {"x86_64": "arm64", "aarch64": "x86_64"}[host_machine()]
    code, out, _ = compress(DEMO, "--target", other, "--skip-device-check", *PLAN, "--json")
    assert code == 0
    plan = json.loads(out)
    (download,) = plan["downloads"]
    assert download.startswith("onnxruntime==") and plan["runtime_bytes"] is None
    assert plan["devices"] == [] and plan["not_run"] == "--skip-device-check was given."
    assert not list((tmp_path / "cache").rglob("*.so"))


BAD = {
    "not a number": lambda tensors: tensors["backbone.norm_f.weight"].fill_(float("nan")),
    "missing": lambda tensors: tensors.pop("backbone.layers.1.mixer.D"),
    "another shape": lambda tensors: tensors.update({"backbone.layers.1.mixer.D": torch.zeros(7)}),
}


@pytest.mark.parametrize("dry", [PLAN, []])
@pytest.mark.parametrize("bad", [*BAD, "cut", "gone", "text"])
def test_dry_run_refuses_the_checkpoints_that_a_run_refuses(compress, tmp_path, bad, dry):
    shutil.copytree(DEMO, tmp_path / "model")
    weights = tmp_path / "model" / "pytorch_model.bin"
    if bad in BAD:
        tensors = torch.load(weights, weights_only=True)
        BAD[bad](tensors)
        torch.save(tensors, weights)
    elif bad == "cut":
        weights.write_bytes(weights.read_bytes()[:100_000])
    elif bad == "text":
        weights.write_text("no weights")
    else:
        weights.unlink()
    code, out, err = compress("model", *dry)
    assert (code, out) == (6, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert not [path for path in tmp_path.iterdir() if path.name != "model"]


def test_weights_above_the_plans_bytes_are_not_read_and_that_is_told(compress, tmp_path):
    shutil.copytree(DEMO, tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"not read" * 1000)
    code, _, err = compress("model", *PLAN, "--plan-bytes", "1000")
    assert code == 0
    assert "the weights were not read: 0.0 GB are above --plan-bytes 1000" in " ".join(err.split())


def test_dry_run_json_adds_up(compress):
    code, out, _ = compress(DEMO, "--sparsity", "0.5", "--sparsity-of", "model", *PLAN, "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["sparsity_model"] == pytest.approx(0.5)
    assert plan["sparsity_prunable"] == pytest.approx(
        0.5 * plan["model_weights"] / plan["prunable_weights"]
    )
    weights = sum(m["rows"] * m["columns"] for m in plan["matrices"])
    assert weights < plan["model_weights"] < 1.1 * weights
    assert sum(m["bytes"] for m in plan["matrices"]) < plan["model_bytes"] < plan["dense_bytes"]


def test_one_bundle_may_be_archived_several_may_not(compress):
    assert compress(DEMO, "--archive", *PLAN)[0] == 0
    code, _, err = compress(DEMO, "--archive", "--sparsity", "0.5,0.6", *PLAN)
    assert code == 2
    assert "--archive: expected one bundle" in err


@pytest.mark.parametrize("dry", [PLAN, []])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--pattern", "3:2"], 2, "got '3:2'"),
        (["--pattern", "2:4"], 2, "--pattern 2:4 always has sparsity 0.5; got --sparsity 0.7."),
        (["--pattern", "block 7x1"], 2, "no whole number of 7x1"),
        (["--method", "sparsegpt", "--pattern", "block 4x1"], 2, "sparsegpt is unstructured"),
        (["--save-checkpoint", "file"], 6, "file/mamba-ssm: cannot be written: "),
        (["--save-checkpoint", "mine"], 6, "mine/mamba-ssm: expected a new folder"),
        (["--sparsity", "0.4,0.5", "--save-checkpoint", "file"], 6, "cannot be written: "),
        (["--out", "file"], 2, "--out file: expected a new folder"),
        (["--sparsity", "0.4,0.5", "--out", "mine"], 2, "it holds other files, such as mamba-ssm"),
        (["--pruned", "nowhere"], 6, "nowhere: expected a folder with config.json"),
        (["--calibration", "gone.txt"], 6, "gone.txt: expected a text file"),
        (["--tokenizer", "gone.json"], 6, "gone.json: expected "),
        (["--calibration", "file"], 6, "file: expected"),
        (["--device", "qemu"], 2, "--device qemu: expected --target arm64 on another machine"),
        (["--out", "file/below"], 2, "cannot write there: "),
        (["--out", "n" * 240], 2, "expected names of at most"),
        (["--baseline", "gone.json", "--min-speedup", "1.1x"], 6, "gone.json"),
        (["--onnxruntime", "gone.whl"], 6, "gone.whl: expected a wheel"),
    ],
)
def test_dry_run_refuses_what_a_run_refuses_before_it_trains(
    compress, dry, arguments, code, message
):
    Path("file").touch()
    Path("mine/mamba-ssm").mkdir(parents=True)
    Path("mine/mamba-ssm/thesis").touch()
    found, out, err = compress(DEMO, *arguments, *dry)
    assert (found, out) == (code, "")
    assert message in err
    assert "..." not in err, "no work was begun"
    assert {path.name for path in Path.cwd().iterdir()} == {"file", "mine"}


def test_dry_run_of_weights_that_are_pruned_already_trains_nothing(compress):
    code, out, _ = compress(DEMO, "--pruned", DEMO, *PLAN, "--json")
    assert code == 0
    assert json.loads(out)["recovery"] == f"none, the pruned weights come from {DEMO}"
    assert json.loads(out)["seconds"] < 60


def test_dry_run_of_a_sweep_has_a_row_for_each_bundle(compress):
    code, out, err = compress(DEMO, "--sparsity", "0.5,0.8", "--values", "int8,fp16", *PLAN)
    assert (code, out) == (0, "")
    for name in ("s50-int8", "s50-fp16", "s80-int8", "s80-fp16"):
        assert name in err
    assert max(map(len, err.splitlines())) <= 80
    code, out, _ = compress(DEMO, "--sparsity", "0.5,0.8", *PLAN, "--json")
    assert list(json.loads(out)["points"]) == ["s50-int8", "s80-int8"]


@pytest.mark.parametrize(("head", "name"), [("int8", "dense-int8"), ("auto", "dense-int4")])
def test_dry_run_tells_the_format_of_the_head(compress, head, name):
    code, out, _ = compress(DEMO, "--head", head, *PLAN, "--json")
    assert code == 0
    formats = {m["name"]: m["format"] for m in json.loads(out)["matrices"]}
    assert formats["backbone.embedding.weight"] == name


def start_recovery(model: Path, folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """The real command, as far as its first step of recovery; its cache is in `folder`."""
    process = subprocess.Popen(
        [*COMMAND, str(model), "--out", str(folder / "out" / "bundle"), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(folder / "cache")},
        preexec_fn=accept_interrupts,
    )
    assert process.stderr is not None
    seen = ""
    while "recovery" not in seen and (line := process.stderr.readline()):
        seen += line
    return process, seen


@pytest.fixture
def recipe_of(monkeypatch, tmp_path):
    """The recipe that a command line makes: words, "compress" first -> Recipe."""
    monkeypatch.chdir(tmp_path)

    def parse(arguments):
        seen = []
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(cli, "_act", lambda sweep, *_: seen.append(sweep.recipe) or 0)
        with pytest.raises(SystemExit):
            cli.main()
        return seen[0]

    return parse


def test_options_override_the_named_recipe(recipe_of):
    prune, recover = named_recipe("wikitext")
    assert (prune.alpha, recover.muon) == (0.5, True)
    recipe = recipe_of(["compress", str(DEMO), "--recipe", "wikitext", "--alpha", "2"])
    assert recipe.prune == replace(prune, alpha=2.0)
    assert recipe.recover == recover


@pytest.mark.parametrize("text", ["0.7", "70", "70%", "70.0 %"])
def test_a_sparsity_in_percent_is_one(recipe_of, text):
    assert recipe_of(["compress", str(DEMO), "--sparsity", text]).prune.sparsity == 0.7
    assert recipe_of(["compress", str(DEMO), "--sparsity", "1%"]).prune.sparsity == 0.01


def test_a_gpu_is_cuda(recipe_of):
    assert recipe_of(["compress", str(DEMO), "--compute", "gpu"]).recover.compute is Compute.CUDA
    assert RecoverSettings(compute="gpu").compute is Compute.CUDA


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_bundle(tmp_path, small_demo, stop):
    process, _ = start_recovery(small_demo, tmp_path)
    assert any((tmp_path / "out").iterdir()), "the staging folder should be there during the run"
    process.send_signal(stop)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted: no bundle was written" in rest
    assert not list((tmp_path / "out").iterdir())


def test_killed_run_goes_on_with_the_same_command(tmp_path, small_demo):
    arguments = shlex.split(
        "--recover 6 --evaluation-tokens 2000 --min-retention 0 --checkpoint-seconds 0 --threads 1"
    )
    process, _ = start_recovery(small_demo, tmp_path, *arguments)
    saved = tmp_path / "cache" / "ssmpress"
    while process.poll() is None and not list(saved.rglob("recovery-*.pt")):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    again, seen = start_recovery(small_demo, tmp_path, *arguments)
    assert "recovery: goes on at step" in seen
    while (line := again.stderr.readline()) and "perplexity" not in line:
        pass
    again.send_signal(signal.SIGINT)
    rest = again.communicate()[1]
    assert again.returncode == 130, rest
    assert "interrupted: no bundle was written; the same command goes on where it stopped." in rest
    last, seen = start_recovery(small_demo, tmp_path, *arguments)
    assert "recovery: was finished before" in seen
    rest = last.communicate()[1]
    assert last.returncode == 0, rest
    assert not list(saved.iterdir()), "a finished run leaves nothing in the cache"
    assert (tmp_path / "out" / "bundle" / "manifest.json").is_file()


def test_steps_is_another_name_of_recover(compress):
    code, out, _ = compress(DEMO, "--steps", "12", *PLAN, "--json")
    assert code == 0
    assert json.loads(out)["recovery"].startswith("12 steps")


SETTINGS_OF_THE_RUN_ALONE = {
    *("json", "dry-run", "plan-bytes", "version", "help", "demo", "gate", "pick"),
    *("install-completion", "show-completion"),
}
"""Options that the command in a report does not repeat: of a policy it has the limits themselves,
and test_sweep.py covers --pick."""


@pytest.mark.parametrize("name", NAMED_RECIPES)
@pytest.mark.parametrize("recover", ["7", "auto --recover-seconds 77"])
def test_the_command_in_a_report_gives_the_same_recipe(recipe_of, name, recover):
    from ssmpress.report.tables import command

    devices = {"7": "--device qemu"}.get(recover, "--skip-device-check")  # not both
    smaller = {"7": "--pruned p"}.get(recover, "--prune-state 0.25")  # not both
    data = "--tokenizer t --calibration 'a b' --evaluation e --evaluation-tokens 99"
    data = {"7": "--net n.py:mine"}.get(recover, data)  # not both
    asked = shlex.split(
        f"compress m --recipe {name} --sparsity 0.5 --sparsity-of model --method magnitude "
        f"--alpha 2 --scope layer --pattern 'block 4x1' --prunable in_proj --recover {recover} "
        "--compute cpu --distill 0.5 --mask-every 3 --match-hidden 0.25 --accumulate 2 "
        f"--muon --deterministic --activation-checkpointing --checkpoint-seconds 9 {smaller} "
        f"--values fp16 --head int4 --keep-dead-channels --target arm64 {devices} "
        "--device-threads 2 --onnxruntime w.whl --archive --out o --save-checkpoint s "
        f"--weights-of ema {data} "
        "--baseline b.json --min-retention 0.5x --max-decode-ms 3 --min-speedup 1 "
        "--max-perplexity-increase 0.1 --max-decode-p99-ms 4 --max-bundle-bytes 5 "
        "--max-rss-bytes 6 --threads 1 --seed 3 --allow-leak"
    )
    parameters = typer.main.get_command(cli.app).params
    options = {text.lstrip("-") for p in parameters for text in p.opts if text.startswith("--")}
    left = options - {word[2:] for word in asked if word.startswith("--")} - {"steps"}
    if recover == "7":  # a number of steps has no time beside it
        left.remove("recover-seconds")
        left -= {"skip-device-check", "prune-state"}
        left -= {"tokenizer", "calibration", "evaluation", "evaluation-tokens"}
    else:
        left -= {"device", "pruned", "net"}
    assert left == SETTINGS_OF_THE_RUN_ALONE & options, "an option that this test does not give"

    recipe = recipe_of(asked)
    line = command({"recipe": recipe.to_dict()})
    assert (f"--recipe {name}" in line) == (name != "default")
    assert recipe_of(shlex.split(line)) == recipe
