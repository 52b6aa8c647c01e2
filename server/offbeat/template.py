"""The shape of a destination's body: a JSON value in whose strings Jinja expressions may stand.

{"message": "{{ text }}", "seconds": "{{ duration_s }}", "tags": ["note", "{{ language or 'unknown' }}"]}

The JSON is parsed first and its strings are filled in afterwards, each by itself, so nothing that was said can end a
string or add a key. A string that is one expression and nothing else becomes the value with its own type. There is
no call, no loop, no multiplication and no assignment, so the time and the length of the result are at most
proportional to those of the text."""

import functools
import json
from typing import Any

import jinja2
from jinja2 import filters, nodes
from jinja2.sandbox import SandboxedEnvironment

MAX_TEMPLATE_BYTES = 16_384
MAX_DEPTH = 16
# Of values used in one template: each may be the whole text.
MAX_NAMES = 64
# Of a number after the point, and before it.
MAX_DIGITS = 15

_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.CondExpr, nodes.Name, nodes.Const, nodes.Getattr,
    nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Add,
    nodes.Sub, nodes.Div, nodes.Concat, nodes.Filter, nodes.Test, nodes.Keyword,
)  # fmt: skip


class TemplateError(ValueError):
    """A template that cannot be used; the text says where and why."""


def limit_bytes(text: object, most: int) -> str:
    """The text, cut so that it has at most that many bytes in UTF-8, with an ellipsis where it was cut."""
    content = str(text).encode("utf-8", "replace")
    if len(content) <= most:
        return content.decode()
    return content[: max(most - 3, 0)].decode("utf-8", "ignore") + "…"


def escape_slack(text: object) -> str:
    """The text with the three characters replaced that Slack takes for its own markup."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def round_number(value: Any, precision: int = 0, method: Any = "common") -> Any:
    """Jinja's own, within the digits that a number has: it computes 10 to the power of the precision."""
    return filters.do_round(value, max(-MAX_DIGITS, min(precision, MAX_DIGITS)), method)


class _Environment(SandboxedEnvironment):
    """Looks into dictionaries only, so no object's insides can be reached."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, dict) and argument in obj:
            return obj[argument]
        if isinstance(obj, str) and isinstance(argument, slice):
            return obj[argument]
        return self.undefined(obj=obj, name=argument)


def _text(value: Any) -> Any:
    return "" if value is None else value


_environment = _Environment(undefined=jinja2.StrictUndefined, finalize=_text, keep_trailing_newline=True)
_environment.globals.clear()
_environment.filters.clear()
_environment.filters.update(
    {
        "default": filters.do_default,
        "truncate": filters.do_truncate,
        "trim": filters.do_trim,
        "upper": filters.do_upper,
        "lower": filters.do_lower,
        "capitalize": filters.do_capitalize,
        "round": round_number,
        "int": filters.do_int,
        "limit_bytes": limit_bytes,
        "escape_slack": escape_slack,
    }
)
FILTERS = sorted(_environment.filters)


@functools.lru_cache(maxsize=512)
def _compiled(source: str) -> tuple[Any, bool, int]:
    """What fills in one string, whether it is one expression, and the number of values in it."""
    try:
        tree = _environment.parse(source)
        names = 0
        for node in [tree, *tree.find_all(nodes.Node)]:
            if not isinstance(node, _ALLOWED):
                raise TemplateError(f"{source!r}: {type(node).__name__} is not allowed in a template")
            names += isinstance(node, nodes.Name)
        body = tree.body[0] if len(tree.body) == 1 else None
        parts = body.nodes if isinstance(body, nodes.Output) else []
        if len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData):
            expression = source.strip().removeprefix("{{").removesuffix("}}").strip("-+")
            return _environment.compile_expression(expression, undefined_to_none=False), True, names
        return _environment.from_string(source).render, False, names
    except jinja2.TemplateError as error:
        raise TemplateError(f"{source!r}: {error}") from None
    except RecursionError:
        raise TemplateError("a string of the template is nested too deeply") from None


def _fill(template: Any, context: dict[str, Any]) -> Any:
    if isinstance(template, dict):
        return {key: _fill(value, context) for key, value in template.items()}
    if isinstance(template, list):
        return [_fill(value, context) for value in template]
    if not isinstance(template, str) or "{" not in template:
        return template
    fill, is_expression, _ = _compiled(template)
    try:
        value = fill(context) if not is_expression else fill(**context)
        if isinstance(value, jinja2.Undefined):
            str(value)  # raises, with the name in its words
    except TemplateError:
        raise
    except Exception as error:  # whatever a wrong type in an expression raises
        raise TemplateError(f"{template!r}: {error}") from None
    return value


def check(template: Any) -> None:
    """Raises TemplateError where it is no template."""
    strings: list[str] = []

    def walk(value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise TemplateError(f"the template is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(key, str) and "{{" in key:
                    raise TemplateError(f"{key!r}: expressions are for values, not for keys")
                walk(inner, depth + 1)
        elif isinstance(value, str) and "{" in value:
            strings.append(value)

    walk(template, 1)
    try:
        size_bytes = len(json.dumps(template, allow_nan=False))
    except ValueError:
        raise TemplateError("the template is not JSON") from None
    if size_bytes > MAX_TEMPLATE_BYTES:
        raise TemplateError(f"the template has more than {MAX_TEMPLATE_BYTES} bytes")
    if sum(_compiled(source)[2] for source in strings) > MAX_NAMES:
        raise TemplateError(f"the template uses more than {MAX_NAMES} values")


def render(template: Any, context: dict[str, Any]) -> str:
    """The template with its strings filled in, as JSON in ASCII. Raises TemplateError."""
    filled = _fill(template, context)
    try:
        return json.dumps(filled, allow_nan=False)
    except (TypeError, ValueError) as error:  # a value that JSON has not, a number of too many digits
        raise TemplateError(f"the template makes something that is not JSON: {error}") from None
