"""The host's place in unit tests: plain objects of the contract's shapes, no wasm, no network.

    host = windlass_testing.Host()
    topic = host.feed("broker", ["..."])            # what a subscription will receive
    with host: ...                                  # open and read a source, write to a sink
    host.published                                  # [(subject, text)], in order
    host.refuse = Failure                           # what the next publish raises

`reader(SourceClass, config, messages)` and `written(SinkClass, config, messages)` do the usual rounds.
"""

from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any, Optional


class Kind(Enum):
    TRANSIENT = 0
    DISCONNECTED = 1
    PERMANENT = 2
    DENIED = 3
    MISCONFIGURED = 4


@dataclass
class Error:
    kind: Kind
    code: str
    message: str
    retry_after_ms: Optional[int] = None


class Err(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


@dataclass
class Message:
    payload: bytes
    subject: str = ""
    headers: list = field(default_factory=list)


@dataclass
class Columns:
    payloads: bytes
    ends: list
    subjects: list
    subject_of: list


@dataclass
class Rejection:
    index: int
    error: Error


def _fits(condition):
    if not condition:
        raise Err(Error(Kind.PERMANENT, "index", "an index or a length does not fit"))


class Batch:
    """As the host's, with the contents in the guest."""

    def __init__(self, messages):
        self._messages = list(messages)

    @classmethod
    def from_texts(cls, texts):
        return cls(Message(text.encode()) for text in texts)

    @classmethod
    def from_columns(cls, columns):
        begins = [0, *columns.ends[:-1]]
        batch = cls(Message(columns.payloads[begin:end]) for begin, end in zip(begins, columns.ends))
        return batch.with_subjects(columns.subjects, columns.subject_of) if columns.subjects else batch

    def len(self):
        return len(self._messages)

    def messages(self):
        return list(self._messages)

    def columns(self):
        subjects = list(dict.fromkeys(one.subject for one in self._messages))
        ends, end = [], 0
        for one in self._messages:
            end += len(one.payload)
            ends.append(end)
        payloads = b"".join(one.payload for one in self._messages)
        return Columns(payloads, ends, subjects, [subjects.index(one.subject) for one in self._messages])

    def texts(self):
        def text(payload):
            try:
                return payload.decode()
            except UnicodeDecodeError:
                return None

        return [text(one.payload) for one in self._messages]

    def header(self, name):
        return [next((value for key, value in one.headers if key == name), "") for one in self._messages]

    def select(self, indices):
        _fits(all(0 <= index < len(self._messages) for index in indices))
        return Batch(self._messages[index] for index in indices)

    def with_subjects(self, subjects, subject_of):
        places = subject_of or [0] * len(self._messages)
        _fits(len(places) == len(self._messages) and all(0 <= place < len(subjects) for place in places))
        pairs = zip(self._messages, places)
        return Batch(Message(one.payload, subjects[place], one.headers) for one, place in pairs)

    def with_payloads(self, other):
        _fits(other.len() == len(self._messages))
        pairs = zip(self._messages, other.messages())
        return Batch(Message(new.payload, one.subject, one.headers) for one, new in pairs)


class Qos(Enum):
    AT_MOST_ONCE = 0
    AT_LEAST_ONCE = 1
    EXACTLY_ONCE = 2


@dataclass
class SubscribeOptions:
    qos: Any
    extra: list


@dataclass
class PublishOptions:
    subject: Optional[str]
    qos: Any
    retain: bool
    extra: list


class Subscription:
    def __init__(self, messages):
        self._messages = messages

    def receive(self, most, wait_ms):
        taken, self._messages[:] = self._messages[:most], self._messages[most:]
        return Batch(taken)


class Client:
    """The messaging client; asks the host that is in force."""

    def __init__(self, slot):
        self._slot = slot

    @classmethod
    def open(cls, slot):
        if Host.current is None:
            raise Err(Error(Kind.DENIED, "denied", "no such connection is granted"))
        return cls(slot)

    def subscribe(self, subjects, options):
        Host.current.subscribed.append((self._slot, subjects, options))
        return Subscription(Host.current.waiting.setdefault(self._slot, []))

    def publish(self, batch, options):
        host = Host.current
        if host.refuse is not None:
            refused, host.refuse = host.refuse, None
            raise Err(Error(Kind[refused.kind.upper()], refused.code, refused.message, refused.retry_after_ms))
        rejected = [Rejection(index, error) for index, error in sorted(host.reject.items()) if index < batch.len()]
        for index, one in enumerate(batch.messages()):
            if index not in host.reject:
                subject = one.subject if options.subject is None else options.subject
                host.published.append((subject, one.payload.decode()))
        host.options = options
        return rejected


class Host:
    """What the sandbox would be connected to. In force within `with`."""

    current: Optional["Host"] = None

    def __init__(self):
        #: By slot: the messages that wait.
        self.waiting = {}
        #: Every subscription: slot, subjects, options.
        self.subscribed = []
        #: What was published: subject and text.
        self.published = []
        #: The options of the last publish.
        self.options = None
        #: A `Failure` that the next publish raises.
        self.refuse = None
        #: By index: the `Error` with which each publish rejects that message.
        self.reject = {}
        #: Level and line of each log line.
        self.lines = []

    def feed(self, slot, messages):
        """Messages (texts, bytes or `Message`) that a subscription on this slot will receive."""
        self.waiting.setdefault(slot, []).extend(_message(one) for one in messages)

    def __enter__(self):
        Host.current = self
        return self

    def __exit__(self, *_):
        Host.current = None


def _message(one):
    if isinstance(one, Message):
        return one
    return Message(one.encode() if isinstance(one, str) else one)


def reader(kind, config, messages, slot, resume=None):
    """Opens a source, feeds it, reads once; what `read` returned."""
    with Host() as host:
        host.feed(slot, messages)
        source = kind()
        source.open(config, resume)
        return source.read()


def written(kind, config, messages):
    """Opens a sink and writes one batch; the host (see `published`) and the rejections."""
    with Host() as host:
        sink = kind()
        sink.open(config)
        rejected = sink.write(Batch(_message(one) for one in messages)) or []
        return host, rejected


def _write(level, message):
    if Host.current is not None:
        Host.current.lines.append((level.name.lower(), message))


class _Value:
    def __init__(self, value=None):
        self.value = value


def bindings():
    """In the place of the generated bindings: types, messaging, http, sql, log, Err."""

    class NotHere:
        @classmethod
        def open(cls, slot):
            raise NotImplementedError("unit tests have messaging only; test the rest in a *.test.yaml")

    cases = ("Value_Null", "Value_Boolean", "Value_Integer", "Value_Real", "Value_Text", "Value_Blob")
    types = SimpleNamespace(
        Batch=Batch, Columns=Columns, Error=Error, Kind=Kind, Message=Message, Rejection=Rejection
    )
    messaging = SimpleNamespace(
        Client=Client, PublishOptions=PublishOptions, Qos=Qos, SubscribeOptions=SubscribeOptions
    )
    http = SimpleNamespace(Client=NotHere, Request=SimpleNamespace)
    sql = SimpleNamespace(Client=NotHere, **{case: type(case, (_Value,), {}) for case in cases})
    level = Enum("Level", ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"])
    log = SimpleNamespace(Level=level, write=_write)
    return types, messaging, http, sql, log, Err
