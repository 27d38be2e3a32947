"""`{{name}}`: a source that reads numbers as text from topics and gives each on as JSON, under the
subject on which it came. What is no number is left out, with a line in the log."""

import json
import math
from typing import Optional

from windlass import Batch, Connector, Slot, Source, log, messaging


def reading(text: Optional[str], field: str) -> Optional[str]:
    """A number as text, as JSON. None: it is none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return json.dumps({field: number}) if math.isfinite(number) else None


class Readings(Source):
    def open(self, config, resume):
        # By the name of the slot: which connection that is, the rule says.
        topics = [topic.strip() for topic in config["datasource"].split(",")]
        self.topics = messaging("broker").subscribe(topics)
        self.field = config.get("field", "value")

    def read(self):
        # Waits. An empty batch means that the host wants this call to return.
        arrived = self.topics.receive()
        places, readings = [], []
        for place, text in enumerate(arrived.texts()):
            found = reading(text, self.field)
            if found is None:
                log("warn", "left out what is no number")
                continue
            places.append(place)
            readings.append(found)
        # Subjects and headers stay those of the messages that go on.
        return arrived.select(places).with_payloads(Batch.from_texts(readings))


connector = Connector(
    name="{{name}}",
    version="{{version}}",
    description="Reads numbers as text and gives each on as JSON.",
    slots=[Slot("broker", "messaging", "Where the readings come from.")],
    source=Readings,
    schema={
        "title": "{{name}} source",
        "type": "object",
        "properties": {
            "datasource": {
                "description": "Topics to read, with commas between them.",
                "type": "string",
                "minLength": 1,
            },
            "field": {
                "description": "The name under which a reading goes on.",
                "type": "string",
                "minLength": 1,
                "default": "value",
            },
        },
        "required": ["datasource"],
        "additionalProperties": False,
    },
)
