"""What an author needs to write a Windlass connector in Python.

    from windlass import Connector, Slot, Source, messaging

    class Mirror(Source):
        def open(self, config, resume):
            self.topic = messaging("broker").subscribe([config["topic"]])

        def read(self):
            return self.topic.receive()

    connector = Connector(name="mirror", version="0.1.0", description="Hands on what a topic brings.",
                          slots=[Slot("broker", "messaging", "Where the topic is.")], source=Mirror, schema={...})

In the sandbox this stands on the contract's generated bindings (`wit_world`); outside, where those are
missing, it can be imported all the same, and `windlass_testing` takes their place in unit tests.
"""

import json
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Optional, Sequence, Union

try:
    import wit_world
except ModuleNotFoundError:
    import windlass_testing

    _types, _messaging, _http, _sql, _log, _Err = windlass_testing.bindings()
else:
    from componentize_py_types import Err as _Err
    from wit_world.imports import http as _http
    from wit_world.imports import log as _log
    from wit_world.imports import messaging as _messaging
    from wit_world.imports import sql as _sql
    from wit_world.imports import types as _types

#: A batch of messages, held by the host: `Batch.from_texts(list)`, `Batch(messages)`, `len()`, `texts()`,
#: `columns()`, `messages()`, `header(name)`, `select(indices)`, `with_subjects(subjects, places)`,
#: `with_payloads(batch)`. Good until the call of `read` or `write` in which it came returns.
Batch = _types.Batch
#: One message as a record: `payload`, `subject`, `headers`. Payloads as bytes going out cost memory that
#: only a new instance gives back: prefer handles and texts.
Message = _types.Message
#: The messages of a batch as a few large lists.
Columns = _types.Columns


# ----- failures -----------------------------------------------------------------------------------


class Failure(Exception):
    """A failure that says what the host must do. Raise one of its kinds.

    Any other exception costs the instance; its traceback stands in the rule's status and in the log.
    """

    kind = "transient"

    def __init__(self, message: str, code: str = "", retry_after_ms: Optional[int] = None):
        super().__init__(message)
        #: For people. Never a secret in it.
        self.message = message
        #: For programs: a short word.
        self.code = code or self.kind
        #: Not before so many milliseconds.
        self.retry_after_ms = retry_after_ms


class Transient(Failure):
    """The same call may succeed later: it is tried again."""


class Disconnected(Failure):
    """The connection is down, and the host is bringing it back."""

    kind = "disconnected"


class Permanent(Failure):
    """This input can never succeed: it is dead-lettered."""

    kind = "permanent"


class Denied(Failure):
    """Not granted."""

    kind = "denied"


class Misconfigured(Failure):
    """This configuration cannot work: the rule stops."""

    kind = "misconfigured"


_KINDS = {kind.kind: kind for kind in (Transient, Disconnected, Permanent, Denied, Misconfigured)}


def _failure(error) -> Failure:
    """The host's error as an exception."""
    return _KINDS[error.kind.name.lower()](error.message, error.code, error.retry_after_ms)


def _record(failure: Failure):
    """An exception as the contract's error."""
    return _types.Error(_types.Kind[failure.kind.upper()], failure.code, failure.message, failure.retry_after_ms)


def _host(call, *arguments):
    """A call of the host, whose error becomes a `Failure`."""
    try:
        return call(*arguments)
    except _Err as error:
        if isinstance(error.value, _types.Error):
            raise _failure(error.value) from None
        raise


class Rejection(Exception):
    """One message of a batch that a sink could not write. Returned in a list by `write`."""

    def __init__(self, index: int, failure: Failure):
        super().__init__(index, failure)
        #: Its place in the batch.
        self.index = index
        #: Why.
        self.failure = failure


# ----- connections --------------------------------------------------------------------------------


def _qos(level: Optional[int]):
    if level is None:
        return None
    try:
        return _messaging.Qos(level)
    except ValueError:
        raise Misconfigured(f"qos: {level!r} is not 0, 1 or 2", "config") from None


def _extra(extra: Optional[Mapping[str, str]]):
    return list((extra or {}).items())


class Subscription:
    """What `Messaging.subscribe` gives. Keep it: it ends when it is dropped within `open` or `read`."""

    def __init__(self, handle):
        self._handle = handle

    def receive(self, most: int = 1024, wait_ms: Optional[int] = None) -> Batch:
        """Waits for at least one message and takes what is there. An empty batch: return from `read`."""
        return _host(self._handle.receive, most, wait_ms)


class Messaging:
    """A connection to publish to or subscribe at."""

    def __init__(self, handle):
        self._handle = handle

    def subscribe(
        self, subjects: Sequence[str], qos: Optional[int] = None, extra: Optional[Mapping[str, str]] = None
    ) -> Subscription:
        """Only in a source. Returns at once, also while the connection is down."""
        options = _messaging.SubscribeOptions(_qos(qos), _extra(extra))
        return Subscription(_host(self._handle.subscribe, list(subjects), options))

    def publish(
        self,
        batch: Batch,
        subject: Optional[str] = None,
        qos: Optional[int] = None,
        retain: bool = False,
        extra: Optional[Mapping[str, str]] = None,
    ) -> list[Rejection]:
        """Returns when the other side has taken the messages; those that it did not take."""
        options = _messaging.PublishOptions(subject, _qos(qos), retain, _extra(extra))
        rejected = _host(self._handle.publish, batch, options)
        return [Rejection(one.index, _failure(one.error)) for one in rejected]


class Http:
    """A connection to send requests over, below its base URL."""

    def __init__(self, handle):
        self._handle = handle

    def send(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        timeout_ms: Optional[int] = None,
    ):
        """One request; the response has `status`, `headers`, `body`, `truncated`. Any status is a response."""
        return _host(self._handle.send, _http.Request(method, path, list(headers), body, timeout_ms))

    def send_each(
        self,
        method: str,
        path: str,
        batch: Batch,
        headers: Iterable[tuple[str, str]] = (),
        timeout_ms: Optional[int] = None,
    ) -> list:
        """The request once per message, with its payload as the body: a response or a `Failure` for each."""
        request = _http.Request(method, path, list(headers), b"", timeout_ms)
        answers = _host(self._handle.send_each, request, batch)
        return [_failure(answer.value) if isinstance(answer, _Err) else answer.value for answer in answers]


class Sql:
    """A connection to run statements on. Values are None, bool, int, float, str and bytes."""

    def __init__(self, handle):
        self._handle = handle

    def dialect(self) -> str:
        """How statements must be written: `sqlite`, `postgresql`, `mysql`, or another database's name."""
        return self._handle.dialect()

    def query(self, statement: str, params: Sequence[Any] = ()) -> tuple[list[str], list[list[Any]]]:
        """Names of the columns, and the rows."""
        answer = _host(self._handle.query, statement, [_value(value) for value in params])
        rows = [[getattr(value, "value", None) for value in row] for row in answer.rows]
        return answer.columns, rows

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> int:
        """Once per row of parameters, all in one transaction. How many rows changed."""
        return _host(self._handle.execute_many, statement, [[_value(value) for value in row] for row in rows])


def _value(value):
    # A bool is an int too: first.
    for typ, case in (
        (bool, "Value_Boolean"),
        (int, "Value_Integer"),
        (float, "Value_Real"),
        (str, "Value_Text"),
        (bytes, "Value_Blob"),
    ):
        if isinstance(value, typ):
            return getattr(_sql, case)(value)
    if value is None:
        return _sql.Value_Null()
    raise Permanent(f"a {type(value).__name__} is no value for a database", "value")


def messaging(slot: str) -> Messaging:
    """The connection granted for a slot. Dials nothing."""
    return Messaging(_host(_messaging.Client.open, slot))


def http(slot: str) -> Http:
    """The connection granted for a slot. Dials nothing."""
    return Http(_host(_http.Client.open, slot))


def sql(slot: str) -> Sql:
    """The connection granted for a slot. Dials nothing."""
    return Sql(_host(_sql.Client.open, slot))


def log(level: str, message: str) -> None:
    """A line for the host's log; `trace`, `debug`, `info`, `warn` or `error`. Limited in rate."""
    _log.write(_log.Level[level.upper()], message)


def messages_of(texts: Sequence[str], subjects: Optional[Sequence[str]] = None) -> Batch:
    """A batch of texts, under these subjects (one for each text) if they are given."""
    batch = Batch.from_texts(list(texts))
    if subjects is None:
        return batch
    distinct = list(dict.fromkeys(subjects))
    place = {subject: index for index, subject in enumerate(distinct)}
    return _host(batch.with_subjects, distinct, [place[subject] for subject in subjects])


def subjects_of(batch: Batch) -> list[str]:
    """The subject of each message."""
    columns = batch.columns()
    if columns.subject_of:
        return [columns.subjects[place] for place in columns.subject_of]
    return [columns.subjects[0] if columns.subjects else ""] * len(columns.ends)


def payloads_of(batch: Batch) -> list[bytes]:
    """The payload of each message."""
    columns = batch.columns()
    begins = [0, *columns.ends[:-1]]
    return [columns.payloads[begin:end] for begin, end in zip(begins, columns.ends)]


# ----- what an author writes ----------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """Messages, and where to go on after them."""

    batch: Batch
    checkpoint: Optional[str] = None


@dataclass(frozen=True)
class Idle:
    """Nothing now: the host calls again in so many milliseconds."""

    milliseconds: int


class Finished:
    """Nothing more, ever."""


class Source:
    """Brings messages in. One object per instance; the host may replace instances between two calls:
    keep no position outside the checkpoint."""

    def open(self, config: dict, resume: Optional[str]) -> None:
        """`config` has been checked against the schema; `resume` is the last checkpoint kept."""

    def read(self) -> Union[Batch, Delivery, Idle, Finished]:
        """One transaction: what is taken during this call comes again unless what it returns was delivered."""
        raise NotImplementedError

    def close(self) -> None:
        """A last chance to tidy up."""


class Sink:
    """Takes messages out. One object per instance."""

    def open(self, config: dict) -> None:
        """`config` has been checked against the schema."""

    def write(self, batch: Batch) -> Optional[list[Rejection]]:
        """Returns when the messages are safe on the other side, with those that were not taken.
        A failure: none is known to be written."""
        raise NotImplementedError

    def close(self) -> None:
        """A last chance to tidy up."""


@dataclass(frozen=True)
class Slot:
    """A connection that a connector needs: `messaging(name)`, `http(name)` or `sql(name)` opens it."""

    name: str
    interface: str
    description: str
    optional: bool = False


@dataclass(frozen=True)
class Connector:
    """What a connector is. `app.py` names one `connector`."""

    name: str
    version: str
    description: str
    slots: Sequence[Slot] = ()
    source: Optional[type[Source]] = None
    sink: Optional[type[Sink]] = None
    #: JSON Schema of the configuration, for one role.
    schema: Optional[dict] = None
    #: With both roles: one for each.
    source_schema: Optional[dict] = None
    sink_schema: Optional[dict] = None

    def config_schema(self) -> dict:
        """The document as the host wants it: two roles stand under `$defs`."""
        if self.source_schema is None and self.sink_schema is None:
            return self.schema or {"type": "object"}
        schemas = {"source": self.source_schema, "sink": self.sink_schema}
        schemas = {role: schema for role, schema in schemas.items() if schema is not None}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$defs": schemas,
            "anyOf": [{"$ref": f"#/$defs/{role}"} for role in schemas],
        }


def parse_config(config: str) -> dict:
    """The configuration, parsed."""
    value = json.loads(config) if config else {}
    if not isinstance(value, dict):
        raise Misconfigured("the configuration is not an object", "config")
    return value
