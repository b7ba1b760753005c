"""The process of a hand-in: `python -m checks.serve MEGABYTES`, started by process.py.

Questions arrive as lines of JSON on the standard input, and replies go to the standard output.
What the student's code prints goes to the standard error, so that it cannot be taken for a reply.
"""

import builtins
import json
import os
import sys
import threading
import time
import warnings


def end_with(grader: int) -> None:
    """Ends this process soon after the grader, even in an endless loop. (Not on Windows, where a
    process keeps the number of its parent.)
    """
    while os.getppid() == grader:
        time.sleep(1)
    os._exit(1)


def warn_once() -> None:
    """Shows each warning once, on one line. (Python forgets what it has shown when a library
    changes the filters.)
    """
    shown = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if (text := f"{category.__name__}: {message}") not in shown:
            shown.add(text)
            print(f"{os.path.basename(filename)}, line {lineno}: {text}", file=sys.stderr)

    warnings.showwarning = show


def main() -> None:
    questions, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    sys.stderr.reconfigure(encoding="utf-8", errors="replace")
    from checks import limits

    offline = limits.leave_network()  # while there is only one thread
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    import tinymem
    from checks import values
    from checks.server import Server, load_scenarios, warm_up

    def say(message: dict) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, b"\0")  # all that was printed before this message is before this byte
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    def hear() -> dict:
        line = questions.readline()
        if not line:
            os._exit(0)  # the grader is gone
        return json.loads(line)

    def call_back(index: int, arguments: tuple) -> object:
        say({"callback": index, "args": [values.pack(one) for one in arguments]})
        reply = hear()
        if "raises" in reply:
            kind = getattr(builtins, reply["raises"], RuntimeError)
            raise kind(reply["text"])
        return values.unpack(reply["value"])

    warm_up()
    load_scenarios()
    guard = limits.guard()
    guard.allow(os.path.dirname(tinymem.__file__))  # some of its modules are imported late
    server = Server(call_back, guard)
    held = ["network namespace"] * offline
    held += ["memory"] * limits.limit_memory(int(sys.argv[1]))
    warn_once()
    say({"ready": held})
    while True:
        say(server.answer(hear()))


if __name__ == "__main__":
    main()
