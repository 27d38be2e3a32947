// `{{name}}`: a source that reads numbers as text from topics and gives each on as JSON, under the
// subject on which it came. What is no number is left out, with a line in the log.

import { connector, log, messaging, messagesOf, select, slot, textsOf } from "./build/windlass.js";

/** A number as text, as JSON; null: it is none. */
export function reading(text, field) {
  const number = Number(text ?? "");
  const isOne = text !== null && text.trim() !== "" && Number.isFinite(number);
  return isOne ? JSON.stringify({ [field]: number }) : null;
}

class Readings {
  open(config, resume) {
    // By the name of the slot: which connection that is, the rule says.
    const topics = config.datasource.split(",").map((topic) => topic.trim());
    this.topics = messaging("broker").subscribe(topics);
    this.field = config.field ?? "value";
  }

  read() {
    // Waits. An empty batch means that the host wants this call to return.
    const arrived = this.topics.receive();
    const places = [];
    const readings = [];
    textsOf(arrived).forEach((text, place) => {
      const found = reading(text, this.field);
      if (found === null) {
        log("warn", "left out what is no number");
        return;
      }
      places.push(place);
      readings.push(found);
    });
    // Subjects and headers stay those of the messages that go on.
    return select(arrived, places).withPayloads(messagesOf(readings));
  }
}

export default connector({
  name: "{{name}}",
  version: "{{version}}",
  description: "Reads numbers as text and gives each on as JSON.",
  slots: [slot("broker", "messaging", "Where the readings come from.")],
  source: Readings,
  schema: {
    title: "{{name}} source",
    type: "object",
    properties: {
      datasource: { description: "Topics to read, with commas between them.", type: "string", minLength: 1 },
      field: { description: "The name under which a reading goes on.", type: "string", minLength: 1, default: "value" },
    },
    required: ["datasource"],
    additionalProperties: false,
  },
});
