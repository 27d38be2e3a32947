// `deadband`: publishes only the values that moved by more than a deadband since they were last
// published, or that were last published longer ago than `maxAge`.
//
// What was published last stands in memory only, as a cache: after the host has replaced the instance
// (a restart, its memory limit, an idle sink put away) every value counts as new once. So more may be
// published than the deadband says, never less.

import { connector, messaging, messagesOf, misconfigured, permanent, select, slot, textsOf } from "./build/windlass.js";

const schema = {
  title: "deadband sink",
  type: "object",
  properties: {
    topic: {
      description: "Subject to publish to. With {{...}} in it, rendered for each message.",
      type: "string",
      minLength: 1,
      "x-windlass-render": "subject",
    },
    qos: { description: "Level of delivery.", type: "integer", minimum: 0, maximum: 2 },
    retained: { description: "The broker keeps the last message.", type: "boolean", default: false },
    key: {
      description: "Fields that tell one series of values from another. None: there is one series for each subject.",
      type: "array",
      items: { type: "string", minLength: 1 },
      default: [],
    },
    fields: {
      description: "Fields that are watched. None: all with a number that are no key.",
      type: "array",
      items: { type: "string", minLength: 1 },
    },
    absolute: { description: "A value that moved by more than this is published.", type: "number", minimum: 0, default: 0 },
    relative: {
      description: "The same as a part of what was published last: 0.05 is 5 %. With both, the larger band holds.",
      type: "number",
      minimum: 0,
      default: 0,
    },
    maxAge: {
      description: "Milliseconds after which a value is published though it did not move; 0: never.",
      type: "integer",
      minimum: 0,
      default: 0,
    },
    whole: {
      description: "Publish the message as it came when any value moved; else without the watched values that did not.",
      type: "boolean",
      default: false,
    },
    maxKeys: {
      description: "Series that are remembered; the one unheard of for the longest is forgotten first.",
      type: "integer",
      minimum: 1,
      default: 100000,
    },
  },
  required: ["topic"],
  additionalProperties: false,
};

/** What each series published last. */
export class Memory {
  #series = new Map();
  #most;

  constructor(most) {
    this.#most = most;
  }

  /** Field to `{ value, at }`; undefined for a series not known. */
  get(key) {
    return this.#series.get(key);
  }

  set(key, values) {
    // Anew at the end: the first of the map is the oldest.
    this.#series.delete(key);
    this.#series.set(key, values);
    if (this.#series.size > this.#most) this.#series.delete(this.#series.keys().next().value);
  }

  forget(key) {
    this.#series.delete(key);
  }
}

/** Which watched fields of an object are to be published, given what was published before. */
export function moved(object, before, { watched, absolute, relative, maxAge }, now) {
  const names = [];
  for (const name of watched(object)) {
    const last = before?.[name];
    const value = object[name];
    const numbers = typeof value === "number" && typeof last?.value === "number";
    const band = numbers ? Math.max(absolute, relative * Math.abs(last.value)) : 0;
    const changed = last === undefined || (numbers ? Math.abs(value - last.value) > band : value !== last.value);
    if (changed || (maxAge > 0 && now - last.at >= maxAge)) names.push(name);
  }
  return names;
}

export class Deadband {
  /** The clock, in milliseconds. */
  now = () => Date.now();

  open(config) {
    const keys = config.key ?? [];
    const fields = config.fields;
    const both = (fields ?? []).find((name) => keys.includes(name));
    if (both !== undefined) throw misconfigured(`fields: ${both} is a key too`, { code: "config" });
    this.keys = keys;
    this.band = {
      absolute: config.absolute ?? 0,
      relative: config.relative ?? 0,
      maxAge: config.maxAge ?? 0,
      watched: (object) =>
        fields === undefined
          ? Object.keys(object).filter((name) => typeof object[name] === "number" && !keys.includes(name))
          : fields.filter((name) => Object.hasOwn(object, name)),
    };
    this.whole = config.whole ?? false;
    this.options = { subject: config.topic, qos: config.qos, retain: config.retained ?? false };
    this.memory = new Memory(config.maxKeys ?? 100000);
    this.broker = messaging("broker");
  }

  write(batch) {
    const subjects = this.keys.length === 0 ? batch.columns() : null;
    const subjectAt = (at) => (subjects === null ? "" : (subjects.subjects[subjects.subjectOf[at] ?? 0] ?? ""));
    const now = this.now();
    // What becomes true when it is published: until then the memory stays as it is.
    const pending = new Map();
    const kept = [];
    const texts = [];
    const owners = [];
    const rejected = [];
    textsOf(batch).forEach((text, index) => {
      const parsed = parse(text);
      if (parsed.failure !== undefined) {
        rejected.push(parsed.failure.at(index));
        return;
      }
      const out = [];
      const series = [];
      for (const object of parsed.objects) {
        const key = JSON.stringify(this.keys.length === 0 ? subjectAt(index) : this.keys.map((name) => object[name] ?? null));
        const before = pending.get(key) ?? this.memory.get(key);
        const names = moved(object, before, this.band, now);
        if (names.length === 0) continue;
        const values = { ...before };
        for (const name of names) values[name] = { value: object[name], at: now };
        pending.set(key, values);
        series.push(key);
        const still = this.band.watched(object).filter((name) => !names.includes(name));
        out.push(Object.fromEntries(Object.entries(object).filter(([name]) => !still.includes(name))));
      }
      if (out.length === 0) return;
      kept.push(index);
      texts.push(JSON.stringify(parsed.list ? out : out[0]));
      owners.push(series);
    });
    if (kept.length === 0) return rejected;
    let output = select(batch, kept);
    // Subjects and headers stay; with `whole` the bytes too, and no payload leaves the sandbox.
    if (!this.whole) output = output.withPayloads(messagesOf(texts));
    const refused = this.broker.publish(output, this.options);
    for (const [key, values] of pending) this.memory.set(key, values);
    for (const { index, failure } of refused) {
      // Unknown what the other side has of these: they count as new.
      for (const key of owners[index]) this.memory.forget(key);
      rejected.push(failure.at(kept[index]));
    }
    return rejected.sort((a, b) => a.index - b.index);
  }
}

/** The objects of a message, and whether they stood in a list. */
function parse(text) {
  if (text === null) return { failure: permanent("the message is not UTF-8", { code: "utf-8" }) };
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { failure: permanent(`the message is not JSON: ${error.message}`, { code: "json" }) };
  }
  const list = Array.isArray(value);
  const objects = list ? value : [value];
  const plain = (one) => one !== null && typeof one === "object" && !Array.isArray(one);
  if (!objects.every(plain)) return { failure: permanent("the message is no object and no list of objects", { code: "row" }) };
  return { list, objects };
}

export default connector({
  name: "deadband",
  version: "0.1.0",
  description: "Publishes only the values that moved by more than a deadband.",
  slots: [slot("broker", "messaging", "Where the values go.")],
  sink: Deadband,
  sinkSchema: schema,
});
