"""Loads language models, plain or quantized, from a folder or a hub, and turns text into calibration samples."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...errors import InputError, first_line
from ...processes import exhausted
from ..prepare.pages import Pages
from .load import load
from .manifest import QUANT_METHOD
from .paged_model import load_paged

__all__ = [
    "DTYPES",
    "SHIPPED_MODEL",
    "LanguageModel",
    "check_model_folder",
    "is_quantized",
    "load_model",
    "model_digest",
    "source_folder",
    "spread",
    "windows",
]

SHIPPED_MODEL = Path(__file__).parent.parent / "assets" / "cpython-llama"
"""The small Llama that travels with the package."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, ready for evaluation, and its tokenizer.

    Attributes:
        name: the folder or hub id that it came from.
        special_tokens: whether text is begun and ended as the tokenizer does by default (most begin with BOS, as the
            field's evaluators have it), or is nothing but its own tokens.
        stored_dtype: what its weights are stored in.
        pages: where its blocks are, if they are in files.
    """

    model: Any
    tokenizer: Any
    name: str
    special_tokens: bool = True
    stored_dtype: torch.dtype = torch.float32
    pages: Pages | None = None

    def tokens(self, text: str) -> Tensor:
        """int64 token ids of `text`, one-dimensional."""
        ids = self.tokenizer(text, add_special_tokens=self.special_tokens, verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    @property
    def special_tokens_text(self) -> str:
        """In words, which special tokens a text gets."""
        bare = len(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        ids = self.tokens("a").tolist()
        if len(ids) <= bare:
            return "no special tokens"
        return f"special tokens as in {' '.join(self.tokenizer.convert_ids_to_tokens(ids))}"

    @property
    def positions(self) -> int | None:
        """How many tokens the model can read at once; None where it sets no limit."""
        config = self.model.config
        for part in (config.get_text_config() if hasattr(config, "get_text_config") else config, config):
            for key in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"):
                value = getattr(part, key, None)
                if isinstance(value, int) and value > 0:
                    return value
        return None

    def window(self, asked: int | None, most: int = 512) -> int:
        """Tokens of a calibration window: what was asked for, or else `most`, or the model's limit if that is less."""
        return asked if asked is not None else min(most, self.positions or most)

    def check_window(self, window: int, flag: str = "--window") -> None:
        """Raise InputError if the model cannot read `window` tokens at once, or not every token of its tokenizer."""
        config = self.model.config
        positions = self.positions
        if positions is not None and positions < window:
            raise InputError(
                f"model {self.name}: {positions} positions, expected at least {window}, one window (see {flag})"
            )
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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantized: bool = False,
    paged: Path | None = None,
    ignore: Sequence[str] = (),
    special_tokens: bool = True,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a transformers causal language model from a local folder or, where there is none of that name, a hub.

    Only safetensors are read, never pickle, and no code that comes with a model is run unless `trust_remote_code`. With
    `quantized` a folder that fgmp wrote is welcome too (its packed layers are loaded as they are). With `paged` its
    blocks go into files of that folder, and are in memory one at a time; experts that `ignore` matches stay fused.
    Raises InputError if config, weights or tokenizer are missing or broken.
    """
    folder = Path(name)
    local = folder.is_dir()
    pages = None
    if local:
        check_model_folder(folder)
    elif folder.is_absolute() or str(name).count("/") != 1 or str(name).startswith("."):
        raise InputError(f"model folder {name}: not found, expected a folder with config.json and safetensors weights")
    if is_quantized(folder) and not quantized:
        raise InputError(f"model folder {name}: is quantized already, expected a model in its own precision")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options = {"local_files_only": local, "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        beside = "modelopt" if (folder / "hf_quant_config.json").is_file() else QUANT_METHOD
        method = (getattr(config, "quantization_config", None) or {}).get("quant_method", beside)
        if method != QUANT_METHOD:
            raise InputError(
                f"model {name}: is quantized by {method!r}, expected a model in its own precision (fgmp convert makes "
                "one of a folder)"
            )
        stored = config.dtype if isinstance(config.dtype, torch.dtype) else _stored_dtype(folder)
        if is_quantized(folder):
            model: Any = load(folder, device=device, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)
            info: dict[str, Any] = {"missing_keys": ()}
        elif paged is not None:
            model, pages, info = load_paged(
                name, config, paged, ignore, dtype=DTYPES[dtype], device=device, options=options
            )
        else:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                name,
                dtype=DTYPES[dtype],
                device_map=None if device == "cpu" else device,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    except InputError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise on a broken folder
        exhausted(str(error), name)
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it comes with code of its own, which runs only with --trust-remote-code"
        raise InputError(f"model {'folder ' if local else ''}{name}: cannot be loaded ({reason})") from None
    if info["missing_keys"]:
        raise InputError(f"model {name}: weights lack {sorted(info['missing_keys'])[0]}")
    return LanguageModel(model.eval(), tokenizer, str(name), special_tokens, stored, pages)


_SAFETENSORS_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def _stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of most of a folder's tensors, where its settings do not say."""
    counts = dict.fromkeys(_SAFETENSORS_DTYPES, 0)
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                kind = file.get_slice(name).get_dtype()
                if kind in counts:
                    counts[kind] += 1
    return _SAFETENSORS_DTYPES[max(counts, key=lambda kind: counts[kind])]


def check_model_folder(folder: Path) -> None:
    """Raise InputError unless a folder has settings and all the safetensors that it says it has."""
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
    """SHA-256 of a model folder's file names, sizes and times of change."""
    digest = hashlib.sha256(str(name).encode())
    for path in sorted(p for p in Path(name).glob("*") if p.is_file()) if Path(name).is_dir() else []:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def source_folder(name: str) -> Path | None:
    """Where a model's files lie: its folder, or what the hub's cache has of it once its small files were fetched."""
    if Path(name).is_dir():
        return Path(name)
    import huggingface_hub

    patterns = ["*.json", "*.jinja", "*.py", "*.model", "*.txt", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception:  # offline: the model itself was in the cache, these files may not be
        return None


def windows(
    language_model: LanguageModel, text: str, count: int, name: str, *, window: int = 512, flag: str = "--window"
) -> Tensor:
    """`count` unpadded windows (count, `window`) of token ids from places spread evenly over `text`.

    Raises InputError, naming the text by `name`, if it is too short; `flag` is what sets the window.
    """
    language_model.check_window(window, flag)
    # No tokenizer in use averages more than 16 characters a token.
    return spread(text, count, window, language_model.tokens, name, "windows", characters=16 * window)


def spread(
    text: str,
    count: int,
    length: int,
    tokens: Callable[[str], Tensor],
    name: str,
    what: str,
    *,
    characters: int | None = None,
) -> Tensor:
    """int64 ids (count, `length`): the first `length` tokens of each of `count` parts of `text`, spread evenly over it.

    Of each part only so many `characters` are read, if they are given. Raises InputError, naming the text by `name` and
    its parts by `what`, if it is too short.
    """
    if count < 1:
        raise InputError(f"{name}: {count} {what} asked for, expected at least 1")
    stride = len(text) // count
    rows = []
    for i in range(count):
        ids = tokens(text[i * stride : i * stride + min(stride, characters or stride)])[:length]
        if len(ids) < length:
            raise InputError(
                f"{name}: {len(text)} characters do not hold {count} {what} of {length} tokens, expected more text or "
                f"fewer {what}"
            )
        rows.append(ids)
    return torch.stack(rows)
