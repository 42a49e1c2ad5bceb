"""Text with a point on each line: ``.txt``, ``.csv``, ``.xyz``, with or without a line of names."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from pointcept.utils.errors import DataError
from pointcept.utils.files import read_regular

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions, column_names

MOST_BYTES = 2**33  # of a file
DELIMITERS = (",", ";", "\t")
COMMENTS = ("#", "//")


class Text(NamedTuple):
    """A file as it is: its line of names or None, its lines of points, and the delimiter or None for blanks."""

    names: str | None
    lines: list[str]
    delimiter: str | None


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read a table; of its columns, those whose first value is a number.

    A first line with anything but numbers is the line of names, behind a # too. A first line with one number, the
    count of points, is skipped, and so are other comments.

    Raises:
        DataError: it is no text, a line is no point, or there is none.
    """
    try:
        text = read_regular(file.path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is no text in UTF-8: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    head = 0
    while head < len(lines) and lines[head].lstrip().startswith(COMMENTS):
        head += 1
    data = [line for line in lines[head:] if not line.lstrip().startswith(COMMENTS)]
    if not data:
        raise DataError("holds no points")
    names_line = lines[head - 1] if head else None
    delimiter = options.delimiter or next((d for d in DELIMITERS if d in data[-1]), None)
    if len(data) > 1 and len(_split(data[0], delimiter)) == 1 < len(_split(data[1], delimiter)):
        data = data[1:]  # the count of points
    if not all(map(_is_number, _split(data[0], delimiter))) and (len(data) == 1 or _more_numbers(data, delimiter)):
        names_line, data = data[0], data[1:]
        if not data:
            raise DataError(f"holds no points, only the line {names_line[:60]!r}")
    return _table(Text(names_line, data, delimiter))


def _more_numbers(data: list[str], delimiter: str | None) -> bool:
    """Whether the second line has more numbers than the first, which is then one of names."""
    first, second = (sum(map(_is_number, _split(line, delimiter))) for line in data[:2])
    return second > first


def _table(text: Text) -> Cloud:
    first = _split(text.lines[0], text.delimiter)
    numeric = [number for number, word in enumerate(first) if _is_number(word)]
    names = _names(text, len(first))
    if len(numeric) < 3:
        raise DataError(f"expected three or more numbers in a line, got {text.lines[0][:60]!r}; is it the delimiter?")
    try:
        table = np.loadtxt(
            io.StringIO("\n".join(text.lines)), delimiter=text.delimiter, usecols=numeric, ndmin=2, comments=None
        )
    except ValueError as error:
        raise DataError(f"a line is no point: {str(error).split(';')[0]}") from None
    fields = {names[column]: table[:, place] for place, column in enumerate(numeric)}
    return Cloud(fields, text)


def _names(text: Text, count: int) -> list[str]:
    """Names of all columns: of the line of names, if it has one for each, else those of columns without names."""
    if text.names is not None:
        line = text.names.strip()
        for mark in COMMENTS:
            line = line.removeprefix(mark)
        words = [word.strip("\"'") for word in _split(line, text.delimiter)]
        if len(words) == count and len(set(words)) == count and not any(map(_is_number, words)):
            return words
    return column_names(count)


def _split(line: str, delimiter: str | None) -> list[str]:
    return [word.strip() for word in line.strip().split(delimiter)]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def write(cloud: Cloud, suffix: str) -> bytes:
    """The lines of the file with the fields behind them that it did not have; of other formats all fields, with names.

    ``.csv`` has commas, ``.txt`` and ``.xyz`` blanks and a # before the names, unless the file has others.
    """
    if isinstance(cloud.source, Text):
        return _with_columns(cloud, cloud.source, suffix)
    mark, delimiter = ("", ",") if suffix == ".csv" else ("# ", " ")
    columns = [_words(values) for values in cloud.fields.values()]
    rows = [delimiter.join(row) for row in zip(*columns, strict=True)]
    names = delimiter.join(name.replace(delimiter, "_") for name in cloud.fields)
    return "\n".join([mark + names, *rows, ""]).encode()


def _with_columns(cloud: Cloud, text: Text, suffix: str) -> bytes:
    count = len(_split(text.lines[0], text.delimiter))
    names = _names(text, count)
    new = {name: _words(values) for name, values in cloud.fields.items() if name not in names}
    between = text.delimiter or " "
    replaced = {
        names.index(name): _words(cloud.fields[name]) for name in names if name == "label" and name in cloud.fields
    }
    lines = []
    for number, line in enumerate(text.lines):
        if replaced:
            words = _split(line, text.delimiter)
            for place, values in replaced.items():
                words[place] = values[number]
            line = between.join(words)
        lines.append(between.join([line.rstrip(), *(values[number] for values in new.values())]))
    mark = "# " if text.names is not None and text.names.lstrip().startswith(COMMENTS) else ""
    head = [mark + between.join([*names, *new])] if text.names is not None or suffix == ".csv" else []
    return "\n".join([*head, *lines, ""]).encode()


def _words(values: np.ndarray) -> list[str]:
    """Numbers with as many digits as they have."""
    return [repr(value) if isinstance(value, float) else str(value) for value in _exact(values)]


def _exact(values: np.ndarray) -> list[float | int]:
    if values.dtype == np.float32:  # 0.1 rather than 0.10000000149
        return [float(str(value)) for value in values]
    return values.tolist()


FORMAT = CloudFormat("text", (".txt", ".csv", ".xyz"), read, write)
