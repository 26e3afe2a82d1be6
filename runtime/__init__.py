"""BUNDLE → SESSION → TOKENS: everything that inference needs, and nothing that export needs."""
