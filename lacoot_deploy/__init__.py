"""lacoot-deploy: makes trained networks shallower and proves what it cost and gained."""

__version__ = "0.1.0"
