"""Interpolated bigram model: the yardstick that a trained model must beat."""

import numpy as np

__all__ = ["bigram_bits"]


def bigram_bits(train: np.ndarray, held_out: np.ndarray, vocab: int) -> float:
    """Total cost in bits of `held_out` under a bigram model of `train`.

    Absolute discounting (0.75) interpolated with the add-one unigram distribution, as in the textbooks; the first
    symbol costs its unigram price. Both arrays are one-dimensional integers below `vocab`.
    """
    discount = 0.75
    unigram = np.bincount(train, minlength=vocab) + 1.0
    unigram /= unigram.sum()
    pairs = np.bincount(train[:-1].astype(np.int64) * vocab + train[1:], minlength=vocab * vocab)
    pairs = pairs.reshape(vocab, vocab)
    context = pairs.sum(1)
    followers = (pairs > 0).sum(1)
    previous, following = held_out[:-1], held_out[1:]
    total = np.maximum(context[previous], 1)
    kept = np.maximum(pairs[previous, following] - discount, 0) / total
    backoff = np.where(context[previous] > 0, discount * followers[previous] / total, 1.0)
    probability = kept + backoff * unigram[following]
    return float(-np.log2(probability).sum() - np.log2(unigram[held_out[0]]))
