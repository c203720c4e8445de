"""A server of raw JSON-RPC lines for what no SDK would send. Its tools do what their names say.

`test/received` answers with every line that it was sent until then.
"""

import json
import os
import signal
import sys
import time

sys.set_int_max_str_digits(0)

received: list[str] = []
running: dict[str, object] = {}
TOOLS = [
    "echo", "slow", "die", "kill", "garbage", "in_pieces", "error", "answer", "big", "ask", "progress", "close_stdout",
    "close_stdin", "arguments", "ends_after_answer", "forks", "file",
]  # fmt: skip


def write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def send(**message: object) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}))


def text(words: str) -> dict:
    return {"content": [{"type": "text", "text": words}]}


def call(message: dict, line: str) -> None:
    number, arguments = message["id"], message["params"].get("arguments") or {}
    meta = message["params"].get("_meta") or {}
    match message["params"]["name"]:
        case "echo":
            send(id=number, result=text("heard " + str(arguments.get("prompt"))))
        case "arguments":
            send(id=number, result=text(line))
        case "slow":
            print("slow has begun", file=sys.stderr, flush=True)
            running[json.dumps(number)] = arguments
        case "die":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "garbage":
            write("Starting up, please wait ...")
            write('{"level":30,"msg":"a log line as JSON"}')
            write("42")
            write("")
            send(id=number, result=text("after the garbage"))
        case "in_pieces":
            answer = json.dumps({"jsonrpc": "2.0", "id": number, "result": text("piece by piece")}) + "\n"
            for start in range(0, len(answer), 7):
                sys.stdout.write(answer[start : start + 7])
                sys.stdout.flush()
                time.sleep(0.002)
        case "error":
            error = '{"code":-32042,"message":"not today","data":{"x":1.10},"extra":1}'
            write(f'{{"jsonrpc":"2.0","id":{json.dumps(number)},"error":{error},"future":[]}}')
        case "answer":
            write(arguments["raw"].replace("$ID", json.dumps(number)))
        case "big":
            send(id=number, result=text("x" * arguments["size"]))
        case "ask":
            running["ask"] = number
            send(id="server-1", method="sampling/createMessage", params={"messages": [], "maxTokens": 1})
        case "progress":
            for done in (1, 2, 3):
                params = {"progressToken": meta.get("progressToken"), "progress": done, "total": 3, "future": 1.50}
                send(method="notifications/progress", params=params)
            send(id=number, result=text("done"))
        case "file":
            for done in (1, 2):
                send(
                    method="notifications/progress",
                    params={"progressToken": meta.get("progressToken"), "progress": done},
                )
            if arguments.get("write"):
                with open(arguments["write"], "wb") as file:
                    file.write(os.urandom(arguments["size"]))
            send(id=number, result=text(arguments.get("write") or str(os.path.getsize(arguments["path"]))))
        case "close_stdout":
            os.close(1)
            time.sleep(60)
        case "close_stdin":
            os.close(0)
            send(id=number, result=text("closed"))
            time.sleep(60)
        case "ends_after_answer":
            send(id=number, result=text("x" * arguments.get("size", 1)))
            os._exit(0)
        case "forks":
            if os.fork() == 0:
                time.sleep(60)  # with stdout open
                os._exit(0)
            send(id=number, result=text("forked"))
            os._exit(5)


def serve(line: str) -> None:
    try:
        message = json.loads(line)
    except ValueError:
        send(id=None, error={"code": -32700, "message": "Parse error"})
        return
    if isinstance(message, list):
        requests = [item for item in message if "id" in item and "method" in item]
        answers = [{"jsonrpc": "2.0", "id": item["id"], "result": {"method": item["method"]}} for item in requests]
        write(json.dumps(answers))
        return
    number = message.get("id")
    match message.get("method"):
        case "initialize":
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {
                    "tools": {} if os.environ.get("RAW_SAME_LIST") else {"listChanged": True},
                    "experimental": {"x": {}},
                },
                "serverInfo": {"name": "raw", "version": "1", "future": 1.10},
            }
            send(id=number, result=result)
        case "tools/list":
            schema = {"type": "object", "properties": {"prompt": {"type": "string"}}}
            if os.environ.get("RAW_LATE_LIST") and not message.get("late"):
                running["list"] = {**message, "late": True}
                return
            tools = [{"name": name, "inputSchema": schema, "future": {"kept": 1.10}} for name in TOOLS]
            half = len(tools) // 2
            if os.environ.get("RAW_TWO_PAGES"):
                first = "cursor" not in message.get("params", {})
                send(
                    id=number,
                    result={"tools": tools[:half], "nextCursor": "more"} if first else {"tools": tools[half:]},
                )
            else:
                send(id=number, result={"tools": tools, "_meta": {"x": 1}, "future": True})
        case "tools/call" if number is not None:
            call(message, line)
        case "notifications/cancelled":
            if (key := json.dumps(message["params"].get("requestId"))) in running:
                del running[key]
                send(id=message["params"]["requestId"], result=text("too late"))
        case "test/received":
            if late := running.pop("list", None):
                serve(json.dumps(late))
            send(id=number, result={"lines": list(received)})
        case None if number == "server-1":
            send(id=running.pop("ask"), result=text(json.dumps(message)))
        case None:
            pass
        case method if number is not None:
            send(id=number, result={"method": method, "params": message.get("params"), "future": 1.10})
    received.append(line)


if os.environ.get("RAW_IGNORES"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(float(os.environ.get("RAW_STARTS_AFTER", "0")))
while line := sys.stdin.readline():
    serve(line.rstrip("\n"))
while os.environ.get("RAW_IGNORES"):
    time.sleep(1)
