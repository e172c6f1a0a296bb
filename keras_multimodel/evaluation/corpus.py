"""The measures that each kind of task is known by, over whole data sets of raw examples."""

import collections
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.data.encoding.encode import encode
from keras_multimodel.data.mixing.mix import batch
from keras_multimodel.data.preprocessing.audio import AudioPreprocessor
from keras_multimodel.data.preprocessing.trees import TreePreprocessor, linearize
from keras_multimodel.data.table import with_one_target


def evaluate(
    model: Any,
    data: dict[str, Any],
    sampler: Any = "greedy",
    batch_size: int = 32,
) -> dict[str, dict[str, float]]:
    """Measures a trained model on raw examples of its tasks: what it scores, and what it writes.

    | targets | measures of what the model writes |
    |---|---|
    | classes, numbers, labels | none beyond their own: `accuracy`, `mae` and `r2`, or `f1` |
    | trees | `bracket_f1` |
    | text of sound | `cer` and `wer` |
    | other text | `bleu`, `chrf` and `exact`, the share of texts that are written as they stand |

    Ids and classes have `log_perplexity`, in nats per target, and `accuracy`, the share of targets
    that are most probable, given the right ones before them.

    Args:
        model: a trained `MultiModel` whose nets have preprocessors.
        data: task -> `tf.data.Dataset` of raw examples, dicts with `"inputs"` and `"targets"`; or
            of rows, as `kmm.data.Table.dataset` returns them, of which those count that have the
            target of the task.
        sampler: as for `generate`.
        batch_size: examples at a time.

    Returns:
        Task -> measure -> value. BLEU and chrF are from 0 to 100, all others are shares.

    Raises:
        ValueError: a key of `data` is no task of the model, a data set is empty, or rows have
            several targets and none of the task's name.
        ModuleNotFoundError: sacrebleu or jiwer is not installed; `keras-multimodel[evaluation]`
            has both.

    Example:

    ```python
    model = kmm.MultiModel.from_preset("eight_tasks_tiny")
    held_out = {"en_de": kmm.datasets.load("en_de", "test").take(8)}
    print(kmm.evaluation.evaluate(model, held_out))
    ```
    """
    positive_int("batch_size", batch_size)
    unknown = sorted(set(data) - set(model.tasks))
    if unknown or not data:
        raise ValueError(
            f"`data` must have keys among {list(model.tasks)}. Received: data.keys()={list(data)}"
        )
    data = {name: with_one_target(name, raw) for name, raw in data.items()}
    return {
        name: {
            **_scores(model, name, raw, batch_size),
            **_measures(model, name, list(raw.as_numpy_iterator()), sampler, batch_size),
        }
        for name, raw in data.items()
    }


def _scores(model, name, raw, batch_size):
    single = model.task_model(name)
    single.compile()
    task = single.tasks[name]
    batches = batch(encode(raw, task), task.rows, batch_size)
    logs = single.evaluate(batches, verbose=0, return_dict=True)
    names = ("log_perplexity", "accuracy", "mae", "r2", "f1")
    return {key: float(logs[key]) for key in names if key in logs}


def _measures(model, name, examples, sampler, batch_size):
    task = model.tasks[name]
    writer = task.targets.preprocessor
    readers = [net.preprocessor for net in task.parts.values()]
    if not task.autoregressive:
        return {}
    written = []
    for start in range(0, len(examples), batch_size):
        inputs = [example["inputs"] for example in examples[start : start + batch_size]]
        written += model.generate(name, inputs, sampler)
    references = [_text(x["targets"]) for x in examples]
    if isinstance(writer, TreePreprocessor):
        return {"bracket_f1": bracket_f1(written, references)}
    if len(readers) == 1 and isinstance(readers[0], AudioPreprocessor):
        return error_rates(written, references)
    return text_measures(written, references)


def text_measures(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compares texts with what they should be.

    Args:
        written: the texts.
        references: as many texts.

    Returns:
        `bleu` and `chrf` of the whole corpus, as sacrebleu computes them by default, from 0 to 100,
        and `exact`, the share of equal texts.

    Raises:
        ModuleNotFoundError: sacrebleu is not installed.
        ValueError: there are not as many of both, or none.
    """
    _check_pairs(written, references)
    with _extra():
        import sacrebleu
    return {
        "bleu": sacrebleu.corpus_bleu(list(written), [list(references)]).score,
        "chrf": sacrebleu.corpus_chrf(list(written), [list(references)]).score,
        "exact": sum(map(str.__eq__, written, references)) / len(references),
    }


def error_rates(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compares transcripts with what was said.

    Args:
        written: the transcripts.
        references: as many texts, none of them empty.

    Returns:
        `cer` and `wer`: edits per character and per word of the references, of the whole corpus.

    Raises:
        ModuleNotFoundError: jiwer is not installed.
        ValueError: there are not as many of both, or none.
    """
    _check_pairs(written, references)
    with _extra():
        import jiwer
    return {
        "cer": float(jiwer.cer(list(references), list(written))),
        "wer": float(jiwer.wer(list(references), list(written))),
    }


def bracket_f1(written: Iterable[str], references: Iterable[str]) -> float:
    """Compares trees by their labeled brackets: PARSEVAL's F1 over the whole corpus.

    A bracket is a phrase's label with the words that it spans. Tags of words are no brackets, nor
    is a root without a label. Punctuation counts as words do.

    Args:
        written: trees in brackets, over the same words as the references.
        references: as many trees.

    Returns:
        Twice the number of equal brackets over the number of all, 0 if there is none.

    Raises:
        ValueError: a text is no tree, or there are not as many of both.

    Example:

    ```python
    right = "(S (NP (DT The) (NN file)) (VP (VBZ opens)))"
    flat = "(S (DT The) (NN file) (VP (VBZ opens)))"
    print(kmm.evaluation.bracket_f1([flat], [right]))  # 0.8: 2 brackets of 2 and 3
    ```
    """
    equal = total = 0
    for one, two in zip(written, references, strict=True):
        one, two = _brackets(one), _brackets(two)
        equal += (one & two).total()
        total += one.total() + two.total()
    return 2 * equal / total if total else 0.0


def _brackets(tree):
    """Returns how often each `(label, first word, end)` occurs."""
    found: collections.Counter = collections.Counter()
    starts, words = [], 0
    for symbol in linearize(tree):
        if symbol.startswith("("):
            starts.append(words)
        elif symbol.startswith(")"):
            start = starts.pop()
            if symbol != ")":
                found[symbol[1:], start, words] += 1
        else:
            words += 1
    return found


def _text(raw):
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def _check_pairs(written, references):
    if not references or len(written) != len(references):
        raise ValueError(
            "`written` must have one text for each of `references`. "
            f"Received: {len(written)} and {len(references)}"
        )


@contextlib.contextmanager
def _extra():
    """Says what to install where the import within fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is needed for these measures: pip install 'keras-multimodel[evaluation]'"
        ) from error
