"""Finds what a dotted name of a release stands for, through imports, aliases and base classes."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Union

from glmc_engines.surface.bindings import FUNCTIONS, Binding, Imported, Value
from glmc_engines.surface.release import Sources
from glmc_engines.surface.scopes import class_scope, last_name
from glmc_engines.surface.signature import Signature

_DEPTH = 40  # imports that lead to imports; a circle ends here
_PROPERTIES = ("property", "cached_property", "setter", "getter", "deleter", "lazy_property")


@dataclass(frozen=True)
class Module:
    """A module of the release."""

    name: str

    @property
    def home(self) -> str:
        return self.name


@dataclass(frozen=True)
class Class:
    """A class, in the module that defines it."""

    module: str
    path: str
    node: ast.ClassDef

    @property
    def home(self) -> str:
        return f"{self.module}.{self.path}"


@dataclass(frozen=True)
class Member:
    """A function or a value of a module, or of ``owner``, a class that may be a base."""

    module: str
    path: str
    bound: ast.FunctionDef | ast.AsyncFunctionDef | Value
    owner: Class | None = None

    @property
    def home(self) -> str:
        return f"{self.module}.{self.path}"

    @property
    def is_attribute(self) -> bool:
        """Whether it is read and not called."""
        if isinstance(self.bound, Value):
            return True
        return any(last_name(each) in _PROPERTIES for each in self.bound.decorator_list)

    def signature(self) -> Signature | None:
        """Its parameters, without ``self`` or ``cls``; None for what is read."""
        if isinstance(self.bound, Value) or self.is_attribute:
            return None
        static = any(last_name(each) == "staticmethod" for each in self.bound.decorator_list)
        bound = self.owner is not None and not static
        return Signature.of(self.bound.args, bound=bound)


Thing = Union[Module, Class, Member]


@dataclass(frozen=True)
class Missing:
    """How far a dotted name led, and what is left of it."""

    reached: Thing | None
    rest: tuple[str, ...]


class Lookup:
    """Names of one release."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def find(self, name: str) -> Thing | Missing:
        """What the name stands for."""
        first, *rest = name.split(".")
        if first != self.sources.release.name:
            return Missing(None, (first, *rest))
        return self.follow(Module(first), tuple(rest))

    def follow(self, thing: Thing, rest: tuple[str, ...]) -> Thing | Missing:
        """The member of a member, and so on."""
        for place, part in enumerate(rest):
            following = self.member(thing, part)
            if following is None:
                return Missing(thing, rest[place:])
            thing = following
        return thing

    def member(self, thing: Thing, name: str, depth: int = 0) -> Thing | None:
        """What ``thing.name`` is."""
        if depth > _DEPTH:
            return None
        if isinstance(thing, Module):
            return self._of_module(thing.name, name, depth + 1)
        if isinstance(thing, Class):
            return self._of_class(thing, name, depth + 1)
        kind = self._type_of(thing, depth + 1)
        return None if kind is None else self._of_class(kind, name, depth + 1)

    def is_foreign(self, thing: Thing | None) -> bool:
        """Whether it is a value of which the release does not tell the class."""
        return isinstance(thing, Member) and thing.is_attribute and self._type_of(thing, 0) is None

    def bases(self, kind: Class, depth: int = 0) -> list[Class]:
        """The base classes that are of this release, in order."""
        found = [self.resolve(kind.module, base, depth + 1) for base in kind.node.bases]
        return [each for each in found if isinstance(each, Class) and each != kind]

    def names(self, kind: Class) -> set[str]:
        """The names of all members of a class."""
        return set(class_scope(kind.node, kind.module).names).union(
            *(self.names(base) for base in self.bases(kind))
        )

    def resolve(self, module: str, node: ast.expr | None, depth: int = 0) -> Thing | None:
        """What an expression of a module names: ``x.Y``, ``Y[...]``, ``Y | None``, ``"Y"``."""
        if depth > _DEPTH or node is None:
            return None
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                return self.resolve(module, ast.parse(node.value, mode="eval").body, depth + 1)
            except SyntaxError:
                return None
        if isinstance(node, ast.Name):
            return self._of_module(module, node.id, depth + 1)
        if isinstance(node, ast.Attribute):
            thing = self.resolve(module, node.value, depth + 1)
            return None if thing is None else self.member(thing, node.attr, depth + 1)
        if isinstance(node, ast.BinOp):
            left = self.resolve(module, node.left, depth + 1)
            return left or self.resolve(module, node.right, depth + 1)
        if isinstance(node, ast.Subscript):
            wrapper = last_name(node.value) in ("Optional", "ClassVar", "Final", "type")
            return self.resolve(module, node.slice if wrapper else node.value, depth + 1)
        return None

    def _of_module(self, module: str, name: str, depth: int) -> Thing | None:
        scope = self.sources.scope(module)
        if scope is None or depth > _DEPTH:
            return None
        binding = scope.best(name)
        if binding is not None:
            found = self._bound(module, name, binding, None, depth)
            if found is not None:
                return found
        if self.sources.release.file(f"{module}.{name}") is not None:
            return Module(f"{module}.{name}")
        for star in scope.stars:
            found = self._of_module(star, name, depth + 1)
            if found is not None:
                return found
        return None

    def _of_class(self, kind: Class, name: str, depth: int) -> Thing | None:
        if depth > _DEPTH:
            return None
        binding = class_scope(kind.node, kind.module).best(name)
        if binding is not None:
            return self._bound(kind.module, f"{kind.path}.{name}", binding, kind, depth)
        for base in self.bases(kind, depth):
            found = self._of_class(base, name, depth + 1)
            if found is not None:
                return found
        return None

    def _bound(
        self, module: str, path: str, binding: Binding, owner: Class | None, depth: int
    ) -> Thing | None:
        bound = binding.bound
        if isinstance(bound, Imported):
            return self._imported(module, path, bound, depth)
        if isinstance(bound, ast.ClassDef):
            return Class(module, path, bound)
        if isinstance(bound, FUNCTIONS):
            return Member(module, path, bound, owner)
        # Another name for a class or function of the release is that class or function.
        alias = bound.value if isinstance(bound.value, (ast.Name, ast.Attribute)) else None
        named = None if owner else self.resolve(module, alias, depth + 1)
        if isinstance(named, (Class, Module)) or (named and not named.is_attribute):
            return named
        return Member(module, path, bound, owner)

    def _imported(self, module: str, path: str, bound: Imported, depth: int) -> Thing | None:
        package = self.sources.release.name
        if bound.module.split(".")[0] != package:
            # What comes from another distribution is there, and nothing more is known of it.
            return Member(module, path, Value(None, None, 0))
        source = Module(bound.module)
        if not bound.name:
            return source if self.sources.release.file(bound.module) is not None else None
        if bound.module == module and self.sources.release.file(f"{module}.{bound.name}"):
            return Module(f"{module}.{bound.name}")
        return self._of_module(bound.module, bound.name, depth + 1)

    def _type_of(self, member: Member, depth: int) -> Class | None:
        """The class of a value, as its annotation or the call that makes it says."""
        bound = member.bound
        if isinstance(bound, FUNCTIONS):
            found = (
                self.resolve(member.module, bound.returns, depth) if member.is_attribute else None
            )
        else:
            call = bound.value.func if isinstance(bound.value, ast.Call) else None
            found = self.resolve(member.module, bound.annotation or call, depth)
        return found if isinstance(found, Class) else None
