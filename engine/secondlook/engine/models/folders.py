"""Finding a model's folder and reading its files, before any weight is touched."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import huggingface_hub

from secondlook.edge.errors import SettingsError
from secondlook.edge.files import is_lfs_pointer
from secondlook.edge.route import Route, checked_url, without_password
from secondlook.engine.embedded import EMBEDDED
from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from secondlook.engine.models.faults import reading, reason

__all__ = [
    "CONFIG_FILE",
    "chat_template",
    "check_complete",
    "commit_of",
    "find_folder",
    "image_processor",
    "image_processor_file",
    "read_json",
    "weight_files",
]

CONFIG_FILE: Final = "config.json"

_NAMES = ", ".join(map(repr, EMBEDDED))
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB = "https://huggingface.co"
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.safetensors")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def find_folder(name_or_path: str, revision: str | None = None) -> Path:
    """The folder of an embedded model, of a local path, or of a hub name such as `llava-hf/llava-1.5-7b-hf`.

    A folder that exists is taken before a hub name. A hub model is downloaded, or found in the local cache.

    Args:
        revision: branch, tag or commit of a hub model; None: its main branch.

    Raises:
        ModelNotFoundError: none of the three.
        SettingsError: there is a revision of what is no hub model.
    """
    folder = EMBEDDED.get(name_or_path) or Path(name_or_path).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise SettingsError(
                f"revision {revision!r} is for models of the hub, but {name_or_path!r} is a folder"
            )
        return folder
    if name_or_path in EMBEDDED:
        raise ModelNotFoundError(f"the embedded model is missing here: no {folder}; install secondlook again")
    if folder.exists():
        raise ModelNotFoundError(f"{name_or_path} is a file; a model is a folder in the Hugging Face layout")
    if not _HUB_NAME.fullmatch(name_or_path):
        raise ModelNotFoundError(
            f"there is no model {name_or_path!r}; give {_NAMES}, a folder, or a hub name like owner/model"
        )
    try:
        return Path(
            huggingface_hub.snapshot_download(name_or_path, revision=revision, allow_patterns=_HUB_FILES)
        )
    except Exception as error:  # of the hub, its HTTP client, or the proxy that the environment names
        asked = "a model of that name" if revision is None else f"revision {revision!r} of such a model"
        raise ModelNotFoundError(
            f"there is no folder {name_or_path!r}, and the hub did not give {asked}: {_hub_reason(error)}"
        ) from error


def _hub_reason(error: Exception) -> str:
    """Why the hub could not be asked: the variable of the environment that is at fault, if one is."""
    endpoint = os.environ.get("HF_ENDPOINT")
    named = f"HF_ENDPOINT={without_password(endpoint)}: " if endpoint else ""
    address = endpoint or _HUB
    try:
        checked_url(address)
    except SettingsError as fault:
        return f"{named}{fault}"
    try:
        route = Route.to(address)
    except SettingsError as fault:  # of another variable, which it names
        return str(fault)
    by = f" (by {route.proxy})" if route.proxy is not None else ""
    return f"{named}{reason(error)}{by}"


def commit_of(folder: Path) -> str | None:
    """The commit of a hub model's folder, which the hub's cache names by it; None for other folders."""
    path = folder.resolve()
    return path.name if path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name) else None


def check_complete(folder: Path) -> None:
    """Refuse a folder that lacks what loading needs, before anything of it is loaded.

    Raises:
        IncompleteModelError: files are missing; the message names all.
        InvalidModelError: a file is a pointer of Git LFS, or the index names what is no shard of the folder.
        UnsupportedModelError: there is an adapter beside the weights.
    """
    _check_pointers(folder)
    adapter = next((name for name in _ADAPTERS if (folder / name).exists()), None)
    shards = [path.name for path in weight_files(folder)]
    missing = [
        name for name in (CONFIG_FILE, "tokenizer.json", "tokenizer_config.json") if not _has(folder, name)
    ]
    missing += [name for name in shards if not _has(folder, name)]
    if adapter and missing:
        raise IncompleteModelError(
            f"the model folder {folder} is incomplete: it holds an adapter ({adapter}) but no "
            f"{', '.join(missing)}; merge the adapter into its base model{_base(folder)}, and save the whole"
        )
    if adapter:
        raise UnsupportedModelError(
            f"{folder / adapter} is an adapter beside whole weights, and would not be used: merge it into "
            "them, or take it out of the folder"
        )
    if image_processor(folder) is None:
        missing.append("preprocessor_config.json")
    if missing:
        raise IncompleteModelError(
            f"the model folder {folder} is incomplete: no {', '.join(missing)}"
            + (_other_weights(folder) if _WEIGHTS in missing else "")
        )


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights, there or not: one, or the shards that the index names.

    Raises:
        InvalidModelError: the index cannot be read, or names what is no plain name of a safetensors file.
    """
    index = folder / _WEIGHTS_INDEX
    if _has(folder, _WEIGHTS) or not index.is_file():
        return [folder / _WEIGHTS]
    values = read_json(index)
    for key in ("metadata", "weight_map"):
        if not isinstance(values.get(key), dict):
            raise InvalidModelError(f"{index} has no {key}")
    shards = values["weight_map"]
    if not shards:
        raise InvalidModelError(f"{index}: weight_map is empty")
    for tensor, name in shards.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise InvalidModelError(
                f"{index}: weight_map: {tensor} is said to be in {name!r}, which is no plain name of a "
                "safetensors file in the folder"
            )
    return [folder / name for name in sorted(set(shards.values()))]


def image_processor(folder: Path) -> Mapping[str, Any] | None:
    """The preprocessor's settings: from preprocessor_config.json, or from within processor_config.json."""
    file = image_processor_file(folder)
    if file.name == "preprocessor_config.json":
        return read_json(file)
    nested = _optional_json(file).get("image_processor")
    return nested if isinstance(nested, dict) else None


def image_processor_file(folder: Path) -> Path:
    """The file that `image_processor` reads."""
    own = _has(folder, "preprocessor_config.json")
    return folder / ("preprocessor_config.json" if own else "processor_config.json")


def chat_template(folder: Path) -> tuple[str, Path] | None:
    """The chat template and the file that has it, wherever the checkpoint's age put it; the processor's goes
    before the tokenizer's."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        with reading(path):
            return path.read_text(encoding="utf-8"), path
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        found = _optional_json(path).get("chat_template")
        if isinstance(found, list):  # of named ones
            named = [one for one in found if isinstance(one, dict)]
            found = {one.get("name"): one.get("template") for one in named}
        if isinstance(found, dict):
            if not isinstance(found.get("default"), str):
                raise InvalidModelError(f"{path}: chat_template has no template named 'default'")
            found = found["default"]
        if isinstance(found, str):
            return found, path
        if found is not None:
            raise InvalidModelError(f"{path}: chat_template is {found!r:.40}, no template")
    return None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; InvalidModelError when it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise InvalidModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidModelError(f"{path} must hold a JSON object, not {type(values).__name__}")
    return values


def _check_pointers(folder: Path) -> None:
    """Refuse pointers of Git LFS in place of files."""
    pointers = []
    for path in sorted(path for pattern in _HUB_FILES for path in folder.glob(pattern)):
        with reading(path):
            if path.is_file() and is_lfs_pointer(path):
                pointers.append(path.name)
    if pointers:
        raise InvalidModelError(
            f"{folder}: {', '.join(pointers)}: only a pointer of Git LFS, not the file itself; run git lfs "
            "pull in the folder"
        )


def _base(folder: Path) -> str:
    base = _optional_json(folder / "adapter_config.json").get("base_model_name_or_path")
    return f" {base}" if isinstance(base, str) and base else ""


def _other_weights(folder: Path) -> str:
    """What there is in place of the weights, and what to do."""
    found = [
        path.name for pattern in _OTHER_WEIGHTS for path in sorted(folder.glob(pattern)) if path.is_file()
    ]
    if not found:
        return ""
    if all(name.endswith(".safetensors") for name in found):
        return f"; {_few(found)}: more than one file of weights needs {_WEIGHTS_INDEX}"
    return f"; {_few(found)}: such weights are not read: save the model again as safetensors"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()
