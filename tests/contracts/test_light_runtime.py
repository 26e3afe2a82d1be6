"""What inference may load, seen from a fresh process: none of the packages that only export, training or tests need."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {"onnx", "onnx_ir", "torch", "transformers", "ml_dtypes", "huggingface_hub", "safetensors", "scipy"}
INFERENCE = {"numpy", "onnxruntime", "tokenizers", "jinja2"}


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_edgephi_loads_nothing() -> None:
    assert not _loaded_after("import edgephi") & (HEAVY | INFERENCE | {"PIL", "rich"})


def test_inference_loads_no_export_package() -> None:
    assert not _loaded_after("import edgephi.runtime.session, edgephi.runtime.chat, edgephi.runtime.cli.run") & HEAVY


def test_help_loads_no_numerics() -> None:
    statement = (
        "from edgephi.__main__ import main\nsys.argv = ['edgephi', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert not _loaded_after(statement) & (HEAVY | INFERENCE)


def test_onnx_runtime_is_told_to_stay_silent_before_its_import() -> None:
    code = (
        "import os, sys\nos.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print('telemetry', os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import edgephi.runtime.graphs\n"
        "import onnxruntime\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["telemetry", "1"]
