#!/usr/bin/env python3
"""Follows the live stream in Python, written from docs/protocol.md and nothing else. Needs the package websockets.

    python3 examples/follow.py [--url ws://127.0.0.1:8001/v1/stream] [--filter '{"workflow": ["order-42"]}']
        [--from start|now|snapshot|CURSOR] [--cursor FILE] [--shape events|state|both] [--until closed] [--window N] [--backoff SECONDS]

Prints each entry as one line of JSON, rows of a snapshot as {"row": ...}. With --cursor it goes on where it left off,
also after it was killed: the cursor is stored after the lines that it covers were written, so the last few lines may
come again (same sequence), and none is left out. MILLRACE_TOKEN is sent where the server asks for a token.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time

import websockets

HEALTHY_S = 10
MESSAGE_BYTES_MAX = 4 * 1024 * 1024


class Final(Exception):
    """The server said that trying again is of no use."""


class Gap(Exception):
    """The chain is broken: resume from the cursor."""


def log(text):
    print(text, file=sys.stderr, flush=True)


class Follower:
    """One subscription over any number of connections."""

    def __init__(self, options):
        self.options = options
        self.filter = json.loads(options.filter)
        self.epoch = None
        self.at = None  # processed up to here; None: no position yet
        self.breaks = self.duplicates = self.open_entries = 0
        self.bounds = None  # of the next wait, when the server has named them
        if options.cursor and os.path.exists(options.cursor):
            with open(options.cursor, encoding="ascii") as file:
                epoch, _, sequence = file.read().strip().partition(".")
            self.epoch, self.at = epoch, int(sequence)

    def moved(self, sequence):
        """Everything up to `sequence` is written: now the cursor may be stored."""
        self.at = sequence
        if not self.options.cursor:
            return
        sys.stdout.flush()
        temporary = f"{self.options.cursor}.new"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(f"{self.epoch}.{sequence}")
        os.replace(temporary, self.options.cursor)

    def subscribe_frame(self):
        start = self.options.start if self.at is None else f"{self.epoch}.{self.at}"
        frame = {"t": "sub", "i": 1, "filter": self.filter, "from": start, "shape": self.options.shape}
        if self.options.until:
            frame["until"] = self.options.until
        if self.options.window:
            frame["window"] = self.options.window
        return frame

    async def session(self, socket):
        """One connection, until it ends. True: the subscription is complete."""

        async def send(frame):
            await socket.send(json.dumps(frame))

        hello = {"t": "hello", "v": 1, "client": "follow.py/1.0"}
        if os.environ.get("MILLRACE_TOKEN"):
            hello["token"] = os.environ["MILLRACE_TOKEN"]
        await send(hello)
        await send(self.subscribe_frame())
        if self.breaks or self.duplicates:
            await send({"t": "report", "i": 1, "breaks": self.breaks, "duplicates": self.duplicates})
            self.breaks = self.duplicates = 0
        heartbeat_s, f, at, epoch, in_snapshot = 20.0, None, None, self.epoch, False
        self.open_entries = 0
        while True:
            frame = json.loads(await asyncio.wait_for(socket.recv(), 2.5 * heartbeat_s))
            kind = frame["t"]
            if kind == "welcome":
                epoch, heartbeat_s = frame["e"], frame["hb"] / 1000
            elif kind == "subbed":
                f, in_snapshot = frame["f"], frame["mode"] == "snapshot"
                if not in_snapshot:
                    self.epoch, at = epoch, frame["s"]
                    self.moved(at)
            elif kind == "snap":
                for row in frame["rows"]:
                    print(json.dumps({"row": row}), flush=True)
            elif kind == "snapend":
                in_snapshot, self.epoch, at = False, frame["e"], frame["s"]
                print(json.dumps({"snapshot": at}), flush=True)
                self.moved(at)
            elif kind in ("ev", "bm"):
                if frame["f"] != f:
                    continue
                if frame["p"] > at:
                    raise Gap(f"({frame['p']}, {frame['s']}] after {at}")
                if frame["s"] <= at:
                    self.duplicates += 1
                    continue
                entries = frame.get("d", [])
                for entry in entries:
                    if entry[0] > at:
                        print(json.dumps(entry), flush=True)
                at = frame["s"]
                self.moved(at)
                self.open_entries += len(entries)
                if self.options.window and self.open_entries >= self.options.window / 2:
                    self.open_entries = 0
                    await send({"t": "ack", "i": 1, "s": at})
            elif kind in ("live", "end"):
                if at is None or frame["s"] > at:
                    raise Gap(f"{kind} at {frame['s']} after {at}")
                if kind == "end":
                    return True
                log(f"live at {self.epoch}.{at}")
            elif kind == "behind":
                log(f"behind: {frame['why']}")
            elif kind == "hb":
                for g, last in frame["l"]:
                    if g != f:
                        continue
                    if last > at:
                        raise Gap(f"heartbeat names {last} after {at}")
                    if frame["s"] > at:
                        at = frame["s"]
                        self.moved(at)
                for g, sent in frame.get("w", []):
                    if g == f and sent > at:
                        raise Gap(f"heartbeat names {sent} after {at}")
            elif kind == "gone":
                raise Final(f"gone, {frame['why']}: the log {frame['e']} has {frame['first']} to {frame['head']}")
            elif kind == "err":
                if not frame["retry"]:
                    raise Final(f"{frame['code']}: {frame['msg']}")
                log(f"{frame['code']}, again in {frame['after']} ms")
                await asyncio.sleep(frame["after"] / 1000)
                await send(self.subscribe_frame())
            elif kind == "bye":
                self.bounds = (frame["min"] / 1000, frame["max"] / 1000)

    async def connection(self):
        """True: complete. Otherwise it may be tried again."""
        try:
            async with websockets.connect(
                self.options.url,
                subprotocols=["millrace.v1"],
                max_size=MESSAGE_BYTES_MAX,
                open_timeout=10,
                close_timeout=1,
            ) as socket:
                try:
                    return await self.session(socket)
                except websockets.exceptions.ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else 1006
                    if 4500 <= code <= 4999:
                        raise Final(f"closed with {code}: {closed.rcvd.reason}") from closed
                    log(f"closed with {code}")
        except Gap as gap:
            self.breaks += 1
            log(f"gap: {gap}")
        except websockets.exceptions.InvalidHandshake as refused:
            # The name of this field has changed between versions of the package.
            response = getattr(refused, "response", refused)
            status = getattr(response, "status_code", 0)
            if 400 <= status < 500 and status != 429:
                raise Final(f"refused with HTTP {status}") from refused
            log(f"refused: {refused}")
        except (OSError, asyncio.TimeoutError, EOFError) as error:
            log(f"connection: {type(error).__name__} {error}")
        return False

    async def run(self):
        attempt = 0
        while True:
            self.bounds = None
            began = time.monotonic()
            if await self.connection():
                return
            attempt = 0 if time.monotonic() - began > HEALTHY_S else attempt
            low, high = self.bounds or (0, min(self.options.backoff, 0.5 * 2 ** min(attempt, 10)))
            attempt += 1
            await asyncio.sleep(random.uniform(low, high))


def main():
    parser = argparse.ArgumentParser(description="Follows Millrace's live stream.")
    parser.add_argument("--url", default="ws://127.0.0.1:8001/v1/stream")
    parser.add_argument("--filter", default="{}")
    parser.add_argument("--from", dest="start", default="now")
    parser.add_argument("--cursor")
    parser.add_argument("--shape", default="events")
    parser.add_argument("--until")
    parser.add_argument("--window", type=int)
    parser.add_argument("--backoff", type=float, default=30, help="seconds between attempts at most")
    try:
        asyncio.run(Follower(parser.parse_args()).run())
    except Final as final:
        log(str(final))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
