"""Names on the command line and what they mean; light, so that `--help` loads no mathematics."""

from __future__ import annotations

from collections.abc import Collection

from lacoot_deploy.errors import UsageError

BLOCK_CRITERIA = {
    "mswd": "max-sliced Wasserstein distance over random directions (LaCoOT)",
    "mswd-ascent": "the same, its direction optimised",
    "paired": "relative RMS difference of output and input, per sample",
    "cosine": "1 - mean cosine of input and output (ShortGPT)",
    "output": "divergence of the network's output when the block is gone",
    "loss": "the loss on labelled data when the block is gone",
    "latency": "harm to the loss (or output) per millisecond that the block takes",
    "random": "a random order: the control",
}

ACTIVATION_CRITERIA = {
    "entropy": "entropy of the sign of what goes in, mean over channels (EASIER)",
    "gaussian": "share of values outside the linear piece that each channel mostly is on (TLC)",
    "slope": "distance of the slope from 1, else what the best affine fit leaves (LayerCollapse)",
    "output": "divergence of the network's output when this activation alone is linear",
}

SEARCHES = ("ranked", "greedy")
REPAIRS = ("none", "affine", "linear", "auto")
FORMS = ("auto", "bypass", "shortcut")
GRANULARITIES = ("block", "unit")
PRIVATE_IO = ("keep", "drop", "renumber")
FITS = ("identity", "affine", "pieces")
MERGES = ("always", "cheaper", "measured", "never")


def known(kind: str, name: str, names: Collection[str]) -> str:
    """The name, if it is one of those.

    Args:
        kind: What it is a name of, in words.
        name: The name.
        names: Those that there are.

    Raises:
        UsageError: It is none.
    """
    if name not in names:
        raise UsageError(f"There is no {kind} {name!r}; choose one of {', '.join(names)}.")
    return name


def block_criterion(name: str) -> str:
    """The name, if it is that of a criterion for blocks.

    Raises:
        UsageError: It is none.
    """
    if name in ACTIVATION_CRITERIA and name not in BLOCK_CRITERIA:
        raise UsageError(f"The criterion {name!r} scores activations: give --linearise.")
    return known("criterion", name, BLOCK_CRITERIA)


def activation_criterion(name: str) -> str:
    """The name, if it is that of a criterion for activations.

    Raises:
        UsageError: It is none.
    """
    return known("criterion for activations", name, ACTIVATION_CRITERIA)
