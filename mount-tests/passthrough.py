# Changes a file in every way while a descriptor that reads it, and a mapping of that, are open. Whoever looks sees every change.
import ctypes, mmap, os, sys, time

directory, phase = sys.argv[1], sys.argv[2]
path = os.path.join(directory, phase)
LIBC = ctypes.CDLL("libc.so.6", use_errno=True)
KEEP_SIZE_AND_PUNCH = 3
content = bytearray(os.urandom(1 << 20))


def write(flags, data, at=None):
    fd = os.open(path, flags | os.O_CREAT, 0o644)
    os.write(fd, data) if at is None else os.pwrite(fd, data, at)
    return fd


def check(what):
    for way, fd in ("before", reader), ("now", os.open(path, os.O_RDONLY)), ("past copies", os.open(path, os.O_RDONLY | os.O_DIRECT)):
        found = mmap.mmap(-1, 4 << 20)
        length = os.preadv(fd, [found], 0)
        assert os.fstat(fd).st_size == len(content), (what, way, os.fstat(fd).st_size, len(content))
        assert found[:length] == content, (what, way, length, len(content))
        if fd != reader:
            os.close(fd)
    assert mapping is None or mapping[:4096] == content[:4096], (what, "mapped")


def change(at, data):
    content[len(content):at] = bytes(max(0, at - len(content)))
    content[at:at + len(data)] = data


fd = write(os.O_WRONLY | os.O_TRUNC, content)
os.fsync(fd)
os.close(fd)
time.sleep(float(sys.argv[3]) if len(sys.argv) > 3 else 0)
reader = os.open(path, os.O_RDONLY)
mapping = mmap.mmap(reader, len(content), prot=mmap.PROT_READ)
check("as it was written")

if phase == "writes":
    fd = write(os.O_WRONLY, b"x" * 5000, 1234)
    change(1234, b"x" * 5000)
    check("overwritten")
    os.pwrite(fd, b"y" * 50_000, len(content))
    change(len(content), b"y" * 50_000)
    check("extended")
    os.close(write(os.O_WRONLY | os.O_APPEND, b"zz"))
    change(len(content), b"zz")
    check("appended to")
    os.truncate(path, 300_000)
    del content[300_000:]
    check("cut short")
    os.truncate(path, 400_001)
    content += bytes(100_001)
    check("extended by a hole")
    assert LIBC.fallocate(fd, KEEP_SIZE_AND_PUNCH, ctypes.c_long(1000), ctypes.c_long(99_000)) == 0
    content[1000:100_000] = bytes(99_000)
    check("punched")
    os.close(fd)

if phase == "anew":
    fd = write(os.O_WRONLY | os.O_TRUNC, b"")
    content, mapping = bytearray(), None
    check("emptied")
    for step in range(5):
        data = os.urandom(100_000)
        os.write(fd, data)
        content += data
        check(f"written anew {step}")
    os.pwrite(fd, b"small", 50_000)
    change(50_000, b"small")
    check("overwritten after that")
    os.ftruncate(fd, 70_000)
    del content[70_000:]
    check("cut short after that")
    os.close(fd)

if phase in ("stores", "killed"):
    fd = os.open(path, os.O_RDWR)
    stores = mmap.mmap(fd, len(content))
    for at, data in (5, b"hello"), (200_000, b"world"), (5, b"again"):
        stores[at:at + len(data)] = data
        change(at, data)
        check("stored into")
        stores.flush()
        assert os.pread(fd, len(data), at) == data
    os.pwrite(fd, b"written", 300_001)
    change(300_001, b"written")
    check("written beside")
    assert stores[300_001:300_008] == b"written"
    open(path + ".expected", "wb").write(content)
    if phase == "killed":
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        print("ready", flush=True)
        sys.stdin.readline()
        # The drive is dead; what maps the file goes on.
        stores[400_000:400_005] = b"later"
        stores.flush()
        print("stored", flush=True)
        sys.stdin.readline()
        sys.exit(0)
    stores.close()

open(path + ".expected", "wb").write(content)
