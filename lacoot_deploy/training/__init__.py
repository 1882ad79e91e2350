"""The PyTorch stage: data, models, block hooks, penalty, loop, checkpoint, export."""
