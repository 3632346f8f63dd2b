"""The version, the one that pyproject.toml states."""

__version__ = "0.1.0"
