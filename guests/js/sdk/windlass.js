// What an author needs to write a Windlass connector in JavaScript.
//
//   import { connector, messaging, slot } from "./build/windlass.js";
//
//   class Mirror {
//     open(config, resume) { this.topic = messaging("broker").subscribe([config.topic]); }
//     read() { return this.topic.receive(); }
//   }
//
//   export default connector({
//     name: "mirror", version: "0.1.0", description: "Hands on what a topic brings.",
//     slots: [slot("broker", "messaging", "Where the topic is.")], source: Mirror, schema: { ... },
//   });
//
// The sandbox is QuickJS: no console, TextDecoder, URL, fetch, timers. This module imports nothing, so
// it runs in Node too: there `testing.js` takes the host's place.

let host = null;

/** Gives this module the host's interfaces: `entry.js` in the sandbox, `testing.js` in unit tests. */
export function bind(interfaces) {
  host = interfaces;
}

function bound() {
  if (host === null) throw new Error("there is no host here: unit tests import ./build/testing.js");
  return host;
}

// ----- failures ---------------------------------------------------------------------------------

const KINDS = ["transient", "disconnected", "permanent", "denied", "misconfigured"];

/**
 * A failure that says what the host must do. Any other exception costs the instance; its words and
 * its stack stand in the rule's status and in the log.
 */
export class Failure extends Error {
  /** `code` is for programs, `message` for people: never a secret in it. */
  constructor(kind, message, { code = kind, retryAfterMs } = {}) {
    super(message);
    this.name = "Failure";
    this.kind = kind;
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }

  /** This failure for one message of a batch, by its place in it. */
  at(index) {
    return { index, failure: this };
  }
}

/** The same call may succeed later: it is tried again. */
export const transient = (message, options) => new Failure("transient", message, options);
/** This input can never succeed: it is dead-lettered. */
export const permanent = (message, options) => new Failure("permanent", message, options);
/** This configuration cannot work: the rule stops. */
export const misconfigured = (message, options) => new Failure("misconfigured", message, options);

function isRecord(error) {
  return error !== null && typeof error === "object" && KINDS.includes(error.kind) && typeof error.message === "string";
}

/** The contract's error as a `Failure`. */
function fromRecord({ kind, code, message, retryAfterMs }) {
  return new Failure(kind, message, { code, retryAfterMs: retryAfterMs ?? undefined });
}

/** A `Failure` as the contract's error. */
export function toRecord({ kind, code, message, retryAfterMs }) {
  return { kind, code: String(code), message: String(message), retryAfterMs };
}

/** A call of the host, whose error becomes a `Failure`. */
function call(work) {
  try {
    return work();
  } catch (error) {
    // The host's error is thrown as the record itself, or in an Error around it.
    const record = isRecord(error) ? error : error?.payload;
    throw isRecord(record) && !(error instanceof Failure) ? fromRecord(record) : error;
  }
}

// ----- connections ------------------------------------------------------------------------------

const QOS = ["at-most-once", "at-least-once", "exactly-once"];

function qosOf(level) {
  if (level == null) return undefined;
  if (!(level in QOS)) throw misconfigured(`qos: ${level} is not 0, 1 or 2`, { code: "config" });
  return QOS[level];
}

const pairs = (object) => Object.entries(object ?? {}).map(([name, value]) => [name, String(value)]);

class Subscription {
  constructor(handle) {
    this.handle = handle;
  }

  /** Waits for at least one message and takes what is there. An empty batch: return from `read`. */
  receive(most = 1024, waitMs = undefined) {
    return call(() => this.handle.receive(most, waitMs));
  }
}

class Messaging {
  constructor(handle) {
    this.handle = handle;
  }

  /** Only in a source. Returns at once, also while the connection is down. Keep what it returns. */
  subscribe(subjects, { qos, extra } = {}) {
    const options = { qos: qosOf(qos), extra: pairs(extra) };
    return new Subscription(call(() => this.handle.subscribe(subjects, options)));
  }

  /** Returns when the other side has taken the messages, with those that it did not take. */
  publish(batch, { subject, qos, retain = false, extra } = {}) {
    const options = { subject, qos: qosOf(qos), retain, extra: pairs(extra) };
    const rejected = call(() => this.handle.publish(batch, options));
    return rejected.map(({ index, error }) => ({ index, failure: fromRecord(error) }));
  }
}

class Http {
  constructor(handle) {
    this.handle = handle;
  }

  /** One request; any status is a response. `body` is text or bytes; so is the response's, as bytes. */
  send(method, path, { headers, body = "", timeoutMs } = {}) {
    const bytes = typeof body === "string" ? utf8Encode(body) : body;
    return call(() => this.handle.send({ method, path, headers: pairs(headers), body: bytes, timeoutMs }));
  }
}

class Sql {
  constructor(handle) {
    this.handle = handle;
  }

  /** How statements must be written: `sqlite`, `postgresql`, `mysql`, or another database's name. */
  dialect() {
    return this.handle.dialect();
  }

  /** `{ columns, rows, truncated }`. Integers beyond 2^53 come rounded: let the statement cast them to text. */
  query(statement, params = []) {
    const { columns, rows, truncated } = call(() => this.handle.query(statement, params.map(toValue)));
    return { columns, rows: rows.map((row) => row.map(({ val }) => val ?? null)), truncated };
  }

  /** Once per row of parameters, all in one transaction. How many rows changed. */
  executeMany(statement, rows) {
    return call(() => this.handle.executeMany(statement, rows.map((row) => row.map(toValue))));
  }
}

function toValue(value) {
  if (value == null) return { tag: "null" };
  if (typeof value === "boolean") return { tag: "boolean", val: value };
  if (typeof value === "number") return { tag: Number.isSafeInteger(value) ? "integer" : "real", val: value };
  if (typeof value === "string") return { tag: "text", val: value };
  // A BigInt cannot cross here as a number; databases read the text.
  if (typeof value === "bigint") return { tag: "text", val: value.toString() };
  if (value instanceof Uint8Array) return { tag: "blob", val: value };
  throw permanent(`a ${typeof value} is no value for a database`, { code: "value" });
}

/** The connection granted for a slot. Dials nothing. */
export const messaging = (slot) => new Messaging(call(() => bound().messaging.Client.open(slot)));
/** The connection granted for a slot. Dials nothing. */
export const http = (slot) => new Http(call(() => bound().http.Client.open(slot)));
/** The connection granted for a slot. Dials nothing. */
export const sql = (slot) => new Sql(call(() => bound().sql.Client.open(slot)));

/** A line for the host's log; `trace`, `debug`, `info`, `warn` or `error`. Limited in rate. */
export const log = (level, message) => bound().log.write(level, String(message));

/** A batch of texts, under these subjects (one for each text) if they are given. */
export function messagesOf(texts, subjects = undefined) {
  const batch = bound().types.Batch.fromTexts(texts);
  if (subjects === undefined) return batch;
  const places = new Map();
  for (const subject of subjects) if (!places.has(subject)) places.set(subject, places.size);
  const of = Uint32Array.from(subjects, (subject) => places.get(subject));
  return call(() => batch.withSubjects([...places.keys()], of));
}

/** A batch of records, each `{ payload, subject, headers }`, as `batch.messages()` gives them. */
export const messagesOfRecords = (records) => {
  const { Batch } = bound().types;
  return new Batch(records);
};

/** A batch of columns, as `batch.columns()` gives them. */
export const messagesOfColumns = (columns) => call(() => bound().types.Batch.fromColumns(columns));

/** The messages at these places. */
export const select = (batch, indices) => call(() => batch.select(Uint32Array.from(indices)));

/** The payloads as texts; null for one that is not UTF-8. */
export const textsOf = (batch) => batch.texts().map((text) => text ?? null);

/** The subject of each message. */
export function subjectsOf(batch) {
  const { ends, subjects, subjectOf } = batch.columns();
  if (subjectOf.length > 0) return Array.from(subjectOf, (place) => subjects[place]);
  return new Array(ends.length).fill(subjects[0] ?? "");
}

// ----- what `read` returns ----------------------------------------------------------------------

const OUTCOME = Symbol("outcome");

/** Messages, and where to go on after them (a text). `read` may return a bare batch too. */
export const delivery = (batch, checkpoint = undefined) => ({
  [OUTCOME]: true,
  record: { tag: "messages", val: { batch, checkpoint } },
});
/** Nothing now: the host calls again in so many milliseconds. */
export const idle = (milliseconds) => ({ [OUTCOME]: true, record: { tag: "idle", val: milliseconds } });
/** Nothing more, ever. */
export const finished = () => ({ [OUTCOME]: true, record: { tag: "finished" } });

/** What `read` returned, as the contract has it. */
export function outcomeOf(returned) {
  if (returned?.[OUTCOME]) return returned.record;
  if (typeof returned?.texts === "function") return delivery(returned).record;
  throw new TypeError("read must return a batch, delivery(...), idle(...) or finished()");
}

// ----- what an author writes --------------------------------------------------------------------

/** A connection that a connector needs: `messaging(name)`, `http(name)` or `sql(name)` opens it. */
export const slot = (name, interfaceName, description, { optional = false } = {}) => ({
  name,
  interface: interfaceName,
  description,
  optional,
});

/**
 * What a connector is: the default export of `connector.js`. `source` is a class with `open(config,
 * resume)`, `read()` and perhaps `close()`; `sink` one with `open(config)`, `write(batch)`, which may
 * return what was rejected (`failure.at(index)`). `schema` is the JSON Schema of the configuration;
 * with both roles, `sourceSchema` and `sinkSchema`.
 */
export function connector({ name, version, description, slots = [], source, sink, schema, sourceSchema, sinkSchema }) {
  let document = schema ?? { type: "object" };
  if (sourceSchema !== undefined || sinkSchema !== undefined) {
    const $defs = { source: sourceSchema, sink: sinkSchema };
    const roles = ["source", "sink"].filter((role) => $defs[role] !== undefined);
    document = {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      $defs,
      anyOf: roles.map((role) => ({ $ref: `#/$defs/${role}` })),
    };
  }
  return { descriptor: { name, version, description, configSchema: JSON.stringify(document), slots }, source, sink };
}

// ----- texts and bytes --------------------------------------------------------------------------

/** Bytes as text; null when they are not UTF-8. */
export function utf8Decode(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++];
    if (first < 0x80) {
      text += String.fromCharCode(first);
      continue;
    }
    const more = first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : 0;
    if (more === 0 || at + more > bytes.length) return null;
    let point = first & (0x3f >> more);
    for (let end = at + more; at < end; at++) {
      if ((bytes[at] & 0xc0) !== 0x80) return null;
      point = (point << 6) | (bytes[at] & 0x3f);
    }
    const tooShort = (more === 2 && point < 0x800) || (more === 3 && point < 0x10000);
    if (tooShort || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return null;
    text += String.fromCodePoint(point);
  }
  return text;
}

/** Text as bytes. Half a surrogate pair becomes U+FFFD. */
export function utf8Encode(text) {
  const bytes = [];
  for (const character of text) {
    let point = character.codePointAt(0);
    if (point >= 0xd800 && point < 0xe000) point = 0xfffd;
    if (point < 0x80) bytes.push(point);
    else if (point < 0x800) bytes.push(0xc0 | (point >> 6), 0x80 | (point & 0x3f));
    else if (point < 0x10000) bytes.push(0xe0 | (point >> 12), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    else {
      bytes.push(0xf0 | (point >> 18), 0x80 | ((point >> 12) & 0x3f), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    }
  }
  return Uint8Array.from(bytes);
}

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Bytes as base64 with padding. */
export function base64Encode(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const [a, b, c] = [bytes[at], bytes[at + 1], bytes[at + 2]];
    text += ALPHABET[a >> 2] + ALPHABET[((a & 3) << 4) | ((b ?? 0) >> 4)];
    text += b === undefined ? "=" : ALPHABET[((b & 15) << 2) | ((c ?? 0) >> 6)];
    text += c === undefined ? "=" : ALPHABET[c & 63];
  }
  return text;
}

/** Base64, with or without padding, as bytes; null when it is none. */
export function base64Decode(text) {
  const digits = text.replace(/={1,2}$/, "");
  if (digits.length % 4 === 1 || (digits.length !== text.length && text.length % 4 !== 0)) return null;
  const bytes = new Uint8Array(Math.floor((digits.length * 3) / 4));
  let [bits, held, place] = [0, 0, 0];
  for (const digit of digits) {
    const value = ALPHABET.indexOf(digit);
    if (value < 0) return null;
    held = ((held << 6) | value) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[place++] = (held >> bits) & 0xff;
    }
  }
  return bytes;
}
