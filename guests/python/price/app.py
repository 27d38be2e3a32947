"""`price`: takes each batch apart in one of four ways and gives or publishes one made of it, so that
`windlass connector bench` shows what that way costs. The same connector stands in `guests/rust`,
`guests/js` and `guests/c`.
"""

from windlass import Batch, Columns, Connector, Message, Permanent, Sink, Slot, Source, messages_of, messaging

SCHEMA = {
    "title": "price",
    "type": "object",
    "properties": {
        "as": {
            "description": "How a batch is taken apart and made again: handles (not at all), records, columns or texts.",
            "enum": ["handles", "records", "columns", "texts"],
            "default": "handles",
        },
        "datasource": {
            "description": "Source: what it subscribes to.",
            "type": "string",
            "minLength": 1,
            "default": "#",
        },
    },
    "additionalProperties": False,
}


def handles(batch):
    return batch


def records(batch):
    return Batch([Message(one.payload, one.subject, one.headers) for one in batch.messages()])


def columns(batch):
    given = batch.columns()
    payloads, ends, begin = [], [], 0
    for end in given.ends:
        payloads.append(given.payloads[begin:end])
        ends.append(end)
        begin = end
    return Batch.from_columns(Columns(b"".join(payloads), ends, given.subjects, given.subject_of))


def texts(batch):
    given = batch.texts()
    if None in given:
        raise Permanent("a message is not UTF-8", "utf-8")
    return batch.with_payloads(messages_of(given))


WAYS = {"handles": handles, "records": records, "columns": columns, "texts": texts}


class PriceSource(Source):
    def open(self, config, resume):
        self.again = WAYS[config.get("as", "handles")]
        self.topic = messaging("broker").subscribe([config.get("datasource", "#")])

    def read(self):
        return self.again(self.topic.receive())


class PriceSink(Sink):
    def open(self, config):
        self.again = WAYS[config.get("as", "handles")]
        self.broker = messaging("broker")

    def write(self, batch):
        return self.broker.publish(self.again(batch))


connector = Connector(
    name="price",
    version="0.1.0",
    description="Takes each batch apart and makes it again, to see what that costs.",
    slots=[Slot("broker", "messaging", "Where the messages come from, or go.")],
    source=PriceSource,
    sink=PriceSink,
    schema=SCHEMA,
)
