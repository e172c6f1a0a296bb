"""Runs variants with several seeds, each run once."""

import copy
import dataclasses
import functools
import inspect
import os
import pathlib
import shutil
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_multimodel.ablation.cost import Cost, cost
from keras_multimodel.ablation.intervals import LOOKS, Decision, decide
from keras_multimodel.ablation.matching import match_width
from keras_multimodel.ablation.records import (
    cached,
    describe,
    describe_model,
    digest,
    surroundings,
)
from keras_multimodel.ablation.results import Results
from keras_multimodel.argument_checks import integer, name_list, one_of, positive_int
from keras_multimodel.data.mixing.mixture import Mixture

MATCHES = ("parameters", "active_parameters", "multiplications")


class Study:
    """Trains variants of a model with several seeds, and compares them.

    Every run is kept as a small JSON, under a hash of the model's config, the optimizer, the data,
    the seed and the other arguments. A study that is started again runs what is missing.

    Seeds are paired: run `k` of every variant has the same seed for weights, dropout and order of
    the data, so that the differences vary less than the values.

    Args:
        build: returns a compiled `keras.Model`; called with the arguments of a variant. It must
            make new layers at each call: weights would pass from run to run otherwise.
        data: `(train, held_out)` or `(train, validation, held_out)`; each a data set, or a tuple
            of arrays `(x, y)`. Or a function from a model and a seed to these. A mixture needs a
            function, since each iteration of one mixture is another epoch.
        variants: name -> arguments of `build`. The first one is the reference.
        seeds: number of seeds, or the seeds.
        metrics: names in the logs of `evaluate` on `held_out`, such as `"en_de_accuracy"`, or
            `"accuracy"` of a model of one task; or a function from a model and `held_out` to a
            dict of numbers.
        fit: arguments of `model.fit`; or a function `(model, train, validation, callbacks, folder)`
            that trains. Of two parts of `data`, `validation` is None. In `folder` it may keep its
            state, such as that of `kmm.callbacks.Resume`, until the run has ended; it is None if
            the study has no folder.
        match: `"parameters"`, `"active_parameters"` or `"multiplications"`: the `width` of every
            other variant is changed until it has as many as the reference, within 2 %. Widths that
            `build` refuses are passed over. A small model, or one whose width must be a multiple
            of many heads, may have no width that is near enough.
        width: name of the integer argument of `build` that `match` changes.
        folder: where to keep the runs; None for nowhere.
        version: any JSON value that is part of the hash. Change it when something changes that the
            study cannot see, such as a function that `build` or `data` calls.
        logger: an object with a method `log(values, step)`, which gets the logs of every epoch,
            with the name of the variant and the seed in the keys, such as
            `kmm.callbacks.TensorBoardLog`.

    Raises:
        ValueError: an argument is out of range, `data` has no two or three parts, `logger` has no
            `log`, or no width matches the reference. Before the first training: `folder` is a
            file, or `evaluate` logs no such metric.

    Example:

    ```python
    def build(units=8, activation="relu"):
        layers = [keras.layers.Dense(units, activation), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
        return model

    x = np.random.default_rng(0).normal(size=(96, 4))
    y = np.abs(x).sum(axis=1)
    study = kmm.ablation.Study(
        build,
        data=((x[:64], y[:64]), (x[64:], y[64:])),
        variants={"relu": {}, "linear": {"activation": None}},
        seeds=2,
        metrics=["mae"],
        fit={"epochs": 2},
        match="parameters",
        width="units",
    )
    print(study.run().markdown())
    ```
    """

    def __init__(
        self,
        build: Callable[..., keras.Model],
        data: Any,
        variants: Mapping[str, Mapping[str, Any]],
        seeds: int | Sequence[int],
        metrics: Sequence[str] | Callable[[keras.Model, Any], Mapping[str, float]],
        fit: Mapping[str, Any] | Callable | None = None,
        match: str | None = None,
        width: str = "hidden_dim",
        folder: str | os.PathLike | None = None,
        version: Any = None,
        logger: Any = None,
    ):
        if not variants:
            raise ValueError(f"`variants` must not be empty. Received: variants={variants}")
        if not isinstance(variants, Mapping) or not all(
            isinstance(arguments, Mapping) for arguments in variants.values()
        ):
            expected = "`variants` must map names to dicts of arguments"
            raise ValueError(f"{expected}. Received: variants={variants!r}")
        if logger is not None and not callable(getattr(logger, "log", None)):
            raise ValueError(f"`logger` must have a method `log`. Received: logger={logger!r}")
        if match is not None:
            one_of("match", match, MATCHES)
        self.build = build
        self.data = data if callable(data) else _fixed_parts(data)
        self.variants = {name: dict(arguments) for name, arguments in variants.items()}
        self.seeds = _seeds(seeds)
        self.metrics = metrics if callable(metrics) else name_list("metrics", metrics)
        self.fit = fit if callable(fit) else dict(fit or {})
        self.match = match
        self.width = width
        self.folder = None if folder is None else pathlib.Path(folder)
        self.version = version
        self.logger = logger
        self.reference = next(iter(self.variants))
        self.costs: dict[str, Cost] = {}
        self._metrics_found = False
        self._data = digest(describe(self.data))
        self._models: dict[str, str] = {}
        self._records: dict[tuple[str, int], dict[str, Any]] = {}
        self._variables: dict[int, weakref.ref] = {}

    def run(self) -> Results:
        """Runs every variant with every seed, seed by seed, and returns the results."""
        self.plan()
        return self._results(self.seeds)

    def plan(self) -> dict[str, Cost]:
        """Matches the widths and counts the cost of every variant; trains nothing.

        Returns:
            Variant -> its cost. `variants` then has the matched widths.

        Raises:
            ValueError: no width matches the reference.
        """
        for name in self.variants:
            if name in self.costs:
                continue
            if self.match is not None and name != self.reference:
                self._set_width(name)
            model = self._new_model(name, self.seeds[0])
            self._models[name] = describe_model(model)
            self.costs[name] = self._cost(model)
        return dict(self.costs)

    def decide(
        self,
        metric: str,
        variant: str,
        margin: float = 0.0,
        looks: Sequence[int] = LOOKS,
        confidence: float = 0.95,
    ) -> Decision:
        """Adds seeds until it is clear whether a variant differs from the reference.

        Args:
            metric: a metric of the study.
            variant: a variant.
            margin: see `kmm.ablation.decide`.
            looks: numbers of seeds after which to look. Seeds beyond those of the study follow
                the last one.
            confidence: 1 minus the share of wrong decisions that is allowed.

        Returns:
            The decision.

        Raises:
            ValueError: the study has no such variant or metric.
        """
        one_of("variant", variant, [name for name in self.variants if name != self.reference])
        self.plan()

        def differences(count):
            more = range(max(self.seeds) + 1, max(self.seeds) + 1 + count)
            seeds = [*self.seeds, *more][:count]
            found = self._results(seeds, (self.reference, variant))
            one_of("metric", metric, found.metrics)
            one, two = (found.values(name, metric) for name in (variant, self.reference))
            return [a - b for a, b in zip(one, two)]

        return decide(differences, margin, looks, confidence)

    def _results(self, seeds, names=None) -> Results:
        records = [self._run(name, seed) for seed in seeds for name in names or self.variants]
        return Results(records, self.reference)

    def _new_model(self, name, seed) -> keras.Model:
        """Builds a variant, with its weights and its layers' names as in any other process."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        model = self.build(**self.variants[name])
        shared = [w for w in model.weights if self._variables.get(id(w), _nothing)() is w]
        if shared:
            raise ValueError(
                "`build` must make new layers at each call: weights would pass from run to run. "
                f"Received: the weight {shared[0].path!r} twice"
            )
        self._variables = {id(w): weakref.ref(w) for w in model.weights}
        return model

    def _parts_for(self, model, seed) -> tuple:
        return _parts(self.data(model, seed)) if callable(self.data) else self.data

    def _cost(self, model) -> Cost:
        # The second part: the last of three may be anything that `metrics` reads, and a mixture to
        # train on would be moved.
        held_out = self._parts_for(model, self.seeds[0])[1]
        x = held_out[0] if isinstance(held_out, tuple) else next(iter(held_out))[0]
        return cost(model, keras.tree.map_structure(lambda array: array[:8], x))

    def _set_width(self, name):
        default = self._default_width()
        start = positive_int(self.width, self.variants[name].get(self.width, default))
        match = str(self.match)
        target = getattr(self.costs[self.reference], match)

        def measure(width):
            self.variants[name][self.width] = width
            model = self._new_model(name, self.seeds[0])
            # Without running the model, which takes longer than building it.
            if match == "parameters":
                return model.count_params()
            return getattr(self._cost(model), match)

        try:
            self.variants[name][self.width] = match_width(start, target, measure)
        except ValueError as error:
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            raise ValueError(f"Variant {name!r}: {error}{reason}") from error

    def _default_width(self):
        given = self.variants[self.reference].get(self.width)
        parameter = inspect.signature(self.build).parameters.get(self.width)
        default = inspect.Parameter.empty if parameter is None else parameter.default
        if given is None and default is inspect.Parameter.empty:
            raise ValueError(
                "`width` must be an argument of `build` with a default, or be among the arguments "
                f"of the reference. Received: width={self.width!r}"
            )
        return default if given is None else given

    def _run(self, name, seed) -> dict[str, Any]:
        if (name, seed) not in self._records:
            configuration = self._configuration(name, seed)
            key = digest(configuration)
            run = functools.partial(self._train, name, seed, configuration)
            if self.folder is None:
                self._records[name, seed] = run(None)
            else:
                readable = "".join(c if c.isalnum() else "_" for c in name)
                state = self.folder / f"{key}.state"
                path = self.folder / f"{readable}-{seed}-{key}.json"
                self._records[name, seed] = cached(path, functools.partial(run, state))
                shutil.rmtree(state, ignore_errors=True)
        return self._records[name, seed]

    def _configuration(self, name, seed) -> dict[str, Any]:
        return {
            "variant": name,
            "arguments": describe(self.variants[name]),
            "seed": seed,
            "model": self._models[name],
            "data": self._data,
            "metrics": describe(self.metrics),
            "fit": describe(self.fit),
            "version": self.version,
        }

    def _train(self, name, seed, configuration, folder) -> dict[str, Any]:
        start = time.time()
        self._check_metrics(name, seed)
        model = self._new_model(name, seed)
        train, *between, held_out = self._parts_for(model, seed)
        validation = between[0] if between else None
        callbacks = [] if self.logger is None else [_Log(self.logger, f"{name}/seed {seed}/")]
        # Once more: building and encoding draw numbers, of which another variant may draw others.
        keras.utils.set_random_seed(seed)
        if callable(self.fit):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self.fit(model, train, validation, callbacks, folder)
        else:
            _fit(model, train, validation, callbacks, self.fit)
        return {
            "configuration": configuration,
            "metrics": self._measure(model, held_out),
            "cost": dataclasses.asdict(self.costs[name]),
            "seconds": round(time.time() - start, 1),
            **surroundings(),
        }

    def _check_metrics(self, name, seed):
        """Finds a misspelt metric before the first training, which may take hours."""
        if self._metrics_found or callable(self.metrics):
            return
        model = self._new_model(name, seed)
        held_out = self._parts_for(model, seed)[-1]
        if isinstance(held_out, tuple):
            batch = keras.tree.map_structure(lambda array: array[:8], held_out)
        else:
            batch = next(iter(held_out))
        if not set(self.metrics) <= set(model.test_on_batch(*batch, return_dict=True)):
            self._measure(model, held_out)  # a batch may be without rows of some task
        self._metrics_found = True

    def _measure(self, model, held_out) -> dict[str, float]:
        if callable(self.metrics):
            measured = self.metrics(model, held_out)
            return {key: float(value) for key, value in measured.items()}
        arrays = held_out if isinstance(held_out, tuple) else (held_out,)
        logs = model.evaluate(*arrays, verbose=0, return_dict=True)
        unknown = [key for key in self.metrics if key not in logs]
        if unknown:
            raise ValueError(f"`metrics` must be among {list(logs)}. Received: {unknown[0]!r}")
        return {key: float(logs[key]) for key in self.metrics}


class _Log(keras.callbacks.Callback):
    """Passes the logs of every epoch to an object with a method `log`."""

    def __init__(self, logger, prefix):
        super().__init__()
        self.logger, self.prefix = logger, prefix

    def on_epoch_end(self, epoch, logs=None):
        values = {f"{self.prefix}{key}": float(value) for key, value in (logs or {}).items()}
        self.logger.log(values, epoch)


def _fit(model, train, validation, callbacks, arguments):
    arguments = {"verbose": 0, "validation_data": validation, **arguments}
    # Callbacks have a state: those that the user gave would carry it from run to run.
    given = copy.deepcopy(arguments.pop("callbacks", []))
    arrays = train if isinstance(train, tuple) else (train,)
    model.fit(*arrays, callbacks=[*given, *callbacks], **arguments)


def _parts(data) -> tuple:
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        size = f" of {len(data)}" if hasattr(data, "__len__") else ""
        raise ValueError(
            "`data` must be (train, held_out) or (train, validation, held_out). "
            f"Received: {type(data).__name__}{size}"
        )
    return tuple(data)


def _fixed_parts(data) -> tuple:
    parts = _parts(data)
    if any(isinstance(part, Mixture) for part in parts):
        raise ValueError(
            "`data` must be a function that makes its mixture anew: each iteration of one mixture "
            "is another epoch. Received: a mixture"
        )
    return parts


def _seeds(seeds) -> list[int]:
    if isinstance(seeds, Sequence):
        found = [integer("seeds", seed) for seed in seeds]
        if not found or len(set(found)) < len(found):
            raise ValueError(f"`seeds` must be different. Received: seeds={seeds}")
        return found
    return list(range(1, positive_int("seeds", seeds) + 1))


def _nothing():
    """Stands for a weak reference whose object is gone."""
