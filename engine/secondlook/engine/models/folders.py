"""Finding a model's folder and reading its files, before any weight is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from secondlook.engine.errors import IncompleteModelError, InvalidModelError, ModelNotFoundError

__all__ = ["DEMO", "chat_template", "check_complete", "find_folder", "image_processor", "read_json"]

DEMO = "demo"
"""The name of the model that comes with the package."""

_DEMO_FOLDER = Path(__file__).parents[1] / "checkpoint"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors"]
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"


def find_folder(name_or_path: str) -> Path:
    """The folder of "demo", of a local path, or of a hub name such as `llava-hf/llava-1.5-7b-hf`.

    A folder that exists is taken before a hub name. A hub model is downloaded, or found in the local cache.

    Raises:
        ModelNotFoundError: none of the three.
    """
    if name_or_path == DEMO:
        if not _DEMO_FOLDER.is_dir():
            raise ModelNotFoundError(
                f"the embedded model is missing here: no {_DEMO_FOLDER}; install secondlook again"
            )
        return _DEMO_FOLDER
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelNotFoundError(f"{name_or_path} is a file; a model is a folder in the Hugging Face layout")
    if not _HUB_NAME.fullmatch(name_or_path):
        raise ModelNotFoundError(
            f"there is no model {name_or_path!r}; give 'demo', a folder, or a hub name like owner/model"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name_or_path, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelNotFoundError(
            f"there is no folder {name_or_path!r}, and the hub did not give a model of that name: {reason[0]}"
        ) from error


def check_complete(folder: Path) -> None:
    """Raise IncompleteModelError, naming every missing file, unless the folder has what loading needs."""
    missing = [
        name for name in ("config.json", "tokenizer.json", "tokenizer_config.json") if not _has(folder, name)
    ]
    if _has(folder, _WEIGHTS_INDEX):
        shards = read_json(folder / _WEIGHTS_INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise InvalidModelError(f"{folder / _WEIGHTS_INDEX} has no weight_map")
        missing += [name for name in sorted(set(map(str, shards.values()))) if not _has(folder, name)]
    elif not _has(folder, _WEIGHTS):
        missing.append(_WEIGHTS)
    if image_processor(folder) is None:
        missing.append("preprocessor_config.json")
    if chat_template(folder) is None:
        missing.append("chat_template.jinja")
    if missing:
        raise IncompleteModelError(f"the model folder {folder} is incomplete: no {', '.join(missing)}")


def image_processor(folder: Path) -> Mapping[str, Any] | None:
    """The preprocessor's settings: from preprocessor_config.json, or from within processor_config.json."""
    if _has(folder, "preprocessor_config.json"):
        return read_json(folder / "preprocessor_config.json")
    nested = _optional_json(folder / "processor_config.json").get("image_processor")
    return nested if isinstance(nested, dict) else None


def chat_template(folder: Path) -> str | None:
    """The chat template, wherever the checkpoint's age put it; the processor's goes before the
    tokenizer's."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except ValueError as error:
            raise InvalidModelError(f"{path} is not UTF-8 text: {error}") from error
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = _optional_json(folder / name).get("chat_template")
        if isinstance(found, dict):
            found = found.get("default")
        if isinstance(found, str):
            return found
    return None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; InvalidModelError when it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidModelError(f"{path} must hold a JSON object, not {type(values).__name__}")
    return values


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()
