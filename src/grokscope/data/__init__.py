"""Data sets as tensors."""

from grokscope.data.dataset import Dataset
from grokscope.data.download import cache_folder
from grokscope.data.errors import DataError
from grokscope.data.files import FetchedFile
from grokscope.data.own_files import dataset_of, load_file
from grokscope.data.registry import DATASETS, DatasetEntry, fetch, load
from grokscope.data.span import SpanReduction, reduce_to_span

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "DatasetEntry",
    "FetchedFile",
    "SpanReduction",
    "cache_folder",
    "dataset_of",
    "fetch",
    "load",
    "load_file",
    "reduce_to_span",
]
