"""Folders as they are found: each fault is told at loading, in one line that names file and key."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints import PUBLISHED_TEMPLATE, Variant, edit_json, write_checkpoint
from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    ModelError,
    UnsupportedModelError,
)
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.faults import reading

Change = Callable[[Path], object]
CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"
FIRST = "language_model.model.layers.0."
NAMED = [{"name": "tools", "template": "x"}, {"name": "default", "template": PUBLISHED_TEMPLATE}]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("one"), Variant(layers=2))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("three"), Variant(layers=2, shards=3))


def config(part: str = "", **changes: Any) -> Change:
    """Change keys of config.json, or of a part of it; None removes a key."""

    def change(folder: Path) -> None:
        inner = json.loads((folder / CONFIG).read_text())[part] | changes if part else {}
        edit_json(folder / CONFIG, **({part: inner} if part else changes))

    return change


def text(**changes: Any) -> Change:
    return config("text_config", **changes)


def edited(file: str, **changes: Any) -> Change:
    return lambda folder: edit_json(folder / file, **changes)


def file(name: str, content: str = "{}") -> Change:
    return lambda folder: (folder / name).write_text(content)


def tensors(**changes: torch.Tensor) -> Change:
    """Add tensors, or put others in place of them; a name's `__` stands for a dot."""

    def change(folder: Path) -> None:
        new = {name.replace("__", "."): tensor for name, tensor in changes.items()}
        save_file(load_file(folder / WEIGHTS) | new, folder / WEIGHTS, {"format": "pt"})

    return change


def template(value: object) -> Change:
    """A chat template in the tokenizer's file alone."""

    def change(folder: Path) -> None:
        (folder / "chat_template.json").unlink()
        edit_json(folder / TOKENIZER, chat_template=value)

    return change


def adapter_only(folder: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')


def zeros(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def refusal(source: Path, folder: Path, change: Change, kind: type[ModelError]) -> str:
    change(Path(shutil.copytree(source, folder)))
    with pytest.raises(kind) as caught:
        load_model(str(folder), device="cpu")
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(quantization_config={"quant_method": "awq"}), "quantization_config: .*quantised .AWQ, bits"),
        (text(quantization_config={"quant_method": "fp8"}), r"text_config\.quantization_config: .*fp8"),
        (config(compression_config={"format": "x"}), "config.json: compression_config"),
        (file("quantize_config.json"), "quantize_config.json: the weights are quantised"),
        (
            tensors(language_model__lm_head__weight=zeros(442, 64, dtype=torch.int8)),
            "weight is of type I8",
        ),
        (
            tensors(language_model__lm_head__weight=zeros(442, 64, dtype=torch.float8_e4m3fn)),
            "model.safetensors: .*lm_head.weight is of type F8_E4M3",
        ),
        (file("adapter_config.json"), "adapter_config.json is an adapter beside whole weights"),
        (file("adapter_model.safetensors"), "adapter_model.safetensors is an adapter"),
        (config(transformers_weights="../x.safetensors"), "transformers_weights '../x.safetensors'"),
        (config(image_token_index=5), "chat_template.json: .*has 0 of '<0x02>' .token 5"),
        (template("{{ messages[0]['role'"), "tokenizer_config.json: the chat template fails .*Syntax"),
    ],
)
def test_what_is_not_supported(written: Path, tmp_path: Path, change: Change, message: str) -> None:
    assert re.search(message, refusal(written, tmp_path / "model", change, UnsupportedModelError))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            text(rope_scaling={"type": "nonesuch", "factor": 2.0}),
            "text_config.rope_scaling.type 'nonesuch'",
        ),
        (text(rope_scaling={"rope_type": ["x"]}), "rope_scaling.rope_type must be a name, not ['x']"),
        (text(rope_scaling={"rope_type": "linear"}), 'config.json: KeyError: "Missing required keys'),
        (
            text(rope_scaling={"rope_type": "linear", "factor": "2"}),
            "factor must be a number above 0",
        ),
        (text(rope_theta=0), "text_config.rope_theta must be a number above 0, not 0"),
        (config(torch_dtype="float17"), "config.json: torch_dtype must be one of auto,"),
        (text(dtype="float8_e4m3fn"), "float32, float64, not 'float8_e4m3fn'"),
        (text(num_hidden_layers=1), "config.json leaves out weights that the files have"),
        (
            text(num_hidden_layers=10**9),
            "text_config.num_hidden_layers is 1000000000, but the weights",
        ),
        (config("vision_config", num_hidden_layers=10**9), "vision_config.num_hidden_layers is 1000000000"),
        (text(num_hidden_layers=-1), "text_config.num_hidden_layers must be at least 1, not -1"),
        (text(num_key_value_heads=0), "text_config.num_key_value_heads must be at least 1, not 0"),
        (text(hidden_size=10**6), "config.json describes a model of"),
        (text(vocab_size=10**9), "config.json describes a model of"),
        (text(vocab_size=100), "config.json: image_token_index 378 is beyond the embedding's 100 rows"),
        (config("vision_config", image_size="84"), "image_size' with value '84' doesn't match"),
        (config(num_labels=10**9), "config.json: num_labels must be at most 100000"),
        (config(projector_hidden_act="nope"), "config.json: projector_hidden_act 'nope' is unknown"),
        (text(max_position_embeddings=10), "max_position_embeddings is 10, too small for two pictures of 72"),
        (text(max_position_embeddings=133), "too small for two pictures"),
        (config(image_token_index=None), "image_token_index or image_token_id is missing; its default 32000"),
        (config(image_token_index=-1), "image_token_index -1 is no token of tokenizer.json"),
        (file(CONFIG, "[" * 100_000), "config.json cannot be read as JSON"),
        (file("secondlook.json", "[" * 100_000), "secondlook.json is not JSON"),
        (
            edited(TOKENIZER, bos_token=3),
            "tokenizer_config.json: the tokenizer cannot be loaded",
        ),
        (edited(TOKENIZER, model_max_length="x"), "tokenizer_config.json: TypeError"),
        (file(GENERATION, "{"), "generation_config.json cannot be read as JSON"),
        (file(GENERATION, "[]"), "generation_config.json must hold a JSON object"),
        (edited(GENERATION, max_new_tokens=-1), "generation_config.json: `max_new_tokens`"),
        (
            edited(GENERATION, eos_token_id=[2, 999]),
            "generation_config.json: eos_token_id [2, 999] is",
        ),
        (template([{"name": "tools", "template": "x"}]), "chat_template has no template named 'default'"),
        (template(3), "tokenizer_config.json: chat_template is 3, no template"),
        (file(WEIGHTS, POINTER), "model.safetensors: only a pointer of Git LFS"),
        (file("tokenizer.json", POINTER), "run git lfs pull"),
        (file(WEIGHTS, "<html>"), "model.safetensors cannot be read as safetensors"),
        (tensors(**{FIRST + "self_attn.q_proj.bias": zeros(64)}), "leaves out weights"),
        (tensors(**{FIRST + "self_attn.q_proj.lora_A.weight": zeros(4, 64)}), "leaves out weights"),
        (tensors(image_newline=zeros(64)), "leaves out weights that the files have"),
        (
            tensors(multi_modal_projector__linear_1__bias=zeros(64) / 0),
            "hold NaN, in model.multi_modal",
        ),
        (tensors(multi_modal_projector__linear_1__bias=zeros(64) + torch.inf), "holds infinity in float32"),
        (edited(PREPROCESSOR, rescale_factor=0), f"{PREPROCESSOR}: rescale_factor must be a number above 0"),
        (edited(PREPROCESSOR, resample=9), f"{PREPROCESSOR}: resample must be a filter's number, 0 to 5"),
        (edited(PREPROCESSOR, size="big"), f"{PREPROCESSOR}: size must be a whole number above 0, not 'big'"),
        (edited(PREPROCESSOR, size={"shortest_edge": 0}), "size.shortest_edge must be a whole number above"),
        (edited(PREPROCESSOR, crop_size=7), "the preprocessor's crop_size is 7,"),
        (file(PREPROCESSOR), f"{PREPROCESSOR} holds no setting"),
        (file("secondlook.json", json.dumps({"question_suffix": "x" * 10**6})), "at most 2000 characters"),
    ],
)
def test_what_contradicts_itself(written: Path, tmp_path: Path, change: Change, message: str) -> None:
    assert message in refusal(written, tmp_path / "model", change, InvalidModelError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
            "pytorch_model.bin: such",
        ),
        (lambda folder: (folder / WEIGHTS).rename(folder / "q4.gguf"), "q4.gguf: such weights are not read"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "a.safetensors"), f"needs {INDEX}"),
        (adapter_only, "holds an adapter (adapter_config.json) but no config.json, model.safetensors; merge"),
        (text(num_hidden_layers=3), "lacks weights: model.language_model.layers.2"),
    ],
)
def test_what_is_not_there(written: Path, tmp_path: Path, change: Change, message: str) -> None:
    assert message in refusal(written, tmp_path / "model", change, IncompleteModelError)


@pytest.mark.parametrize(
    "name", ["x.bin", "../outside.safetensors", "/etc/hostname", "sub/x.safetensors", "..", 3]
)
def test_an_index_names_files_of_its_folder(sharded: Path, tmp_path: Path, name: object) -> None:
    def change(folder: Path) -> None:
        places = json.loads((folder / INDEX).read_text())["weight_map"]
        edit_json(folder / INDEX, weight_map=places | {next(iter(places)): name})

    assert f"is said to be in {name!r}" in refusal(sharded, tmp_path / "model", change, InvalidModelError)


def test_a_shard_is_named(sharded: Path, tmp_path: Path) -> None:
    message = refusal(sharded, tmp_path / "text", file(SHARD, "hello, hello"), InvalidModelError)
    assert f"{SHARD} cannot be read as safetensors" in message

    def endless(folder: Path) -> None:
        (folder / SHARD).unlink()
        (folder / SHARD).symlink_to("/dev/zero")

    assert refusal(sharded, tmp_path / "zero", endless, IncompleteModelError).endswith(f"no {SHARD}")


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (
            template(
                [{"name": "tools", "template": "x"}, {"name": "default", "template": PUBLISHED_TEMPLATE}]
            ),
            "",
        ),
        (template({"default": PUBLISHED_TEMPLATE}), ""),
        (tensors(**{FIRST + "self_attn.rotary_emb.inv_freq": zeros(8)}), ""),
        (
            tensors(vision_tower__vision_model__embeddings__position_ids=torch.arange(37).unsqueeze(0)),
            "",
        ),
        (lambda folder: (folder / GENERATION).unlink(), ""),
        (edited(GENERATION, do_sample=True, temperature=0.2), ""),
        (edited(GENERATION, repetition_penalty=1.05), "plainly greedy, without repetition_penalty=1.05"),
        (edited(GENERATION, num_beams=4), "plainly greedy, without num_beams=4"),
        (tensors(mtp__fc__weight=zeros(4, 4)), "no place for are ignored: mtp.fc.weight"),
        (text(max_position_embeddings=134), ""),
    ],
)
def test_what_published_checkpoints_have_is_loaded(
    written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Change, warning: str
) -> None:
    change(Path(shutil.copytree(written, tmp_path / "model")))
    with caplog.at_level(logging.WARNING, logger="secondlook"):
        load_model(str(tmp_path / "model"), device="cpu")
    assert [warning in message for message in caplog.messages] == [True] * bool(warning)


def test_what_was_raised_is_logged_in_full_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="secondlook")
    with pytest.raises(InvalidModelError, match=r"^it: KeyError: 'width'$"), reading("it"):
        _ = {}["width"]
    assert "Traceback" in caplog.text
