import assert from "node:assert/strict";
import test from "node:test";

import { Host, batchOf } from "./build/testing.js";
import { utf8Decode } from "./build/windlass.js";
import connector, { ways } from "./connector.js";

const given = [
  { payload: "one", subject: "a" },
  { payload: "", subject: "b" },
  { payload: "zwölf", subject: "a" },
];
const plain = given.map(({ payload, subject }) => [subject, payload]);

test("every way gives on what came", () => {
  for (const way of Object.keys(ways)) {
    const host = new Host();
    host.feed("broker", given);
    const source = new connector.source();
    source.open({ as: way });
    const got = source.read().messages().map(({ payload, subject }) => [subject, utf8Decode(payload)]);
    assert.deepEqual(got, plain, way);
  }
});

test("every way publishes what it is given", () => {
  for (const way of Object.keys(ways)) {
    const host = new Host();
    const sink = new connector.sink();
    sink.open({ as: way });
    assert.deepEqual(sink.write(batchOf(given)), []);
    assert.deepEqual(host.published, plain, way);
  }
});

test("what is no text cannot be taken as text", () => {
  new Host();
  const sink = new connector.sink();
  sink.open({ as: "texts" });
  assert.throws(() => sink.write(batchOf([{ payload: Uint8Array.of(0xff) }])), /not UTF-8/);
});
