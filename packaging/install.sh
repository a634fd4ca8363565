#!/bin/sh
# Puts the binary, the names under which mount(8) and umount(8) call it, the man pages and systemd units in place.
#   packaging/install.sh            builds and installs below /usr/local (helpers in /usr/sbin); run it as root
#   packaging/install.sh --uninstall
# For packagers: STREWN_BINARY names a binary that is already built, PREFIX and SBINDIR are where it will run, DESTDIR is
# put before both. The helpers are relative links, so they also work below DESTDIR.
set -eu
cd "$(dirname "$0")/.."
PREFIX=${PREFIX:-/usr/local}
# mount(8) and umount(8) look for helpers in /sbin alone. Where that is a link, relative links must be made for its target.
if [ -L /sbin ]; then SBINDIR=${SBINDIR:-/usr/sbin}; else SBINDIR=${SBINDIR:-/sbin}; fi
DESTDIR=${DESTDIR:-}
bin=$DESTDIR$PREFIX/bin/strewn
man=$DESTDIR$PREFIX/share/man/man1/strewn.1
semantics=$DESTDIR$PREFIX/share/man/man7/strewn-semantics.7
units=$DESTDIR$PREFIX/lib/systemd/system
helpers="mount.strewn mount.fuse.strewn umount.fuse.strewn"

if [ "${1:-}" = --uninstall ]; then
    rm -f "$bin" "$man" "$semantics"
    for helper in $helpers; do rm -f "$DESTDIR$SBINDIR/$helper"; done
    for unit in packaging/systemd/*.service; do rm -f "$units/$(basename "$unit")"; done
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
install -D -m 0644 man/strewn-semantics.7 "$semantics"
install -d "$DESTDIR$SBINDIR" "$units"
for helper in $helpers; do ln -srfT "$bin" "$DESTDIR$SBINDIR/$helper"; done
for unit in packaging/systemd/*.service; do
    sed "s|^\(Exec[A-Za-z]*=\)strewn |\1$PREFIX/bin/strewn |" "$unit" > "$units/$(basename "$unit")"
    chmod 0644 "$units/$(basename "$unit")"
done
echo "installed $bin, its helpers in $DESTDIR$SBINDIR, $man and units in $units"
