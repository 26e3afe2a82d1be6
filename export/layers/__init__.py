"""The parts that families are made of: each takes a graph builder and values, appends nodes, and returns values."""
