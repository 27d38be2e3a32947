// `{{name}}`: a sink that publishes each message with the name of its site beside it. What is no JSON
// is rejected; the others of its batch go out.

import { connector, messaging, messagesOf, permanent, select, slot, textsOf } from "./build/windlass.js";

/** A message with its site beside it; null: it is no JSON. */
export function withSite(text, site) {
  try {
    return JSON.stringify({ site, data: JSON.parse(text ?? "") });
  } catch {
    return null;
  }
}

class Sites {
  open(config) {
    // By the name of the slot: which connection that is, the rule says.
    this.broker = messaging("broker");
    this.topic = config.topic;
    this.site = config.site;
  }

  write(batch) {
    const places = [];
    const texts = [];
    const rejected = [];
    textsOf(batch).forEach((text, place) => {
      const found = withSite(text, this.site);
      if (found === null) {
        rejected.push(permanent("the message is not JSON", { code: "content" }).at(place));
        return;
      }
      places.push(place);
      texts.push(found);
    });
    if (places.length > 0) {
      // Subjects and headers stay those of the messages that go out.
      const out = select(batch, places).withPayloads(messagesOf(texts));
      for (const { index, failure } of this.broker.publish(out, { subject: this.topic })) {
        // Its place among those that went out, and among those that were given.
        rejected.push(failure.at(places[index]));
      }
    }
    return rejected;
  }
}

export default connector({
  name: "{{name}}",
  version: "{{version}}",
  description: "Publishes messages with the name of their site.",
  slots: [slot("broker", "messaging", "Where the messages go.")],
  sink: Sites,
  schema: {
    title: "{{name}} sink",
    type: "object",
    properties: {
      topic: { description: "Topic to publish to. None: that of the message.", type: "string", minLength: 1 },
      site: { description: "The name of the site.", type: "string", minLength: 1 },
    },
    required: ["site"],
    additionalProperties: false,
  },
});
