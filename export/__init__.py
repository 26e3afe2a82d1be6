"""CHECKPOINT → GRAPHS → BUNDLE: needs the extra `export`; nothing here is imported by inference."""
