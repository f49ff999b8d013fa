"""samepaged: how much memory the guests of a KVM host could share."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("samepaged")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
