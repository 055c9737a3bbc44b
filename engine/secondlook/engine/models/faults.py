"""What other people's code raises on the files of a model, told as one error of ours.

transformers, tokenizers, safetensors and jinja check little of what they read, and raise nearly anything:
KeyError for an unknown name, ZeroDivisionError for a size, ImportError for a package that is not there. All
of it goes through `reading`, which says of which file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from secondlook.engine.errors import DeviceError, InvalidModelError, ModelError

__all__ = ["reading", "reason"]

_log = logging.getLogger(__name__)

_LONGEST = 400
_PUZZLING = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)


def reason(error: BaseException) -> str:
    """What an error says, in one line; with its type's name where the text alone would puzzle.

    Huggingface's begin with a line such as "Validation error for field 'image_size':", so no line is cut.
    """
    text = " ".join(str(error).split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rstrip() + " ..."
    if not text:
        return type(error).__name__
    return f"{type(error).__name__}: {text}" if isinstance(error, _PUZZLING) else text


@contextmanager
def reading(what: object) -> Iterator[None]:
    """While the block runs, whatever is raised becomes one error that begins with `what`, the file.

    Raises:
        InvalidModelError: for all but what is named below; those of models pass as they are.
        DeviceError: there was no memory.
    """
    try:
        yield
    except ModelError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DeviceError(f"{what}: there is no memory for it: {reason(error)}") from error
    except Exception as error:
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):  # torch's, on a CPU
            raise DeviceError(f"{what}: there is no memory for it: {reason(error)}") from error
        _log.debug("%s", what, exc_info=error)  # it may be the fault of an architecture's module
        raise InvalidModelError(f"{what}: {reason(error)}") from error
