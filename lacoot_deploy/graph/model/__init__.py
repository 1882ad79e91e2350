"""The model hall: files, the index of values, walks through graphs, names, and parts of models."""
