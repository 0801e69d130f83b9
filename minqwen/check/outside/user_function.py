"""Call a stranger's function in its own way, and turn what comes back into numbers.

Nothing here judges. Whatever the function does, a Reply comes out of it, with a Problem when there
is no answer. The limits on time and memory are those of the process (worker.py).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from . import arrays
from .arrays import from_framework, is_array, is_float, kind_of, to_framework
from .messages import Problem, Reply
from .user_file import Trouble, load_function, place_of, problem_of

__all__ = ["UserFunction", "contents", "load_function"]

AUTODIFF = ("torch", "jax")


class Leaf(NamedTuple):
    """A float array among the arguments, and where it stands."""

    name: str  # "x", or "params.w" inside a dict, "grads.0" inside a tuple
    value: Any


class Begun(NamedTuple):
    """A forward that was called, before its backward."""

    result: Any
    raws: list[Any]  # the outputs, as they came
    rest: tuple[Any, ...]  # what came after them: the cache
    outputs: tuple[Array, ...]
    leaves: list[Leaf]
    values: dict[str, Any]
    before: dict[str, Any]  # what the inputs held
    pull: Callable[..., Any] | None  # of jax
    notes: tuple[str, ...]


class UserFunction:
    """A stranger's forward, and backward where there is one, with their way to be called.

    Args:
        forward: called with the arguments in our order.
        backward: called as backward(dy, cache) when forward returned (y, cache), else as
            backward(*arguments, dy); dy is a tuple where there are several float outputs.
        framework: of the arrays that they take.
        arguments: {our name: their keyword}: those are given by keyword.
        outputs: our names of the outputs, so many are taken from a result. Empty: all leading ones.
        optional: arguments that may be left out when the function does not take so many.
        files: the stranger's files, for messages.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any] | None = None,
        *,
        framework: str = "numpy",
        arguments: dict[str, str] | None = None,
        outputs: Sequence[str] = (),
        optional: Sequence[str] = (),
        files: Sequence[str] = (),
    ) -> None:
        self.call_forward, self.call_backward = forward, backward
        self.framework, self.mapping = framework, dict(arguments or {})
        self.names, self.optional = tuple(outputs), tuple(optional)
        self.files = [os.path.realpath(file) for file in files]
        for function in (forward, backward):
            code = getattr(inspect.unwrap(function), "__code__", None) if function else None
            if code is not None:
                self.files.append(os.path.realpath(code.co_filename))

    def forward(self, arguments: dict[str, Any], dtype: str = "float64") -> Reply:
        """Call forward once."""
        begun: list[Begun] = []
        return self._answer(lambda: begun.append(self._begin(arguments, dtype)), begun, [])

    def backward(
        self, arguments: dict[str, Any], dys: tuple[Array, ...], dtype: str = "float64"
    ) -> Reply:
        """Call forward, then backward or the library's own differentiation."""
        return self.twice([arguments], [dys], dtype)[0]

    def twice(
        self,
        arguments: Sequence[dict[str, Any]],
        dys: Sequence[tuple[Array, ...]],
        dtype: str = "float64",
    ) -> tuple[Reply, ...]:
        """Call all forwards, then all backwards: nothing may be kept between the two in secret."""
        self.require_gradient()
        begun: list[Begun] = []

        def begin() -> None:
            begun.extend(self._begin(a, dtype, dy) for a, dy in zip(arguments, dys, strict=True))

        gradients: list[dict[str, Array | None]] = []
        failed = self._problem(begin, self.call_forward)
        if failed is None:
            changed = self._changed(begun)

            def finish() -> None:
                for one, a, dy in zip(begun, arguments, dys, strict=True):
                    gradients.append(self._finish(one, a, dy, dtype, changed))

            failed = self._problem(finish, self.call_backward or self.call_forward)
        if failed is not None:
            return tuple(Reply(problem=failed) for _ in arguments)
        return tuple(self._reply(one, g, changed) for one, g in zip(begun, gradients, strict=True))

    def require_gradient(self) -> None:
        """Raise ValueError when there is no way to a gradient."""
        if self.call_backward is None and self.framework not in AUTODIFF:
            raise ValueError(
                f"{self.framework} does not differentiate by itself: give a backward too"
            )

    def _answer(self, run: Callable[[], object], begun: list[Begun], changed: list[str]) -> Reply:
        problem = self._problem(run, self.call_forward)
        if problem is not None:
            return Reply(problem=problem)
        return self._reply(begun[0], {}, changed or self._changed(begun))

    def _problem(self, run: Callable[[], object], function: Any) -> Problem | None:
        """Run their code; return what went wrong, None if nothing did."""
        try:
            run()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            name = getattr(function, "__qualname__", type(function).__name__)
            return problem_of(error, self.files, name)
        return None

    def _reply(
        self, begun: Begun, gradients: dict[str, Array | None], changed: Sequence[str]
    ) -> Reply:
        dtypes = tuple(map(arrays.dtype_name, begun.raws))
        return Reply(
            begun.outputs, dtypes, gradients, tuple(dict.fromkeys(changed)), "", None, begun.notes
        )

    # --- forward ---------------------------------------------------------------------------------

    def _begin(
        self, arguments: dict[str, Any], dtype: str, dys: tuple[Array, ...] | None = None
    ) -> Begun:
        """Hand fresh inputs over and call forward; dys say that a gradient is wanted."""
        auto = dys is not None and self.call_backward is None
        leaves: list[Leaf] = []
        values = {
            name: self._hand(name, value, dtype, auto, leaves) for name, value in arguments.items()
        }
        before = {name: contents(value) for name, value in values.items()}
        count = len(self.names) or (len(dys) if dys else 0)
        pull = None
        if auto and self.framework == "jax":
            result, pull = self._jax_forward(values, leaves, count)
        else:
            result = self._call(self.call_forward, values)
        raws, rest, notes = self._outputs(result, count)
        # read at once: a later call may write into an array that the function keeps
        outputs = tuple(self._array(y) for y in raws)
        if leaves and any(isinstance(y, float) and not is_array(y) for y in raws):
            notes += (
                f"the function returned a float, not an array of {self.framework}: converted",
            )
        return Begun(result, raws, rest, outputs, leaves, values, before, pull, notes)

    def _hand(self, name: str, value: Any, dtype: str, grad: bool, leaves: list[Leaf]) -> Any:
        """Copy an argument into their library; plain numbers and texts stay as they are."""
        if isinstance(value, np.ndarray):
            try:
                found = to_framework(value, self.framework, dtype, grad)
            except ImportError as error:
                raise Trouble("missing package", str(error)) from None
            except ValueError as error:  # this library has no such dtype
                raise Trouble("wrong type", str(error)) from None
            if is_float(found):
                leaves.append(Leaf(name, found))
                if grad and self.framework == "torch":
                    found = (
                        found.clone()
                    )  # torch forbids writing into a leaf; a copy may be changed
            return found
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, dict):
            return {k: self._hand(f"{name}.{k}", v, dtype, grad, leaves) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            entries = [
                self._hand(f"{name}.{i}", entry, dtype, grad, leaves)
                for i, entry in enumerate(value)
            ]
            return entries if isinstance(value, list) else tuple(entries)
        return value

    def _call(self, function: Callable[..., Any], values: dict[str, Any]) -> Any:
        given, keywords = self._bind(function, values)
        return function(*given, **keywords)

    def _bind(
        self, function: Callable[..., Any], values: dict[str, Any], last: tuple[Any, ...] = ()
    ) -> tuple[list[Any], dict[str, Any]]:
        """Arrange the arguments as a function takes them; `last` come after them (dy)."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # built in C, perhaps: call it and see
            return [*values.values(), *last], {}
        parameters = signature.parameters.values()
        self._require_names(function, signature)
        keyword_only = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        names = list(values)
        first = ""
        while True:
            given: list[Any] = []
            keywords: dict[str, Any] = {}
            for name in names:
                theirs = self.mapping.get(name, name)
                by_name = self.mapping and theirs in named
                if name in self.mapping or theirs in keyword_only or by_name:
                    keywords[theirs] = values[name]
                else:
                    given.append(values[name])
            if keywords and last and "dy" in named:
                keywords[self.mapping.get("dy", "dy")] = last if len(last) > 1 else last[0]
            else:
                given += last
            try:
                signature.bind(*given, **keywords)
                return given, keywords
            except TypeError as error:
                first = first or str(error)
                leave = [name for name in names if name in self.optional]
                if not leave:
                    break
                names.remove(leave[-1])
        wanted = ", ".join([*values, *(["dy"] if last else [])])
        name = getattr(function, "__name__", type(function).__name__)
        raise Trouble(
            "raised",
            f"{name}{signature} cannot be called with ({wanted}): {first}; take them in this "
            "order, or say by which names they go",
            place_of(function),
        )

    def _require_names(self, function: Callable[..., Any], signature: inspect.Signature) -> None:
        """Refuse a mapping to an argument that the function does not have."""
        parameters = signature.parameters
        gone = [theirs for theirs in self.mapping.values() if theirs not in parameters]
        if gone and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            name = getattr(function, "__name__", type(function).__name__)
            says = f"{name} has no argument {gone[0]}; it has {', '.join(parameters) or 'none'}"
            raise Trouble("wrong name", says, place_of(function))

    def _outputs(
        self, result: Any, count: int
    ) -> tuple[list[Any], tuple[Any, ...], tuple[str, ...]]:
        """Part a result into so many outputs, what follows them, and notes on what is odd."""
        parts = [result]
        several = isinstance(result, tuple) or (
            isinstance(result, list) and any(is_array(part) for part in result)
        )
        if several and not (count < 2 and _whole_numbers(result)):  # token ids are one output
            parts = list(result)
        if parts and isinstance(parts[0], (tuple, list)) and any(map(is_array, parts[0])):
            parts = [*parts[0], *parts[1:]]  # ((y1, y2), cache)
        if not count:  # all that could be outputs: arrays and numbers, from the first on
            count = 1
            while count < len(parts) and _could_be_output(parts[count]):
                count += 1
        if len(parts) < count:
            needed = f": {', '.join(self.names)}" if self.names else ""
            got = "nothing" if result is None else f"{len(parts)} value{'s' * (len(parts) != 1)}"
            raise Trouble(
                "wrong type",
                f"the function returned {got}; {count} are needed{needed}"
                + (" (is a `return` missing?)" if result is None else ""),
                place_of(self.call_forward),
            )
        notes = []
        for part in parts[:count]:
            kind = kind_of(part)
            if isinstance(part, (list, tuple)) and not _whole_numbers(part):
                notes.append(f"the function returned a {type(part).__name__}: made an array of it")
            elif kind != self.framework and is_array(part) and not isinstance(part, np.generic):
                notes.append(
                    f"the function returned an array of {kind}, where {self.framework} was asked "
                    "for: converted"
                )
        return parts[:count], tuple(parts[count:]), tuple(dict.fromkeys(notes))

    def _array(self, raw: Any) -> Array:
        """Return an output as a NumPy array."""
        try:
            return from_framework(raw)
        except TypeError as error:
            says = f"the function returned the wrong type: {error}"
            raise Trouble("wrong type", says, place_of(self.call_forward)) from None

    def _changed(self, begun: Sequence[Begun]) -> list[str]:
        """Return the names of the inputs that do not hold any more what they held."""
        found = [
            name
            for one in begun
            for name, value in one.values.items()
            if contents(value) != one.before[name]
        ]
        for one in begun[:-1]:  # did a later call write into an earlier result?
            if any(
                contents(self._array(raw)) != contents(y)
                for raw, y in zip(one.raws, one.outputs, strict=True)
            ):
                found.append("an earlier result")
        return found

    # --- backward --------------------------------------------------------------------------------

    def _finish(
        self,
        begun: Begun,
        arguments: dict[str, Any],
        dys: tuple[Array, ...],
        dtype: str,
        changed: list[str],
    ) -> dict[str, Array | None]:
        """Return the gradients after a forward; names of changed inputs are added to a list."""
        floats = [y for y in begun.raws if is_array(y) and is_float(y)]
        if self.call_backward is None:
            if len(floats) != len(dys):
                says = (
                    f"{len(floats)} of the outputs are float arrays of {self.framework}; "
                    f"{len(dys)} must be, to have a gradient"
                )
                raise Trouble("wrong type", says, place_of(self.call_forward))
            for y, dy in zip(floats, dys, strict=True):
                if tuple(y.shape) != dy.shape:
                    says = (
                        f"the result has the shape {tuple(y.shape)}, the right one has {dy.shape}: "
                        "no gradient was asked for"
                    )
                    raise Trouble("wrong type", says, place_of(self.call_forward))
            pull = self._torch_gradients if self.framework == "torch" else self._jax_gradients
            return pull(begun, floats, dys)
        handed = tuple(to_framework(np.asarray(dy), self.framework, dtype) for dy in dys)
        before = contents(handed)
        leaves: list[Leaf] = []
        values = {  # fresh ones: a forward that wrote into its inputs must not spoil backward too
            name: self._hand(name, value, dtype, False, leaves) for name, value in arguments.items()
        }
        held = {name: contents(value) for name, value in values.items()}
        result = self._call_backward(begun, values, handed)
        if contents(handed) != before:
            changed.append("dy")
        changed += [name for name, value in values.items() if contents(value) != held[name]]
        return self._gradients(result, leaves, values)

    def _call_backward(self, begun: Begun, values: dict[str, Any], dys: tuple[Any, ...]) -> Any:
        """Call their backward in the first of the accepted forms that fits it."""
        assert self.call_backward is not None
        function = self.call_backward
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            signature = None
        dy = dys if len(dys) > 1 else dys[0]
        if begun.rest:
            cache = begun.rest if len(begun.rest) > 1 else begun.rest[0]
            for given in ((dy, cache), (*dys, cache)):
                if signature is None or _binds(signature, given):
                    return function(*given)
        form = "backward(dy, cache) after forward returned (y, cache)"
        problems: list[Trouble] = []
        for last in ((dy,), dys) if len(dys) > 1 else ((dy,),):
            try:
                given_here, keywords = self._bind(function, values, last)
            except Trouble as trouble:
                problems.append(trouble)
                continue
            return function(*given_here, **keywords)
        name = getattr(function, "__name__", type(function).__name__)
        raise Trouble(
            "raised",
            f"{name}{signature} fits none of the accepted forms: {form}, or "
            f"backward({', '.join(values)}, dy)",
            place_of(function),
        ) from problems[0]

    def _gradients(
        self, result: Any, leaves: Sequence[Leaf], values: dict[str, Any]
    ) -> dict[str, Array | None]:
        """Sort what backward returned by the names of the float arguments."""
        names = [leaf.name for leaf in leaves]
        forms = (
            f"return the gradients of {', '.join(names)}, as a tuple in this order or as a dict "
            "by these names"
        )
        place = place_of(self.call_backward)
        if isinstance(result, dict):
            flat = dict(_flat(result))
            found = {}
            for name in names:
                theirs = self.mapping.get(name, name)
                keys = [k for k in (name, f"d{name}", theirs, f"d{theirs}") if k in flat]
                found[name] = flat.pop(keys[0]) if keys else None
            if flat and all(g is None for g in found.values()):
                says = (
                    f"backward returned a dict with the keys {', '.join(map(str, flat))}: {forms}"
                )
                raise Trouble("wrong type", says, place)
        else:
            many = isinstance(result, (tuple, list)) and (
                len(names) != 1 or any(is_array(g) or g is None for g in result)
            )
            parts = list(result) if many else [result]
            every = list(values)
            if len(parts) == len(every) != len(names) and set(names) <= set(every):
                parts = [g for name, g in zip(every, parts, strict=True) if name in names]
            if len(parts) != len(names):  # a tuple of gradients for an argument that is a tuple
                parts = [g for _, g in _flat(dict(enumerate(parts)))]
            while len(parts) > len(names) and parts[-1] is None:
                parts.pop()
            if len(parts) != len(names):
                came = f"{len(parts)} value{'s' * (len(parts) != 1)}"
                came = "nothing" if result is None else came
                raise Trouble("wrong type", f"backward returned {came}: {forms}", place)
            found = dict(zip(names, parts, strict=True))
        gradients: dict[str, Array | None] = {}
        for name, gradient in found.items():
            try:
                gradients[name] = None if gradient is None else from_framework(gradient)
            except TypeError as error:
                raise Trouble("wrong type", f"the gradient of {name}: {error}", place) from None
        return gradients

    def _torch_gradients(
        self, begun: Begun, floats: Sequence[Any], dys: Sequence[Array]
    ) -> dict[str, Array | None]:
        torch = arrays.require("torch")
        pairs = [
            (y, torch.from_numpy(np.array(dy)).to(dtype=y.dtype, device=y.device))
            for y, dy in zip(floats, dys, strict=True)
            if kind_of(y) == "torch" and y.requires_grad
        ]
        if not pairs:
            return {leaf.name: None for leaf in begun.leaves}
        found = torch.autograd.grad(
            [y for y, _ in pairs],
            [leaf.value for leaf in begun.leaves],
            [dy for _, dy in pairs],
            allow_unused=True,
        )
        return {
            leaf.name: None if g is None else from_framework(g)
            for leaf, g in zip(begun.leaves, found, strict=True)
        }

    def _jax_forward(
        self, values: dict[str, Any], leaves: Sequence[Leaf], count: int
    ) -> tuple[Any, Any]:
        """Call forward once for its result, and once under jax.vjp for the way back."""
        jax = arrays.require("jax")
        result = self._call(self.call_forward, values)

        def outputs(*floats: Any) -> tuple[Any, ...]:
            by_name = {leaf.name: x for leaf, x in zip(leaves, floats, strict=True)}
            changed = {name: _replace(name, value, by_name) for name, value in values.items()}
            raws, _, _ = self._outputs(self._call(self.call_forward, changed), count)
            return tuple(y for y in raws if is_array(y) and is_float(y))

        _, pull = jax.vjp(outputs, *[leaf.value for leaf in leaves])
        return result, pull

    def _jax_gradients(
        self, begun: Begun, floats: Sequence[Any], dys: Sequence[Array]
    ) -> dict[str, Array | None]:
        jax = arrays.require("jax")
        assert begun.pull is not None
        given = tuple(jax.numpy.array(dy, dtype=y.dtype) for y, dy in zip(floats, dys, strict=True))
        found = begun.pull(given)
        return {leaf.name: from_framework(g) for leaf, g in zip(begun.leaves, found, strict=True)}


def contents(value: Any) -> Any:
    """Return what a value holds, to compare later: arrays as dtype, shape and bytes.

    Bytes, so that a NaN equals itself, and that nobody's array decides what is equal.
    """
    if is_array(value):
        try:
            x = from_framework(value)
        except TypeError as error:  # it was made something else than numbers
            return str(error)
        return (arrays.dtype_name(value), x.shape, x.tobytes())
    if isinstance(value, dict):
        return {key: contents(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [contents(entry) for entry in value]
    return value


def _replace(name: str, value: Any, by_name: dict[str, Any]) -> Any:
    """Return a value with other arrays in the places that have these names."""
    if isinstance(value, dict):
        return {k: _replace(f"{name}.{k}", v, by_name) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [_replace(f"{name}.{i}", v, by_name) for i, v in enumerate(value)]
        return entries if isinstance(value, list) else tuple(entries)
    return by_name.get(name, value)


def _flat(value: dict[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested dicts, tuples and lists of gradients, by dotted names."""
    for key, entry in value.items():
        name = f"{before}{key}"
        if isinstance(entry, dict):
            yield from _flat(entry, f"{name}.")
        elif isinstance(entry, (list, tuple)) and any(is_array(g) or g is None for g in entry):
            yield from _flat(dict(enumerate(entry)), f"{name}.")
        else:
            yield name, entry


def _whole_numbers(value: Any) -> bool:
    """Say whether a value is lists or tuples of whole numbers and nothing else, as token ids."""
    if isinstance(value, (list, tuple)):
        return all(map(_whole_numbers, value))
    return isinstance(value, int)


def _could_be_output(value: Any) -> bool:
    return is_array(value) or isinstance(value, (int, float))


def _binds(signature: inspect.Signature, given: tuple[Any, ...]) -> bool:
    """Say whether a function takes these, in order, and nothing else."""
    try:
        signature.bind(*given)
    except TypeError:
        return False
    return True
