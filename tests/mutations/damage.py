"""How bytes, JSON, chat templates and safetensors files are damaged, each by a random draw."""

import json
import math
import random
import struct

JUNK = [None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**70), 10**400, 1e-320, 1e39, 1e300]
JUNK += [math.nan, math.inf, -math.inf, 0.5, "", "8", "a", "\x1b[2J\x07", "\ud800", "x" * 5000]
JUNK += [[], [1], ["a", None], {}, {"a": {"b": [1]}}, [[]] * 9, "../../x", "/dev/zero", "(a+)+$"]
PIECES = [b"\0", b"\xff\xfe", b"\x1b]0;t\x07", b"{", b"[" * 4000, b'"', b"\n", b"NaN", b"1e999"]
PIECES += [b"-1", b"99999999999999999999", b"\\ud800", b"null", "½\u202e".encode(), b"{{", b"{% "]
PROGRAMS = [
    "{{ 'a' * 10**9 }}",
    "{{ 2**(2**33) }}",
    "{{ messages[9].content }}",
    "{% include 'x' %}",
]
PROGRAMS += ["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"]
PROGRAMS += ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ '%1000000000d' % 1 }}", "{{"]
PROGRAMS += [
    "{{ raise_exception('\x1b[2J') }}",
    "{{ messages | tojson }}",
    "{{ 1 / 0 }}",
    "{{ x.y }}",
]


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice([1, 4, 8, 50, 1000]))
    match draw.randrange(8):
        case 0:
            return data[:at]
        case 1:
            return data[:end] + data[at:]
        case 2:
            return data[:at] + draw.choice(PIECES) + data[at:]
        case 3:
            return data[:at] + draw.choice(PIECES) + data[end:]
        case 4:
            return data[:at] + data[end:]
        case 5:
            return data[:at] + bytes(end - at) + data[end:]
        case 6:
            return data[:at] + draw.randbytes(end - at) + data[end:]
    return (
        data[:at] + bytes(b ^ (1 << draw.randrange(8)) for b in data[at : at + 1]) + data[at + 1 :]
    )


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value in a tree of JSON, itself included."""
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [
        path,
        *(place for key, item in list(pairs)[:200] for place in places(item, (*path, key))),
    ]


def mutate_json(value: object, draw: random.Random) -> object:
    """One value replaced, removed, renamed, nested or of another size; may change `value`."""
    path = draw.choice(places(value))
    if not path:
        return draw.choice(JUNK) if draw.random() < 0.2 else value
    parent: object = value
    for key in path[:-1]:
        parent = parent[key]
    key, old = path[-1], parent[path[-1]]
    kind = draw.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[f"{key}{draw.choice(['', 'x', chr(0), chr(27)])}_"] = parent.pop(key)
    elif kind == 2:
        for _ in range(draw.choice([1, 3, 300])):
            old = [old] if draw.random() < 0.5 else {"a": old}
        parent[key] = old
    elif kind == 3 and type(old) in (int, float):
        parent[key] = draw.choice(
            [-old, old + 1, old * 2, old * 1e6, float(old), old / 3, str(old)]
        )
    elif kind == 4 and isinstance(old, list):
        parent[key] = old * draw.choice([0, 2, 300]) + draw.choice([[], [draw.choice(JUNK)]])
    else:
        parent[key] = draw.choice(JUNK)
    return value


def as_json(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return mutate_bytes(data, draw)
    return to_bytes(mutate_json(json.loads(data), draw))


def to_bytes(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def as_lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    if not lines[at] or draw.random() < 0.3:
        return mutate_bytes(data, draw)
    lines[at] = to_bytes(mutate_json(json.loads(lines[at]), draw))
    return b"\n".join(lines)


def as_template(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.6:
        return mutate_bytes(data, draw)
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(PROGRAMS).encode() + data[at:]


def parts(data: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file, and its values."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: object, values: bytes) -> bytes:
    text = to_bytes(header)
    return struct.pack("<Q", len(text)) + text + values


def as_header(data: bytes, draw: random.Random) -> bytes:
    """The header's JSON, tinymem's own JSON in it, the length before it, or any bytes of it."""
    header, values = parts(data)
    kind = draw.randrange(6)
    if kind == 0:
        return struct.pack("<Q", draw.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(data)])) + data[8:]
    if kind == 1:
        end = len(data) - len(values)
        return mutate_bytes(data[:end], draw) + values
    if kind < 5 and "tinymem" in header.get("__metadata__", {}):
        about = mutate_json(json.loads(header["__metadata__"]["tinymem"]), draw)
        text = (
            to_bytes(about).decode() if kind < 4 else draw.choice(["[" * 100_000, "", "NaN", "\0"])
        )
        header["__metadata__"]["tinymem"] = text
        return joined(header, values)
    return joined(mutate_json(header, draw), values)


def as_values(data: bytes, draw: random.Random) -> bytes:
    """The values behind the header: as many as before, or not."""
    values = parts(data)[1]
    start = len(data) - len(values)
    at = start + 4 * draw.randrange(len(values) // 4)
    kind = draw.randrange(5)
    if kind == 0:
        return data[:start] + mutate_bytes(values, draw)
    if kind == 1:
        return data[:start] + bytes(len(values))
    number = struct.pack("<f", draw.choice([math.nan, math.inf, -math.inf, 3e38, 1e-45, 0.1]))
    return data[:at] + number + data[at + 4 :]
