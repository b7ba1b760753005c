"""The process of a hand-in: `python -m checks.serve MEGABYTES`, started by process.py.

Questions arrive as lines of JSON on the standard input, and replies go to the standard output.
What the student's code prints goes to the standard error, so that it cannot be taken for a reply.
"""

import builtins
import contextlib
import json
import os
import sys
import threading
import time
import warnings

WAIT = 4  # less than GRACE in process.py, so that the process can still say where it was


class Clock:
    """Tells the grader which line is being run when a question has used up its time.

    Only the time in which this process computes counts, so a slow or busy machine costs no points.
    A process that waits is stopped as well, after WAIT times as many seconds.
    """

    def __init__(self, place, say):
        self.place, self.say = place, say
        self.lock, self.main, self.ends = threading.Lock(), threading.get_ident(), None
        threading.Thread(target=self.watch, daemon=True).start()

    @contextlib.contextmanager
    def running(self, limit: float):
        self.ends = time.process_time() + limit, time.monotonic() + WAIT * limit
        yield
        with self.lock:
            self.ends = None

    @contextlib.contextmanager
    def paused(self):
        """While the grader works."""
        ends, start = self.ends, time.monotonic()
        self.ends = None
        yield
        self.ends = ends[0], ends[1] + time.monotonic() - start

    def watch(self) -> None:
        while True:
            time.sleep(0.05)
            with self.lock:
                ends = self.ends
                if ends and (time.process_time() > ends[0] or time.monotonic() > ends[1]):
                    return self.say({"late": self.place(self.main)})


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

    one_at_a_time = threading.Lock()

    def say(message: dict) -> None:
        with one_at_a_time:
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
        arguments = [values.pack(one) for one in arguments]
        with clock.paused():
            say({"callback": index, "args": arguments})
            reply = hear()
        if "raises" in reply:
            kind = getattr(builtins, reply["raises"], RuntimeError)
            raise kind(reply["text"])
        return values.unpack(reply["value"])

    warm_up()
    ours = load_scenarios()
    guard = limits.guard()
    guard.allow(os.path.dirname(tinymem.__file__))  # some of its modules are imported late
    server = Server(call_back, guard, ours)
    held = ["network namespace"] * offline
    held += ["memory"] * limits.limit_memory(int(sys.argv[1]))
    warn_once()
    clock = Clock(server.place, say)
    say({"ready": held})
    while True:
        question = hear()
        with clock.running(question.pop("limit")):
            reply = server.answer(question)
        say(reply)


if __name__ == "__main__":
    main()
