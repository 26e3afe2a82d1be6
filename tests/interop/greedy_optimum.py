"""Greedy tokens by optimum's ORTModelForCausalLM, in a process whose packages are those that optimum asks for.

Reads a JSON list of {"bundle", "file", "ids", "steps"} from stdin and writes the list of tokens of each.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any


def main() -> None:
    """Answer the jobs on stdin."""
    jobs = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answers = [greedy(**job) for job in jobs]
    json.dump(answers, sys.stdout)


def greedy(bundle: str, file: str | None, ids: list[int], steps: int) -> list[int]:
    """Tokens that follow `ids`, at most `steps`."""
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(bundle)
    names: dict[str, Any] = {} if file is None else {"file_name": file}
    model: Any = ORTModelForCausalLM.from_pretrained(bundle, **names)
    prompt = torch.tensor([ids])
    answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=steps, do_sample=False)
    found: list[int] = answer[0, len(ids):].tolist()
    return found


if __name__ == "__main__":
    main()
