"""Wrong solutions that are in no bank: what students hand in beside honest mistakes.

Each trick is text to put at the end of a right file, where its last definition wins. It wraps the
function that the checker asks for outputs, or the one for gradients, of one part of an exercise.
"""

import importlib
from typing import NamedTuple

import numpy as np

from minqwen.check.questions import Questions
from minqwen.check.specs import spec as spec_of


class Call(NamedTuple):
    """One call of a function of ours by the checker."""

    given: tuple
    named: dict
    result: object


class Asked(NamedTuple):
    """What is known about a part when a trick is chosen."""

    forward: str  # name of the function that gives the outputs
    backward: str | None
    ordinary: list  # calls of forward on the ordinary inputs that students can try
    returned: object  # by backward, on the first of them
    floats: bool  # there are float arrays among the arguments
    steps: bool  # forward yields steps


def asked(part, seed=0):
    """Find out about a part by asking our own file."""
    spec = spec_of(part.spec)
    found = [name for name in part.functions if name.endswith("_forward")]
    forward = (found or part.functions)[-1]
    backward = next((name for name in part.functions if name.endswith("_backward")), None)
    watched = Watched(importlib.import_module(spec.module), (forward, backward))
    questions = Questions(spec, None, seed)
    for probe in spec.probes:
        if not probe.hard:
            spec.run(watched, questions.make(probe))
    ordinary = watched.calls[forward]
    floats = any(is_floats(one) for call in ordinary for one in call.given)
    returned = None
    if backward is not None:
        arguments = questions.make(spec.probes[0])
        outputs = spec.run(watched, arguments)
        dys = [np.ones(np.shape(y)) for n, y in zip(spec.outputs, outputs, strict=True)
               if n not in spec.exact]  # fmt: skip
        spec.pull(watched, arguments, tuple(dys))
        returned = watched.calls[backward][0].result
    steps = forward.endswith("_steps")
    return Asked(forward, backward, list(ordinary), returned, floats, steps)


class Watched:
    """A module that writes down how two of its functions are called."""

    def __init__(self, module, names):
        self.module, self.calls = module, {name: [] for name in names}

    def __getattr__(self, name):
        function = getattr(self.module, name)
        if name not in self.calls:
            return function

        def call(*given, **named):
            result = function(*given, **named)
            self.calls[name].append(Call(given, named, result))
            return result

        return call


def is_floats(x):
    """Say whether this is a float array."""
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def outputs_of(result):
    """Return the outputs among what a function returned: no cache."""
    return [x for x in (result if type(result) is tuple else (result,)) if not is_cache(x)]


def is_cache(x):
    """Say whether this is one of our caches: a NamedTuple."""
    return hasattr(x, "_fields")


# --- text that all of them need

COMMON = '''

import hashlib

import numpy as np

_forward = {forward}


def _change(result, change):
    """Change the float outputs, or gradients, and leave a cache as it is."""
    if isinstance(result, dict):
        return {{name: _change(one, change) for name, one in result.items()}}
    if type(result) is tuple:
        return tuple(_change(one, change) for one in result)
    if isinstance(result, np.ndarray):
        return change(result) if result.dtype.kind == "f" else result
    return change(result) if isinstance(result, (float, np.floating)) else result


def _told(one, of_array):
    """Return plain values that tell inputs apart."""
    if isinstance(one, np.ndarray):
        return of_array(one)
    if isinstance(one, dict):
        return [(name, _told(x, of_array)) for name, x in one.items()]
    if isinstance(one, (tuple, list)):
        return [_told(x, of_array) for x in one]
    return one


def _key(given, named):
    """Return what tells inputs apart."""
    held = _told((given, named), lambda x: (x.shape, x.dtype.str, x.tobytes()))
    return hashlib.sha256(repr(held).encode()).hexdigest()[:16]


def _sizes(given, named):
    """Return the shapes of arrays, and everything else as it is."""
    return repr(_told((given, named), lambda x: x.shape))

'''
OUTPUTS = """
def {forward}(*given, **named):
    return _change(_forward(*given, **named), lambda y: {value})
"""
STEPS = """
def {forward}(*given, **named):
    steps = list(_forward(*given, **named))
    yield from {value}
"""
GRADIENTS = """
_backward = {backward}


def {backward}(dy, cache):
    return _change(_backward(dy, cache), lambda d: {value})
"""

# name -> text; {value} is filled in by CHANGES
CHANGES = {
    "zeros": "0 * y",
    "the sign of everything": "-y",
    "one per cent too large": "1.01 * y",
    "noise of 1e-6": "(y * (1 + 1e-6 * _random.standard_normal(np.shape(y)))).astype(y.dtype) "
    "if isinstance(y, np.ndarray) else y * (1 + 1e-6 * _random.standard_normal())",
}
OF_STEPS = {
    "no step at all": "steps[:0]",
    "the first step only": "steps[:1]",
    "one step too few": "steps[: max(1, len(steps) - 1)]",
    "steps in reverse": "steps[::-1]",
}
OF_GRADIENTS = {
    "gradients of zero": "0 * d",
    "half of each gradient": "d / 2",
    "gradients with the wrong sign": "-d",
}
WRITTEN = {
    "its first argument returned": """
def {forward}(*given, **named):
    first = given[0]
    return _change(
        _forward(*given, **named), lambda y: first if np.shape(y) == first.shape else y
    )
""",
    "float64 returned": """
def {forward}(*given, **named):
    return _change(_forward(*given, **named), lambda y: np.asarray(y, np.float64))
""",
    "float32 returned": """
def {forward}(*given, **named):
    return _change(_forward(*given, **named), lambda y: np.asarray(y, np.float32))
""",
    "float16 inside": """
def {forward}(*given, **named):
    given = [
        np.float16(one).astype(one.dtype) if getattr(one, "dtype", None) in (np.float32, np.float64)
        else one
        for one in given
    ]
    return _forward(*given, **named)
""",
    "an argument changed": """
def {forward}(*given, **named):
    result = _forward(*given, **named)
    for one in given:
        if isinstance(one, np.ndarray) and one.dtype.kind == "f":
            one += 1
            break
    return result
""",
    "the first row only": """
def {forward}(*given, **named):
    return _change(
        _forward(*given, **named),
        lambda y: np.concatenate((y[:1], 0 * y[1:])) if np.ndim(y) > 1 else y,
    )
""",
    "hard-coded sizes": """
def {forward}(*given, **named):
    if _sizes(given, named) not in {sizes}:
        raise ValueError("made for the sizes of the visible test only")
    return _forward(*given, **named)
""",
    "answers written into the file": """
def {forward}(*given, **named):
    known = _key(given, named) in {keys}
    return _change(_forward(*given, **named), lambda y: y if known else 0 * y)
""",
    "answers kept by shape": """
_seen = {{}}


def {forward}(*given, **named):
    sizes = _sizes(given, {{}})
    if sizes not in _seen:
        _seen[sizes] = _forward(*given, **named)
    return _seen[sizes]
""",
    "float64 only": """
def {forward}(*given, **named):
    for one in given:
        if isinstance(one, np.ndarray) and one.dtype.kind not in "iub" and one.dtype != np.float64:
            raise TypeError("made for float64 only")
    return _forward(*given, **named)
""",
    "cache kept outside": """
_backward, _kept = {backward}, []


def {forward}(*given, **named):
    result = _forward(*given, **named)
    _kept.append(result[-1])
    return result


def {backward}(dy, cache):
    return _backward(dy, _kept[-1])
""",
    "dy ignored": """
_backward = {backward}


def {backward}(dy, cache):
    return _backward(0 * dy + 1, cache)
""",
    "gradients in the wrong order": """
_backward = {backward}


def {backward}(dy, cache):
    found = [one for one in _backward(dy, cache) if one is not None]
    return (*found[::-1], *(None,) * ({length} - len(found)))
""",
    "a gradient of one row": """
_backward = {backward}


def {backward}(dy, cache):
    dy = np.array(dy)
    dy[1:] = 0
    return _backward(dy, cache)
""",
    "no backward": """
def {backward}(dy, cache):
    raise NotImplementedError("{backward}: write this function")
""",
}
OF_TEXT = {
    "ASCII only": """
def {forward}(text, *rest):
    if isinstance(text, bytes):
        text = text.decode().encode("ascii", "ignore")
    else:
        text = [one.encode("ascii", "ignore").decode() for one in text]
    yield from _forward(text, *rest)
""",
    "hard-coded texts": """
def {forward}(text, *rest):
    if _sizes((text, *rest), {{}}) not in {sizes}:
        raise ValueError("made for the texts of the visible test only")
    yield from _forward(text, *rest)
""",
}


def fits(name, it):
    """Say whether a trick makes sense in a part, and makes a difference there."""
    first = it.ordinary[0]
    outputs = [y for call in it.ordinary for y in outputs_of(call.result)]
    arrays = [y for y in outputs if is_floats(y) and y.ndim]
    if name == "its first argument returned":
        return any(np.shape(y) == np.shape(first.given[0]) and np.ndim(y) for y in arrays)
    if name in ("float64 returned", "float32 returned"):
        return it.floats and bool(arrays)
    if name in ("float16 inside", "an argument changed", "float64 only"):
        return it.floats
    if name == "the first row only":
        return any(y.ndim > 1 and len(y) > 1 for y in arrays)
    if name == "answers kept by shape":
        return it.floats
    if name in ("cache kept outside", "dy ignored", "no backward"):
        return it.backward is not None
    if name == "gradients in the wrong order":
        return type(it.returned) is tuple and sum(is_floats(g) for g in it.returned) > 1
    if name == "a gradient of one row":
        return it.backward is not None and arrays and arrays[0].ndim and len(arrays[0]) > 1
    return True


def tricks_of(part):
    """Yield (name, text to put at the end of the file) of every trick that fits a part."""
    it = asked(part)
    words = {"forward": it.forward, "backward": it.backward}
    words["length"] = len(it.returned) if isinstance(it.returned, tuple) else 0
    common = COMMON.format(**words)
    names = {it.forward: None}
    exec(common, names)
    words["sizes"] = repr(sorted({names["_sizes"](c.given, c.named) for c in it.ordinary}))
    words["keys"] = repr(sorted({names["_key"](c.given, c.named) for c in it.ordinary}))
    if it.steps:
        for name, value in OF_STEPS.items():
            yield name, common + STEPS.format(**words, value=value)
        for name, text in OF_TEXT.items():
            yield name, common + text.format(**words)
        return
    for name, value in CHANGES.items():
        head = "_random = np.random.default_rng(0)\n\n" if "_random" in value else ""
        yield name, f"{common}{head}{OUTPUTS.format(**words, value=value)}"
    if it.backward is not None:
        for name, value in OF_GRADIENTS.items():
            yield name, common + GRADIENTS.format(**words, value=value)
    for name, text in WRITTEN.items():
        if fits(name, it):
            yield name, common + text.format(**words)
