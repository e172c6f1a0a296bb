"""Raw inputs in, raw outputs out."""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_multimodel.generation import samplers
from keras_multimodel.generation.beam_search import BeamedSearch, BeamSearch
from keras_multimodel.generation.constraints import Constraint
from keras_multimodel.generation.inputs import Encoder, bucket
from keras_multimodel.generation.loop import PADDING, Search
from keras_multimodel.generation.outputs import Generation, Hypothesis
from keras_multimodel.generation.streaming import Pieces, Stream
from keras_multimodel.ops import cache as caches
from keras_multimodel.ops.compiled import compiled, loops_side_by_side

_AT_ONCE = 64  # most inputs of one batch
_MOST_PROGRAMS = 32  # that are kept, two for each bucket
_XLA_FROM = 64  # most ids; shorter loops would never earn the seconds that XLA compiles
_LEAST_ROWS = 8  # of a batch that is split off, to be written on a core of its own


class Request(NamedTuple):
    """The arguments of a call of `MultiModel.generate`, documented there."""

    sampler: object
    max_length: int | None
    seed: object
    use_cache: bool
    constraint: object


class TaskGenerator:
    """Generates for one task, compiled once for each bucket of shapes.

    Args:
        task: the task.
        read: model from a batch of inputs to class logits, or for a task that writes to
            `{"encoded", "mask"}`.
        write: model from `{"targets", "encoded", "mask"}` to logits `(batch, length,
            vocabulary_size)`; None for classes.
        steps: gives logits position by position, with `use_cache` and without: a dict with the keys
            True and False. Empty for classes.
    """

    def __init__(self, task, read, write=None, steps=()):
        self.task = task
        self.read = read
        self.write = write
        self.steps = dict(steps)
        self.inputs = Encoder(task.name, "inputs", task.inputs, task.max_input_length)
        self.targets = Encoder(task.name, "targets", task.targets, None)
        self.traces = 0  # how often something was compiled
        self._programs: dict = {}  # the one used last comes last
        self._lock = Lock()
        models = [model for model in (read, write) if model is not None]
        variables = {id(v): v for model in models for v in model.variables}
        self._variables = list(variables.values())
        make = getattr(task.targets.preprocessor, "constraint", None)
        self._own_constraint = None if make is None else make()

    def __call__(self, inputs: list, request: Request) -> Generation:
        """Returns one raw output an input."""
        search, arrays, limit, seeds = self._prepare(inputs, request)
        if self.write is None:
            return Generation(self._classify(inputs, arrays), [True] * len(inputs))
        results = []
        for start in range(0, len(inputs), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            results += self._write(search, inputs[part], arrays[part], limit, seeds[part])
        best = [hypotheses[0] for hypotheses in results]
        beams = results if isinstance(search.chooser, BeamSearch) else None
        return Generation([h.output for h in best], [h.ended for h in best], beams)

    def _write(self, search, inputs, arrays, limit, seeds) -> list[list[Hypothesis]]:
        """Returns for each input its outputs, the best first."""
        rows = len(inputs)
        if self._splits(search, limit):
            rows = _rows_of_a_loop(rows)
        runs = [
            _Run(
                self, search, inputs[i : i + rows], arrays[i : i + rows], limit, seeds[i : i + rows]
            )
            for i in range(0, len(inputs), rows)
        ]
        if len(runs) == 1:
            runs[0].advance(limit)
        else:
            first_of = {}  # by bucket
            for run in runs:
                first = first_of.setdefault(run.key, run)
                run.state["cache"] = search.steps.share(run.state["cache"], first.state["cache"])
            for run in first_of.values():
                run.advance(0)  # traces in this thread, whose scopes and policies are its own
            with ThreadPoolExecutor(len(runs)) as pool:
                list(pool.map(lambda run: run.advance(limit), runs))
        return [hypotheses for run in runs for hypotheses in run.results()]

    def _splits(self, search, limit):
        """Returns whether the rows of a batch may be written in several loops at once."""
        return self.is_long(search, bucket(limit, 16)) and not search.chooser.variables

    def is_long(self, search, size: int) -> bool:
        """Returns whether a loop of a bucket of `size` ids is worth the time that XLA takes."""
        return search.steps is self.steps[True] and size >= _XLA_FROM

    def stream(self, inputs: list, request: Request) -> Stream:
        """Returns an iterator over what is new in each output, step by step."""
        search, arrays, limit, seeds = self._prepare(inputs, request)
        if isinstance(search, BeamedSearch):
            raise ValueError(
                "`sampler` must not be a beam search with stream=True: its best output is known at "
                f"the end only. Received: sampler={request.sampler!r}"
            )
        return Stream(self._pieces(search, inputs, arrays, limit, seeds), len(inputs))

    def _pieces(self, search, inputs, arrays, limit, seeds):
        if self.write is None:
            yield self._classify(inputs, arrays), [True] * len(inputs)
            return
        preprocessor = self.task.targets.preprocessor
        incremental = preprocessor is None or getattr(preprocessor, "incremental", False)
        pieces = Pieces(lambda ids, i: self.decode(ids, inputs[i]), incremental)
        run = _Run(self, search, inputs, arrays, limit, seeds)
        for written in range(1, limit + 1):
            run.advance(written)
            ids, ended = run.written()
            yield pieces(ids, ended | (written == limit)), ended.tolist()
            if ended.all():
                return

    def score(self, inputs: list, targets: list) -> np.ndarray:
        """Returns the log-probability of each raw target, float32 `(n,)`."""
        self.inputs.check_list(inputs)
        self.targets.check_list(targets)
        if len(inputs) != len(targets):
            raise ValueError(
                "`targets` must be as many as `inputs`. "
                f"Received: {len(targets)} targets, {len(inputs)} inputs"
            )
        pairs = list(zip(self.inputs(inputs), self.targets(targets)))
        scores = []
        for start in range(0, len(pairs), _AT_ONCE):
            part = pairs[start : start + _AT_ONCE]
            raw, ids = (
                net.batch(list(x)) for net, x in zip((self.inputs, self.targets), zip(*part))
            )
            run = self.program(("score", raw.shape, ids.shape), self._log_probabilities)
            scores.append(ops.convert_to_numpy(run(raw, ids))[: len(part)])
        return np.concatenate(scores)

    def _log_probabilities(self, values, raw, ids):
        with keras.StatelessScope(values):
            read = self.read(raw, training=False)
            logits = read
            if self.write is not None:
                logits = self.write({"targets": ids, **read}, training=False)
        scores = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        scores = ops.take_along_axis(scores, ids[..., None], axis=-1)[..., 0]
        if self.write is None:
            return scores
        return ops.sum(ops.where(ids != PADDING, scores, 0.0), axis=-1)

    def decode(self, prediction, raw):
        """Returns the raw form of a class, or of ids."""
        preprocessor = self.task.targets.preprocessor
        if preprocessor is not None:
            return preprocessor.decode(prediction, raw)
        return prediction if self.write is None else prediction[prediction != PADDING]

    def program(self, key, function, xla=False):
        """Returns the compiled `function(values, ...)` of a bucket.

        A program holds the objects whose `id` is part of its key, and leaves with the key.
        """

        def counted(*args):
            self.traces += 1
            return function(*args)

        with self._lock:
            program = self._programs.pop(key, None) or compiled(counted, self._variables, xla)
            self._programs[key] = program
            if len(self._programs) > _MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]
        return program

    def _classify(self, inputs, arrays):
        classes = []
        for start in range(0, len(arrays), _AT_ONCE):
            raw = self.inputs.batch(arrays[start : start + _AT_ONCE])
            run = self.program(("classify", raw.shape), self._best_class)
            classes += list(ops.convert_to_numpy(run(raw)))
        return [self.decode(c, raw) for c, raw in zip(classes, inputs)]

    def _best_class(self, values, raw):
        with keras.StatelessScope(values):
            return ops.argmax(self.read(raw, training=False), axis=-1)

    def _prepare(self, inputs, request):
        """Checks everything before any work starts."""
        chooser = samplers.resolve(request.sampler)
        self.inputs.check_list(inputs)
        limit = self._limit(request.max_length)
        seeds = samplers.row_seeds(request.seed, chooser.seed, len(inputs))
        constraint = self._constraint(request.constraint)
        arrays = self.inputs(inputs)
        if self.write is None:
            return Search(None, chooser), arrays, limit, seeds
        if constraint is not None:
            _check_minimum(constraint.minimum_length(inputs), limit)
        kind = BeamedSearch if isinstance(chooser, BeamSearch) else Search
        steps = self.steps[bool(request.use_cache)]
        return kind(steps, chooser, constraint), arrays, limit, seeds

    def _limit(self, max_length):
        limit = self.task.max_target_length if max_length is None else max_length
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ValueError(
                f"`max_length` must be a positive integer. Received: max_length={max_length}"
            )
        return limit

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
    """One batch on its way through a search."""

    def __init__(self, generator, search, inputs, arrays, limit, seeds):
        self.generator = generator
        self.search = search
        self.inputs = inputs
        self.limit = limit
        raw = generator.inputs.batch(arrays)
        size = bucket(limit, 16)
        filled = np.arange(len(raw)) >= len(inputs)
        constraint = search.constraint
        rows = [*inputs, *inputs[:1] * (len(raw) - len(inputs))]
        state = () if constraint is None else constraint.initial_state(rows)
        cached = search.steps is generator.steps[True]
        key = (type(search).__name__, search.rows_per_input, cached, raw.shape, size)
        start = generator.program(("start", *key), self._start(search, size))
        self.key = ("advance", *key, search.chooser.key, id(constraint))
        self._advance = generator.program(self.key, search.advance, generator.is_long(search, size))
        self.state = start(raw, filled, state)
        self.state["sampler"] = [ops.convert_to_tensor(v.value) for v in search.chooser.variables]
        self._size = size
        self._full = 0  # pieces of the cache
        self.draws = ()
        if search.chooser.random:
            seeds = [*seeds, *[0] * int(filled.sum())]
            self.draws = np.pad(samplers.draw(seeds, limit), [[0, size - limit], [0, 0]])

    def _start(self, search, size):
        read = self.generator.read

        def start(values, raw, filled, constraint_state):
            with keras.StatelessScope(values):
                found = read(raw, training=False)
                arguments = (found["encoded"], found["mask"], filled, constraint_state)
                return search.start(size, *arguments)

        return start

    def advance(self, until: int) -> None:
        """Goes on until `until` ids are written or all rows have ended."""
        stop = written = -1
        while written == stop < until:
            stop = min(until, self._end_of_piece())
            bounds = (np.array(n, "int32") for n in (stop, self.limit))
            after = self._advance(self.state, self.draws, *bounds)
            self.state = self.search.whole(self.state, after)
            written = int(self.state["index"])
        variables = self.search.chooser.variables
        for variable, value in zip(variables, self.state["sampler"]):
            variable.assign(value)

    def _end_of_piece(self):
        """Returns how many ids fit in the open piece of the cache, or in the next if it is full."""
        length = caches.piece_size(self._size)
        end = (self._full + 1) * length
        if int(self.state["index"]) == end < self._size:
            self.state["cache"] = caches.next_piece(self.state["cache"], self._full)
            self._full += 1
            end += length
        return end

    def written(self):
        """Returns ids `(rows, length)` and whether each row has ended."""
        length = int(self.state["index"])
        ids = ops.convert_to_numpy(self.state["ids"]).T[:, :length]
        ended = ops.convert_to_numpy(self.state["ended"])
        count = len(self.inputs) * self.search.rows_per_input
        return ids[:count], ended[:count]

    def results(self) -> list[list[Hypothesis]]:
        """Returns for each input its outputs, the best first."""
        ids, ended = self.written()
        scores = self._scores(ids)
        per_input = self.search.rows_per_input
        results = []
        for i, raw in enumerate(self.inputs):
            rows = range(i * per_input, (i + 1) * per_input)
            rows = sorted(rows, key=lambda row: -scores[row])
            possible = [row for row in rows if np.isfinite(scores[row])] or rows[:1]
            results.append(
                [
                    Hypothesis(
                        self.generator.decode(ids[row], raw), float(scores[row]), bool(ended[row])
                    )
                    for row in possible
                ]
            )
        return results

    def _scores(self, ids):
        if not isinstance(self.search, BeamedSearch):
            return np.zeros(len(ids))
        penalty = ops.convert_to_numpy(self.search.chooser.penalty(self.state["length"]))
        scores = ops.convert_to_numpy(self.state["log_probability"]) / penalty
        return scores.reshape(-1)[: len(ids)]


def _rows_of_a_loop(count):
    """Returns how many rows of a batch one loop writes, where each of some loops has a core."""
    return -(-count // max(1, min(loops_side_by_side(), count // _LEAST_ROWS)))


def _check_minimum(lengths, limit):
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if lengths[longest] > limit:
        raise ValueError(
            f"`max_length` must be at least {lengths[longest]} for inputs[{longest}]. "
            f"Received: max_length={limit}"
        )
