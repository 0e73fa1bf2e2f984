"""Docstrings and base classes in the site's reference.

griffe, which reads the docstrings, knows an example only in a section of its own. In this package
examples stand below the arguments, as doctest finds them, so they are given one here. A private
base class is replaced by the public ones behind it.
"""

import re
from typing import Any

from griffe import Class, Expr, ExprName, Extension, Module, Object

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+|\n\n(?=>>> ))*", re.MULTILINE)


class Reference(Extension):
    """Change docstrings and base classes."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(_section, obj.docstring.value)

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        modules = [pkg]
        for module in modules:
            modules += [one for one in module.modules.values() if not one.is_alias]
            for one in module.classes.values():
                if not one.is_alias:
                    one.bases = _public(one)


def _section(example: re.Match[str]) -> str:
    return "Examples:\n" + re.sub("^(?=.)", "    ", example[0], flags=re.MULTILINE)


def _public(of: Class) -> list[Expr | str]:
    bases: list[Expr | str] = []
    for base in of.bases:
        private = isinstance(base, ExprName) and base.name.startswith("_")
        bases += _public(of.module[base.name]) if private else [base]
    return bases
