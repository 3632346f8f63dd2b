"""What docs/extending.md says of the package's files."""

from __future__ import annotations

import re

from paths import ROOT


def package_files(heading: str) -> set[str]:
    """The files of the package in the first column of the table below a heading, NAME and all."""
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    names = [name for cell in cells for name in re.findall(r"`([^`]+\.py)`", cell)]
    assert names, heading
    return set(names)
