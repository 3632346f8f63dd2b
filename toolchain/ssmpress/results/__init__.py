"""What a run found out, as frozen dataclasses: the inputs of the report."""
