#!/bin/sh
# Installs a lock into /opt/remit, without what nobody needs at run time. Wheels come with symbols for debuggers, 40 MB of them, and with
# sources of what is compiled. The card gateway's SDK is mostly types: what only a type checker imports is left out.
set -eu
pip --python /opt/remit/bin/python install --quiet --no-cache-dir --no-compile --require-hashes -r "$1"
find /opt/remit -name '*.so' -exec strip --strip-unneeded {} +
find /opt/remit -regex '.*[.]\(c\|h\|pyx\|pxd\|pyi\)' -delete
rm -rf /opt/remit/lib/python*/site-packages/stripe/params
