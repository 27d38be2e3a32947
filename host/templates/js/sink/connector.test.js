import assert from "node:assert/strict";
import test from "node:test";

import { Host, batchOf } from "./build/testing.js";
import connector from "./connector.js";

test("a message is published beside its site, and what is no JSON is rejected", () => {
  const host = new Host();
  const sink = new connector.sink();
  sink.open({ site: "north", topic: "all" });
  const rejected = sink.write(batchOf(['{"a":1}', "no json", { payload: Uint8Array.of(0xff) }]));
  assert.deepEqual(host.published, [["all", '{"site":"north","data":{"a":1}}']]);
  assert.deepEqual(rejected.map(({ index, failure }) => [index, failure.kind]), [[1, "permanent"], [2, "permanent"]]);
});
