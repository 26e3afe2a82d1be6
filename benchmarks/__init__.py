"""MEASURES BUNDLES, OURS AND PEERS', and makes what is measured; results/ holds what it found and the README quotes it.

Boundary: runs the product as its users do, in processes of its own; nothing of the product imports it.
"""
