"""The capability record that every device file fills in. Standard library only: export reads it too.

Code asks a record what the device can do; nobody asks for its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["cpu", "gpu", "npu", "simulator"]


@dataclass(frozen=True)
class Plugin:
    """A provider that comes as a library of its own: `package` is the Python module whose `get_library_path()` names
    it, `distribution` what pip installs. `environment`: variables that the library reads when it is loaded. `compiler`:
    the module and its attribute that tell the version of the compiler inside, as "2.51.0". `in_catalog`: whether
    Windows ML delivers it, too, see windows_ml.py.
    """

    package: str
    distribution: str
    environment: tuple[tuple[str, str], ...] = ()
    compiler: tuple[str, str] | None = None
    in_catalog: bool = False


@dataclass(frozen=True)
class Generation:
    """One generation of a device, for which graphs are compiled ahead of time.

    `name` and `chip` are what a user may call it, `title` what its maker does. A device takes what was compiled for its
    own `version` or an older one. `options`: what the provider's compiler is told of it. `mark`: how the provider names
    it where it states which devices a compiled graph is for.
    """

    name: str
    chip: str
    title: str
    version: int
    options: tuple[tuple[str, str], ...]
    mark: str


@dataclass(frozen=True)
class Provider:
    """What one kind of device can run and how ONNX Runtime is set up for it.

    `kind`: what a user may ask for instead of a name. `activation_dtype`: dtype of activations, KV cache and logits in
    the graphs that export makes for it; `runs`: those that it can run. `block_bits`: widths of MatMulNBits weights with
    a fast kernel. `accuracy_level`: the attribute of MatMulNBits that selects the fast kernel (4 = int8 activations per
    block of a row, 0 = the activations' own dtype). `session_config`: entries of ONNX Runtime's session configuration.
    `default_threads`: how many threads to use when the user does not say.

    `lowerings`: rewrites of export/lowering/ that its graphs need, in order. `window`: positions that a graph of fixed
    shapes reads at once, None where shapes may vary. `hardware`: types of ONNX Runtime's device list that it drives.
    `plugin`: None for a provider inside ONNX Runtime itself. `install`: the next step where it is missing. `options`:
    of the provider. `leaves_to_cpu`: operators that it is known to leave to the CPU, which is reported; any other that
    it leaves is an error. `padded_blocks`: whether the last block of a row may be padded.
    `memory_pattern`: whether ONNX Runtime may plan its memory ahead. `largest_block`: of weights in blocks.
    `screens_head`: whether its graphs may find logits in two stages, see quantize/screening.py.
    `maps_weights`: whether it can use weights that prepacked.py wrote to a file. `memory`: what ONNX Runtime calls the
    device's own memory, where keys and values stay; None where it computes in the host's. `widest`: the most positions
    of a step that its kernels compute rightly, None where there is no such limit. `fused_products`: whether it has the
    operator FusedMatMul. `stand_ins`: names of other providers that serve alike where `ort_name` is not there.

    `generations`: those that graphs can be compiled for ahead of time. `generation`: the one that this record stands
    for, None where the device itself is asked. `compiles_on`: types of hardware that the compiler runs on, and
    `compiler_options` its own. `shares_weights`: whether it opens compiled graphs that have one set of weights.
    `prints`: whether its library writes to stdout while a graph is opened.
    """

    name: str
    kind: Kind
    ort_name: str
    activation_dtype: str
    runs: tuple[str, ...]
    block_bits: tuple[int, ...]
    accuracy_level: int
    session_config: tuple[tuple[str, str], ...]
    default_threads: Callable[[], int]
    hardware: tuple[str, ...]
    install: str
    lowerings: tuple[str, ...] = ()
    window: int | None = None
    plugin: Plugin | None = None
    options: tuple[tuple[str, str], ...] = ()
    leaves_to_cpu: tuple[str, ...] = ()
    padded_blocks: bool = True
    memory_pattern: bool = True
    maps_weights: bool = False
    largest_block: int = 128
    screens_head: bool = False
    memory: str | None = None
    widest: int | None = None
    fused_products: bool = True
    stand_ins: tuple[str, ...] = ()
    generations: tuple[Generation, ...] = ()
    generation: Generation | None = None
    compiles_on: tuple[str, ...] = ()
    compiler_options: tuple[tuple[str, str], ...] = ()
    shares_weights: bool = True
    prints: bool = False

    def __post_init__(self) -> None:
        for dtype in (self.activation_dtype, *self.runs):
            if dtype not in ("float32", "float16"):
                raise ValueError(f"provider {self.name}: activation dtype {dtype!r} is not float32 or float16")
        if self.activation_dtype not in self.runs:
            raise ValueError(f"provider {self.name}: does not run the {self.activation_dtype} that is made for it")
        if not set(self.block_bits) <= {2, 4, 8}:
            raise ValueError(f"provider {self.name}: block bits {self.block_bits} must be among 2, 4, 8")
        if self.window is not None and self.window < 2:
            raise ValueError(f"provider {self.name}: a window of {self.window} positions; 2 or more are needed")

    @property
    def fixed_shapes(self) -> bool:
        """Whether its graphs have fixed shapes alone, without branches."""
        return self.window is not None

    @property
    def engines(self) -> tuple[str, ...]:
        """What ONNX Runtime may call the provider that serves."""
        return (self.ort_name, *self.stand_ins)

    def is_called(self, engine: str) -> bool:
        """Whether this is one of `engines`, which ONNX Runtime and Windows ML spell in different cases."""
        return engine.casefold() in {name.casefold() for name in self.engines}

    def refusal(self, made_for: Provider) -> str | None:
        """Why graphs that were made for another device cannot run here, None where they can."""
        if made_for.activation_dtype not in self.runs:
            return f"it computes in {' or '.join(self.runs)}, the bundle in {made_for.activation_dtype}"
        missing = [lowering for lowering in self.lowerings if lowering not in made_for.lowerings]
        if missing:
            return f"it needs graphs with {', '.join(missing)}, and the bundle is made for {made_for.name!r}"
        return None

    def find_generation(self, name: str) -> Generation | None:
        """The generation that a user calls `name`, in letters of any case."""
        wanted = name.strip().lower()
        return next((item for item in self.generations if wanted in (item.name, item.chip.lower())), None)

    def for_generation(self, generation: Generation) -> Provider:
        """This device in one generation."""
        told = {name for name, _ in generation.options}
        options = (*(option for option in self.options if option[0] not in told), *generation.options)
        return replace(self, generation=generation, options=options)

    def compiler(self, generation: Generation) -> Provider:
        """What compiles graphs for one generation of this device."""
        made = self.for_generation(generation)
        return replace(made, hardware=self.compiles_on, options=(*made.options, *self.compiler_options))

    def configured(self, *entries: tuple[str, str]) -> Provider:
        """This device with further entries of ONNX Runtime's session configuration."""
        return replace(self, session_config=(*self.session_config, *entries))
