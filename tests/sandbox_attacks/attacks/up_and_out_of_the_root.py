# attack: leave the root by inherited folders, O_PATH handles and ".."
# must: the same root as ever
# verdict: NOT_PASS
# mode: stdin
# opts: {}
import os

seen = set()
for fd in range(3, 1024):
    try:
        os.fchdir(fd)
        print("LEAK: inherited folder", os.listdir("."))
    except OSError:
        pass
handle = None
try:
    handle = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for path in ("../etc/passwd", "../../../../etc/passwd", "proc/self/root/etc/passwd", "proc/self/cwd/../etc/passwd"):
        try:
            fd = os.open(path, os.O_RDONLY, dir_fd=handle)
            print("LEAK:", path, os.read(fd, 100))
        except OSError:
            pass
except OSError:
    pass
