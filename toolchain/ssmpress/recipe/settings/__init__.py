"""The settings of a run: one frozen dataclass per stage, in a file of its name."""
