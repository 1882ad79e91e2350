"""The shapes hall: shapes of values without running the model."""
