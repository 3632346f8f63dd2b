"""The data of calibration, recovery and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssmpress.recipe.option import (
    Option,
    Panel,
    at_least,
    check_settings,
)


@dataclass(frozen=True)
class DataSettings:
    """Text for calibration, recovery and evaluation; none means the default text."""

    tokenizer: Annotated[
        Path | None,
        Option(
            "tokenizer.json, or vocab.json with merges.txt beside it, or SentencePiece's "
            "tokenizer.model; by default the one beside the weights.",
            Panel.DATA,
            metavar="FILE",
        ),
    ] = None
    calibration: Annotated[
        tuple[Path, ...],
        Option(
            "Text (plain, .xz, .gz) or token ids (.npy) to calibrate and recover on; may be given "
            "several times. By default Python's language manual, which every machine has. For a "
            "classifier labelled texts (.jsonl, .csv, .tsv with `text` and `label`, .npz), for a "
            "forecaster a CSV file of the series.",
            Panel.DATA,
            metavar="FILE",
        ),
    ] = ()
    evaluation: Annotated[
        tuple[Path, ...],
        Option(
            "Text, labelled texts or series to evaluate on, disjoint from --calibration; may be "
            "given several times.",
            Panel.DATA,
            metavar="FILE",
        ),
    ] = ()
    evaluation_tokens: Annotated[
        int | None,
        Option(
            "Evaluate at most this many tokens.",
            Panel.DATA,
            unit="tokens",
            check=at_least(2),
            default="all",
        ),
    ] = None
    window: Annotated[
        int,
        Option(
            "Tokens per evaluation window; windows do not overlap, each starts from the zero "
            "state.",
            unit="tokens",
            check=at_least(2, "tokens"),
        ),
    ] = 1024
    allow_leak: Annotated[
        bool,
        Option(
            "Let recovery train on data that --evaluation holds too; the verdict says so.",
            Panel.DATA,
        ),
    ] = False

    def __post_init__(self) -> None:
        check_settings(self)
