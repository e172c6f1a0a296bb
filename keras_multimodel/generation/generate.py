"""Raw inputs in, raw outputs out, for one task."""

import functools
import operator
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.generation import samplers
from keras_multimodel.generation.beam_search import BeamLoop, BeamSearch
from keras_multimodel.generation.constraints import Constraint
from keras_multimodel.generation.inputs import (
    RawBatcher,
    bucket,
    input_batcher,
    num_rows,
    shapes,
)
from keras_multimodel.generation.loop import PADDING, SamplingLoop
from keras_multimodel.generation.outputs import Generation, Hypothesis, Stream, StreamPieces
from keras_multimodel.ops.compiled import (
    claim_xla,
    compiled,
    in_threads,
    rows_per_thread,
    traces_any_shapes,
    worth_xla,
)

_MAX_BATCH = 64  # inputs of one batch
_MAX_PROGRAMS = 24  # kept per task, without those of XLA; about 13 MB for each graph of one


class Request(NamedTuple):
    """The arguments of a call of `MultiModel.generate`, documented there."""

    sampler: Any
    max_length: int | None
    seed: int | list[int] | None
    use_cache: bool
    constraint: Constraint | str | None


class TaskGenerator:
    """Generates for one task.

    A service meets ever new combinations of rows and lengths, and what they take has to end: so one
    program serves all of them, but for the few that XLA compiles, and on JAX.

    Args:
        task: the task.
        read: model from a batch of inputs, or a list of its parts and `given`, to what the target
            net returns, or for a task that writes to `{"encoded", "mask"}`.
        write: model from `{"targets", "encoded", "mask"}` to logits `(batch, length,
            vocabulary_size)`; None for classes.
        steps: what computes logits position by position: a dict with the keys True, with caches,
            and False, without. Empty for classes.
    """

    def __init__(self, task, read: keras.Model, write: keras.Model | None, steps: dict[bool, Any]):
        self.task = task
        self.read = read
        self.write = write
        self.steps = steps
        self.inputs: Any = input_batcher(task)
        self.targets = RawBatcher(task.name, "targets", task.targets, None)
        self.traces = 0  # how often something was compiled
        self._programs: dict = {}  # in the order of their last use
        self._xla_programs: dict = {}  # kept: to forget one would not free it
        self._lock = Lock()
        self.variables = self._find_variables()
        # Made once, since its `id` is part of the key of a program.
        self._own_constraint = getattr(task.targets.preprocessor, "constraint", lambda: None)()

    def __call__(self, inputs: Any, request: Request) -> Generation:
        """Returns one raw output per input."""
        inputs = self.inputs.as_list(inputs)
        loop, arrays, limit, seeds = self._prepare(inputs, request)
        if loop is None:
            return Generation(self._classify(inputs, arrays), [True] * len(inputs))
        results = []
        for part in _slices(len(inputs), _MAX_BATCH):
            results += self._write(loop, inputs[part], arrays[part], limit, seeds[part])
        best = [hypotheses[0] for hypotheses in results]
        beams = results if isinstance(loop, BeamLoop) else None
        return Generation([h.output for h in best], [h.ended for h in best], beams)

    def is_current(self) -> bool:
        """Returns whether its programs have the weights that the layers have now."""
        found = self._find_variables()
        return len(found) == len(self.variables) and all(map(operator.is_, found, self.variables))

    def _find_variables(self):
        models = [self.read] if self.write is None else [self.read, self.write]
        # Each once: the target net may be the input net too.
        return list({id(v): v for model in models for v in model.variables}.values())

    def _write(self, loop, inputs, arrays, limit, seeds) -> list[list[Hypothesis]]:
        """Returns for each input of a batch its outputs, the best first."""
        rows = len(inputs)
        # A sampler with variables of its own, such as a seed, serves all rows in order.
        if self.uses_xla(loop, limit) and not loop.sampler.variables:
            rows = rows_per_thread(rows)
        runs = [
            _Run(self, loop, inputs[part], arrays[part], limit, seeds[part])
            for part in _slices(len(inputs), rows)
        ]
        if len(runs) > 1:
            for run in runs:
                run.advance(0)  # traces in this thread, whose dtype policy and scopes apply
        in_threads(lambda run: run.advance(limit), runs)
        return [hypotheses for run in runs for hypotheses in run.hypotheses()]

    def uses_xla(self, loop: SamplingLoop, limit: int) -> bool:
        """Returns whether XLA compiles a loop that writes up to `limit` ids."""
        return loop.steps is self.steps[True] and worth_xla(bucket(limit, 16))

    def stream(self, inputs: Any, request: Request) -> Stream:
        """Returns an iterator over what is new in each output, step by step."""
        inputs = self.inputs.as_list(inputs)
        loop, arrays, limit, seeds = self._prepare(inputs, request)
        if isinstance(loop, BeamLoop):
            raise ValueError(
                "`sampler` must not be a beam search with stream=True: its best output is known "
                f"only at the end. Received: sampler={request.sampler!r}"
            )
        return Stream(self._pieces(loop, inputs, arrays, limit, seeds), len(inputs))

    def _pieces(self, loop, inputs, arrays, limit, seeds) -> Iterator[tuple[list, list[bool]]]:
        if loop is None:
            yield self._classify(inputs, arrays), [True] * len(inputs)
            return
        preprocessor = self.task.targets.preprocessor
        incremental = preprocessor is None or getattr(preprocessor, "incremental", False)
        pieces = StreamPieces(lambda ids, i: self.decode(ids, inputs[i]), incremental)
        run = _Run(self, loop, inputs, arrays, limit, seeds)
        for written in range(1, limit + 1):
            run.advance(written)
            ids, ended = run.written()
            yield pieces(ids, ended | (written == limit)), ended.tolist()
            if ended.all():
                return

    def score(self, inputs: Any, targets: Any) -> np.ndarray:
        """Returns the log-probability of each raw target, float32 `(n,)`."""
        inputs, targets = self.inputs.as_list(inputs), self.targets.as_list(targets)
        if len(inputs) != len(targets):
            raise ValueError(
                "`targets` must be as many as `inputs`. "
                f"Received: {len(targets)} targets, {len(inputs)} inputs"
            )
        inputs, targets = self.inputs(inputs), self.targets(targets)
        scores = []
        for part in _slices(len(inputs), _MAX_BATCH):
            raw, ids = self.inputs.batch(inputs[part]), self.targets.batch(targets[part])
            run = self.program(("score",), (shapes(raw), ids.shape), self._log_probabilities)
            # The batch has rows that only fill it.
            scores.append(ops.convert_to_numpy(run(raw, ids))[: len(inputs[part])])
        return np.concatenate(scores)

    def read_inputs(self, raw: Any) -> Any:
        """Returns what `read` computes for a batch: an array, or a dict of arrays by their keys."""
        # The order of the keys of a dict is lost where a program is compiled.
        keys = [*self.task.parts, "given"]
        return self.read([raw[key] for key in keys] if self.task.has_parts else raw, training=False)

    def _log_probabilities(self, values, raw, ids):
        with keras.StatelessScope(values):
            logits = self.read_inputs(raw)
            if self.write is not None:
                logits = self.write({"targets": ids, **logits}, training=False)
        return self.task.targets.log_probability(logits, ids)

    def decode(self, prediction: np.ndarray, raw: Any) -> Any:
        """Returns the raw form of a class, or of ids written for the input `raw`."""
        # A plain function as a preprocessor has no way back.
        decode = getattr(self.task.targets.preprocessor, "decode", None)
        if decode is not None:
            return decode(prediction, raw)
        return prediction if self.write is None else prediction[prediction != PADDING]

    def program(self, key: tuple, shape: tuple, function: Callable, xla: bool = False) -> Callable:
        """Returns the compiled `function(values, ...)` for a bucket of shapes.

        Args:
            key: tells programs apart. The `id` of an object may be part of it: a program keeps the
                objects that it uses alive for as long as its key is known.
            shape: the bucket.
            function: what is compiled, if no program serves this key and bucket.
            xla: whether XLA compiles it, as long as the process has few such programs.
        """

        def counted(*args):
            self.traces += 1
            return function(*args)

        fixed = (*key, shape)
        key = key if traces_any_shapes() else fixed
        with self._lock:
            if fixed not in self._xla_programs and xla and claim_xla():
                self._xla_programs[fixed] = compiled(counted, self.variables, xla=True)
            if fixed in self._xla_programs:
                return self._xla_programs[fixed]
            program = self._programs.pop(key, None)
            self._programs[key] = program or compiled(counted, self.variables, any_shapes=True)
            if len(self._programs) > _MAX_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            return self._programs[key]

    def _classify(self, inputs, arrays):
        classes = []
        for part in _slices(len(arrays), _MAX_BATCH):
            raw = self.inputs.batch(arrays[part])
            run = self.program(("classify",), shapes(raw), self._predict)
            classes += list(ops.convert_to_numpy(run(raw)))
        return [self.decode(c, raw) for c, raw in zip(classes, inputs)]

    def _predict(self, values, raw):
        with keras.StatelessScope(values):
            return self.task.targets.prediction(self.read_inputs(raw))

    def encode(self, values, raw):
        """Returns a batch as the decoder reads it, whatever the length of outputs, and its mask."""
        with keras.StatelessScope(values):
            found = self.read_inputs(raw)
        return found["encoded"], found["mask"]

    def start(self, loop, size, values, encoded, mask, filled, constraint_state):
        """Returns the state of `loop` before the first of `size` ids."""
        with keras.StatelessScope(values):
            return loop.start(size, encoded, mask, filled, constraint_state)

    def _prepare(self, inputs, request):
        """Checks all arguments before any work starts.

        Args:
            inputs: the raw inputs.
            request: how outputs are chosen.

        Returns:
            The loop, None for a task of classes; one array per input; the most ids to write; one
            seed per input.

        Raises:
            ValueError: an argument does not fit.
        """
        sampler = samplers.resolve(request.sampler)
        limit = self.task.max_target_length
        if request.max_length is not None:
            limit = positive_int("max_length", request.max_length)
        seeds = samplers.row_seeds(request.seed, sampler.seed, len(inputs))
        constraint = self._constraint(request.constraint)
        arrays = self.inputs(inputs)
        if self.write is None:
            return None, arrays, limit, seeds
        lengths = [] if constraint is None else constraint.minimum_length(inputs)
        for i, length in enumerate(lengths):
            if length > limit and length == max(lengths):
                raise ValueError(
                    f"`max_length` must be at least {length} for inputs[{i}]. "
                    f"Received: max_length={limit}"
                )
        kind = BeamLoop if isinstance(sampler, BeamSearch) else SamplingLoop
        loop = kind(self.steps[bool(request.use_cache)], sampler, constraint)
        return loop, arrays, limit, seeds

    def _constraint(self, constraint):
        if isinstance(constraint, str) and constraint == "default":
            return self._own_constraint
        if constraint is not None and not isinstance(constraint, Constraint):
            raise ValueError(
                '`constraint` must be a Constraint, "default" or None. '
                f"Received: constraint={constraint!r}"
            )
        return constraint


class _Run:
    """One batch of inputs while its outputs are written."""

    def __init__(self, generator, loop, inputs, arrays, limit, seeds):
        self.generator = generator
        self.loop = loop
        self.inputs = inputs
        self.limit = limit
        raw = generator.inputs.batch(arrays)
        size = bucket(limit, 16)
        filled = np.arange(num_rows(raw)) >= len(inputs)
        constraint = loop.constraint
        rows = [*inputs, *inputs[:1] * (num_rows(raw) - len(inputs))]
        constraint_state = () if constraint is None else constraint.initial_state(rows)
        cached = loop.steps is generator.steps[True]
        key = (type(loop).__name__, loop.rows_per_input, cached, size)
        shape = (shapes(raw), *(np.shape(x) for x in keras.tree.flatten(constraint_state)))
        encode = generator.program(("encode",), shapes(raw), generator.encode)
        start = generator.program(
            ("start", *key), shape, functools.partial(generator.start, loop, size)
        )
        self._advance = generator.program(
            ("advance", *key, loop.sampler.key, id(constraint)),
            shape,
            loop.advance,
            xla=generator.uses_xla(loop, limit),
        )
        self.state = start(*encode(raw), filled, constraint_state)
        self.state["sampler"] = [ops.convert_to_tensor(v.value) for v in loop.sampler.variables]
        self.draws = ()
        if loop.sampler.random:
            # Drawn for `limit` and not for the bucket: an output must not depend on the bucket.
            seeds = [*seeds, *[0] * int(filled.sum())]
            self.draws = np.pad(samplers.draw(seeds, limit), [[0, size - limit], [0, 0]])

    def advance(self, until: int) -> None:
        """Writes until there are `until` ids or all rows have ended."""
        # Arrays, since a Python integer would be part of the program and need one for each value.
        bounds = (np.array(n, "int32") for n in (until, self.limit))
        self.state = self._advance(self.state, self.draws, *bounds)
        for variable, value in zip(self.loop.sampler.variables, self.state["sampler"]):
            variable.assign(value)

    def written(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids `(rows, length)` and whether each row has ended."""
        length = int(self.state["index"])
        ids = ops.convert_to_numpy(self.state["ids"])[:, :length]
        ended = ops.convert_to_numpy(self.state["ended"])
        count = len(self.inputs) * self.loop.rows_per_input
        return ids[:count], ended[:count]

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Returns for each input its outputs, the best first."""
        ids, ended = self.written()
        scores = self.loop.scores(self.state)
        per_input = self.loop.rows_per_input
        results = []
        for i, raw in enumerate(self.inputs):
            rows = sorted(range(i * per_input, (i + 1) * per_input), key=lambda row: -scores[row])
            # Fewer outputs than beams are possible where the constraint allows no more.
            possible = [row for row in rows if np.isfinite(scores[row])] or rows[:1]
            outputs = [self.generator.decode(ids[row], raw) for row in possible]
            kept = zip(outputs, scores[possible].tolist(), ended[possible].tolist())
            results.append([Hypothesis(*found) for found in kept])
        return results


def _slices(count, size) -> list[slice]:
    """Returns slices of at most `size` that cover a list of `count`."""
    return [slice(start, start + size) for start in range(0, count, size)]
