"""`{{name}}`: a sink that publishes each message with the name of its site beside it. What is no JSON
is rejected; the others of its batch go out."""

import json
from typing import Optional

from windlass import Batch, Connector, Permanent, Rejection, Sink, Slot, messaging


def with_site(text: Optional[str], site: str) -> str:
    """A message with its site beside it."""
    try:
        data = json.loads(text or "")
    except ValueError as error:
        raise Permanent(f"the message is not JSON: {error}", "content") from None
    return json.dumps({"site": site, "data": data}, ensure_ascii=False)


class Sites(Sink):
    def open(self, config):
        # By the name of the slot: which connection that is, the rule says.
        self.broker = messaging("broker")
        self.topic = config.get("topic")
        self.site = config["site"]

    def write(self, batch):
        places, texts, rejected = [], [], []
        for place, text in enumerate(batch.texts()):
            try:
                texts.append(with_site(text, self.site))
                places.append(place)
            except Permanent as failure:
                rejected.append(Rejection(place, failure))
        if places:
            # Subjects and headers stay those of the messages that go out.
            out = batch.select(places).with_payloads(Batch.from_texts(texts))
            for refused in self.broker.publish(out, subject=self.topic):
                # Its place among those that went out, and among those that were given.
                rejected.append(Rejection(places[refused.index], refused.failure))
        return rejected


connector = Connector(
    name="{{name}}",
    version="{{version}}",
    description="Publishes messages with the name of their site.",
    slots=[Slot("broker", "messaging", "Where the messages go.")],
    sink=Sites,
    schema={
        "title": "{{name}} sink",
        "type": "object",
        "properties": {
            "topic": {
                "description": "Topic to publish to. None: that of the message.",
                "type": "string",
                "minLength": 1,
            },
            "site": {"description": "The name of the site.", "type": "string", "minLength": 1},
        },
        "required": ["site"],
        "additionalProperties": False,
    },
)
