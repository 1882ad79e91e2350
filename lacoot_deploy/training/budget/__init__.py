"""Training under a memory budget: what a channel costs, which are chosen, and layers that keep only those."""
