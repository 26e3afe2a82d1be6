"""Jinja for templates nobody has read: no way out of the template, and a bound on its work.

Boundary: template text and plain data in, text out; knows nothing of chats or tokens. Jinja's own sandbox keeps a
template from reaching Python, but neither from looping for hours nor from building gigabytes. Here a template is
checked when it is compiled (only statements, filters and methods that chat templates need) and pays for every loop
step and every character that it makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAXIMUM_SOURCE = 256 << 10
# One unit is a loop step or a character made; a long chat costs a few units per character.
FREE_WORK = 4 << 20
WORK_PER_CHARACTER = 64

# A space keeps a template from naming it.
_BUDGET = "work budget"
_FILTERS = frozenset(
    "abs capitalize count d default dictsort first float int items join last length list lower map max min reject "
    "rejectattr reverse round safe select selectattr sort string title trim unique upper".split()
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize count endswith find index isalnum isalpha isdigit isspace join lower lstrip partition removeprefix "
        "removesuffix replace rfind rpartition rsplit rstrip split splitlines startswith strip title upper".split()
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
_NODES = frozenset(
    "Add And Assign AssignBlock Break Call Compare Concat CondExpr Const Continue Dict Div ExprStmt Filter FloorDiv "
    "For Getattr Getitem If Keyword List Mod Mul NSRef Name Neg Not Operand Or Output Pair Pos Scope Slice Sub "
    "Template TemplateData Test Tuple With".split()
)
_DIRECTIVES = re.compile(r"(?:[^%]|%[aAbBcdfHIjmMpSUwWxXyYzZ%]){0,200}")


class Template:
    """A compiled template. Raises jinja2.TemplateError for one that is malformed or uses what is not allowed."""

    def __init__(self, source: str) -> None:
        if len(source) > MAXIMUM_SOURCE:
            raise jinja2.TemplateSyntaxError(f"{len(source)} characters, at most {MAXIMUM_SOURCE} are allowed", 1)
        environment = _environment()
        try:
            tree = environment.parse(source)
            _lint(tree)
            self.source = source
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            self.keys = _keys(tree)
            self.constants = _constants(tree)
            _Metering(environment).visit(tree)
            tree.set_environment(environment)
            self._template = environment.from_string(tree)
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise jinja2.TemplateSyntaxError(f"it is nested too deeply ({type(error).__name__})", 1) from error

    def render(self, variables: Mapping[str, object], characters: int) -> str:
        """The text for `variables`, which hold about `characters` characters: that many more are allowed.

        Raises jinja2.TemplateError, or whatever Python raises for a wrong operand.
        """
        budget = _Budget(FREE_WORK + WORK_PER_CHARACTER * characters)
        pieces = []
        for piece in self._template.generate({**variables, _BUDGET: budget}):
            budget.spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)


class _Budget:
    """Work that one rendering may still do."""

    def __init__(self, work: int) -> None:
        self._granted = self._left = work

    def spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise jinja2.exceptions.SecurityError(f"it does more than {self._granted} units of work on these messages")

    def weigh(self, value: object) -> None:
        """Pay for everything inside `value`: lists that hold one another can stand for far more than they occupy."""
        waiting: list[object] = [value]
        while waiting:
            item = waiting.pop()
            self.spend(len(item) + 1 if isinstance(item, str) else 1)
            if isinstance(item, Mapping):
                waiting.extend(item.keys())
                waiting.extend(item.values())
            elif isinstance(item, list | tuple):
                waiting.extend(item)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with every operator and call metered, and methods allowed by name."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str | list | tuple):
            _budget(context).spend(len(left) + (len(right) if isinstance(right, str | list | tuple) else 0))
        elif not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise jinja2.exceptions.SecurityError(
                f"'{operator}' between {type(left).__name__} and {type(right).__name__} is not allowed"
            )
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) >> 63:
            raise jinja2.exceptions.SecurityError("a number beyond 64 bits is not allowed in a chat template")
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_") or not super().is_safe_attribute(obj, attr, value):
            return False
        return isinstance(obj, LoopContext | Namespace) or any(
            attr in _METHODS[kind] for kind in _METHODS if isinstance(obj, kind)
        )

    def wrap_str_format(self, value: Any) -> None:
        """No `format` at all: a width of nine digits is a string of a gigabyte, and `{:c}` makes any character."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, budget = getattr(__obj, "__self__", None), _budget(__context)
        if isinstance(owner, str):
            if __obj.__name__ == "replace":
                return _replace(budget, owner, *args)
            if __obj.__name__ == "join":
                return _join(budget, args[0], owner)
            budget.spend(len(owner))
        return super().call(__context, __obj, *args, **kwargs)


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training only: its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Metering(NodeTransformer):
    """Sends what loops run over, and what `~` joins, through filters that pay for it."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_steps", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        node.nodes = [nodes.Filter(part, "_text", [], [], None, None, lineno=node.lineno) for part in node.nodes]
        return node


def _environment() -> _Environment:
    # The settings that transformers renders chat templates with: chat_template_utils.py of transformers 5.24.
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[_Generation, loopcontrols],
        finalize=_finalize,
        cache_size=0,
    )
    environment.filters = {
        name: _metered(function) for name, function in environment.filters.items() if name in _FILTERS
    }
    environment.filters |= {"join": _join_filter, "replace": _replace_filter, "tojson": _tojson, "string": _text}
    environment.filters |= {"_steps": _steps, "_text": _text}
    environment.globals = {
        "dict": _dict,
        "namespace": _namespace,
        "raise_exception": _raise_exception,
        "range": _range,
        "strftime_now": _strftime_now,
    }
    return environment


def _lint(tree: nodes.Template) -> None:
    for node in tree.find_all(nodes.Node):
        name, line = type(node).__name__, node.lineno
        if name not in _NODES:
            raise jinja2.TemplateSyntaxError(f"'{name}' is not allowed in a chat template", line)
        if isinstance(node, nodes.For) and node.recursive:
            raise jinja2.TemplateSyntaxError("a recursive loop is not allowed in a chat template", line)


def _keys(tree: nodes.Template) -> frozenset[str]:
    """Every key that the template reads by name, as `a['key']` or `a.key`."""
    found = {node.attr for node in tree.find_all(nodes.Getattr)}
    subscripts = [node.arg for node in tree.find_all(nodes.Getitem)]
    return frozenset(
        found | {arg.value for arg in subscripts if isinstance(arg, nodes.Const) and isinstance(arg.value, str)}
    )


def _constants(tree: nodes.Template) -> frozenset[str]:
    """Every piece of text that the template itself holds."""
    data = {node.data for node in tree.find_all(nodes.TemplateData)}
    return frozenset(data | {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)})


def _budget(context: Context) -> _Budget:
    budget = context.get(_BUDGET)
    assert isinstance(budget, _Budget)
    return budget


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja that pays for the value it is given."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @jinja2.pass_context
    def filtered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        _budget(context).spend(len(value) if isinstance(value, str | list | tuple | Mapping) else 1)
        contexts = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        first = (contexts[passed],) if passed else ()
        return function(*first, value, *args, **kwargs)

    return filtered


@jinja2.pass_context
def _steps(context: Context, value: Iterable[Any]) -> list[Any]:
    items = list(value)
    _budget(context).spend(len(items))
    return items


@jinja2.pass_context
def _text(context: Context, value: Any) -> str:
    _budget(context).weigh(value)
    return str(value)


@jinja2.pass_context
def _finalize(context: Context, value: Any) -> Any:
    _budget(context).weigh(value)
    return value


@jinja2.pass_context
def _join_filter(context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = [context.environment.getitem(item, attribute) for item in value]
    return _join(_budget(context), value, d)


def _join(budget: _Budget, value: Iterable[Any], separator: str) -> str:
    parts = list(value)
    budget.weigh(parts)
    budget.spend(len(parts) * len(separator))
    return separator.join(map(str, parts))


@jinja2.pass_context
def _replace_filter(context: Context, value: Any, old: str, new: str, count: int | None = None) -> str:
    return _replace(_budget(context), str(value), str(old), str(new), -1 if count is None else count)


def _replace(budget: _Budget, text: str, old: str, new: str, count: int = -1) -> str:
    budget.spend(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


@jinja2.pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= 16:
        raise jinja2.exceptions.SecurityError(f"tojson(indent={indent}) is not allowed; 0 to 16 are")
    _budget(context).weigh(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _range(*bounds: int) -> range:
    steps = range(*bounds)
    if len(steps) > FREE_WORK:
        raise jinja2.exceptions.SecurityError(f"range of {len(steps)} steps; at most {FREE_WORK} are allowed")
    return steps


def _dict(**items: Any) -> dict[str, Any]:
    return items


def _namespace(**items: Any) -> Namespace:
    return Namespace(items)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if not _DIRECTIVES.fullmatch(form):
        raise jinja2.exceptions.SecurityError(f"strftime_now({form!r:.60}) is not allowed: plain directives only")
    return datetime.now().strftime(form)
