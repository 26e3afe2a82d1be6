"""RUNTIMES THAT ARE COMPARED, OURS INCLUDED: one file a peer, each defines `PEER`.

Boundary: these files also run inside the peers' own environments, where edgephi is not installed. They import one
another and the standard library; packages of a peer are imported where they are used.
"""
