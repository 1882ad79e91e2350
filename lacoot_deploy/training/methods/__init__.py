"""Training methods that make activations linear: which one goes, in what way, and the loop of rounds around it."""
