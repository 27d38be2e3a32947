// CSV as RFC 4180 has it, with any delimiter and quote. No host.

/**
 * Cuts a row: its fields, or null while a quoted field is open (it goes on in the next line). A quote
 * inside a quoted field is doubled; one in the middle of a plain field is a character like others.
 */
export function fieldsOf(row, delimiter, quote) {
  const fields = [];
  for (let at = 0; ; at++) {
    let field = "";
    if (quote !== "" && row[at] === quote) {
      at++;
      for (;;) {
        const end = row.indexOf(quote, at);
        if (end < 0) return null;
        field += row.slice(at, end);
        at = end + 1;
        if (row[at] !== quote) break;
        field += quote;
        at++;
      }
    }
    const end = row.indexOf(delimiter, at);
    fields.push(field + row.slice(at, end < 0 ? row.length : end));
    if (end < 0) return fields;
    at = end;
  }
}

/** Cuts a document into rows of fields. What a missing closing quote leaves open is one last row. */
export function rowsOf(text, delimiter, quote) {
  const rows = [];
  let open = null;
  for (const line of text.split("\n")) {
    const clean = line.endsWith("\r") ? line.slice(0, -1) : line;
    const row = open === null ? clean : `${open}\n${clean}`;
    const fields = fieldsOf(row, delimiter, quote);
    open = fields === null ? row : null;
    if (fields !== null && row !== "") rows.push(fields);
  }
  if (open !== null) rows.push(fieldsOf(open + quote, delimiter, quote) ?? [open]);
  return rows;
}

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const TRUE = ["true", "yes", "on", "1"];
const FALSE = ["false", "no", "off", "0"];

/** A field as its type; undefined when it is none of that type. An empty one is null unless it is a string. */
export function valueOf(text, type) {
  if (type === "string") return text;
  const trimmed = text.trim();
  if (trimmed === "") return null;
  if (type === "boolean") {
    const word = trimmed.toLowerCase();
    return TRUE.includes(word) ? true : FALSE.includes(word) ? false : undefined;
  }
  if (type === "auto") {
    if (trimmed === "true" || trimmed === "false") return trimmed === "true";
    // 007 and +49 are names, not numbers; so is what a number would round.
    const plain = /^-?(0|[1-9]\d*)(\.\d+)?$/.test(trimmed);
    return plain && trimmed.replace(/[-.]/g, "").length <= 15 ? Number(trimmed) : text;
  }
  if (!NUMBER.test(trimmed)) return undefined;
  const number = Number(trimmed);
  if (!Number.isFinite(number)) return undefined;
  if (type === "integer") return Number.isSafeInteger(number) ? number : undefined;
  return number;
}

/** A row as an object. `bad(name, text)` is asked for what a field becomes that is not of its type. */
export function objectOf(fields, names, typeOf, bad) {
  const object = {};
  fields.forEach((text, place) => {
    const name = names[place] ?? `cols${place}`;
    const value = valueOf(text, typeOf(name));
    object[name] = value === undefined ? bad(name, text) : value;
  });
  return object;
}
