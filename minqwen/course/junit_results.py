"""JUnit's XML: what most systems of continuous integration show as a table of tests.

One test suite per exercise, one test case per row. A row without all points is a failure that says
how many there are; one that is graded later is skipped. Partial credit has no place in the format,
so it stands in the message and in two properties.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from .grade import Grade, Row
from .results import number

NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(grade: Grade, *, student: bool = False) -> str:
    """Return the XML as text.

    Args:
        grade: of one submission.
        student: hidden rows count as graded later.
    """
    root = ElementTree.Element("testsuites", name=clean(f"{grade.assignment}: {grade.name}"))
    for exercise in dict.fromkeys(row.exercise for row in grade.rows):
        rows = [row for row in grade.rows if row.exercise == exercise]
        later = [row for row in rows if row.points is None or (student and not row.visible)]
        wrong = [r for r in rows if r not in later and r.points != r.max_points]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=clean(exercise),
            tests=str(len(rows)),
            failures=str(len(wrong)),
            skipped=str(len(later)),
            errors="0",
        )
        for row in rows:
            case = ElementTree.SubElement(
                suite, "testcase", classname=clean(exercise), name=clean(row.name)
            )
            add(case, row, row in later, row in wrong)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f"<?xml version='1.0' encoding='utf-8'?>\n{text}\n"


def add(case: ElementTree.Element, row: Row, later: bool, wrong: bool) -> None:
    """Write what a row says into its test case."""
    if later:
        ElementTree.SubElement(case, "skipped", message="graded later")
        return
    points = number(row.points or 0.0)
    listed = ElementTree.SubElement(case, "properties")
    for name, value in (("points", points), ("max_points", number(row.max_points))):
        ElementTree.SubElement(listed, "property", name=name, value=value)
    if wrong:
        message = f"{points} of {number(row.max_points)} points: {row.says}"
        failure = ElementTree.SubElement(case, "failure", message=clean(message), type=row.aspect)
        failure.text = clean("\n".join(row.details))


def clean(text: str) -> str:
    """Return text without what XML cannot hold.

    >>> clean("a\\x00b")
    'a?b'
    """
    return NOT_IN_XML.sub("?", text)
