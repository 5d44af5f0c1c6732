"""Real datasets: one reader a file behind the interface of `reader`, and the embedded procedural scenes."""
