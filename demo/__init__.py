"""The checkpoint that the package ships, its training and its tasks.

Boundary: `tasks`, `conversations` and `showcase` need nothing but the runtime's libraries; `train`, `batches` and
`measure` need the extra `[train]`; `cli` needs the extra `[export]`.
"""
