"""The checkpoint that the package ships, its training and its tasks.

Boundary: `tasks`, `conversations` and `showcase` need nothing but the runtime's libraries (tasks with pictures and
recordings also fonts and espeak-ng); `train`, `batches`, `measure`, `train_media` and all `media_*` need the extra
`[train]`; `cli` needs the extra `[export]`.
"""
