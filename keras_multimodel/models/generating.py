"""What a trained model does: generate outputs for raw inputs, and score given ones."""

import threading
from typing import Any

import keras
import numpy as np

from keras_multimodel.generation.generate import Request, TaskGenerator
from keras_multimodel.generation.outputs import Generation, Stream
from keras_multimodel.models import graph
from keras_multimodel.models.body import Body
from keras_multimodel.models.task import Task
from keras_multimodel.models.watch import refuse_beside_fit

_graphs = threading.Lock()  # one thread at a time calls layers to make a graph


class GeneratingModel(keras.Model):
    """The part of a `MultiModel` that works on raw inputs, task by task."""

    _tasks: dict[str, Task]
    _body: Body
    _generators: dict[str, TaskGenerator]

    def generate(
        self,
        task: str,
        inputs: Any,
        sampler: Any = "greedy",
        max_length: int | None = None,
        seed: int | list[int] | None = None,
        use_cache: bool = True,
        stream: bool = False,
        constraint: Any = "default",
    ) -> Generation | Stream:
        """Returns the outputs of a task for raw inputs. No output depends on the other inputs.

        Args:
            task: name of the task.
            inputs: list of raw inputs in the form that the preprocessor of the task's input net
                takes: texts, images, or encoded audio. Without a preprocessor, arrays. An array, a
                tensor or a pandas Series may hold them, its first axis counts the inputs. One
                string, or the bytes of one file, is a list of one. For a task that reads several
                parts, a list of dicts, or a DataFrame: a part is missing where the dict lacks it
                or has None, NaN or an empty text.
            sampler: `"greedy"`, `"beam"`, `"random"`, `"top_k"`, `"top_p"`, a sampler of keras-nlp,
                or a `keras_multimodel.generation.BeamSearch`. Of classes, the most probable one is
                always returned.
            max_length: maximum number of ids to write, the end included. By default the
                `max_target_length` of the task.
            seed: seed of random samplers: an integer, to which the number of the input is added, or
                a list with one for each input. By default the sampler's, or new at each call.
            use_cache: whether to keep keys, values and states of earlier positions instead of
                computing them again.
            stream: whether to return an iterator over lists of new text, one piece for each input,
                None where nothing is new. The pieces of an input concatenate to its output. The
                attribute `ended` has the outputs that are complete so far. Outputs that are not
                text come in one piece.
            constraint: a `keras_multimodel.generation.Constraint` on the ids to write; None for
                none. By default the one of the target preprocessor, which keeps trees well-formed.

        Returns:
            A list with one raw output for each input: a text, a tree, or a class. Without a
            preprocessor, an array of ids or the number of a class. The attribute `ended` says which
            outputs are complete before `max_length`. After beam search, `hypotheses` has the n
            best outputs.

        Raises:
            ValueError: `task` or `sampler` is unknown; `inputs` is none of the above or is empty;
                an input is empty, silent, too long, of the wrong kind, or has values that are not
                finite or not in the vocabulary; or another argument does not fit.
        """
        generator = self._generator(task)
        request = Request(sampler, max_length, seed, use_cache, constraint)
        return generator.stream(inputs, request) if stream else generator(inputs, request)

    def score(self, task: str, inputs: Any, targets: Any) -> np.ndarray:
        """Returns the log-probabilities of given targets.

        Args:
            task: name of the task.
            inputs: raw inputs, as for `generate`.
            targets: one raw target for each input, in the same forms.

        Returns:
            float32 `(n,)`, the log-probability of each whole target, its end included.

        Raises:
            ValueError: as for `generate`, or there are not as many targets as inputs.
        """
        return self._generator(task).score(inputs, targets)

    def _generator(self, name: str) -> TaskGenerator:
        task = self._task(name)
        if keras.backend.backend() == "jax":
            refuse_beside_fit(self, "generate")
        # Made at the first call: a model that only trains pays for no second graph.
        with _graphs:
            generator = self._generators.get(name)
            # Another model may share layers with this one, and give them adapters.
            if generator is None or not generator.is_current():
                generator = self._generators[name] = graph.make_generator(task, self._body)
            return generator

    def _task(self, name: str) -> Task:
        if name not in list(self._tasks):  # a name that is a list has no hash
            raise ValueError(f"`task` must be one of {list(self._tasks)}. Received: task={name!r}")
        return self._tasks[name]
