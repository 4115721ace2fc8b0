"""The tree of errors, and the form of every place that raises one."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detectctl import errors
from detectctl.errors import DetectctlError, ModelError, NotReady, NotRunning, RequestError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(errors.__file__).parent
TREE = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, DetectctlError)
}
PARTS = ("what", "why", "hint")
UNENGLISH = re.compile(
    r"\b((is|are) wanted|knows? no|(is|are|was|were) no|whoever|nobody|lies? in|told|cannot be had|give it longer)\b"
)
IN_BACKTICKS = re.compile(r"`[^`]*`")
COMMAND = re.compile(
    r"\bdetectctl (up|detect|annotate|status|logs|models|config|doctor|manifest|down)\b|(?<![\w-])--[a-z]"
)


class Text(NamedTuple):
    """One text of an error, with `{}` for what is filled in, and where it is written."""

    where: str
    part: str
    text: str


class Raised(NamedTuple):
    """One place that makes an error, and the parts that it gives."""

    where: str
    kind: type[DetectctlError]
    parts: frozenset[str]


def _texts(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression may be, as far as they are literally there."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in values)
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(body)
            yield from _texts(orelse)
        case ast.BoolOp(values=values):
            for value in values:
                yield from _texts(value)
        case _:
            pass


def _given(call: ast.Call, parameters: tuple[str, ...]) -> dict[str, ast.expr]:
    """The arguments of a call by the names of their parameters."""
    return dict(zip(parameters, call.args, strict=False)) | {word.arg: word.value for word in call.keywords if word.arg}


def _read(path: Path) -> Iterator[Text | Raised]:
    """The errors that a module makes: by a class, by a function of its own, or with a text put into a name first."""
    tree = ast.parse(path.read_text())
    makers = {name: tuple(inspect.signature(kind).parameters) for name, kind in TREE.items()}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        names = tuple(argument.arg for argument in function.args.args)
        if set(names) & {"why", "hint"}:
            makers[function.name] = names
    for node in ast.walk(tree):
        given, name = _written(node, makers)
        where = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
        if name in TREE and given:
            yield Raised(where, TREE[name], frozenset(given))
        for part in PARTS:
            for text in _texts(given.get(part)):
                yield Text(where, part, text)


def _written(node: ast.AST, makers: dict[str, tuple[str, ...]]) -> tuple[dict[str, ast.expr], str]:
    """What a call, an assignment or a parameter's default gives to which name, and what is called."""
    match node:
        case ast.Call():
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            return (_given(node, makers[name]) if name in makers else {}), name
        case ast.Assign():
            return {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}, ""
        case ast.FunctionDef():
            names = [argument.arg for argument in node.args.args]
            return dict(zip(reversed(names), reversed(node.args.defaults), strict=False)), ""
        case _:
            return {}, ""


FOUND = [found for path in sorted(SOURCE.rglob("*.py")) for found in _read(path)]
RAISED = [found for found in FOUND if isinstance(found, Raised)]
TEXTS = [found for found in FOUND if isinstance(found, Text)]


def test_the_places_are_found() -> None:
    """Otherwise the tests below would pass because they check nothing."""
    assert len(RAISED) > 100
    assert len(TEXTS) > 300
    assert {found.kind for found in RAISED} >= {UsageError, errors.BadUrl, errors.ModelNotFound, errors.PortTaken}
    assert {found.part for found in TEXTS} == set(PARTS)


def test_every_error_has_three_parts() -> None:
    """What failed, why, and what to do next, wherever it is raised: at a terminal and over HTTP."""
    assert [found.where for found in RAISED if found.parts != set(PARTS)] == []


def test_each_part_is_one_line() -> None:
    """Without a period or spaces at its ends, because names and other lines are joined to it."""
    untidy = [found for found in TEXTS if not re.fullmatch(r"\S|\S.*[^\s.;:]", found.text)]
    assert untidy == []


def test_each_part_is_in_plain_english() -> None:
    """In the words of a native engineer: must be, not found, is not a."""
    assert [found for found in TEXTS if UNENGLISH.search(found.text)] == []


def test_a_hint_says_what_to_do_next() -> None:
    """Lower-case, because it follows `try:`; commands and options in backticks, so that they can be copied."""
    hints = [found for found in TEXTS if found.part == "hint"]
    assert [found for found in hints if re.match(r"[A-Z][a-z]", found.text)] == []
    assert [found for found in hints if found.text.count("`") % 2] == []
    assert [found for found in hints if COMMAND.search(IN_BACKTICKS.sub("", found.text))] == []


def test_the_contracts_exit_codes() -> None:
    """Each kind of failure has one, whichever of its classes is raised; refusals by the service are 7."""
    contract = {DetectctlError: 1, UsageError: 2, NotRunning: 3, NotReady: 4, ModelError: 5, errors.SourceUnreadable: 6}
    contract[errors.FallbackServed] = 8
    assert {kind: kind.exit_code for kind in contract} == contract
    for kind in (NotReady, ModelError):
        assert {each.exit_code for each in TREE.values() if issubclass(each, kind)} == {kind.exit_code}
    refusals = {"Unauthorized", "UrlNotAllowed", "ImageTooLarge", "HostNotKnown"}
    assert {name for name, kind in TREE.items() if kind.exit_code == 7} == refusals
    assert {name for name, kind in TREE.items() if issubclass(kind, RequestError) and kind.exit_code == 4} == {
        "BadGateway", "Unavailable", "GatewayTimeout",
    }  # fmt: skip


def test_the_contracts_codes_and_statuses() -> None:
    """No two classes share a code, and these never change."""
    assert len({kind.code for kind in TREE.values()}) == len(TREE)
    contract = {
        "bad_url": 400,
        "unauthorized": 401,
        "url_not_allowed": 403,
        "image_too_large": 413,
        "unsupported_image": 415,
        "bad_parameter": 422,
        "fetch_failed": 502,
        "overloaded": 503,
        "fetch_timeout": 504,
    }
    assert {code: errors.REQUEST_ERRORS[code].status for code in contract} == contract


def _branches(kind: type[DetectctlError], depth: int = 0) -> Iterator[tuple[int, str, str]]:
    """Depth, name and exit code of each class, the parent before its children; the code only where it differs."""
    inherited = depth > 1 and kind.exit_code == kind.__bases__[0].exit_code  # type: ignore[attr-defined]
    yield depth, kind.__name__, "" if inherited else str(kind.exit_code)
    if kind is not RequestError:
        for child in kind.__subclasses__():
            yield from _branches(child, depth + 1)


def test_as_text_an_error_says_all_three_in_one_line() -> None:
    """What a traceback or a log of a program that uses the `Client` ends with, whoever cuts it to its last line."""
    error = NotRunning("nothing answers at http://h:1", why="it refused", hint="see `detectctl status`")
    assert str(error) == "nothing answers at http://h:1: it refused; try: see `detectctl status`"
    assert str(UsageError("a is wrong")) == "a is wrong"


def test_the_drawing_is_of_the_tree() -> None:
    """Every class but those of the service's answers, where it belongs, with the exit code that it states."""
    drawn = re.findall(r"^([│├└─ ]*)(\w+)(?:[^\d\n]*(\d))?", str(errors.__doc__).split("```")[1].strip(), re.MULTILINE)
    assert [(len(line) // 4, name, code) for line, name, code in drawn] == list(_branches(DetectctlError))
