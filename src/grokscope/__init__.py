"""See inside training: the geometry of a network while it learns.

The public interface is what ``__init__.pyi`` lists; a name's module is imported when the name is
first used. ``docs/`` has one page for each group.
"""

from grokscope.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__, __file__)
__all__ = __dir__()
