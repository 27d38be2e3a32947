"""What the contract calls, made of the author's `connector`. The same for every connector."""

from componentize_py_types import Err
from wit_world.exports import meta
from wit_world.imports.types import Rejection

import windlass
from app import connector

try:
    from wit_world.exports import source
except ImportError:
    # A component that is a sink only.
    source = None


class Meta:
    def describe(self):
        return meta.Descriptor(
            connector.name,
            connector.version,
            connector.description,
            windlass.json.dumps(connector.config_schema(), ensure_ascii=False),
            [meta.Slot(slot.name, slot.interface, slot.optional, slot.description) for slot in connector.slots],
        )


class _Role:
    """One of the two roles: the author's object, made by `open`. It belongs to the class: with both roles in
    one component, `open` and `read` may be called on two objects of it."""

    author = None

    def _open(self, kind, config, *rest):
        author = kind()
        try:
            author.open(windlass.parse_config(config), *rest)
        except windlass.Failure as failure:
            raise Err(windlass._record(failure)) from None
        type(self).author = author

    def _opened(self):
        if self.author is None:
            raise Err(windlass._record(windlass.Transient("called before a successful open", "not-open")))
        return self.author

    def close(self):
        author, type(self).author = self.author, None
        if author is not None:
            author.close()


class Source(_Role):
    def open(self, config, resume):
        self._open(connector.source, config, resume)

    def read(self):
        author = self._opened()
        try:
            outcome = author.read()
        except windlass.Failure as failure:
            raise Err(windlass._record(failure)) from None
        if isinstance(outcome, windlass.Batch):
            return _messages(outcome, None)
        if isinstance(outcome, windlass.Delivery):
            return _messages(outcome.batch, outcome.checkpoint)
        if isinstance(outcome, windlass.Idle):
            return source.Outcome_Idle(outcome.milliseconds)
        if outcome is windlass.Finished or isinstance(outcome, windlass.Finished):
            return source.Outcome_Finished()
        raise TypeError(f"read must return a Batch, Delivery, Idle or Finished, not {type(outcome).__name__}")


def _messages(batch, checkpoint):
    return source.Outcome_Messages(source.Delivery(batch, checkpoint))


class Sink(_Role):
    def open(self, config):
        self._open(connector.sink, config)

    def write(self, messages):
        author = self._opened()
        try:
            rejected = author.write(messages) or []
        except windlass.Failure as failure:
            raise Err(windlass._record(failure)) from None
        return [Rejection(one.index, windlass._record(one.failure)) for one in rejected]
