"""Chat templates for tests: of different families, none of them the embedded model's."""

from __future__ import annotations

TOOLS = r"""{%- if tools %}{{- '<|im_start|>system\nYou can call tools:\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.content %}{{- m.content }}{%- endif %}
{%- for call in m.tool_calls or [] %}
{{- '<tool_call>\n{"name": ' }}{{- call.function.name | tojson }}{{- ', "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
"""Knows tools."""

BRACKETS = """{%- for m in messages %}
{%- if m.role == 'system' %}<<SYS>> {{ m.content }} <</SYS>>
{%- elif m.role == 'user' %}[INST] {{ m.content }} [/INST]
{%- else %} {{ m.content }}{{ eos_token }}{% endif %}
{%- endfor %}"""
"""No mark where the answer begins."""

NO_SYSTEM = """{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('System messages are not supported') }}{% endif %}
<turn:{{ m.role }}>
{{ m.content | trim }}
{%- endfor %}
{%- if add_generation_prompt %}
<turn:assistant>
{% endif %}"""
"""Refuses a system message."""
