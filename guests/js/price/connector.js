// `price`: takes each batch apart in one of four ways and gives or publishes one made of it, so that
// `windlass connector bench` shows what that way costs. The same connector stands in `guests/rust`,
// `guests/python` and `guests/c`.

import { connector, messaging, messagesOf, messagesOfColumns, messagesOfRecords, permanent, slot, textsOf } from "./build/windlass.js";

const schema = {
  title: "price",
  type: "object",
  properties: {
    as: {
      description: "How a batch is taken apart and made again: handles (not at all), records, columns or texts.",
      enum: ["handles", "records", "columns", "texts"],
      default: "handles",
    },
    datasource: { description: "Source: what it subscribes to.", type: "string", minLength: 1, default: "#" },
  },
  additionalProperties: false,
};

export const ways = {
  handles: (batch) => batch,

  records: (batch) =>
    messagesOfRecords(batch.messages().map(({ payload, subject, headers }) => ({ payload, subject, headers }))),

  columns(batch) {
    const given = batch.columns();
    const payloads = new Uint8Array(given.payloads.length);
    const ends = new Uint32Array(given.ends.length);
    let begin = 0;
    given.ends.forEach((end, at) => {
      payloads.set(given.payloads.subarray(begin, end), begin);
      ends[at] = end;
      begin = end;
    });
    return messagesOfColumns({ payloads, ends, subjects: given.subjects, subjectOf: given.subjectOf });
  },

  texts(batch) {
    const texts = textsOf(batch);
    if (texts.includes(null)) throw permanent("a message is not UTF-8", { code: "utf-8" });
    return batch.withPayloads(messagesOf(texts));
  },
};

class PriceSource {
  open(config) {
    this.again = ways[config.as ?? "handles"];
    this.topic = messaging("broker").subscribe([config.datasource ?? "#"]);
  }

  read() {
    return this.again(this.topic.receive());
  }
}

class PriceSink {
  open(config) {
    this.again = ways[config.as ?? "handles"];
    this.broker = messaging("broker");
  }

  write(batch) {
    return this.broker.publish(this.again(batch));
  }
}

export default connector({
  name: "price",
  version: "0.1.0",
  description: "Takes each batch apart and makes it again, to see what that costs.",
  slots: [slot("broker", "messaging", "Where the messages come from, or go.")],
  source: PriceSource,
  sink: PriceSink,
  schema,
});
