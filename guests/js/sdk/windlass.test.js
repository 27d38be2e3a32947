import assert from "node:assert/strict";
import test from "node:test";

import { base64Decode, base64Encode, utf8Decode, utf8Encode } from "./windlass.js";

test("texts become the same bytes as everywhere, and come back", () => {
  for (const text of ["", "abc", "äöü€", "\u{1f600}x\u0000", "\uffff\u{10ffff}"]) {
    assert.deepEqual(utf8Encode(text), new Uint8Array(Buffer.from(text)));
    assert.equal(utf8Decode(utf8Encode(text)), text);
  }
  assert.deepEqual(utf8Encode("\ud800"), new Uint8Array(Buffer.from("\ufffd")));
});

test("bytes that are not UTF-8 are null: cut, overlong, surrogates, too large", () => {
  for (const bytes of [[0xff], [0xc3], [0xc0, 0x80], [0xe0, 0x80, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0x80]]) {
    assert.equal(utf8Decode(Uint8Array.from(bytes)), null, bytes.join());
  }
});

test("base64 is the same as everywhere, with and without padding", () => {
  for (let length = 0; length < 50; length++) {
    const bytes = Uint8Array.from({ length }, (_, at) => (at * 77 + length) & 0xff);
    const text = Buffer.from(bytes).toString("base64");
    assert.equal(base64Encode(bytes), text);
    assert.deepEqual(base64Decode(text), bytes);
    assert.deepEqual(base64Decode(text.replaceAll("=", "")), bytes);
  }
  for (const text of ["a", "=", "a===", "ab!d", "abc=="]) assert.equal(base64Decode(text), null, text);
});
