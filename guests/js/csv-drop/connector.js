// `csv-drop`: reads CSV and gives a JSON object for each row.
//
// `lines`: each message is a line of a file, with its place in the header `offset`, as the host's files
// give them. A quoted field that goes on in the next line is gathered within one read, so that a read
// never ends in the middle of a row. `document`: each message is a whole CSV text.
//
// The checkpoint is `{offset, columns}`: whoever goes on in the middle of a file has not seen its header.

import { connector, delivery, log, messaging, messagesOf, misconfigured, permanent, slot, subjectsOf, textsOf, transient } from "./build/windlass.js";
import { fieldsOf, objectOf, rowsOf } from "./csv.js";

const schema = {
  title: "csv-drop source",
  type: "object",
  properties: {
    datasource: { description: "The file, or the subjects with commas between them.", type: "string", minLength: 1 },
    input: {
      description: "lines: the lines of a file. document: each message is a whole CSV text with its own header.",
      enum: ["lines", "document"],
      default: "lines",
    },
    header: { description: "The first row names the columns.", type: "boolean", default: true },
    columns: {
      description: "Names of the columns, in place of those in the header.",
      type: "array",
      items: { type: "string", minLength: 1 },
    },
    delimiter: { description: "Stands between two fields.", type: "string", minLength: 1, maxLength: 1, default: "," },
    quote: { description: "Stands around a field; empty: there are no quotes.", type: "string", maxLength: 1, default: '"' },
    types: {
      description: "Types by column. auto: a number or a boolean where the text is plainly one.",
      type: "object",
      additionalProperties: { enum: ["string", "number", "integer", "boolean", "auto"] },
    },
    type: {
      description: "Type of all other columns.",
      enum: ["string", "number", "integer", "boolean", "auto"],
      default: "string",
    },
    onBadValue: {
      description: "What becomes of a field that is not of its type: null, its text, or the message is dead-lettered (fail).",
      enum: ["null", "text", "fail"],
      default: "null",
    },
    interval: {
      description: "lines: the file is read again from its start after so many milliseconds; 0: it is read once.",
      type: "integer",
      minimum: 0,
      default: 0,
    },
  },
  required: ["datasource"],
  additionalProperties: false,
};

/** Lines that one quoted field may go over. */
const MOST_LINES = 1000;

class CsvDrop {
  open(config, resume) {
    this.lines = (config.input ?? "lines") === "lines";
    this.header = config.header ?? true;
    this.delimiter = config.delimiter ?? ",";
    this.quote = config.quote ?? '"';
    if (this.delimiter === this.quote) throw misconfigured("delimiter: is the quote too", { code: "config" });
    this.named = config.columns ?? null;
    const types = config.types ?? {};
    const other = config.type ?? "string";
    this.typeOf = (name) => (Object.hasOwn(types, name) ? types[name] : other);
    this.onBadValue = config.onBadValue ?? "null";
    const { offset = 0, columns = null } = resume === undefined ? {} : JSON.parse(resume);
    /** The place behind the last row; a smaller one means that the file is read from its start again. */
    this.offset = offset;
    /** The names now in force; null: a header must come first. */
    this.columns = columns ?? (this.header ? null : (this.named ?? []));
    let subjects = [config.datasource];
    let extra = {};
    if (this.lines) {
      extra = { fileType: "lines" };
      if (config.interval) extra.interval = config.interval;
      if (offset > 0) extra.resume = offset;
    } else {
      subjects = config.datasource.split(",").map((subject) => subject.trim()).filter((subject) => subject !== "");
    }
    this.input = messaging("files").subscribe(subjects, { extra });
  }

  read() {
    return this.lines ? this.readLines() : this.readDocuments();
  }

  readLines() {
    let batch;
    try {
      batch = this.input.receive();
    } catch (error) {
      // A file that is not there yet is awaited by the host.
      if (error?.code === "not-found") log("info", "the file is not there yet");
      throw error;
    }
    // A failed read must leave this object as it was: its messages come again.
    let { offset, columns } = this;
    const texts = [];
    const subjects = [];
    let open = null;
    let openLines = 0;
    while (batch.len() > 0) {
      const of = subjectsOf(batch);
      const offsets = batch.header("offset");
      textsOf(batch).forEach((line, at) => {
        if (line === null) throw permanent("a line is not UTF-8", { code: "utf-8" });
        const place = Number(offsets[at]);
        if (offsets[at] === "" || !Number.isSafeInteger(place)) {
          throw misconfigured("input: these messages are no lines of a file; use document", { code: "config" });
        }
        if (place <= offset) {
          columns = this.header ? null : columns;
          open = null;
        }
        const row = open === null ? line.replace(/^\uFEFF/, "") : `${open}\n${line}`;
        openLines = open === null ? 1 : openLines + 1;
        offset = place;
        const fields = fieldsOf(row, this.delimiter, this.quote);
        if (fields === null && openLines < MOST_LINES) {
          open = row;
          return;
        }
        open = null;
        if (fields === null) throw permanent(`a quoted field goes over more than ${MOST_LINES} lines`, { code: "csv" });
        if (columns === null) columns = this.named ?? fields;
        else {
          texts.push(this.textOf(fields, columns));
          subjects.push(of[at]);
        }
      });
      if (open === null) break;
      batch = this.input.receive();
    }
    // The host wants the guest back, or the file ends here for now: these lines come again.
    if (open !== null) throw transient("the file ends within a quoted field", { code: "csv" });
    this.offset = offset;
    this.columns = columns;
    return delivery(messagesOf(texts, subjects), JSON.stringify({ offset, columns }));
  }

  readDocuments() {
    const batch = this.input.receive();
    const from = subjectsOf(batch);
    const texts = [];
    const subjects = [];
    textsOf(batch).forEach((text, at) => {
      if (text === null) throw permanent("the document is not UTF-8", { code: "utf-8" });
      const rows = rowsOf(text.replace(/^\uFEFF/, ""), this.delimiter, this.quote);
      const first = this.header ? rows.shift() : undefined;
      for (const row of rows) {
        texts.push(this.textOf(row, this.named ?? first ?? []));
        subjects.push(from[at]);
      }
    });
    return messagesOf(texts, subjects);
  }

  textOf(fields, columns) {
    const bad = (name, text) => {
      if (this.onBadValue === "fail") {
        throw permanent(`${name}: ${JSON.stringify(text.slice(0, 100))} is no ${this.typeOf(name)}`, { code: "type" });
      }
      return this.onBadValue === "text" ? text : null;
    };
    return JSON.stringify(objectOf(fields, columns, this.typeOf, bad));
  }
}

export default connector({
  name: "csv-drop",
  version: "0.1.0",
  description: "Reads CSV: lines of a file, or whole documents as messages.",
  slots: [slot("files", "messaging", "The files, or whatever carries the documents.")],
  source: CsvDrop,
  sourceSchema: schema,
});
