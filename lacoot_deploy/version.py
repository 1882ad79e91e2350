"""The version of this package, and the name under which it signs what it writes."""

__version__ = "0.1.0"

PRODUCER = f"lacoot-deploy {__version__}"
