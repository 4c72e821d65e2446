"""The commands: each reads its options, calls its stage, and prints the result. Nothing here loads torch."""
