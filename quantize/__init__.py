"""TENSOR → BLOCKS: formats, methods, the plan that chooses between them, and the graph rewrite that goes with it."""
