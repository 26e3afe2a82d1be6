"""Templates written to hang, to fill the memory or to get out: each is refused, at once and by a template error."""

from __future__ import annotations

import jinja2
import pytest

from edgephi.runtime.sandbox import Template

MESSAGES = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Ho"}]
ALLOWED = {
    "{% for m in messages %}{{ loop.index ~ m.content|trim }}{% if not loop.last %},{% endif %}{% endfor %}": "1Hi,2Ho",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role[0] }}{% break %}{% endfor %}": "a",
    "{{ x|tojson }}": '{"a": "<é"}',
    "{{ x|tojson(indent=1) }}": '{\n "a": "<é"\n}',
    "{% set ns = namespace(n=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}": "3",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join('+') }}": " Hi ",
    "{{ messages[0]['content'].replace('H', 'J').strip().split('i')[0] }}": "J",
    "{{ messages[-1].content.startswith('H') and 'o' in messages[1].content }}": "True",
    "{% generation %}\nbody{% endgeneration %}": "body",
    "{% for i in range(2, 8, 3) %}{{ i % 2 }}{% endfor %}{{ missing }}|{{ none }}": "01|None",
    "{{ messages|length }}{{ messages[1:]|first|items|list|length }}": "22",
    "  {%- if true %}\n  a\n  {%- endif %}\nb": "  ab",
}
REFUSED = {
    "a range of many steps": "{% for i in range(999999999) %}{% endfor %}",
    "nested loops": "{% for i in range(3000) %}{% for i in range(3000) %}{% endfor %}{% endfor %}",
    "a power": "{{ 9 ** 999999 }}",
    "a string multiplied": "{{ 'x' * 9999999999 }}",
    "a wide format": "{{ '{:>999999999}'.format(1) }}",
    "a wide directive": "{{ '%999999999d' % 1 }}",
    "padding": "{{ 'x'.ljust(9999999999) }}",
    "centring": "{{ 'x'|center(9999999999) }}",
    "doubling by ~": "{% set x = 'aaaaaaaa' %}" + "{% set x = x ~ x %}" * 60,
    "doubling by +": "{% set x = 'aaaaaaaa' %}" + "{% set x = x + x %}" * 60,
    "doubling by join": "{% set x = 'aaaaaaaa' %}" + "{% set x = [x, x]|join %}" * 60,
    "doubling by str.join": "{% set x = 'aaaaaaaa' %}" + "{% set x = x.join([x, x]) %}" * 60,
    "doubling by replace": "{% set x = 'aaaaaaaa' %}" + "{% set x = x.replace('a', 'aa') %}" * 60,
    "doubling by a filter": "{% set x = 'aaaaaaaa' %}" + "{% set x = x|replace('a', 'aa') %}" * 60,
    "doubling lists, shown": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "doubling lists, as JSON": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x|tojson }}",
    "doubling lists, joined": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x|join }}",
    "doubling lists, by ~": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ 'a' ~ x }}",
    "growth by loop": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "many long outputs": "{% for i in range(100000) %}" + "text" * 20 + "{% endfor %}",
    "numbers that grow": "{% set x = 99999999999 %}{% set x = x * x %}",
    "a wide indent": "{{ [1]|tojson(indent=999999999) }}",
    "lorem ipsum": "{{ lipsum(n=100000) }}",
    "a macro calling itself": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for x in [messages] recursive %}{{ loop([x]) }}{% endfor %}",
    "including a file": "{% include '/etc/passwd' %}",
    "importing a file": "{% import 'x' as y %}",
    "classes": "{{ messages.__class__.__mro__ }}",
    "globals of a function": "{{ raise_exception.__globals__['x'] }}",
    "undoing entities": "{{ '&lt;|end|&gt;'|striptags }}",
    "changing a message": "{{ messages.append(1) }}",
    "a long strftime": "{{ strftime_now('%999999999d') }}",
    "deep nesting": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "deep parentheses": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "too much text": " " * 300_000,
    "an unknown filter": "{{ 'x'|urlize }}",
    "broken syntax": "{% for %}",
    "its own exception": "{{ raise_exception('no system message') }}",
}


@pytest.mark.parametrize("source", ALLOWED)
def test_what_chat_templates_use_works(source: str) -> None:
    assert Template(source).render({"messages": MESSAGES, "x": {"a": "<é"}, "none": None}, 100) == ALLOWED[source]


@pytest.mark.parametrize("case", REFUSED)
def test_what_harms_is_refused(case: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        Template(REFUSED[case]).render({"messages": MESSAGES}, 100)


def test_long_chats_are_not_harm() -> None:
    messages = [{"role": "user", "content": "x" * 200_000}] * 20
    source = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content']|trim + '<|end|>' }}{% endfor %}"
    text = Template(source).render({"messages": messages}, 4_000_000)
    assert len(text) == 20 * (200_000 + len("<|user|><|end|>"))


def test_what_a_template_reads_is_known() -> None:
    template = Template("{{ enable_thinking }}{{ message['tools'] }}{{ message.name }}")
    assert template.variables == {"enable_thinking", "message"} and template.keys == {"tools", "name"}
