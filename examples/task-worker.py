#!/usr/bin/env python3
"""A task worker in Python, standard library only: it polls a queue over HTTP and does the task "charge".

    python3 examples/task-worker.py [queue]      (MILLRACE_URL, default http://127.0.0.1:8001)

Kill it in the middle of a task: after the lease the task goes to another worker, as the next attempt. It gets the same
idempotency key, which is what a payment provider needs to charge once.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

URL = os.environ.get("MILLRACE_URL", "http://127.0.0.1:8001")
QUEUE = sys.argv[1] if len(sys.argv) > 1 else "payments"
NAME = f"python:{os.getpid()}"
RETRY_S = 1


class Refused(Exception):
    """The server said no: `code` says what happens next."""

    def __init__(self, problem):
        super().__init__(problem.get("detail"))
        self.code = problem.get("code")
        self.retryable = problem.get("retryable", False)


def post(path, body, timeout_s=90):
    request = urllib.request.Request(
        URL + path,
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise Refused(json.load(error)) from error


def charge(task, cancelled):
    """The work itself. `cancelled` is set when nobody wants its result any more."""
    steps = task["input"].get("steps", 1)
    for step in range(steps):
        if cancelled.is_set():
            print(f"charge {task['idempotencyKey']}: not wanted any more", flush=True)
            raise RuntimeError("cancelled")
        time.sleep(task["input"].get("stepMs", 10) / 1000)
        print(f"charge {task['idempotencyKey']}: {step + 1}/{steps} in attempt {task['attempt']}", flush=True)
    return {"paid": task["input"]["amount"], "by": NAME, "attempt": task["attempt"]}


def heartbeats(task, cancelled, done):
    """Three signs of life within a lease; the answer says whether to stop."""
    while not done.wait(task["leaseMs"] / 3000):
        try:
            if post(f"/v1/tasks/{task['token']}/heartbeat", {})["cancelRequested"]:
                cancelled.set()
        except Refused as refused:
            if not refused.retryable:
                cancelled.set()
        except OSError as error:
            print(f"heartbeat: {error}", file=sys.stderr, flush=True)


def until_answered(path, body):
    """An outcome is worth keeping until the server has it; sending it twice is harmless."""
    while True:
        try:
            return post(path, body)
        except Refused as refused:
            if not refused.retryable:
                print(f"dropped: {refused.code}", file=sys.stderr, flush=True)
                return None
        except OSError as error:
            print(f"{path.rsplit('/', 1)[-1]}: {error}", file=sys.stderr, flush=True)
        time.sleep(RETRY_S)


def work(task):
    cancelled, done = threading.Event(), threading.Event()
    beating = threading.Thread(target=heartbeats, args=(task, cancelled, done), daemon=True)
    beating.start()
    try:
        if task["name"] != "charge":
            raise RuntimeError(f"this worker has no function for {task['name']}")
        outcome, body = "complete", {"output": charge(task, cancelled)}
    except Exception as error:  # whatever the work throws is the failure of this attempt
        outcome, body = "fail", {"error": {"message": str(error), "name": type(error).__name__}}
    finally:
        done.set()
    until_answered(f"/v1/tasks/{task['token']}/{outcome}", body)


def main():
    stopping = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stopping.set())
    print(f"{NAME} takes tasks from queue {QUEUE} at {URL}", flush=True)
    while not stopping.is_set():
        try:
            tasks = post(f"/v1/queues/{QUEUE}/poll?waitMs=5000&worker={NAME}", {})["tasks"]
        except (Refused, OSError) as error:
            print(f"poll: {error}", file=sys.stderr, flush=True)
            time.sleep(RETRY_S)
            continue
        for task in tasks:
            work(task)


if __name__ == "__main__":
    main()
