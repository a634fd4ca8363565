#!/bin/sh
# Puts the binary, the names under which mount(8) and umount(8) call it, and the man page in place.
#   packaging/install.sh            builds and installs below /usr/local (helpers in /sbin); run it as root
#   PREFIX=... SBINDIR=... DESTDIR=... packaging/install.sh       elsewhere, for packagers
#   packaging/install.sh --uninstall
set -eu
cd "$(dirname "$0")/.."
PREFIX=${PREFIX:-/usr/local}
SBINDIR=${SBINDIR:-/sbin}        # mount(8) and umount(8) look for helpers only here
DESTDIR=${DESTDIR:-}
bin=$DESTDIR$PREFIX/bin/strewn
man=$DESTDIR$PREFIX/share/man/man1/strewn.1
helpers="mount.strewn mount.fuse.strewn umount.fuse.strewn"

if [ "${1:-}" = --uninstall ]; then
    rm -f "$bin" "$man"
    for helper in $helpers; do rm -f "$DESTDIR$SBINDIR/$helper"; done
    exit 0
fi
[ $# = 0 ] || { echo "usage: packaging/install.sh [--uninstall]" >&2; exit 2; }

binary=${STREWN_BINARY:-}
if [ -z "$binary" ]; then
    cargo build --release --locked --package strewn
    binary=target/release/strewn
fi
install -D -m 0755 "$binary" "$bin"
install -D -m 0644 man/strewn.1 "$man"
install -d "$DESTDIR$SBINDIR"
for helper in $helpers; do ln -sf "$PREFIX/bin/strewn" "$DESTDIR$SBINDIR/$helper"; done
echo "installed $bin, its helpers in $DESTDIR$SBINDIR, and $man"
