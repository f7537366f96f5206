"""A torchvision that is there to be imported and refuses to be used.

The one on the package index is built for CUDA and fails beside a torch for CPUs. Every submodule
can be imported and every name of it is a class; to make an object of one is an error.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.0.0"  # transformers takes no torchvision before 0.1 for one


class _Refusing(type):
    """The kind of class that any name here is."""

    def __call__(cls, *arguments: object, **named: object) -> Any:
        raise RuntimeError(f"torchvision is a stand-in here: it has no {cls.__name__}")

    def __getattr__(cls, name: str) -> Any:
        return _named(name)


def _named(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Refusing(name, (), {})


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _named(name)


class _Submodules(MetaPathFinder, Loader):
    """Finds any module below torchvision."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        within = name.startswith(f"{__name__}.")
        return ModuleSpec(name, self, is_package=True) if within else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: names are made when they are asked for."""


def __getattr__(name: str) -> Any:
    return _named(name)


sys.meta_path.append(_Submodules())
