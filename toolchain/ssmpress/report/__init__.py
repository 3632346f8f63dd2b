"""One result schema (`results/`, `schema.py`) and what it is rendered to.

A run fills the dataclasses of `results/`; `schema.build_report` turns them into the dictionary
that docs/report.md documents and docs/report.schema.json checks. Every output (`files.py` for JSON,
`markdown.py`, `html.py` with `charts.py`, `junit.py`, `summary.py`, `terminal.py`) reads that
dictionary and nothing else, so that a stored report can be rendered again; what they share is in
`tables.py` and `prose.py`. `manifest.py` seals the folder.
"""
