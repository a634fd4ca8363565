# Random changes of a file while descriptors and mappings of it come and go; after each of them everybody sees the same.
# Arguments: a directory, a seed, how many changes. Leaves what the file has to hold in FILE.expected.
import ctypes, mmap, os, random, sys

directory, seed, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
path = f"{directory}/random-{seed}"
LIBC = ctypes.CDLL("libc.so.6", use_errno=True)
KEEP_SIZE_AND_PUNCH = 3
content = bytearray(dice.randbytes(dice.choice([100_000, 300_000, 1 << 20])))
readers, writers, maps, trace = [], [], [], []


def put(at, data):
    content[len(content):at] = bytes(max(0, at - len(content)))
    content[at:at + len(data)] = data


def with_file(flags, use):
    fd = os.open(path, flags | os.O_CREAT, 0o644)
    use(fd)
    os.close(fd)


def close_maps():
    # What is beyond the end of a file that is cut short must not be touched.
    for mapped, _, _ in maps:
        mapped.close()
    maps.clear()


def store(count):
    writable = [entry for entry in maps if entry[2]]
    if not writable:
        return
    mapped, length, _ = dice.choice(writable)
    length = min(length, len(content))
    for _ in range(count if length > 20 else 0):
        at, data = dice.randrange(length - 10), dice.randbytes(10)
        mapped[at:at + 10] = data
        put(at, data)
    mapped.flush()


def write():
    at, data = dice.randrange(len(content) + dice.choice([1, 1, 1, 50_000])), dice.randbytes(dice.choice([1, 10, 5_000, 40_000, 200_000]))
    if writers and dice.random() < 0.5:
        os.pwrite(dice.choice(writers), data, at)
    else:
        with_file(os.O_WRONLY, lambda fd: os.pwrite(fd, data, at))
    put(at, data)


def append():
    data = dice.randbytes(dice.choice([3, 50_000]))
    with_file(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, data))
    put(len(content), data)


def resize(size):
    close_maps()
    os.truncate(path, size)
    content[size:] = b""
    content.extend(bytes(size - len(content)))


def anew():
    close_maps()
    content.clear()
    data = dice.randbytes(dice.choice([1_000, 300_000, 600_000]))
    with_file(os.O_WRONLY | os.O_TRUNC, lambda fd: os.write(fd, data))
    put(0, data)


def punch():
    if len(content) > 10_000:
        at = dice.randrange(len(content) - 5_000)
        length = dice.randrange(1, dice.choice([5_000, len(content) - at]))
        with_file(os.O_WRONLY, lambda fd: LIBC.fallocate(fd, KEEP_SIZE_AND_PUNCH, ctypes.c_long(at), ctypes.c_long(length)))
        content[at:at + length] = bytes(min(length, len(content) - at))


def open_reader():
    if len(readers) < 4:
        # What is durable can be lent.
        with_file(os.O_WRONLY, os.fsync if dice.random() < 0.7 else lambda fd: None)
        readers.append(os.open(path, os.O_RDONLY))


def open_writer():
    if len(writers) < 3:
        writers.append(os.open(path, os.O_RDWR))


def map_one(of, protection, writable):
    if of and content and len(maps) < 4:
        maps.append((mmap.mmap(dice.choice(of), len(content), prot=protection), len(content), writable))


def drop_one(of, close):
    if of:
        close(of.pop(dice.randrange(len(of))))


def check():
    with_file(os.O_RDONLY, lambda fd: compare(fd, "opened now"))
    for fds, name in (readers, "reader"), (writers, "writer"):
        for fd in fds:
            compare(fd, name)
    for mapped, length, writable in maps:
        length = min(length, len(content))
        assert mapped[:length] == content[:length], (seed, "mapped", writable, trace[-20:])


def compare(fd, name):
    found = os.pread(fd, 4 << 20, 0)
    assert len(found) == len(content) == os.fstat(fd).st_size, (seed, name, len(found), len(content), trace[-20:])
    assert found == content, (seed, name, trace[-20:])


CHANGES = [
    (2, open_reader), (2, open_writer), (2, lambda: map_one(writers, mmap.PROT_READ | mmap.PROT_WRITE, True)),
    (2, lambda: map_one(readers, mmap.PROT_READ, False)), (4, write), (2, append), (2, punch), (1, anew),
    (1, lambda: resize(dice.randrange(len(content) + 1))), (1, lambda: resize(len(content) + dice.randrange(100_000))),
    (3, lambda: drop_one(readers, os.close)), (2, lambda: drop_one(writers, os.close)),
    (1, lambda: drop_one(maps, lambda entry: entry[0].close())), (2, lambda: store(1)), (2, lambda: store(10)),
]
weights, changes = zip(*CHANGES)

with_file(os.O_WRONLY | os.O_TRUNC, lambda fd: os.write(fd, content))
for step in range(steps):
    number = dice.choices(range(len(changes)), weights)[0]
    trace.append((step, number))
    changes[number]()
    if len(content) > 3 << 20:
        resize(400_000)
    check()
close_maps()
with open(path + ".expected", "wb") as expected:
    expected.write(content)
