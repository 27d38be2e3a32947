// The host's place in unit tests: plain objects of the contract's shapes, no wasm, no network.
//
//   import { Host } from "./build/testing.js";
//   const host = new Host();                       // in force until the next one
//   host.feed("broker", ["..."]);                  // what a subscription will receive
//   host.published                                 // [[subject, text]], in order
//   host.refuse = failure;                         // what the next publish throws

import { bind, toRecord, utf8Decode, utf8Encode } from "./windlass.js";

const misfit = () => {
  throw { kind: "permanent", code: "index", message: "an index or a length does not fit" };
};

/** As the host's, with the contents in the guest. */
export class Batch {
  #messages;

  constructor(messages) {
    this.#messages = messages.map(({ payload, subject = "", headers = [] }) => ({ payload, subject, headers }));
  }

  static fromTexts(texts) {
    return new Batch(texts.map((text) => ({ payload: utf8Encode(text) })));
  }

  static fromColumns({ payloads, ends, subjects, subjectOf }) {
    const batch = new Batch(Array.from(ends, (end, at) => ({ payload: payloads.subarray(at === 0 ? 0 : ends[at - 1], end) })));
    return subjects.length === 0 ? batch : batch.withSubjects(subjects, subjectOf);
  }

  len() {
    return this.#messages.length;
  }

  messages() {
    return [...this.#messages];
  }

  texts() {
    return this.#messages.map(({ payload }) => utf8Decode(payload));
  }

  columns() {
    const subjects = [...new Set(this.#messages.map(({ subject }) => subject))];
    let end = 0;
    const ends = Uint32Array.from(this.#messages, ({ payload }) => (end += payload.length));
    const payloads = Uint8Array.from(this.#messages.flatMap(({ payload }) => [...payload]));
    return { payloads, ends, subjects, subjectOf: Uint32Array.from(this.#messages, ({ subject }) => subjects.indexOf(subject)) };
  }

  header(name) {
    return this.#messages.map(({ headers }) => headers.find(([key]) => key === name)?.[1] ?? "");
  }

  select(indices) {
    return new Batch(Array.from(indices, (index) => this.#messages[index] ?? misfit()));
  }

  withSubjects(subjects, subjectOf) {
    if (subjectOf.length !== 0 && subjectOf.length !== this.#messages.length) misfit();
    return new Batch(this.#messages.map((one, at) => ({ ...one, subject: subjects[subjectOf[at] ?? 0] ?? misfit() })));
  }

  withPayloads(other) {
    if (other.len() !== this.#messages.length) misfit();
    return new Batch(other.messages().map(({ payload }, at) => ({ ...this.#messages[at], payload })));
  }
}

/** What the sandbox would be connected to. */
export class Host {
  /** By slot: the messages that wait. */
  waiting = {};
  /** Every subscription: slot, subjects, options. */
  subscribed = [];
  /** What was published: subject and text. */
  published = [];
  /** The options of the last publish. */
  options = null;
  /** A `Failure` that the next publish throws. */
  refuse = null;
  /** By index: the `Failure` with which each publish rejects that message. */
  reject = {};
  /** Level and line of each log line. */
  lines = [];

  constructor() {
    const host = this;
    class Client {
      constructor(slot) {
        this.slot = slot;
      }
      static open(slot) {
        return new Client(slot);
      }
      subscribe(subjects, options) {
        host.subscribed.push({ slot: this.slot, subjects, options });
        const queue = (host.waiting[this.slot] ??= []);
        return { receive: (most) => new Batch(queue.splice(0, most)) };
      }
      publish(batch, options) {
        if (host.refuse !== null) {
          const refused = toRecord(host.refuse);
          host.refuse = null;
          throw refused;
        }
        host.options = options;
        const rejected = [];
        batch.messages().forEach(({ payload, subject }, index) => {
          if (index in host.reject) rejected.push({ index, error: toRecord(host.reject[index]) });
          else host.published.push([options.subject ?? subject, utf8Decode(payload)]);
        });
        return rejected;
      }
    }
    const notHere = {
      Client: {
        open() {
          throw new Error("unit tests have messaging only; test the rest in a *.test.yaml");
        },
      },
    };
    const log = { write: (level, line) => this.lines.push([level, line]) };
    bind({ types: { Batch }, messaging: { Client }, http: notHere, sql: notHere, log });
  }

  /** Messages (texts, or `{ payload, subject, headers }` with a text or bytes) that a subscription will receive. */
  feed(slot, messages) {
    (this.waiting[slot] ??= []).push(...messages.map(toMessage));
  }
}

/** A batch of messages, each a text or `{ payload, subject, headers }`. */
export const batchOf = (messages) => new Batch(messages.map(toMessage));

function toMessage(one) {
  const { payload, subject = "", headers = [] } = typeof one === "string" ? { payload: one } : one;
  return { payload: typeof payload === "string" ? utf8Encode(payload) : payload, subject, headers };
}
