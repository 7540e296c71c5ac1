import { expect, test } from "vitest";
import { EventParser } from "./sse";
import { waitMs } from "./subscribe";

const STREAM = ': beat\n\nevent: state\ndata: {"a":1}\n\ndata: one\r\ndata: two\r\n\r\nevent: done\ndata:x\n\n';
const EVENTS = [
  { event: "state", data: '{"a":1}' },
  { event: "message", data: "one\ntwo" },
  { event: "done", data: "x" },
];

test("events are read whole, wherever the stream is cut", () => {
  for (let size = 1; size <= STREAM.length; size++) {
    const parser = new EventParser();
    const found = [];
    for (let at = 0; at < STREAM.length; at += size) found.push(...parser.push(STREAM.slice(at, at + size)));
    expect(found).toEqual(EVENTS);
  }
});

test("an event without its empty line is not told yet", () => {
  expect(new EventParser().push("event: delta\ndata: 1\n")).toEqual([]);
});

test("tries come at growing distances up to ten seconds", () => {
  expect([0, 1, 2, 9].map(waitMs)).toEqual([300, 600, 1200, 10_000]);
});
