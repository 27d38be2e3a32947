import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { Host, batchOf } from "./build/testing.js";
import { transient, permanent } from "./build/windlass.js";
import connector, { Memory } from "./connector.js";

function opened(config) {
  const host = new Host();
  const sink = new connector.sink();
  sink.open({ topic: "out", ...config });
  let time = 0;
  sink.now = () => time;
  const write = (...objects) =>
    sink.write(batchOf(objects.map((one) => (one instanceof Uint8Array ? { payload: one } : JSON.stringify(one)))));
  const published = () => host.published.splice(0).map(([, text]) => JSON.parse(text));
  return { host, sink, write, published, wait: (ms) => (time += ms) };
}

test("a value is published when it moved by more than the band since it was last published", () => {
  const { write, published } = opened({ key: ["m"], absolute: 1 });
  write({ m: "a", t: 20 }, { m: "a", t: 20.9 }, { m: "a", t: 21 }, { m: "a", t: 21.5 }, { m: "b", t: 20 });
  assert.deepEqual(published(), [{ m: "a", t: 20 }, { m: "a", t: 21.5 }, { m: "b", t: 20 }]);
  // Slow drift adds up.
  for (const t of [21.9, 22.3, 22.7]) write({ m: "a", t });
  assert.deepEqual(published(), [{ m: "a", t: 22.7 }]);
});

test("only the values that moved stay in the message, and what is not watched stays too", () => {
  const { write, published } = opened({ key: ["m"], fields: ["t", "p"], absolute: 1 });
  write({ m: "a", t: 1, p: 1, at: 5 }, { m: "a", t: 1, p: 9, at: 6 });
  assert.deepEqual(published(), [{ m: "a", t: 1, p: 1, at: 5 }, { m: "a", p: 9, at: 6 }]);
});

test("a relative band follows the value, and the larger band holds", () => {
  const { write, published } = opened({ relative: 0.1, absolute: 1 });
  write({ t: 100 });
  write({ t: 109 });
  write({ t: 111 });
  write({ t: 1 });
  write({ t: 2 });
  assert.deepEqual(published(), [{ t: 100 }, { t: 111 }, { t: 1 }]);
});

test("a value that is too old is published though it did not move", () => {
  const { write, published, wait } = opened({ maxAge: 1000 });
  write({ t: 1 });
  wait(999);
  write({ t: 1 });
  wait(1);
  write({ t: 1 });
  assert.deepEqual(published(), [{ t: 1 }, { t: 1 }]);
});

test("texts and booleans are published when they change", () => {
  const { write, published } = opened({ fields: ["on"], absolute: 5 });
  write({ on: true }, { on: true }, { on: false });
  assert.deepEqual(published(), [{ on: true }, { on: false }]);
});

test("lists keep the objects that moved, and whole messages go out as they came", () => {
  const list = opened({ key: ["m"] });
  list.write([{ m: 1, t: 1 }, { m: 1, t: 1 }, { m: 2, t: 1 }]);
  assert.deepEqual(list.published(), [[{ m: 1, t: 1 }, { m: 2, t: 1 }]]);
  const whole = opened({ whole: true });
  whole.write({ t: 1, p: 1 }, { t: 1, p: 2 });
  assert.deepEqual(whole.published(), [{ t: 1, p: 1 }, { t: 1, p: 2 }]);
});

test("what could not be published counts as never published", () => {
  const { host, write, published } = opened({});
  host.refuse = transient("busy");
  assert.throws(() => write({ t: 1 }), { kind: "transient" });
  host.reject = { 0: permanent("no") };
  assert.deepEqual(write({ t: 1 }).map(({ index }) => index), [0]);
  host.reject = {};
  write({ t: 1 });
  assert.deepEqual(published(), [{ t: 1 }]);
});

test("what is no object is rejected alone", () => {
  const { write, published } = opened({});
  const rejected = write(5, { t: 1 }, Uint8Array.of(0xff), [[]]);
  assert.deepEqual(rejected.map(({ index, failure }) => [index, failure.kind, failure.code]), [
    [0, "permanent", "row"],
    [2, "permanent", "utf-8"],
    [3, "permanent", "row"],
  ]);
  assert.deepEqual(published(), [{ t: 1 }]);
});

test("the memory is bounded and forgets the oldest", () => {
  const memory = new Memory(2);
  for (const key of ["a", "b", "a", "c"]) memory.set(key, {});
  assert.deepEqual(["a", "b", "c"].map((key) => memory.get(key) !== undefined), [true, false, true]);
});

test("a field that is a key too is misconfigured", () => {
  assert.throws(() => opened({ key: ["a"], fields: ["a"] }), { kind: "misconfigured" });
});

test("name and version are those of the package", () => {
  const { name, version, description } = JSON.parse(readFileSync(new URL("package.json", import.meta.url)));
  const told = connector.descriptor;
  assert.deepEqual([told.name, told.version, told.description], [name, version, description]);
});
