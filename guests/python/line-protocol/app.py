"""`line-protocol`: writes rows as InfluxDB line protocol and publishes the lines.

A message is an object or a list of objects, each a line. A message with a row that makes no line is
rejected whole, as `permanent`, and the others of its batch are written.
"""

import json
import math

from windlass import Connector, Misconfigured, Permanent, Rejection, Sink, Slot, messages_of, messaging

#: Nanoseconds in one of each unit.
PRECISIONS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
INT64 = range(-(2**63), 2**63)

_NAMES = {"type": "array", "items": {"type": "string", "minLength": 1}}
_PRECISION = {"enum": list(PRECISIONS)}

SCHEMA = {
    "title": "line-protocol sink",
    "type": "object",
    "properties": {
        "topic": {"description": "Subject to publish the lines to.", "type": "string", "minLength": 1},
        "qos": {"description": "Level of delivery.", "type": "integer", "minimum": 0, "maximum": 2},
        "retained": {"description": "The broker keeps the last message.", "type": "boolean", "default": False},
        "measurement": {"description": "The measurement of every line.", "type": "string", "minLength": 1},
        "measurementField": {
            "description": "Field that names the measurement of its row; measurement is for rows without it.",
            "type": "string",
            "minLength": 1,
        },
        "tags": {"description": "Fields that become tags.", "default": [], **_NAMES},
        "fields": {"description": "Fields that become fields. None: all others.", **_NAMES},
        "timestamp": {
            "description": "Field with the time, an integer since 1970. None: the database takes its own.",
            "type": "string",
            "minLength": 1,
        },
        "timestampPrecision": {"description": "Unit of that field.", "default": "ms", **_PRECISION},
        "precision": {"description": "Unit in which lines carry it.", "default": "ns", **_PRECISION},
        "message": {
            "description": "batch: all lines of a batch in one message. row: a message for each line.",
            "enum": ["batch", "row"],
            "default": "batch",
        },
    },
    "required": ["topic"],
    "anyOf": [{"required": ["measurement"]}, {"required": ["measurementField"]}],
    "additionalProperties": False,
}


def _escape(text: str, characters: str) -> str:
    # The protocol has no way to write a line end in a name, nor a backslash at its end, which would
    # escape what follows.
    text = text.replace("\n", " ").replace("\r", " ").rstrip("\\")
    for character in characters:
        text = text.replace(character, "\\" + character)
    return text


def measurement_text(name: str) -> str:
    return _escape(name, ", ")


def key_text(name: str) -> str:
    """A tag's key or value, or a field's key."""
    return _escape(name, ",= ")


def field_text(value) -> str:
    """A field's value, as its type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if value not in INT64:
            raise Permanent(f"{value} does not fit into 64 bits", "range")
        return f"{value}i"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Permanent("a field is not a finite number", "range")
        return repr(value)
    if isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def tag_text(value) -> str:
    if isinstance(value, str):
        return key_text(value)
    return key_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def flat(row: dict, before: str = ""):
    """Names and values; what stands in an object within is `outer.inner`. Nulls are left out."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        elif value is not None:
            yield before + name, value


class Lines:
    """Makes lines of rows."""

    def __init__(self, config: dict):
        self.measurement = config.get("measurement")
        self.measurement_field = config.get("measurementField")
        # The database wants tags sorted by key.
        self.tags = sorted(set(config.get("tags", [])))
        self.fields = config.get("fields")
        self.timestamp = config.get("timestamp")
        self.times = PRECISIONS[config.get("timestampPrecision", "ms")]
        self.per = PRECISIONS[config.get("precision", "ns")]
        both = set(self.tags) & set(self.fields or [])
        if both:
            raise Misconfigured(f"fields: {min(both)} is a tag too", "config")
        self.apart = {*self.tags, self.timestamp, self.measurement_field}

    def line(self, row) -> str:
        if not isinstance(row, dict):
            raise Permanent("the row is not an object", "row")
        values = dict(flat(row))
        measurement = values.get(self.measurement_field, self.measurement)
        if not isinstance(measurement, str) or not measurement:
            raise Permanent(f"{self.measurement_field}: names no measurement", "measurement")
        head = measurement_text(measurement)
        for tag in self.tags:
            value = tag_text(values.get(tag, ""))
            # An empty tag is an error to the database.
            if value:
                head += f",{key_text(tag)}={value}"
        names = self.fields if self.fields is not None else [name for name in values if name not in self.apart]
        fields = [f"{key_text(name)}={field_text(values[name])}" for name in names if name in values]
        if not fields:
            raise Permanent("the row has no field", "no-field")
        line = f"{head} {','.join(fields)}"
        if self.timestamp is None:
            return line
        time = values.get(self.timestamp)
        if isinstance(time, float) and time.is_integer():
            time = int(time)
        if not isinstance(time, int) or isinstance(time, bool):
            raise Permanent(f"{self.timestamp}: {time!r} is no time, which is an integer", "timestamp")
        time = time * self.times // self.per
        if time not in INT64:
            raise Permanent(f"{self.timestamp}: the time does not fit into 64 bits", "timestamp")
        return f"{line} {time}"

    def of(self, text) -> list[str]:
        """The lines of one message."""
        if text is None:
            raise Permanent("the message is not UTF-8", "utf-8")
        try:
            value = json.loads(text)
        except ValueError as error:
            raise Permanent(f"the message is not JSON: {error}", "json") from None
        return [self.line(row) for row in (value if isinstance(value, list) else [value])]


class LineProtocol(Sink):
    def open(self, config):
        self.lines = Lines(config)
        self.each = config.get("message", "batch") == "row"
        self.options = {"subject": config["topic"], "qos": config.get("qos"), "retain": config.get("retained", False)}
        self.database = messaging("database")

    def write(self, batch):
        lines, places, rejected = [], [], []
        for index, text in enumerate(batch.texts()):
            try:
                new = self.lines.of(text)
            except Permanent as failure:
                rejected.append(Rejection(index, failure))
                continue
            lines += new
            places += [index] * len(new)
        if not lines:
            return rejected
        if self.each:
            texts, parts = lines, [[place] for place in places]
        else:
            texts, parts = ["\n".join(lines)], [sorted(set(places))]
        refused = {}
        for refusal in self.database.publish(messages_of(texts), **self.options):
            for place in parts[refusal.index]:
                refused.setdefault(place, Rejection(place, refusal.failure))
        return sorted([*rejected, *refused.values()], key=lambda one: one.index)


connector = Connector(
    name="line-protocol",
    version="0.1.0",
    description="Writes rows as InfluxDB line protocol.",
    slots=[Slot("database", "messaging", "Where the lines go.")],
    sink=LineProtocol,
    sink_schema=SCHEMA,
)
