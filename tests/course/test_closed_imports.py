"""What may be imported leads nowhere near the answer."""

import os
from types import ModuleType

import pytest
from course.grading import assignment

from minqwen.check.specs import names
from minqwen.course.ask import imports_of
from minqwen.course.closed_imports import (
    allowed_modules,
    file_of,
    hollow_module,
    import_hook,
    imported_by,
    reached_from,
)
from minqwen.course.ladder import LADDER

KNOWN = [e.name for e in LADDER if all(part.spec in names() for part in e.parts)]


def test_imports_are_read_from_the_text():
    assert {"minqwen.backend", "minqwen.shapes"} <= set(imported_by("minqwen.layers.swiglu"))
    assert all(
        os.path.isfile(file_of(name)) for name in reached_from(["minqwen.model.decoder_block"])
    )


@pytest.mark.parametrize("name", KNOWN)
def test_nothing_that_is_allowed_leads_to_the_answer(name):
    task = assignment(*KNOWN)
    exercise = next(one for one in LADDER if one.name == name)
    answers = set(exercise.modules)
    allowed, hollow = imports_of(task, exercise)
    assert not answers & set(allowed)
    assert answers <= set(hollow)
    for module in allowed:
        assert not reached_from([module]) & answers
    assert set(allowed_modules(exercise.modules)) <= set(allowed)
    assert not set(allowed) & set(hollow)
    assert not any(m.startswith(("minqwen.check", "minqwen.course")) for m in allowed)


def test_a_hollow_module_gives_names_that_cannot_be_used():
    module = hollow_module("minqwen.layers.rope")
    assert isinstance(module, ModuleType)
    with pytest.raises(ImportError, match="write it yourself"):
        module.rope_forward(1)
    assert not hasattr(module, "__path__")


def test_the_hook_stops_imports_of_ours_only():
    hook = import_hook(["minqwen.backend"])
    for name in ("minqwen", "minqwen.backend", "numpy", "minqwenx"):
        hook("import", (name, None, None, None, None))
    hook("open", ("minqwen.layers.rope", "r", 0))
    for name in ("minqwen.layers.rope", "minqwen.check.specs"):
        with pytest.raises(ImportError, match="may not be imported"):
            hook("import", (name, None, None, None, None))
