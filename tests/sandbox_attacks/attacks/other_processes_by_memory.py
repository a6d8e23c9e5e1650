# attack: write memory of the canary and of the parent, take their descriptors
# must: EPERM or ESRCH
# verdict: NOT_PASS
# mode: stdin
# opts: {}
import ctypes, os


class Part(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("size", ctypes.c_size_t)]


libc = ctypes.CDLL(None, use_errno=True)
own = ctypes.create_string_buffer(64)
here, there = Part(ctypes.addressof(own), 64), Part(ctypes.addressof(own), 64)
for pid in (CANARY_PID, os.getppid()):
    if pid < 2 or pid == os.getpid():
        continue
    if libc.process_vm_writev(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0:
        print("LEAK: wrote memory of", pid)
    for path in (f"/proc/{pid}/mem", f"/proc/{pid}/maps", f"/proc/{pid}/fd", f"/proc/{pid}/root", f"/proc/{pid}/cwd"):
        try:
            print("LEAK:", path, os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(50))
        except OSError:
            pass
    pidfd = libc.syscall(434, pid, 0)
    if pidfd >= 0:
        if libc.syscall(438, pidfd, 0, 0) >= 0:
            print("LEAK: took a descriptor of", pid)
        if libc.syscall(424, pidfd, 0, None, 0) == 0:
            print("LEAK: may send signals to", pid)
