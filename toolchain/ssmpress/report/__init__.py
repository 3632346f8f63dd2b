"""One result schema (`results.py`, `schema.py`) and what it is rendered to.

A run fills the dataclasses of `results.py`; `schema.build_report` turns them into the dictionary
that docs/report.md documents and docs/report.schema.json checks; every output (`files.py` for
JSON, `markdown.py`, `terminal.py`) reads that dictionary and nothing else, so that a stored
report can be rendered again. `manifest.py` seals the folder.
"""
