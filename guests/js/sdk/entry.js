// What the contract calls, made of the author's connector. The same for every connector.

import * as http from "windlass:connector/http@0.1.0";
import * as log from "windlass:connector/log@0.1.0";
import * as messaging from "windlass:connector/messaging@0.1.0";
import * as sql from "windlass:connector/sql@0.1.0";
import * as types from "windlass:connector/types@0.1.0";

import connector from "../connector.js";
import { Failure, bind, outcomeOf, toRecord, transient } from "./windlass.js";

bind({ http, log, messaging, sql, types });

/** A `Failure` is thrown as the contract's record; anything else costs the instance, with its words. */
function guarded(work) {
  try {
    return work();
  } catch (error) {
    if (error instanceof Failure) throw toRecord(error);
    // What is shown of an exception is its message and its stack, without its kind.
    if (error instanceof Error && !error.message.startsWith(error.name)) {
      error.message = `${error.name}: ${error.message}`;
    }
    throw error;
  }
}

function role(kind) {
  let opened = null;
  return {
    open(config, ...rest) {
      guarded(() => {
        const made = new kind();
        made.open?.(JSON.parse(config || "{}"), ...rest.map((value) => value ?? undefined));
        opened = made;
      });
    },
    call(work) {
      return guarded(() => {
        if (opened === null) throw transient("called before a successful open", { code: "not-open" });
        return work(opened);
      });
    },
    close() {
      const made = opened;
      opened = null;
      made?.close?.();
    },
  };
}

export const meta = { describe: () => connector.descriptor };

const reading = role(connector.source);
export const source = {
  open: (config, resume) => reading.open(config, resume),
  read: () => reading.call((made) => outcomeOf(made.read())),
  close: () => reading.close(),
};

const writing = role(connector.sink);
export const sink = {
  open: (config) => writing.open(config),
  write: (batch) =>
    writing.call((made) =>
      (made.write(batch) ?? []).map(({ index, failure }) => ({ index, error: toRecord(failure) })),
    ),
  close: () => writing.close(),
};
