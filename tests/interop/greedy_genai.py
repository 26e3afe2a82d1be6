"""Greedy tokens by onnxruntime-genai, in a process of its own: it can end the process that it runs in.

Reads a JSON list of {"bundle", "ids", "steps", "overlay"} from stdin and writes a list of what each came to: "tokens",
"lengths" (the positions of each run, by its profile), and "prompt" (a chat message through the template).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime_genai as og


def main() -> None:
    """Answer the jobs on stdin."""
    json.dump([greedy(**job) for job in json.load(sys.stdin)], sys.stdout)


def greedy(bundle: str, ids: list[int], steps: int, overlay: dict[str, Any]) -> dict[str, Any]:
    """Tokens that follow `ids`, at most `steps`."""
    with tempfile.TemporaryDirectory() as scratch:
        config = og.Config(bundle)
        config.overlay(json.dumps(overlay))
        # the profile's path is relative to the working directory
        profile = str(Path(scratch, "profile"))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"enable_profiling": profile}}}}))
        model = og.Model(config)
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=len(ids) + steps)
        generator = og.Generator(model, parameters)
        generator.append_tokens([ids])
        tokens = []
        while not generator.is_done():
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        tokenizer = og.Tokenizer(model)
        messages = json.dumps([{"role": "user", "content": "Hello 12345"}])
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        encoded = [int(token) for token in tokenizer.encode(prompt)]
        del generator, parameters, tokenizer, model  # writes the profile
        lengths = [length for path in Path(scratch).iterdir() for length in attention_lengths(path)]
    return {"tokens": tokens, "lengths": lengths, "prompt": prompt, "ids": encoded}


def attention_lengths(profile: Path) -> list[int]:
    """How many positions each run of the first attention node computed."""
    events = [event for event in json.loads(profile.read_text()) if "attention_kernel_time" in event.get("name", "")]
    first = [event for event in events if event["name"].startswith("model.layers.0.")]
    return [int(next(iter(event["args"]["input_type_shape"][0].values()))[1]) for event in first]


if __name__ == "__main__":
    main()
