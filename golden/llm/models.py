"""Loads language models, plain or quantized, from a folder or a hub, and turns text into calibration samples."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .checkpoint import QUANT_METHOD
from .load import load

__all__ = ["DTYPES", "SHIPPED_MODEL", "LanguageModel", "is_quantized", "load_model", "model_digest", "windows"]

SHIPPED_MODEL = Path(__file__).parent.parent / "assets" / "cpython-llama"
"""The small Llama that travels with the package."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, ready for evaluation, and its tokenizer; `name` is the folder or hub id it came from."""

    model: Any
    tokenizer: Any
    name: str

    def tokens(self, text: str) -> Tensor:
        """int64 token ids of `text`, one-dimensional, without special tokens."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    def check_window(self, window: int) -> None:
        """Raise InputError if the model cannot read `window` tokens at once, or not every token of its tokenizer."""
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", window)
        if positions < window:
            raise InputError(f"model {self.name}: {positions} positions, expected at least {window}, one window")
        vocabulary = getattr(config, "vocab_size", len(self.tokenizer))
        if len(self.tokenizer) > vocabulary:
            raise InputError(
                f"model {self.name}: {vocabulary} token embeddings, expected the tokenizer's {len(self.tokenizer)}"
            )


def is_quantized(folder: str | Path) -> bool:
    """Whether `folder` says that fgmp quantized it."""
    try:
        settings = json.loads((Path(folder) / "config.json").read_text())
        return settings["quantization_config"]["quant_method"] == QUANT_METHOD
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_model(
    name: str | Path, *, dtype: str = "float32", device: str = "cpu", quantized: bool = False
) -> LanguageModel:
    """Load a transformers causal language model from a local folder or, where there is none of that name, a hub.

    Only safetensors are read, never pickle, and no code that comes with a model is run. With `quantized` a folder that
    fgmp wrote is welcome too (its packed layers are loaded as they are).
    Raises InputError if config, weights or tokenizer are missing or broken.
    """
    folder = Path(name)
    local = folder.is_dir()
    if local:
        _check_folder(folder)
    elif folder.is_absolute() or str(name).count("/") != 1 or str(name).startswith("."):
        raise InputError(f"model folder {name}: not found, expected a folder with config.json and safetensors weights")
    if is_quantized(folder) and not quantized:
        raise InputError(f"model folder {name}: is quantized already, expected a model in its own precision")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        if is_quantized(folder):
            model, info = load(folder, device=device), {"missing_keys": ()}
        else:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                name,
                dtype=DTYPES[dtype],
                device_map=None if device == "cpu" else device,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=local,
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local)
    except InputError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise on a broken folder
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"model {'folder ' if local else ''}{name}: cannot be loaded ({reason})") from None
    if info["missing_keys"]:
        raise InputError(f"model {name}: weights lack {sorted(info['missing_keys'])[0]}")
    return LanguageModel(model.eval(), tokenizer, str(name))


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"model folder {folder}: no config.json, expected a transformers model folder")
    if not any(folder.glob("*.safetensors")):
        pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]), None)
        found = f"only {pickled.name}, a pickle, which is never opened" if pickled else "no weights"
        raise InputError(f"model folder {folder}: {found}, expected model.safetensors or its shards")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = set(json.loads(index.read_text())["weight_map"].values())
            assert all(isinstance(file, str) for file in files)
        except (ValueError, KeyError, AttributeError, TypeError, AssertionError):
            raise InputError(f"model folder {folder}: {index.name} is broken, expected a weight_map") from None
        for file in sorted(files):
            if not (folder / file).is_file():
                raise InputError(
                    f"model folder {folder}: shard {file} is missing, expected all that {index.name} names"
                )


def model_digest(name: str) -> str:
    """What tells one model's files from another's: SHA-256 of config, file names, sizes and times of change."""
    digest = hashlib.sha256(str(name).encode())
    for path in sorted(p for p in Path(name).glob("*") if p.is_file()) if Path(name).is_dir() else []:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def windows(language_model: LanguageModel, text: str, count: int, name: str, *, window: int = 512) -> Tensor:
    """`count` unpadded windows (count, `window`) of token ids from places spread evenly over `text`.

    Raises InputError, naming the text by `name`, if it is too short.
    """
    language_model.check_window(window)
    if count < 1:
        raise InputError(f"{name}: {count} windows asked for, expected at least 1")
    stride = len(text) // count
    rows = []
    for i in range(count):
        # No tokenizer in use averages more than 16 characters a token; the excerpt must not reach into the next.
        ids = language_model.tokens(text[i * stride : i * stride + min(stride, 16 * window)])[:window]
        if len(ids) < window:
            raise InputError(
                f"{name}: {len(text)} characters do not hold {count} windows of {window} tokens, expected more text or "
                "fewer windows"
            )
        rows.append(ids)
    return torch.stack(rows)
