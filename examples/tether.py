"""Run a program that ends when its starter ends: `python tether.py PROGRAM ARGUMENT...`.

dibs can kill the process that a task runs in, at the task's timeout or at a stop, but it does not
know the programs that the task has started; they would go on, unseen. This one holds the reading
end of its starter's pipe: however the starter ends, SIGKILL included, the kernel closes the other
end, and the program is killed at once, even if it hangs.
"""

import os
import subprocess
import sys
import threading


def main() -> int:
    """Run the program and return its exit code, as a shell would."""
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def kill_at_the_end_of_the_pipe() -> None:
        os.read(0, 1)
        program.kill()

    threading.Thread(target=kill_at_the_end_of_the_pipe, daemon=True).start()
    code = program.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
