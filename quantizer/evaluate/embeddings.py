"""Models that embed text (sentence encoders): what calibrates them, and what quantization does to their embeddings.

The distance is the mean of 1 - cosine between the embeddings of the quantized and the original model. Its second-order
expansion is half the squared change of the normalized embedding, so the matching loss of a calibration sample is the
embedding's product with a random vector: the mean square of its gradient is the curvature.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError, first_line
from ..model.language_model import spread

__all__ = [
    "EmbeddingModel",
    "distances",
    "embed",
    "embeddings",
    "is_embedding_model",
    "load_embedding_model",
    "projected_loss",
    "projections",
]


@dataclass(frozen=True)
class EmbeddingModel:
    """A transformers model without a head, and its tokenizer; `name` is the folder it came from."""

    model: Any
    tokenizer: Any
    name: str

    def excerpts(self, text: str, count: int, tokens: int, purpose: str) -> Tensor:
        """int64 ids (count, tokens) of excerpts spread evenly over `text`, begun and ended as the model expects.

        Raises InputError, naming the text by `purpose`, where it is too short.
        """

        def ids(part: str) -> Tensor:
            return torch.tensor(self.tokenizer(part, truncation=True, max_length=tokens)["input_ids"])

        return spread(text, count, tokens, ids, purpose, "excerpts")


def is_embedding_model(folder: str | Path) -> bool:
    """Whether `folder` holds a transformers model without a language-model head."""
    try:
        names = json.loads((Path(folder) / "config.json").read_text())["architectures"]
        return all(name.endswith("Model") and not name.endswith("HeadModel") for name in names) and bool(names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load_embedding_model(folder: str | Path) -> EmbeddingModel:
    """Load a model without a head from a local folder, safetensors only. Raises InputError if that is broken."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, info = transformers.AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parts raise on a broken folder
        reason = first_line(error)
        raise InputError(f"model folder {folder}: cannot be loaded ({reason})") from None
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))  # which nothing here reads
    if missing:
        raise InputError(f"model folder {folder}: weights lack {missing[0]}")
    return EmbeddingModel(model.eval(), tokenizer, str(folder))


def embed(model: nn.Module, ids: Tensor) -> Tensor:
    """Normalized mean-pooled embeddings (S, H) of token ids (S, T)."""
    hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return torch.nn.functional.normalize(hidden.mean(-2), dim=-1)


def projections(ids: Tensor, width: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Calibration samples: each row of `ids` with a random direction (width)."""
    directions = torch.randn(len(ids), width, generator=torch.Generator().manual_seed(seed))
    return list(zip(ids, directions, strict=True))


def projected_loss(model: nn.Module) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    """The loss of a sample of `projections`."""
    return lambda sample: (embed(model, sample[0][None])[0] * sample[1]).sum()


def embeddings(model: nn.Module, ids: Tensor, batch: int = 32) -> Tensor:
    """`embed`, a few rows at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([embed(model, part) for part in ids.split(batch)])


def distances(original: Tensor, other: Tensor) -> np.ndarray:
    """1 - cosine of each row, float64."""
    return (1 - (original.double() * other.double()).sum(-1)).numpy()
