"""What ratings mean: pure functions of arrays, each with its definition and its source."""
