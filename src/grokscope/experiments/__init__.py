"""One file per figure or table: what is run and what is claimed; see ``__init__.pyi``."""

from grokscope.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__, __file__)
__all__ = __dir__()
