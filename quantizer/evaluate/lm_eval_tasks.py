"""lm-evaluation-harness on a quantized (or plain) model; needs the extra `harness`."""

from collections.abc import Sequence
from typing import Any

from ...errors import InputError
from ..model.language_model import LanguageModel

__all__ = ["run_tasks"]


def run_tasks(
    language_model: LanguageModel, tasks: Sequence[str], *, batch: int = 4, limit: int | None = None, **options: Any
) -> dict[str, dict[str, float]]:
    """The harness's numbers by task, for `language_model` as it is; `options` go to `lm_eval.simple_evaluate`.

    Raises InputError if the harness is not installed or does not know a task.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ModuleNotFoundError:
        raise InputError(f"tasks: {' '.join(tasks)} need lm-evaluation-harness: pip install 'fgmp[harness]'") from None
    model = HFLM(pretrained=language_model.model, tokenizer=language_model.tokenizer, batch_size=batch)
    try:
        results = lm_eval.simple_evaluate(model=model, tasks=list(tasks), limit=limit, **options)
    except (KeyError, ValueError) as error:
        raise InputError(f"tasks: {' '.join(tasks)}: {str(error).splitlines()[0]}") from None
    return {
        task: {name.removesuffix(",none"): value for name, value in numbers.items() if isinstance(value, float)}
        for task, numbers in results["results"].items()
    }
