import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { Host } from "./build/testing.js";
import connector from "./connector.js";
import { fieldsOf, rowsOf, valueOf } from "./csv.js";

const Source = connector.source;

/** Lines as the host's files give them: each with the place behind it. */
function lines(texts, begin = 0) {
  let offset = begin;
  return texts.map((payload) => {
    offset += payload.length + 1;
    return { payload, subject: "in.csv", headers: [["offset", String(offset)]] };
  });
}

function opened(config, messages, resume) {
  const host = new Host();
  host.feed("files", messages);
  const source = new Source();
  source.open({ datasource: "in.csv", ...config }, resume);
  return { host, source };
}

function contents(outcome) {
  const { batch, checkpoint } = outcome.record?.val ?? { batch: outcome };
  return { rows: batch.texts().map((text) => JSON.parse(text)), checkpoint };
}

test("fields are cut at delimiters, not within quotes", () => {
  assert.deepEqual(fieldsOf('a,"b, ""c""",,d', ",", '"'), ["a", 'b, "c"', "", "d"]);
  assert.deepEqual(fieldsOf("a;'b;c'", ";", "'"), ["a", "b;c"]);
  assert.deepEqual(fieldsOf('a"b,c', ",", ""), ['a"b', "c"]);
  assert.deepEqual(fieldsOf('5" pipe,x', ",", '"'), ['5" pipe', "x"]);
  assert.equal(fieldsOf('a,"b', ",", '"'), null);
});

test("a document is cut into rows, with line ends in quotes kept", () => {
  assert.deepEqual(rowsOf('a,b\r\n1,"x\ny"\n\n2,z\n', ",", '"'), [["a", "b"], ["1", "x\ny"], ["2", "z"]]);
});

test("values are of their type or not taken for one", () => {
  const cases = [
    ["1.5", "number", 1.5], ["1e3", "integer", 1000], ["1.5", "integer", undefined], ["", "number", null],
    ["", "string", ""], ["Yes", "boolean", true], ["maybe", "boolean", undefined], ["9007199254740993", "integer", undefined],
    ["007", "auto", "007"], ["-7.25", "auto", -7.25], ["true", "auto", true], ["9007199254740993", "auto", "9007199254740993"],
  ];
  for (const [text, type, expected] of cases) assert.equal(valueOf(text, type), expected, `${text} as ${type}`);
});

test("rows become objects and the checkpoint holds what a new instance needs", () => {
  const file = lines(["id,t,on", "1,20.5,true", '2,"x",false']);
  const { source, host } = opened({ types: { id: "integer", t: "number", on: "boolean" } }, file);
  const { rows, checkpoint } = contents(source.read());
  assert.deepEqual(rows, [{ id: 1, t: 20.5, on: true }, { id: 2, t: null, on: false }]);
  assert.deepEqual(host.subscribed[0].options.extra, [["fileType", "lines"]]);
  const later = opened({}, lines(["3,1,true"], 100), checkpoint);
  assert.deepEqual(contents(later.source.read()).rows, [{ id: "3", t: "1", on: "true" }]);
  const offset = String(JSON.parse(checkpoint).offset);
  assert.deepEqual(later.host.subscribed[0].options.extra.at(-1), ["resume", offset]);
});

test("a quoted field over several lines is one row, and a row that is not whole yet comes again", () => {
  const file = lines(["a,b", '1,"x', 'y"', "2,z"]);
  assert.deepEqual(contents(opened({}, file).source.read()).rows, [{ a: "1", b: "x\ny" }, { a: "2", b: "z" }]);
  const { source, host } = opened({}, file.slice(0, 2));
  assert.throws(() => source.read(), { kind: "transient" });
  host.feed("files", file);
  assert.equal(contents(source.read()).rows.length, 2);
});

test("a file that is read again begins with its header again", () => {
  const { source, host } = opened({ interval: 1000 }, lines(["a", "1"]));
  assert.deepEqual(contents(source.read()).rows, [{ a: "1" }]);
  host.feed("files", lines(["b", "2"]));
  assert.deepEqual(contents(source.read()).rows, [{ b: "2" }]);
});

test("names may be given, with a header to pass over or without one", () => {
  assert.deepEqual(contents(opened({ columns: ["x"] }, lines(["a", "1"])).source.read()).rows, [{ x: "1" }]);
  assert.deepEqual(contents(opened({ header: false }, lines(["a,1"])).source.read()).rows, [{ cols0: "a", cols1: "1" }]);
});

test("a document has its own header and each row keeps the subject", () => {
  const messages = [{ payload: "a;b\n1;2\n3;4\n", subject: "up/1" }, { payload: "c\n5\n", subject: "up/2" }];
  const { source } = opened({ input: "document", delimiter: ";", type: "auto" }, messages);
  const batch = source.read();
  assert.deepEqual(contents(batch).rows, [{ a: 1, b: 2 }, { a: 3, b: 4 }, { c: 5 }]);
  assert.deepEqual(batch.messages().map(({ subject }) => subject), ["up/1", "up/1", "up/2"]);
});

test("failures are of the kind that the host must act on", () => {
  const kind = (config, messages) => {
    try {
      opened(config, messages).source.read();
    } catch (error) {
      return error.kind;
    }
    return undefined;
  };
  assert.equal(kind({ types: { a: "integer" }, onBadValue: "fail" }, lines(["a", "x"])), "permanent");
  assert.equal(kind({ input: "document" }, [{ payload: Uint8Array.of(0xff) }]), "permanent");
  assert.equal(kind({}, ["no offset"]), "misconfigured");
  assert.throws(() => opened({ delimiter: '"' }, []), { kind: "misconfigured" });
});

test("name and version are those of the package", () => {
  const { name, version, description } = JSON.parse(readFileSync(new URL("package.json", import.meta.url)));
  const told = connector.descriptor;
  assert.deepEqual([told.name, told.version, told.description], [name, version, description]);
});
