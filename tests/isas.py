"""The kernel sets that `SSMPRESS_ISA` may name on each machine; a CPU may lack some."""

from __future__ import annotations

ISAS_BY_MACHINE = {
    "x86_64": ("scalar", "avx2", "avx512"),
    "aarch64": ("scalar", "neon", "dotprod"),
}
