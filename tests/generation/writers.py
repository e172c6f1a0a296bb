"""A small model that writes, and a stand-in for one that follows a table."""

import keras
import numpy as np
from keras import ops

import keras_multimodel as kmm
from tests.models.small_models import HIDDEN_DIM, blocks, set_weights

TREES = ["(S (NP (DT the) (NN file)) (VP (VBZ opens)))", "(S (VP (VB save) (NP (NN file))))"]
SENTENCES = ["the file opens", "save a file", "open the files", "a printer prints the file"]
IMAGES = [np.random.default_rng(n).integers(0, 256, (8, 8, 3)).astype("uint8") for n in range(3)]
INPUTS = {
    "text": ["the file opens", "save", "a printer prints the file now"],
    "parse": ["the file opens", "save", "a printer prints the file now"],
    "caption": IMAGES,
    "speech": [np.sin(np.arange(n) / 3).astype("float32") for n in (900, 300, 2000)],
    "digits": IMAGES,
}


def make_tasks():
    """Returns a task of every kind, raw in, raw out."""
    words = kmm.data.train_text_preprocessor(SENTENCES, 40, "char", byte_fallback=False)
    trees = kmm.data.train_tree_preprocessor(TREES)
    text = kmm.layers.TextModality(
        words.vocabulary_size, HIDDEN_DIM, tie_weights=False, preprocessor=words
    )
    brackets = kmm.layers.TextModality(
        trees.vocabulary_size, HIDDEN_DIM, tie_weights=False, preprocessor=trees
    )
    image = kmm.layers.ImageModality(
        HIDDEN_DIM, (8, 8, 3), num_blocks=1, preprocessor=kmm.data.ImagePreprocessor((8, 8))
    )
    audio = kmm.layers.AudioModality(
        HIDDEN_DIM,
        num_bins=8,
        num_blocks=1,
        channels=(HIDDEN_DIM,),
        preprocessor=kmm.data.AudioPreprocessor(num_mel_bins=8),
    )
    labels = kmm.data.CategoryPreprocessor(["zero", "one", "two"])
    return [
        kmm.Task("text", text, text, max_target_length=14),
        kmm.Task("parse", text, brackets, max_target_length=24),
        kmm.Task("caption", image, text, max_target_length=10),
        kmm.Task("speech", audio, text, max_target_length=10),
        kmm.Task("digits", image, kmm.layers.CategoryModality(3, HIDDEN_DIM, preprocessor=labels)),
    ]


def build(tasks=None, seed=3, **arguments):
    """Returns a small model of random weights, the same on every backend."""
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 1, "num_decoder_blocks": 1}
    arguments = {**blocks(), **sizes, **arguments}
    model = set_weights(kmm.MultiModel(tasks or make_tasks(), HIDDEN_DIM, **arguments), seed)
    for weight in model.trainable_weights:
        if weight.name == "offset":  # else it decides alone, and all outputs are alike
            weight.assign(ops.zeros(weight.shape))
    return model


def build_ids(vocabulary_size=9, max_target_length=6, text=kmm.layers.TextModality, **arguments):
    """Returns a model of one task, `copy`, from ids to ids."""
    text = text(vocabulary_size, HIDDEN_DIM, tie_weights=False)
    task = kmm.Task("copy", text, text, max_target_length=max_target_length)
    return build([task], seed=2, **arguments)


class NoEnd(kmm.generation.Constraint):
    """Allows all ids of `build_ids` but the end."""

    def initial_state(self, inputs):
        return ()

    def allowed(self, state, remaining):
        return ops.arange(9)[None] != 1

    def advance(self, state, ids):
        return state


NO_END = NoEnd()


def written() -> dict[str, list]:
    """Returns what models of ids, and of all kinds of tasks, write in all the ways there are."""
    model = build_ids()
    inputs = [np.array([3, 4, 5, 1]), np.array([7, 1]), np.array([6, 2, 6, 2, 1])]
    results = {}
    for sampler, use_cache in (
        ("greedy", True),
        ("greedy", False),
        ("beam", True),
        ("top_k", True),
    ):
        outputs = model.generate("copy", inputs, sampler, seed=3, use_cache=use_cache)
        results[f"{sampler} {use_cache}"] = [x.tolist() for x in outputs]
    stream = model.generate("copy", inputs, stream=True)
    results["stream"] = [[None if x is None else x.tolist() for x in step] for step in stream]
    results["score"] = model.score("copy", inputs, inputs).round(3).tolist()
    long = {"max_length": 20, "constraint": NO_END}
    for sampler in ("greedy", "beam"):
        for use_cache in (True, False):
            outputs = model.generate("copy", inputs, sampler, use_cache=use_cache, **long)
            results[f"long {sampler} {use_cache}"] = [x.tolist() for x in outputs]
    steps = list(model.generate("copy", inputs, stream=True, **long))
    results["long stream"] = [np.concatenate(row).tolist() for row in zip(*steps)]
    model = build()
    for task, inputs in INPUTS.items():
        results[task] = [str(x) for x in model.generate(task, inputs)]
    results["tree beams"] = list(model.generate("parse", INPUTS["parse"], "beam"))
    return results


class Table:
    """Stands for a model whose logits are given for every beginning of an output.

    Args:
        logits: `(rows, beginnings, vocabulary_size)`.
    """

    def __init__(self, logits):
        self.logits = ops.convert_to_tensor(logits.astype("float32"))
        self.size = logits.shape[-1]

    @staticmethod
    def number(beginning, size) -> int:
        """Returns the place of a beginning, a list of ids, in the table."""
        return sum((x + 1) * (size + 1) ** i for i, x in enumerate(beginning))

    def initial_cache(self, max_length, encoded, mask):
        # The row and the number of the beginning, known to each beam.
        rows = ops.cast(encoded[:, 0, 0], "int32")
        return {"row": rows, "number": ops.zeros_like(rows), "place": ops.ones_like(rows)}

    def step(self, ids, last, cache, index):
        number = cache["number"] + ops.where(index > 0, (last + 1) * cache["place"], 0)
        place = ops.where(index > 0, cache["place"] * (self.size + 1), cache["place"])
        beginnings = self.logits.shape[1]
        flat = ops.reshape(self.logits, (-1, self.size))
        found = ops.take(flat, cache["row"] * beginnings + number % beginnings, axis=0)
        return found, {**cache, "number": number, "place": place}

    def reorder_cache(self, cache, rows):
        return keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), cache)


def run(search, rows: int, length: int, constraint_state=(), draws=()):
    """Runs a search over a `Table` and returns its state."""
    encoded = ops.cast(ops.arange(rows), "float32")[:, None, None]
    ended = ops.zeros((rows,), "bool")
    constraint_state = keras.tree.map_structure(ops.convert_to_tensor, constraint_state)
    state = search.start(length, encoded, encoded[..., 0] >= 0, ended, constraint_state)
    bound = ops.convert_to_tensor(np.array(length, "int32"))
    return search.advance([], state, draws, bound, bound)
