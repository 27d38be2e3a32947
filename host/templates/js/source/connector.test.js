import assert from "node:assert/strict";
import test from "node:test";

import { Host } from "./build/testing.js";
import connector, { reading } from "./connector.js";

test("a number becomes JSON and anything else nothing", () => {
  assert.equal(reading(" 21.5\n", "value"), '{"value":21.5}');
  for (const text of ["warm", "Infinity", " ", null]) assert.equal(reading(text, "value"), null);
});

test("a reading goes on under its own subject", () => {
  const host = new Host();
  host.feed("broker", [{ payload: "21.5", subject: "in/1" }, { payload: "no number", subject: "in/1" }]);
  const source = new connector.source();
  source.open({ datasource: "in/#" });
  const batch = source.read();
  assert.deepEqual(batch.texts(), ['{"value":21.5}']);
  assert.equal(batch.messages()[0].subject, "in/1");
});
