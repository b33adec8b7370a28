"""The clients' table of cases by the Python package: see ../README.md.

Every other case is carried out by penstock.Client, the others by penstock.aio.
"""

import asyncio
import concurrent.futures
import json
import os
import secrets
import struct
import sys
import threading

import penstock
from penstock import aio

RUN = secrets.token_hex(8)
NATIVE = ("bool", "int64", "float64", "string", "[]byte", "[]bool", "[]int64",
          "[]float64", "[]string")
LISTS_OF_BYTES = "[]byte"


def own_id(text):
    return f"python.{text[1:]}.{RUN}" if text.startswith("@") else text


# ---- in


def content(name, x):
    if name == LISTS_OF_BYTES:
        return bytes.fromhex(x)
    if name.startswith("[]"):
        return [content(name[2:], element) for element in x]
    if name.startswith("float"):
        return struct.unpack(">d", bytes.fromhex(x))[0]
    return int(x) if "int" in name else x


def value(described):
    [(name, x)] = described.items()
    native = content(name, x)
    if name in NATIVE and native != []:
        return native
    # Over int64's range a native int is a uint64 all by itself.
    if name == "uint64" and native >= 2**63:
        return native
    return penstock.typed(name, native)


def task(described):
    options = dict(described)
    name, args = options.pop("name"), options.pop("args")
    for key in ("id", "unique_key"):
        if key in options:
            options[key] = own_id(options[key])
    for key in ("delay", "timeout", "expire_after"):
        if f"{key}_ms" in options:
            options[key] = options.pop(f"{key}_ms") / 1000
    for key in ("on_success", "on_error"):
        if key in options:
            options[key] = [task(each) for each in options[key]]
    return penstock.Task(name, *map(value, args), **options)


# ---- out


def native(x):
    if isinstance(x, bool):
        return {"bool": x}
    if isinstance(x, int):
        return {"int": str(x)}
    if isinstance(x, float):
        return {"float": struct.pack(">d", x).hex()}
    if isinstance(x, str):
        return {"string": x}
    if isinstance(x, bytes):
        return {"bytes": x.hex()}
    return {"list": [native(element) for element in x]}


def results(result):
    if result is None:
        return {"results": []}
    return {"results": [native(x) for x in
                        (result if isinstance(result, tuple) else (result,))]}


def failure(error):
    if isinstance(error, penstock.TaskError):
        status = "CANCELLED" if isinstance(error, penstock.TaskCancelled) else "FAILURE"
        return {"task_error": {"status": status, "message": error.message,
                               "type": error.type}}
    if isinstance(error, penstock.CallError):
        described = {"code": error.code.name}
        if error.reason:
            described["reason"] = error.reason
        if error.violations:
            described["fields"] = [violation.field for violation in error.violations]
        return {"error": described}
    if isinstance(error, penstock.ResultTimeout):
        return {"timeout": True}
    if isinstance(error, (TypeError, ValueError)):
        return {"client_error": True}
    raise error


ERRORS = (penstock.Error, TypeError, ValueError)


async def outcome(awaitable):
    try:
        return results(await awaitable)
    except ERRORS as error:
        return failure(error)


# ---- what there is to do, by a client with await; Blocking makes one of penstock's


class Blocking:
    """A penstock.Client, or a handle of one, whose methods can be awaited."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        attribute = getattr(self._real, name)
        if name in ("watch", "stream"):
            return lambda *words, **options: self._iterate(attribute(*words, **options))
        if not callable(attribute):
            return self._wrap(attribute)

        async def call(*words, **options):
            return self._wrap(attribute(*words, **options))

        return call

    @classmethod
    def _wrap(cls, x):
        handles = (penstock.TaskHandle, penstock.Group)
        if isinstance(x, list):
            return [cls._wrap(each) for each in x]
        return cls(x) if isinstance(x, handles) else x

    @classmethod
    async def _iterate(cls, iterator):
        for x in iterator:
            if isinstance(x, penstock.Sent):
                x = x._replace(handle=cls._wrap(x.handle))
            yield x


def handle_of(client, task_id):
    if isinstance(client, Blocking):
        return Blocking(client._real.task(task_id))
    return client.task(task_id)


async def watch_until(handle, status):
    async for state in handle.watch():
        if state.status is status:
            return
    raise RuntimeError(f"the task never was {status}")


async def do_send(client, case):
    handle = await client.send(task(case["task"]), metadata=case.get("metadata"))
    return await outcome(handle.result(case.get("timeout_ms", 20_000) / 1000))


async def do_group(client, case):
    group = await client.send_group([task(each) for each in case["tasks"]])
    members = await group.results(60, return_errors=True)
    return {"members": [failure(each) if isinstance(each, Exception) else results(each)
                        for each in members]}


async def do_chain(client, case):
    chain = await client.send_chain([task(each) for each in case["tasks"]])
    return await outcome(chain.result(20))


async def do_chord(client, case):
    chord = await client.send_chord([task(each) for each in case["tasks"]],
                                    task(case["callback"]))
    return await outcome(chord.result(20))


async def do_chord_on_failure(client, case):
    on_failure = task(case["on_failure"])
    chord = await client.send_chord([task(each) for each in case["tasks"]],
                                    task(case["callback"]), on_failure=on_failure)
    callback = await outcome(chord.result(20))
    # Its state exists from the moment on that it is sent.
    handle = handle_of(client, on_failure.id)
    for _ in range(200):
        try:
            await handle.state()
            break
        except penstock.NotFound:
            await asyncio.sleep(0.1)
    return {"callback": callback, "on_failure": await outcome(handle.result(20))}


async def do_many(client, case):
    sent = await client.send_many([task(each) for each in case["tasks"]])
    return {"members": [failure(each) if isinstance(each, Exception)
                        else await outcome(each.result(60)) for each in sent]}


async def do_stream(client, case):
    members = [None] * len(case["tasks"])
    handles = {}
    async for sent in client.stream([task(each) for each in case["tasks"]]):
        if sent.error is not None:
            members[sent.index] = failure(sent.error)
        else:
            handles[sent.index] = sent.handle
    for index, handle in handles.items():
        members[index] = await outcome(handle.result(60))
    return {"members": members}


async def do_state(client, case):
    return {"status": (await handle_of(client, case["task_id"]).state()).status.name}


async def do_group_state(client, case):
    real = client._real if isinstance(client, Blocking) else client
    group = real.group(case["group_id"])
    state = group.state() if isinstance(client, Blocking) else await group.state()
    return {"total": state.total}


async def do_watch(client, case):
    handle = await client.send(task(case["task"]))
    last = None
    async for state in handle.watch():
        last = state.status.name
    return {"last": last}


async def do_cancel(client, case):
    handle = await client.send(task(case["task"]))
    accepted = await handle.cancel(case["reason"])
    return {"accepted": accepted, "outcome": await outcome(handle.result(20))}


async def do_cancel_running(client, case):
    handle = await client.send(task(case["task"]))
    await watch_until(handle, penstock.Status.STARTED)
    accepted = await handle.cancel(case["reason"])
    return {"accepted": accepted, "outcome": await outcome(handle.result(20))}


async def do_wait_over(client, case):
    handle = await client.send(task(case["task"]))
    over = await outcome(handle.result(case["timeout_ms"] / 1000))
    await handle.cancel()
    return over


async def do_repeat(client, case):
    request_id = own_id("@repeat")
    first = await client.send(task(case["task"]), request_id=request_id)
    second = await client.send(task(case["task"]), request_id=request_id)
    return {"same_id": first.id == second.id,
            "replayed": [first.replayed, second.replayed],
            "outcome": await outcome(second.result(20))}


async def do_reuse(client, case):
    request_id = own_id("@reuse")
    await client.send(task(case["task"]), request_id=request_id)
    return await outcome(client.send(task(case["other"]), request_id=request_id))


async def do_unique(client, case):
    first = await client.send(task(case["task"]))
    try:
        return await outcome(client.send(task(case["task"])))
    finally:
        await first.cancel()


async def do_silent(client, case):
    address = os.environ["CLIENTS_SILENT"]
    if isinstance(client, Blocking):
        with penstock.Client(address, timeout=0.5, retry_budget=0) as silent:
            return await outcome(Blocking(silent).send(task(case["task"])))
    async with aio.Client(address, timeout=0.5, retry_budget=0) as silent:
        return await outcome(silent.send(task(case["task"])))


DO = {name[3:]: function for name, function in globals().items()
      if name.startswith("do_")}
DO["metadata"] = do_send


async def carry_out(client, case):
    try:
        return await DO[case["do"]](client, case)
    except ERRORS as error:
        return failure(error)


async def run_cases(addresses, cases):
    outcomes = {}
    with penstock.Client(addresses) as blocking:
        async with aio.Client(addresses) as client:
            for number, case in enumerate(cases):
                print(case["name"], flush=True)
                outcomes[case["name"]] = await carry_out(
                    client if number % 2 else Blocking(blocking), case)
    return outcomes


def run_roll(addresses, count, prefix):
    accepted = 0
    lock = threading.Lock()

    def send(i):
        nonlocal accepted
        handle = client.send("record", f"{prefix}.{i}")
        with lock:
            accepted += 1
            if accepted % 100 == 0:
                print(f"sent {accepted}", flush=True)
        return handle

    def wait(handle):
        try:
            return results(handle.result(120))
        except ERRORS as error:
            return failure(error)

    with penstock.Client(addresses) as client:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            handles = list(pool.map(send, range(count)))
            outcomes = list(pool.map(wait, handles))
    return {"sent": [handle.id for handle in handles], "outcomes": outcomes}


def main():
    what, addresses, *words, out = sys.argv[1:]
    if what == "cases":
        with open(words[0], encoding="utf-8") as file:
            done = asyncio.run(run_cases(addresses, json.load(file)))
    elif what == "roll":
        done = run_roll(addresses, int(words[0]), words[1])
    else:
        sys.exit(__doc__)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(done, file, indent=1, ensure_ascii=False)


main()
