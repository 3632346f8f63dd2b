"""policy.toml and the flags: strict, and what is refused says what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmpress.errors import BadInputError, UsageError
from ssmpress.gate.policy import gate_settings, read_policy
from ssmpress.recipe.limit import Relative
from ssmpress.recipe.settings.gate import RULES, GateSettings


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text('min_retention = 0.97\nmax_decode_ms = "1.05x"\nmax_bundle_bytes = 5_000_000\n')
    return path


def test_numbers_and_multiples(policy: Path) -> None:
    assert read_policy(policy) == {
        "min_retention": 0.97,
        "max_decode_ms": Relative(1.05),
        "max_bundle_bytes": 5e6,
    }


def test_flags_override_the_policy(policy: Path) -> None:
    flags = {"min_retention": "0.5", "max_decode_ms": None, "min_speedup": "1.2"}
    settings = gate_settings(flags, policy, Path("b.json"), default_retention=0.95)
    assert settings == GateSettings(
        0.5, Relative(1.05), 1.2, max_bundle_bytes=5e6, baseline=Path("b.json")
    )


def test_a_policy_replaces_the_default(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("min_speedup = 2\n")
    assert gate_settings({}, tmp_path / "p.toml", None, 0.95).limits() == {"min_speedup": 2.0}
    assert gate_settings({}, None, None, 0.95).limits() == {"min_retention": 0.95}
    assert gate_settings({}, None, None).limits() == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_retentoin = 0.9", "unknown key 'min_retentoin'. Did you mean min_retention?"),
        ("max-decode-ms = 9", "Did you mean max_decode_ms?"),
        ("max_decode_p50_ms = 9", "Did you mean max_decode_ms?"),
        ("zebra = 1", "unknown key 'zebra'. A policy may set min_retention"),
        ("[gate]\nmin_retention = 1", "unknown key 'gate'"),
        ("min_speedup = nan", "min_speedup: expected a number of at least 0; got nan."),
        ("min_speedup = -1", "min_speedup: expected a number of at least 0; got -1."),
        ("baseline = 'x.json'", "unknown key 'baseline'"),
        ("min_retention = true", "expected a number, or a multiple of the baseline"),
        ("min_retention = '0.9'", "got '0.9'"),
        ("min_retention = '-1x'", "got '-1x'"),
        ("min_retention = [1]", "got [1]"),
        ("min_speedup = 1" + "0" * 400, "beyond 1e308"),
        ("", "expected at least one limit of min_retention"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_policy(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"\xff", b"min_retention =", b"a = 1\na = 2", b"x" * 2**21])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"policy\.toml: expected"):
        read_policy(path)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_policy(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["nan", "inf", "-1"])
def test_limits_are_finite_and_not_negative(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(f"min_speedup = {text}")
    with pytest.raises(UsageError, match=r"p\.toml: min_speedup: expected a number of at least 0"):
        gate_settings({}, tmp_path / "p.toml", None)


def test_a_multiple_needs_a_baseline(policy: Path) -> None:
    with pytest.raises(UsageError, match=r"max_decode_ms = 1\.05x refers to"):
        gate_settings({}, policy, None)
    with pytest.raises(UsageError, match=r"--min-speedup: .* such as 1\.05x; got 'fast'"):
        gate_settings({"min_speedup": "fast"}, None, None)


def test_every_rule_has_a_flag_in_both_commands() -> None:
    from typer.main import get_command

    from ssmpress.cli import compress as cli
    from ssmpress.cli import gate as gate_cli

    for app in (cli.app, gate_cli.app):
        options = {name for p in get_command(app).params for name in p.opts}
        assert {"--" + name.replace("_", "-") for name in RULES} <= options


def test_a_policy_without_end_is_not_read_to_it() -> None:
    with pytest.raises(BadInputError, match="/dev/zero: expected at most"):
        read_policy(Path("/dev/zero"))
