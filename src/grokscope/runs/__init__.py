"""The run-directory format: write, read, resume. ``__init__.pyi`` lists its names."""

from grokscope.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__, __file__)
__all__ = __dir__()
